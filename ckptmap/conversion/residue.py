"""What has no home on one side: kept in a safetensors file or a dict, and put back on the way back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.checkpoint import Checkpoint, open_checkpoint
from ckptmap.conversion.blocks import as_integers, place
from ckptmap.conversion.reading import Reader, buffer_of
from ckptmap.conversion.schedule import key_of
from ckptmap.errors import ConvertError
from ckptmap.rules.plan import Equation, Piece, Sizes
from ckptmap.spec import TensorSpec
from ckptmap.writing.atomic import replacing
from ckptmap.writing.safetensors import Writer, header_bytes

if TYPE_CHECKING:
    import torch

Residue: TypeAlias = "str | os.PathLike[str] | MutableMapping[str, torch.Tensor]"
"""A file, or a dict for one process; empty or not there yet, it is written, else it is read."""

SIDE, SHAPES = "ckptmap.residue", "ckptmap.shapes"


def open_residue(residue: Residue | None, writes: str) -> Checkpoint | None:
    """The residue to read, if there is one of the side that is written.

    Raises:
        ConvertError: The file is no residue.
        CheckpointError: It cannot be read.
    """
    if residue is None or (isinstance(residue, Mapping) and not residue):
        return None
    if isinstance(residue, Mapping):
        return open_checkpoint(residue)
    if not os.path.lexists(residue):
        return None
    opened = open_checkpoint(residue)
    if opened.metadata.get(SIDE) not in ("left", "right"):
        raise ConvertError(f"{residue}: is not a residue that ckptmap wrote; name another file")
    return opened if opened.metadata[SIDE] == writes else None


def shapes_in(residue: Checkpoint | None) -> dict[str, Sizes]:
    """Shapes of the whole tensors that the blocks of a residue belong to."""
    told = json.loads(residue.metadata.get(SHAPES, "{}")) if residue is not None else {}
    return {name: tuple(shape) for name, shape in told.items()}


def pieces(homeless: tuple[tuple[Equation, Piece], ...], reader: Reader) -> Iterator[tuple[str, torch.Tensor]]:
    """Each homeless block by its key: a whole tensor as it is, a part of one with its axes in shared order."""
    for _, piece in homeless:
        tensor = reader.tensor(piece.name)
        if piece.narrow:
            tensor = place(as_integers(tensor), piece).contiguous().view(tensor.dtype)
            tensor = tensor.reshape(_block_shape(piece))
        yield key_of(piece), tensor.contiguous()


def _block_shape(piece: Piece) -> Sizes:
    return tuple(piece.split[axis] for axis in piece.order)


def write_residue(
    path: Path, homeless: tuple[tuple[Equation, Piece], ...], reader: Reader, side: str, stamp: Mapping[str, str]
) -> None:
    """Write the blocks that have no home into a file, one in memory at a time."""
    specs = []
    shapes = {name: spec.shape for name, spec in reader.checkpoint.items()}
    for _, piece in homeless:
        spec = reader.checkpoint[piece.name]
        shape = _block_shape(piece) if piece.narrow else spec.shape
        specs.append(TensorSpec(key_of(piece), shape, spec.dtype))
    metadata = {"format": "pt", **stamp, SIDE: side, SHAPES: json.dumps(shapes)}
    with replacing(path) as descriptor:
        writer = Writer(descriptor)
        writer.write(header_bytes(specs, metadata))
        for (_, piece), spec in zip(homeless, specs, strict=True):
            if piece.narrow:
                ((_, tensor),) = pieces(((_, piece),), reader)
                writer.write(buffer_of(tensor))
            else:
                data = reader.checkpoint.read(piece.name)
                assert len(data) == spec.nbytes
                writer.write(data)
        writer.close()


class Filler:
    """Gives blocks that have no source: from the residue, else from the base."""

    def __init__(self, residue: Checkpoint | None, base: Checkpoint | None) -> None:
        self._residue = residue
        self._base = base

    @property
    def keys(self) -> set[str]:
        """Names of blocks that the residue holds."""
        return set(self._residue or ())

    @property
    def dtypes(self) -> dict[str, str]:
        """Dtype of each block or tensor that can be given, by its name."""
        both = [*(self._base or {}).items(), *(self._residue or {}).items()]
        return {name: spec.dtype for name, spec in both if spec.dtype != "F4"}

    def check(self, shapes: Mapping[str, Sizes]) -> None:
        """Refuse a base whose tensors have other shapes than those that are written.

        Raises:
            ConvertError: With the names.
        """
        wrong = [
            f"{name}: is {list(self._base[name].shape)} in the base and would be {list(shape)}; give a base that fits"
            for name, shape in shapes.items()
            if self._base is not None and name in self._base and self._base[name].shape != tuple(shape)
        ]
        if wrong:
            raise ConvertError("\n".join(wrong))

    def fill(self, piece: Piece, target: torch.Tensor, dtype: str) -> torch.Tensor:
        """The integers that belong at a place of a target of this dtype."""
        import torch

        from ckptmap.spec import TORCH_NAMES

        wanted = getattr(torch, TORCH_NAMES[dtype])
        if self._residue is not None and (key := key_of(piece)) in self._residue:
            integers = as_integers(self._residue.load(key).to(wanted))
            return place(integers, piece) if not piece.narrow else integers.reshape(target.shape)
        assert self._base is not None  # the schedule saw to it
        return place(as_integers(self._base.load(piece.name).to(wanted)), piece)
