"""Every pickle in a file of any kind, looked at for what loading it would do."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from ckptmap.errors import CheckpointError
from ckptmap.formats.base import ZIP_MAGIC
from ckptmap.formats.findings import Finding
from ckptmap.formats.safety import Watch
from ckptmap.formats.torch_globals import WITHOUT_TENSORS
from ckptmap.formats.torch_zip import read_directory, read_member
from ckptmap.formats.unpickle import MAX_PICKLE_BYTES, unpickle
from ckptmap.stores.base import Store
from ckptmap.stores.window import WindowedFile

PICKLE_SUFFIXES = (
    *(".pkl", ".pickle", ".joblib", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".nemo", ".npy", ".npz", ".dat", ".pk"),
    ".metadata",
)
"""Names of files that usually hold pickles; others are told by their first bytes."""
MOST_PICKLES = 1000
"""Pickles that stand one after another in a file."""
_NPY = b"\x93NUMPY"
_SAFE_STARTS = (b"GGUF", b"\x89HDF", b"version https://git-lfs", b"<")


@dataclass(frozen=True, slots=True)
class Scan:
    """What is known of one file.

    Attributes:
        file: Its name.
        findings: What loading its pickles would do, the worst first.
        pickles: How many were looked at; 0 for a file of another kind.
        problem: Why not all of it could be read; None if it was.
    """

    file: str
    findings: tuple[Finding, ...]
    pickles: int
    problem: str | None = None

    @property
    def dangers(self) -> tuple[Finding, ...]:
        """What would run code of the file's choice."""
        return tuple(finding for finding in self.findings if finding.level == "dangerous")


def scan_file(store: Store, file: str) -> Scan:
    """Look at every pickle in a file; weights are not read.

    Raises:
        CheckpointError: The file cannot be read at all.
    """
    watch = Watch()
    count = 0
    problem = None
    try:
        for data, where in _pickles(store, file):
            try:
                count += _look(data, where, watch)
            except CheckpointError as error:
                if problem is None:
                    problem = f"{where}: {error.problem}" if where else error.problem
    except CheckpointError as error:
        if not count:
            raise
        problem = error.problem
    return Scan(file, watch.findings, count, problem or watch.unread)


def _look(data: bytes, where: str, watch: Watch) -> int:
    """Watch the pickles that stand one after another; how many there were."""
    position = 0
    for number in range(MOST_PICKLES):
        try:
            _, used = unpickle(
                data[position:],
                known=WITHOUT_TENSORS,
                persistent=lambda saved_id: None,
                source="",
                watch=watch,
                where=where,
            )
        except CheckpointError:
            if number:  # the raw data that follow the pickles of an old torch file
                return number
            raise
        position += used
        if position >= len(data) or data[position : position + 1] != b"\x80":
            return number + 1
    return MOST_PICKLES


def _pickles(store: Store, file: str) -> Iterator[tuple[bytes, str]]:
    """Bytes that hold a pickle, and what they are called."""
    size = store.size(file)
    head = store.read(file, 0, min(512, size))
    named = file.endswith(PICKLE_SUFFIXES)
    if head.startswith(ZIP_MAGIC):
        yield from _in_zip(store, file)
    elif head[257:262] == b"ustar":
        yield from _in_tar(store, file)
    elif head.startswith(_NPY):
        yield from _in_array(store.read(file, 0, min(size, MAX_PICKLE_BYTES)), file)
    elif head.startswith(b"\x80") or (named and size and head[8:9] != b"{" and not head.startswith(_SAFE_STARTS)):
        yield store.read(file, 0, min(size, MAX_PICKLE_BYTES)), ""


def _in_zip(store: Store, file: str) -> Iterator[tuple[bytes, str]]:
    source = f"{store.label}/{file}"
    window = WindowedFile(store, file)
    members, directory_start = read_directory(window, source)
    for member in members.values():
        name = member.name.rpartition("/")[2]
        if ("/data/" in member.name and "." not in name) or member.size > MAX_PICKLE_BYTES:
            continue  # a storage of torch, by far the most of an archive
        if name.endswith((".pkl", ".pickle", ".npy", ".joblib")) or "." not in name:
            data = read_member(window, member, directory_start, source)
            if data.startswith(_NPY):
                yield from _in_array(data, member.name)
            elif name.endswith((".pkl", ".pickle")) or data.startswith(b"\x80"):
                yield data, member.name


def _in_tar(store: Store, file: str) -> Iterator[tuple[bytes, str]]:
    size = store.size(file)
    if size > 16 * MAX_PICKLE_BYTES:
        raise CheckpointError(f"is a tar file of {size:,} bytes; unpack it and look at what is in it",
                              source=f"{store.label}/{file}")  # fmt: skip
    with suppress(tarfile.TarError), tarfile.open(fileobj=BytesIO(store.read(file, 0, size))) as members:
        for member in members:
            stream = members.extractfile(member) if member.isfile() and member.size <= MAX_PICKLE_BYTES else None
            data = b"" if stream is None else stream.read()
            if data.startswith(b"\x80") or member.name.endswith(("pickle", ".pkl")):
                yield data, member.name


def _in_array(data: bytes, where: str) -> Iterator[tuple[bytes, str]]:
    """The pickle of an array of objects. Source: NumPy 2.4, numpy/lib/format.py, format versions 1 to 3."""
    wide = data[6:7] != b"\x01"
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    if b"'O'" in data[start : start + length] or b"|O" in data[start : start + length]:
        yield data[start + length :], where
