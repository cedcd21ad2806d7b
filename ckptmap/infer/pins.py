"""Rules that a person gave, as equations between the tensors at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from ckptmap.errors import PlanError
from ckptmap.infer.equations import Written, equation
from ckptmap.infer.findings import Block, Strided
from ckptmap.infer.words import KEY, QUERY, words

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes
    from ckptmap.rules.plan import Piece, Plan


def pinned_equations(plan: Plan, left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> list[Written]:
    """The equations of bound hints.

    Raises:
        PlanError: A hint writes zeros, or gives a block no home: it links nothing.
    """
    found = []
    for one in plan.equations:
        if one.rename:
            found.append(Written(one.left, one.right))
            continue
        blocks = []
        for block in one.blocks:
            if isinstance(block.left, str) or isinstance(block.right, str):
                raise PlanError(
                    (f"the hint for {one.right[0]} leaves a block without a counterpart; name both tensors",)
                )
            sides = [_strided(piece, block.shape) for piece in (block.left, block.right)]
            kept = [axis for axis, size in enumerate(block.shape) if size > 1]
            ends = [Strided(name, start, tuple(steps[axis] for axis in kept)) for name, start, steps in sides]
            blocks.append(Block(tuple(block.shape[axis] for axis in kept), *ends))
        shapes = {name: left[name] for name in one.left}, {name: right[name] for name in one.right}
        found.append(equation(blocks, *shapes))
    return found


def is_turned(pinned: Sequence[Written], shapes: Mapping[str, Sizes]) -> bool | None:
    """What hints say of square matrices: turned or not; None if they say nothing."""
    for one in pinned:
        shape = shapes[one.left[0]]
        if len(one.left) == len(one.right) == 1 and len(shape) == 2 and shape[0] == shape[1]:
            if not one.left_shapes:
                return False
            if one.left_shapes[0].split() == one.right_shapes[0].split()[::-1]:
                return True
    return None


def says_rows_stay(pinned: Sequence[Written]) -> bool:
    """Whether a hint copies a query's or key's matrix as it is: then both sides turn them alike."""
    return any(
        not one.left_shapes and {*words(one.left[0])} & (QUERY | KEY) and {*words(one.right[0])} & (QUERY | KEY)
        for one in pinned
    )


def _strided(piece: Piece, shape: Sizes) -> tuple[str, int, Sizes]:
    """Offset of a block in its contiguous tensor, and the step of each of its axes."""
    steps = [prod(piece.view[axis + 1 :]) for axis in range(len(piece.view))]
    sizes = list(piece.view)
    start = 0
    for axis, begin, length in piece.narrow:
        start += begin * steps[axis]
        sizes[axis] = length
    split: list[int] = []
    parts = list(piece.split)
    for size, step in zip(sizes, steps, strict=True):
        taken: list[int] = []
        while prod(taken) < size or (size == 1 and not taken and parts and parts[0] == 1):
            taken.append(parts.pop(0))
        split += [step * prod(taken[at + 1 :]) for at in range(len(taken))]
    split += [1] * len(parts)
    return piece.name, start, tuple(split[piece.order[axis]] for axis in range(len(shape)))
