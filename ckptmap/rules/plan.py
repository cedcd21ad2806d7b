"""Rules bound to the names and shapes of real checkpoints: what a conversion does, tensor by tensor, either way."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from ckptmap.rules.rules import Rules

Sizes: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True, slots=True)
class Piece:
    """One block of one tensor, and how it is reached: five steps that any tensor library has, or their reverse.

    `tensor.reshape(view)`, then `narrow(*step)` for each step, then `reshape(split)`, then `permute(order)` gives the
    block in the axis order that both sides share.

    Args:
        name: The tensor.
        view: The tensor's shape with every dim parted into its factors.
        narrow: Axis, start and length, for each axis of the view of which only a part belongs to the block.
        split: The narrowed view with the block's own axes parted.
        order: Where each shared axis stands in `split`.
        repeated: Shared axes along which this side holds the same values at every position; the other side has size 1.
    """

    name: str
    view: Sizes
    narrow: tuple[tuple[int, int, int], ...]
    split: Sizes
    order: Sizes
    repeated: Sizes = ()


End: TypeAlias = "Piece | Literal['zeros', 'none']"
"""A block's place on one side; `zeros` is written and checked, `none` has no home there."""


@dataclass(frozen=True, slots=True)
class BoundBlock:
    """A block of elements and where it lies on both sides; `shape` is in the shared axis order."""

    shape: Sizes
    left: End
    right: End


@dataclass(frozen=True, slots=True)
class Equation:
    """One rule for one choice of its variables: these tensors of both sides hold the same blocks.

    Args:
        line: Where the rule stands in its file, from 1.
        left: Names of the left side.
        right: Names of the right side.
        blocks: The blocks they share.
        rename: Whether it is one tensor on each side, of equal shape, with elements in the same order.
    """

    line: int
    left: tuple[str, ...]
    right: tuple[str, ...]
    blocks: tuple[BoundBlock, ...]
    rename: bool


@dataclass(frozen=True)
class Plan:
    """All equations of a rule file for two inventories; exchanging the sides gives the way back.

    Attributes:
        equations: In the order of the left inventory.
        left: Shape of every left tensor that a rule covers, ties included.
        right: Shape of every right tensor.
        left_ties: Name and the name it is a second name for, on the left.
        right_ties: The same on the right.
        uncovered_left: Left names without a rule; empty unless binding was partial.
        uncovered_right: Right names without a rule; empty unless binding was partial.
        rules: What was bound; None for a plan made by hand.
        sizes: Lengths of axes that were told: by the file, the config or the caller.
    """

    equations: tuple[Equation, ...]
    left: Mapping[str, Sizes]
    right: Mapping[str, Sizes]
    left_ties: tuple[tuple[str, str], ...] = ()
    right_ties: tuple[tuple[str, str], ...] = ()
    uncovered_left: tuple[str, ...] = ()
    uncovered_right: tuple[str, ...] = ()
    rules: Rules | None = field(default=None, compare=False, repr=False)
    sizes: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def inverse(self) -> Plan:
        """The same plan with its sides exchanged."""
        return Plan(
            tuple(
                Equation(
                    equation.line,
                    equation.right,
                    equation.left,
                    tuple(BoundBlock(block.shape, block.right, block.left) for block in equation.blocks),
                    equation.rename,
                )
                for equation in self.equations
            ),
            self.right,
            self.left,
            self.right_ties,
            self.left_ties,
            self.uncovered_right,
            self.uncovered_left,
            None if self.rules is None else self.rules.inverse(),
            self.sizes,
        )


def bind(
    rules: Rules,
    left: Mapping[str, Sizes] | None,
    right: Mapping[str, Sizes] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    partial: bool = False,
    hints: Mapping[str, Sizes] | None = None,
) -> Plan:
    """Find for every tensor its rule, its size and its place; one side may be unknown and is then computed.

    Args:
        rules: The rule file.
        left: Shapes of the left side's tensors, or None.
        right: Shapes of the right side's tensors, or None.
        config: The config that `config.KEY` is looked up in.
        sizes: Lengths of axes that neither shapes nor the file tell; they come before the file's.
        partial: Leave out what no rule covers or what is not complete, and list it.
        hints: Shapes of some tensors of a side that is unknown. They tell sizes that nothing else does, and which
            tensors there are that have no counterpart; they are no more than that, so other tensors may be missing.

    Raises:
        RuleError: The file itself is wrong.
        PlanError: The rules do not fit; with all problems.
    """
    from ckptmap.rules.bind import Binder, known_sizes

    if left is None:
        if right is None:
            raise ValueError("bind needs the names and shapes of one side at least")
        inverse = rules.inverse()
        return bind(inverse, right, None, config=config, sizes=sizes, partial=partial, hints=hints).inverse()
    rules.check()
    binder = Binder(rules, (left, right), known_sizes(rules, config, sizes), partial, hints or {})
    with collector_paused():
        return binder.plan()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hundreds of thousands of small values, none in a cycle: the collector would walk them all again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
