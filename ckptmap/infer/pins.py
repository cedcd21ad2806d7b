"""Rules that a person gave, as equations between the tensors at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptmap.errors import PlanError
from ckptmap.infer.equations import Written, equation
from ckptmap.infer.findings import Block, Strided
from ckptmap.infer.words import KEY, QUERY, words
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import Rules

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes
    from ckptmap.rules.plan import Piece, Plan

PINNED = "told by a pin"


@dataclass(frozen=True)
class Hint:
    """A rule that a person gave, bound to the tensors at hand."""

    text: str
    plan: Plan
    equations: tuple[Written, ...]


def bound_hints(hints: Sequence[str], left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> list[Hint]:
    """Bind each hint by itself; saying one thing twice is fine.

    Args:
        hints: Rules in the notation of rule files; `size` lines hold for all of them.
        left: Shapes of the left tensors.
        right: Shapes of the right tensors.

    Raises:
        RuleError: A hint is no rule.
        PlanError: A hint fits no tensor, or two contradict each other.
    """
    sizes = [hint for hint in hints if not Rules.parse(f"{hint}\n", "hint").rules]
    found: list[Hint] = []
    said: dict[tuple[str, str], tuple[Written, str]] = {}
    for hint in hints:
        if hint in sizes:
            continue
        rules = Rules.parse("".join(f"{line}\n" for line in (*sizes, hint)), "hint")
        plan = bind(rules, left, right, partial=True)
        if not plan.equations:
            raise PlanError((f"no tensor of both sides fits the hint {hint!r}; see the names with `ckptmap inspect`",))
        one = Hint(hint, plan, tuple(_equations(plan, left, right)))
        for written in one.equations:
            for end in (*(("left", name) for name in written.left), *(("right", name) for name in written.right)):
                other, text = said.setdefault(end, (written, hint))
                if other != written:
                    raise PlanError((f"the hints {text!r} and {hint!r} contradict each other at {end[1]}; drop one",))
        found.append(one)
    return found


def _equations(plan: Plan, left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> Iterator[Written]:
    for one in plan.equations:
        if one.rename:
            yield Written(one.left, one.right)
            continue
        blocks = []
        for block in one.blocks:
            if "zeros" in (block.left, block.right):
                raise PlanError((f"the hint for {one.right[0]} has zeros; write `_` here, and `0` in the file",))
            if isinstance(block.left, str) or isinstance(block.right, str):
                continue  # what has no home is what is left of its tensor
            sides = [_strided(piece, block.shape) for piece in (block.left, block.right)]
            kept = [axis for axis, size in enumerate(block.shape) if size > 1]
            ends = [Strided(name, start, tuple(steps[axis] for axis in kept)) for name, start, steps in sides]
            blocks.append(Block(tuple(block.shape[axis] for axis in kept), *ends))
        shapes = {name: left[name] for name in one.left}, {name: right[name] for name in one.right}
        yield equation(blocks, *shapes)


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
