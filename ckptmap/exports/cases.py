"""Bound rules as what code generators want: names with loops over their numbers, and one layout for all of a loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import TypeAlias

from ckptmap.errors import ExportError
from ckptmap.rules.compiled import CompiledRule, Layout, Place
from ckptmap.rules.layout import written
from ckptmap.rules.names import STAR, STARS, Binding, Choice, Index, Matcher, NamePattern, Part, Segment, joined
from ckptmap.rules.plan import Equation, Plan, Sizes
from ckptmap.rules.rules import Rule, Rules, Term
from ckptmap.rules.shapes import Axis

Matchers: TypeAlias = "tuple[tuple[Matcher | None, ...], tuple[Matcher | None, ...]]"
"""What matches the names of each term."""


@dataclass(frozen=True)
class Case:
    """Equations of one rule that are alike but for the numbers in their names.

    Attributes:
        line: Where the rule stands in its file.
        rule: The rule itself, ready to be laid out.
        sides: Terms, left and right; nothing but indices varies in their names.
        loops: For each index that both sides share, the numbers it takes.
        layout: Shapes and blocks, for tensors of every term.
        told: Lengths of axes that shapes alone do not tell.
    """

    line: int
    rule: CompiledRule
    sides: tuple[tuple[Term, ...], tuple[Term, ...]]
    loops: Mapping[str, tuple[int, ...]]
    layout: Layout
    told: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The rule, as a file has it but for its section."""
        return written([replace(self.rule.rule, comment="")]).strip()

    def bindings(self) -> Iterator[dict[str, int | str]]:
        """Every choice of the shared indices."""
        for numbers in product(*self.loops.values()):
            yield dict(zip(self.loops, numbers, strict=True))

    def stack_of(self, side: int, term: int) -> tuple[str, ...]:
        """Indices that are an axis on the other side."""
        return self.rule.stack_of(side, term)

    @cached_property
    def lengths(self) -> dict[str, int]:
        """How many numbers a stacked index runs through."""
        found: dict[str, int] = {}
        for side in (0, 1):
            for term, stacks in enumerate(self.layout.stacks[side]):
                for at, variable in enumerate(self.stack_of(side, term)):
                    found[variable] = max((numbers[at] for numbers in stacks), default=-1) + 1
        return found

    def names(self, side: int) -> Iterator[str]:
        """Every tensor of a side."""
        for binding in self.bindings():
            for term, pattern in enumerate(self.sides[side]):
                if isinstance(pattern, NamePattern):
                    for numbers in self.layout.stacks[side][term]:
                        stacked = dict(zip(self.stack_of(side, term), numbers, strict=True))
                        yield pattern.expand({**binding, **stacked})

    @cached_property
    def pairs(self) -> tuple[tuple[NamePattern, NamePattern], ...] | None:
        """The names that stand for each other, where nothing but names differs."""
        pairs = []
        for shape, *ends in self.layout.blocks:
            patterns = []
            for side, end in enumerate(ends):
                if isinstance(end, str) or end.narrow or end.repeated or end.stacked:
                    return None
                moved = [at for at, length in zip(end.order, shape, strict=True) if length != 1]
                if moved != sorted(moved):
                    return None
                pattern = self.sides[side][end.term]
                assert isinstance(pattern, NamePattern)
                patterns.append(pattern)
            left, right = ends
            assert isinstance(left, Place) and isinstance(right, Place)
            if self.layout.shapes[0][left.term] != self.layout.shapes[1][right.term]:
                return None
            pairs.append((patterns[0], patterns[1]))
        if any(len({pair[side] for pair in pairs}) < len(pairs) for side in (0, 1)):
            return None
        return tuple(pairs)

    def merged(self) -> Layout:
        """The layout once the tensors of every stacked term are one, their numbers its first axes."""
        rule = self.rule.rule
        if self.rule.stacked == ((), ()):
            return self.layout
        shapes, told = [], []
        for side in (0, 1):
            terms = enumerate(self.rule.shapes[side])
            shapes.append(
                tuple(
                    replace(shape, dims=(*((Axis(v),) for v in self.stack_of(side, term)), *shape.dims))
                    for term, shape in terms
                )
            )
            told.append(
                tuple(
                    (*(self.lengths[v] for v in self.stack_of(side, term)), *shape)
                    for term, shape in enumerate(self.layout.shapes[side])
                )
            )
        sides = [
            tuple(
                term if isinstance(term, str) else with_numbers(term, dict.fromkeys(self.lengths, 0))
                for term in self.sides[side]
            )
            for side in (0, 1)
        ]
        whole = Rule(sides[0], sides[1], shapes[0], shapes[1], line=rule.line)
        return CompiledRule(whole).layout((told[0], told[1]), self.told)


def numbered(rules: Rules) -> Rules:
    """The rules, each with a line of its own; those of a file have one already."""
    lines = [rule.line for rule in rules.rules]
    return rules if len(set(lines)) == len(lines) else Rules.parse(str(rules), rules.path)


def cases_of(plan: Plan) -> list[Case]:
    """All equations of a plan, gathered, in the order of the rule file.

    Raises:
        ExportError: A tensor goes by its second name alone.
    """
    assert plan.rules is not None
    compiled = {rule.line: CompiledRule(rule) for rule in plan.rules.rules}
    matchers = {line: _matchers(rule) for line, rule in compiled.items()}
    groups: dict[tuple[int, int, tuple[tuple[str, int | str], ...]], list[Binding]] = {}
    layouts: dict[int, tuple[Layout, tuple[tuple[str, int], ...]]] = {}
    for equation in plan.equations:
        rule = compiled[equation.line]
        binding, layout, told = _bound(equation, rule, matchers[equation.line], plan)
        layouts[id(layout)] = layout, told
        indices = _indices(rule)
        fixed = tuple(sorted((v, value) for v, value in binding.items() if v not in indices))
        groups.setdefault((equation.line, id(layout), fixed), []).append(
            {v: binding[v] for v in indices if v in binding}
        )
    cases = []
    for (line, at, fixed), bindings in groups.items():
        rule, (layout, told) = compiled[line], layouts[at]
        left, right = (tuple(_fixed(term, dict(fixed)) for term in side) for side in rule.sides)
        for names, loops in _loops((left, right), bindings):
            cases.append(Case(line, rule, names, loops, layout, told))
    return sorted(cases, key=lambda case: case.line)


def _matchers(rule: CompiledRule) -> Matchers:
    left, right = (tuple(t.matcher() if isinstance(t, NamePattern) else None for t in side) for side in rule.sides)
    return left, right


def _bound(
    equation: Equation, rule: CompiledRule, matchers: Matchers, plan: Plan
) -> tuple[Binding, Layout, tuple[tuple[str, int], ...]]:
    """What tells an equation from others of its rule, and its layout."""
    shared: Binding = {}
    sizes = {axis: plan.sizes[axis] for axis in {*rule.axes, *rule.stacked[0], *rule.stacked[1]} & plan.sizes.keys()}
    counts: dict[str, int] = {}
    shapes: list[tuple[Sizes | None, ...]] = []
    for side, (names, known) in enumerate(((equation.left, plan.left), (equation.right, plan.right))):
        found: list[Sizes | None] = [None] * len(rule.sides[side])
        for name in names:
            matched = False
            for term, matcher in enumerate(matchers[side]):
                binding = None if matcher is None else matcher.match(name)
                if binding is None:
                    continue
                matched, found[term] = True, tuple(known[name])
                shared.update({v: binding[v] for v in rule.shared if v in binding})
                for variable in rule.stack_of(side, term):
                    counts[variable] = max(counts.get(variable, 0), int(binding[variable]) + 1)
            if not matched:
                raise ExportError(
                    f"line {equation.line}: {name} is a second name, and the checkpoint lacks the first. Give the "
                    "checkpoint that has the first name.",
                    (equation.line,),
                )
        shapes.append(tuple(found))
    told = tuple(sorted({**sizes, **counts}.items()))
    return shared, rule.layout((shapes[0], shapes[1]), told), told


def _indices(rule: CompiledRule) -> list[str]:
    terms = [term for side in rule.sides for term in side if isinstance(term, NamePattern)]
    return [v for v in dict.fromkeys(v for term in terms for v in term.indices) if v in rule.shared]


def _fixed(term: Term, binding: Mapping[str, int | str]) -> Term:
    """The term with its words written out."""
    if isinstance(term, str):
        return term
    segments: list[Segment] = []
    stars = 0
    for segment in term.segments:
        if segment == STAR:
            segments.append((str(binding[f"*{stars}"]),))
            stars += 1
        elif segment == STARS:
            segments += [(word,) for word in str(binding[STARS]).split(".")]
        else:
            words = (p.words[int(binding[p.variable])] if isinstance(p, Choice) else p for p in segment)
            segments.append(joined(words))
    return NamePattern(tuple(segments))


def with_numbers(term: NamePattern, numbers: Mapping[str, int]) -> NamePattern:
    """The name with some of its indices written out."""

    def part(p: Part) -> Part:
        return str(p.number(numbers[p.variable])) if isinstance(p, Index) and p.variable in numbers else p

    return NamePattern(tuple(s if isinstance(s, str) else joined(map(part, s)) for s in term.segments))


def _loops(
    sides: tuple[tuple[Term, ...], tuple[Term, ...]], bindings: list[Binding]
) -> Iterator[tuple[tuple[tuple[Term, ...], tuple[Term, ...]], dict[str, tuple[int, ...]]]]:
    """The bindings as nested loops; where they are no grid, the first index is written out."""
    values = {v: tuple(sorted({int(b[v]) for b in bindings})) for v in bindings[0]}
    if prod(map(len, values.values())) == len(bindings):
        yield sides, values
        return
    first = next(iter(values))
    for number in values[first]:
        left, right = (
            tuple(term if isinstance(term, str) else with_numbers(term, {first: number}) for term in side)
            for side in sides
        )
        inner: list[Binding] = [
            {v: value for v, value in b.items() if v != first} for b in bindings if b[first] == number
        ]
        yield from _loops((left, right), inner)
