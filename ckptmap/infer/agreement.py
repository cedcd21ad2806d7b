"""Whether two models agree when an element map fills them alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptmap.infer.places import common_places, has_output

if TYPE_CHECKING:
    import numpy

    from ckptmap.infer.findings import Elements
    from ckptmap.infer.probe_runs import Run, Subject, Values


def agreement(left: Subject, right: Subject, elements: Elements) -> tuple[tuple[str, str], ...]:
    """Places whose values are equal when both models are filled with distinct values that an element map makes alike.

    Args:
        left: The left model.
        right: The right model.
        elements: Left elements, counted through all of the left's tensors, for each right tensor.
    """
    ours, theirs = alike_values(left, right, elements)
    return agreeing(left.run(ours), right.run(theirs))


def agreeing(left: Run, right: Run) -> tuple[tuple[str, str], ...]:
    """Places that agree, if an output is among them."""
    found = common_places(left, right)
    return tuple(found) if has_output(found) else ()


def alike_values(left: Subject, right: Subject, elements: Elements) -> tuple[Values, Values]:
    """Distinct values for the left, and for the right what an element map makes of them; the rest is alike."""
    import numpy

    random = numpy.random.default_rng(7)
    width = common_width([*left.shapes.values(), *right.shapes.values()])
    values: dict[str, numpy.ndarray] = {}
    flat = []
    for name, shape in left.shapes.items():
        if name in left.parameters:
            fresh = random.standard_normal(shape) / width**0.5
            values[name] = 0.5 + random.random(shape) if sum(size > 1 for size in shape) < 2 else fresh
        kept = values.get(name, left.own.get(name))
        flat.append(numpy.zeros(numpy.prod(shape, dtype=numpy.int64)) if kept is None else kept.reshape(-1))
    everything = numpy.concatenate([*flat, numpy.full(1, 1.5 / width**0.5)])
    return values, {name: everything[elements[name]] for name in right.parameters}


def common_width(shapes: Sequence[tuple[int, ...]]) -> int:
    """The dim that stands most often: the width of the models' hidden states, in most of them."""
    counts: dict[int, int] = {}
    for shape in shapes:
        for size in shape:
            if size > 1:
                counts[size] = counts.get(size, 0) + 1
    return max(counts, key=lambda size: (counts[size], size), default=1)
