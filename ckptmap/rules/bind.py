"""Binds rules to the names and shapes of checkpoints; every misfit is gathered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from ckptmap.errors import PlanError
from ckptmap.rules.compiled import CompiledRule, LaidEnd, Layout, Lengths, Stacked
from ckptmap.rules.names import Binding, Matcher, NamePattern
from ckptmap.rules.overlap import PatternTree
from ckptmap.rules.plan import BoundBlock, End, Equation, Piece, Plan, Sizes
from ckptmap.rules.rules import Rules, Tie
from ckptmap.rules.shapes import ShapeError

Inventory: TypeAlias = "Mapping[str, Sizes]"
Slot: TypeAlias = "tuple[int, Stacked]"
"""A term, and the numbers of its stacked indices."""


ONLY: Slot = (0, ())
"""The slot of a side's only tensor."""


class _Instance:
    """A rule for one choice of its shared variables, and the tensors that are there for it, left and right."""

    __slots__ = ("binding", "found", "rule")

    def __init__(self, rule: CompiledRule, binding: Binding) -> None:
        self.rule = rule
        self.binding = binding
        self.found: tuple[dict[Slot, str], dict[Slot, str]] = ({}, {})


class Binder:
    """Gathers equations and problems for two inventories, of which the right may be unknown."""

    def __init__(
        self, rules: Rules, sides: tuple[Inventory, Inventory | None], sizes: Mapping[str, int], partial: bool
    ) -> None:
        self._rules = rules
        self._inventories = sides
        self._sizes = sizes
        self._partial = partial
        self._compiled = [CompiledRule(rule) for rule in rules.rules]
        self._told: list[Lengths] = [
            tuple((a, sizes[a]) for a in sorted(c.axes | {*c.stacked[0], *c.stacked[1]}) if a in sizes)
            for c in self._compiled
        ]
        self._problems: list[str] = []
        self._instances: dict[tuple[int, tuple[int | str, ...]], _Instance] = {}
        self._uncovered: tuple[list[str], list[str]] = ([], [])
        self._ties: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
        self._shapes: tuple[dict[str, Sizes], dict[str, Sizes]] = ({}, {})

    def plan(self) -> Plan:
        """Everything bound.

        Raises:
            PlanError: With all problems.
        """
        for side, inventory in enumerate(self._inventories):
            if inventory is not None:
                self._assign(side, inventory)
        self._add_makeable()
        at = {id(rule): number for number, rule in enumerate(self._compiled)}
        equations = [
            equation
            for instance in self._instances.values()
            if (equation := self._equation(instance, self._told[at[id(instance.rule)]])) is not None
        ]
        self._check_used()
        if self._inventories[1] is None:
            self._tie_made()
        if not self._partial:
            for side, names in enumerate(self._uncovered):
                self._problems += [
                    f"{self._rules.path or 'rules'}: no rule covers {SIDES[side]} tensor {name} "
                    f"{list((self._inventories[side] or {})[name])}. Add one, or leave it out: "
                    f"`{_leave_out(side, name)}`."
                    for name in names
                ]
        if self._problems:
            raise PlanError(tuple(dict.fromkeys(self._problems)))
        return Plan(
            tuple(equations),
            self._shapes[0],
            self._shapes[1],
            tuple(self._ties[0]),
            tuple(self._ties[1]),
            tuple(self._uncovered[0]),
            tuple(self._uncovered[1]),
        )

    def _problem(self, line: int, text: str) -> None:
        self._problems.append(f"{self._rules.path or 'rules'}:{line}: {text}")

    def _assign(self, side: int, inventory: Inventory) -> None:
        """Give each tensor of a side to its rule."""
        tree: PatternTree[tuple[int, int, Matcher]] = PatternTree()
        for number, rule in enumerate(self._compiled):
            seen: set[NamePattern] = set()
            for position, term in enumerate(rule.sides[side]):
                if isinstance(term, NamePattern) and term not in seen:
                    seen.add(term)
                    tree.add(term, (number, position, term.matcher()))
        seconds = self._tied(side, inventory)
        for name in inventory:
            called = seconds.get(name, name)
            if called is None:
                continue
            for number, position, matcher in tree.candidates(called):
                binding = matcher.match(called)
                if binding is not None:
                    self._take(side, number, position, name, binding)
                    break
            else:
                self._uncovered[side].append(name)

    def _take(self, side: int, number: int, position: int, name: str, binding: Binding) -> None:
        rule = self._compiled[number]
        key = number, tuple([binding[variable] for variable in rule.shared])
        instance = self._instances.get(key)
        if instance is None:
            instance = self._instances[key] = _Instance(rule, {v: binding[v] for v in rule.shared})
        stacked: Stacked = ()
        if rule.stacked[side]:
            stacked = tuple(int(binding[variable]) for variable in rule.stack_of(side, position))
        instance.found[side][position, stacked] = name
        pattern = rule.sides[side][position]
        if rule.sides[side].count(pattern) > 1:
            for other, term in enumerate(rule.sides[side]):
                if term == pattern:
                    instance.found[side][other, stacked] = name

    def _tied(self, side: int, inventory: Inventory) -> dict[str, str | None]:
        """Second names that are there: None where the first is there too, else the first, for which it stands."""
        seconds: dict[str, str | None] = {}
        for tie in self._ties_of(side):
            for second, first in _matches(tie.second, tie.name, inventory):
                if first not in inventory:
                    seconds[second] = first
                    continue
                seconds[second] = None
                self._ties[side].append((second, first))
                self._shapes[side][second] = tuple(inventory[second])
                if tuple(inventory[first]) != tuple(inventory[second]):
                    self._problem(
                        tie.line,
                        f"{first} is {list(inventory[first])} and {second} is {list(inventory[second])}: "
                        "one tensor has one shape. Delete the tie, or cover the second name by a rule.",
                    )
        return seconds

    def _ties_of(self, side: int) -> list[Tie]:
        return [tie for tie in self._rules.ties if tie.side == SIDES[side]]

    def _tie_made(self) -> None:
        for tie in self._ties_of(1):
            for first, second in list(_matches(tie.name, tie.second, self._shapes[1])):
                self._ties[1].append((second, first))
                self._shapes[1][second] = self._shapes[1][first]

    def _add_makeable(self) -> None:
        """Rules that name nothing on the left may still say all there is to know of one tensor on the right."""
        if self._inventories[1] is not None:
            return
        for number, rule in enumerate(self._compiled):
            if not rule.has_names(0) and not rule.shared:
                nothing = (None,) * len(rule.sides[0]), (None,) * len(rule.sides[1])
                try:
                    rule.layout(nothing, self._told[number])
                except ShapeError:
                    continue
                self._instances[number, ()] = _Instance(rule, {})

    def _check_used(self) -> None:
        used = {number for number, _ in self._instances}
        for number, rule in enumerate(self._compiled):
            known = [s for s in (0, 1) if self._inventories[s] is not None and rule.has_names(s)]
            if number in used or not known or rule.rule.mark == "maybe" or self._partial:
                continue
            names = ", ".join(str(t) for s in known for t in rule.sides[s] if isinstance(t, NamePattern))
            self._problem(
                rule.rule.line, f"matches nothing: no tensor is called {names}. Delete it, or put `maybe` before it."
            )

    def _equation(self, instance: _Instance, told: Lengths) -> Equation | None:
        rule = instance.rule
        if rule.simple and (equation := self._simple_equation(instance, told)) is not None:
            return equation
        before = len(self._problems)
        if rule.stacked != ((), ()):
            sizes = dict(told)
            for side in (0, 1):
                self._count(instance, side, sizes)
            told = tuple(sorted(sizes.items()))
        shapes = self._term_shapes(instance, 0), self._term_shapes(instance, 1)
        for side in (0, 1):
            for term, shape in enumerate(shapes[side]):
                alone = isinstance(rule.sides[side][term], NamePattern) and not rule.stack_of(side, term)
                if shape is None and alone and self._inventories[side] is not None:
                    self._lacks(instance, side, (term, ()))
        layout = None
        if len(self._problems) == before:
            try:
                layout = rule.layout(shapes, told)
            except ShapeError as error:
                self._problem(rule.rule.line, f"{_heading(instance)}: {error}.")
        if layout is None or not self._complete(instance, layout):
            self._give_up(instance, before)
            return None
        ours, theirs = self._names(instance, 0, layout), self._names(instance, 1, layout)
        for side, names in ((0, ours), (1, theirs)):
            for (term, _), name in names.items():
                self._shapes[side][name] = layout.shapes[side][term]
        blocks = tuple(
            [BoundBlock(shape, _end(left, ours), _end(right, theirs)) for shape, left, right in layout.blocks]
        )
        return Equation(
            rule.rule.line,
            tuple(dict.fromkeys(ours.values())),
            tuple(dict.fromkeys(theirs.values())),
            blocks,
            layout.rename,
        )

    def _simple_equation(self, instance: _Instance, told: Lengths) -> Equation | None:
        """One tensor a side, both there and fitting: most of any checkpoint, so without detours."""
        rule, (inventory, other) = instance.rule, self._inventories
        left, right = instance.found[0].get(ONLY), instance.found[1].get(ONLY)
        if left is None or (right is None and other is not None):
            return None
        writer = rule.writers[1][0]
        assert writer is not None
        right = right or writer.write(instance.binding)
        shapes = ((tuple(inventory[left]),), (tuple(other[right]) if other is not None else None,))
        try:
            layout = rule.layout(shapes, told)
        except ShapeError:
            return None
        ours, theirs = {ONLY: left}, {ONLY: right}
        self._shapes[0][left], self._shapes[1][right] = layout.shapes[0][0], layout.shapes[1][0]
        blocks = tuple([BoundBlock(shape, _end(a, ours), _end(b, theirs)) for shape, a, b in layout.blocks])
        return Equation(rule.rule.line, (left,), (right,), blocks, layout.rename)

    def _give_up(self, instance: _Instance, before: int) -> None:
        """Leave the tensors of an equation that cannot be bound to those without a rule, if that is allowed."""
        if self._partial:
            del self._problems[before:]
            for side in (0, 1):
                self._uncovered[side].extend(dict.fromkeys(instance.found[side].values()))

    def _count(self, instance: _Instance, side: int, sizes: dict[str, int]) -> None:
        """Learn the lengths of stacked indices from the numbers that are there, which must have no holes."""
        rule = instance.rule
        for variable in rule.stacked[side]:
            numbers = {
                stacked[rule.stack_of(side, term).index(variable)]
                for term, stacked in instance.found[side]
                if variable in rule.stack_of(side, term)
            }
            if not numbers:
                continue
            length = max(numbers) + 1
            missing = next((n for n in range(length) if n not in numbers), None)
            if missing is not None:
                self._problem(
                    rule.rule.line,
                    f"{_heading(instance)}: {{{variable}}} runs to {length - 1} without {missing}. "
                    "Stacked tensors are counted from 0 without holes.",
                )
            elif sizes.setdefault(variable, length) != length:
                self._problem(
                    rule.rule.line,
                    f"{_heading(instance)}: {variable} is {sizes[variable]}, and {SIDES[side]} names count {length}. "
                    "Correct the size.",
                )

    def _term_shapes(self, instance: _Instance, side: int) -> tuple[Sizes | None, ...]:
        inventory = self._inventories[side]
        shapes: list[Sizes | None] = [None] * len(instance.rule.sides[side])
        if inventory is None:
            return tuple(shapes)
        first: dict[int, str] = {}
        for (term, _), name in instance.found[side].items():
            shape = tuple(inventory[name])
            if shapes[term] is None:
                shapes[term], first[term] = shape, name
            elif shapes[term] != shape:
                self._problem(
                    instance.rule.rule.line,
                    f"{first[term]} is {list(shapes[term] or ())} and {name} is {list(shape)}, and both are to be "
                    "stacked. Only tensors of one shape can be.",
                )
        return tuple(shapes)

    def _complete(self, instance: _Instance, layout: Layout) -> bool:
        """Whether all tensors are there on the sides that are known."""
        complete = True
        for side in (0, 1):
            if self._inventories[side] is None:
                continue
            for slot in _slots(instance, side, layout):
                if slot not in instance.found[side]:
                    complete = False
                    self._lacks(instance, side, slot)
        return complete

    def _lacks(self, instance: _Instance, side: int, slot: Slot) -> None:
        other = next(iter([*instance.found[1 - side].values(), *instance.found[side].values()]))
        self._problem(
            instance.rule.rule.line,
            f"there is no {SIDES[side]} tensor {_expanded(instance, side, slot)}, which goes with {other}. "
            "Correct the name, or give the checkpoint that has it.",
        )

    def _names(self, instance: _Instance, side: int, layout: Layout) -> dict[Slot, str]:
        if self._inventories[side] is not None:
            return instance.found[side]
        return {slot: _expanded(instance, side, slot) for slot in _slots(instance, side, layout)}


SIDES = ("left", "right")


def _leave_out(side: int, name: str) -> str:
    return f"{name} <-> _" if side == 0 else f"_ <-> {name}"


def _matches(pattern: NamePattern, other: NamePattern, names: Mapping[str, Sizes]) -> Iterator[tuple[str, str]]:
    """Names of a pattern, and what the other pattern calls them."""
    if not pattern.variables:
        if str(pattern) in names:
            yield str(pattern), str(other)
        return
    matcher = pattern.matcher()
    for name in names:
        binding = matcher.match(name)
        if binding is not None:
            yield name, other.expand(binding)


def _slots(instance: _Instance, side: int, layout: Layout) -> Iterator[Slot]:
    for term, pattern in enumerate(instance.rule.sides[side]):
        if isinstance(pattern, NamePattern):
            for stacked in layout.stacks[side][term]:
                yield term, stacked


def _expanded(instance: _Instance, side: int, slot: Slot) -> str:
    term, stacked = slot
    writer = instance.rule.writers[side][term]
    assert writer is not None
    if not stacked:
        return writer.write(instance.binding)
    return writer.write(instance.binding | dict(zip(instance.rule.stack_of(side, term), stacked, strict=True)))


def _heading(instance: _Instance) -> str:
    """The tensors of an equation, for a message."""
    names = [*instance.found[0].values(), *instance.found[1].values()]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _end(end: LaidEnd, names: Mapping[Slot, str]) -> End:
    if isinstance(end, str):
        return end
    return Piece(names[end.term, end.stacked], end.view, end.narrow, end.split, end.order, end.repeated)


def known_sizes(rules: Rules, config: Mapping[str, Any] | None, sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Lengths that are told: `size` lines, the config they name, and what the caller gives, which comes first."""
    known: dict[str, int] = {}
    for axis, value in rules.sizes.items():
        if isinstance(value, str):
            found: Any = config or {}
            for key in value.split(".")[1:]:
                found = found.get(key) if isinstance(found, Mapping) else None
            value = found if isinstance(found, int) and not isinstance(found, bool) else None
        if value is not None:
            known[axis] = value
    return known | dict(sizes or {})
