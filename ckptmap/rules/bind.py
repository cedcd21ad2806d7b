"""Binds rules to the names and shapes of checkpoints; every misfit is gathered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from ckptmap.errors import PlanError
from ckptmap.rules.compiled import CompiledRule, Layout, Lengths, Stacked
from ckptmap.rules.instances import ONLY, Instance, Slot, end_of, expanded, heading, slots_of
from ckptmap.rules.names import Binding, Index, Matcher, NamePattern
from ckptmap.rules.overlap import PatternTree
from ckptmap.rules.plan import BoundBlock, Equation, Plan, Sizes
from ckptmap.rules.rules import SIDES, Rules, Tie
from ckptmap.rules.shapes import ShapeError, UnknownSizeError
from ckptmap.rules.uncovered import without_rule

Inventory: TypeAlias = "Mapping[str, Sizes]"


class Binder:
    """Gathers equations and problems for two inventories, of which the right may be unknown."""

    def __init__(
        self,
        rules: Rules,
        sides: tuple[Inventory, Inventory | None],
        sizes: Mapping[str, int],
        partial: bool,
        hints: Inventory,
    ) -> None:
        self._rules = rules
        self._inventories = sides
        self._sizes = sizes
        self._partial = partial
        self._hints = hints if sides[1] is None else {}
        self._compiled = [CompiledRule(rule) for rule in rules.rules]
        self._told: list[Lengths] = [
            tuple((a, sizes[a]) for a in sorted(c.axes | {*c.stacked[0], *c.stacked[1]}) if a in sizes)
            for c in self._compiled
        ]
        self._problems: list[str] = []
        self._instances: dict[tuple[int, tuple[int | str, ...]], Instance] = {}
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
        self._take_hints()
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
                shapes = {name: tuple((self._inventories[side] or {})[name]) for name in names}
                self._problems += [f"{self._rules.path or 'rules'}: {text}" for text in without_rule(side, shapes)]
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
            self._rules,
            self._sizes,
        )

    def _problem(self, line: int, text: str) -> None:
        self._problems.append(f"{self._rules.path or 'rules'}:{line}: {text}")

    def _assign(self, side: int, inventory: Inventory) -> None:
        """Give each tensor of a side to its rule."""
        seconds = self._tied(side, inventory)
        called = {name: first for name in inventory if (first := seconds.get(name, name)) is not None}
        for name, owner in self._owners(side, called):
            if owner is None:
                self._uncovered[side].append(name)
            else:
                self._take(side, name, *owner)

    def _owners(self, side: int, names: Mapping[str, str]) -> Iterator[tuple[str, tuple[int, int, Binding] | None]]:
        """For each name the rule, the term and the binding of what it is called, if there are any."""
        tree: PatternTree[tuple[int, int, Matcher]] = PatternTree()
        for number, rule in enumerate(self._compiled):
            seen: set[NamePattern] = set()
            for position, term in enumerate(rule.sides[side]):
                if isinstance(term, NamePattern) and term not in seen:
                    seen.add(term)
                    tree.add(term, (number, position, term.matcher()))
        for name, called in names.items():
            for number, position, matcher in tree.candidates(called):
                binding = matcher.match(called)
                if binding is not None:
                    yield name, (number, position, binding)
                    break
            else:
                yield name, None

    def _take(self, side: int, name: str, number: int, position: int, binding: Binding) -> None:
        rule = self._compiled[number]
        for lacking, index in rule.lacking:
            if index.variable in rule.shared and index.number(int(binding[index.variable])) < 0:
                self._no_number(side, name, rule, lacking, index)
                return
        key = number, tuple([binding[variable] for variable in rule.shared])
        instance = self._instances.get(key)
        if instance is None:
            instance = self._instances[key] = Instance(rule, {v: binding[v] for v in rule.shared})
        stacked: Stacked = ()
        if rule.stacked[side]:
            stacked = tuple(int(binding[variable]) for variable in rule.stack_of(side, position))
        instance.found[side][position, stacked] = name
        pattern = rule.sides[side][position]
        if rule.sides[side].count(pattern) > 1:
            for other, term in enumerate(rule.sides[side]):
                if term == pattern:
                    instance.found[side][other, stacked] = name

    def _no_number(self, side: int, name: str, rule: CompiledRule, term: NamePattern, index: Index) -> None:
        if self._partial:
            self._uncovered[side].append(name)
            return
        self._problem(
            rule.rule.line,
            f"{name}: {index} in {term} would be below 0. Write `{{{index.variable}+1}}` for `{{{index.variable}}}` "
            f"throughout the rule, and give {name} a rule of its own.",
        )

    def _take_hints(self) -> None:
        """Remember shapes of the unknown side, and make equations for what is there and nowhere on the left."""
        seconds = {
            second: first
            for tie in self._ties_of(1)
            for second, first in _matches(tie.second, tie.name, self._hints)
            if first not in self._hints
        }
        for name, owner in self._owners(1, {name: seconds.get(name, name) for name in self._hints}):
            if owner is None:
                continue
            number, position, binding = owner
            rule = self._compiled[number]
            key = number, tuple([binding[variable] for variable in rule.shared])
            instance = self._instances.get(key)
            if instance is None and not rule.has_names(0):
                instance = self._instances[key] = Instance(rule, binding)
            if instance is not None:
                instance.hinted[position] = tuple(self._hints[name])

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
                self._instances.setdefault((number, ()), Instance(rule, {}))

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

    def _equation(self, instance: Instance, told: Lengths) -> Equation | None:
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
                layout = self._layout(instance, shapes, told)
            except ShapeError as error:
                self._problem(rule.rule.line, f"{heading(instance)}: {error}.")
        if layout is None or not self._complete(instance, layout):
            self._give_up(instance, before)
            return None
        ours, theirs = self._names(instance, 0, layout), self._names(instance, 1, layout)
        for side, names in ((0, ours), (1, theirs)):
            for (term, _), name in names.items():
                self._shapes[side][name] = layout.shapes[side][term]
        blocks = tuple(
            [BoundBlock(shape, end_of(left, ours), end_of(right, theirs)) for shape, left, right in layout.blocks]
        )
        return Equation(
            rule.rule.line,
            tuple(dict.fromkeys(ours.values())),
            tuple(dict.fromkeys(theirs.values())),
            blocks,
            layout.rename,
        )

    def _layout(
        self, instance: Instance, shapes: tuple[tuple[Sizes | None, ...], tuple[Sizes | None, ...]], told: Lengths
    ) -> Layout:
        """Solved from what is there; hints come in only for what stays unknown, since they may be of another size."""
        try:
            return instance.rule.layout(shapes, told)
        except UnknownSizeError:
            if not instance.hinted:
                raise
        hinted = tuple(instance.hinted.get(term, shape) for term, shape in enumerate(shapes[1]))
        return instance.rule.layout((shapes[0], hinted), told)

    def _simple_equation(self, instance: Instance, told: Lengths) -> Equation | None:
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
        blocks = tuple([BoundBlock(shape, end_of(a, ours), end_of(b, theirs)) for shape, a, b in layout.blocks])
        return Equation(rule.rule.line, (left,), (right,), blocks, layout.rename)

    def _give_up(self, instance: Instance, before: int) -> None:
        """Leave the tensors of an equation that cannot be bound to those without a rule, if that is allowed."""
        if self._partial:
            del self._problems[before:]
            for side in (0, 1):
                self._uncovered[side].extend(dict.fromkeys(instance.found[side].values()))

    def _count(self, instance: Instance, side: int, sizes: dict[str, int]) -> None:
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
                    f"{heading(instance)}: {{{variable}}} runs to {length - 1} without {missing}. "
                    "Stacked tensors are counted from 0 without holes.",
                )
            elif sizes.setdefault(variable, length) != length:
                self._problem(
                    rule.rule.line,
                    f"{heading(instance)}: {variable} is {sizes[variable]}, and {SIDES[side]} names count {length}. "
                    "Correct the size.",
                )

    def _term_shapes(self, instance: Instance, side: int) -> tuple[Sizes | None, ...]:
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

    def _complete(self, instance: Instance, layout: Layout) -> bool:
        """Whether all tensors are there on the sides that are known."""
        complete = True
        for side in (0, 1):
            if self._inventories[side] is None:
                continue
            for slot in slots_of(instance, side, layout):
                if slot not in instance.found[side]:
                    complete = False
                    self._lacks(instance, side, slot)
        return complete

    def _lacks(self, instance: Instance, side: int, slot: Slot) -> None:
        other = next(iter([*instance.found[1 - side].values(), *instance.found[side].values()]))
        self._problem(
            instance.rule.rule.line,
            f"there is no {SIDES[side]} tensor {expanded(instance, side, slot)}, which goes with {other}. "
            "Correct the name, or give the checkpoint that has it.",
        )

    def _names(self, instance: Instance, side: int, layout: Layout) -> dict[Slot, str]:
        if self._inventories[side] is not None:
            return instance.found[side]
        return {slot: expanded(instance, side, slot) for slot in slots_of(instance, side, layout)}


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


def known_sizes(rules: Rules, config: Mapping[str, Any] | None, sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Lengths that are told: `size` lines, the config they name, and what the caller gives, which comes first."""
    known: dict[str, int] = {}
    for axis, value in rules.sizes.items():
        if isinstance(value, str):
            found: Any = config or {}
            for key in value.split(".")[1:]:
                found = found.get(key) if isinstance(found, Mapping) else None
            value = found if isinstance(found, int) and not isinstance(found, bool) else rules.found_with.get(axis)
        if value is not None:
            known[axis] = value
    return known | dict(sizes or {})
