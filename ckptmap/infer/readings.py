"""What a tensor of the right is made of, fiber by fiber, and the equations that say it.

An element map of whole tensors would be as large as they are; fibers stay whole, so smaller tensors that are laid out
alike have the same equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptmap.infer.compile import can_be_said, equations_of
from ckptmap.infer.fibers import View
from ckptmap.infer.findings import Open
from ckptmap.infer.shapes_related import Named, related, written
from ckptmap.infer.unstack import whole_name
from ckptmap.rules.rules import NOWHERE

if TYPE_CHECKING:
    import numpy

    from ckptmap.infer.equations import Written
    from ckptmap.infer.findings import Elements, Sizes

ROWS = "equal values, row by row"
WHOLE = "equal values"
FOLLOWS = "its weight has equal values, and so has it"

MOST_RESHAPED = 1 << 24
"""A tensor whose elements stand along other axes is described element by element up to this size."""

PRIMES = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79)
"""Lengths that stand for that of a fiber, none of them a size of anything else."""


@dataclass(frozen=True)
class Reading:
    """A right tensor as fibers of left tensors.

    Attributes:
        view: The right tensor as fibers.
        parts: Left views, each with the fibers of the right that it gives and its own fibers that stand there.
        evidence: What it rests on, where that is not its values alone.
    """

    view: View
    parts: tuple[tuple[View, numpy.ndarray, numpy.ndarray], ...]
    evidence: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether all of its fibers are the left's."""
        return sum(len(places) for _, places, _ in self.parts) == self.view.count

    @property
    def copied(self) -> str:
        """The left tensor that holds the same elements in the same order; empty if none does."""
        one = self.parts[0][0]
        return one.name if self.view.count == one.count == 1 else ""

    @property
    def tells_axes(self) -> bool:
        """Whether a bias may run along the fibers' numbers, and not along the fibers; either is the same in a copy."""
        if len(self.parts) == 1 and len(self.parts[0][1]) == self.parts[0][0].count:
            _, here, there = self.parts[0]
            if (here == there).all():
                return True
        return any(view.count != view.length for view in (self.view, *(view for view, _, _ in self.parts)))


def is_sayable(reading: Reading) -> bool:
    """Whether no fiber of the left stands twice, and what is whole is described in few words."""
    import numpy

    if any(len(numpy.unique(there)) < len(there) for _, _, there in reading.parts):
        return False
    if len({view.name for view, _, _ in reading.parts}) < len(reading.parts):
        return False
    if reading.view.length == 1 < len(reading.parts):
        return False  # single elements of several tensors are alike by chance
    ends = [reading.view, *(view for view, _, _ in reading.parts)]
    plain = all(len(view.along) < 2 for view in ends)
    if reading.copied:
        plain = related(ends[1].shape, ends[0].shape) in ("same", "units")
    return plain or prod(reading.view.shape) <= MOST_RESHAPED


def linked(readings: Mapping[str, Reading]) -> list[list[Reading]]:
    """Readings by the left tensors that they share."""
    group_of: dict[str, list[Reading]] = {}
    for one in readings.values():
        names = [view.name for view, _, _ in one.parts]
        together = [one]
        for group in {id(group_of[name]): group_of[name] for name in names if name in group_of}.values():
            together += group
        for reading in together:
            group_of.update(dict.fromkeys((view.name for view, _, _ in reading.parts), together))
    return list({id(group): group for group in group_of.values()}.values())


def equations(
    group: Sequence[Reading], left: Mapping[str, Sizes], right: Mapping[str, Sizes]
) -> tuple[list[Named], Open | None]:
    """The equations of tensors that hold each other's elements, and what to ask where there are none.

    Args:
        group: Readings that share left tensors.
        left: Shapes of the left tensors, in order.
        right: Shapes of the right tensors.
    """
    one = group[0]
    if len(group) == 1 and one.copied and related(left[one.copied], one.view.shape) in ("same", "units"):
        equation = written(one.copied, one.view.name, left[one.copied], one.view.shape, turned=False)
        return [Named(equation, one.evidence or WHOLE)], None
    ours = {view.name: view for reading in group for view, _, _ in reading.parts}
    names = tuple(name for name in left if name in ours), tuple(reading.view.name for reading in group)
    evidence = {reading.view.name: reading.evidence or ROWS for reading in group}
    said: list[Written] = []
    unsaid = names[1]
    if all(ours[view.name] == view for reading in group for view, _, _ in reading.parts):
        said, unsaid = equations_of(*_shrunk(group, ours, names[0]))
    shapes = {name: left[name] for name in names[0]}, {name: right[name] for name in names[1]}
    if not can_be_said(said, *shapes):  # slices in an order of their own
        said, unsaid = [], names[1]
    named = [Named(each, evidence[whole_name(ends(each, 1)[0])]) for each in said]
    if not unsaid:
        return named, None
    question = f"{unsaid[0]} holds values of {names[0][0]} in an order that one rule cannot say: write it by hand"
    return named, Open(names[0], tuple(unsaid), question)


def ends(one: Written, side: int) -> tuple[str, ...]:
    """The names of one side, but for blocks that have no home there."""
    return tuple(name for name in (one.right if side else one.left) if name != NOWHERE)


def _shrunk(
    group: Sequence[Reading], ours: Mapping[str, View], order: Sequence[str]
) -> tuple[Elements, dict[str, Sizes], dict[str, Sizes]]:
    """The element map of smaller tensors that are laid out alike: a fiber stays one, however long it is."""
    import numpy

    every = [*ours.values(), *(one.view for one in group)]
    length = every[0].length
    if length > 1 and all(len(view.along) == 1 for view in every):
        sizes = [size for view in every for size in (view.count, *view.shape)]
        length = next((prime for prime in PRIMES if all(size % prime for size in sizes)), length)
    left = {name: _shape(ours[name], length) for name in order}
    first: dict[str, int] = {}
    total = 0
    for name, shape in left.items():
        first[name] = total
        total += prod(shape)
    elements: Elements = {}
    for one in group:
        shape = _shape(one.view, length)
        flat: numpy.ndarray = numpy.full(prod(shape), -1, dtype=numpy.int64)
        places = _places(one.view, length)
        for view, here, there in one.parts:
            flat[places[here]] = first[view.name] + _places(view, length)[there]
        elements[one.view.name] = flat.reshape(shape)
    return elements, left, {one.view.name: _shape(one.view, length) for one in group}


def _shape(view: View, length: int) -> Sizes:
    if length == view.length:
        return view.shape
    (axis,) = view.along
    return (*view.shape[:axis], length, *view.shape[axis + 1 :])


def _places(view: View, length: int) -> numpy.ndarray:
    """Number of each element of a tensor whose fibers are that long, fiber by fiber."""
    import numpy

    before, after = prod(view.shape[: view.start]), prod(view.shape[view.stop :])
    table = numpy.arange(before * length * after).reshape(before, length, after)
    return table.transpose(0, 2, 1).reshape(view.count, length)
