"""Finds which parameter is which by running both models: what plays the same part has the same derivatives.

Both models are filled with values that do not depend on which tensor is which: one constant, except in tables, whose
rows are told apart by the inputs that look them up. If the models compute the same function, their outputs are then
equal, and so are the derivatives of any functional of the outputs by elements that correspond. Elements told apart in
this way get values of their own, equal on both sides, and the next round tells more of them apart, until none is left.
Every round proves the ones before it: the outputs stay equal only if all that was decided is right.

Elements that no derivative tells apart can change places without changing the function (the units of a hidden layer,
the channels of a head); they are taken in the order in which they stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptmap.errors import ArchitectureError
from ckptmap.infer.agreement import common_width
from ckptmap.infer.places import common_places, has_output, is_constant, still_equal
from ckptmap.infer.probe_classes import CLOSE, Classes, equal_classes
from ckptmap.infer.probe_fills import VARIANTS, Fills, distinct, table_of
from ckptmap.infer.probe_runs import Run, Subject, functional
from ckptmap.infer.probe_side import Side
from ckptmap.stages import tell

if TYPE_CHECKING:
    import numpy


CHANNELS = 6
"""Functionals per run: a chance meeting of two elements would have to happen in all of them."""

SILENT = 1e-12
"""Derivatives below this share of the largest are rounding."""

RESTARTS = 3
"""How often all is filled anew for what is still open."""


@dataclass(frozen=True)
class Probed:
    """What the probes found.

    Attributes:
        partner: For every element of the right's parameters, the left element that plays its part, or -1.
        left_silent: Left elements that cannot change what was compared.
        right_silent: The same on the right.
        compared: Places on both sides whose values are equal when all that was found is filled alike.
    """

    left: Side
    right: Side
    partner: numpy.ndarray
    left_silent: numpy.ndarray
    right_silent: numpy.ndarray
    compared: tuple[tuple[str, str], ...]


def probe(left: Subject, right: Subject) -> Probed:
    """Match the parameters of two models that compute the same function.

    Raises:
        ArchitectureError: A model cannot be run, or the two have no activation in common when filled alike.
    """
    return search(Side(left), Side(right), common_width([*left.shapes.values(), *right.shapes.values()]))


def search(
    left: Side, right: Side, width: int, *, spread: int | None = None, close: float = CLOSE, channels: int = CHANNELS
) -> Probed:
    """Match the elements of two sides.

    Args:
        left: One side.
        right: The other.
        width: The width of the models, on which the values depend that all is filled with at first.
        spread: The width for which values of matrices are drawn; left out, the models' own.
        close: Difference up to which fingerprints count as equal.
        channels: Functionals per run.

    Raises:
        ArchitectureError: A model cannot be run, or the two have no activation in common when filled alike.
    """
    return _Search(left, right, width, spread or width, close, channels).result()


class _Search:
    def __init__(self, left: Side, right: Side, width: int, spread: int, close: float, channels: int) -> None:
        import numpy

        self.left, self.right = left, right
        self.width, self.spread, self.close, self.channels = width, spread, close, channels
        self.partner = numpy.full(self.right.size, -1, dtype=numpy.int64)
        self.taken = numpy.zeros(self.left.size, dtype=bool)
        self.random = numpy.random.default_rng(20)
        self.fills = Fills((self.left, self.right), self.width)
        self.pairs: list[tuple[str, str]] = []

    # ------------------------------------------------------------------ rounds
    def result(self) -> Probed:
        import numpy

        self._start()
        silent = [numpy.ones(side.size, dtype=bool) for side in (self.left, self.right)]
        for _ in range(RESTARTS):
            while self._round():
                pass
            for number in (0, 1):
                silent[number] &= self.silent[number]
            if self.right.is_enough(self.partner < 0, self.silent[1], self._row_silent()):
                break
            # Units that happened to be switched off may work with other values.
            self._give_again()
        silent = [mute & ~self._felt(number) for number, mute in enumerate(silent)]
        return Probed(self.left, self.right, self.partner, silent[0], silent[1], tuple(self.pairs))

    def _felt(self, number: int) -> numpy.ndarray:
        """Elements that what was compared depends on, once no two elements are filled alike."""
        import numpy

        side = (self.left, self.right)[number]
        run = side.run(distinct(side, self.width))
        tensors = {one.place: one.tensor for one in run.activations}
        compared = [tensors[pair[number]] for pair in self.pairs if pair[number] in tensors]
        if not compared:
            return numpy.zeros(side.size, dtype=bool)
        size = numpy.abs(side.gradients(run, [functional(compared, 0)])[0])
        felt: numpy.ndarray = size > size.max(initial=0.0) * SILENT
        return felt

    def _row_silent(self) -> numpy.ndarray:
        """Right elements in tensors, or in rows of tables, that nothing was seen to use."""
        import numpy

        rest = numpy.zeros(self.right.size, dtype=bool)
        for name in self.right.names:
            part = self.right.part(self.silent[1], name)
            if part.all():
                self.right.part(rest, name)[...] = True
            elif name in self.fills.tables[1]:
                unused = numpy.ones(len(table_of(part)), dtype=bool)
                unused[self.fills.tables[1][name]] = False
                table_of(self.right.part(rest, name))[unused] = True
        return rest

    def _give_again(self) -> None:
        """New values for all that is decided."""
        import numpy

        for side, vector in zip((self.left, self.right), self.values, strict=True):
            side.calm(vector)
        places = numpy.flatnonzero(self.partner >= 0)
        values = self._new_values(self.partner[places])
        self.values[0][self.partner[places]] = values
        self.values[1][places] = values

    def _start(self) -> None:
        first = None
        for variant in VARIANTS:
            self.values = [self.fills.filled(number, variant) for number in (0, 1)]
            runs = self._runs()
            self.pairs = common_places(*runs)
            varied = {one.place for one in runs[0].activations if not is_constant(one)}
            if has_output([pair for pair in self.pairs if pair[0] in varied]):
                return
            # Outputs that are constant or overflow as filled here may be neither as filled next.
            first = first or (self.pairs and (self.values, self.pairs))
        if first:
            self.values, self.pairs = first
            return
        raise ArchitectureError(
            f"{self.left.subject.label} and {self.right.subject.label}: filled alike, they have no "
            "activation in common, not even in their first layers; check their sizes, and that both get the same inputs"
        )

    def _runs(self) -> tuple[Run, Run]:
        return self.left.run(self.values[0]), self.right.run(self.values[1])

    def _agree(self, runs: tuple[Run, Run]) -> bool:
        places = [{one.place: one for one in run.activations} for run in runs]
        return all(a in places[0] and b in places[1] and still_equal(places[0][a], places[1][b]) for a, b in self.pairs)

    def _fingerprints(self, runs: tuple[Run, Run]) -> list[numpy.ndarray]:
        places = [{one.place: one.tensor for one in run.activations} for run in runs]
        found = []
        for number, (side, run) in enumerate(zip((self.left, self.right), runs, strict=True)):
            tensors = [places[number][pair[number]] for pair in self.pairs]
            found.append(side.gradients(run, [functional(tensors, channel) for channel in range(self.channels)]))
        return found

    def _round(self) -> bool:
        """Tell elements apart once, give those their values, and say whether there was progress."""
        import numpy

        tell("elements told apart by running both", int((self.partner >= 0).sum()), self.right.size)
        runs = self._runs()
        self.pairs = common_places(*runs) or self.pairs
        found = self._fingerprints(runs)
        for gradients in found:
            gradients[:, ~numpy.isfinite(gradients).all(axis=0)] = 0.0
        top = max(float(numpy.abs(f).max(initial=0.0)) for f in found)
        size = [numpy.abs(f).max(axis=0) for f in found]
        self.silent = [one <= top * SILENT for one in size]
        open_left = numpy.flatnonzero(~self.silent[0] & ~self.taken)
        open_right = numpy.flatnonzero(~self.silent[1] & (self.partner < 0))
        if not len(open_left) or not len(open_right):
            return False
        classes = equal_classes(found[0][:, open_left].T, found[1][:, open_right].T, self.close)
        return self._assign(classes, open_left, open_right)

    def _assign(self, classes: Classes, left: numpy.ndarray, right: numpy.ndarray) -> bool:
        """Pair the members of classes, surest first; keep what leaves the outputs equal."""
        import numpy

        sure = [numpy.stack([left[classes.single[:, 0]], right[classes.single[:, 1]]], axis=1)]
        several: list[numpy.ndarray] = []
        homes = self._homes()
        planes: list[numpy.ndarray] = []
        for mine, theirs in classes.many:
            pairs = numpy.stack([left[mine], right[theirs]], axis=1)
            inside = self._is_one_tensor(self.left, pairs[:, 0]) and self._is_one_tensor(self.right, pairs[:, 1])
            pairs = pairs if inside else self._by_shape(pairs)
            if not (self._is_line(self.left, pairs[:, 0]) and self._is_line(self.right, pairs[:, 1])):
                (planes if inside else several).append(pairs)
            elif inside:
                sure.append(pairs)
            elif (ordered := self._by_module(pairs, homes)) is not None:
                sure.append(ordered)
            else:
                several.append(pairs)
        if self._try(numpy.concatenate(sure)):
            return True
        # Whole planes in which nothing is told apart: the smallest is taken in order, and may tell others apart.
        planes.sort(key=len)
        if any(self._try(pairs) for pairs in planes[:3]):
            return True
        # Tensors that are alike as long as others are constant part once those have values; until then their order in
        # the models says nothing. Where it must decide, matrices go first: what stands beside them follows.
        lines = [pairs for pairs in several if self._are_lines(pairs)]
        ranks = [self._rank(pairs) for pairs in lines]
        first = [pairs for pairs, rank in zip(lines, ranks, strict=True) if rank == max(ranks)]
        if first and self._try(numpy.concatenate(first)):
            return True
        wide = sorted((pairs for pairs in several if not self._are_lines(pairs)), key=len)
        return any(self._try(pairs) for pairs in wide[:3])

    def _are_lines(self, pairs: numpy.ndarray) -> bool:
        return self._is_line(self.left, pairs[:, 0]) and self._is_line(self.right, pairs[:, 1])

    def _homes(self) -> dict[str, str]:
        """For right modules with matched tensors, the left module that most of them went to."""
        import numpy

        votes: dict[str, dict[str, int]] = {}
        for name in self.right.names:
            matched = self.right.part(self.partner, name)
            matched = matched[matched >= 0]
            if len(matched):
                owner = int(numpy.searchsorted(self.left.starts, matched[0], side="right")) - 1
                count = votes.setdefault(_module(name), {})
                count[_module(self.left.names[owner])] = count.get(_module(self.left.names[owner]), 0) + 1
        return {name: max(count, key=lambda one: count[one]) for name, count in votes.items()}

    def _by_module(self, pairs: numpy.ndarray, homes: dict[str, str]) -> numpy.ndarray | None:
        """The pairs so that each right tensor gets elements of the left module that its own module went to."""
        import numpy

        ours = [_module(self.left.names[at]) for at in self.left.owners(pairs[:, 0])]
        theirs = [homes.get(_module(self.right.names[at])) for at in self.right.owners(pairs[:, 1])]
        if None in theirs or sorted(ours) != sorted(one for one in theirs if one is not None):
            return None
        order = [numpy.argsort(numpy.array(words), kind="stable") for words in (ours, theirs)]
        return numpy.stack([pairs[order[0], 0], pairs[order[1], 1]], axis=1)

    def _by_shape(self, pairs: numpy.ndarray) -> numpy.ndarray:
        """The pairs so that tensors of one shape go together: a token is no row of a table of positions."""
        import numpy

        shapes = []
        for side, members in zip((self.left, self.right), pairs.T, strict=True):
            owners = (side.subject.shapes[side.names[at]] for at in side.owners(members))
            shapes.append([str([size for size in shape if size > 1]) for shape in owners])
        if sorted(shapes[0]) != sorted(shapes[1]):
            return pairs
        ours, theirs = (numpy.lexsort((pairs[:, side], numpy.array(shapes[side]))) for side in (0, 1))
        return numpy.stack([pairs[ours, 0], pairs[theirs, 1]], axis=1)

    def _rank(self, pairs: numpy.ndarray) -> int:
        """The fewest dims of the tensors that the pairs are about."""
        return min(len(self.right.subject.shapes[self.right.names[at]]) for at in self.right.owners(pairs[:, 1]))

    def _is_one_tensor(self, side: Side, members: numpy.ndarray) -> bool:
        return len(set(side.owners(members))) == 1

    def _is_line(self, side: Side, members: numpy.ndarray) -> bool:
        """Whether in each tensor the members vary along one axis only."""
        import numpy

        owner = numpy.searchsorted(side.starts, members, side="right") - 1
        for number in numpy.unique(owner):
            inside = side.positions(int(number), members[owner == number])
            shape = side.subject.shapes[side.names[number]]
            if len(shape) < 2 or len(inside) < 2:
                continue
            places = numpy.unravel_index(inside, shape)
            if sum(len(numpy.unique(place)) > 1 for place in places) > 1:
                return False
        return True

    def _try(self, pairs: numpy.ndarray) -> bool:
        """Give these pairs values of their own; take them back, tensor by tensor, where outputs part."""
        import numpy

        if not len(pairs):
            return False
        if self._give(pairs):
            return True
        owner = numpy.searchsorted(self.right.starts, pairs[:, 1], side="right") - 1
        done = [self._give(pairs[owner == number]) for number in numpy.unique(owner)]
        return any(done)

    def _give(self, pairs: numpy.ndarray) -> bool:

        before = [vector.copy() for vector in self.values]
        mine, theirs = pairs[:, 0], pairs[:, 1]
        values = self._new_values(mine)
        self.values[0][mine] = values
        self.values[1][theirs] = values
        if not self._agree(self._runs()):
            self.values = before
            return False
        self.partner[theirs] = mine
        self.taken[mine] = True
        return True

    def _new_values(self, members: numpy.ndarray) -> numpy.ndarray:
        import numpy

        flat = numpy.array([len([s for s in self.left.subject.shapes[name] if s > 1]) < 2 for name in self.left.names])
        owner = numpy.searchsorted(self.left.starts, members, side="right") - 1
        vectors = 0.5 + self.random.random(len(members))
        matrices = self.random.standard_normal(len(members)) / self.spread**0.5
        return numpy.where(flat[owner], vectors, matrices)


def _module(name: str) -> str:
    return name.rpartition(".")[0]
