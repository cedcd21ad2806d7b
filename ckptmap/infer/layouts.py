"""From single elements to boxes: few strided blocks that say where every element of a tensor comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from ckptmap.infer.findings import Block, Strided

if TYPE_CHECKING:
    import numpy

    from ckptmap.infer.findings import Elements, Sizes

MOST_BLOCKS = 300
"""A tensor that takes more blocks than this holds a shuffle, not a layout."""


class ShuffledError(ValueError):
    """Elements stand in an order that has no short description."""


class Numbering:
    """The elements of one side, counted through its tensors in order."""

    def __init__(self, shapes: Mapping[str, Sizes]) -> None:
        import numpy

        self.shapes = shapes
        self.names = tuple(shapes)
        ends = numpy.cumsum([0, *(prod(shape) for shape in shapes.values())])
        self.starts = ends[:-1]
        self.total = int(ends[-1])
        self.first: dict[str, int] = dict(zip(self.names, ends[:-1].tolist(), strict=True))

    def owners(self, elements: numpy.ndarray) -> numpy.ndarray:
        """Number of the tensor that each element belongs to; -1 for -1."""
        import numpy

        return numpy.where(elements < 0, -1, numpy.searchsorted(self.starts, elements, side="right") - 1)


def linked_blocks(elements: Elements, left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> list[list[Block]]:
    """Blocks of tensors that hold elements of each other, those that one equation has to state together in one list.

    Args:
        elements: For right tensors, the left elements that stand there.
        left: Shapes of the left tensors, in the order in which elements are numbered.
        right: Shapes of the right tensors.

    Raises:
        ShuffledError: A tensor has no short description.
    """
    import numpy

    ours = Numbering(left)
    groups = linked_names(elements, ours)
    found: list[list[Block]] = []
    for lefts, rights in groups:
        forward: list[Block] | None = None
        problem: ShuffledError | None = None
        try:
            forward = [block for name in rights for block in _blocks(name, elements[name], right[name], ours)]
        except ShuffledError as error:
            problem = error
        if forward is not None and len(forward) <= 1:
            found.append(forward)
            continue
        # What is in pieces from one side may be whole from the other.
        theirs = Numbering({name: right[name] for name in rights})
        backward: list[Block] | None = None
        try:
            inverse = {name: numpy.full(prod(left[name]), -1, dtype=numpy.int64) for name in lefts}
            for name in rights:
                _invert(name, elements[name], ours, theirs, inverse)
            backward = [
                Block(block.sizes, block.right, block.left)
                for name in lefts
                for block in _blocks(name, inverse[name].reshape(left[name]), left[name], theirs)
            ]
        except ShuffledError as error:
            problem = problem or error
        if forward is None and backward is None:
            raise problem or ShuffledError(rights[0])
        found.append(min((one for one in (backward, forward) if one is not None), key=len))
    return found


def linked_names(elements: Elements, ours: Numbering) -> list[tuple[list[str], list[str]]]:
    """Tensors of both sides that hold each other's elements, as connected groups in the order of the right."""
    import numpy

    group_of: dict[int, int] = {}
    groups: dict[int, tuple[set[int], list[str]]] = {}
    for number, (name, array) in enumerate(elements.items()):
        owners = set(numpy.unique(ours.owners(array.reshape(-1))).tolist()) - {-1}
        if not owners:
            continue
        lefts, rights = set(owners), [name]
        for old in sorted({group_of[owner] for owner in owners if owner in group_of}):
            more = groups.pop(old)
            lefts |= more[0]
            rights = [*more[1], *rights]
        groups[number] = (lefts, rights)
        group_of.update(dict.fromkeys(lefts, number))
    return [([ours.names[at] for at in sorted(lefts)], rights) for lefts, rights in groups.values()]


def _invert(
    name: str, array: numpy.ndarray, ours: Numbering, theirs: Numbering, inverse: dict[str, numpy.ndarray]
) -> None:
    import numpy

    flat = array.reshape(-1)
    places = numpy.flatnonzero(flat >= 0)
    owners = ours.owners(flat[places])
    for owner in numpy.unique(owners):
        left = ours.names[int(owner)]
        mine = places[owners == owner]
        at = flat[mine] - ours.first[left]
        if (inverse[left][at] >= 0).any():
            raise ShuffledError(name)
        inverse[left][at] = mine + theirs.first[name]


def _blocks(name: str, array: numpy.ndarray, shape: Sizes, numbering: Numbering) -> Iterator[Block]:
    """Boxes of one tensor, each from one tensor of the other side."""
    strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    boxes = list(_boxes(array, (0,) * len(shape), numbering))
    if len(boxes) > MOST_BLOCKS:
        raise ShuffledError(name)
    for corner, box in boxes:
        sizes, steps = _affine(box)
        start = sum(c * s for c, s in zip(corner, strides, strict=True))
        # The box itself lies in the tensor with the tensor's own strides.
        parts = list(_parted(box.shape, strides, sizes, steps))
        owner = numbering.names[int(numbering.owners(box.reshape(-1)[:1])[0])]
        offset = int(box.reshape(-1)[0]) - numbering.first[owner]
        yield Block(
            tuple(size for size, _, _ in parts),
            Strided(owner, offset, tuple(there for _, _, there in parts)),
            Strided(name, start, tuple(here for _, here, _ in parts)),
        )


def _boxes(array: numpy.ndarray, corner: Sizes, numbering: Numbering) -> Iterator[tuple[Sizes, numpy.ndarray]]:
    """Cut an array along its axes until each box is regular and of one tensor; what is -1 is left out."""
    import numpy

    if not array.size or array.max() < 0:
        return
    if array.min() >= 0 and _is_regular(array, numbering):
        yield corner, array
        return
    best: tuple[int, list[int]] | None = None
    for axis, size in enumerate(array.shape):
        if size < 2:
            continue
        cuts = _cuts(numpy.moveaxis(array, axis, 0), numbering)
        if cuts and (best is None or len(cuts) < len(best[1])):
            best = axis, cuts
    if best is None or len(best[1]) > MOST_BLOCKS:
        raise ShuffledError
    axis, cuts = best
    edges = [0, *cuts, array.shape[axis]]
    for low, high in pairwise(edges):
        part = numpy.moveaxis(numpy.moveaxis(array, axis, 0)[low:high], 0, axis)
        moved = (*corner[:axis], corner[axis] + low, *corner[axis + 1 :])
        yield from _boxes(part, moved, numbering)


def _is_regular(array: numpy.ndarray, numbering: Numbering) -> bool:
    import numpy

    edges = array.reshape(-1)
    extremes: list[int] = numbering.owners(numpy.array([edges.min(), edges.max()])).tolist()
    low, high = extremes
    return low == high and _affine(array) != ((), None)


def _affine(array: numpy.ndarray) -> tuple[Sizes, Sizes | None]:
    """Lengths and steps of nested loops, outermost first, that run through the array's values; None if none do."""
    import numpy

    rest = array.reshape(-1)
    sizes: list[int] = []
    steps: list[int] = []
    while rest.size > 1:
        step = int(rest[1] - rest[0])
        differs = numpy.flatnonzero(numpy.diff(rest) != step)
        length = int(differs[0]) + 1 if len(differs) else rest.size
        if step < 1 or rest.size % length:
            return (), None
        table = rest.reshape(-1, length)
        if (table != table[:, :1] + step * numpy.arange(length)).any():
            return (), None
        sizes.insert(0, length)
        steps.insert(0, step)
        rest = table[:, 0]
    return tuple(sizes), tuple(steps)


def _cuts(rows: numpy.ndarray, numbering: Numbering) -> list[int]:
    """Where along the first axis one regular run of slices ends and another begins."""
    import numpy

    flat = rows.reshape(len(rows), -1)
    known = flat.min(axis=1) >= 0
    owners = numbering.owners(flat[:, 0])
    last = numbering.owners(flat[:, -1])
    between: numpy.ndarray = (known[1:] != known[:-1]) | (owners[1:] != owners[:-1]) | (last[1:] != last[:-1])
    if between.any():
        return [int(at) + 1 for at in numpy.flatnonzero(between)]
    inner = flat - flat[:, :1]
    changed = (inner[1:] != inner[:-1]).any(axis=1)
    if changed.any():
        return [int(at) + 1 for at in numpy.flatnonzero(changed)]
    steps = numpy.diff(flat[:, 0])
    jumps = numpy.flatnonzero(numpy.diff(steps) != 0) + 1
    # A jump stands between two regular runs; the slice behind it begins the next.
    return [int(at) + 1 for number, at in enumerate(jumps) if number % 2 == 0]


def _parted(shape: Sizes, strides: Sizes, sizes: Sizes, steps: Sizes | None) -> Iterator[tuple[int, int, int]]:
    """Common axes of a box and of the loops through it: length, stride here, stride there, outermost first."""
    here = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
    there = [(size, step) for size, step in zip(sizes, steps or (), strict=True) if size > 1]
    parts: list[tuple[int, int, int]] = []
    while here and there:
        (a, stride), (b, step) = here.pop(), there.pop()
        common = min(a, b)
        if max(a, b) % common:
            raise ShuffledError
        parts.append((common, stride, step))
        if a > common:
            here.append((a // common, stride * common))
        if b > common:
            there.append((b // common, step * common))
    yield from reversed(parts)
