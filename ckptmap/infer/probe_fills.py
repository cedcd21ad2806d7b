"""What both models are filled with at first: values that do not depend on which tensor is which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptmap.infer.probe_runs import functional
from ckptmap.infer.probe_side import Side

if TYPE_CHECKING:
    import numpy

    from ckptmap.infer.probe_runs import Subject

VARIANTS = (
    *("scales, shapes", "scales", "scales, shapes, no bias", "scales, no bias"),
    *("shapes", "no bias", "", "scales, plain rows", "scales, plain tables"),
)
"""What is filled with more than the one constant at the start, the most telling first."""


class Fills:
    """The ways to fill two models alike.

    Attributes:
        tables: For each side, the tensors of which inputs look up some rows and others not, with the rows looked up.
    """

    def __init__(self, sides: tuple[Side, Side], width: int) -> None:
        self._sides, self._width = sides, width
        scouts = [_scout(side, width) for side in sides]
        self.tables = (scouts[0][0], scouts[1][0])
        self._scales = (scouts[0][1], scouts[1][1])

    def filled(self, number: int, variant: str) -> numpy.ndarray:
        """Values that do not depend on which tensor is which."""
        import numpy

        side, tables = self._sides[number], self.tables[number]
        vector = numpy.full(side.size, 1.5 / self._width**0.5)
        if "scales" in variant:
            scale = 0.5 + numpy.random.default_rng(self._width).random(self._width)
            for name in self._scales[number]:
                if side.part(vector, name).size == self._width:
                    side.part(vector, name)[...] = scale.reshape(side.sizes(name))
        if "no bias" in variant:
            for name in side.names:
                if name.endswith(("bias", "beta", "_b", ".b")):
                    side.part(vector, name)[...] = 0.0
        for name, used in tables.items():
            # A table of which one row is used may be a bare vector on the other side.
            if "plain tables" in variant or ("plain rows" in variant and len(used) == 1):
                continue
            table = table_of(side.part(vector, name))
            seed = [*(used - used[0]).tolist(), *table.shape[1:]]
            table[used] = numpy.random.default_rng(seed).standard_normal((len(used), *table.shape[1:]))
        if "shapes" in variant:
            for shape in self._own_shapes():
                values = numpy.random.default_rng(shape).standard_normal(shape) / self._width**0.5
                for name in side.names:
                    if name not in tables and side.subject.shapes[name] == shape:
                        side.put(vector, name, values)
        return vector

    def _own_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of three dims and more that stand as often on both sides."""
        counts: list[dict[tuple[int, ...], int]] = []
        for side in self._sides:
            count: dict[tuple[int, ...], int] = {}
            for name in side.names:
                shape = side.subject.shapes[name]
                if len(shape) > 2:
                    count[shape] = count.get(shape, 0) + 1
            counts.append(count)
        return sorted(shape for shape, number in counts[0].items() if counts[1].get(shape) == number)


def table_of(array: numpy.ndarray) -> numpy.ndarray:
    """The view without axes of length 1: a table of positions may be kept as (1, T, D) or (T, 1, D)."""
    return array.reshape([size for size in array.shape if size > 1] or [1])


def random_values(subject: Subject) -> dict[str, numpy.ndarray]:
    """A value of its own for every element of a model, as wide as in a model that was trained."""
    import numpy

    random = numpy.random.default_rng(12)
    found: dict[str, numpy.ndarray] = {}
    for name in subject.parameters:
        shape = subject.shapes[name]
        flat = sum(size > 1 for size in shape) < 2
        found[name] = 0.5 + random.random(shape) if flat else random.standard_normal(shape) / shape[-1] ** 0.5
    return found


def distinct(side: Side, width: int) -> numpy.ndarray:
    """A value of its own for every element."""
    import numpy

    random = numpy.random.default_rng(5)
    vector: numpy.ndarray = random.standard_normal(side.size) / width**0.5
    for name in side.names:
        if len(side.subject.shapes[name]) < 2:
            part = side.part(vector, name)
            part[...] = 0.5 + numpy.abs(part)
    return vector


def _scout(side: Side, width: int) -> tuple[dict[str, numpy.ndarray], set[str]]:
    """Tensors some of whose rows the inputs look up and others not, with the rows looked up; and tensors that scale."""
    import numpy

    run = side.run(distinct(side, width))
    last = [one.tensor for one in run.activations]
    reached = numpy.abs(side.gradients(run, [functional(last, 0)]))[0]
    top = reached.max(initial=0.0)
    found: dict[str, numpy.ndarray] = {}
    for name in side.names:
        part = table_of(side.part(reached, name))
        if part.ndim < 2:
            continue
        used = part.reshape(len(part), -1).max(axis=1) > top * 1e-14
        if used.any() and not used.all():
            found[name] = numpy.flatnonzero(used)
    # A table that is the head's weight, too, is used in all its rows.
    for name, rows in run.rows_looked_up().items():
        if name not in found and 1 < len(rows) < len(table_of(side.part(reached, name))):
            found[name] = rows
    return found, run.scales()
