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

    def add(self, number: str, rest: str, shape: Sizes) -> None:
        """Note a tensor beneath a number."""
        # Right beneath a number, in a module that holds tensors only, shapes count too.
        self.below.setdefault(number, set()).add((rest, shape) if rest.count(".") <= 1 else rest)
        self.tensors += 1
        self.nested += SLOT in rest and "expert" not in rest


def templates(shapes: Mapping[str, Sizes]) -> list[Template]:
    """All tensors of an inventory by template, in order of first appearance.

    A segment of digits is an index if its siblings are numbered modules of like structure, or if it is a lone layer;
    `fc.0` and `fc.3` of a Sequential, which have different shapes, keep their numbers.
    """
    numbers = {name: list(_NUMBER.finditer(name)) for name in shapes}
    places: dict[str, _Numbered] = {}
    for name, matches in numbers.items():
        rest, end = "", len(name)
        for match in reversed(matches):
            start, stop = match.span()
            rest = name[stop:end] + rest
            places.setdefault(name[:start], _Numbered()).add(name[start:stop], rest, shapes[name])
            rest, end = SLOT + rest, start
    indices = {place: _stacks(numbered) for place, numbered in places.items()}
    found: dict[str, Template] = {}
    for name, matches in numbers.items():
        made, done = "", 0
        ranks: list[int] = []
        for match in matches:
            start, stop = match.span()
            index = indices[name[:start]].get(name[start:stop])
            if index is not None:
                ranks.append(index[0])
                turn = "" if index[1] is None else f".kind{chr(97 + index[1])}"
                made += f"{name[done:start]}{SLOT}{turn}"
                done = stop
        made += name[done:]
        template = found.get(made)
        if template is None:
            template = found[made] = Template(tuple(made.split(".")))
        place = tuple(ranks)
        template.names[place] = name
        template.shapes[place] = shapes[name]
    return list(found.values())


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
