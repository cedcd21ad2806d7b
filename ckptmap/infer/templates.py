"""Names with the numbers of layers, experts and stages taken out: what is left is the architecture's own vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


class _Node:
    """A segment of names; a tensor if it has a name."""

    __slots__ = ("below", "children", "count", "name", "shape")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.name: str | None = None
        self.shape: Sizes = ()
        self.below: frozenset[tuple[object, ...]] = frozenset()
        self.count = 0


def templates(shapes: Mapping[str, Sizes]) -> list[Template]:
    """All tensors of an inventory by template, in order of first appearance.

    A segment of digits is an index if its siblings are numbered modules of like structure, or if it is a lone layer;
    `fc.0` and `fc.3` of a Sequential, which have different shapes, keep their numbers.
    """
    root = _Node()
    for name, shape in shapes.items():
        node = root
        for segment in name.split("."):
            node = node.children.setdefault(segment, _Node())
        node.name, node.shape = name, shape
    _summarise(root)
    found: dict[Path, Template] = {}
    places: dict[str, tuple[Path, Ranks]] = {one: (path, ranks) for one, path, ranks in _walk(root, (), ())}
    for name, shape in shapes.items():
        path, ranks = places[name]
        template = found.setdefault(path, Template(path))
        template.names[ranks] = name
        template.shapes[ranks] = shape
    return list(found.values())


def _summarise(node: _Node) -> None:
    """The names beneath, numbers taken out; beneath a module of tensors alone, with their shapes."""
    below: set[tuple[object, ...]] = set()
    node.count = int(node.name is not None)
    if node.name is not None:
        below.add((node.shape,))
    for segment, child in node.children.items():
        _summarise(child)
        node.count += child.count
        word = SLOT if segment.isdigit() else segment
        if not child.children:
            below.add((word, child.shape))
        else:
            below.update((word, *(one[:-1] if _ends_in_shape(one) else one)) for one in child.below)
    node.below = frozenset(below)


def _ends_in_shape(one: tuple[object, ...]) -> bool:
    return isinstance(one[-1], tuple)


def _walk(node: _Node, path: Path, ranks: Ranks) -> Iterator[tuple[str, Path, Ranks]]:
    if node.name is not None:
        yield node.name, path, ranks
    digits = sorted((one for one in node.children if one.isdigit()), key=int)
    stacks = _stacks(node, digits)
    for segment, child in node.children.items():
        place = stacks.get(segment)
        if place is None:
            yield from _walk(child, (*path, segment), ranks)
        else:
            rank, kind = place
            turn = () if kind is None else (f"kind{chr(97 + kind)}",)
            yield from _walk(child, (*path, SLOT, *turn), (*ranks, rank))


def _stacks(node: _Node, digits: list[str]) -> dict[str, tuple[int, int | None]]:
    """Rank of each digit that is an index, and the kind of its module where kinds take turns."""
    if not digits:
        return {}
    if len(digits) == 1:
        lone = digits[0] == "0" and node.children["0"].count >= LAYER
        return {"0": (0, None)} if lone else {}
    clusters: list[tuple[frozenset[tuple[object, ...]], list[str]]] = []
    for digit in digits:
        below = node.children[digit].below
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


def _likeness(one: frozenset[tuple[object, ...]], other: frozenset[tuple[object, ...]]) -> float:
    return len(one & other) / max(1, len(one | other))
