"""What long work tells of how far it is: `tell("reading shards", 3, 100)` reaches whoever listens, and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is to do (0: nobody knows)."""

_listeners: list[Listener] = []


def tell(what: str, done: int = 0, total: int = 0) -> None:
    """Say what is being done, from any thread."""
    for listener in tuple(_listeners):
        listener(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener with all that is told meanwhile."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
