"""How far apart two runs of one function may be: what rounding in float32 alone does to its outputs.

All is run in float64, but a model may hold constants that were made in float32 (frequencies, tables of positions), or
compute in float32 where nothing can widen it. Neither can be told from a difference of 1e-9; so it is measured: the
constants, and the weights by far less, are moved by as much as float32 rounds, and outputs say what that amounts to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from ckptmap.align.prove.outputs import difference, places
from ckptmap.infer.proof import EXACT

if TYPE_CHECKING:
    from ckptmap.infer.probe_runs import Subject

ULP = 2.0**-24
"""Largest relative error of a number that was rounded to float32."""

JITTER = 1e-10
"""By so much weights are moved: far less than float32 can see, unless it rounds the other way."""

MARGIN = 8.0
"""Rounding may add up otherwise than it did where it was measured."""


def tolerance(subjects: tuple[Subject, Subject], pairs: list[tuple[str, str]]) -> float:
    """Relative difference of outputs up to which rounding in float32 explains it; `EXACT` if nothing is in float32."""
    return max(EXACT, *(MARGIN * _moved(one, {pair[at] for pair in pairs}) for at, one in enumerate(subjects)))


def _moved(subject: Subject, compared: set[str]) -> float:
    random = numpy.random.default_rng(23)
    values = {}
    for name in subject.parameters:
        shape = subject.shapes[name]
        fresh = 0.5 + random.random(shape)
        values[name] = fresh if len([s for s in shape if s > 1]) < 2 else (fresh - 1) * 3.4 / shape[-1] ** 0.5
    straight = places(subject.run(values))
    inside = places(subject.run({name: one * (1 + JITTER * random.random(one.shape)) for name, one in values.items()}))
    with subject.rounded_constants(ULP):
        outside = places(subject.run(values))
    worst = 0.0
    for place in compared:
        by_weights = difference(straight.get(place), inside.get(place))
        # Float64 follows in proportion; what jumps was rounded on the way.
        worst = max(worst, by_weights if by_weights > 100 * JITTER else 0.0)
        worst = max(worst, difference(straight.get(place), outside.get(place)))
    return worst if numpy.isfinite(worst) else 0.0
