"""What became of a proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EXACT = 1e-9
"""Relative difference of outputs up to which two models that run in float64 agree."""

PROVEN, NEAR, PARTS, OPEN = OUTCOMES = ("proven", "near", "parts", "open")
"""What a proof can come to; no other may be called proven anywhere."""


@dataclass(frozen=True)
class Difference:
    """One thing that two models do differently, and an experiment after which they agree.

    Attributes:
        kind: What differs: `eps`, `activation`, `causal mask`, `residual` and others.
        places: Where on the left and where on the right: modules and what they do there.
        left: What the left does.
        right: What the right does.
        evidence: What was changed on one side, whereupon the two agree.
    """

    kind: str
    places: tuple[tuple[str, ...], tuple[str, ...]]
    left: str
    right: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.kind}: the right has {self.right}, the left {self.left}"


@dataclass(frozen=True)
class Verification:
    """What became of the proof.

    Attributes:
        compared: Places of both models whose values were compared: every output of the right, and of the left what it
            is, an output wherever the left has one of that shape.
        difference: Largest difference, as a share of the largest value at its place.
        where: The place where it was found.
        bits: Whether the left's tensors came back with equal bits.
        until: Where outputs differ, the last places that agree.
        apart: The first places after those.
        values: Whether no model was run, and what was compared are stored tensors: those that the rules make of the
            left's with the right's, every bit of them.
        casts: With `values`, the casts after which tensors of other dtypes are equal, and for how many.
        allowed: The difference up to which both count as equal: more than `EXACT` only where a model holds constants of
            float32 or computes in it, as much as that was measured to amount to.
        lacking: Outputs of the right that the left has nothing of.
        apart_ties: Right tensors that are one, and that the rules give different values.
        unreached: What no input reached, or no input can: rows, dead tensors, biases that cancel.
        loose: Left and right tensors that no rule gives, in whole or in part.
        hangs_on_loose: Whether the outputs are equal as long as those hold one value, and differ once they have values
            of their own.
        inputs: What was run: the input itself, an empty text, and what was changed of it.
        differences: What was changed on one side for the proof, since the two differ in it: nothing of it is proven
            of the models as they are.
    """

    compared: tuple[tuple[str, str], ...]
    difference: float
    where: tuple[str, str] | None
    bits: bool
    until: tuple[str, str] | None = None
    apart: tuple[str, str] | None = None
    values: bool = False
    casts: Mapping[str, int] = field(default_factory=dict)
    allowed: float = EXACT
    lacking: tuple[str, ...] = ()
    apart_ties: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    loose: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    hangs_on_loose: bool = False
    inputs: tuple[str, ...] = ("",)
    differences: tuple[Difference, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether all that was compared is equal with every element at a value of its own, and all bits came back."""
        return bool(self.compared) and self.difference <= self.allowed and self.bits and not self.apart_ties

    @property
    def passed(self) -> bool:
        """Whether that holds of the models as they are, and all outputs of the right were compared."""
        return self.agrees and not self.lacking and not self.differences

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        if self.passed:
            return PROVEN
        if self.differences and self.agrees and not self.lacking:
            return NEAR
        return OPEN if self.agrees or (self.hangs_on_loose and self.bits and not self.apart_ties) else PARTS

    def _repr_html_(self) -> str:
        from ckptmap.report.html.notebook import verification_html

        return verification_html(self)
