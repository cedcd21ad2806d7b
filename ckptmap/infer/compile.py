"""From equations between tensors to the file that a person would have written: folded over layers, in sections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptmap.errors import CkptmapError
from ckptmap.infer.equations import Written, equation, with_told_names
from ckptmap.infer.layouts import ShuffledError, linked_blocks
from ckptmap.infer.lines import Line, kinds_joined, sections
from ckptmap.infer.unstack import MARK, stacked, unstacked, whole_name
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import LANGUAGE, NOWHERE, Rules

if TYPE_CHECKING:
    from ckptmap.infer.findings import Block, Elements, Sizes
    from ckptmap.rules.plan import Plan

INDICES = "ijln"
"""Names of indices; none is the name of an axis."""

SECTIONS, FOLDED, LITERAL = LEVELS = ("folded, in sections", "folded", "literal")
"""Ways to write equations, the shortest first."""

_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]*)(?![0-9])")


@dataclass(frozen=True)
class Compiled:
    """A rule file, and what it could not say.

    Attributes:
        rules: The file.
        unsaid: Right tensors whose elements were known, in an order that the language has no words for.
    """

    rules: Rules
    unsaid: tuple[str, ...]


def compile_rules(
    elements: Elements,
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    *,
    labels: tuple[str, str] | None = None,
    ties: Iterable[tuple[str, str, str]] = (),
) -> Compiled:
    """The shortest file we can write that says exactly which element is which.

    Args:
        elements: For right tensors, the left elements that stand there.
        left: Shapes of the left tensors, in the order in which elements are numbered.
        right: Shapes of the right tensors.
        labels: What the sides are, for people.
        ties: Side, name and second name of tensors that are one.
    """
    said, unsaid = _equations(elements, left, right)
    for level in LEVELS:
        if level == LITERAL:
            # Slices of a stack have no names that could stand without an index.
            parts = {whole_name(name) for one in said if _has_slices(one) for name in one.right}
            unsaid = (*unsaid, *(name for name in right if name in parts))
            said = [one for one in said if not _has_slices(one)]
        wanted = {whole_name(name): elements[whole_name(name)] for one in said for name in one.right if name != NOWHERE}
        rules = _file(said, left, right, level, _heads(labels), ties)
        if rules is not None and _says(rules, left, right, wanted):
            return Compiled(rules, unsaid)
    raise AssertionError("the rules do not say what they were made from; please report this as a bug")


def compile_written(
    said: Sequence[Written],
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    guesses: Sequence[Written] = (),
    *,
    labels: tuple[str, str] | None = None,
    ties: Iterable[tuple[str, str, str]] = (),
) -> Rules:
    """The shortest file that holds just these equations.

    Args:
        said: Equations between tensors by their full names.
        left: Shapes of the left tensors.
        right: Shapes of the right tensors.
        guesses: Equations that are marked as guesses.
        labels: What the sides are, for people.
        ties: Side, name and second name of tensors that are one.
    """
    place = {name: number for number, name in enumerate(left)}
    ordered = sorted(
        (*said, *(replace(one, guess=True) for one in guesses)),
        key=lambda one: min(place[whole_name(name)] for name in one.left if name != NOWHERE),
    )
    told = list(with_told_names(ordered))
    wanted = _linked((tuple(map(whole_name, one.left)), tuple(map(whole_name, one.right))) for one in told)
    for level in LEVELS:
        rules = _file(told, left, right, level, _heads(labels), ties)
        if rules is not None and _links(rules, left, right) == wanted:
            return rules
    raise AssertionError("the rules do not say what they were made from; please report this as a bug")


def _links(rules: Rules, left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> set[tuple[str, str]]:
    try:
        plan = bind(rules, left, right, partial=True)
    except CkptmapError:
        return set()
    return _linked({(one.left, one.right) for one in plan.equations})


def _linked(equations: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]) -> set[tuple[str, str]]:
    """Which names stand in one equation; slices of a stack and the stack itself come to the same."""
    return {(one, other) for ours, theirs in equations for one in ours for other in theirs}


def _heads(labels: tuple[str, str] | None) -> list[str]:
    sides = zip(("left", "right"), labels or ("", ""), strict=True)
    return [f"ckptmap {LANGUAGE}", *(f"{side}: {label}" for side, label in sides if label not in ("", side))]


def _file(
    said: Sequence[Written],
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    level: str,
    heads: Sequence[str],
    ties: Iterable[tuple[str, str, str]],
) -> Rules | None:
    """The file at this level of brevity; None if it cannot be said so."""
    try:
        lines = [_literal(one, left) for one in said] if level == LITERAL else _folded(said, left, right)
    except ValueError:
        return None
    if level == SECTIONS:
        lines = kinds_joined(lines, left, right)
    told = sorted({pair for one in said for pair in one.told})
    body = list(sections(lines)) if level == SECTIONS else [str(line) for line in lines]
    text = [*heads, *(f"size {axis} = {size}" for axis, size in told)]
    text += [f"tie {side} {name} = {second}" for side, name, second in ties]
    try:
        return Rules.parse(str(Rules.parse("".join(f"{line}\n" for line in [*text, *body]))))
    except CkptmapError:
        return None


def _equations(
    elements: Elements, left: Mapping[str, Sizes], right: Mapping[str, Sizes]
) -> tuple[list[Written], tuple[str, ...]]:
    """An equation for each group of linked tensors; names of the right tensors that have none."""
    unsaid: list[str] = []
    said: list[Written] = []
    first, copies = _copies(elements)

    def blocks_of(names: Iterable[str]) -> Iterator[list[Block]]:
        # Groups one by one only if one of them makes the whole fail.
        chosen = {name: elements[name] for name in names}
        try:
            yield from linked_blocks(chosen, left, right)
        except ShuffledError:
            if len(chosen) == 1:
                unsaid.extend(chosen)
                return
            for group in _groups(chosen, left):
                if len(group) == len(chosen):
                    unsaid.extend(chosen)
                else:
                    yield from blocks_of(group)

    for blocks in blocks_of(first):
        names = dict.fromkeys(block.right.name for block in blocks)
        try:
            said += [_copied(equation(*part), copies) for part in unstacked(blocks, left, right)]
        except ShuffledError:
            unsaid.extend(copy for name in names for copy in (name, *copies.get(name, ())))
    place = {name: number for number, name in enumerate(left)}
    said.sort(key=lambda one: min(place[whole_name(name)] for name in one.left if name != NOWHERE))
    return list(with_told_names(said)), tuple(unsaid)


def _copies(elements: Elements) -> tuple[Elements, dict[str, list[str]]]:
    """One of the tensors that hold the same elements in the same order, and the names of its copies."""
    first: dict[Any, str] = {}
    copies: dict[str, list[str]] = {}
    for name, array in elements.items():
        flat = array.reshape(-1)
        one = first.setdefault((array.shape, int(flat[0]), int(flat[-1])), name)
        if one != name and (elements[one] == array).all():
            copies.setdefault(one, []).append(name)
    doubled = {name for names in copies.values() for name in names}
    return {name: array for name, array in elements.items() if name not in doubled}, copies


def _copied(one: Written, copies: Mapping[str, list[str]]) -> Written:
    """The equation with the copies of its right tensor, the left's name once for each."""
    more = [copy for name in one.right for copy in copies.get(name, ())]
    if not more:
        return one
    if len(one.left) > 1 or len(one.right) > 1:
        raise ShuffledError
    count = 1 + len(more)
    return replace(
        one,
        left=one.left * count,
        right=(*one.right, *more),
        left_shapes=one.left_shapes * count,
        right_shapes=one.right_shapes * count,
    )


def _groups(elements: Elements, left: Mapping[str, Sizes]) -> list[list[str]]:
    from ckptmap.infer.layouts import Numbering, linked_names

    return [rights for _, rights in linked_names(elements, Numbering(left))]


def _says(rules: Rules, left: Mapping[str, Sizes], right: Mapping[str, Sizes], wanted: Elements) -> bool:
    """Whether the rules, bound again, put the very same elements into the very same places, from either side alone."""
    try:
        plan = bind(rules, left, right, partial=True)
    except CkptmapError:
        return False
    made = elements_of(plan, left, right)
    if set(made) != set(wanted):
        return False
    return all((made[name] == wanted[name]).all() for name in wanted)


def elements_of(plan: Plan, left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> Elements:
    """For each right tensor of a plan, the left elements that stand there."""
    import numpy

    from ckptmap.infer.layouts import Numbering

    ours = Numbering(left)
    found: dict[str, numpy.ndarray] = {}
    for one in plan.equations:
        for block in one.blocks:
            if isinstance(block.right, str):
                continue
            target = found.get(block.right.name)
            if target is None:
                shape = right[block.right.name]
                target = found[block.right.name] = numpy.full(shape, -1, dtype=numpy.int64)
            if isinstance(block.left, str):
                continue
            start = ours.first[block.left.name]
            source = start + numpy.arange(int(numpy.prod(left[block.left.name], dtype=numpy.int64)))
            places = _reached(block.right, numpy.arange(target.size)).reshape(-1)
            target.reshape(-1)[places] = _reached(block.left, source).reshape(-1)
    return found


def _reached(piece: Any, flat: Any) -> Any:
    array = flat.reshape(piece.view)
    for axis, start, length in piece.narrow:
        array = array.take(range(start, start + length), axis=axis)
    return array.reshape(piece.split).transpose(piece.order)


def _has_slices(one: Written) -> bool:
    return any(MARK in name for name in (*one.left, *one.right))


def _literal(one: Written, left: Mapping[str, Sizes]) -> Line:
    place = min(list(left).index(whole_name(name)) for name in one.left if name != NOWHERE)
    return Line(one.left, one.right, one.left_shapes, one.right_shapes, place, one.guess)


def _folded(said: Sequence[Written], left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> list[Line]:
    """Equations that differ in numbers only become one line with indices."""
    place = {name: number for number, name in enumerate(left)}
    known = (_by_template(left), _by_template(right))
    groups: dict[Any, list[Written]] = {}
    for one in said:
        key = (tuple(map(_template, one.left)), tuple(map(_template, one.right)), one.left_shapes, one.right_shapes)
        groups.setdefault((key, one.told, one.guess), []).append(one)
    lines: list[Line] = []
    for group in groups.values():
        for part, patterns in _fold(group, known):
            one = part[0]
            at = min(place[whole_name(name)] for name in one.left if name != NOWHERE)
            split = len(one.left)
            sides = ((patterns[:split], one.left_shapes), (patterns[split:], one.right_shapes))
            (ours, our_shapes), (theirs, their_shapes) = (stacked(*side) if one.left_shapes else side for side in sides)
            lines.append(Line(ours, theirs, our_shapes, their_shapes, at, one.guess))
    return sorted(lines, key=lambda line: line.place)


def _template(name: str) -> str:
    return _NUMBER.sub("#", name)


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(text) for text in _NUMBER.findall(name))


def _by_template(names: Iterable[str]) -> dict[str, list[tuple[int, ...]]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for name in names:
        found.setdefault(_template(name), []).append(_numbers(name))
    return found


def _fold(
    group: list[Written], known: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> Iterator[tuple[list[Written], tuple[str, ...]]]:
    names = [(*one.left, *one.right) for one in group]
    if len(group) == 1:
        yield group, names[0]
        return
    rows = [[number for name in row for number in _numbers(name)] for row in names]
    columns = [tuple(column) for column in zip(*rows, strict=True)]
    on_left = sum(len(_numbers(name)) for name in group[0].left)
    variables = _variables(columns, on_left)
    if isinstance(variables, int):
        # This number has no like on the other side: one line for each of its values.
        for value in dict.fromkeys(columns[variables]):
            yield from _fold([one for one, n in zip(group, columns[variables], strict=True) if n == value], known)
        return
    patterns = _patterns(names[0], columns, variables)
    if _too_much(group, columns, variables, known):
        for one in group:
            yield [one], (*one.left, *one.right)
        return
    yield group, patterns


def _variables(columns: Sequence[tuple[int, ...]], on_left: int) -> dict[int, tuple[int, int, int]] | int:
    """For each number that varies: which variable it is, by the column it is read off, and its factor and offset.

    Returns a column instead that varies on one side only.
    """
    found: dict[int, tuple[int, int, int]] = {}
    varying = [at for at, column in enumerate(columns) if len(set(column)) > 1]
    # The slowest column is the variable itself; the others are multiples of it.
    for at in sorted(varying, key=lambda at: (max(columns[at]) - min(columns[at]), min(columns[at]), at)):
        for base in dict.fromkeys(one[0] for one in found.values()):
            line = _multiple(columns[base], columns[at])
            if line is not None:
                found[at] = (base, *line)
                break
        else:
            found[at] = (at, 1, 0)
    for base in {one[0] for one in found.values()}:
        sides = {at < on_left for at, one in found.items() if one[0] == base}
        if len(sides) < 2:
            return base
    return found


def _multiple(base: tuple[int, ...], column: tuple[int, ...]) -> tuple[int, int] | None:
    """Factor and offset by which a column follows from another."""
    a, b = next((x, y) for x, y in zip(base, column, strict=True) if x != base[0])
    factor, rest = divmod(b - column[0], a - base[0])
    offset = column[0] - factor * base[0]
    if rest or factor < 1 or any(y != factor * x + offset for x, y in zip(base, column, strict=True)):
        return None
    return factor, offset


def _patterns(
    names: tuple[str, ...], columns: Sequence[tuple[int, ...]], variables: Mapping[int, tuple[int, int, int]]
) -> tuple[str, ...]:
    bases = sorted({one[0] for one in variables.values()})
    letters = dict(zip(bases, INDICES, strict=False))
    at = -1
    found = []
    for name in names:

        def written(match: re.Match[str]) -> str:
            nonlocal at
            at += 1
            if at not in variables:
                return match.group()
            base, factor, offset = variables[at]
            letter = letters[base]
            times, plus = f"{factor}*" if factor > 1 else "", f"{offset:+d}" if offset else ""
            return f"{{{times}{letter}{plus}}}"

        found.append(_NUMBER.sub(written, name))
    return tuple(found)


def _too_much(
    group: list[Written],
    columns: Sequence[tuple[int, ...]],
    variables: Mapping[int, tuple[int, int, int]],
    known: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> bool:
    """Whether the folded names would cover tensors that are not in the group."""
    at = 0
    for side, terms in enumerate((group[0].left, group[0].right)):
        for term in terms:
            width = len(_numbers(term))
            mine = set(zip(*columns[at : at + width], strict=True)) if width else set()
            fixed = {n: columns[at + n][0] for n in range(width) if at + n not in variables}
            for numbers in known[side].get(_template(term), ()):
                if numbers not in mine and all(numbers[n] == value for n, value in fixed.items()):
                    return True
            at += width
    return False
