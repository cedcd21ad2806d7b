"""Equations that differ in numbers only become one line with indices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ckptmap.infer.equations import Written
from ckptmap.infer.lines import Line
from ckptmap.infer.unstack import stacked, whole_name
from ckptmap.rules.rules import NOWHERE

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes

INDICES = "ijln"
"""Names of indices; none is the name of an axis."""

_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]*)(?![0-9])")


def folded(said: Sequence[Written], left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> list[Line]:
    """Equations that differ in numbers only become one line with indices."""
    place = {name: number for number, name in enumerate(left)}
    known = (_by_template(left), _by_template(right))
    groups: dict[Any, list[Written]] = {}
    for one in said:
        key = (tuple(map(template_of, one.left)), tuple(map(template_of, one.right)), one.left_shapes, one.right_shapes)
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


@lru_cache(maxsize=1 << 17)
def _parted(name: str) -> tuple[str, tuple[int, ...]]:
    """The name with `#` for its numbers, and the numbers."""
    parts = _NUMBER.split(name)
    return "#".join(parts[::2]), tuple(map(int, parts[1::2]))


def template_of(name: str) -> str:
    """The name with `#` for its numbers."""
    return _parted(name)[0]


def numbers_of(name: str) -> tuple[int, ...]:
    """The numbers in a name."""
    return _parted(name)[1]


def _by_template(names: Iterable[str]) -> dict[str, list[tuple[int, ...]]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for name in names:
        found.setdefault(template_of(name), []).append(numbers_of(name))
    return found


def _fold(
    group: list[Written], known: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> Iterator[tuple[list[Written], tuple[str, ...]]]:
    names = [(*one.left, *one.right) for one in group]
    if len(group) == 1:
        yield group, names[0]
        return
    rows = [[number for name in row for number in numbers_of(name)] for row in names]
    columns = [tuple(column) for column in zip(*rows, strict=True)]
    on_left = sum(len(numbers_of(name)) for name in group[0].left)
    variables = _variables(columns, on_left)
    if isinstance(variables, int):
        # This number has no like on the other side: one line for each of its values.
        for value in dict.fromkeys(columns[variables]):
            yield from _fold([one for one, n in zip(group, columns[variables], strict=True) if n == value], known)
        return
    patterns = _patterns(names[0], columns, variables)
    if _too_much(group, columns, variables, known):
        # Some layers may be missing where all experts of each are there: then each layer is a line.
        first = min(one[0] for one in variables.values())
        parts = [
            [one for one, n in zip(group, columns[first], strict=True) if n == value] for value in {*columns[first]}
        ]
        for part in sorted(parts, key=lambda part: group.index(part[0])):
            yield from _fold(part, known)
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
            width = len(numbers_of(term))
            mine = set(zip(*columns[at : at + width], strict=True)) if width else set()
            # A number that stays is one whose factor is nought.
            steps = [variables.get(at + n, (0, 0, columns[at + n][0]))[1:] for n in range(width)]
            for numbers in known[side].get(template_of(term), ()):
                if numbers not in mine and all(map(_reaches, steps, numbers)):
                    return True
            at += width
    return False


def _reaches(step: tuple[int, int], number: int) -> bool:
    """Whether a factor and an offset lead to this number from some index."""
    factor, offset = step
    return number == offset if not factor else number >= offset and (number - offset) % factor == 0
