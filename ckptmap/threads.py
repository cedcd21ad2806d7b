"""Threads that nobody has to wait for: Ctrl-C ends them, or leaves them behind when they hang on a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Lock, Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 0.2
"""Seconds after which somebody who waits for threads looks for Ctrl-C."""
LEAVE = 0.5
"""Seconds that threads have to end after Ctrl-C. One that waits for a server may take minutes."""


def run_threads(worker: Callable[[], object], count: int, *, stop: Callable[[], object]) -> None:
    """Run a function in several threads until all of them have returned.

    Args:
        worker: What each of them runs; it raises nothing.
        count: How many.
        stop: Tells workers to return soon, when the caller is interrupted.
    """
    threads = [Thread(target=worker, daemon=True) for n in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(PATIENCE)
    except BaseException:  # Ctrl-C: nobody reads on behind the caller's back, but for those whom a server holds
        stop()
        end = time.monotonic() + LEAVE
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        raise


def mapped(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> list[Result]:
    """What a function makes of each item, in order, by several threads; of errors, the first item's is raised."""
    queue, lock, stopped = list(enumerate(items)), Lock(), list[bool]()
    queue.reverse()
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}

    def worker() -> None:
        while True:
            with lock:
                if stopped or errors or not queue:
                    return
                at, item = queue.pop()
            try:
                results[at] = work(item)
            except BaseException as error:
                errors[at] = error

    run_threads(worker, min(workers, len(queue)), stop=lambda: stopped.append(True))
    if errors:
        raise errors[min(errors)]
    return [results[at] for at in sorted(results)]
