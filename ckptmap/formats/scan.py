"""Every pickle in a file of any kind, looked at for what loading it would do."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from ckptmap.errors import CheckpointError
from ckptmap.formats.base import ZIP_MAGIC
from ckptmap.formats.findings import Finding
from ckptmap.formats.safety import Watch
from ckptmap.formats.torch_zip import read_directory, read_member
from ckptmap.formats.unpickle import MAX_PICKLE_BYTES, watch_all
from ckptmap.stores.base import Store
from ckptmap.stores.window import WindowedFile

PICKLE_SUFFIXES = (
    *(".pkl", ".pickle", ".joblib", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".nemo", ".npy", ".npz", ".dat", ".pk"),
    ".metadata",
)
"""Names of files that usually hold pickles; others are told by their first bytes."""
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
        for data, where in _pickles(store, file, watch):
            try:
                count += watch_all(data, watch=watch, where=where)
            except CheckpointError as error:
                if problem is None:
                    problem = f"{where}: {error.problem}" if where else error.problem
    except CheckpointError as error:
        if not count:
            raise
        problem = error.problem
    return Scan(file, watch.findings, count, problem or watch.unread)


def _pickles(store: Store, file: str, watch: Watch) -> Iterator[tuple[bytes, str]]:
    """Bytes that hold a pickle, and what they are called."""
    size = store.size(file)
    head = store.read(file, 0, min(512, size))
    named = file.endswith(PICKLE_SUFFIXES)
    if head.startswith(ZIP_MAGIC):
        yield from _in_zip(store, file, watch)
    elif head[257:262] == b"ustar":
        yield from _in_tar(store, file, watch)
    elif head.startswith(_NPY):
        yield from _in_array(store.read(file, 0, min(size, MAX_PICKLE_BYTES)), file)
    elif head.startswith(b"\x80") or (named and size and head[8:9] != b"{" and not head.startswith(_SAFE_STARTS)):
        yield store.read(file, 0, min(size, MAX_PICKLE_BYTES)), ""


def _in_zip(store: Store, file: str, watch: Watch) -> Iterator[tuple[bytes, str]]:
    source = f"{store.label}/{file}"
    window = WindowedFile(store, file)
    members, directory_start = read_directory(window, source)
    for member in members.values():
        name = member.name.rpartition("/")[2]
        if "/data/" in member.name and "." not in name:
            continue  # a storage of torch, by far the most of an archive
        if member.size > MAX_PICKLE_BYTES:
            if name.endswith(PICKLE_SUFFIXES):
                watch.unread = _too_large(member.name, member.size)
        elif name.endswith((".pkl", ".pickle", ".npy", ".joblib")) or "." not in name:
            data = read_member(window, member, directory_start, source)
            if data.startswith(_NPY):
                yield from _in_array(data, member.name)
            elif name.endswith((".pkl", ".pickle")) or data.startswith(b"\x80"):
                yield data, member.name


def _in_tar(store: Store, file: str, watch: Watch) -> Iterator[tuple[bytes, str]]:
    size = store.size(file)
    if size > 16 * MAX_PICKLE_BYTES:
        raise CheckpointError(f"is a tar file of {size:,} bytes; unpack it and look at what is in it",
                              source=f"{store.label}/{file}")  # fmt: skip
    try:
        with tarfile.open(fileobj=BytesIO(store.read(file, 0, size))) as members:
            for member in members:
                if not member.isfile():
                    continue
                if member.size > MAX_PICKLE_BYTES:
                    watch.unread = _too_large(member.name, member.size)
                    continue
                stream = members.extractfile(member)
                data = b"" if stream is None else stream.read()
                if data.startswith(ZIP_MAGIC):
                    watch.unread = f"{member.name[:80]} in it is an archive of its own; unpack it and look at that"
                elif data.startswith(b"\x80") or member.name.endswith(("pickle", ".pkl")):
                    yield data, member.name
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CheckpointError(f"the tar file is damaged: {str(error)[:200]}", source=f"{store.label}/{file}") from None


def _too_large(name: str, size: int) -> str:
    return f"{name[:80]} in it is {size:,} bytes, more than is looked into"


def _in_array(data: bytes, where: str) -> Iterator[tuple[bytes, str]]:
    """The pickle of an array of objects. Source: NumPy 2.4, numpy/lib/format.py, format versions 1 to 3."""
    wide = data[6:7] != b"\x01"
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    if b"'O'" in data[start : start + length] or b"|O" in data[start : start + length]:
        yield data[start + length :], where
