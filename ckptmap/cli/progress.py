"""A sign of life on stderr once something has taken a second: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import os
import shutil
import sys
import time
from threading import Lock, Timer
from typing import Any

from ckptmap.printable import printable
from ckptmap.printing import Door, styled, warn
from ckptmap.report.document import bytes_text
from ckptmap.stages import listening

PATIENCE = 1.0
"""Seconds before a bar appears."""

ENOUGH = 0.01
"""Share that must be done before the rest is reckoned from it."""

LOG_EVERY = 15.0
"""Seconds between two lines where there is no terminal to draw on."""


class Progress:
    """Shows what is being done while the `with` block runs, and how far it is when somebody tells.

    Args:
        text: What is being done: `Reading org/name`.
        unit: What is counted: bytes, or nothing in particular.
    """

    def __init__(self, text: str, *, unit: str = "") -> None:
        self._text, self._unit = text, unit
        self._stage = ""
        self._done = self._total = 0
        self._start = self._told = time.monotonic()
        self._lock = Lock()
        self._bar: Any = None
        self._task: Any = None
        self._timer = Timer(PATIENCE, self._appear)
        self._timer.daemon = True
        self._drawn = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def __enter__(self) -> Progress:
        self._listening = listening(self._heard)
        self._listening.__enter__()
        if self._drawn:
            self._timer.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._listening.__exit__(*error)
        if self._drawn:
            self._timer.cancel()
            self._timer.join()
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So much is done of so much."""
        self._heard("", done, total)

    def _heard(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            if stage != self._stage:
                self._start = time.monotonic()
            self._stage, self._done, self._total = stage, done, total
            self._show()

    def _appear(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(10), TextColumn("{task.fields[far]}"))
        with self._lock:
            # With both told, rich does not read COLUMNS and LINES, which may hold anything.
            width, height = shutil.get_terminal_size()
            console = Console(file=styled("stderr"), width=width, height=height)
            self._bar = Bar(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=None, far="")
            self._show()
            self._bar.start()
            # rich has taken both streams, to draw its bar below what is printed, and gives them back when it stops.
            sys.stdout, sys.stderr = (
                Door(sys.stdout, is_answer=True),
                Door(sys.stderr, is_answer=False),
            )

    def _show(self) -> None:
        now = time.monotonic()
        what = printable(f"{self._text}: {self._stage}" if self._stage else self._text)
        far = far_text(self._done, self._total, now - self._start, "" if self._stage else self._unit)
        if self._bar is not None:
            self._bar.update(
                self._task, description=_escaped(what), total=self._total or None, completed=self._done, far=far
            )
        elif not self._drawn and now - self._told >= LOG_EVERY:
            self._told = now
            warn(f"ckptmap: {what}{far and f', {far}'}")


def far_text(done: int, total: int, seconds: float, unit: str = "") -> str:
    """How far something is: `1.2 GB of 4 GB, 210 MB/s, 13 s left`; empty where nobody knows.

    Bytes come at a steady rate, from which the rest follows; other things do not.
    """
    if not total:
        return ""
    if unit != "bytes":
        return f"{done:,} of {total:,}"
    text = f"{bytes_text(done)} of {bytes_text(total)}"
    if done < ENOUGH * total or seconds <= 0:
        return text
    rate = done / seconds
    return f"{text}, {bytes_text(int(rate))}/s, {_duration((total - done) / rate)} left"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
