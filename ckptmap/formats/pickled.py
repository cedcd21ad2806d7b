"""The inert records that an unpickled file is made of, next to plain dicts, lists, tuples, texts and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the pickle names; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Made:
    """What calling `kind` would have made: what it was given is recorded, nothing is called."""

    kind: object
    args: object
    states: list[object] | None = None
    entries: dict[object, object] | None = None
    appended: list[object] | None = None


@dataclass(frozen=True, slots=True)
class LongString:
    """A string or bytes too long to keep; only the length is known."""

    length: int


@dataclass(frozen=True, eq=False, slots=True)
class OddKey:
    """A dict key that is not a string, an integer of 63 bits or None.

    Compared by identity: hashing a nest of tuples that repeat each other would take for ever.
    """

    key: object


@dataclass(frozen=True, eq=False, slots=True)
class Builder:
    """One of our own functions that stands for an allowed global."""

    build: Callable[[tuple[object, ...]], object]
    stands_for: Global


How = Literal["call", "new", "handed", "extension"]
"""A call; `cls.__new__` alone, which no function has; a function given to one that is known; an extension."""


class Foreign(NamedTuple):
    """A call of what is not known here, which a real unpickler would make."""

    how: How
    target: object
    args: object


SET = Global("builtins", "set")


def dict_key(key: object) -> object:
    """The key as a dict of ours holds it; anything but short and simple keys is wrapped."""
    if type(key) is str or key is None or (isinstance(key, int) and -(1 << 62) < key < 1 << 62):
        return key
    return OddKey(key)
