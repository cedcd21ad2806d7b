"""Rules and plans in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from ckptmap.report.document import count_text
from ckptmap.rules.plan import Plan
from ckptmap.rules.rules import Rules


def rules_line(rules: Rules) -> str:
    """How many rules there are, and that they hold by themselves."""
    return f"{count_text(len(rules.rules), 'rule')}; no two can meet in one tensor"


def guess_lines(rules: Rules) -> Iterator[str]:
    """A problem for each rule that no person has confirmed."""
    for rule in rules.rules:
        if rule.mark == "guess":
            names = ", ".join(map(str, rule.left)) + " <-> " + ", ".join(map(str, rule.right))
            yield (
                f"{rules.path or 'rules'}:{rule.line}:{rule.column}: {names} is a guess. "
                "Delete the word `guess` once you have confirmed it."
            )


def coverage_lines(plan: Plan, *, computed: bool) -> Iterator[str]:
    """What a plan covers, side by side.

    Args:
        plan: The plan.
        computed: Whether the right side was computed from the left.
    """
    sides = count_text(len(plan.left), "left tensor"), count_text(len(plan.right), "right tensor")
    renames = sum(equation.rename for equation in plan.equations)
    yield (
        f"{sides[0]} <-> {sides[1]}{' (computed)' if computed else ''}: {count_text(renames, 'plain rename')}, "
        f"{count_text(len(plan.equations) - renames, 'equation')} of another form"
    )
    for side, pairs in (("left", plan.left_ties), ("right", plan.right_ties)):
        for second, first in pairs:
            yield f"{side}: {second} is a second name of {first}"
    for side, other in (("left", "right"), ("right", "left")):
        homeless = [name for e in plan.equations if not getattr(e, other) for name in getattr(e, side)]
        if homeless:
            yield f"{side}: {count_text(len(homeless), 'tensor')} without a home on the {other}: {_some(homeless)}"
    parts = [e for e in plan.equations if e.left and e.right and any("none" in (b.left, b.right) for b in e.blocks)]
    if parts:
        yield f"{count_text(len(parts), 'equation')} with blocks that have no home on one side: the way back needs them"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names) - 5} more)" if len(names) > 5 else "")
