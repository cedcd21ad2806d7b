"""Wide models, probed on a part of their elements: of a large matrix on its first rows and columns.

All other elements keep the one value that everything is filled with at first, so both models stay equal. Where a row
and a column go, the elements between them go too; that this holds is for the proof of the whole models to show.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy

from ckptmap.errors import ArchitectureError
from ckptmap.infer.agreement import common_width
from ckptmap.infer.by_modules import ByModules, known_elements, share_aliases, silent_tensors
from ckptmap.infer.extend import Partial, extend
from ckptmap.infer.leftovers import pair_leftovers
from ckptmap.infer.probe_fills import distinct
from ckptmap.infer.probe_runs import Subject, functional
from ckptmap.infer.probe_side import Side
from ckptmap.infer.probes import search
from ckptmap.infer.siblings import complete_siblings

if TYPE_CHECKING:
    import torch

    from ckptmap.infer.by_modules import Calls, Learnt, Modules
    from ckptmap.infer.findings import Sizes
    from ckptmap.infer.probe_runs import Run, Runner, Values
    from ckptmap.infer.probes import Probed

LINES = 2
"""Rows and columns of a large matrix whose elements are told apart."""

LARGE = 64
"""A matrix with more rows and more columns is large."""

CLOSE = 1e-6
"""Difference up to which fingerprints of length 1 count as equal: many elements stand close to each other."""

CHANNELS = 4
"""Functionals per run; each takes a pass back through all of the model."""

CALMER = 0.1
"""What elements that are not told apart are multiplied with, where they drown what is left."""

FEW = 0.1
"""Of a table so many elements may be without a partner: their rows and columns tell theirs."""

SPREAD = 10
"""Values of rows and columns are as wide as in a model of this width: they must be felt among all others."""


class Sketch(Subject):
    """A model of which only some elements of large matrices are filled as asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.base = 0.0
        self.tracked: dict[str, numpy.ndarray] = {}
        wide = [name for name in self.parameters if min(_split(self.shapes[name])) > LARGE]
        tables = self._looked_up() if wide else set()
        self.tracked = {name: _cross(self.shapes[name]) for name in wide if name not in tables}
        for name in self.tracked:
            del self.own[name]

    def run_whole(self, values: Values, call: Runner) -> Run:
        """Run with a value for every element, on another input."""
        tracked, own = self.tracked, self._call
        self.tracked, self._call = {}, call
        try:
            return self.run(values)
        finally:
            self.tracked, self._call = tracked, own

    def _looked_up(self) -> set[str]:
        """Tables: tensors of which the inputs reach some rows only."""
        run = self.run({name: numpy.full(self.shapes[name], 0.01) for name in self.parameters})
        felt = run.gradients([functional([one.tensor for one in run.activations], 0)])
        return {name for name, one in felt.items() if _is_table(one[0])}

    def _filled(self, module: torch.nn.Module, name: str, values: Values) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        if name not in self.tracked:
            return super()._filled(module, name, values)
        shape = self.shapes[name]
        places = torch.from_numpy(self.tracked[name])
        given = numpy.asarray(values[name]).reshape(-1)
        chosen = given if given.size == len(places) else given[self.tracked[name]]
        leaf = torch.tensor(chosen, dtype=torch.float64).requires_grad_()
        whole = torch.full((prod(shape),), self.base, dtype=torch.float64).index_put((places,), leaf).view(shape)
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        owner._parameters.pop(last, None)
        owner._buffers.pop(last, None)
        object.__setattr__(owner, last, whole)
        return leaf, whole


class SketchedSide(Side):
    """The elements of a sketch that are told apart, as one long vector."""

    subject: Sketch

    def sizes(self, name: str) -> Sizes:
        places = self.subject.tracked.get(name)
        return self.subject.shapes[name] if places is None else (len(places),)

    def put(self, vector: numpy.ndarray, name: str, values: numpy.ndarray) -> None:
        places = self.subject.tracked.get(name)
        self.part(vector, name)[...] = values if places is None else values.reshape(-1)[places]

    def positions(self, number: int, members: numpy.ndarray) -> numpy.ndarray:
        inside = super().positions(number, members)
        places = self.subject.tracked.get(self.names[number])
        return inside if places is None else places[inside]

    def is_enough(self, lost: numpy.ndarray, silent: numpy.ndarray, unused: numpy.ndarray) -> bool:
        for name in self.names:
            is_large = name in self.subject.tracked
            mine, mute = self.part(lost, name), self.part(unused if is_large else silent | unused, name)
            # Elements that all have one value add up, and may saturate what stands behind them.
            if is_large and mine.all():
                return False
            if mine.mean() > FEW * (mine.ndim > 1) and (mine & ~mute).mean() > FEW * (mine.ndim > 1):
                return False
        return True

    def calm(self, vector: numpy.ndarray) -> None:
        before = self.subject.base
        self.subject.base = before * CALMER
        vector[vector == before] = self.subject.base


@dataclass(frozen=True)
class Sketched:
    """What two sketches showed.

    Attributes:
        seen: The element map of the models that were sketched, and what it rests on.
        subjects: The sketches.
        returned: For each side, the outputs that depend on its parameters.
    """

    seen: ByModules
    subjects: tuple[Sketch, Sketch]
    returned: tuple[frozenset[str], frozenset[str]]


def search_sketches(modules: Modules, calls: Calls, labels: tuple[str, str], learnt: Learnt) -> Sketched:
    """Match two wide modules that compute the same function on the same inputs.

    Raises:
        ArchitectureError: One cannot be run, or they have no activation in common when filled alike.
    """
    best: Sketched | None = None
    problem: ArchitectureError | None = None
    for smooth in (True, False):
        made = [
            Sketch(module, call, label, learnt=names, smooth=smooth)
            for module, call, label, names in zip(modules, calls, labels, learnt, strict=True)
        ]
        subjects = made[0], made[1]
        width = sketches(subjects)
        sides = SketchedSide(subjects[0]), SketchedSide(subjects[1])
        try:
            probed = search(*sides, width, spread=SPREAD, close=CLOSE, channels=CHANNELS)
        except ArchitectureError as error:
            problem = error
            continue
        found = completed(probed)
        extend(found)
        complete_siblings(found)
        pairs = probed.compared
        if any(place.startswith("output") for _, place in pairs):
            pair_leftovers(found, *([name for name, _ in module.named_parameters()] for module in modules))
        silent = silent_tensors(probed.right, probed.right_silent)
        seen = ByModules(found, silent, silent_tensors(probed.left, probed.left_silent), pairs)
        result = Sketched(seen, subjects, _returned(sides, width))
        if best is None or known_elements(seen) > known_elements(best.seen):
            best = result
        if known_elements(best.seen) == sum(array.size for array in best.seen.found.elements.values()):
            break
    if best is None:
        raise problem or ArchitectureError(f"{labels[0]} and {labels[1]} cannot be compared")
    return best


def _returned(sides: tuple[SketchedSide, SketchedSide], width: int) -> tuple[frozenset[str], frozenset[str]]:
    left, right = (
        frozenset(one.place for one in side.run(distinct(side, width)).activations if one.output) for side in sides
    )
    return left, right


def sketches(subjects: tuple[Sketch, Sketch]) -> int:
    """Give both the same value for what is not told apart; the width of the models."""
    width = common_width([shape for one in subjects for shape in one.shapes.values()])
    for one in subjects:
        one.base = 1.5 / width**0.5
    return width


def _split(shape: Sizes) -> tuple[int, int]:
    """The tensor as a matrix: as nearly a square as its axes allow."""
    ways = [(prod(shape[:at]), prod(shape[at:])) for at in range(1, len(shape))]
    return min(ways, key=sum, default=(1, prod(shape)))


def _cross(shape: Sizes) -> numpy.ndarray:
    """Places of the first rows and columns, in order."""
    rows, columns = _split(shape)
    chosen = numpy.zeros((rows, columns), dtype=bool)
    chosen[:LINES] = True
    chosen[:, :LINES] = True
    return numpy.flatnonzero(chosen)


def _is_table(felt: numpy.ndarray) -> bool:
    shape = [size for size in felt.shape if size > 1] or [1]
    used: numpy.ndarray = numpy.abs(felt).reshape(shape[0], -1).max(axis=1) > 0
    return len(shape) > 1 and bool(used.any()) and not bool(used.all())


# ------------------------------------------------------------------ whole tensors


def completed(probed: Probed) -> Partial:
    """The element map of whole tensors: an element goes where its row and its column lead."""
    left, right = probed.left, probed.right
    assert isinstance(left, SketchedSide) and isinstance(right, SketchedSide)
    ours, theirs = left.subject, right.subject
    nothing = {name: numpy.full(shape, -1, dtype=numpy.int64) for name, shape in theirs.shapes.items()}
    found = Partial(nothing, ours.shapes, theirs.shapes)
    numbers = numpy.full(left.size + 1, -1, dtype=numpy.int64)
    for at, name in enumerate(left.names):
        start = left.starts[at]
        size = left.part(numbers[:-1], name).size
        numbers[start : start + size] = found.first[name] + left.positions(at, numpy.arange(start, start + size))
    for name in right.names:
        partner = numbers[right.part(probed.partner, name)]
        if name in theirs.tracked:
            flat = found.elements[name].reshape(-1)
            flat[theirs.tracked[name]] = partner
            found.elements[name] = _separable(flat.reshape(theirs.shapes[name]))
        else:
            found.elements[name] = _rows_filled(partner)
    share_aliases(found.elements, theirs.aliases)
    return Partial(found.elements, ours.shapes, theirs.shapes)


def _rows_filled(known: numpy.ndarray) -> numpy.ndarray:
    """Rows of which most elements are known go on along their columns as these do in most rows."""
    if known.ndim != 2 or (known >= 0).all():
        return known
    rows = numpy.flatnonzero(2 * (known >= 0).sum(axis=1) > known.shape[1])
    if not len(rows):
        return known
    step = numpy.diff(known[rows], axis=1)[(known[rows, 1:] >= 0) & (known[rows, :-1] >= 0)]
    values, counts = numpy.unique(step, return_counts=True)
    if not len(values):
        return known
    along = numpy.arange(known.shape[1]) * int(values[counts.argmax()])
    made = known.copy()
    for row in rows:
        starts = (known[row] - along)[known[row] >= 0]
        if (starts == starts[0]).all():
            made[row] = starts[0] + along
    return made


def _separable(known: numpy.ndarray) -> numpy.ndarray:
    """The map in which each index moves the left element by as much, whatever the others are; as it is if none is."""
    corner = numpy.argwhere(known[tuple(slice(0, LINES) for _ in known.shape)] >= 0)
    for origin in map(tuple, corner.tolist()):
        steps = [_steps(known, origin, axis) for axis in range(known.ndim)]
        if any(one is None for one in steps):
            continue
        made = numpy.full((1,) * known.ndim, int(known[origin]), dtype=numpy.int64)
        for axis, one in enumerate(steps):
            assert one is not None
            made = made + one.reshape([-1 if at == axis else 1 for at in range(known.ndim)])
        seen = known >= 0
        if (made[seen] == known[seen]).all() and made.min() >= 0:
            return made
    return known


def _steps(known: numpy.ndarray, origin: tuple[int, ...], axis: int) -> numpy.ndarray | None:
    """By how much an index along this axis moves the left element; None if nothing tells."""
    size = known.shape[axis]
    found = numpy.full(size, -1, dtype=numpy.int64)
    steps = numpy.zeros(size, dtype=numpy.int64)
    for offset in numpy.ndindex(*(1 if at == axis else min(LINES, other) for at, other in enumerate(known.shape))):
        line = known[tuple(slice(None) if at == axis else place for at, place in enumerate(offset))]
        start = line[origin[axis]]
        if start < 0:
            continue
        fresh = (line >= 0) & (found < 0)
        steps[fresh] = line[fresh] - start
        found[fresh] = 1
    if (found > 0).all():
        return steps
    here = numpy.flatnonzero(found > 0)
    if len(here) < 2:
        return steps if size == 1 else None
    # What was not told apart goes on as it began.
    step = (steps[here[1]] - steps[here[0]]) // (here[1] - here[0])
    lost = found < 0
    steps[lost] = (numpy.arange(size)[lost] - origin[axis]) * step
    return steps
