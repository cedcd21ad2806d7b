"""Whether there is a place for what is about to be written, looked at before the work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ckptmap.errors import CheckpointError, ConvertError

LONG_WRITE = 1_000_000
"""Bytes from which on it is worth a look whether they fit."""


def check_targets(targets: Iterable[Path], inputs: Iterable[Path], *, force: bool) -> None:
    """Refuse to write onto an input, onto what is no file, and onto anything that exists unless forced.

    Raises:
        ConvertError: With the paths.
    """
    read = {os.path.realpath(path) for path in inputs}
    targets = list(targets)
    if onto := [str(path) for path in targets if os.path.realpath(path) in read]:
        raise ConvertError(f"{', '.join(onto)}: is read by this conversion; write to another place")
    if wrong := [str(path) for path in targets if path.is_dir()]:
        raise ConvertError(f"{', '.join(wrong)}: is a folder; name a file in it")
    if wrong := [str(path) for path in targets if path.exists() and not path.is_file()]:
        raise ConvertError(f"{', '.join(wrong)}: is a device, a pipe or a socket; name a file")
    if not force and (there := [str(path) for path in targets if os.path.lexists(path)]):
        raise ConvertError(f"{', '.join(there)}: exists; --force overwrites it")
    if missing := [str(path) for path in targets if not path.parent.is_dir()]:
        raise ConvertError(f"{', '.join(missing)}: its folder does not exist; make it first")


def check_room(nbytes: Iterable[tuple[Path, int]]) -> None:
    """Refuse a long write that a file system has no room for.

    Args:
        nbytes: Folders, which may not exist yet, and how many bytes go there.

    Raises:
        CheckpointError: With what is free.
    """
    wanted: dict[int, tuple[Path, int]] = {}
    for folder, size in nbytes:
        place = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        first, before = wanted.get(place.stat().st_dev, (place, 0))
        wanted[place.stat().st_dev] = first, before + size
    for place, size in wanted.values():
        status = os.statvfs(place)
        # Root may use what is kept for it; some file systems of networks do not know how large they are.
        free = (status.f_bavail if os.geteuid() else status.f_bfree) * status.f_frsize
        if size >= LONG_WRITE and status.f_blocks and free < size:
            raise CheckpointError(
                f"cannot be written: {size:,} bytes are to be written, and {free:,} are free there; make room, or name "
                "another place; nothing was changed",
                source=str(place),
            )
