"""What the inputs reach: elements that some output depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy

from ckptmap.infer.probe_runs import functional
from ckptmap.patterns import group

if TYPE_CHECKING:
    from ckptmap.infer.probe_runs import Run

SILENT = 1e-12
"""Derivatives below this share of the largest are rounding."""


def reached(run: Run, places: set[str]) -> Mapping[str, numpy.ndarray]:
    """For every tensor, which of its elements change what stands at these places."""
    tensors = [one.tensor for one in run.activations if one.place in places]
    if not tensors:
        return {name: numpy.zeros(tuple(leaf.shape), dtype=bool) for name, leaf in run.leaves.items()}
    found = run.gradients([functional(tensors, 0)])
    sizes = {name: numpy.nan_to_num(numpy.abs(one[0])) for name, one in found.items()}
    top = max((float(one.max(initial=0.0)) for one in sizes.values()), default=0.0)
    return {name: one > top * SILENT for name, one in sizes.items()}


def unreached_text(shapes: Mapping[str, tuple[int, ...]], felt: Mapping[str, numpy.ndarray]) -> Iterator[str]:
    """Tensors of which nothing, and rows of which nothing, was reached; tensors that are alike as one pattern."""
    rows = {name: _rows(felt[name]) for name in felt}
    silent = {name: text for name, text in rows.items() if text is not None}
    for pattern in group(silent, {name: (shapes[name], text) for name, text in silent.items()}):
        text = silent[pattern.first]
        yield f"{text} of {pattern}" if text else str(pattern)


def _rows(felt: numpy.ndarray) -> str | None:
    """Which rows were not reached; empty text if none was, None if all were."""
    if felt.all():
        return None
    if not felt.any():
        return ""
    shape = [size for size in felt.shape if size > 1] or [1]
    # A unit that happens to be switched off is no row that nothing looks up.
    used: numpy.ndarray = felt.reshape(shape[0], -1).max(axis=1)
    if len(shape) < 2 or used.all():
        return f"{int((~felt).sum())} of {felt.size} elements"
    missing = numpy.flatnonzero(~used)
    parts = numpy.split(missing, numpy.flatnonzero(numpy.diff(missing) > 1) + 1)
    if len(parts) > 3:
        return f"{len(missing)} of {len(used)} rows"
    texts = (str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)
    return "rows " + ", ".join(texts)
