"""Stacks of layers on both sides, and which layer is which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.errors import PlanError
from ckptmap.infer.templates import SLOT
from ckptmap.infer.unstack import MARK
from ckptmap.infer.words import EXPERT, all_words, words

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes
    from ckptmap.infer.templates import Path, Ranks, Template

Units: TypeAlias = "dict[tuple[int, ...], tuple[str, Sizes]]"
"""Name and shape of each tensor of a template by its layer's common number and the indices below it."""

LEAST = 4
"""A stack's layers have at least so many tensors; fewer are parts of something else."""

COMPONENTS = {
    "encoder": "encoder",
    "enc": "encoder",
    "decoder": "decoder",
    "dec": "decoder",
    "vision": "vision",
    "visual": "vision",
    "image": "vision",
    "text": "text",
    "textual": "text",
    "language": "text",
    "audio": "audio",
    "qformer": "qformer",
}


@dataclass(eq=False)
class Stack:
    """Layers of one kind.

    Attributes:
        prefix: Their common path, an index at its end.
        templates: What a layer holds.
        places: Ranks of the layers, in order.
    """

    prefix: Path
    templates: list[Template] = field(default_factory=list)
    places: list[Ranks] = field(default_factory=list)

    @property
    def depth(self) -> int:
        """How many indices its prefix has."""
        return self.prefix.count(SLOT)

    @property
    def volume(self) -> int:
        """Elements of all its layers."""
        return sum(prod(shape) for one in self.templates for shape in one.shapes.values())

    @property
    def component(self) -> frozenset[str]:
        """Which part of the model its names say it is."""
        return component(self.prefix)


def component(path: Path) -> frozenset[str]:
    """Encoder, decoder, text, vision, …: what words of the path say of the part of the model."""
    found = frozenset(COMPONENTS[word] for word in all_words(path) if word in COMPONENTS)
    return found - {"encoder"} if len(found) > 1 else found


def stacks_of(templates: Sequence[Template]) -> tuple[list[Stack], list[Template]]:
    """Stacks of layers, and what stands beside them."""
    counts: dict[Path, int] = {}
    for one in templates:
        for prefix in _prefixes(one.path):
            counts[prefix] = counts.get(prefix, 0) + 1
    stacks: dict[Path, Stack] = {}
    outside: list[Template] = []
    for one in templates:
        homes = [prefix for prefix in _prefixes(one.path) if counts[prefix] >= LEAST]
        if not homes:
            outside.append(one)
            continue
        stacks.setdefault(homes[-1], Stack(homes[-1])).templates.append(one)
    for stack in stacks.values():
        depth = stack.depth
        stack.places = sorted({ranks[:depth] for one in stack.templates for ranks in one.names})
    return list(stacks.values()), outside


def _prefixes(path: Path) -> Iterable[Path]:
    for at, segment in enumerate(path[:-1]):
        if segment == SLOT and at and not EXPERT & {*words(path[at - 1])}:
            yield path[: at + 1]


@dataclass(frozen=True)
class Layers:
    """Two stacks that are one, and which layer is which: the same number for both.

    Attributes:
        left: A stack.
        right: Its like.
        numbers: For each side, the common number of a layer by its ranks.
    """

    left: Stack
    right: Stack
    numbers: tuple[dict[Ranks, int], dict[Ranks, int]]


@dataclass(frozen=True)
class Paired:
    """Stacks of two models, put together.

    Attributes:
        layers: Those that are one.
        left: Left stacks without a like.
        right: Right stacks without a like.
        uneven: Stacks that would be one if they had as many layers.
    """

    layers: list[Layers]
    left: list[Stack]
    right: list[Stack]
    uneven: tuple[Stack, Stack] | None = None


def paired_stacks(left: list[Stack], right: list[Stack], chosen: str | None) -> Paired:
    """Put stacks together by size, then by what their names say; several that are alike stay open.

    Args:
        left: Stacks of the left.
        right: Stacks of the right.
        chosen: Which layers of the longer stack are those of the shorter: `first 6`, `last 6`, `0,2,4`.

    Raises:
        PlanError: The choice of layers does not fit.
    """
    found: list[Layers] = []
    ours, theirs = list(left), list(right)

    def take(one: Stack, other: Stack) -> None:
        ours.remove(one)
        theirs.remove(other)
        found.append(_layers(one, other))

    def alike(one: Stack, other: Stack) -> bool:
        return len(one.places) == len(other.places) and one.volume == other.volume

    def same_part(one: Stack, other: Stack) -> bool:
        return len(one.places) == len(other.places) and one.component == other.component

    several = min(len(left), len(right)) > 1
    if several:
        # Two towers may be of one size: there words decide, and only they.
        for test in (lambda a, b: same_part(a, b) and a.volume == b.volume, same_part):
            for one in list(ours):
                likes = [other for other in theirs if test(one, other)]
                if len(likes) == 1 and sum(test(own, likes[0]) for own in ours) == 1 and one.component:
                    take(one, likes[0])
    for one in list(ours):
        likes = [other for other in theirs if alike(one, other)]
        if len(likes) == 1 and sum(alike(own, likes[0]) for own in ours) == 1 and not _contradict(one, likes[0]):
            take(one, likes[0])
    if len(ours) == len(theirs) == 1 and not (several and _contradict(ours[0], theirs[0])):
        if len(ours[0].places) == len(theirs[0].places):
            take(ours[0], theirs[0])
        elif chosen is not None:
            found.append(_chosen(ours[0], theirs[0], chosen))
            return Paired(found, [], [])
        else:
            return Paired(found, ours, theirs, (ours[0], theirs[0]))
    if chosen is not None:
        raise PlanError((f"layers {chosen!r}: both sides have as many layers; leave the choice out",))
    return Paired(found, ours, theirs)


def _contradict(one: Stack, other: Stack) -> bool:
    return bool(one.component and other.component and not one.component & other.component)


def _layers(one: Stack, other: Stack) -> Layers:
    numbers = ({ranks: at for at, ranks in enumerate(stack.places)} for stack in (one, other))
    return Layers(one, other, (next(numbers), next(numbers)))


def _chosen(one: Stack, other: Stack, text: str) -> Layers:
    longer, shorter = (one, other) if len(one.places) > len(other.places) else (other, one)
    count, total = len(shorter.places), len(longer.places)
    kept = _which(text, total)
    if kept is None or len(kept) != count or len({*kept}) != count:
        raise PlanError(
            (
                f"layers {text!r}: must name {count} of {total} layers: 'first {count}', 'last {count}', "
                f"or numbers from 0 such as '{','.join(str(n * total // count) for n in range(count))}'",
            )
        )
    numbers = {longer.places[place]: at for at, place in enumerate(kept)}
    others = {ranks: at for at, ranks in enumerate(shorter.places)}
    return Layers(one, other, (numbers, others) if longer is one else (others, numbers))


def _which(text: str, total: int) -> list[int] | None:
    said = text.split()
    if len(said) == 2 and said[0] in ("first", "last") and said[1].isdigit() and int(said[1]) <= total:
        count = int(said[1])
        return list(range(count)) if said[0] == "first" else list(range(total - count, total))
    numbers = [part.strip() for part in text.split(",")]
    if all(part.isdigit() and int(part) < total for part in numbers):
        return [int(part) for part in numbers]
    return None


def units(template: Template, depth: int, numbers: dict[Ranks, int]) -> Units:
    """A template's tensors, where their layers have a like on the other side."""
    return {
        (numbers[ranks[:depth]], *ranks[depth:]): (name, template.shapes[ranks])
        for ranks, name in template.names.items()
        if ranks[:depth] in numbers
    }


def apart(stack: Units) -> Units:
    """Slices of stacked tensors, each by its number."""
    return {
        (*key, number): (f"{name}{MARK}{number}", shape[1:])
        for key, (name, shape) in stack.items()
        if len(shape) > 1
        for number in range(shape[0])
    }
