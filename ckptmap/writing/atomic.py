"""A file appears whole under its name, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ckptmap.errors import CheckpointError, ConvertError


def check_targets(targets: Iterable[Path], inputs: Iterable[Path], *, force: bool) -> None:
    """Refuse to write onto an input, and onto anything that exists unless forced.

    Raises:
        ConvertError: With the paths.
    """
    read = {os.path.realpath(path) for path in inputs}
    targets = list(targets)
    if onto := [str(path) for path in targets if os.path.realpath(path) in read]:
        raise ConvertError(f"{', '.join(onto)}: is read by this conversion; write to another place")
    if not force and (there := [str(path) for path in targets if os.path.lexists(path)]):
        raise ConvertError(f"{', '.join(there)}: exists; --force overwrites it")
    if wrong := [str(path) for path in targets if path.is_dir()]:
        raise ConvertError(f"{', '.join(wrong)}: is a folder; name a file in it")


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
def replacing(target: Path) -> Iterator[int]:
    """A descriptor of a new file beside the target, which becomes the target when all went well.

    Permissions are those of an old target, or what the umask leaves of reading and writing.
    """
    temporary = temporary_beside(target)
    with trouble(target), ExitStack() as undo:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        undo.callback(_unlink, temporary)
        try:
            yield descriptor
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, os.stat(target).st_mode & 0o7777)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
        sync_folder(target.parent)


def temporary_beside(target: Path) -> Path:
    """A name in the same folder that nothing has."""
    return target.with_name(f".{target.name[:180]}.{secrets.token_hex(6)}.tmp")


def sync_folder(folder: Path) -> None:
    """Make names in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, data: bytes) -> None:
    """Write a small file whole."""
    with replacing(target) as descriptor:
        write_all(descriptor, memoryview(data))


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of it: one call may take less, 2 GiB at most on Linux."""
    while data:
        data = data[os.write(descriptor, data) :]


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
