"""What rules do not give: second names of one tensor, and tensors that stay open or have no counterpart."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from ckptmap.infer.findings import Open, Unmatched

if TYPE_CHECKING:
    from ckptmap.infer.findings import Elements
    from ckptmap.infer.operands import Operand


def without_ties(elements: Elements, sides: tuple[Operand, Operand]) -> Elements:
    """Elements by the first name of what has several; second names on the right have no elements of their own."""
    import numpy

    from ckptmap.infer.layouts import Numbering

    left, right = sides
    numbering = Numbering(left.shapes)
    found = {name: array.copy() for name, array in elements.items()}
    for second, first in left.ties.items():
        start, other = numbering.first[second], numbering.first[first]
        size = prod(left.shapes[second])
        for array in found.values():
            inside = (array >= start) & (array < start + size)
            array[inside] += other - start
    for second, first in right.ties.items():
        one, two = found[first], found[second]
        known = (one >= 0) & (two >= 0)
        if (one[known] != two[known]).any():
            # One tensor here would have to be two different ones there.
            found[first] = numpy.full_like(one, -1)
        else:
            found[first] = numpy.maximum(one, two)
        del found[second]
    return found


def is_said(first: str, side: str, whole: Elements, left: Operand) -> bool:
    """Whether rules speak of a tensor that has a second name."""
    from ckptmap.infer.layouts import Numbering

    if side == "right":
        return first in whole
    numbering = Numbering(left.shapes)
    wanted = numbering.names.index(first)
    return any((numbering.owners(array) == wanted).any() for array in whole.values())


def leftovers(
    sides: tuple[Operand, Operand],
    left_over: list[str],
    right_over: list[str],
    unsaid: Sequence[str],
    silent: frozenset[str] | None,
) -> tuple[tuple[Open, ...], tuple[Unmatched, ...], tuple[Unmatched, ...]]:
    """What to ask about the rest, and what has no counterpart whatever the answer."""
    left, right = sides
    sizes = {name: prod(left.shapes[name]) for name in left_over}
    opened: list[Open] = []
    right_only: list[Unmatched] = []
    asked: set[str] = set()
    for name in right_over:
        if name in unsaid:
            question = f"the elements of {name} stand in an order that one rule cannot say: write it by hand"
            opened.append(Open((), (name,), question))
            continue
        if right.is_buffer(name):
            right_only.append(Unmatched(name, "buffer"))
            continue
        here = prod(right.shapes[name])
        candidates = tuple(one for one in left_over if sizes[one] == here and not left.is_buffer(one))
        if not candidates:
            dead = "; it changes no output" if silent and name in silent else ""
            right_only.append(Unmatched(name, f"nothing of that size is left over on the left{dead}"))
            continue
        asked.update(candidates)
        why = "its name and shape do not tell"
        if silent is not None:
            why = "it changes no output, so running cannot tell" if name in silent else "running did not tell it apart"
        question = f"which is {name} ({why})? --pin '{candidates[0]} <-> {name}'"
        if len(candidates) > 1:
            question += f", or one of {', '.join(candidates[1:4])}" + (", …" if len(candidates) > 4 else "")
        opened.append(Open(candidates, (name,), question))
    left_only = tuple(
        Unmatched(name, "buffer" if left.is_buffer(name) else "nothing on the right takes it")
        for name in left_over
        if name not in asked
    )
    return tuple(opened), left_only, tuple(right_only)
