"""From blocks to one equation of the rule language: which axes there are, how they sit, which sizes must be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.infer.layouts import ShuffledError
from ckptmap.infer.unstack import MARK
from ckptmap.rules.notation import read_shape
from ckptmap.rules.rules import NOWHERE
from ckptmap.rules.shapes import ShapeError, solve

if TYPE_CHECKING:
    from ckptmap.infer.findings import Block, Sizes

Factors: TypeAlias = "list[tuple[int, int]]"
"""Axes of one dimension, outermost first: number of the axis within its block, and its step in positions."""

TOLD = "hdrkgstuvwz"
"""Names of axes whose sizes the file tells; one name has one size in a whole file."""

FREE = "ompfcabexyq"
"""Names of axes whose sizes shapes tell."""


@dataclass(frozen=True)
class Written:
    """One equation between tensors by their full names, in the notation of rule files.

    Attributes:
        left: Names, or `_`.
        right: Names, or `_`.
        left_shapes: A shape for each, in our notation; empty if tensors are alike as they are.
        right_shapes: The same for the right.
        told: Sizes that neither side's shapes tell.
        guess: Whether a person has to confirm it.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    left_shapes: tuple[str, ...] = ()
    right_shapes: tuple[str, ...] = ()
    told: tuple[tuple[str, int], ...] = ()
    guess: bool = False


class _Placed:
    """A block, with its axes split further and further; `ends` are the two tensors, None where it has no home."""

    def __init__(self, sizes: Sizes, ends: Sequence[tuple[str, int, Sizes] | None]) -> None:
        self.sizes = list(sizes)
        self.names = [end[0] if end else NOWHERE for end in ends]
        self.offsets = [end[1] if end else 0 for end in ends]
        self.strides = [list(end[2]) if end else [0] * len(sizes) for end in ends]
        self.axes: list[object] = []

    def split(self, axis: int, inner: int) -> None:
        """Make two axes of one; the inner one has this length."""
        if self.sizes[axis] % inner:
            raise ShuffledError
        outer = self.sizes[axis] // inner
        self.sizes[axis : axis + 1] = [outer, inner]
        for strides in self.strides:
            strides[axis : axis + 1] = [strides[axis] * inner, strides[axis]]


class _Tensor:
    """One tensor of a side with the blocks in it, parted into dimensions and their factors."""

    def __init__(self, side: int, name: str, shape: Sizes, blocks: list[_Placed]) -> None:
        self.side, self.name, self.shape, self.blocks = side, name, shape, blocks
        self.steps = [prod(shape[axis + 1 :]) for axis in range(len(shape))]

    def part_dims(self) -> bool:
        """Split axes that run through more than one dimension; whether there were any."""
        changed = False
        for block in self.blocks:
            for axis in range(len(block.sizes) - 1, -1, -1):
                size, stride = block.sizes[axis], block.strides[self.side][axis]
                dim = self._dim(stride)
                room = self.shape[dim] * self.steps[dim]
                if stride * (size - 1) >= room:
                    if room % stride:
                        raise ShuffledError(self.name)
                    block.split(axis, room // stride)
                    changed = True
        return changed

    def _dim(self, stride: int) -> int:
        for dim in range(len(self.shape) - 1, -1, -1):
            if self.shape[dim] > 1 and self.steps[dim] <= stride < self.steps[dim] * self.shape[dim]:
                if stride % self.steps[dim]:
                    break
                return dim
        raise ShuffledError(self.name)

    def factors(self, block: _Placed) -> list[Factors]:
        """For each dimension, the block's axes in it."""
        found: list[Factors] = [[] for _ in self.shape]
        for axis, stride in enumerate(block.strides[self.side]):
            dim = self._dim(stride)
            found[dim].append((axis, stride // self.steps[dim]))
        return [sorted(factors, key=lambda one: -one[1]) for factors in found]

    def gap(self, block: _Placed) -> tuple[int, int, int] | None:
        """Dimension, number of the factors before it and its total, where the block is a part of a sum."""
        found = None
        for dim, factors in enumerate(self.factors(block)):
            expected = 1
            for at in range(len(factors), -1, -1):
                step = factors[at - 1][1] if at else self.shape[dim]
                if step != expected:
                    if found is not None or (step % expected and step < expected):
                        raise ShuffledError(self.name)
                    found = (dim, at, step)
                if at:
                    expected = step * block.sizes[factors[at - 1][0]]
        return found

    def align(self) -> bool:
        """Split axes until all blocks share all factors outside the sum; whether anything was split."""
        gaps = [self.gap(block) for block in self.blocks]
        if len(self.blocks) > 1 and (None in gaps or len({(gap[0], gap[2]) for gap in gaps if gap}) > 1):
            raise ShuffledError(self.name)
        for dim in range(len(self.shape)):
            sizes = [
                [block.sizes[axis] for axis, _ in self._shared(block, gap, dim)]
                for block, gap in zip(self.blocks, gaps, strict=True)
            ]
            if all(one == sizes[0] for one in sizes):
                continue
            edges = sorted({prod(one[at:]) for one in sizes for at in range(len(one))})
            for block, gap in zip(self.blocks, gaps, strict=True):
                inside = 1
                for axis, _ in reversed(self._shared(block, gap, dim)):
                    outside = inside * block.sizes[axis]
                    for edge in edges:
                        if inside < edge < outside:
                            if edge % inside:
                                raise ShuffledError(self.name)
                            block.split(axis, edge // inside)
                            return True
                    inside = outside
            raise ShuffledError(self.name)
        return False

    def _shared(self, block: _Placed, gap: tuple[int, int, int] | None, dim: int) -> Factors:
        factors = self.factors(block)[dim]
        return factors[: gap[1]] if gap and gap[0] == dim else factors

    def begins(self, block: _Placed) -> int:
        """Where in the sum the block begins."""
        gap = self.gap(block)
        return block.offsets[self.side] // self.steps[gap[0]] % gap[2] if gap else 0

    def fill(self) -> list[_Placed]:
        """All blocks in their order, those without a home on the other side included."""
        self.blocks.sort(key=self.begins)
        gap = self.gap(self.blocks[0])
        if gap is None:
            return self.blocks
        dim, at, total = gap
        found: list[_Placed] = []
        end = 0
        for block in [*self.blocks, None]:
            begin = total if block is None else self.begins(block)
            if begin < end:
                raise ShuffledError(self.name)
            if begin > end:
                found.append(self._homeless(dim, at, end, begin - end))
            if block is not None:
                found.append(block)
                end = begin + prod(block.sizes[axis] for axis, _ in self.factors(block)[dim][at:])
        self.blocks = found
        return found

    def _homeless(self, dim: int, at: int, start: int, length: int) -> _Placed:
        like = self.blocks[0]
        axes = [one for number in range(len(self.shape)) for one in self._shared(like, self.gap(like), number)]
        sizes = [like.sizes[axis] for axis, _ in axes]
        strides = [like.strides[self.side][axis] for axis, _ in axes]
        if length > 1:
            sizes.append(length)
            strides.append(self.steps[dim])
        end = (self.name, start * self.steps[dim], tuple(strides))
        return _Placed(tuple(sizes), (end, None) if self.side == 0 else (None, end))


def equation(blocks: Sequence[Block], left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> Written:
    """The equation that says these blocks and nothing else.

    Raises:
        ShuffledError: The language has no words for them in one line.
    """
    placed = [
        _Placed(
            block.sizes,
            [(end.name, end.offset, end.strides) for end in (block.left, block.right)],
        )
        for block in blocks
    ]
    tensors = [_tensors(side, placed, shapes) for side, shapes in enumerate((left, right))]
    both = [*tensors[0], *tensors[1]]
    for _ in range(64):
        if not any(tensor.part_dims() or tensor.align() for tensor in both):
            break
    else:
        raise ShuffledError
    for tensor in both:
        tensor.fill()
    order = _order(tensors)
    names = _Names(both, order)
    terms: list[list[tuple[str, str]]] = [[], []]
    for side in (0, 1):
        done: set[str] = set()
        of = {tensor.name: tensor for tensor in tensors[side]}
        for block in order:
            name = block.names[side]
            if name == NOWHERE:
                terms[side].append((NOWHERE, names.homeless(block, tensors[1 - side])))
            elif name not in done:
                done.add(name)
                terms[side].append((name, names.shape(of[name])))
    texts = [tuple(text for _, text in side) for side in terms]
    ends = [tuple(name for name, _ in side) for side in terms]
    whole = not any(MARK in name for side in ends for name in side)
    if whole and len(order) == 1 and texts[0] == texts[1] and left[ends[0][0]] == right[ends[1][0]]:
        return Written(ends[0], ends[1])
    return Written(ends[0], ends[1], texts[0], texts[1], tuple(sorted(names.told.items())))


def _tensors(side: int, placed: Sequence[_Placed], shapes: Mapping[str, Sizes]) -> list[_Tensor]:
    names = dict.fromkeys(block.names[side] for block in placed)
    return [_Tensor(side, name, shapes[name], [b for b in placed if b.names[side] == name]) for name in names]


def _order(tensors: list[list[_Tensor]]) -> list[_Placed]:
    """All blocks, so that either side's tensors hold theirs one after another."""
    for side in (0, 1):
        order: list[_Placed] = [block for tensor in tensors[side] for block in tensor.blocks]
        for tensor in tensors[1 - side]:
            # A block without a home stands beside its neighbour in the tensor that has it.
            for at, block in enumerate(tensor.blocks):
                if block.names[side] == NOWHERE:
                    before = tensor.blocks[at - 1] if at else None
                    order.insert(order.index(before) + 1 if before else order.index(tensor.blocks[1]), block)
        if all(_together(order, tensor) for both in tensors for tensor in both):
            return order
    raise ShuffledError


def _together(order: list[_Placed], tensor: _Tensor) -> bool:
    """Whether the tensor's blocks stand in their own order without another tensor's between them."""
    places = [order.index(block) for block in tensor.blocks]
    return places == list(range(places[0], places[0] + len(places)))


class _Names:
    """Names of axes, and the sizes that a file must tell."""

    def __init__(self, tensors: Sequence[_Tensor], order: Sequence[_Placed]) -> None:
        self._tensors = tensors
        self._parent: dict[tuple[int, int], tuple[int, int]] = {}
        for tensor in tensors:
            self._unify(tensor)
        free = iter(FREE)
        self._name: dict[tuple[int, int], str] = {}
        self._size: dict[str, int] = {}
        for block in order:
            for axis, size in enumerate(block.sizes):
                key = self._root((id(block), axis))
                if key not in self._name:
                    used = {self._name.get(self._root((id(block), other))) for other in range(len(block.sizes))}
                    # In another block a name says no more than a length: parts of one length share it.
                    like = (word for word, length in self._size.items() if length == size and word not in used)
                    name = next(like, None) or next(free, None)
                    if name is None:
                        raise ShuffledError
                    self._name[key] = name
                    self._size[name] = size
        self.told = self._tell()

    def _unify(self, tensor: _Tensor) -> None:
        first = tensor.blocks[0]
        for block in tensor.blocks[1:]:
            for dim in range(len(tensor.shape)):
                mine = tensor._shared(first, tensor.gap(first), dim)
                theirs = tensor._shared(block, tensor.gap(block), dim)
                for (a, _), (b, _) in zip(mine, theirs, strict=True):
                    self._parent[self._root((id(block), b))] = self._root((id(first), a))

    def _root(self, key: tuple[int, int]) -> tuple[int, int]:
        while self._parent.get(key, key) != key:
            key = self._parent[key]
        return key

    def _word(self, block: _Placed, axis: int) -> str:
        return self._name[self._root((id(block), axis))]

    def shape(self, tensor: _Tensor) -> str:
        """How the axes sit in a tensor."""
        first = tensor.blocks[0]
        gap = tensor.gap(first)
        dims = []
        for dim in range(len(tensor.shape)):
            words = [self._word(first, axis) for axis, _ in tensor._shared(first, gap, dim)]
            if gap and gap[0] == dim:
                parts = [
                    " ".join(self._word(block, axis) for axis, _ in tensor.factors(block)[dim][gap[1] :]) or "1"
                    for block in tensor.blocks
                ]
                words.append(f"[{' + '.join(parts)}]")
            dims.append("1" if not words else words[0] if len(words) == 1 else f"({' '.join(words)})")
        return " ".join(dims) or "scalar"

    def homeless(self, block: _Placed, tensors: Sequence[_Tensor]) -> str:
        """The shape of a block where it has no tensor."""
        (home,) = (tensor for tensor in tensors if block in tensor.blocks)
        words = [[self._word(block, axis) for axis, _ in factors] for factors in home.factors(block)]
        return " ".join("1" if not w else w[0] if len(w) == 1 else f"({' '.join(w)})" for w in words) or "scalar"

    def _tell(self) -> dict[str, int]:
        """Sizes to tell so that either side alone suffices; the fewest, and those axes get names of their own."""
        unknown = sorted(self._size, key=lambda name: self._size[name])
        for count in range(len(unknown) + 1):
            for chosen in combinations(unknown, count):
                if all(self._solves(side, chosen) for side in (0, 1)):
                    return {name: self._size[name] for name in chosen}
        raise ShuffledError

    def _solves(self, side: int, chosen: tuple[str, ...]) -> bool:
        known = {name: self._size[name] for name in chosen}
        told = [(read_shape(self.shape(t)), t.shape) for t in self._tensors if t.side == side]
        try:
            while sum(solve(shape, sizes, known) for shape, sizes in told):
                pass
        except ShapeError:
            return False
        return set(self._size) <= set(known)


def with_told_names(equations: Sequence[Written]) -> Iterator[Written]:
    """Axes whose sizes are told get names that stand for one size in the whole file."""
    names: dict[tuple[int, int], str] = {}
    for one in equations:
        renamed: dict[str, str] = {}
        for axis, size in one.told:
            # Two axes of one equation may be of one size.
            key = (size, sum(told == size for _, told in one.told if _ in renamed))
            if key not in names:
                if len(names) == len(TOLD):
                    raise ShuffledError
                names[key] = TOLD[len(names)]
            renamed[axis] = names[key]
        yield _renamed(one, renamed) if renamed else one


def _renamed(one: Written, renamed: Mapping[str, str]) -> Written:
    def text(shape: str) -> str:
        return "scalar" if shape == "scalar" else "".join(renamed.get(letter, letter) for letter in shape)

    told = dict(one.told)
    return replace(
        one,
        left_shapes=tuple(map(text, one.left_shapes)),
        right_shapes=tuple(map(text, one.right_shapes)),
        told=tuple(sorted((renamed[axis], told[axis]) for axis in renamed)),
    )
