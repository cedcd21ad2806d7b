"""Lines for tensors that have no counterpart, so that a conversion knows they were not forgotten.

Only where both models were run: names and shapes that find no counterpart do not show that there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ckptmap.errors import CkptmapError
from ckptmap.patterns import group
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import Rules
from ckptmap.rules.uncovered import left_out

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes, Unmatched


def with_homeless(
    rules: Rules,
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    left_only: Sequence[Unmatched],
    right_only: Sequence[Unmatched],
) -> Rules:
    """The file with a line for each kind of tensor that has no counterpart: `pooler.dense.{weight,bias} <-> _`.

    Args:
        rules: What was decided; an empty file stays empty.
        left: Shapes of the left tensors.
        right: Shapes of the right tensors.
        left_only: Left tensors without a counterpart.
        right_only: Right tensors without one.
    """
    if not rules.rules or not (left_only or right_only):
        return rules
    before = _uncovered(rules, left, right)
    alone = [[one for one in side if one.name in before] for side in (left_only, right_only)]
    names = {one.name for side in alone for one in side}
    for grouped in (True, False):
        lines = [*_lines(0, left, alone[0], grouped), *_lines(1, right, alone[1], grouped)]
        try:
            made = Rules.parse(str(Rules.parse("\n".join([str(rules).rstrip("\n"), "[]", *lines, ""]))))
            if _uncovered(made, left, right) == before - names:
                return made
        except CkptmapError:
            continue  # a pattern meets another rule, or a name is none that rules can write
    return rules


def _lines(side: int, shapes: Mapping[str, Sizes], alone: Iterable[Unmatched], grouped: bool) -> Iterator[str]:
    reasons = {one.name: one.reason for one in alone}
    if not grouped:
        yield from (f"{left_out(side, name)}  # {reason}" for name, reason in reasons.items())
        return
    for pattern in group(reasons, {name: (shapes[name], reason) for name, reason in reasons.items()}):
        yield f"{left_out(side, pattern)}  # {reasons[pattern.first]}"


def _uncovered(rules: Rules, left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> set[str]:
    plan = bind(rules, left, right, partial=True)
    return {*plan.uncovered_left, *plan.uncovered_right}
