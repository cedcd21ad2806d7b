"""What stands in order because its neighbours do: experts that no input reached, units that a run mixed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptmap.infer.folding import numbers_of, template_of

if TYPE_CHECKING:
    import numpy

    from ckptmap.infer.extend import Partial
    from ckptmap.infer.findings import Elements, Sizes

REACHED = "no input reached it; its numbered siblings stand in order"

LEAST = 2
"""So many siblings must be known to tell their order."""

MOSTLY = 0.1
"""At most this part of a matrix may stand out of order to be put in order."""

Members: TypeAlias = "dict[tuple[int, ...], tuple[str, numpy.ndarray]]"
"""Tensors of one template, or slices of stacks, by their numbers; the arrays are views that may be filled."""


def complete_siblings(found: Partial) -> None:
    """Fill wholly unknown members of a numbered family whose known members are an arithmetic progression.

    None of this can change an output of the run, so no run can prove it; the evidence says so.
    """
    for members in (*_tensors(found), *_slices(found)):
        known = {numbers: one for numbers, one in members.items() if (one[1] >= 0).all()}
        for numbers, (name, array) in members.items():
            if array.size and (array < 0).all():
                made = _continued(found, known, numbers, array.shape)
                if made is not None:
                    array[...] = made
                    found.taken[made.reshape(-1)] = True
                    found.evidence[name] = REACHED


def _tensors(found: Partial) -> Iterator[Members]:
    families: dict[tuple[str, Any], Members] = {}
    for name, array in found.elements.items():
        families.setdefault((template_of(name), array.shape), {})[numbers_of(name)] = (name, array)
    yield from (members for members in families.values() if len(members) > LEAST)


def _slices(found: Partial) -> Iterator[Members]:
    for name, array in found.elements.items():
        if array.ndim > 2 and len(array) > LEAST and (array < 0).any():
            yield {(number,): (name, part) for number, part in enumerate(array)}


def _continued(
    found: Partial, known: Members, numbers: tuple[int, ...], shape: tuple[int, ...]
) -> numpy.ndarray | None:
    """What stands there if it goes on as its siblings, along the one number in which they differ."""
    for at in range(len(numbers)):
        row = {
            other[at]: one[1].reshape(-1)
            for other, one in known.items()
            if other[:at] == numbers[:at] and other[at + 1 :] == numbers[at + 1 :]
        }
        if len(row) < LEAST:
            continue
        (first, start), (second, next_one), *_ = sorted(row.items())
        step, rest = divmod(int(next_one[0] - start[0]), second - first)
        if rest or step <= 0 or any((one != start + (n - first) * step).any() for n, one in row.items()):
            continue
        made = start + (numbers[at] - first) * step
        if made.min() < 0 or made.max() >= len(found.taken) or found.taken[made].any():
            continue
        owners = {found.owner(int(made.min())), found.owner(int(made.max()))}
        likes = {template_of(found.owner(int(start.min()))), template_of(found.owner(int(next_one.min())))}
        if len(owners) == 1 and {template_of(owner) for owner in owners} == likes:
            return made.reshape(shape)
    return None


def straightened(elements: Elements, left: Mapping[str, Sizes]) -> Elements:
    """Matrices of which all but a few elements stand in order, with these in order, too.

    Units of a hidden layer can change places without changing the function; where a run told some of them apart by
    their noise, the order in which they stand is as right. Only a proof tells whether it is.
    """
    import numpy

    from ckptmap.infer.layouts import Numbering

    numbering = Numbering(left)
    made = {name: array.copy() for name, array in elements.items()}
    for array in made.values():
        for part in array if array.ndim == 3 else (array,):
            straight = _straight(part) if part.ndim == 2 else None
            if straight is not None:
                owners = numbering.owners(numpy.array([straight.min(), straight.max()]))
                if owners[0] == owners[1] and straight.max() < numbering.total:
                    part[...] = straight
    return made


def _straight(array: numpy.ndarray) -> numpy.ndarray | None:
    """The regular matrix that this one nearly is; None if it is regular already or far from it."""
    import numpy

    known = array >= 0
    steps = []
    for axis in (0, 1):
        both = known.take(range(1, array.shape[axis]), axis) & known.take(range(array.shape[axis] - 1), axis)
        values, counts = numpy.unique(numpy.diff(array, axis=axis)[both], return_counts=True)
        if not len(values):
            return None
        steps.append(int(values[counts.argmax()]))
    rows, columns = (numpy.arange(size, dtype=numpy.int64) for size in array.shape)
    grid = (rows * steps[0])[:, None] + columns * steps[1]
    values, counts = numpy.unique((array - grid)[known], return_counts=True)
    straight = grid + int(values[counts.argmax()])
    wrong = float((straight != array).mean())
    return straight if 0 < wrong <= MOSTLY and straight.min() >= 0 else None
