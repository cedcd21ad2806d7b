"""Signals: what was begun is taken back on the way out, and nothing can keep a process from going."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ckptmap import files

GRACE = 1.2
"""Seconds in which a run unwinds. Then the process ends where it stands: in an import that swallows Ctrl-C, say."""

SHOW_CURSOR = b"\r\x1b[2K\x1b[?25h"


class SignalError(BaseException):
    """The system asks this process to end; what was begun is taken back on the way out."""


_received: list[signal.Signals] = []


def received() -> signal.Signals | None:
    """The signal that ends this process, once one came."""
    return _received[0] if _received else None


def said(number: signal.Signals) -> str:
    """What to say of a run that a signal ended."""
    return "ckptmap: interrupted" if number == signal.SIGINT else f"ckptmap: ended by {number.name}"


@contextmanager
def signals_as_errors(*, own_process: bool) -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, so that no temporary file stays.

    Args:
        own_process: Whether the process is this command's, and ends with it. Then Ctrl-C ends it even if a library
            swallows it, or blocks.
    """
    _received.clear()

    def end(number: int, _: object) -> None:
        if _received:  # it is on its way out, and a second Ctrl-C must not stop it from cleaning up
            return
        _received.append(signal.Signals(number))
        if own_process:
            # Not a Thread: this may have come in the middle of starting one, with its lock held.
            _thread.start_new_thread(_leave_anyway, ())
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SignalError(signal.Signals(number))

    before = {}
    if threading.current_thread() is threading.main_thread():
        # One that is ignored stays so: `nohup` wants that.
        wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
        if own_process and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            wanted.append(signal.SIGINT)
        before = {number: signal.signal(number, end) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            if not own_process:
                signal.signal(number, handler)
            elif not _received:  # all is said and done; what libraries still do at the end may be cut short
                signal.signal(number, signal.SIG_DFL)


def leave(code: int) -> None:
    """End the process at once: what libraries would still do at its end may wait for what hangs."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    os._exit(code)


def _leave_anyway() -> None:
    time.sleep(GRACE)
    files.abandon()
    number = _received[0]
    with_cursor = SHOW_CURSOR if os.isatty(2) and os.environ.get("TERM") != "dumb" else b""
    try:
        os.write(2, with_cursor + said(number).encode() + b"\n")
    finally:
        os._exit(128 + number)


def keep_descriptors() -> None:
    """Take descriptors 0, 1 and 2 where they are closed: else a file would get one, and what is printed with it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, and so this one
