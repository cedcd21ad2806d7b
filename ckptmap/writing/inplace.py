"""Replaces the header of one safetensors file where it stands; a journal beside it gives the old one back.

The journal is on the disk before the first byte of the file changes, and goes when the new header is on the disk.
Whoever finds a journal puts the old header back, so a conversion that was killed has not happened.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.files import Staging, remove_leftovers, sync_folder, trouble, write_all, write_text
from ckptmap.formats.safetensors import UNDO_SUFFIX

MAGIC = b"ckptmap undo 1\n"
PROBE = "ckptmap.probe"
INSERT_RANGE, COLLAPSE_RANGE = 0x20, 0x08
"""Modes of fallocate(2). Source: linux/falloc.h."""


def journal_of(file: Path) -> Path:
    """Where the journal of a file lies."""
    return file.with_name(file.name + UNDO_SUFFIX)


def replace_header(file: Path, header: bytes, still_the_same: Callable[[], None]) -> tuple[str, ...]:
    """Put another header in front of the same data.

    Args:
        file: A safetensors file.
        header: The new header without blanks, its length before it.
        still_the_same: Raises if the file is not the one that the header was made for; asked when it is locked.

    Returns:
        Temporary files that runs cut short had left, and that were removed.

    Raises:
        ConvertError: It does not fit and the filesystem cannot grow the front of a file.
        CheckpointError: The file cannot be written.
    """
    _not_shared(file)
    with trouble(file), _locked(file) as descriptor:
        still_the_same()
        leftovers = remove_leftovers(file.parent, {journal_of(file).name, PROBE})
        before = os.fstat(descriptor)
        old_length = 8 + int.from_bytes(os.pread(descriptor, 8, 0), "little")
        old = _pread(descriptor, old_length)
        block = before.st_blksize or 4096
        missing = max(0, len(header) - old_length)
        inserted = -(-missing // block) * block
        space = old_length + inserted
        new = (space - 8).to_bytes(8, "little") + header[8:].ljust(space - 8)
        if inserted and (before.st_size == 0 or not _can_insert(file, block)):
            raise ConvertError(
                f"{file}: the new header is {missing:,} bytes longer than the room before the data, and this "
                "filesystem cannot grow a file at its front; convert to a new file, leaving --in-place out"
            )
        _write_journal(file, before, old, inserted)
        if inserted:
            _fallocate(descriptor, INSERT_RANGE, inserted)
        _pwrite(descriptor, new)
        os.fsync(descriptor)
        journal_of(file).unlink()
        sync_folder(file.parent)
    return leftovers


def _not_shared(file: Path) -> None:
    """Refuse a file that others have too, under another name or in the Hub's cache.

    Raises:
        ConvertError: With how to get one of one's own.
    """
    if file.is_symlink():
        what = f"is a symbolic link to {os.path.realpath(file)}, which others may use"
    elif file.stat().st_nlink > 1:
        what = "has other names (hard links), under which it would change too"
    else:
        return
    raise ConvertError(f"{file}: {what}; name OUT, or make a copy of your own and convert that: cp -L {file} COPY")


def roll_back(file: Path) -> bool:
    """Undo a conversion that was cut short; whether there was one.

    Raises:
        ConvertError: The journal is not of this file as it is now, or a conversion is under way.
        CheckpointError: The file cannot be written.
    """
    journal = journal_of(file)
    if not journal.is_file():
        return False
    with trouble(file), _locked(file) as descriptor:
        if not journal.is_file():  # whoever held the lock has finished
            return True
        inode, size, inserted, old = _read_journal(journal)
        now = os.fstat(descriptor)
        if now.st_ino != inode or now.st_size not in (size, size + inserted):
            raise ConvertError(
                f"{journal}: is the journal of another file than {file.name} is now; if {file.name} is as it should "
                "be, delete the journal"
            )
        if inserted and now.st_size == size + inserted:
            _fallocate(descriptor, COLLAPSE_RANGE, inserted)
        _pwrite(descriptor, old)
        os.fsync(descriptor)
        journal.unlink()
        sync_folder(file.parent)
    return True


@contextmanager
def _locked(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConvertError(f"{file}: is being converted in place by another process; wait for it") from None
        yield descriptor
    finally:
        os.close(descriptor)


def _write_journal(file: Path, before: os.stat_result, old: bytes, inserted: int) -> None:
    told = {"inode": before.st_ino, "size": before.st_size, "inserted": inserted, "sha256": _digest(old)}
    write_text(journal_of(file), MAGIC + json.dumps(told).encode() + b"\n" + old)


def _read_journal(journal: Path) -> tuple[int, int, int, bytes]:
    data = journal.read_bytes()
    line, _, old = data.removeprefix(MAGIC).partition(b"\n")
    try:
        told = json.loads(line)
        inode, size, inserted = (int(told[key]) for key in ("inode", "size", "inserted"))
        good = data.startswith(MAGIC) and told["sha256"] == _digest(old)
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise CheckpointError("is not a journal that ckptmap wrote, or is damaged", source=str(journal))
    return inode, size, inserted, old


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _pread(descriptor: int, length: int) -> bytes:
    data = b""
    while len(data) < length and (more := os.pread(descriptor, length - len(data), len(data))):
        data += more
    return data


def _pwrite(descriptor: int, data: bytes) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, memoryview(data))


def _can_insert(file: Path, block: int) -> bool:
    """Whether the filesystem grows the front of a file, asked of a small file beside it."""
    with Staging(overwrite=False) as never_committed, never_committed.file(file.with_name(PROBE)) as descriptor:
        try:
            write_all(descriptor, memoryview(bytes(2 * block)))
            _fallocate(descriptor, INSERT_RANGE, block)
        except OSError:
            return False
    return True


def _fallocate(descriptor: int, mode: int, length: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if call is None:
        raise OSError("there is no fallocate here")
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(descriptor, mode, 0, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
