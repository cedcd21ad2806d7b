"""Where the bytes of a tensor come from: a file of this machine, memory, or ranges of a repo."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from ckptmap.conversion.reading import FileStates, Range, buffer_of, local_path
from ckptmap.errors import CheckpointError
from ckptmap.stores.local import state_of
from ckptmap.values.workers import FETCHES, Meter, run_all

if TYPE_CHECKING:
    from ckptmap.checkpoint import Checkpoint
    from ckptmap.stores import Store


class Bytes(Protocol):
    """The bytes of one tensor, in row-major order, read a part at a time."""

    @property
    def content(self) -> Hashable | None:
        """What tells equal bytes without reading them: two that have the same are equal. None: nothing does."""

    @property
    def fetched(self) -> bool:
        """Whether reading it costs a network."""

    @property
    def in_one_go(self) -> bool:
        """Whether any part costs as much as the whole."""

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer with the bytes from `start`.

        Raises:
            CheckpointError: They cannot be read.
        """


class OpenFiles:
    """Files of this machine, each opened once; many threads may read them."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}
        self._lock = Lock()

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read_into(self, path: str, buffer: memoryview, offset: int) -> None:
        """Fill a buffer from one place of a file."""
        try:
            with self._lock:
                if path not in self._descriptors:
                    self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                descriptor = self._descriptors[path]
            done = 0
            while done < len(buffer):
                got = os.preadv(descriptor, [buffer[done:]], offset + done)
                if not got:
                    raise CheckpointError(
                        f"ends at byte {offset + done:,}, in the middle of a tensor; it was changed while it was read, "
                        "run again",
                        source=path,
                    )
                done += got
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", source=path) from None


@dataclass(frozen=True, slots=True)
class FileBytes:
    """Bytes of a file of this machine."""

    files: OpenFiles
    path: str
    offset: int
    content: Hashable | None
    fetched: bool = False
    in_one_go: bool = False

    def read_into(self, buffer: memoryview, start: int) -> None:
        self.files.read_into(self.path, buffer, self.offset + start)


@dataclass(frozen=True, slots=True)
class RepoBytes:
    """Bytes of a file of a repo, asked for by range."""

    store: Store
    file: str
    offset: int
    content: Hashable | None
    fetched: bool = True
    in_one_go: bool = False

    def read_into(self, buffer: memoryview, start: int) -> None:
        buffer[:] = self.store.read(self.file, self.offset + start, len(buffer))


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """Bytes in memory."""

    data: memoryview | bytes
    keeps: object = None
    """What must live as long as the data."""
    content: Hashable | None = None
    fetched: bool = False
    in_one_go: bool = False

    def read_into(self, buffer: memoryview, start: int) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


@dataclass(frozen=True, slots=True)
class JoinedBytes:
    """Ranges of files and zeros, one after the other."""

    files: OpenFiles
    parts: tuple[Range | int, ...]
    content: Hashable | None = None
    fetched: bool = False
    in_one_go: bool = False

    def read_into(self, buffer: memoryview, start: int) -> None:
        position, end = 0, start + len(buffer)
        for part in self.parts:
            length = part if isinstance(part, int) else part.length
            first, last = max(start, position), min(end, position + length)
            if first < last:
                into = buffer[first - start : last - start]
                if isinstance(part, int):
                    into[:] = bytes(last - first)
                else:
                    self.files.read_into(part.path, into, part.offset + first - position)
            position += length


@dataclass(frozen=True, slots=True)
class PickedBytes:
    """Bytes that a checkpoint picks out of what is stored, by strides."""

    checkpoint: Checkpoint
    name: str
    fetched: bool
    content: Hashable | None
    in_one_go: bool = True

    def read_into(self, buffer: memoryview, start: int) -> None:
        buffer[:] = self.checkpoint.read(self.name)[start : start + len(buffer)]


@dataclass
class Side:
    """One checkpoint of a comparison: gives the bytes of its tensors, and knows which files are surely equal."""

    checkpoint: Checkpoint
    files: OpenFiles
    _contents: dict[str, Hashable | None] = field(default_factory=dict)

    def bytes_of(self, name: str) -> Bytes:
        """The bytes of a tensor.

        Raises:
            CheckpointError: It has no values, or its place in the file cannot be told.
        """
        file = self.checkpoint.file_of(name)
        if file is None:
            return self._held(name)
        extent, path = self.checkpoint.locate(name), local_path(self.checkpoint, file)
        known = self.content_of_file(file)
        content = None if known is None else (known, extent.offset, extent.length, extent.strides)
        if extent.strides is not None:
            return PickedBytes(self.checkpoint, name, path is None, content)
        if path is not None:
            return FileBytes(self.files, str(path), extent.offset, content)
        assert self.checkpoint._store is not None  # it has files
        return RepoBytes(self.checkpoint._store, file, extent.offset, content)

    def nbytes_fetched(self, name: str) -> int:
        """Bytes that reading a tensor brings over a network."""
        file = self.checkpoint.file_of(name)
        is_here = file is None or local_path(self.checkpoint, file) is not None
        return 0 if is_here else self.checkpoint[name].nbytes

    def locate_fetched(self, meter: Meter, other: Side | None = None) -> None:
        """Ask where tensors of a repo lie, many at once: in an archive each costs a request.

        Those of files that are surely equal to one of the other side's are left for when they are needed.
        """
        known = {other.content_of_file(file) for file in other.checkpoint.files} - {None} if other else set()
        files = [file for file in self.checkpoint.files if local_path(self.checkpoint, file) is None]
        wanted = {file for file in files if self.content_of_file(file) not in known}
        if names := [name for name in self.checkpoint if self.checkpoint.file_of(name) in wanted]:
            run_all(lambda name, _: self.checkpoint.locate(name), names, meter, workers=FETCHES)

    def content_of_file(self, file: str) -> Hashable | None:
        """What tells that two files are equal: their hash on the Hub, or that they are one file."""
        if file not in self._contents:
            path = local_path(self.checkpoint, file)
            self._contents[file] = self.listed_hash(file) if path is None else state_of(str(path))
        return self._contents[file]

    def listed_hash(self, file: str) -> str | None:
        """The hash that a Hub's listing has for a file."""
        store = self.checkpoint._store
        listed = store.files().get(file) if store is not None else None
        return listed.content_hash if listed is not None else None

    def knows(self, file: str, content: Hashable) -> None:
        """Remember what is found out of a file's content."""
        self._contents[file] = content

    def _held(self, name: str) -> Bytes:
        tensor = self.checkpoint.load(name)
        if tensor.is_meta:
            raise CheckpointError(
                "has no values, as it is on the meta device; compare names and shapes without --values",
                source=self.checkpoint.source,
                where=name,
            )
        if tensor.is_conj() or tensor.is_neg():  # its bytes are not what its values say
            tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return PickedBytes(self.checkpoint, name, fetched=False, content=None)
        return HeldBytes(buffer_of(tensor), tensor)


@contextmanager
def unchanged(checkpoints: Iterable[Checkpoint]) -> Iterator[None]:
    """Whatever is said of values is said of files that stayed as they were since their headers were read.

    Raises:
        CheckpointError: One was changed, replaced or removed.
    """
    files = FileStates(checkpoints)
    files.check()
    yield
    files.check()
