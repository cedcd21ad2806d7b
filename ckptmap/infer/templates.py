"""Names with the numbers of layers, experts and stages taken out: what is left is the architecture's own vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes

SLOT = "#"
"""Stands in a path for an index."""

ALIKE = 0.5
"""Numbered modules are layers of one stack if they share at least this part of the names beneath them."""

LAYER = 4
"""A lone module numbered 0 is a stack of one layer if it holds at least so many tensors."""

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")
"""A segment of digits."""

_LAST = re.compile(r".*(?<![^.])[0-9]+(?![^.])")
"""A name up to its last segment of digits."""

Path: TypeAlias = "tuple[str, ...]"
Ranks: TypeAlias = "tuple[int, ...]"


@dataclass(eq=False)
class Template:
    """Tensors whose names differ in indices only.

    Attributes:
        path: Segments of the name, `#` where an index stands.
        names: The tensors, by the ranks of their indices among their siblings.
        shapes: Their shapes, by the same.
    """

    path: Path
    names: dict[Ranks, str] = field(default_factory=dict)
    shapes: dict[Ranks, Sizes] = field(default_factory=dict)

    @property
    def shape(self) -> Sizes:
        """The shape of the first one."""
        return next(iter(self.shapes.values()))

    def __str__(self) -> str:
        letters = iter("ijln")
        return ".".join("{" + next(letters, "n") + "}" if segment == SLOT else segment for segment in self.path)


@dataclass
class _Numbered:
    """What stands beneath each number at one place of the names."""

    below: dict[str, set[object]] = field(default_factory=dict)
    tensors: int = 0
    nested: int = 0


Leaves: TypeAlias = "tuple[tuple[str, Sizes], ...]"
"""What follows the last number of some names, and the tensors' shapes."""


def templates(shapes: Mapping[str, Sizes]) -> list[Template]:
    """All tensors of an inventory by template, in order of first appearance.

    A segment of digits is an index if its siblings are numbered modules of like structure, or if it is a lone layer;
    `fc.0` and `fc.3` of a Sequential, which have different shapes, keep their numbers.
    """
    heads: dict[str, list[tuple[str, Sizes]]] = {}
    for name, shape in shapes.items():
        match = _LAST.match(name)
        head = match.group() if match else ""
        heads.setdefault(head, []).append((name[len(head) :], shape))
    numbers = {head: [match.span() for match in _NUMBER.finditer(head)] for head in heads}
    indices = {place: _stacks(numbered) for place, numbered in _places(heads, numbers).items()}
    stems: dict[str, tuple[str, Ranks]] = {}
    for head, spans in numbers.items():
        made, done = "", 0
        ranks: list[int] = []
        for start, stop in spans:
            index = indices[head[:start]].get(head[start:stop])
            if index is not None:
                ranks.append(index[0])
                turn = "" if index[1] is None else f".kind{chr(97 + index[1])}"
                made += f"{head[done:start]}{SLOT}{turn}"
                done = stop
        stems[head] = made + head[done:], tuple(ranks)
    found: dict[str, Template] = {}
    for head, leaves in heads.items():
        stem, place = stems[head]
        for rest, shape in leaves:
            template = found.get(stem + rest)
            if template is None:
                template = found[stem + rest] = Template(tuple((stem + rest).split(".")))
            template.names[place] = head + rest
            template.shapes[place] = shape
    order = {name: at for at, name in enumerate(shapes)}
    return sorted(found.values(), key=lambda one: order[next(iter(one.names.values()))])


def _places(
    heads: Mapping[str, list[tuple[str, Sizes]]], numbers: Mapping[str, list[tuple[int, int]]]
) -> dict[str, _Numbered]:
    """Every place where names have a number, with what stands beneath its numbers."""
    places: dict[str, _Numbered] = {}
    beneath: dict[tuple[str, Leaves], tuple[frozenset[object], int]] = {}
    for head, listed in heads.items():
        leaves = tuple(listed)
        middle, end = "", len(head)
        for start, stop in reversed(numbers[head]):
            middle = head[stop:end] + middle
            key = middle, leaves
            if key not in beneath:
                beneath[key] = _beneath(middle, leaves)
            numbered = places.setdefault(head[:start], _Numbered())
            numbered.below.setdefault(head[start:stop], set()).update(beneath[key][0])
            numbered.tensors += len(leaves)
            numbered.nested += beneath[key][1]
            middle, end = SLOT + middle, start
    return places


def _beneath(middle: str, leaves: Leaves) -> tuple[frozenset[object], int]:
    """Names beneath a number, and how many of them have numbers of their own that are not experts'."""
    rests = [(middle + rest, shape) for rest, shape in leaves]
    # Right beneath a number, in a module that holds tensors only, shapes count too.
    named = frozenset((rest, shape) if rest.count(".") <= 1 else rest for rest, shape in rests)
    return named, sum(SLOT in rest and "expert" not in rest for rest, _ in rests)


def _stacks(numbered: _Numbered) -> dict[str, tuple[int, int | None]]:
    """Rank of each number that is an index, and the kind of its module where kinds take turns."""
    digits = sorted(numbered.below, key=int)
    if len(digits) == 1:
        # What holds layers itself is a wrapper, no layer.
        lone = digits[0] == "0" and numbered.tensors >= LAYER and 2 * numbered.nested < numbered.tensors
        return {"0": (0, None)} if lone else {}
    clusters: list[tuple[set[object], list[str]]] = []
    for digit in digits:
        below = numbered.below[digit]
        for like, members in clusters:
            if like == below or _likeness(like, below) >= ALIKE:
                members.append(digit)
                break
        else:
            clusters.append((below, [digit]))
    if len(clusters) == 1:
        return {digit: (rank, None) for rank, digit in enumerate(digits)}
    if len({len(members) for _, members in clusters}) == 1:
        if len(clusters[0][1]) == 1:
            return {}
        return {d: (rank, kind) for kind, (_, members) in enumerate(clusters) for rank, d in enumerate(members)}
    return {
        digit: (digits.index(digit), kind)
        for kind, (_, members) in enumerate(clusters)
        if len(members) > 1
        for digit in members
    }


def _likeness(one: set[object], other: set[object]) -> float:
    return len(one & other) / max(1, len(one | other))
