"""Values of a checkpoint on their way through a conversion: as byte ranges where possible, else as tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import Checkpoint, Source, open_checkpoint
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.printable import lines_of
from ckptmap.spec import DTYPE_BITS, TORCH_NAMES, TensorSpec
from ckptmap.stores.local import LocalStore, State, changed, state_of, state_of_open
from ckptmap.writing.inplace import roll_back

if TYPE_CHECKING:
    import torch

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
SHORT_NAMES: Mapping[str, str] = {
    "fp64": "F64", "fp32": "F32", "fp16": "F16", "half": "F16", "float": "F32", "double": "F64", "bf16": "BF16",
}  # fmt: skip
# Bits of exponent and of mantissa: a cast loses nothing when neither shrinks.
PRECISION = {
    "F64": (11, 52), "F32": (8, 23), "F16": (5, 10), "BF16": (8, 7), "F8_E4M3": (4, 3), "F8_E5M2": (5, 2),
    "F8_E4M3FNUZ": (4, 3), "F8_E5M2FNUZ": (5, 2),
}  # fmt: skip
COMPARED_AT_ONCE = 1 << 24
MOST_OPEN = 64
"""Files of one checkpoint that are open at once: a process may have few."""


def local_path(checkpoint: Checkpoint, file: str) -> Path | None:
    """Where a file of a checkpoint lies on this machine, if it does."""
    store = checkpoint._store
    return None if store is None else store.local_path(file)


def is_local(checkpoint: Checkpoint) -> bool:
    """Whether all its values are on this machine."""
    files = {checkpoint.file_of(name) for name in checkpoint}
    return all(file is None or local_path(checkpoint, file) is not None for file in files)


class FileStates:
    """The states in which the files of checkpoints were when their headers were read."""

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self._states: dict[str, State] = {}
        for checkpoint in checkpoints:
            for file in checkpoint.files:
                if (path := local_path(checkpoint, file)) is not None:
                    self._states[str(path)] = state_when_read(checkpoint, file, str(path))

    def check(self) -> None:
        """See that all still are in them.

        Raises:
            CheckpointError: One was changed, replaced or removed.
        """
        for path, state in self._states.items():
            if state_of(path) != state:
                raise changed(path)


def state_when_read(checkpoint: Checkpoint, file: str, path: str) -> State:
    """The state of a file when its header was read; of one that no header is read of, the state now."""
    store = checkpoint._store
    seen = store.seen(file) if isinstance(store, LocalStore) else None
    return seen or state_of(path)


@contextmanager
def opened(source: Checkpoint | Source) -> Iterator[Checkpoint]:
    """A checkpoint, closed again if it was opened here; NumPy's arrays in a state dict are tensors too.

    Raises:
        CheckpointError: It cannot be opened.
        ConvertError: An array holds what torch has no tensors for.
    """
    if isinstance(source, Checkpoint):
        yield source
        return
    if isinstance(source, str | os.PathLike) and os.path.isfile(source):
        roll_back(Path(source))  # what an --in-place that was cut short left
    with open_checkpoint(_with_tensors(source) if isinstance(source, Mapping) else source) as checkpoint:
        yield checkpoint


def _with_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    found = dict(state)
    for name, value in state.items():
        if type(value).__module__ != "numpy" or not hasattr(value, "dtype"):
            continue
        try:
            # Torch has no negative strides, and would write to what must not be written.
            plain = value.flags.writeable and all(step >= 0 for step in value.strides)
            found[name] = torch.as_tensor(value if plain else value.copy())
        except (TypeError, ValueError) as error:
            raise ConvertError(f"{name}: is an array that torch cannot hold ({error}); convert it first") from None
    return found


def torch_dtype(dtype: str) -> torch.dtype:
    """What torch calls a dtype."""
    import torch

    found: torch.dtype = getattr(torch, TORCH_NAMES[dtype])
    return found


def float_dtype(text: str) -> str:
    """The dtype that a person means by `bf16`, `float16`, `torch.float32`, `F32`.

    Raises:
        ConvertError: It is no floating-point dtype.
    """
    plain = text.removeprefix("torch.")
    names = {name.lower(): name for name in FLOATS} | {TORCH_NAMES[name]: name for name in FLOATS} | dict(SHORT_NAMES)
    if found := names.get(plain.lower()):
        return found
    raise ConvertError(f"--dtype {text}: no floating-point dtype of this name; write one of {', '.join(sorted(names))}")


def narrows(old: str, new: str) -> bool:
    """Whether a cast may lose bits or range."""
    return any(before > after for before, after in zip(PRECISION[old], PRECISION[new], strict=True))


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of a local file."""

    path: str
    offset: int
    length: int


class Arena:
    """Memory that is used again and again: fresh pages cost more than what is copied into them."""

    def __init__(self) -> None:
        self._memory: torch.Tensor | None = None

    def take(self, nbytes: int) -> torch.Tensor:
        """This many bytes; whatever was taken before is overwritten."""
        import torch

        if self._memory is None or self._memory.numel() < nbytes:
            self._memory = None
            self._memory = torch.empty(nbytes, dtype=torch.uint8)
        return self._memory[:nbytes]


def buffer_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy; only as long as the tensor lives."""
    import ctypes

    nbytes = tensor.numel() * tensor.element_size()
    if not nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_char * nbytes).from_address(tensor.data_ptr())).cast("B")


class Reader:
    """A checkpoint whose tensors are read one after another, cast where asked for.

    Args:
        checkpoint: What to read.
        dtype: Make every floating-point tensor this.
        reuse: Whether a loaded tensor may be overwritten by the next one.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: str | None = None, *, reuse: bool = True) -> None:
        self.checkpoint = checkpoint
        self._dtype = dtype
        self._arena = Arena() if reuse else None
        self._descriptors: dict[str, int] = {}
        self._states: dict[str, State] = {}
        self._paths: dict[str, str | None] = {}

    def close(self) -> None:
        """Let go of open files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def descriptor(self, path: str) -> int:
        """A file of the checkpoint, open; it is the one whose header was read.

        Raises:
            CheckpointError: It is not, or cannot be read.
        """
        if path not in self._descriptors:
            if len(self._descriptors) >= MOST_OPEN:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                raise CheckpointError(f"cannot be read: {error.strerror}", source=path) from None
            self._descriptors[path] = descriptor
            if state_of_open(descriptor) != self._states.get(path):
                raise changed(path)
        return self._descriptors[path]

    def dtype(self, name: str) -> str:
        """The dtype a tensor has once it is read."""
        own = self.checkpoint[name].dtype
        return self._dtype if self._dtype and own in FLOATS else own

    def range(self, name: str) -> Range | None:
        """Where the bytes of a tensor lie, when they can be copied as they are from a file of this machine."""
        return self._stored(name) if self.dtype(name) == self.checkpoint[name].dtype else None

    def _stored(self, name: str) -> Range | None:
        if (file := self.checkpoint.file_of(name)) is None:
            return None
        if file not in self._paths:
            path = local_path(self.checkpoint, file)
            self._paths[file] = None if path is None else str(path)
            if path is not None:
                self._states[str(path)] = state_when_read(self.checkpoint, file, str(path))
        path_text = self._paths[file]
        if path_text is None:
            return None
        extent = self.checkpoint.locate(name)
        if extent.strides is not None or extent.length != self.checkpoint[name].nbytes:
            return None
        return Range(path_text, extent.offset, extent.length)

    def bytes(self, name: str) -> bytes | memoryview:
        """One tensor's bytes, in row-major order."""
        return self.checkpoint.read(name) if self.dtype(name) == self.checkpoint[name].dtype else self._cast_bytes(name)

    def _cast_bytes(self, name: str) -> memoryview:
        tensor = self.tensor(name).contiguous()
        return memoryview(bytes(buffer_of(tensor)))

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor; with `reuse`, good until the next one is asked for.

        Raises:
            CheckpointError: It cannot be read.
        """
        import torch

        spec = self.checkpoint[name]
        found = self._local(name, spec) if self._arena is not None and DTYPE_BITS[spec.dtype] >= 8 else None
        tensor = self.checkpoint.load(name) if found is None else found
        wanted = getattr(torch, TORCH_NAMES[self.dtype(name)]) if DTYPE_BITS[spec.dtype] >= 8 else tensor.dtype
        return tensor.to(wanted)

    def _local(self, name: str, spec: TensorSpec) -> torch.Tensor | None:
        import torch

        if not spec.nbytes or (found := self._stored(name)) is None:
            return None
        assert self._arena is not None
        memory = self._arena.take(found.length)
        buffer, done = buffer_of(memory), 0
        try:
            descriptor = self.descriptor(found.path)
            while done < found.length:
                got = os.preadv(descriptor, [buffer[done:]], found.offset + done)
                if not got:
                    raise CheckpointError("ends early; it was changed while it was read", source=found.path)
                done += got
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", source=found.path) from None
        return memory.view(getattr(torch, TORCH_NAMES[spec.dtype])).reshape(spec.shape)


def check_ties(ties: tuple[tuple[str, str], ...], checkpoint: Checkpoint) -> None:
    """Refuse a second name whose tensor is not the first one's, bit for bit.

    Args:
        ties: A name and the name it is a second name for.
        checkpoint: What is read; second names may be absent.

    Raises:
        ConvertError: One is there and differs.
    """
    broken = [
        f"{second} differs from {first}, and the rules say that they are tied; make them equal, or give each a rule"
        for second, first in ties
        if second in checkpoint and first in checkpoint and not _equal(checkpoint, second, first)
    ]
    if broken:
        raise ConvertError(lines_of(broken))


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    if any(one in group and other in group for group in checkpoint.ties):
        return True
    if (checkpoint[one].shape, checkpoint[one].dtype) != (checkpoint[other].shape, checkpoint[other].dtype):
        return False
    reader = Reader(checkpoint)
    left, right = reader.range(one), reader.range(other)
    if left is None or right is None:
        return checkpoint.read(one) == checkpoint.read(other)
    try:
        return same_bytes(left, reader, right, reader)
    finally:
        reader.close()


def same_bytes(one: Range, reader: Reader, other: Range, other_reader: Reader) -> bool:
    """Whether two ranges hold the same bytes, read in parts, each by the reader of its checkpoint."""
    if one.length != other.length:
        return False
    first, second = reader.descriptor(one.path), other_reader.descriptor(other.path)
    for start in range(0, one.length, COMPARED_AT_ONCE):
        size = min(COMPARED_AT_ONCE, one.length - start)
        data = os.pread(first, size, one.offset + start)
        if len(data) < size or data != os.pread(second, size, other.offset + start):
            return False
    return True
