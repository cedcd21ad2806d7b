"""How two shapes can hold the same elements: as they are, with axes of one, or turned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias

from ckptmap.infer.equations import Written
from ckptmap.infer.unstack import MARK

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes

Relation: TypeAlias = Literal["same", "units", "turned"]

TURNED: Relation = "turned"

LETTERS = "omabcefpq"
"""Names of axes in the order they are taken."""


@dataclass(frozen=True)
class Named:
    """An equation that names and shapes give.

    Attributes:
        written: The equation, between tensors by their full names.
        evidence: Why.
        question: What has to be answered before it is more than a guess; empty if it is decided.
        pattern: The rule for all layers that would confirm it as it is.
    """

    written: Written
    evidence: str
    question: str = ""
    pattern: str = ""


@cache
def related(ours: Sizes, theirs: Sizes) -> Relation | None:
    """How the shapes go together; None if they do not."""
    if ours == theirs:
        return "same"
    if len(ours) == len(theirs) == 2 and ours == theirs[::-1]:
        return TURNED
    if [size for size in ours if size != 1] == [size for size in theirs if size != 1]:
        return "units"
    return None


def written(left: str, right: str, ours: Sizes, theirs: Sizes, *, turned: bool) -> Written:
    """The equation of two tensors whose shapes are related.

    Args:
        left: Name of the left tensor.
        right: Name of the right one.
        ours: Shape of the left.
        theirs: Shape of the right.
        turned: Whether a square matrix is turned.
    """
    relation = related(ours, theirs)
    if relation == TURNED or turned:
        return Written((left,), (right,), ("o m",), ("m o",))
    if relation == "same" and MARK not in left + right:
        return Written((left,), (right,))
    letters = iter(LETTERS)
    named = [next(letters) for size in ours if size != 1]
    return Written((left,), (right,), (_spelled(ours, named),), (_spelled(theirs, named),))


def _spelled(shape: Sizes, letters: list[str]) -> str:
    rest = iter(letters)
    return " ".join("1" if size == 1 else next(rest) for size in shape) or "scalar"
