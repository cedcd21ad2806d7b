"""Name patterns: `encoder.layer.{i}.attention.{n:weight|bias}`, matched whole, segment by segment.

A pattern is a list of segments; a segment is literal text with indices and choices in it, or `*`; the last may be `**`.
No pattern crosses a dot but `**`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Index:
    """A number: `{i}`, `{i+1}`, `{2*i+1}`."""

    variable: str
    factor: int = 1
    shift: int = 0

    def number(self, value: int) -> int:
        """What is written where the variable has this value."""
        return self.factor * value + self.shift

    def value(self, number: int) -> int | None:
        """The variable's value where this number is written, if it can be."""
        value, rest = divmod(number - self.shift, self.factor)
        return value if rest == 0 and value >= 0 else None

    def __str__(self) -> str:
        factor = "" if self.factor == 1 else f"{self.factor}*"
        shift = "" if self.shift == 0 else f"{self.shift:+d}"
        return f"{{{factor}{self.variable}{shift}}}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several words: `{n:gamma|beta}`."""

    variable: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{{{self.variable}:{'|'.join(self.words)}}}"


@dataclass(frozen=True, slots=True)
class Group:
    """Several names in this order: `{q,k,v}`."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{{{','.join(self.words)}}}"


Part: TypeAlias = "str | Index | Choice | Group"
STAR = "*"
STARS = "**"

Segment: TypeAlias = "tuple[Part, ...] | str"
"""Parts that stand side by side, or `*`, or `**`."""

Binding: TypeAlias = "dict[str, int | str]"
"""What a matched name says: numbers of indices, positions of choices, texts of stars (`*0`, `*1`, …, `**`)."""


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A pattern of tensor names.

    Args:
        segments: What stands between the dots.
    """

    segments: tuple[Segment, ...]

    def __str__(self) -> str:
        return ".".join(s if isinstance(s, str) else "".join(map(str, s)) for s in self.segments)

    def terms(self) -> tuple[NamePattern, ...]:
        """The pattern once for each word of its group; itself, if it has none."""
        groups = [part for part in self.parts() if isinstance(part, Group)]
        return tuple(self._with(dict(zip(groups, words, strict=True))) for words in product(*(g.words for g in groups)))

    def _with(self, words: Mapping[Group, str]) -> NamePattern:
        if not words:
            return self
        return NamePattern(
            tuple(
                s if isinstance(s, str) else joined(words[p] if isinstance(p, Group) else p for p in s)
                for s in self.segments
            )
        )

    @property
    def indices(self) -> tuple[str, ...]:
        """Variables that stand for numbers, each once."""
        return tuple(dict.fromkeys(part.variable for part in self.parts() if isinstance(part, Index)))

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """Words of each choice."""
        return {part.variable: part.words for part in self.parts() if isinstance(part, Choice)}

    @property
    def stars(self) -> int:
        """How many `*` there are."""
        return sum(segment == STAR for segment in self.segments)

    @property
    def variables(self) -> frozenset[str]:
        """Whatever a name of it can tell: indices, choices, stars."""
        stars = {f"*{at}" for at in range(self.stars)} | ({STARS} if self.open_ended else set())
        return frozenset({*self.indices, *self.choices, *stars})

    @property
    def open_ended(self) -> bool:
        """Whether it ends in `**`."""
        return self.segments[-1:] == (STARS,)

    def parts(self) -> Iterator[Part]:
        """Everything in the segments that are not stars."""
        for segment in self.segments:
            if not isinstance(segment, str):
                yield from segment

    def matcher(self) -> Matcher:
        """The pattern made ready to match many names."""
        return Matcher(self)

    def writer(self) -> Writer:
        """The pattern made ready to write many names."""
        return Writer(self)

    def expand(self, binding: Mapping[str, int | str]) -> str:
        """The name for these values."""
        return Writer(self).write(binding)


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts with neighbouring texts made one, as they would have been read."""
    result: list[Part] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        else:
            result.append(part)
    return tuple(result)


class Matcher:
    """Matches whole names against one pattern that has no group."""

    def __init__(self, pattern: NamePattern) -> None:
        self._places: list[tuple[str, Callable[[str], int | str | None]]] = []
        self._stars = 0
        self._regex = re.compile(r"\.".join(map(self._segment, pattern.segments)), re.DOTALL)

    def match(self, name: str) -> Binding | None:
        """The values that make the pattern this name, if there are any."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        binding: Binding = {}
        for (key, value_of), text in zip(self._places, found.groups(), strict=True):
            value = value_of(text)
            if value is None or binding.setdefault(key, value) != value:
                return None
        return binding

    def _segment(self, segment: Segment) -> str:
        if segment == STAR:
            self._places.append((f"*{self._stars}", str))
            self._stars += 1
            return r"([^.]+)"
        if segment == STARS:
            self._places.append((STARS, str))
            return r"(.+)"
        text = ""
        for part in segment:
            if isinstance(part, Index):
                plain = part.factor == 1 and part.shift == 0
                self._places.append((part.variable, int if plain else partial(_value_of, part)))
                text += "(0|[1-9][0-9]{0,17})"
            elif isinstance(part, Choice):
                self._places.append((part.variable, part.words.index))
                text += f"({'|'.join(map(re.escape, part.words))})"
            else:
                text += re.escape(str(part))
        return text


def _value_of(index: Index, digits: str) -> int | None:
    return index.value(int(digits))


class Writer:
    """Writes the names of one pattern that has no group."""

    def __init__(self, pattern: NamePattern) -> None:
        self._places: list[Index | Choice | str] = []
        stars = 0
        texts = []
        for segment in pattern.segments:
            if isinstance(segment, str):
                self._places.append(STARS if segment == STARS else f"*{stars}")
                stars += segment == STAR
                texts.append("%s")
                continue
            self._places += [part for part in segment if isinstance(part, Index | Choice)]
            texts.append("".join("%s" if isinstance(p, Index | Choice) else str(p).replace("%", "%%") for p in segment))
        self._text = ".".join(texts)

    def write(self, binding: Mapping[str, int | str]) -> str:
        """The name for these values."""
        return self._text % tuple([_written(place, binding) for place in self._places])


def _written(place: Index | Choice | str, binding: Mapping[str, int | str]) -> int | str:
    if isinstance(place, str):
        return binding[place]
    value = int(binding[place.variable])
    return place.words[value] if isinstance(place, Choice) else place.factor * value + place.shift
