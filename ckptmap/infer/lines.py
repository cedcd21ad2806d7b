"""Lines of a rule file as a person writes them: weight and bias together, common words once, prefixes as sections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptmap.rules.rules import NOWHERE

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes

_KINDS = ("weight", "bias")


@dataclass(frozen=True)
class Line:
    """A rule in the making: terms as they will stand, with the tensors it is about."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    left_shapes: tuple[str, ...]
    right_shapes: tuple[str, ...]
    place: int
    guess: bool = False

    def __str__(self) -> str:
        text = f"{'guess ' if self.guess else ''}{_terms(self.left)} <-> {_terms(self.right)}"
        if not self.left_shapes:
            return text
        return f"{text} : {_shapes(self.left_shapes)} <-> {_shapes(self.right_shapes)}"


def kinds_joined(lines: list[Line], left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> list[Line]:
    """Weight and bias that go the same way share a line."""
    found: list[Line] = []
    by_stem = {(_stems(line.left, "bias"), _stems(line.right, "bias"), line.guess): line for line in lines}
    joined: set[int] = set()
    for line in lines:
        stems = (_stems(line.left, "weight"), _stems(line.right, "weight"))
        bias = by_stem.get((*stems, line.guess)) if stems[0] and stems[1] else None
        shapes = _common_shapes(line, bias) if bias is not None else None
        if bias is None or shapes is None:
            found.append(line)
            continue
        joined.add(id(bias))
        alone = not shapes[0] and _only_kinds(stems[0], left) and _only_kinds(stems[1], right)
        kind = "*" if alone else "{kind:weight|bias}"
        again = "*" if alone else "{kind}"
        found.append(
            Line(
                tuple(f"{stem}{kind}" for stem in stems[0]),
                tuple(f"{stem}{again}" for stem in stems[1]),
                *shapes,
                min(line.place, bias.place),
                line.guess,
            )
        )
    return [line for line in found if id(line) not in joined]


def _stems(terms: tuple[str, ...], kind: str) -> tuple[str, ...]:
    """The names without this last segment; nothing if one of them has another."""
    if not all(term == kind or term.endswith(f".{kind}") for term in terms):
        return ()
    return tuple(term.removesuffix(kind) for term in terms)


def _common_shapes(weight: Line, bias: Line) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    if weight.left_shapes == bias.left_shapes and weight.right_shapes == bias.right_shapes:
        return weight.left_shapes, weight.right_shapes
    shapes = [*weight.left_shapes, *weight.right_shapes]
    if not bias.left_shapes or not shapes:
        return None
    last = {shape.rpartition(" ")[2] for shape in shapes}
    if len(last) != 1 or not next(iter(last)).isalpha():
        return None
    cut = [shape.rpartition(" ")[0] for shape in shapes]
    split = len(weight.left_shapes)
    if (tuple(cut[:split]), tuple(cut[split:])) != (bias.left_shapes, bias.right_shapes):
        return None
    rest = tuple(f"{shape} ..." for shape in cut)
    return rest[:split], rest[split:]


def _only_kinds(stems: tuple[str, ...], names: Iterable[str]) -> bool:
    """Whether nothing but a weight and a bias stands beneath these names."""
    templates = [re.compile(re.sub(r"\\\{.*?\}", "[0-9]+", re.escape(stem)) + r"([^.]+)") for stem in stems]
    return all(
        match.group(1) in _KINDS for name in names for one in templates if (match := one.fullmatch(name)) is not None
    )


def sections(lines: list[Line]) -> Iterator[str]:
    """Lines, those with common prefixes under a heading."""
    found: dict[tuple[str, str] | None, list[Line]] = {}
    for line in sorted(lines, key=lambda line: line.place):
        found.setdefault(_prefixes(line), []).append(line)
    yield from map(str, found.pop(None, ()))
    for prefixes, part in found.items():
        assert prefixes is not None
        yield f"[{prefixes[0]} <-> {prefixes[1]}]"
        for line in part:
            left, right = (
                tuple(term.removeprefix(f"{prefix}.") for term in terms)
                for prefix, terms in zip(prefixes, (line.left, line.right), strict=True)
            )
            yield str(replace(line, left=left, right=right))


def _prefixes(line: Line) -> tuple[str, str] | None:
    """What stands up to the first index on both sides, if all names share it."""
    found = []
    for terms in (line.left, line.right):
        heads = {_prefix(term) for term in terms if term != NOWHERE}
        if len(heads) != 1:
            return None
        found.append(heads.pop())
    return (found[0], found[1]) if found[0] and found[1] else None


def _prefix(term: str) -> str:
    segments = term.split(".")
    for at, segment in enumerate(segments[:-1]):
        if re.search(r"\{[0-9]*\*?[a-z][+-]?[0-9]*\}", segment):
            return ".".join(segments[: at + 1])
    return ""


def _terms(terms: tuple[str, ...]) -> str:
    """Names that differ in one word of one segment are written as a group."""
    parted = [term.split(".") for term in terms]
    alike = len({len(one) for one in parted}) == 1 and NOWHERE not in terms
    if len(terms) > 1 and alike and len(set(terms)) == len(terms):
        differs = [at for at in range(len(parted[0])) if len({one[at] for one in parted}) > 1]
        words = [one[differs[0]] for one in parted]
        if len(differs) == 1 and all(re.fullmatch(r"[A-Za-z_]\w*", word) for word in words):
            segments = list(parted[0])
            segments[differs[0]] = "{" + ",".join(words) + "}"
            return ".".join(segments)
    return ", ".join(terms)


def _shapes(shapes: tuple[str, ...]) -> str:
    return shapes[0] if len(set(shapes)) == 1 else ", ".join(shapes)
