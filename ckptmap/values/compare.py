"""Reads what is paired: bytes first, and numbers of what has other bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from ckptmap.spec import DTYPE_BITS
from ckptmap.values.dtypes import PACKED
from ckptmap.values.measure import ELEMENTS, Measure
from ckptmap.values.pairs import Pair, Whole, Work
from ckptmap.values.sources import Bytes, HeldBytes
from ckptmap.values.statistics import Statistics
from ckptmap.values.workers import FETCHES, Meter, Scratch, cores, run_all, torch_in_one_thread

BLOCK = 1 << 17
"""Bytes compared at once: two of these stay in a core's own cache."""
PIECE = 1 << 23
"""Elements of one tensor that a worker takes at once: few enough to share out the last tensors, too."""
MEASURERS = 2
"""Threads that measure at once: between two sums each needs the interpreter, and more would wait for each other."""
FETCHED_PIECE = 1 << 20
"""The same of values that come over a network, which one request asks for."""


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What is known of the values of one tensor.

    Attributes:
        name: Its name on the right side.
        shape: Its shape.
        left: The left dtype.
        right: The right dtype.
        same_bits: Whether dtype and all bits are equal.
        statistics: How far both sides are apart; None where all bits are equal, and where the dtypes cannot be compared
            as numbers.
    """

    name: str
    shape: tuple[int, ...]
    left: str
    right: str
    same_bits: bool
    statistics: Statistics | None = None

    @property
    def same_numbers(self) -> bool:
        """Whether every element is the same number, whatever its bits: 0.0 is −0.0, and NaN is NaN."""
        return self.same_bits or (self.statistics is not None and not self.statistics.changed)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of elements of one tensor; of a packed dtype, a run of bytes."""

    pair: Pair
    start: int
    stop: int


class Comparison:
    """One run over work to be done; several workers may have parts of one tensor.

    Args:
        atol: How far elements may be apart, and
        rtol: how far as a share of the left element; None for no tolerance.
        meter: Where bytes are counted.
    """

    def __init__(self, atol: float | None, rtol: float | None, meter: Meter) -> None:
        self._atol, self._rtol = atol, rtol
        self._meter = meter
        self._lock = Lock()
        self._differing: dict[str, Pair] = {}
        self._measured: dict[str, list[tuple[int, Statistics]]] = {}

    def run(self, work: Sequence[Work]) -> tuple[TensorValues, ...]:
        """Compare all of it.

        Raises:
            CheckpointError: Something cannot be read.
            ConvertError: Values stand against the rules.
        """
        wholes = [one for one in work if isinstance(one, Whole) or one.in_one_go]
        read = [one for one in work if isinstance(one, Pair) and not one.in_one_go and not one.surely_equal]
        here = [pair for pair in read if not pair.fetched]
        self._meter.expect(sum(left.nbytes + right.nbytes for one in (*read, *wholes) for left, right in one.specs))
        self._run(self._compare, _pieces(here, PIECE))
        self._meter.expect(sum(pair.left.nbytes + pair.right.nbytes for pair in self._differing.values()))
        self._run(self._measure, _pieces(self._differing.values(), PIECE), min(cores(), MEASURERS))
        fetched = [pair for pair in read if pair.fetched]
        self._run(self._measure, _pieces(fetched, FETCHED_PIECE), FETCHES)
        if wholes:
            with torch_in_one_thread():
                self._run(self._make, wholes)
        return tuple(
            TensorValues(
                right.name,
                right.shape,
                left.dtype,
                right.dtype,
                right.name not in self._differing,
                self._statistics(right.name),
            )
            for one in work
            for left, right in one.specs
        )

    def _run(self, work: Any, items: Iterable[Any], workers: int = 0) -> None:
        run_all(work, items, self._meter, workers=workers)

    def _statistics(self, name: str) -> Statistics | None:
        if name not in self._differing or name not in self._measured:
            return None
        # In one order, so that two runs give the same numbers to the last bit.
        return sum((part for _, part in sorted(self._measured[name], key=lambda part: part[0])), Statistics())

    def _compare(self, piece: _Piece, scratch: Scratch) -> None:
        """Compare bytes until the first that differ; other dtypes differ without a look."""
        pair, (size, other_size) = piece.pair, _sizes(piece.pair)
        name, end = pair.right.name, piece.stop * size
        if pair.left.dtype != pair.right.dtype:
            self._differing[name] = pair
            return
        assert size == other_size
        for start in range(piece.start * size, end, BLOCK):
            if name in self._differing:
                return
            length = min(BLOCK, end - start)
            left, right = scratch.take(0, length), scratch.take(1, length)
            pair.left_bytes.read_into(memoryview(left), start)
            pair.right_bytes.read_into(memoryview(right), start)
            if left != right:
                self._differing[name] = pair
            self._meter.add(2 * length)

    def _measure(self, piece: _Piece, scratch: Scratch) -> None:
        """Sum up differences, of a block after the other; what is fetched comes in one go."""
        pair, (left_size, right_size) = piece.pair, _sizes(piece.pair)
        name, dtypes = pair.right.name, (pair.left.dtype, pair.right.dtype)
        if dtypes[0] != dtypes[1]:
            self._differing[name] = pair
            if not PACKED.isdisjoint(dtypes):
                return
        if dtypes not in scratch.kept:
            scratch.kept[dtypes] = Measure(*dtypes, atol=self._atol, rtol=self._rtol)
        measure, total = scratch.kept[dtypes], Statistics()
        step = max(1, piece.stop - piece.start) if pair.fetched else ELEMENTS
        for start in range(piece.start, piece.stop, step):
            count = min(step, piece.stop - start)
            left, right = scratch.take(0, count * left_size), scratch.take(1, count * right_size)
            pair.left_bytes.read_into(memoryview(left), start * left_size)
            pair.right_bytes.read_into(memoryview(right), start * right_size)
            if left != right:
                self._differing[name] = pair
            one, two = memoryview(left), memoryview(right)
            for at in range(0, count, ELEMENTS):
                here, there = at * left_size, at * right_size
                total += measure.block(
                    one[here : here + ELEMENTS * left_size], two[there : there + ELEMENTS * right_size]
                )
            self._meter.add(len(left) + len(right))
        with self._lock:
            self._measured.setdefault(name, []).append((piece.start, total))

    def _make(self, work: Work, scratch: Scratch) -> None:
        """Compare tensors that must be in memory as a whole."""
        for made in work.make() if isinstance(work, Whole) else [work]:
            left, right = _held(made.left_bytes, made.left.nbytes), _held(made.right_bytes, made.right.nbytes)
            pair = replace(made, left_bytes=left, right_bytes=right)
            for piece in _pieces([pair], PIECE):
                self._compare(piece, scratch)
            if pair.right.name in self._differing:
                for piece in _pieces([pair], PIECE):
                    self._measure(piece, scratch)


def _held(data: Bytes, nbytes: int) -> Bytes:
    if not data.in_one_go and not data.fetched:
        return data
    memory = memoryview(bytearray(nbytes))
    data.read_into(memory, 0)
    return HeldBytes(memory)


def _pieces(pairs: Iterable[Pair], most: int) -> Iterator[_Piece]:
    for pair in pairs:
        count = pair.right.nbytes if pair.right.dtype in PACKED else pair.right.parameters
        yield from (_Piece(pair, start, min(start + most, count)) for start in range(0, count or 1, most))


def _sizes(pair: Pair) -> tuple[int, int]:
    """Bytes of an element on each side; one for packed dtypes, which are taken as bytes."""
    left, right = (max(1, DTYPE_BITS[spec.dtype] // 8) for spec in (pair.left, pair.right))
    return left, right
