"""Files that appear whole under their names, several of them together, or not at all.

Data goes to a temporary file beside each place, and all of them are renamed at the end. While its run lives, a
temporary file is locked; one that a killed run left is nobody's, and the next run to the same place removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Lock

from ckptmap.errors import CheckpointError
from ckptmap.renames import CANNOT, Identity, create, exchange, identity, take_free

LOCK = ".ckptmap.lock"
_ALIVE: set[Staging] = set()
_COMMITTING = Lock()
"""Held while files take their places, which nothing must cut short."""
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<run>[0-9a-f]{12})\.tmp", re.DOTALL)
_MOST_OF_A_NAME = 200
"""Bytes of a name that go into that of its temporary file; file systems allow 255."""


@dataclass
class _Change:
    """What is to happen to one name of a folder.

    Args:
        target: The name.
        temporary: What will have the name; of a name that goes, where what had it waits until all is done.
        decides: Whether it is what readers look for first, and so makes them see the new in place of the old.
        goes: Whether nothing will have it.
        identity: Which file or folder will have it.
        is_new: Whether nothing had the name before.
    """

    target: Path
    temporary: Path
    decides: bool
    goes: bool = False
    identity: Identity | None = None
    is_new: bool = False

    def phase(self) -> int:
        """When it happens: what nobody misses or sees yet, then what decides, then what an old reader would miss."""
        if self.goes:
            return 2 if self.decides else 4
        return 1 if self.decides else 0 if self.is_new else 3


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
        self._changes: list[_Change] = []
        self._new_folders: dict[Path, Path] = {}
        self._locks: dict[Path, int] = {}

    def __enter__(self) -> Staging:
        _ALIVE.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()
        while self._locks:
            os.close(self._locks.popitem()[1])
        _ALIVE.discard(self)

    def abandon(self) -> None:
        """Remove what was not committed, be it from a thread that cannot wait for the one that writes."""
        for change in tuple(self._changes):
            with suppress(OSError):  # what cannot be removed waits for the next run
                _remove(change.temporary) if change.temporary in self._new_folders else os.unlink(change.temporary)

    def new_folder(self, target: Path) -> Path:
        """A folder to stage files in, which will be the target as a whole; nothing is there yet."""
        temporary = self._beside(target)
        with trouble(target):
            change = _Change(target, temporary, decides=True, is_new=True)
            self._changes.append(change)
            while True:
                os.mkdir(temporary)
                if self._lock(temporary, os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)):
                    break
            change.identity = identity(temporary)
        self._new_folders[temporary] = target
        return temporary

    @contextmanager
    def file(self, target: Path, *, decides: bool = False) -> Iterator[int]:
        """A descriptor of a new file that will be the target; it is on the disk when the context ends.

        Permissions and owner are those of an old target, or what the umask leaves of reading and writing.

        Args:
            target: A name in a folder that is there, or in one of `new_folder`.
            decides: Whether readers look for it first, so that it comes after what it leads to.
        """
        folder = self._new_folders.get(target.parent)
        shown = target if folder is None else folder / target.name
        if target.exists() and not target.is_file():
            raise CheckpointError("is a folder, a device or a pipe; name a file", source=str(shown))
        with trouble(shown):
            if folder is not None:
                descriptor = create(target)
            else:
                change = _Change(target, self._beside(target), decides, is_new=not os.path.lexists(target))
                self._changes.append(change)
                descriptor = self._create_locked(change)
            try:
                yield descriptor
                if folder is None:
                    _dress_like(descriptor, target)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def remove(self, target: Path, *, decides: bool = False) -> None:
        """Let a file or a link go when the others have come, first of all if readers would take it before them."""
        self._changes.append(_Change(target, self._beside(target), decides, goes=True))

    def commit(self) -> None:
        """Let every file take its place: what decides comes after all it leads to, and before what it needs no more.

        Raises:
            ConvertError: A place is taken.
            CheckpointError: The system refuses; places are as they were.
        """
        with _COMMITTING:
            self._commit()

    def _commit(self) -> None:
        for folder in self._new_folders:
            sync_folder(folder)
        begun: list[_Change] = []
        try:
            for _, together in groupby(sorted(self._changes, key=_Change.phase), key=_Change.phase):
                folders = []
                for change in together:
                    begun.append(change)
                    folders.append(change.target.parent)
                    with trouble(change.target):
                        self._place(change)
                for folder in dict.fromkeys(folders):  # names last on the disk before other names hang on them
                    with trouble(folder):
                        sync_folder(folder)
        except BaseException as error:
            if stuck := self._taken_back(reversed(begun)):
                raise CheckpointError("; ".join([str(error).removesuffix("; nothing was changed"), *stuck])) from error
            raise
        self.abandon()
        self._changes.clear()

    def _place(self, change: _Change) -> None:
        if change.goes:
            with suppress(FileNotFoundError):
                os.rename(change.target, change.temporary)
        elif not self._overwrite or change.temporary in self._new_folders:
            take_free(change.temporary, change.target)
        elif not exchange(change.temporary, change.target):
            os.replace(change.temporary, change.target)

    def _taken_back(self, begun: Iterator[_Change]) -> list[str]:
        """Undo these changes, as far as they happened; what is told of those for which the system cannot."""
        stuck = []
        for change in begun:
            try:
                _take_back(change)
            except OSError as error:
                self._changes.remove(change)
                waits = f" and what it was is {change.temporary}" if os.path.lexists(change.temporary) else ""
                stuck.append(f"{change.target} is new already{waits} ({error.strerror})")
        return stuck

    def _beside(self, target: Path) -> Path:
        return target.with_name(f".{_cut(target.name)}.{self._run}.tmp")

    def _create_locked(self, change: _Change) -> int:
        while True:
            descriptor = create(change.temporary)
            status = os.fstat(descriptor)
            change.identity = status.st_dev, status.st_ino
            # One lock for all files of a folder, of which there may be more than a process may have open.
            if change.target.parent in self._locks or self._lock(change.temporary, os.dup(descriptor)):
                return descriptor
            os.close(descriptor)

    def _lock(self, temporary: Path, descriptor: int) -> bool:
        """Hold a file or folder until the end; False if another run removed it before it was held."""
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        status = os.fstat(descriptor)
        if identity(temporary) != (status.st_dev, status.st_ino):
            os.close(descriptor)
            return False
        self._locks[temporary.parent] = descriptor
        return True


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


def write_text(target: Path, data: bytes) -> tuple[str, ...]:
    """Write a small file whole; what a killed run had left beside it, and was removed."""
    removed = remove_leftovers(target.parent, {target.name})
    with replacing(target) as descriptor:
        write_all(descriptor, memoryview(data))
    return removed


def remove_leftovers(
    folder: Path, names: Collection[str], also: Callable[[str], bool] = lambda name: False
) -> tuple[str, ...]:
    """Remove temporary files that runs which are no more left beside places.

    Args:
        folder: Where they lie.
        names: Names that are about to be written.
        also: Whether a name is another of the same kind.

    Returns:
        What was removed.
    """
    wanted = set(map(_cut, names))

    def found() -> dict[str, list[Path]]:
        runs: dict[str, list[Path]] = {}
        for match in filter(None, map(_TEMPORARY.fullmatch, os.listdir(folder))):
            if match["name"] in wanted or also(match["name"]):
                runs.setdefault(match["run"], []).append(folder / match[0])
        return runs

    removed = []
    with suppress(OSError):
        if not found():
            return ()
        with alone_in(folder):  # a run that renames its files right now is not taken for a dead one
            left = found()
        for paths in left.values():
            if not any(map(_is_held, paths)):
                for path in paths:
                    with suppress(OSError):
                        _remove(path)
                        removed.append(str(path))
    return tuple(sorted(removed))


def leftovers_of(target: Path) -> list[Path]:
    """Temporary files that runs which are no more left beside a place."""
    with suppress(OSError):
        matches = filter(None, map(_TEMPORARY.fullmatch, os.listdir(target.parent)))
        paths = [target.parent / match[0] for match in matches if match["name"] == _cut(target.name)]
        return sorted(path for path in paths if not _is_held(path))
    return []


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
def alone_in(folder: Path) -> Iterator[None]:
    """One run at a time renames files in a folder; where there can be no lock, all of them.

    The lock is a file of our own: the folder itself may be locked by whoever called us.
    """
    path, descriptor = folder / LOCK, None
    with suppress(OSError):
        while descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            status = os.fstat(descriptor)
            if identity(path) != (status.st_dev, status.st_ino):  # whoever had it has removed it
                os.close(descriptor)
                descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                os.unlink(path)
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make names in a folder last, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT | {errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of it: one call may take less, 2 GiB at most on Linux."""
    while data:
        data = data[os.write(descriptor, data) :]


def _dress_like(descriptor: int, old: Path) -> None:
    """Give a file the permissions of the one it replaces, and its owner and group as far as that is allowed."""
    try:
        status = os.stat(old)
    except FileNotFoundError:
        return
    with suppress(OSError):
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def _take_back(change: _Change) -> None:
    """Give a name back what it had, if it has the new already: asked of the names, as a signal may come at any time."""
    there, waiting = identity(change.target), identity(change.temporary)
    if change.goes:
        if there is None and waiting is not None:
            os.rename(change.temporary, change.target)
    elif there != change.identity:
        return
    elif waiting == change.identity:  # it has both names
        os.unlink(change.target)
    elif waiting is not None:
        os.replace(change.temporary, change.target)
    elif change.is_new:
        os.rename(change.target, change.temporary)
    else:
        raise OSError(errno.EOPNOTSUPP, "the file system knows no exchange of files")


def _is_held(path: Path) -> bool:
    """Whether a run still writes a temporary file or folder."""
    if path.is_symlink():  # an old link that made room: what was written with it tells
        return False
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


def _remove(temporary: Path) -> None:
    """Remove a temporary file, or a folder with the files in it, and nothing below."""
    with suppress(FileNotFoundError):
        if temporary.is_dir() and not temporary.is_symlink():
            for entry in list(temporary.iterdir()):
                entry.unlink()
            temporary.rmdir()
        else:
            os.unlink(temporary)


def _cut(name: str) -> str:
    """The name, or as much of its beginning as leaves room for that of a temporary file."""
    while len(os.fsencode(name)) > _MOST_OF_A_NAME:
        name = name[:-1]
    return name
