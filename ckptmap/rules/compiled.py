"""One rule made ready to bind: its variables sorted out, its axes solved, its blocks placed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Literal, TypeAlias

from ckptmap.rules.names import Index, NamePattern, Writer
from ckptmap.rules.plan import Sizes
from ckptmap.rules.rules import NOWHERE, Rule, Term
from ckptmap.rules.shapes import Axis, Shape, ShapeError, Sum, UnknownSizeError, full_shape, solve

WHOLE = Shape((), rest=True)
"""Any tensor as it is."""

Stacked: TypeAlias = "tuple[int, ...]"
"""Numbers of the indices that stand in the names of one side only."""


Lengths: TypeAlias = "tuple[tuple[str, int], ...]"
"""Lengths of axes that are told."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block lies, for every tensor of a term: what a Piece says but for the name."""

    term: int
    stacked: Stacked
    view: Sizes
    narrow: tuple[tuple[int, int, int], ...]
    split: Sizes
    order: Sizes
    repeated: Sizes


LaidEnd: TypeAlias = "Place | Literal['zeros', 'none']"


@dataclass(frozen=True, slots=True)
class Layout:
    """All blocks of an equation, and the shape of each term's tensors, left and right."""

    shapes: tuple[tuple[Sizes, ...], tuple[Sizes, ...]]
    stacks: tuple[tuple[tuple[Stacked, ...], ...], tuple[tuple[Stacked, ...], ...]]
    blocks: tuple[tuple[Sizes, LaidEnd, LaidEnd], ...]
    rename: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """One block of one term, before sizes are known."""

    term: int
    block: int


class CompiledRule:
    """A rule with whole names, and what follows from it alone.

    Attributes:
        sides: Terms, left and right.
        shapes: A shape for each term.
        shared: Variables that tell equations of the rule apart.
        stacked: Indices in the names of one side only, left and right.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.sides = _terms(rule)
        self.shapes = (
            _shapes(rule.left_shapes, self.sides[0]),
            _shapes(rule.right_shapes, self.sides[1]),
        )
        self.shared, self.stacked = variables(*self.sides)
        self._stacks = tuple(
            tuple(_stacked_in(term, names) for term in side)
            for side, names in zip(self.sides, self.stacked, strict=True)
        )
        self._layouts: dict[object, Layout | ShapeError] = {}

    @cached_property
    def axes(self) -> frozenset[str]:
        """Every axis that is named."""
        return frozenset(axis.name for shapes in self.shapes for shape in shapes for axis in shape.axes())

    @cached_property
    def simple(self) -> bool:
        """Whether it is one tensor on each side."""
        return self.stacked == ((), ()) and all(
            len(side) == 1 and isinstance(side[0], NamePattern) for side in self.sides
        )

    @cached_property
    def writers(self) -> tuple[tuple[Writer | None, ...], tuple[Writer | None, ...]]:
        """For each term, what writes its names."""
        left, right = (tuple(None if isinstance(t, str) else t.writer() for t in side) for side in self.sides)
        return left, right

    @cached_property
    def lacking(self) -> tuple[tuple[NamePattern, Index], ...]:
        """Terms, and what in them has no number where its variable is 0: `{i-1}`."""
        return tuple(
            (term, part)
            for term in (*self.sides[0], *self.sides[1])
            if isinstance(term, NamePattern)
            for part in term.parts()
            if isinstance(part, Index) and part.shift < 0
        )

    def has_names(self, side: int) -> bool:
        """Whether a side names any tensor."""
        return any(isinstance(term, NamePattern) for term in self.sides[side])

    def parts(self, side: int) -> list[_Part]:
        """The blocks of a side, counted through."""
        return [_Part(t, b) for t, shape in enumerate(self.shapes[side]) for b in range(len(shape.blocks()))]

    def stack_of(self, side: int, term: int) -> tuple[str, ...]:
        """The stacked indices that stand in a term's name."""
        return self._stacks[side][term]

    def layout(self, told: tuple[tuple[Sizes | None, ...], tuple[Sizes | None, ...]], sizes: Lengths) -> Layout:
        """Solve for all sizes and place the blocks; the same question is answered once.

        Args:
            told: For each term, left and right, the shape of its tensors where that is known.
            sizes: Lengths of axes that are told.

        Raises:
            UnknownSizeError: A size stays unknown.
            ShapeError: The tensors do not fit.
        """
        question = (told, sizes)
        found = self._layouts.get(question)
        if found is None:
            try:
                found = self._lay_out(told, dict(sizes))
            except ShapeError as error:
                found = error
            self._layouts[question] = found
        if isinstance(found, ShapeError):
            raise found
        return found

    def _lay_out(
        self, told: tuple[tuple[Sizes | None, ...], tuple[Sizes | None, ...]], known: dict[str, int]
    ) -> Layout:
        rests = self._solve(told, known)
        missing = sorted(self.axes - known.keys())
        if missing:
            first = next(a.name for side in self.shapes for shape in side for a in shape.axes() if a.name in missing)
            raise UnknownSizeError(f"the size of {', '.join(missing)} is unknown; give --size {first}=…")
        shapes: list[tuple[Sizes, ...]] = []
        for side in (0, 1):
            rows = []
            for term, shape in enumerate(self.shapes[side]):
                rest = self._rest(term, rests) if shape.rest else ()
                if rest is None:
                    raise UnknownSizeError("`...` stands for unknown dimensions; bind to checkpoints of both sides")
                rows.append(full_shape(shape, known, rest))
            shapes.append(tuple(rows))
        blocks: list[tuple[Sizes, LaidEnd, LaidEnd]] = []
        for left, right in zip(self.parts(0), self.parts(1), strict=True):
            blocks += self._pair(left, right, known, rests)
        stacks = tuple(
            tuple(
                tuple(product(*(range(known[variable]) for variable in self.stack_of(side, term))))
                for term in range(len(self.sides[side]))
            )
            for side in (0, 1)
        )
        return Layout((shapes[0], shapes[1]), (stacks[0], stacks[1]), tuple(blocks), _same_order(blocks, shapes))

    def _rest(self, term: int, rests: Mapping[int, Sizes]) -> Sizes | None:
        # A rule without shapes pairs tensors one by one, each with dimensions of its own.
        return rests.get(term if self.rule.left_shapes is None else 0)

    def _solve(
        self, told: tuple[tuple[Sizes | None, ...], tuple[Sizes | None, ...]], known: dict[str, int]
    ) -> dict[int, Sizes]:
        rests: dict[int, Sizes] = {}
        pairs = [
            (term, shape, sizes)
            for side in (0, 1)
            for term, (shape, sizes) in enumerate(zip(self.shapes[side], told[side], strict=True))
            if sizes is not None
        ]
        learning = True
        while learning:
            learning = False
            for _, shape, sizes in pairs:
                learning |= solve(shape, sizes, known)
        for term, shape, sizes in pairs:
            if shape.rest:
                rest = sizes[len(shape.dims) :]
                before = rests.setdefault(term if self.rule.left_shapes is None else 0, rest)
                if before != rest:
                    raise ShapeError(f"`...` would be {list(before)} and {list(rest)}, which differ")
        return rests

    def _pair(
        self, left: _Part, right: _Part, sizes: Mapping[str, int], rests: Mapping[int, Sizes]
    ) -> Iterator[tuple[Sizes, LaidEnd, LaidEnd]]:
        """The k-th block of both sides, once for each number of the stacked indices it has."""
        stacks = (self.stack_of(0, left.term), self.stack_of(1, right.term))
        enumerated = (*stacks[0], *stacks[1])
        for numbers in product(*(range(sizes[variable]) for variable in enumerated)):
            at = dict(zip(enumerated, numbers, strict=True))
            ours, theirs = (self._reach(side, part, at, sizes, rests) for side, part in ((0, left), (1, right)))
            shared = [*ours.names, *(name for name in theirs.names if name not in ours.names)]
            once = ours.repeated | theirs.repeated
            length = dict(zip(theirs.names, theirs.split, strict=True)) | dict(zip(ours.names, ours.split, strict=True))
            block = tuple(1 if name in once else length[name] for name in shared)
            split = len(stacks[0])
            yield (
                block,
                self._end(0, left, ours, shared, numbers[:split]),
                self._end(1, right, theirs, shared, numbers[split:]),
            )

    def _end(self, side: int, part: _Part, reach: _Reach, shared: list[str], stacked: Stacked) -> LaidEnd:
        term = self.sides[side][part.term]
        if isinstance(term, str):
            return "none" if term == NOWHERE else "zeros"
        absent = [name for name in shared if name not in reach.names]
        names = [*reach.names, *absent]
        return Place(
            part.term,
            stacked,
            reach.view,
            reach.narrow,
            (*reach.split, *(1 for _ in absent)),
            tuple(names.index(name) for name in shared),
            tuple(at for at, name in enumerate(shared) if name in reach.repeated),
        )

    def _reach(
        self, side: int, part: _Part, at: Mapping[str, int], sizes: Mapping[str, int], rests: Mapping[int, Sizes]
    ) -> _Reach:
        shape = self.shapes[side][part.term]
        reach = _Reach()
        for dim in shape.dims:
            for factor in dim:
                if isinstance(factor, Sum):
                    reach.add_sum(factor, part.block, at, sizes)
                else:
                    reach.add_axis(factor, at, sizes)
        if shape.rest:
            reach.add_rest(self._rest(part.term, rests) or ())
        return reach


class _Reach:
    """The steps from a tensor to one block of it, gathered from its first dimension to its last."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.view: Sizes = ()
        self.narrow: tuple[tuple[int, int, int], ...] = ()
        self.split: Sizes = ()
        self.repeated: set[str] = set()

    def add_axis(self, axis: Axis, at: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        self.view += (sizes[axis.name],)
        if axis.name in at:
            self._narrow(at[axis.name], 1)
        else:
            self._keep(axis, sizes)

    def add_sum(self, total: Sum, block: int, at: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        lengths = [prod(sizes[axis.name] for axis in axes) for axes in total.blocks]
        start, length = sum(lengths[:block]), lengths[block]
        axes = total.blocks[block]
        self.view += (sum(lengths),)
        while axes and axes[0].name in at:
            length //= max(sizes[axes[0].name], 1)
            start += at[axes[0].name] * length
            axes = axes[1:]
        if length != sum(lengths):
            self._narrow(start, length)
        for axis in axes:
            self._keep(axis, sizes)

    def add_rest(self, rest: Sizes) -> None:
        self.view += rest
        self.split += rest
        self.names += [f"...{at}" for at in range(len(rest))]

    def _narrow(self, start: int, length: int) -> None:
        self.narrow += ((len(self.view) - 1, start, length),)

    def _keep(self, axis: Axis, sizes: Mapping[str, int]) -> None:
        self.names.append(axis.name)
        self.split += (sizes[axis.name],)
        if axis.repeated:
            self.repeated.add(axis.name)


def variables(
    left: tuple[Term, ...], right: tuple[Term, ...]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]]:
    """Variables both sides share, and the indices that stand on the left only and on the right only."""
    sides = [[term for term in side if isinstance(term, NamePattern)] for side in (left, right)]
    found = [set().union(*(term.variables for term in side)) for side in sides]
    if not all(sides):
        return tuple(sorted(found[0] | found[1])), ((), ())
    lost = [{v for term in side for v in term.indices} for side in sides]
    return tuple(sorted(found[0] & found[1])), (
        tuple(sorted(lost[0] - found[1])),
        tuple(sorted(lost[1] - found[0])),
    )


def _stacked_in(term: Term, stacked: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(variable for variable in stacked if variable in term.indices) if isinstance(term, NamePattern) else ()


def _terms(rule: Rule) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """The terms; a lone `_` is no home for as many tensors as there are."""
    left, right = rule.left, rule.right
    if rule.left_shapes is None:
        left = left * len(right) if left == (NOWHERE,) else left
        right = right * len(left) if right == (NOWHERE,) else right
    return left, right


def _shapes(shapes: tuple[Shape, ...] | None, terms: tuple[Term, ...]) -> tuple[Shape, ...]:
    if shapes is None:
        return (WHOLE,) * len(terms)
    return shapes * len(terms) if len(shapes) == 1 else shapes


def _same_order(blocks: list[tuple[Sizes, LaidEnd, LaidEnd]], shapes: list[tuple[Sizes, ...]]) -> bool:
    """Whether it is one tensor a side, of equal shape, whose elements stand in the same order."""
    if len(blocks) != 1 or shapes[0] != shapes[1]:
        return False
    shape, *ends = blocks[0]
    for end in ends:
        if isinstance(end, str) or end.narrow or end.repeated:
            return False
        moved = [at for at, length in zip(end.order, shape, strict=True) if length != 1]
        if moved != sorted(moved):
            return False
    return True
