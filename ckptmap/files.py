"""Files that appear whole under their names, several of them together, or not at all.

Data goes to a temporary file beside each place, and all of them are renamed at the end. While its run lives, a
temporary file is locked; one that a killed run left is nobody's, and the next run to the same place removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from ckptmap.errors import CheckpointError, ConvertError

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
"""Flags of renameat2(2). Source: linux/fs.h."""
AT_FDCWD = -100
CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK, errno.EXDEV}
"""What file systems say that know no exchange, no exclusive rename or no hard links."""
LONG_WRITE = 16_000_000
"""Bytes from which on it is worth a look whether they fit."""
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<run>[0-9a-f]{12})\.tmp", re.DOTALL)
_MOST_OF_A_NAME = 180
_ALIVE: set[Staging] = set()
_COMMITTING = Lock()
"""Held while files take their places, which nothing must cut short."""


@dataclass
class _Staged:
    target: Path
    temporary: Path
    undo: Callable[[], object] | None = None
    """Gives the place back what it had, where that can be done."""


class Staging:
    """Files that are written beside their places and take them together, as a context.

    Until `commit` nothing changes under a final name. Leaving the context removes what was not committed. If a rename
    fails, those before it are taken back.

    Args:
        overwrite: Whether places may be taken; else `commit` fails at the first that is, even if it came up meanwhile.
    """

    def __init__(self, *, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._run = secrets.token_hex(6)
        self._staged: list[_Staged] = []
        self._locks: dict[Path, int] = {}

    def __enter__(self) -> Staging:
        _ALIVE.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        for staged in self._staged:
            _unlink(staged.temporary)
        while self._locks:
            os.close(self._locks.popitem()[1])
        _ALIVE.discard(self)

    def abandon(self) -> None:
        """Remove what was not committed, from a thread that cannot wait for the one that writes."""
        for staged in self._staged:
            _unlink(staged.temporary)

    @contextmanager
    def file(self, target: Path) -> Iterator[int]:
        """A descriptor of a new file that will be the target; it is on the disk when the context ends.

        Permissions are those of an old target, or what the umask leaves of reading and writing.
        """
        temporary = target.with_name(f".{target.name[:_MOST_OF_A_NAME]}.{self._run}.tmp")
        if target.exists() and not target.is_file():
            raise CheckpointError("is a folder, a device or a pipe; name a file", source=str(target))
        with trouble(target):
            descriptor = self._create(temporary)
            self._staged.append(_Staged(target, temporary))
            try:
                yield descriptor
                with suppress(FileNotFoundError):
                    os.fchmod(descriptor, stat.S_IMODE(os.stat(target).st_mode))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _create(self, temporary: Path) -> int:
        while True:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            if temporary.parent in self._locks:  # one lock for all files of a folder: there may be many shards
                return descriptor
            with suppress(OSError):  # not every file system has locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # else another run removed it before it was locked
                self._locks[temporary.parent] = os.dup(descriptor)
                return descriptor
            os.close(descriptor)

    def commit(self) -> None:
        """Let every file take its place, in the order in which they were staged.

        Raises:
            ConvertError: A place is taken.
            CheckpointError: The system refuses; places are as they were.
        """
        with _COMMITTING:
            self._commit()

    def _commit(self) -> None:
        for staged in self._staged:
            try:
                with trouble(staged.target):
                    self._place(staged)
            except BaseException:
                for undo in [done.undo for done in reversed(self._staged) if done.undo is not None]:
                    with suppress(OSError):
                        undo()
                raise
        for folder in dict.fromkeys(staged.target.parent for staged in self._staged):
            sync_folder(folder)

    def _place(self, staged: _Staged) -> None:
        temporary, target = staged.temporary, staged.target
        if not self._overwrite:
            _take_free(temporary, target)
            staged.undo = lambda: os.unlink(target)
        elif _rename(temporary, target, RENAME_EXCHANGE):
            staged.undo = lambda: _rename(temporary, target, RENAME_EXCHANGE)
        else:
            is_new = not os.path.lexists(target)
            os.replace(temporary, target)
            staged.undo = (lambda: os.unlink(target)) if is_new else None


def abandon() -> None:
    """Remove the temporary files of this process, which ends now; files that take their places do so first."""
    _COMMITTING.acquire()
    for staging in tuple(_ALIVE):
        staging.abandon()


@contextmanager
def replacing(target: Path, *, overwrite: bool = True) -> Iterator[int]:
    """A descriptor of a new file beside the target, which becomes the target when all went well."""
    with Staging(overwrite=overwrite) as staging:
        with staging.file(target) as descriptor:
            yield descriptor
        staging.commit()


def write_text(target: Path, data: bytes) -> None:
    """Write a small file whole."""
    with replacing(target) as descriptor:
        write_all(descriptor, memoryview(data))


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


def check_room(folder: Path, nbytes: int) -> None:
    """Refuse a long write that the file system of a folder has no room for.

    Args:
        folder: Where it goes; it may not exist yet.
        nbytes: How many bytes.

    Raises:
        ConvertError: With what is free.
    """
    if nbytes < LONG_WRITE:
        return
    place = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    with suppress(OSError):
        free = shutil.disk_usage(place).free
        if free < nbytes:
            raise ConvertError(f"{folder}: {nbytes:,} bytes are to be written, and {free:,} are free there; make room")


def remove_leftovers(folder: Path, ours: Callable[[str], bool]) -> tuple[str, ...]:
    """Remove temporary files that runs which are no more left beside places.

    Args:
        folder: Where they lie.
        ours: Whether the file of this name is one that is about to be written.

    Returns:
        What was removed.
    """
    runs: dict[str, list[Path]] = {}
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _TEMPORARY.fullmatch(name)
            if match and ours(match["name"]):
                runs.setdefault(match["run"], []).append(folder / name)
    removed = []
    for paths in runs.values():
        if any(map(_is_held, paths)):
            continue
        for path in paths:
            with suppress(OSError):
                os.unlink(path)
                removed.append(str(path))
    return tuple(sorted(removed))


@contextmanager
def trouble(target: Path) -> Iterator[None]:
    """Tell a failure of the system as one of writing this target."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"cannot be written: {reason}; nothing was changed", source=str(target)) from None


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """One process at a time; where the file system has no locks, all of them."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make names in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of it: one call may take less, 2 GiB at most on Linux."""
    while data:
        data = data[os.write(descriptor, data) :]


def _take_free(temporary: Path, target: Path) -> None:
    """Let a file take a place that nothing has, which is looked at and taken in one step."""
    try:
        os.link(temporary, target, follow_symlinks=False)
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        if not _rename(temporary, target, RENAME_NOREPLACE):
            if os.path.lexists(target):
                raise _taken(target) from None
            os.rename(temporary, target)


def _taken(target: Path) -> ConvertError:
    return ConvertError(f"{target}: exists, perhaps since a moment ago; --force overwrites it")


def _rename(old: Path, new: Path, flag: int) -> bool:
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
        raise _taken(new)
    if code in CANNOT or (code == errno.ENOENT and flag == RENAME_EXCHANGE):
        return False
    raise OSError(code, os.strerror(code))


def _is_held(path: Path) -> bool:
    """Whether a run still writes a temporary file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True  # nobody can tell
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
