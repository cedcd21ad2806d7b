"""What a rule file alone can tell about its faults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from ckptmap.rules.compiled import CompiledRule
from ckptmap.rules.names import STARS, Choice, Index, NamePattern
from ckptmap.rules.overlap import PatternTree, overlap
from ckptmap.rules.rules import Fault, Provenance, Rule, Rules, Size, Statement, Term, Tie, Version
from ckptmap.rules.shapes import ELLIPSIS, Shape, Sum

SIDES = ("left", "right")


def static_faults(rules: Rules) -> list[Fault]:
    """Everything that is wrong whatever the checkpoints are."""
    faults = [*_said_twice(rules), *_tie_faults(rules)]
    for rule in rules.rules:
        faults += [Fault(rule.line, rule.column, what) for what in _rule_faults(rule)]
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


def _rule_faults(rule: Rule) -> Iterator[str]:
    both = [term for side in (rule.left, rule.right) for term in side if isinstance(term, NamePattern)]
    if not both:
        yield "no tensor is named here. Delete the line."
        return
    faults = [*_variable_faults(rule), *_count_faults(rule)]
    yield from faults
    if not faults:
        yield from _axis_faults(CompiledRule(rule))


def _variable_faults(rule: Rule) -> Iterator[str]:
    sides = [[term for term in side if isinstance(term, NamePattern)] for side in (rule.left, rule.right)]
    words: dict[str, tuple[str, ...]] = {}
    for name in (name for side in sides for name in side):
        for part in name.parts():
            if isinstance(part, Choice):
                first = words.setdefault(part.variable, part.words)
                if len(first) != len(part.words):
                    yield (
                        f"{{{part.variable}}} is one of {len(first)} and one of {len(part.words)}. "
                        "Choices are paired by position: give both sides as many words."
                    )
                    return
    for name in (name for side in sides for name in side):
        for part in name.parts():
            if isinstance(part, Index) and part.variable in words:
                yield f"{part} counts, and {{{part.variable}}} is a choice of words. Rename one of them."
                return
    shapes = (rule.left_shapes, rule.right_shapes)
    found: list[set[str]] = [set().union(*(name.variables for name in side)) for side in sides]
    for at, side in enumerate(sides):
        other = sides[1 - at]
        for variable in sorted(found[at]):
            called = _called(variable)
            if other and variable not in found[1 - at]:
                index = variable[0] != "*" and variable not in words
                if index and any(a.name == variable for shape in shapes[1 - at] or () for a in shape.axes()):
                    continue
                place = "Give it a place on the {0}, in the name" + (" or as an axis." if index else ".")
                yield f"{called} is on the {SIDES[at]} only. " + place.format(SIDES[1 - at])
            elif any(variable not in name.variables for name in side):
                lacking = next(name for name in side if variable not in name.variables)
                yield f"{lacking} has no {called}, so it is in many equations. Give all names the same variables."


def _called(variable: str) -> str:
    if variable == STARS:
        return "`**`"
    return f"`*` number {int(variable[1:]) + 1}" if variable[0] == "*" else f"{{{variable}}}"


def _count_faults(rule: Rule) -> Iterator[str]:
    if rule.left_shapes is None or rule.right_shapes is None:
        left, right = len(rule.left), len(rule.right)
        if left != right and ("_",) not in (rule.left, rule.right):
            yield (
                f"{left} on the left and {right} on the right, without shapes. "
                "Write ` : ` and how their axes sit, or a rule for each."
            )
        return
    counts = []
    for side, terms, shapes in zip(SIDES, (rule.left, rule.right), (rule.left_shapes, rule.right_shapes), strict=True):
        if len(shapes) not in (1, len(terms)):
            yield f"{len(terms)} on the {side} have {len(shapes)} shapes. Write one for each, or one for all."
            return
        whole = shapes * len(terms) if len(shapes) == 1 else shapes
        counts.append(sum(len(shape.blocks()) for shape in whole))
    if any(sum(isinstance(f, Sum) for dim in s.dims for f in dim) > 1 for s in rule.left_shapes + rule.right_shapes):
        yield "two sums in a shape. Split it into two rules, or give the axis one sum."
    elif counts[0] != counts[1]:
        yield (
            f"the left side has {counts[0]} blocks and the right has {counts[1]}. "
            "The k-th block on the left is the k-th on the right: write a block, `0` or `_` for each."
        )


def _axis_faults(rule: CompiledRule) -> Iterator[str]:
    names = [{v for t in side if isinstance(t, NamePattern) for v in t.indices} for side in rule.sides]
    own = [{a.name for shape in shapes for a in shape.axes()} for shapes in rule.shapes]
    for variable in sorted((names[0] | names[1]) & (own[0] | own[1])):
        if variable in rule.shared:
            yield f"axis {variable} bears the name of the index {{{variable}}} of both sides. Rename the axis."
            return
    for at in (0, 1):
        terms = zip(rule.sides[at], rule.shapes[at], strict=True)
        beside = {a.name for term, shape in terms if not isinstance(term, str) for a in shape.axes()}
        if clash := sorted(set(rule.stacked[at]) & beside):
            yield f"{clash[0]} is an index and an axis on the {SIDES[at]}. Rename the axis."
            return
    if late := next((i for _, i in rule.lacking if i.variable in (*rule.stacked[0], *rule.stacked[1])), None):
        yield f"{late} would be below 0 at the start of axis {late.variable}. Write {{{late.variable}}}."
        return
    stands: list[list[tuple[str, list[str], set[str], bool]]] = [[], []]
    for at in (0, 1):
        for part in rule.parts(at):
            shape = rule.shapes[at][part.term]
            axes = shape.blocks()[part.block]
            listed = [axis.name for axis in axes] + ([ELLIPSIS] if shape.rest else [])
            listed += rule.stack_of(at, part.term)
            term = rule.sides[at][part.term]
            stands[at].append((str(shape), listed, {a.name for a in axes if a.repeated}, isinstance(term, str)))
            if fault := _misplaced(shape, part.block, set(rule.stacked[1 - at])):
                yield fault
                return
    for number, (left, right) in enumerate(zip_longest(*stands), start=1):
        yield from _pair_faults(number, left, right)


def _misplaced(shape: Shape, block: int, stacked: set[str]) -> str | None:
    """A stacked index in a block of a sum must come first there, so that each tensor is one stretch of the sum."""
    total = shape.sum
    axes = [axis.name for axis in total.blocks[block]] if total else []
    late = [a for at, a in enumerate(axes) if a in stacked and any(before not in stacked for before in axes[:at])]
    return f"{late[0]} is stacked and not the first axis of its block in {total}. Write it first." if late else None


def _pair_faults(
    number: int, left: tuple[str, list[str], set[str], bool], right: tuple[str, list[str], set[str], bool]
) -> Iterator[str]:
    for _, listed, _, _ in (left, right):
        twice = next((axis for axis in listed if listed.count(axis) > 1), None)
        if twice:
            yield f"axis {twice} stands twice in block {number}. Give the second a name of its own."
            return
    if left[3] and right[3]:
        yield f"block {number} has no tensor on either side. Delete it."
        return
    ours, theirs = set(left[1]), set(right[1])
    spared = (left[2] - theirs) | (right[2] - ours)
    if both := (left[2] & theirs) | (right[2] & ours):
        axis = min(both)
        yield f"*{axis} is repeated, so it stands on one side only; the other has {axis} too. Delete one of them."
        return
    lost = sorted((ours ^ theirs) - spared)
    if lost:
        side = "left" if lost[0] in ours else "right"
        yield (
            f"block {number} has {lost[0]} on the {side} only ({left[0]} <-> {right[0]}). "
            "Both sides of a block have the same axes: rename it, or add it on the other side."
        )


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
            for term in terms:
                if not isinstance(term, NamePattern) or term in seen:
                    continue
                for other, owner in tree.near(term):
                    if id(owner) not in told and overlap(term, other):
                        told.add(id(owner))
                        where = "this line" if owner is statement else f"line {owner.line}"
                        yield Fault(
                            statement.line,
                            statement.column,
                            f"{term} and {other} ({where}) can both be one {side} tensor. Every tensor belongs to one "
                            "rule: narrow one of them, or delete it.",
                        )
                seen.add(term)
                tree.add(term, (term, statement))
