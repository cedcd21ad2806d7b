"""Files of a local folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ckptmap.errors import CheckpointError
from ckptmap.stores.base import StoredFile


class LocalStore:
    """A folder on this machine; only the files directly in it are listed, as a checkpoint's are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
            return os.stat(self.folder / file).st_size
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", source=str(self.folder / file)) from None

    def read(self, file: str, offset: int, length: int) -> bytes:
        path = self.folder / file
        try:
            with open(path, "rb", buffering=0) as stream:
                stream.seek(offset)
                data = stream.read(length)
                # One read may return less than asked (2 GiB at most on Linux, or at a signal).
                while len(data) < length and (more := stream.read(length - len(data))):
                    data += more
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
