"""Names as other tools take them: patterns with captured numbers, in an order in which no one feeds the next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ckptmap.errors import ExportError
from ckptmap.exports.cases import Case, with_numbers
from ckptmap.rules.names import Index, NamePattern
from ckptmap.rules.plan import Equation, Piece, Plan

Names: TypeAlias = "tuple[Iterable[str], Iterable[str]]"
"""Old names and new ones."""

PLAIN = re.compile(r"[\w.:/-]+")
"""Names that a regular expression reads as they stand, but for dots."""


@dataclass(frozen=True)
class Renaming:
    """Names of one side that become names of the other.

    Attributes:
        line: The rule it comes from.
        left: The old name; its indices are captured as they stand.
        right: The new one.
        names: The names it is about, old and new.
    """

    line: int
    left: NamePattern
    right: NamePattern
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Refusal:
    """A rule that a target cannot say, and why."""

    line: int
    why: str


def refuse(target: str, refusals: Iterable[Refusal], instead: str) -> None:
    """Tell everything that a target cannot say.

    Raises:
        ExportError: There is something.
    """
    found = sorted({(r.line, r.why) for r in refusals})
    if found:
        lines = [f"{target} cannot say the rule in line {line}: {why}" for line, why in found]
        raise ExportError("\n".join([*lines, instead]), tuple(sorted({line for line, _ in found})))


def renamings(case: Case, captured: int) -> list[Renaming]:
    """A case that differs in names alone, as patterns with at most so many captured indices; others are written out."""
    assert case.pairs is not None
    made = []
    for left, right in case.pairs:
        plain = [v for v in reversed(list(case.loops)) if _is_plain(v, left) and _is_plain(v, right)]
        kept = set(plain[:captured])
        groups: dict[tuple[tuple[str, int], ...], list[tuple[str, str]]] = {}
        for binding in case.bindings():
            fixed = tuple((v, int(value)) for v, value in binding.items() if v not in kept)
            groups.setdefault(fixed, []).append((left.expand(binding), right.expand(binding)))
        for numbers, names in groups.items():
            told = dict(numbers)
            made.append(Renaming(case.line, with_numbers(left, told), with_numbers(right, told), tuple(names)))
    return made


def _is_plain(variable: str, pattern: NamePattern) -> bool:
    """Whether it stands there once, as it is."""
    places = [part for part in pattern.parts() if isinstance(part, Index) and part.variable == variable]
    return len(places) == 1 and (places[0].factor, places[0].shift) == (1, 0)


def unplain(case: Case) -> list[Refusal]:
    """Refuse names with characters that patterns would read as something else."""
    odd = [name for side in (0, 1) for name in case.names(side) if not PLAIN.fullmatch(name)]
    return [Refusal(case.line, f"{odd[0]!r} has characters that its patterns read otherwise.")] if odd else []


def beginnings(name: str) -> Iterator[str]:
    """Every name whose open pattern would match this one, itself the last."""
    yield from (name[: found.start()] for found in re.finditer(r"(?<=\w)(?=\W)|$", name) if found.start())


def in_order(entries: Sequence[Names], last: Sequence[Names] = ()) -> tuple[list[int], list[int]]:
    """An order in which no entry takes up what an earlier one made, there or back; and what has no place in one.

    Args:
        entries: Old and new names of what is applied one after another.
        last: The same of what is applied after all of them.

    Returns:
        Places of entries in order, and of those that cannot be in any.
    """
    exact: dict[str, set[int]] = {}
    longer: dict[str, set[int]] = {}
    for at, (old, _) in enumerate([*entries, *last]):
        for name in old:
            exact.setdefault(name, set()).add(at)
            for beginning in beginnings(name):
                longer.setdefault(beginning, set()).add(at)

    def takers(name: str) -> set[int]:
        """Entries whose patterns would match a name, or which its own pattern would match on the way back."""
        return set().union(*(exact.get(b, set()) for b in beginnings(name)), longer.get(name, set()))

    before = [set().union(*map(takers, new)) - {at} for at, (_, new) in enumerate(entries)]
    placed: list[int] = []
    waiting = list(range(len(entries)))
    while free := [at for at in waiting if before[at] <= set(placed)]:
        placed += free
        waiting = [at for at in waiting if at not in free]
    return placed, waiting


def homeless(plan: Plan) -> list[Refusal]:
    """Refuse what has no place on one side, or zeros in place of a tensor."""
    found = []
    for equation in plan.equations:
        for block in equation.blocks:
            for here, there, side in ((block.left, block.right, "left"), (block.right, block.left, "right")):
                if isinstance(here, Piece) and isinstance(there, str):
                    found.append(Refusal(equation.line, _without(here.name, there, equation, side)))
    return found


def _without(name: str, there: str, equation: Equation, side: str) -> str:
    what = "zeros" if there == "zeros" else "nothing (`_`)"
    alone = not equation.right if side == "left" else not equation.left
    if alone:
        advice = f"Put `maybe` before the rule and leave the tensor out: --exclude {name}."
        return f"{name} is {what} on the other side. {advice}"
    return f"a part of {name} is {what} on the other side, for which it has no word."


def twice(plan: Plan) -> list[Refusal]:
    """Refuse second names in the checkpoint, which no pattern takes up."""
    return [
        Refusal(_tie_line(plan, second), f"{second} is {first} a second time. Leave it out: --exclude {second}.")
        for second, first in plan.left_ties
    ]


def _tie_line(plan: Plan, second: str) -> int:
    assert plan.rules is not None
    for tie in plan.rules.ties:
        if tie.second.matcher().match(second) is not None:
            return tie.line
    return 0
