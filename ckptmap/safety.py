"""`scan(source)`: what loading the pickles of a file, folder or repo with pickle itself would run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ckptmap.errors import CheckpointError
from ckptmap.formats.findings import Finding
from ckptmap.formats.scan import Scan, scan_file
from ckptmap.sources import locate_store
from ckptmap.stages import tell
from ckptmap.stores.base import Store
from ckptmap.stores.local import LocalStore

NO_PICKLES = (
    ".safetensors",
    ".json",
    ".txt",
    ".md",
    ".py",
    ".yaml",
    ".yml",
    ".gguf",
    ".model",
    ".png",
    ".jpg",
    ".onnx",
)
"""Files that no loader unpickles, whatever is in them."""


@dataclass(frozen=True)
class Safety:
    """What is known of a source; true when something in it would run code.

    Attributes:
        source: What was looked at.
        files: Every file that may hold pickles, and what they would do.
    """

    source: str
    files: tuple[Scan, ...]

    def __bool__(self) -> bool:
        return bool(self.dangers)

    @property
    def dangers(self) -> tuple[Finding, ...]:
        """What would run code."""
        return tuple(finding for scan in self.files for finding in scan.dangers)

    @property
    def unread(self) -> tuple[Scan, ...]:
        """Files of which not all could be read, so that nobody can say."""
        return tuple(scan for scan in self.files if scan.problem is not None)


def scan(source: str | os.PathLike[str], *, revision: str | None = None, subfolder: str | None = None) -> Safety:
    """Look at every pickle of a source without running any; weights are not read.

    Args:
        source: A local file or folder, or a Hub repo; of folders and repos every file that may hold one.
        revision: Branch, tag or commit of a Hub repo.
        subfolder: Folder in the repo or folder.

    Raises:
        CheckpointError: The source cannot be found or read.
    """
    path = Path(source)
    if path.is_file():
        return Safety(str(source), (_scanned(LocalStore(path.parent), path.name),))
    store = locate_store(os.fspath(source), revision=revision, subfolder=subfolder)
    names = [name for name in store.files() if not name.endswith(NO_PICKLES)]
    found = []
    for number, name in enumerate(names):
        tell("files", number, len(names))
        found.append(_scanned(store, name))
    return Safety(str(source), tuple(found))


def together(each: Sequence[Safety]) -> Safety:
    """Several sources as one, each file under the name that leads to it."""
    files = tuple(
        replace(scan, file=safety.source if safety.source.endswith(scan.file) else f"{safety.source}/{scan.file}")
        for safety in each
        for scan in safety.files
    )
    return Safety(f"{len(each)} sources", files)


def _scanned(store: Store, file: str) -> Scan:
    try:
        return scan_file(store, file)
    except CheckpointError as error:
        return Scan(file, (), 0, error.problem)
