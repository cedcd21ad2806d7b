"""Statistics of two blocks in float32, at several times the speed of float64: what is counted stays exact."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from ckptmap.values.dtypes import widened
from ckptmap.values.statistics import Statistics

if TYPE_CHECKING:
    import numpy

FLOATS = frozenset(("BF16", "F16", "F32", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ"))
"""Dtypes of weights of which float32 holds every number; whole numbers are few, and people want their sums exact."""
ROW = 2048
"""Products added up in float32 before float64 takes over: few enough that rounding stays near 1e-8, and far fewer than
the 10,000 from which a BLAS may start threads of its own."""
SMALLEST_SQUARES, LARGEST_SQUARES = 1e-24, 1e30
"""Sums of squares below the one may have lost parts to underflow; beyond the other, squares come near overflow."""
NEAR_LARGEST = 1 - 2.0**-20
"""Differences from this share of the largest on are looked at again in float64, as float32 may have put them in another
order."""


class SinglePrecision:
    """Compares blocks whose dtypes float32 holds; one for each worker.

    Args:
        left: The left dtype.
        right: The right one.
        elements: The most elements of a block.
    """

    def __init__(self, left: str, right: str, elements: int) -> None:
        import numpy

        self._dtypes = left, right
        self._memory = [numpy.empty(elements, "<f4") for _ in range(3)]
        self._flags = numpy.empty(elements, bool)

    def widened(self, stored: list[numpy.ndarray]) -> list[numpy.ndarray]:
        """Both sides as float32."""
        return [widened(values, self._dtypes[side], self._memory[side]) for side, values in enumerate(stored)]

    def sums(self, a: numpy.ndarray, b: numpy.ndarray) -> Statistics | None:
        """What float64 would say of both sides, norms and means to about 1e-7.

        Returns:
            None if float32 cannot tell: of numbers that are not finite, or whose squares it does not hold.
        """
        import numpy

        count, d = len(a), self._memory[2][: len(a)]
        changed = int(numpy.count_nonzero(numpy.not_equal(a, b, out=self._flags[:count])))
        left = _norm(a)
        if not changed:
            return None if left is None else Statistics(count, count, left=left, right=left, product=float(left > 0))
        numpy.subtract(b, a, out=d)
        right, difference = _norm(b), _norm(d)
        if left is None or right is None or difference is None:
            return None
        product = _product(a, b) / left / right if left and right else 0.0
        size = numpy.abs(d, out=d)
        largest, mean = self._largest(a, b, size), float(size.sum()) / count
        return Statistics(count, count, changed, changed, 0, largest, mean, left, right, difference, product)

    def _largest(self, a: numpy.ndarray, b: numpy.ndarray, size: numpy.ndarray) -> float:
        """The largest difference, exact: those that come near it are taken again in float64."""
        import numpy

        near = numpy.greater_equal(size, size.max() * NEAR_LARGEST, out=self._flags[: len(size)])
        return float(numpy.abs(b[near].astype("f8") - a[near].astype("f8")).max())


def _norm(values: numpy.ndarray) -> float | None:
    """The L2 norm; None if squares are not finite, come near that, or went below what float32 holds."""
    square = _product(values, values)
    if SMALLEST_SQUARES < square < LARGEST_SQUARES:
        return sqrt(square)
    return None if square or values.any() else 0.0


def _product(one: numpy.ndarray, other: numpy.ndarray) -> float:
    import numpy

    whole = len(one) // ROW * ROW
    rows = numpy.matmul(one[:whole].reshape(-1, 1, ROW), other[:whole].reshape(-1, ROW, 1))
    return float(rows.sum(dtype="f8")) + float(numpy.dot(one[whole:], other[whole:]))
