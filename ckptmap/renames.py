"""Renames that the standard library does not have: onto a name that is free, and two names exchanged."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ckptmap.errors import ConvertError

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
"""Flags of renameat2(2). Source: linux/fs.h."""
AT_FDCWD = -100
CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK, errno.EXDEV}
"""What file systems say that know no exchange, no exclusive rename or no hard links."""

Identity: TypeAlias = tuple[int, int]
"""Which file it is, whatever its name: device and inode."""


def identity(path: Path) -> Identity | None:
    """Which file, link or folder has a name."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def create(path: Path) -> int:
    """A descriptor of a new file; its name is one that nothing has."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def take_free(temporary: Path, target: Path) -> None:
    """Let a file or folder take a place that nothing has, which is looked at and taken in one step."""
    if rename_by(temporary, target, RENAME_NOREPLACE):
        return
    try:
        if temporary.is_dir():
            if os.path.lexists(target):
                raise taken(target)
            os.rename(temporary, target)  # refuses a folder that has come meanwhile with something in it
            return
        try:
            os.link(temporary, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
            os.close(create(target))
            os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise taken(target) from None
        raise


def exchange(one: Path, other: Path) -> bool:
    """Let two names have what the other had; whether the system can, and both are there."""
    return rename_by(one, other, RENAME_EXCHANGE)


def taken(target: Path) -> ConvertError:
    """The error to raise about a place that something has."""
    return ConvertError(f"{target}: exists, perhaps since a moment ago; --force overwrites it")


def rename_by(old: Path, new: Path, flag: int) -> bool:
    """renameat2(2); whether the system can.

    Raises:
        OSError: It can, and did not; an exchange with nothing is told as one that it cannot do.
        ConvertError: The new name is taken and must not be.
    """
    library = ctypes.CDLL(None, use_errno=True)
    call: Callable[..., int] | None = getattr(library, "renameat2", None)
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST and flag == RENAME_NOREPLACE:
        raise taken(new)
    if code in CANNOT or (code == errno.ENOENT and flag == RENAME_EXCHANGE):
        return False
    raise OSError(code, os.strerror(code))
