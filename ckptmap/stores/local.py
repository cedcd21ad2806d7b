"""Files of a local folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from ckptmap.errors import CheckpointError
from ckptmap.stores.base import StoredFile

State: TypeAlias = tuple[int, int, int, int, int]
"""What changes when a file is written to or replaced: device, inode, size, and the times that its data and it itself
were changed; the latter nobody can set back."""


class LocalStore:
    """A folder on this machine; only the files directly in it are listed, as a checkpoint's are.

    A file is read as it was when its size was first asked for: one that was changed or replaced since is an error, as
    its header would belong to other bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, State] = {}

    @property
    def label(self) -> str:
        return str(self.folder)

    @property
    def commit(self) -> None:
        return None

    @property
    def parallel(self) -> int:
        return 1

    def files(self) -> Mapping[str, StoredFile]:
        try:
            with os.scandir(self.folder) as entries:
                found = {entry.name: StoredFile(entry.stat().st_size) for entry in entries if entry.is_file()}
        except OSError as error:
            raise CheckpointError(f"cannot list the folder: {error.strerror}", source=self.label) from None
        return dict(sorted(found.items()))

    def size(self, file: str) -> int:
        try:
            status = os.stat(self.folder / file)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", source=str(self.folder / file)) from None
        self._seen.setdefault(file, _state(status))
        return status.st_size

    def read(self, file: str, offset: int, length: int) -> bytes:
        path = self.folder / file
        try:
            with open(path, "rb", buffering=0) as stream:
                if (seen := self._seen.get(file)) and _state(os.fstat(stream.fileno())) != seen:
                    raise changed(str(path))
                stream.seek(offset)
                data = stream.read(length)
                # One read may return less than asked (2 GiB at most on Linux, or at a signal).
                while len(data) < length and (more := stream.read(length - len(data))):
                    data += more
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", source=str(path)) from None
        if len(data) < length:
            raise CheckpointError(
                f"the file ends at byte {offset + len(data)}, {length - len(data)} bytes before the asked-for "
                "data does; it is truncated or changed while it was read",
                source=str(path),
            )
        return data

    def local_path(self, file: str) -> Path | None:
        return self.folder / file

    def seen(self, file: str) -> State | None:
        """The state of a file when its size was first asked for, if it was."""
        return self._seen.get(file)


def state_of(path: str) -> State:
    """The state of a file now.

    Raises:
        CheckpointError: It is not there.
    """
    try:
        return _state(os.stat(path))
    except OSError as error:
        raise CheckpointError(f"cannot be read any more: {error.strerror}", source=path) from None


def state_of_open(descriptor: int) -> State:
    """The state of an open file."""
    return _state(os.fstat(descriptor))


def changed(path: str) -> CheckpointError:
    """The error to raise about a file that is not in the state it was in."""
    return CheckpointError("was changed or replaced since its header was read; run again", source=path)


def _state(status: os.stat_result) -> State:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
