"""Completes what probes found by what no derivative sees: rows never looked up, biases a softmax cancels, statistics.

None of this can change an output, so no run can prove it; each kind rests on a structural reason of its own, which goes
into the evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

    from ckptmap.infer.findings import Elements, Sizes

ROWS = "rows that the inputs did not look up stand between or behind matched ones"
BIAS = "the bias of a matched weight; it cannot change the outputs"
REST = "most of the tensor was matched, and axis by axis the rest goes the same way"
STATE = "kept beside matched parameters in the same module"

_KINDS = ("weight", "bias")


@dataclass
class Partial:
    """An element map in the making.

    Attributes:
        elements: For each right tensor the left elements found so far, -1 elsewhere.
        left: Shapes of the left tensors, in order.
        right: Shapes of the right tensors, in order.
        evidence: For right tensors, what other evidence than the probes' they rest on.
        beyond: Right tables with rows that the left's table does not have, all others being known.
    """

    elements: Elements
    left: Mapping[str, Sizes]
    right: Mapping[str, Sizes]
    evidence: dict[str, str] = field(default_factory=dict)
    beyond: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        import numpy

        self.first: dict[str, int] = {}
        total = 0
        for name, shape in self.left.items():
            self.first[name] = total
            total += int(numpy.prod(shape, dtype=numpy.int64))
        self._names = list(self.first)
        self._starts = numpy.array([*self.first.values()], dtype=numpy.int64)
        self.taken = numpy.zeros(total, dtype=bool)
        for array in self.elements.values():
            self.taken[array[array >= 0]] = True

    def owner(self, element: int) -> str:
        """The left tensor that an element belongs to."""
        import numpy

        # Tensors without elements share their start with the next one, which is the owner.
        return self._names[int(numpy.searchsorted(self._starts, element, side="right")) - 1]

    def is_free(self, name: str) -> bool:
        """Whether nothing of a left tensor has been given away."""
        start = self.first[name]
        return not self.taken[start : start + prod(self.left[name])].any()

    def give(self, name: str, places: numpy.ndarray, elements: numpy.ndarray, evidence: str) -> bool:
        """Put left elements at flat places of a right tensor, if they are free."""
        if not len(elements) or self.taken[elements].any():
            return False
        flat = self.elements[name].reshape(-1)
        flat[places] = elements
        self.elements[name] = flat.reshape(self.right[name])
        self.taken[elements] = True
        self.evidence[name] = evidence
        return True


def extend(found: Partial) -> None:
    """Complete tables, kernels, biases and statistics in place."""
    for name in found.right:
        _rows(found, name)
        _rest(found, name)
    for name in found.right:
        _bias(found, name)
    for name in found.right:
        _state(found, name)


def _rows(found: Partial, name: str) -> None:
    """Rows go on as they began: the row r of the right is the row r + k of the left wherever both are known."""
    import numpy

    array = found.elements[name]
    shape = [size for size in found.right[name] if size != 1]
    if len(shape) < 2 or array.size == 0:
        return
    rows = array.reshape(shape[0], -1)
    known = numpy.flatnonzero((rows >= 0).all(axis=1))
    unknown = numpy.flatnonzero((rows < 0).all(axis=1))
    if not len(known) or not len(unknown) or len(known) + len(unknown) != shape[0]:
        return
    source = found.owner(int(rows[known[0], 0]))
    start = found.first[source]
    size = int(numpy.prod(found.left[source]))
    step = rows.shape[1]
    relative = rows[known] - known[:, None] * step
    if (relative != relative[0]).any() or (rows[known] < start).any() or (rows[known] >= start + size).any():
        return
    if size % step or (relative[0].min() - start) % step or relative[0].max() - relative[0].min() != step - 1:
        return
    more = relative[0][None, :] + unknown[:, None] * step
    inside = ((more >= start) & (more < start + size)).all(axis=1)
    for row, values in zip(unknown[inside], more[inside], strict=True):
        found.give(name, row * step + numpy.arange(step), values, ROWS)
    if not inside.all() and ((rows >= 0).all(axis=1) | numpy.isin(numpy.arange(len(rows)), unknown[~inside])).all():
        found.beyond.add(name)


def _rest(found: Partial, name: str) -> None:
    """Where every axis of the matched part goes along one axis of one left tensor, the units that were off do, too."""
    import numpy

    array, shape = found.elements[name], found.right[name]
    known = numpy.flatnonzero(array >= 0)
    outer = array.reshape(*shape[:2], -1) if len(shape) > 2 else array
    # Of a kernel, the taps that only fell on padding are not known.
    reached = (outer >= 0).any(axis=-1).mean() if len(shape) > 2 and array.size else len(known) / max(1, array.size)
    if not shape or len(known) == array.size or reached < 0.5:
        return
    here = numpy.unravel_index(numpy.arange(array.size), shape)
    elements = array.reshape(-1)[known]
    source = found.owner(int(elements[0]))
    if any(found.owner(int(one)) != source for one in (elements.min(), elements.max())):
        return
    there = numpy.unravel_index(elements - found.first[source], found.left[source])
    places = []
    free = [axis for axis, size in enumerate(shape) if size > 1]
    for coordinates, size in zip(there, found.left[source], strict=True):
        if size == 1:
            places.append(numpy.zeros(array.size, dtype=numpy.int64))
            continue
        for axis in free:
            image = numpy.full(shape[axis], -1, dtype=numpy.int64)
            image[here[axis][known]] = coordinates
            if (
                size == shape[axis]
                and (axis > 1 or len(shape) == 1)
                and (image[image >= 0] == numpy.flatnonzero(image >= 0)).all()
            ):
                image = numpy.arange(size)
            if (image >= 0).all() and (image[here[axis][known]] == coordinates).all():
                places.append(image[here[axis]])
                free.remove(axis)
                break
        else:
            return
    if free:
        return
    whole = found.first[source] + numpy.ravel_multi_index(tuple(places), found.left[source])
    missing = numpy.flatnonzero(array.reshape(-1) < 0)
    found.give(name, missing, whole[missing], REST)


def siblings(name: str, kind: str) -> Iterator[str]:
    """Names that differ from this one in the word weight or bias of the last segment."""
    path, dot, last = name.rpartition(".")
    for word in _KINDS:
        if word != kind and kind in last:
            yield path + dot + last.replace(kind, word)


def _bias(found: Partial, name: str) -> None:
    """A row of the bias goes where the same row of its weight went."""
    import numpy

    array, shape = found.elements[name], found.right[name]
    if not shape or (array >= 0).all():
        return
    weights = [one for one in siblings(name, "bias") if one in found.right]
    for weight in weights or _only_weight(found, name):
        for axes in _out_axes(found, weight, shape):
            rows = numpy.moveaxis(found.elements[weight], axes, range(len(axes))).reshape(array.size, -1)
            places = numpy.flatnonzero((array.reshape(-1) < 0) & (rows >= 0).all(axis=1))
            partners = [_bias_element(found, rows[place]) for place in places]
            good = [number for number, partner in enumerate(partners) if partner is not None]
            if good and found.give(
                name,
                places[good],
                numpy.array([partners[number] for number in good], dtype=numpy.int64),
                BIAS,
            ):
                return


def _only_weight(found: Partial, name: str) -> list[str]:
    """The one weight beside a tensor whose bias is still missing, where no other tensor there could be that bias."""
    array = found.elements[name]
    beside = [one for one in found.right if _module(one) == _module(name)]
    like = [one for one in beside if found.right[one] == found.right[name] and (found.elements[one] < 0).all()]
    if like != [name]:
        return []
    lacking = []
    for one in beside:
        elements = found.elements[one]
        if elements.size > array.size and (elements >= 0).all():
            source = found.owner(int(elements.reshape(-1)[0]))
            free = [bias for bias in siblings(source, "weight") if bias in found.left and found.is_free(bias)]
            if any(prod(found.left[bias]) == array.size for bias in free):
                lacking.append(one)
    return lacking if len(lacking) == 1 else []


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _out_axes(found: Partial, weight: str, bias: Sizes) -> list[tuple[int, ...]]:
    """Axes of a weight that its bias may run along, the likeliest first."""
    import numpy

    shape = found.right[weight]
    ways = [axes for axes in combinations(range(len(shape)), len(bias)) if tuple(shape[axis] for axis in axes) == bias]
    if len(ways) < 2 or len(bias) > 1:
        return ways
    # Other modules of this model tell whether weights lie as in nn.Linear or the other way round.
    votes = dict.fromkeys(ways, 0)
    for other, array in found.elements.items():
        if len(found.right[other]) != len(shape):
            continue
        for sibling in siblings(other, "weight"):
            values = found.elements.get(sibling)
            if values is None or values.ndim != 1 or (values < 0).any() or (array < 0).any():
                continue
            for (axis,) in ways:
                if found.right[other][axis] == len(values):
                    rows = numpy.moveaxis(array, axis, 0).reshape(len(values), -1)
                    votes[axis,] += _bias_element(found, rows[-1]) == values[-1]
    return sorted(ways, key=lambda axes: -votes[axes])


def _bias_element(found: Partial, row: numpy.ndarray) -> int | None:
    """The element of the left's bias for this row of a right weight, as left elements."""
    import numpy

    source = found.owner(int(row[0]))
    shape = found.left[source]
    places = numpy.unravel_index(row - found.first[source], shape) if found.owner(int(row[-1])) == source else ()
    fixed = [axis for axis, place in enumerate(places) if (place == place[0]).all() and shape[axis] > 1]
    for bias in siblings(source, "weight"):
        if bias in found.left and len(fixed) == 1 and found.left[bias] == (shape[fixed[0]],):
            return found.first[bias] + int(places[fixed[0]][0])
    return None


def _state(found: Partial, name: str) -> None:
    """Buffers of a module go where its parameters went: the statistics and the counter of a norm."""
    import numpy

    path, _, last = name.rpartition(".")
    if last not in {"running_mean", "running_var", "num_batches_tracked"} or (found.elements[name] >= 0).any():
        return
    weight = found.elements.get(f"{path}.weight" if path else "weight")
    if weight is None or weight.ndim != 1 or (weight < 0).any():
        return
    source = found.owner(int(weight[0]))
    there = source.rpartition(".")[0]
    partner = f"{there}.{last}" if there else last
    if partner not in found.left or found.left[partner] != found.right[name]:
        return
    order = weight - found.first[source]
    size = max(1, int(numpy.prod(found.right[name], dtype=numpy.int64)))
    elements = found.first[partner] + (order if found.right[name] else numpy.zeros(1, dtype=numpy.int64))
    found.give(name, numpy.arange(size), elements, STATE)
