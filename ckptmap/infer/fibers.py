"""Rows, columns and whole tensors by their values: short fingerprints that find a run of elements wherever it lies.

A fingerprint is taken of a few elements of each run, and only proposes: bits are compared in `infer/value_proof.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

    from ckptmap.infer.findings import Sizes

SAMPLED = 64
"""So many elements of a fiber, evenly spread, go into its fingerprint."""

SHORTEST = 8
"""Shorter fibers are met by chance, unless they are the whole tensor."""

FEWEST = 3
"""A tensor of fewer elements tells nothing."""

MOST_FIBERS = 1 << 21
"""A tensor is not seen as more fibers than this: another view of it has fewer and longer ones."""

AT_ONCE = 1 << 22
"""Elements that are fingerprinted at once."""


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as fibers: runs of elements along some neighbouring axes, one for each place on the other axes.

    A matrix is seen as its rows, as its columns, and as one fiber that is all of it; a vector also as single elements,
    along no axis at all.

    Attributes:
        name: The tensor.
        shape: Its shape.
        start: The first axis that a fiber runs along.
        stop: Behind the last.
    """

    name: str
    shape: Sizes
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Elements of a fiber."""
        return prod(self.shape[self.start : self.stop])

    @property
    def count(self) -> int:
        """Number of fibers, which are counted row-major over the other axes."""
        return prod(self.shape[: self.start]) * prod(self.shape[self.stop :])

    @property
    def along(self) -> tuple[int, ...]:
        """The axes of a fiber that are longer than one."""
        return tuple(axis for axis in range(self.start, self.stop) if self.shape[axis] > 1)


def views(name: str, shape: Sizes) -> list[View]:
    """All ways to see a tensor as fibers, the longest first."""
    long = [axis for axis, size in enumerate(shape) if size > 1]
    found = [View(name, shape, long[a], long[b] + 1) for a in range(len(long)) for b in range(a, len(long))]
    if len(long) == 1 and prod(shape) >= SHORTEST:
        found.append(View(name, shape, long[0], long[0]))
    last = long[-1] + 1 if long else 0
    kept = [
        one
        for one in found
        if one.count == 1
        or one.start == one.stop
        or (one.length >= SHORTEST and (one.count <= MOST_FIBERS or one.stop == last))
    ]
    return sorted(kept, key=lambda one: -one.length)


def fingerprints(view: View, integers: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """A 64-bit number for each fiber, and which fibers are constant as far as they were looked at.

    Args:
        view: The tensor as fibers.
        integers: Its elements' bits.
    """
    import numpy

    before, after = prod(view.shape[: view.start]), prod(view.shape[view.stop :])
    table = integers.reshape(before, view.length, after)
    places = numpy.arange(min(view.length, SAMPLED)) * view.length // min(view.length, SAMPLED)
    weights = numpy.random.default_rng(len(places)).integers(1, 1 << 63, len(places), dtype=numpy.uint64)
    found: numpy.ndarray = numpy.empty((before, after), dtype=numpy.uint64)
    plain: numpy.ndarray = numpy.empty((before, after), dtype=bool)
    wide = max(1, min(after, AT_ONCE // len(places)))
    deep = max(1, AT_ONCE // len(places) // wide)
    for top in range(0, before, deep):
        for left in range(0, after, wide):
            part = table[top : top + deep, places, left : left + wide]
            here = slice(top, top + deep), slice(left, left + wide)
            plain[here] = (part == part[:, :1]).all(axis=1)
            found[here] = (part.astype(numpy.uint64) * (weights[:, None] | 1)).sum(axis=1, dtype=numpy.uint64)
    if view.length == 1:
        plain[:] = False
    return found.reshape(-1), plain.reshape(-1)


class Index:
    """Fibers of the left by length and fingerprint; each has a number among those of its length."""

    def __init__(self) -> None:
        self._added: dict[int, list[tuple[View, numpy.ndarray, numpy.ndarray]]] = {}
        self._sorted: dict[int, _Sorted] = {}

    def __contains__(self, length: int) -> bool:
        return length in self._added

    def add(self, view: View, prints: numpy.ndarray, plain: numpy.ndarray) -> None:
        """Put the fibers of a view in."""
        self._added.setdefault(view.length, []).append((view, prints, plain))

    def find(self, view: View, prints: numpy.ndarray, plain: numpy.ndarray) -> numpy.ndarray | None:
        """For each fiber the number of the one left fiber that is like it, -1 where none is; None if too few are.

        Where several are alike (rows of zeros), the one that continues its neighbours' order is taken.
        """
        import numpy

        known = self._table(view.length)
        low = numpy.searchsorted(known.ordered, prints, side="left")
        alike = numpy.searchsorted(known.ordered, prints, side="right") - low
        sure = (alike == 1) & ~plain
        if 2 * int(sure.sum()) < len(prints):
            return None
        found = numpy.where(sure, known.order[numpy.minimum(low, len(known.order) - 1)], -1)
        for holes, step in ((numpy.flatnonzero(~sure & (alike > 0)), 1), (numpy.flatnonzero(~sure)[::-1], -1)):
            for at in holes.tolist():
                guess = known.following(found, at, step)
                if found[at] < 0 and guess >= 0 and known.prints[guess] == prints[at]:
                    found[at] = guess
        return found

    def owners(self, length: int, numbers: numpy.ndarray) -> Iterator[tuple[View, numpy.ndarray, numpy.ndarray]]:
        """The left views that hold these fibers, each with the places of `numbers` that it gives and its own fibers."""
        import numpy

        known = self._table(length)
        which = numpy.where(numbers < 0, -1, numpy.searchsorted(known.starts, numbers, side="right") - 1)
        for number in numpy.unique(which[which >= 0]).tolist():
            places = numpy.flatnonzero(which == number)
            yield known.views[number], places, numbers[places] - known.starts[number]

    def _table(self, length: int) -> _Sorted:
        if length not in self._sorted:
            self._sorted[length] = _Sorted(self._added[length])
            self._added[length] = []
        return self._sorted[length]


class _Sorted:
    def __init__(self, added: list[tuple[View, numpy.ndarray, numpy.ndarray]]) -> None:
        import numpy

        self.views = [view for view, _, _ in added]
        self.prints: numpy.ndarray = numpy.concatenate([prints for _, prints, _ in added])
        ends = numpy.cumsum([0, *(view.count for view in self.views)])
        self.starts = ends[:-1]
        self.order = numpy.argsort(self.prints, kind="stable")
        self.ordered: numpy.ndarray = self.prints[self.order]

    def following(self, found: numpy.ndarray, at: int, step: int) -> int:
        """The fiber that stands where the two places before, or behind, lead to; -1 if they do not say."""
        one, two = at - step, at - 2 * step
        if not (0 <= one < len(found) and 0 <= two < len(found)) or found[one] < 0 or found[two] < 0:
            return -1
        guess = int(2 * found[one] - found[two])
        return guess if 0 <= guess < len(self.prints) else -1
