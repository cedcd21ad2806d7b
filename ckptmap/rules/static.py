"""What a rule file alone can tell about its faults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ckptmap.rules.compiled import CompiledRule
from ckptmap.rules.names import STARS, Choice, Index, NamePattern
from ckptmap.rules.overlap import PatternTree, overlap
from ckptmap.rules.rules import SIDES, Fault, Provenance, Rule, Rules, Size, Statement, Term, Tie, Version
from ckptmap.rules.shapes import ELLIPSIS, Shape, Sum


def static_faults(rules: Rules) -> list[Fault]:
    """Everything that is wrong whatever the checkpoints are."""
    faults = [*_said_twice(rules), *_tie_faults(rules)]
    for rule in rules.rules:
        faults += _rule_faults(rule)
    # A rule at odds with itself has no names to compare.
    sound = [rule for rule in rules.rules if not any(_variable_faults(rule))]
    return [*faults, *_collisions(sound, rules.ties)]


def _said_twice(rules: Rules) -> Iterator[Fault]:
    first: dict[object, Statement] = {}
    for statement in rules.statements:
        key: object = None
        if isinstance(statement, Size):
            key, what = ("size", statement.axis), f"the size of {statement.axis}"
        elif isinstance(statement, Tie):
            key, what = (statement.side, str(statement.second)), f"a tie of {statement.second}"
        elif isinstance(statement, Provenance):
            key, what = statement.side, f"`{statement.side}:`"
        elif isinstance(statement, Version):
            key, what = "version", "the version"
        if key is None:
            continue
        before = first.setdefault(key, statement)
        if before is not statement:
            yield Fault(statement.line, statement.column, f"{what} stands in line {before.line} already. Delete one.")


def _tie_faults(rules: Rules) -> Iterator[Fault]:
    for tie in rules.ties:
        if tie.name.variables != tie.second.variables:
            yield Fault(
                tie.line,
                tie.column,
                f"{tie.name} and {tie.second} have different variables. Write the same on both sides of `=`.",
            )
        elif overlap(tie.name, tie.second):
            yield Fault(tie.line, tie.column, f"{tie.name} and {tie.second} can be one name. Delete the tie.")


def _rule_faults(rule: Rule) -> Iterator[Fault]:
    both = [term for side in (rule.left, rule.right) for term in side if isinstance(term, NamePattern)]
    if not both:
        yield Fault(rule.line, rule.column, "no tensor is named here. Delete the line.")
        return
    faults = [*_variable_faults(rule), *_count_faults(rule)]
    yield from faults
    if not faults:
        yield from _axis_faults(CompiledRule(rule))


def _at_term(rule: Rule, side: int, term: int, what: str) -> Fault:
    """A fault where the term stands, or where the rule does if that is not known."""
    columns = (rule.columns.left, rule.columns.right)[side]
    return Fault(rule.line, columns[term] if term < len(columns) else rule.column, what)


def _at_shape(rule: Rule, side: int, term: int, what: str) -> Fault:
    """A fault where the shape of the term stands; one shape may be that of all."""
    columns = (rule.columns.left_shapes, rule.columns.right_shapes)[side]
    term = 0 if len(columns) == 1 else term
    return Fault(rule.line, columns[term] if term < len(columns) else rule.column, what)


def _variable_faults(rule: Rule) -> Iterator[Fault]:
    sides = [
        [(at, term) for at, term in enumerate(side) if isinstance(term, NamePattern)]
        for side in (rule.left, rule.right)
    ]
    every = [(side, at, part) for side in (0, 1) for at, name in sides[side] for part in name.parts()]
    words: dict[str, tuple[str, ...]] = {}
    for side, at, part in every:
        if isinstance(part, Choice):
            first = words.setdefault(part.variable, part.words)
            if len(first) != len(part.words):
                what = (
                    f"{{{part.variable}}} is one of {len(first)} and one of {len(part.words)}. "
                    "Choices are paired by position: give both sides as many words."
                )
                yield _at_term(rule, side, at, what)
                return
    for side, at, part in every:
        if isinstance(part, Index) and part.variable in words:
            what = f"{part} counts, and {{{part.variable}}} is a choice of words. Rename one of them."
            yield _at_term(rule, side, at, what)
            return
    shapes = (rule.left_shapes, rule.right_shapes)
    found: list[set[str]] = [set().union(*(name.variables for _, name in side)) for side in sides]
    for side, names in enumerate(sides):
        for variable in sorted(found[side]):
            called = _called(variable)
            if sides[1 - side] and variable not in found[1 - side]:
                index = variable[0] != "*" and variable not in words
                if index and any(a.name == variable for shape in shapes[1 - side] or () for a in shape.axes()):
                    continue
                place = "Give it a place on the {0}, in the name" + (" or as an axis." if index else ".")
                what = f"{called} is on the {SIDES[side]} only. " + place.format(SIDES[1 - side])
                yield _at_term(rule, side, next(at for at, name in names if variable in name.variables), what)
            elif lacking := next(((at, name) for at, name in names if variable not in name.variables), None):
                what = f"{lacking[1]} has no {called}, so it is in many equations. Give all names the same variables."
                yield _at_term(rule, side, lacking[0], what)


def _called(variable: str) -> str:
    if variable == STARS:
        return "`**`"
    return f"`*` number {int(variable[1:]) + 1}" if variable[0] == "*" else f"{{{variable}}}"


def _count_faults(rule: Rule) -> Iterator[Fault]:
    if rule.left_shapes is None or rule.right_shapes is None:
        left, right = len(rule.left), len(rule.right)
        if left != right and ("_",) not in (rule.left, rule.right):
            what = f"{left} on the left and {right} on the right, without shapes. "
            yield Fault(rule.line, rule.column, what + "Write ` : ` and how their axes sit, or a rule for each.")
        return
    sides = ((rule.left, rule.left_shapes), (rule.right, rule.right_shapes))
    counts = []
    for side, (terms, shapes) in enumerate(sides):
        if len(shapes) not in (1, len(terms)):
            what = f"{len(terms)} on the {SIDES[side]} have {len(shapes)} shapes. Write one for each, or one for all."
            yield _at_shape(rule, side, 0, what)
            return
        whole = shapes * len(terms) if len(shapes) == 1 else shapes
        counts.append(sum(len(shape.blocks()) for shape in whole))
    for side, (_, shapes) in enumerate(sides):
        for at, shape in enumerate(shapes):
            if sum(isinstance(factor, Sum) for dim in shape.dims for factor in dim) > 1:
                what = "two sums in a shape. Split it into two rules, or give the axis one sum."
                yield _at_shape(rule, side, at, what)
                return
    if counts[0] != counts[1]:
        what = (
            f"the left side has {counts[0]} blocks and the right has {counts[1]}. "
            "The k-th block on the left is the k-th on the right: write a block, `0` or `_` for each."
        )
        yield _at_shape(rule, 0, 0, what)


def _axis_faults(rule: CompiledRule) -> Iterator[Fault]:
    indices = {v for terms in rule.sides for t in terms if isinstance(t, NamePattern) for v in t.indices}
    for side in (0, 1):
        for term, shape in enumerate(rule.shapes[side]):
            if what := _axis_fault(rule, side, term, shape, indices):
                yield _at_shape(rule.rule, side, term, what)
                return
    for name, index in rule.lacking:
        for side in (0, 1):
            if index.variable in rule.stacked[side]:
                what = f"{index} would be below 0 at the start of axis {index.variable}. Write {{{index.variable}}}."
                yield _at_term(rule.rule, side, rule.sides[side].index(name), what)
                return
    stands: list[list[_Stand]] = [[], []]
    for side in (0, 1):
        for part in rule.parts(side):
            shape, named = rule.shapes[side][part.term], rule.sides[side][part.term]
            axes = shape.blocks()[part.block]
            listed = [axis.name for axis in axes] + ([ELLIPSIS] if shape.rest else [])
            listed += rule.stack_of(side, part.term)
            repeated = {a.name for a in axes if a.repeated}
            stands[side].append(_Stand(part.term, str(shape), listed, repeated, isinstance(named, str)))
            if what := _misplaced(shape, part.block, set(rule.stacked[1 - side])):
                yield _at_shape(rule.rule, side, part.term, what)
                return
    for number, (left, right) in enumerate(zip(*stands, strict=True), start=1):
        if found := _pair_fault(number, left, right):
            yield _at_shape(rule.rule, found[0], (left, right)[found[0]].term, found[1])


def _axis_fault(rule: CompiledRule, side: int, term: int, shape: Shape, indices: set[str]) -> str | None:
    """An axis that bears the name of an index which is none here."""
    own = {axis.name for axis in shape.axes()}
    if clash := sorted(own & indices & set(rule.shared)):
        return f"axis {clash[0]} bears the name of the index {{{clash[0]}}} of both sides. Rename the axis."
    # `0` and `_` have no name that the index could stand in.
    if not isinstance(rule.sides[side][term], str) and (clash := sorted(own & set(rule.stacked[side]))):
        return f"{clash[0]} is an index and an axis on the {SIDES[side]}. Rename the axis."
    return None


def _misplaced(shape: Shape, block: int, stacked: set[str]) -> str | None:
    """A stacked index in a block of a sum must come first there, so that each tensor is one stretch of the sum."""
    total = shape.sum
    axes = [axis.name for axis in total.blocks[block]] if total else []
    late = [a for at, a in enumerate(axes) if a in stacked and any(before not in stacked for before in axes[:at])]
    return f"{late[0]} is stacked and not the first axis of its block in {total}. Write it first." if late else None


@dataclass(frozen=True, slots=True)
class _Stand:
    """A block as it stands on one side: its axes and stacked indices, and which of them are repeated."""

    term: int
    shape: str
    axes: list[str]
    repeated: set[str]
    bare: bool


def _pair_fault(number: int, left: _Stand, right: _Stand) -> tuple[int, str] | None:
    """What is wrong with a block, and the side that shows it."""
    for side, stand in enumerate((left, right)):
        if twice := next((axis for axis in stand.axes if stand.axes.count(axis) > 1), None):
            return side, f"axis {twice} stands twice in block {number}. Give the second a name of its own."
    if left.bare and right.bare:
        return 0, f"block {number} has no tensor on either side. Delete it."
    ours, theirs = set(left.axes), set(right.axes)
    spared = (left.repeated - theirs) | (right.repeated - ours)
    if both := (left.repeated & theirs) | (right.repeated & ours):
        axis = min(both)
        what = f"*{axis} is repeated, so it stands on one side only; the other has {axis} too. Delete one of them."
        return int(axis not in left.repeated), what
    if lost := sorted((ours ^ theirs) - spared):
        side = int(lost[0] not in ours)
        return side, (
            f"block {number} has {lost[0]} on the {SIDES[side]} only ({left.shape} <-> {right.shape}). "
            "Both sides of a block have the same axes: rename it, or add it on the other side."
        )
    return None


def _collisions(rules: Sequence[Rule], ties: Sequence[Tie]) -> Iterator[Fault]:
    """Two rules whose names can both be one tensor's; exact."""
    for at, side in enumerate(SIDES):
        tree: PatternTree[tuple[NamePattern, Rule | Tie]] = PatternTree()
        owners: list[Rule | Tie] = [*rules, *(tie for tie in ties if tie.side == side)]
        for statement in owners:
            terms: tuple[Term, ...]
            terms = (statement.second,) if isinstance(statement, Tie) else (statement.left, statement.right)[at]
            seen: set[NamePattern] = set()
            told: set[int] = set()
            for number, term in enumerate(terms):
                if not isinstance(term, NamePattern) or term in seen:
                    continue
                for other, owner in tree.near(term):
                    if id(owner) not in told and overlap(term, other):
                        told.add(id(owner))
                        where = "this line" if owner is statement else f"line {owner.line}"
                        what = (
                            f"{term} and {other} ({where}) can both be one {side} tensor. Every tensor belongs to one "
                            "rule: narrow one of them, or delete it."
                        )
                        if isinstance(statement, Rule):
                            yield _at_term(statement, at, number, what)
                        else:
                            yield Fault(statement.line, statement.column, what)
                seen.add(term)
                tree.add(term, (term, statement))
