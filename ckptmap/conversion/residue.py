"""What has no home on one side: kept in a safetensors file or a dict, and put back on the way back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.checkpoint import Checkpoint, open_checkpoint
from ckptmap.conversion.blocks import as_integers, narrowed, ordered, place
from ckptmap.conversion.reading import Reader, buffer_of
from ckptmap.conversion.schedule import key_of
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.files import Staging, leftovers_of, sync_folder
from ckptmap.printable import lines_of
from ckptmap.rules.plan import Equation, Piece, Plan, Sizes
from ckptmap.spec import TensorSpec
from ckptmap.writing.safetensors import Writer, header_bytes

if TYPE_CHECKING:
    import torch

Residue: TypeAlias = "str | os.PathLike[str] | MutableMapping[str, torch.Tensor]"
"""A file, or a dict for one process; empty or not there yet, it is written, else it is read."""

SIDE, SHAPES, DIGEST = "ckptmap.residue", "ckptmap.shapes", "ckptmap.digest"
"""In the header of a residue: the side it is of, shapes of that side's tensors, a digest of what it holds."""
RESIDUE = "ckptmap.residue_digest"
"""In the header of what a residue was written with: its digest."""
_PART = re.compile(r"\[\d+:\d+:\d+\]$")  # as key_of writes it


def open_residue(residue: Residue | None, writes: str, source: Checkpoint) -> Checkpoint | None:
    """The residue to read, if there is one of the side that is written.

    Args:
        residue: A file or a dict.
        writes: The side.
        source: What it is put together with again.

    Raises:
        ConvertError: The file is no residue, or that of another conversion.
        CheckpointError: It cannot be read.
    """
    if residue is None or (isinstance(residue, Mapping) and not residue):
        return None
    if isinstance(residue, Mapping):
        return open_checkpoint(residue)
    if not os.path.lexists(residue):
        return None
    opened = _opened(residue)
    wanted, found = source.metadata.get(RESIDUE), opened.metadata.get(DIGEST)
    if opened.metadata[SIDE] == writes and wanted and found and wanted != found:
        if not _put_in_place(Path(residue), wanted):
            raise ConvertError(
                f"{residue}: is not the residue that was written with {source.source}, but that of another conversion; "
                "name the right one"
            )
        opened = _opened(residue)
    return opened if opened.metadata[SIDE] == writes else None


def _opened(residue: str | os.PathLike[str]) -> Checkpoint:
    opened = open_checkpoint(residue)
    if opened.metadata.get(SIDE) not in ("left", "right"):
        raise ConvertError(f"{residue}: is not a residue that ckptmap wrote; name another file")
    return opened


def _put_in_place(residue: Path, wanted: str) -> bool:
    """End what a run that was killed between its last two renames began: its residue is whole, and lies beside."""
    for path in leftovers_of(residue):
        with suppress(CheckpointError), open_checkpoint(path) as left:
            if left.metadata.get(DIGEST) == wanted == _digest(left):
                os.replace(path, residue)
                sync_folder(residue.parent)
                return True
    return False


def _digest(residue: Checkpoint) -> str:
    digest = sha256(_named(list(residue.values())))
    for name in residue:
        digest.update(residue.read(name))
    return digest.hexdigest()


def _named(specs: list[TensorSpec]) -> bytes:
    return json.dumps([[spec.name, spec.dtype, spec.shape] for spec in specs]).encode()


def shapes_in(residue: Checkpoint | None) -> dict[str, Sizes]:
    """Shapes of the tensors that it was made from: in a file all of them, else those that it holds whole.

    Raises:
        ConvertError: The file's header is damaged.
    """
    if residue is None:
        return {}
    try:
        told = json.loads(residue.metadata.get(SHAPES, "{}"))
        shapes = {str(name): tuple(map(int, shape)) for name, shape in told.items()}
    except (ValueError, TypeError, AttributeError):
        raise ConvertError(f"{residue.source}: {SHAPES} in its header is damaged; name another residue") from None
    return {name: spec.shape for name, spec in residue.items() if not _PART.search(name)} | shapes


def pieces(homeless: tuple[tuple[Equation, Piece], ...], reader: Reader) -> Iterator[tuple[str, torch.Tensor]]:
    """Each homeless block by its key: a whole tensor as it is, a part of one in the tensor's own order."""
    for _, piece in homeless:
        tensor = reader.tensor(piece.name)
        if piece.narrow:
            tensor = narrowed(as_integers(tensor), piece).contiguous().view(tensor.dtype)
            tensor = tensor.reshape(_part_shape(piece))
        yield key_of(piece), tensor.contiguous()


def _part_shape(piece: Piece) -> Sizes:
    lengths = {axis: length for axis, _, length in piece.narrow}
    return tuple(lengths.get(axis, size) for axis, size in enumerate(piece.view))


def residue_specs(homeless: tuple[tuple[Equation, Piece], ...], checkpoint: Checkpoint) -> list[TensorSpec]:
    """The tensors of a residue."""
    specs = []
    for _, piece in homeless:
        spec = checkpoint[piece.name]
        specs.append(TensorSpec(key_of(piece), _part_shape(piece) if piece.narrow else spec.shape, spec.dtype))
    return specs


def write_residue(
    staging: Staging,
    path: Path,
    homeless: tuple[tuple[Equation, Piece], ...],
    reader: Reader,
    side: str,
    stamp: Mapping[str, str],
) -> str:
    """Write the blocks that have no home into a file, one in memory at a time; the digest of what it holds."""
    specs = residue_specs(homeless, reader.checkpoint)
    shapes = {name: spec.shape for name, spec in reader.checkpoint.items()}
    digest = sha256(_named(specs))
    later = "0" * len(digest.hexdigest())
    header = header_bytes(specs, {"format": "pt", **stamp, SIDE: side, DIGEST: later, SHAPES: json.dumps(shapes)})
    with staging.file(path) as descriptor:
        writer = Writer(descriptor, reader.descriptor)
        writer.write(header)
        for (_, piece), spec in zip(homeless, specs, strict=True):
            if piece.narrow:
                ((_, tensor),) = pieces(((_, piece),), reader)
                data: bytes | memoryview = buffer_of(tensor)
            else:
                data = reader.checkpoint.read(piece.name)
                assert len(data) == spec.nbytes
            digest.update(data)
            writer.write(data)
        os.pwrite(descriptor, digest.hexdigest().encode(), header.index(later.encode()))
    return digest.hexdigest()


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

    def check(self, plan: Plan) -> None:
        """Refuse what is to be filled in and has another shape than the place it belongs to.

        Raises:
            ConvertError: With the names.
        """
        wrong = []
        for piece in [block.right for e in plan.equations for block in e.blocks if block.left == "none"]:
            if not isinstance(piece, Piece):
                continue
            whole, key = tuple(plan.right[piece.name]), key_of(piece)
            if self._residue is not None and key in self._residue:
                name, found, wanted, where = key, self._residue[key].shape, _part_shape(piece), "residue"
                wanted = wanted if piece.narrow else whole
            elif self._base is not None and piece.name in self._base:
                name, found, wanted, where = piece.name, self._base[piece.name].shape, whole, "base"
            else:
                continue
            if found != wanted:
                wrong.append(f"{name}: is {list(found)} in the {where} and would be {list(wanted)}; give one that fits")
        if wrong:
            raise ConvertError(lines_of(dict.fromkeys(wrong)))

    def fill(self, piece: Piece, target: torch.Tensor, dtype: str) -> torch.Tensor:
        """The integers that belong at a place of a target of this dtype."""
        import torch

        from ckptmap.spec import TORCH_NAMES

        wanted = getattr(torch, TORCH_NAMES[dtype])
        if self._residue is not None and (key := key_of(piece)) in self._residue:
            integers = as_integers(self._residue.load(key).to(wanted))
            return ordered(integers, piece) if piece.narrow else place(integers, piece)
        assert self._base is not None  # the schedule saw to it
        return place(as_integers(self._base.load(piece.name).to(wanted)), piece)
