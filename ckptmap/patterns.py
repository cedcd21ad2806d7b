"""Many names as few lines: `encoder.layer.{0..11}.attention.{query,key,value}.weight`.

A pattern stands for exactly its names, no more and no fewer: indices that do not form a full grid are told
apart in several patterns, and a backslash stands before braces, commas and backslashes that names have of their own.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

MOST_SEGMENTS = 64
"""Names with more are nobody's layers, and would take a time that grows with the square of their length."""

Choice = tuple[str, ...]
"""The words that may stand in one segment of a name; a literal segment has one."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Names that differ in some segments only; it prints as one line.

    Args:
        segments: The words possible at each place, names being all combinations.
    """

    segments: tuple[Choice, ...]

    @property
    def first(self) -> str:
        """The first of its names."""
        return ".".join(choice[0] for choice in self.segments)

    def __len__(self) -> int:
        return prod(len(choice) for choice in self.segments)

    def __str__(self) -> str:
        return ".".join(map(_spell, self.segments))


def group(names: Iterable[str], traits: Mapping[str, Hashable] | None = None) -> list[Pattern]:
    """Cover names by patterns, in order of first appearance; names of very many segments stand alone, at the end.

    Args:
        names: Tensor names; dots part their segments, and a segment of digits is an index.
        traits: What must be equal within a pattern (shape and dtype, say), by name.
    """
    rows: dict[tuple[tuple[str | None, ...], Hashable], dict[tuple[str, ...], None]] = {}
    deep: list[Pattern] = []
    for name in names:
        if name.count(".") >= MOST_SEGMENTS:
            deep.append(Pattern(tuple((word,) for word in name.split("."))))
            continue
        segments = name.split(".")
        template = tuple(None if is_index(word) else word for word in segments)
        key = (template, traits[name] if traits else None)
        rows.setdefault(key, {})[tuple(word for word in segments if is_index(word))] = None
    patterns: list[tuple[Hashable, tuple[Choice, ...]]] = []
    for (template, trait), indices in rows.items():
        for grid in _grids(list(indices)):
            filled = iter(grid)
            patterns.append((trait, tuple(next(filled) if word is None else (word,) for word in template)))
    return [*(Pattern(segments) for _, segments in _merge_siblings(patterns)), *deep]


def is_index(word: str) -> bool:
    """Whether a segment of a name is a number."""
    # "07" is not an index: it would not come back from the number 7. Nor is a number longer than any count.
    return len(word) <= 18 and word.isascii() and word.isdigit() and (word == "0" or word[0] != "0")


def _grids(indices: Sequence[tuple[str, ...]]) -> list[tuple[Choice, ...]]:
    """Split index tuples into full grids: `{0,1} × {0..7}`, then what is left over."""
    if not indices or not indices[0]:
        return [()]
    tails: dict[str, list[tuple[str, ...]]] = {}
    for first, *rest in indices:
        tails.setdefault(first, []).append(tuple(rest))
    heads_of: dict[tuple[tuple[Choice, ...], ...], list[str]] = {}
    for first, rest_indices in tails.items():
        heads_of.setdefault(tuple(_grids(sorted(rest_indices, key=_numbers))), []).append(first)
    return [(tuple(sorted(heads, key=int)), *grid) for rest_grids, heads in heads_of.items() for grid in rest_grids]


def _numbers(words: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(map(int, words))


def _merge_siblings(patterns: list[tuple[Hashable, tuple[Choice, ...]]]) -> list[tuple[Hashable, tuple[Choice, ...]]]:
    """Join patterns that differ in one word: `query`, `key` and `value` beside each other."""
    deepest = max((len(segments) for _, segments in patterns), default=0)
    for from_end in range(1, deepest + 1):
        merged: dict[tuple[Hashable, ...], tuple[Hashable, list[Choice], int, dict[str, None]]] = {}
        for trait, segments in patterns:
            place = len(segments) - from_end
            if place < 0 or is_index(segments[place][0]):
                key: tuple[Hashable, ...] = (trait, segments)
                merged[key] = (trait, list(segments), -1, {})
                continue
            key = (trait, place, segments[:place], segments[place + 1 :])
            entry = merged.setdefault(key, (trait, list(segments), place, {}))
            entry[3].update(dict.fromkeys(segments[place]))
        patterns = []
        for trait, parts, place, words in merged.values():
            if place >= 0:
                parts[place] = tuple(words)
            patterns.append((trait, tuple(parts)))
    return patterns


def _spell(choice: Choice) -> str:
    if len(choice) == 1:
        return _literal(choice[0])
    if not is_index(choice[0]):
        return "{" + ",".join(map(_literal, choice)) + "}"
    runs: list[list[int]] = []
    for number in map(int, choice):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(_spell_run(run) for run in runs) + "}"


def _literal(word: str) -> str:
    return re.sub(r"([{},\\])", r"\\\1", word)


def _spell_run(run: list[int]) -> str:
    return ",".join(map(str, run)) if len(run) < 3 else f"{run[0]}..{run[-1]}"
