"""The one door to stdout and stderr: text is shown, and nothing in it is obeyed by the terminal that shows it.

A name, a comment, a file name or a server's answer may hold what moves a cursor, renames a window, hides or turns text.
`printable.py` makes it visible. Verbs print by `say`, `show` and `warn`; whatever is written past them, by argparse or
a library, goes through a `Door`.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO, cast

from ckptmap.printable import json_text, printable, printable_lines

_STYLES = re.compile(r"(\x1b\[[0-9;]*m|\x1b\[[0-9]*[A-DGK]|\x1b\[\?25[hl]|\r)")
"""What rich writes of its own: colours, and moves of the cursor within what it has drawn."""


def say(line: str = "") -> None:
    """Print one line on stdout."""
    print(printable(line), file=sys.stdout)


def show(text: str) -> None:
    """Print text of any number of lines on stdout, as it is but for what cannot be seen."""
    sys.stdout.write(printable_lines(text))


def show_json(fields: dict[str, Any]) -> None:
    """Print a JSON object on stdout."""
    text = json.dumps(fields, indent=2, ensure_ascii=not _takes_all(sys.stdout))
    show(json_text(text) + "\n")


def warn(line: str) -> None:
    """Print one line on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


class OutputError(Exception):
    """What is printed does not arrive: stdout is closed, its reader has gone, a disk is full.

    Args:
        reason: The system's words.
        reader_left: Whether a pipe's other end was closed, which is no fault of anybody's.
    """

    def __init__(self, reason: str, *, reader_left: bool = False) -> None:
        self.reader_left = reader_left
        super().__init__(reason)


class Door:
    """A stream through which text goes escaped.

    When stdout does not take it that is an `OutputError`. When stderr does not, there is nobody to be told, and the
    work goes on.

    Args:
        stream: Where to; None if the process was started without.
        is_answer: Whether it is stdout.
        escape: What to make of the text.
    """

    def __init__(
        self, stream: TextIO | None, *, is_answer: bool, escape: Callable[[str], str] = printable_lines
    ) -> None:
        self.stream = stream
        self._is_answer = is_answer
        self._escape = escape

    def write(self, text: str) -> int:
        """Write text; characters that the encoding lacks are escaped, too."""
        with self._trouble():
            if self.stream is None:
                raise OSError("it is closed")
            self.stream.write(self._escape(text))
        return len(text)

    def flush(self) -> None:
        """Let all that was written arrive."""
        with self._trouble():
            if self.stream is not None:
                self.stream.flush()

    def isatty(self) -> bool:
        """Whether somebody is looking."""
        return self.stream is not None and self.stream.isatty()

    @property
    def closed(self) -> bool:
        """Whether there is nothing to write to."""
        return self.stream is None or self.stream.closed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: somebody has closed the stream
            self._discard()
            if self._is_answer:
                reason = getattr(error, "strerror", None) or str(error)
                raise OutputError(reason, reader_left=isinstance(error, BrokenPipeError)) from None

    def _discard(self) -> None:
        """Send to nowhere what is still buffered: Python would try once more at its end, and complain."""
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, cast(TextIO, self.stream).fileno())
            os.close(nowhere)


@contextmanager
def doors() -> Iterator[None]:
    """Put a door before stdout and stderr, unless there is one."""
    before = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        if isinstance(stream, Door):
            continue
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal without ×
        setattr(sys, name, Door(stream, is_answer=name == "stdout"))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def styled(name: Literal["stdout", "stderr"]) -> TextIO:
    """The stream for rich, which lets colours and moves of the cursor through, and nothing else.

    The text that rich is given has been made printable, or colours in it would get through as well.
    """
    stream = getattr(sys, name)
    inner = stream.stream if isinstance(stream, Door) else stream
    return cast(TextIO, Door(inner, is_answer=name == "stdout", escape=_but_styles))


def _but_styles(text: str) -> str:
    parts = _STYLES.split(text)  # every other one is a style
    parts[::2] = map(printable_lines, parts[::2])
    return "".join(parts)


def _takes_all(stream: TextIO) -> bool:
    """Whether a stream's encoding has every character."""
    try:
        return codecs.lookup(stream.encoding or "utf-8").name.startswith("utf")
    except (LookupError, TypeError, AttributeError):
        return False
