"""Values for both models: every element of every floating tensor gets one of its own, the right's through the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from ckptmap.infer.findings import Elements
    from ckptmap.infer.probe_runs import Subject, Values

ZERO = -2
"""In an element map: the rules put a zero there."""

DRAWS = 2
"""How often both models are filled."""

POSITIVE = ("running_var", "moving_variance")
"""Ends of the names of tensors whose values are no variances if they are negative."""

NEUTRAL = 0.1
"""What tensors without a rule are filled with where they shall not tell the two models apart."""


@dataclass(frozen=True)
class Filled:
    """Values of both sides.

    Attributes:
        left: For each of the left's tensors that are filled.
        right: The same for the right.
        apart: Right tensors that share storage and would have to hold different values.
    """

    left: Values
    right: Values
    apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loose:
    """Tensors that no rule gives, in whole or in part.

    Attributes:
        left: Names on the left; some element of each goes nowhere.
        right: Names on the right; some element of each comes from nowhere.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]


def drawn(left: Subject, right: Subject, elements: Elements, draw: int, *, neutral: bool = False) -> Filled:
    """Fill both models at random, the right as the rules say.

    Args:
        left: The left model, its tied tensors as one.
        right: The right model, likewise.
        elements: For right tensors the left elements that stand there; -1 for none, `ZERO` for zeros.
        draw: Which of the `DRAWS`.
        neutral: Whether what no rule gives gets one value on both sides, in place of values of its own.
    """
    random = numpy.random.default_rng(11 + draw)
    ours = {name: _fresh(name, left, random, signed=draw > 0) for name in _filled(left, _used(left, elements))}
    if neutral:
        loose = loose_tensors(left, right, elements)
        ours |= {name: numpy.full(left.shapes[name], NEUTRAL) for name in loose.left if name in ours}
    flat = numpy.concatenate([*_flat(left, ours), numpy.zeros(1)])
    theirs: dict[str, numpy.ndarray] = {}
    apart: list[str] = []
    given = {right.aliases.get(name, name) for name in elements}
    for name in _filled(right, given):
        shape = right.shapes[name]
        fresh = numpy.full(shape, NEUTRAL) if neutral else _fresh(name, right, random, signed=draw > 0)
        for one in (name, *(second for second, first in right.aliases.items() if first == name)):
            if one in elements:
                made = numpy.where(elements[one] == -1, fresh, flat[numpy.maximum(elements[one], -1)])
                made = numpy.where(elements[one] == ZERO, 0.0, made)
                if name in theirs and not (theirs[name] == made).all():
                    apart.append(one)
                theirs[name] = made
        theirs.setdefault(name, fresh)
    return Filled(ours, theirs, tuple(apart))


def loose_tensors(left: Subject, right: Subject, elements: Elements) -> Loose:
    """Tensors that no rule gives, by their first names."""
    used = numpy.zeros(sum(map(numpy.size, map(numpy.empty, left.shapes.values()))) + 1, dtype=bool)
    for array in elements.values():
        used[array[array >= 0]] = True
    start, ours = 0, []
    shared: dict[str, numpy.ndarray] = {}
    for name, shape in left.shapes.items():
        size = int(numpy.prod(shape, dtype=numpy.int64))
        first = left.aliases.get(name, name)
        shared[first] = shared.get(first, False) | used[start : start + size]
        start += size
    for name in _filled(left, _used(left, elements)):
        if not shared[name].all():
            ours.append(name)
    theirs = []
    for name in _filled(right, {right.aliases.get(one, one) for one in elements}):
        names = (name, *(second for second, first in right.aliases.items() if first == name))
        if not any(one in elements and (elements[one] != -1).all() for one in names):
            theirs.append(name)
    return Loose(tuple(ours), tuple(theirs))


def constants(side: Subject, given: set[str]) -> tuple[str, ...]:
    """Buffers that no rule gives and that keep the values they were built with: frequencies, masks."""
    return tuple(name for name in side.buffers if name not in given and not _is_state(side.own[name]))


def _filled(side: Subject, given: set[str]) -> list[str]:
    """Tensors that get values: all that train, and buffers that rules give or that hold what training left there."""
    names = [*side.parameters, *(name for name in side.buffers if name in given or _is_state(side.own[name]))]
    return [name for name in names if name not in side.aliases]


def _is_state(value: numpy.ndarray) -> bool:
    """Whether a buffer looks as training finds it, all zeros or all ones, and will not leave it."""
    return value.size > 0 and bool((value == value.flat[0]).all()) and float(value.flat[0]) in (0.0, 1.0)


def _used(left: Subject, elements: Elements) -> set[str]:
    """Left tensors of which the rules use something, by their first names."""
    names = list(left.shapes)
    sizes = [int(numpy.prod(shape, dtype=numpy.int64)) for shape in left.shapes.values()]
    ends = numpy.cumsum(sizes)
    found: set[str] = set()
    for array in elements.values():
        known = array[array >= 0]
        found |= {names[at] for at in numpy.unique(numpy.searchsorted(ends, known, side="right"))}
    return {left.aliases.get(name, name) for name in found}


def _fresh(name: str, side: Subject, random: numpy.random.Generator, *, signed: bool) -> numpy.ndarray:
    shape = side.shapes[name]
    if sum(size > 1 for size in shape) >= 2:
        matrix: numpy.ndarray = (1.0 + 0.7 * signed) * random.standard_normal(shape) / shape[-1] ** 0.5
        return matrix
    vector: numpy.ndarray = 0.5 + random.random(shape)
    signs = numpy.where(random.random(shape) < 0.5, -1.0, 1.0)
    return vector * signs if signed and not name.endswith(POSITIVE) else vector


def _flat(side: Subject, values: Values) -> list[numpy.ndarray]:
    made = []
    for name, shape in side.shapes.items():
        value = values.get(side.aliases.get(name, name), side.own.get(name))
        made.append(numpy.zeros(int(numpy.prod(shape, dtype=numpy.int64))) if value is None else value.reshape(-1))
    return made
