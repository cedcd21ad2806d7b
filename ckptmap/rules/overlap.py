"""Whether two name patterns can match one name, exactly; and a tree that finds the few patterns a name can match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import gcd
from typing import Generic, TypeAlias, TypeVar

from ckptmap.rules.names import STAR, STARS, Choice, Index, NamePattern, Part, Segment

_NUMBER = re.compile(r"0|[1-9][0-9]*")
_RUNS = re.compile(r"[0-9]+|[^0-9]+")
_DIGITS = re.compile(r"[0-9]+")

Value = TypeVar("Value")


class PatternTree(Generic[Value]):
    """Patterns by their segments, numbers blotted out: few candidates are left for any name.

    A name is looked up once for each of its kind: `layers.7.weight` finds what `layers.3.weight` found.
    """

    def __init__(self) -> None:
        self._root: dict[str, object] = {}
        self._leaves: dict[int, list[tuple[NamePattern, Value]]] = {}
        self._numbered: dict[int, dict[tuple[int, str], list[Value]]] = {}
        """Leaves by the first literal segment with digits, which alone tells `block12` from `block13` here."""
        self._found: dict[str, _Candidates[Value]] = {}

    def add(self, pattern: NamePattern, value: Value) -> None:
        """Add a pattern without groups."""
        self._found.clear()
        for node in self._nodes([self._root], pattern):
            self._leaves.setdefault(id(node), []).append((pattern, value))
            self._numbered.setdefault(id(node), {}).setdefault(_first_numbered(pattern), []).append(value)

    def candidates(self, name: str) -> Sequence[Value]:
        """Values of the patterns that may match the name."""
        blotted = _DIGITS.sub("#", name)
        found = self._found.get(blotted)
        if found is None:
            found = self._found[blotted] = _Candidates(list(self._walk([{s} for s in blotted.split(".")], False)))
        return found.of(name)

    def near(self, pattern: NamePattern) -> Iterator[Value]:
        """Values of the patterns that may match a name which this pattern matches."""
        segments = [None if s == STAR else _blotted(s) for s in pattern.segments if s != STARS]
        own = {at: str(s[0]) for at, s in enumerate(pattern.segments) if _is_literal(s) and len(s) == 1}
        for node in self._nodes_of(segments, pattern.open_ended):
            leaves = self._numbered.get(id(node), {})
            places = {at for at, _ in leaves} if len(leaves) > 1 else set()
            if len(places) == 1 and (at := places.pop()) in own:
                yield from leaves.get((at, own[at]), ())
            else:
                yield from (value for values in leaves.values() for value in values)

    def _nodes(self, nodes: list[dict[str, object]], pattern: NamePattern) -> list[dict[str, object]]:
        for segment in pattern.segments:
            keys = {str(segment)} if isinstance(segment, str) else _blotted(segment)
            nodes = [node.setdefault(key, {}) for node in nodes for key in keys]  # type: ignore[misc]
        return nodes

    def _walk(self, segments: list[set[str] | None], open_ended: bool) -> Iterator[tuple[NamePattern, Value]]:
        for node in self._nodes_of(segments, open_ended):
            yield from self._leaves.get(id(node), ())

    def _nodes_of(self, segments: list[set[str] | None], open_ended: bool) -> list[dict[str, object]]:
        nodes = [self._root]
        found: list[dict[str, object]] = []
        for keys in segments:
            found += [node[STARS] for node in nodes if STARS in node]  # type: ignore[misc]
            nodes = [
                node[key]  # type: ignore[misc]
                for node in nodes
                for key in (node if keys is None else (*keys, STAR))
                if key != STARS and key in node
            ]
        if open_ended:
            while nodes:
                nodes = [child for node in nodes for child in node.values()]  # type: ignore[misc]
                found += nodes
        else:
            found += nodes
        return found


class _Candidates(Generic[Value]):
    """Patterns that names of one kind may match, told apart by the segments that are literal in all of them."""

    def __init__(self, found: list[tuple[NamePattern, Value]]) -> None:
        self._literal: list[int] = []
        self._by_words: dict[tuple[str, ...], list[Value]] = {}
        if len(found) > 1:
            shortest = min(len(pattern.segments) for pattern, _ in found)
            for at in range(shortest):
                if all(_is_literal(pattern.segments[at]) for pattern, _ in found):
                    self._literal.append(at)
        for pattern, value in found:
            words = tuple("".join(map(str, pattern.segments[at])) for at in self._literal)
            self._by_words.setdefault(words, []).append(value)

    def of(self, name: str) -> Sequence[Value]:
        if not self._literal:
            return self._by_words.get((), ())
        segments = name.split(".")
        return self._by_words.get(tuple([segments[at] for at in self._literal]), ())


def _is_literal(segment: Segment) -> bool:
    return not isinstance(segment, str) and all(isinstance(part, str) for part in segment)


def _first_numbered(pattern: NamePattern) -> tuple[int, str]:
    """Place and text of the first literal segment with digits; -1 if there is none."""
    for at, segment in enumerate(pattern.segments):
        if _is_literal(segment) and len(segment) == 1 and _DIGITS.search(text := str(segment[0])):
            return at, text
    return -1, ""


def _blotted(segment: Segment) -> set[str]:
    """The segment with numbers as `#`, for each of its choices."""
    texts = [
        part.words if isinstance(part, Choice) else ("0",) if isinstance(part, Index) else (str(part),)
        for part in segment
    ]
    return {_DIGITS.sub("#", "".join(words)) for words in product(*texts)}


def overlap(one: NamePattern, other: NamePattern) -> bool:
    """Whether some name matches both patterns; exact, since indices never stand beside digits."""
    if not one.open_ended and not other.open_ended and len(one.segments) != len(other.segments):
        return False
    pairs = _aligned(one.segments, other.segments)
    if pairs is None or any(a != b and _is_literal(a) and _is_literal(b) for a, b in pairs):
        return False
    for ours in _choices(one):
        for theirs in _choices(other):
            system = _Equations({"1": one, "2": other})
            if all(_agree(a, b, ours, theirs, system) for a, b in pairs):
                return True
    return False


def _aligned(one: tuple[Segment, ...], other: tuple[Segment, ...]) -> list[tuple[Segment, Segment]] | None:
    """The segments that must agree; what `**` covers on one side agrees with anything."""
    open_one, open_other = one[-1:] == (STARS,), other[-1:] == (STARS,)
    # `**` stands for one segment at least, so a pattern has as many segments as a name at the least.
    if (open_one and not open_other and len(other) < len(one)) or (
        open_other and not open_one and len(one) < len(other)
    ):
        return None
    return [pair for pair in zip(one, other, strict=False) if STARS not in pair]


def _choices(pattern: NamePattern) -> Iterator[Mapping[str, int]]:
    choices = pattern.choices
    for at in product(*(range(len(words)) for words in choices.values())):
        yield dict(zip(choices, at, strict=True))


def _agree(
    one: Segment, other: Segment, ours: Mapping[str, int], theirs: Mapping[str, int], system: _Equations
) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return True
    left, right = _tokens(one, ours, "1"), _tokens(other, theirs, "2")
    if len(left) != len(right):
        return False
    return all(_alike(a, b, system) for a, b in zip(left, right, strict=True))


Token: TypeAlias = "str | tuple[str, Index]"


def _alike(a: Token, b: Token, system: _Equations) -> bool:
    if isinstance(a, str):
        if isinstance(b, str):
            return a == b
        a, b = b, a
    if isinstance(b, str):
        return _NUMBER.fullmatch(b) is not None and system.number(*a, int(b))
    return system.equal(a, b)


def _tokens(segment: Iterable[Part], at: Mapping[str, int], side: str) -> list[Token]:
    """A segment as texts, runs of digits and indices, which every name that matches it falls into alike."""
    tokens: list[Token] = []
    text = ""
    for part in segment:
        if isinstance(part, Index):
            tokens += _RUNS.findall(text)
            text = ""
            tokens.append((side + part.variable, part))
        else:
            text += part.words[at[part.variable]] if isinstance(part, Choice) else str(part)
    return tokens + _RUNS.findall(text)


class _Equations:
    """Equations between indices of two patterns, solved in whole numbers from 0.

    Every variable is kept as slope × parameter + offset, parameters from 0; an equation joins two parameters into one,
    or fixes one. Offsets start where the pattern's numbers are not negative (`{i-1}`: i from 1), and only grow.
    """

    def __init__(self, patterns: Mapping[str, NamePattern]) -> None:
        self._forms: dict[str, tuple[int, int, int]] = {}  # variable -> parameter, slope, offset
        for side, pattern in patterns.items():
            for index in (part for part in pattern.parts() if isinstance(part, Index)):
                name = side + index.variable
                least = max(-(index.shift // index.factor), 0)
                parameter, slope, offset = self._forms.get(name, (len(self._forms) + 1, 1, 0))
                self._forms[name] = parameter, slope, max(offset, least)
        self._parameters = len(self._forms)

    def number(self, variable: str, index: Index, number: int) -> bool:
        """Whether the index can be written as this number, beside all that was said before."""
        value = index.value(number)
        if value is None:
            return False
        parameter, slope, offset = self._forms[variable]
        return self._solve(slope, value - offset, parameter)

    def equal(self, one: tuple[str, Index], other: tuple[str, Index]) -> bool:
        """Whether two indices can be written alike, beside all that was said before."""
        (p, a, b), (q, c, d) = (self._number_form(*side) for side in (one, other))
        # a·t + b = c·u + d
        if p == q:
            return self._solve(a - c, d - b, p)
        if a == 0:
            return self._solve(c, b - d, q)
        if c == 0:
            return self._solve(a, d - b, p)
        common = gcd(a, c)
        if (d - b) % common:
            return False
        step, rise = c // common, a // common
        t = (d - b) // common * pow(rise, -1, step) % step
        t += max(0, -((a * t + b - d) // (a * step))) * step  # u is not negative either
        u = (a * t + b - d) // c
        self._parameters += 1
        joins = {p: (step, t), q: (rise, u)}
        for name, (parameter, slope, offset) in self._forms.items():
            if parameter in joins:
                times, start = joins[parameter]
                self._forms[name] = self._parameters, slope * times, slope * start + offset
        return True

    def _number_form(self, variable: str, index: Index) -> tuple[int, int, int]:
        parameter, slope, offset = self._forms[variable]
        return parameter, slope * index.factor, offset * index.factor + index.shift

    def _solve(self, slope: int, total: int, parameter: int) -> bool:
        """slope × parameter = total."""
        if slope == 0:
            return total == 0
        value, rest = divmod(total, slope)
        if rest or value < 0:
            return False
        for name, (p, a, b) in self._forms.items():
            if p == parameter:
                self._forms[name] = p, 0, a * value + b
        return True
