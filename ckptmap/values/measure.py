"""Statistics of two blocks of elements, in memory that is used again. NumPy is imported here.

Float64 is right for everything; float32 does the same several times as fast where it can.
"""

from __future__ import annotations

from dataclasses import replace
from math import frexp, isfinite, sqrt
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.values.dtypes import COMPLEX, LONG, PACKED, ROUNDED, WIDE, as_stored, rounded, widened
from ckptmap.values.single_precision import FLOATS, SinglePrecision
from ckptmap.values.statistics import Statistics

if TYPE_CHECKING:
    import numpy

    Block: TypeAlias = "bytearray | memoryview | bytes"

ELEMENTS = 1 << 19
"""Elements taken at once: enough that threads seldom wait for each other's turn in the interpreter."""
IN_DOUBLE = 1 << 15
"""The same in float64: five blocks of them stay near the core that works on them."""
LARGE, SMALL = 1e150, 1e-140
"""Beyond these, squares of float64 numbers are scaled."""
EXACT = 2.0**53
"""Whole numbers from here on are not all in float64."""


class Measure:
    """Compares blocks of two tensors element by element; one for each worker and pair of dtypes.

    Args:
        left: The left dtype.
        right: The right one.
        atol: How far elements may be apart, and
        rtol: how far as a share of the left element; None for no tolerance.
    """

    def __init__(self, left: str, right: str, *, atol: float | None = None, rtol: float | None = None) -> None:
        import numpy

        self.dtypes = left, right
        self._tolerance = None if atol is None and rtol is None else (atol or 0.0, rtol or 0.0)
        self._complex = left in COMPLEX or right in COMPLEX
        self._wide = left in WIDE or right in WIDE
        size = IN_DOUBLE * (2 if self._complex else 1)
        self._memory = [numpy.empty(size) for _ in range(5)]
        quick = self._tolerance is None and FLOATS.issuperset(self.dtypes)
        self._single = SinglePrecision(left, right, ELEMENTS) if quick else None

    def block(self, left: Block, right: Block) -> Statistics:
        """Compare at most `ELEMENTS` elements of each side, given as they are stored."""
        import numpy

        stored = [as_stored(data, dtype) for data, dtype in zip((left, right), self.dtypes, strict=True)]
        if self.dtypes[0] in PACKED:
            differ = int(numpy.count_nonzero(stored[0] != stored[1]))
            return Statistics(len(stored[0]), 0, differ, differ, differ)
        with numpy.errstate(all="ignore"):
            if self._single is not None:
                a, b = self._single.widened(stored)
                if (sums := self._single.sums(a, b)) is not None:
                    return self._with_unrounded(sums, stored, a, b)
            return self._block_in_double(stored)

    def _block_in_double(self, stored: list[numpy.ndarray]) -> Statistics:
        numbers = [2 if dtype in COMPLEX else 1 for dtype in self.dtypes]
        total = Statistics()
        for start in range(0, len(stored[0]) // numbers[0], IN_DOUBLE):
            stop = start + IN_DOUBLE
            total += self._in_double([side[start * n : stop * n] for side, n in zip(stored, numbers, strict=True)])
        return total

    def _in_double(self, stored: list[numpy.ndarray]) -> Statistics:
        import numpy

        a, b = self._widened(stored[0], 0), self._widened(stored[1], 1)
        d = self._memory[2][: len(a)]
        if self.dtypes[0] == self.dtypes[1] and self.dtypes[0] in LONG:
            # Exact, where float64 would round both sides to one number; the sign is never asked for.
            x, y = (whole.view("u8") for whole in stored)
            numpy.copyto(d, numpy.where(stored[1] >= stored[0], y - x, x - y))
        else:
            numpy.subtract(b, a, out=d)
        return self._with_unrounded(self._sums(a, b, d, self._unlike(stored, a, b)), stored, a, b)

    def _with_unrounded(
        self, sums: Statistics, stored: list[numpy.ndarray], a: numpy.ndarray, b: numpy.ndarray
    ) -> Statistics:
        unrounded = self._unrounded(stored, a, b)
        return replace(sums, unrounded=sums.changed if unrounded is None else unrounded)

    def _widened(self, stored: numpy.ndarray, side: int) -> numpy.ndarray:
        values = widened(stored, self.dtypes[side], self._memory[side])
        if not self._complex or self.dtypes[side] in COMPLEX:
            return values
        pairs = self._memory[side][: 2 * len(stored)]
        pairs[::2], pairs[1::2] = values.copy(), 0.0
        return pairs

    def _unrounded(self, stored: list[numpy.ndarray], a: numpy.ndarray, b: numpy.ndarray) -> int | None:
        """How many elements are not what rounding the wider side gives; None if no side is a rounding of the other."""
        import numpy

        for wide, narrow, values in ((0, 1, b), (1, 0, a)):
            if self.dtypes[narrow] in ROUNDED.get(self.dtypes[wide], ()):
                expected = rounded(stored[wide], self.dtypes[narrow])
                like = (expected == values) | (numpy.isnan(expected) & numpy.isnan(values))
                return len(values) - int(numpy.count_nonzero(like))
        return None

    def _unlike(self, stored: list[numpy.ndarray], a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray | None:
        """Which elements differ though float64 has one number for both: integers of 64 bits beside another dtype."""
        import numpy

        if self.dtypes[0] == self.dtypes[1] or not any(dtype in LONG for dtype in self.dtypes):
            return None
        step = 2 if self._complex else 1
        near = numpy.flatnonzero((a[::step] == b[::step]) & (numpy.abs(a[::step]) >= EXACT))
        if not len(near):
            return None
        unlike = numpy.zeros(len(a) // step, bool)
        for place in near.tolist():
            one, other = (
                int(whole[place]) if dtype in LONG else int(wide[place * step])
                for whole, wide, dtype in zip(stored, (a, b), self.dtypes, strict=True)
            )
            unlike[place] = one != other
        return unlike

    def _sums(self, a: numpy.ndarray, b: numpy.ndarray, d: numpy.ndarray, unlike: numpy.ndarray | None) -> Statistics:
        import numpy

        count = len(a) // 2 if self._complex else len(a)
        left, right, product = self._norms(a, b)
        if isfinite(left) and isfinite(right) and not self._wide:
            changed, beyond, finite = self._elements(d != 0), 0, count
        else:
            differs = ~((a == b) | (numpy.isnan(a) & numpy.isnan(b)))
            are_finite = self._each(numpy.isfinite(a) & numpy.isfinite(b), every=True)
            changed, finite = self._elements(differs), int(numpy.count_nonzero(are_finite))
            parts = are_finite.repeat(2) if self._complex else are_finite
            beyond = changed - self._elements(differs & parts)
            a, b, d = a[parts], b[parts], d[parts]
            left, right, product = self._norms(a, b)
        if unlike is not None:
            changed += int(numpy.count_nonzero(unlike))
        allowed = None
        if self._tolerance is not None:
            atol, rtol = self._tolerance
            allowed = atol + rtol * self._sizes(a)
        size = self._sizes(d)
        beyond = changed if allowed is None else beyond + int(numpy.count_nonzero(size > allowed))
        mean = float(size.sum()) / finite if finite else 0.0
        return Statistics(
            count,
            finite,
            changed,
            beyond,
            0,
            float(size.max(initial=0.0)),
            mean if isfinite(mean) else float((size / finite).sum()),
            left,
            right,
            self._norm(d)[0],
            product,
        )

    def _norms(self, a: numpy.ndarray, b: numpy.ndarray) -> tuple[float, float, float]:
        """Both norms, and the inner product by them."""
        (left, a, one), (right, b, two) = self._norm(a), self._norm(b)
        return left, right, self._product(a, b) / one / two if one and two else 0.0

    def _norm(self, values: numpy.ndarray) -> tuple[float, numpy.ndarray, float]:
        """The norm; and the values, brought near one by a power of two if squares need it, with their norm."""
        import numpy

        largest = float(numpy.abs(values).max(initial=0.0)) if self._wide else 0.0
        if not largest or not isfinite(largest) or SMALL < largest < LARGE:
            norm = sqrt(self._product(values, values))
            return norm, values, norm
        exponent = frexp(largest)[1]
        near_one = numpy.ldexp(values, -exponent)
        norm = sqrt(self._product(near_one, near_one))
        return float(numpy.ldexp(norm, exponent)), near_one, norm

    def _product(self, one: numpy.ndarray, other: numpy.ndarray) -> float:
        import numpy

        # No dot product: that would be BLAS's, with threads of its own.
        return float(numpy.multiply(one, other, out=self._memory[3][: len(one)]).sum())

    def _sizes(self, values: numpy.ndarray) -> numpy.ndarray:
        """The absolute value of each element, in memory that no square needs."""
        import numpy

        pairs = values.reshape(-1, 2) if self._complex else values
        sizes = self._memory[4][: len(pairs)]
        if self._complex:
            numpy.hypot(pairs[:, 0], pairs[:, 1], out=sizes)
        else:
            numpy.abs(values, out=sizes)
        return sizes

    def _each(self, flags: numpy.ndarray, *, every: bool) -> numpy.ndarray:
        """One flag for each element, of those of its parts."""
        if not self._complex:
            return flags
        both = (flags[::2], flags[1::2])
        found: numpy.ndarray = both[0] & both[1] if every else both[0] | both[1]
        return found

    def _elements(self, differs: numpy.ndarray) -> int:
        import numpy

        return int(numpy.count_nonzero(self._each(differs, every=False)))
