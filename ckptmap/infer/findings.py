"""What evidence amounts to: which elements of the left are which elements of the right, and what stays open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy

Sizes: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True, slots=True)
class Strided:
    """A box of elements in a contiguous tensor: where it begins, and how far one step along each axis goes.

    Attributes:
        name: The tensor.
        offset: Its first element, counted in elements from the tensor's beginning.
        strides: One for each axis of the block, in elements; 0 is not allowed, see `Block`.
    """

    name: str
    offset: int
    strides: Sizes


@dataclass(frozen=True, slots=True)
class Block:
    """The same elements seen from both sides, along the same axes.

    Attributes:
        sizes: Length of each axis, all above 1; empty for a single element.
        left: Where they are on the left.
        right: Where they are on the right.
    """

    sizes: Sizes
    left: Strided
    right: Strided


@dataclass(frozen=True, slots=True)
class Open:
    """Tensors that could not be decided, and the one question that would decide them.

    Attributes:
        left: Candidates on the left, by name.
        right: Candidates on the right, by name.
        question: What to ask, with the answer's form: `--pin 'a <-> b'`.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    question: str


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A tensor without a counterpart, and why: new head, dead parameter, buffer, nothing of that shape, …"""

    name: str
    reason: str


Elements: TypeAlias = "dict[str, numpy.ndarray]"
"""For each tensor, an int64 array of its shape: the number of the element that stands there, or -1.

The elements of an inventory are numbered from 0 through its tensors in order, row-major.
"""
