"""The two doors by which text leaves: whatever a verb prints is made harmless here, so that no verb can forget it."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ckptmap.printable import printable_lines


class OutputError(Exception):
    """Standard output cannot be written; args are the reason."""


class Harmless(io.TextIOBase):
    """A text stream that escapes what terminals obey.

    Args:
        stream: Where text goes; None if it is closed.
        needed: Whether a failure is an error, or the text is dropped since nobody can be told.
    """

    def __init__(self, stream: TextIO | None, *, needed: bool) -> None:
        self._stream = stream
        self._needed = needed

    @property
    def trusted(self) -> TextIO:
        """The stream itself, for who styles text that was made harmless before."""
        return self._stream if self._stream is not None else self  # type: ignore[return-value]

    def write(self, text: str) -> int:
        with self._told():
            if self._stream is None:
                raise OSError(errno.EBADF, "it is closed")
            self._stream.write(printable_lines(text))
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with self._told():
                self._stream.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: the stream was closed in between
            if self._needed:
                raise OutputError(getattr(error, "strerror", None) or str(error)) from None

    def isatty(self) -> bool:
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, "it is closed")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def harmless_streams() -> Iterator[None]:
    """Let all that is printed pass through `Harmless`."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without × is no reason to fail
    sys.stdout, sys.stderr = Harmless(before[0], needed=True), Harmless(before[1], needed=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def drop_output() -> None:
    """Let nothing more go to standard output: Python would complain once more when it flushes at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fill_standard_descriptors() -> None:
    """Open what is closed of the first three descriptors on nothing, lest a file that is opened gets one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def trusted(stream: TextIO) -> TextIO:
    """The stream behind a harmless one."""
    return stream.trusted if isinstance(stream, Harmless) else stream
