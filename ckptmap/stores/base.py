"""What a format needs of a place that holds files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a store: its size in bytes and, where the store knows it, a hash of its whole content."""

    size: int
    content_hash: str | None = None


class Store(Protocol):
    """What a format needs of a place that holds files; names are relative to the store, with `/`."""

    @property
    def label(self) -> str:
        """The place as told to people: a path, or `org/name@commit`."""

    @property
    def commit(self) -> str | None:
        """The full commit that is read, where there is such a thing."""

    @property
    def parallel(self) -> int:
        """How many reads may usefully be under way at once."""

    def files(self) -> Mapping[str, StoredFile]:
        """Every file below the store's root, by name."""

    def size(self, file: str) -> int:
        """Size of one file in bytes.

        Raises:
            CheckpointError: There is no such file.
        """

    def read(self, file: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`.

        Raises:
            CheckpointError: The file is missing, ends before, changed meanwhile, or the place cannot be reached.
        """

    def local_path(self, file: str) -> Path | None:
        """Where the file lies on this machine, if it does."""
