"""Threads of our own, one a core: libraries' threads stand in each other's way, and in that of what else runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ckptmap.errors import UsageError
from ckptmap.threads import run_threads

if TYPE_CHECKING:
    from ckptmap.values.measure import Measure

Item = TypeVar("Item")
Progress: TypeAlias = Callable[[int, int], None]
"""Told of the bytes read and the bytes to read."""

WORKERS_VARIABLE, MOST_WORKERS = "CKPTMAP_WORKERS", 256
FETCHES = 16
"""Ranges of a repo that are under way at once."""
TOLD_EVERY = 0.05
"""Seconds between two reports of progress: a bar that is drawn for every block would hold up the readers."""


class StoppedError(Exception):
    """The work is over, as another worker failed or Ctrl-C was pressed."""


class Meter:
    """Counts what is read, and tells workers when to stop."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.stopping = Event()
        self._total = self._done = 0
        self._progress, self._next = progress, 0.0
        self._lock = Lock()

    def expect(self, nbytes: int) -> None:
        """So many more bytes are to be read."""
        self._total += nbytes

    def add(self, nbytes: int) -> None:
        """So many bytes are done.

        Raises:
            StoppedError: Nobody waits for more.
        """
        if self.stopping.is_set():
            raise StoppedError
        if self._progress is not None:
            with self._lock:
                self._done += nbytes
                if (now := time.monotonic()) >= self._next:
                    self._next = now + TOLD_EVERY
                    self._progress(min(self._done, self._total), self._total)


class Scratch:
    """Memory that one worker uses again and again."""

    def __init__(self) -> None:
        self._sides = [bytearray(), bytearray()]
        self.kept: dict[tuple[str, str], Measure] = {}

    def take(self, side: int, size: int) -> bytearray:
        """So many bytes for one of two sides; what was there before is overwritten."""
        if len(self._sides[side]) != size:
            self._sides[side] = bytearray(size)
        return self._sides[side]


def run_all(work: Callable[[Item, Scratch], object], items: Iterable[Item], meter: Meter, *, workers: int = 0) -> None:
    """Do work on every item by several threads; the first error stops all and is raised.

    Args:
        work: What to do with one item, and with memory of the worker's own.
        items: Taken one after another.
        meter: Where workers count what they read; it stops them.
        workers: How many; by default one for each core that this process may use.
    """
    queue, lock, errors = iter(items), Lock(), list[BaseException]()

    def worker() -> None:
        scratch = Scratch()
        try:
            for item in _taken(queue, lock):
                if meter.stopping.is_set():
                    return
                work(item, scratch)
        except StoppedError:
            pass
        except BaseException as error:
            errors.append(error)
            meter.stopping.set()

    run_threads(worker, workers or cores(), stop=meter.stopping.set)
    if errors:
        raise errors[0]


def cores() -> int:
    """Cores that this process may use, or as many as `CKPTMAP_WORKERS` asks for.

    Raises:
        UsageError: That is no whole number in range.
    """
    if asked := os.environ.get(WORKERS_VARIABLE):
        if not asked.isdecimal() or not 0 < int(asked) <= MOST_WORKERS:
            raise UsageError(f"{WORKERS_VARIABLE}={asked}: must be a whole number from 1 to {MOST_WORKERS}")
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_in_one_thread() -> Iterator[None]:
    """Keep torch, if it is here at all, from adding threads to ours."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _taken(queue: Iterator[Item], lock: Lock) -> Iterator[Item]:
    while True:
        with lock:
            try:
                item = next(queue)
            except StopIteration:
                return
        yield item
