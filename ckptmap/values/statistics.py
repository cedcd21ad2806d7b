"""How far two tensors are apart: what is known of blocks can be added up to tensors, layers and models."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, isfinite


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is known of the differences Δ = right − left, element by element, in float64.

    Two elements are the same number if they compare equal (so 0.0 and −0.0 do) or are both NaN. Norms, means and the
    like are of the elements that are finite on both sides; one that is too large for float64 is infinite.

    Attributes:
        elements: How many there are.
        finite: How many are finite on both sides.
        changed: How many are not the same number.
        beyond: How many are further apart than the tolerance allows; without a tolerance, as `changed`.
        unrounded: How many are not what rounding one side to the other's dtype gives; for dtypes of which neither is
            looked at as a rounding of the other, as `changed`.
        max_abs: The largest |Δ|.
        mean: Mean |Δ|; 0 if no element is finite.
        left: L2 norm of the left side.
        right: L2 norm of the right side.
        difference: L2 norm of Δ.
        product: Inner product of both sides, each divided by its norm; 0 if one of these is.
    """

    elements: int = 0
    finite: int = 0
    changed: int = 0
    beyond: int = 0
    unrounded: int = 0
    max_abs: float = 0.0
    mean: float = 0.0
    left: float = 0.0
    right: float = 0.0
    difference: float = 0.0
    product: float = 0.0

    def __add__(self, other: Statistics) -> Statistics:
        # No sum of squares: float64 numbers may be too large or too small for their squares.
        finite = self.finite + other.finite
        left, right = hypot(self.left, other.left), hypot(self.right, other.right)
        return Statistics(
            self.elements + other.elements,
            finite,
            self.changed + other.changed,
            self.beyond + other.beyond,
            self.unrounded + other.unrounded,
            max(self.max_abs, other.max_abs),
            sum(one.mean * (one.finite / finite) for one in (self, other)) if finite else 0.0,
            left,
            right,
            hypot(self.difference, other.difference),
            sum(one.product * (one.left / left) * (one.right / right) for one in (self, other))
            if left and right
            else 0.0,
        )

    @property
    def mean_abs(self) -> float | None:
        """Mean |Δ|; None if no element is finite."""
        return self.mean if self.finite else None

    @property
    def relative_l2(self) -> float | None:
        """‖Δ‖ / ‖left‖; 0 if Δ is zero, None if only left is, no element is finite, or a norm is not."""
        if not self.finite or not isfinite(self.left + self.difference):
            return None
        if not self.difference:
            return 0.0
        return self.difference / self.left if self.left else None

    @property
    def cosine(self) -> float | None:
        """Cosine of both sides; 1 if Δ is zero, None if one side alone is, no element is finite, or a norm is not."""
        if not self.finite or not isfinite(self.left + self.right):
            return None
        if not self.difference:
            return 1.0
        return max(-1.0, min(1.0, self.product)) if self.left and self.right else None

    @property
    def not_finite(self) -> int:
        """Elements that are NaN or infinite on either side."""
        return self.elements - self.finite

    @property
    def changed_share(self) -> float:
        """Share of the elements that are not the same number."""
        return self.changed / self.elements if self.elements else 0.0
