"""Sorts elements of two models into classes whose fingerprints are equal up to rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

CLOSE = 1e-5
"""Difference up to which coordinates of fingerprints of length 1 count as equal."""


@dataclass(frozen=True)
class Classes:
    """Elements of both sides that cannot be told apart; members are row numbers, in order.

    Attributes:
        single: Classes of one on each side: pairs (left, right).
        many: Classes of several, as many on the left as on the right.
    """

    single: numpy.ndarray
    many: list[tuple[numpy.ndarray, numpy.ndarray]]


def equal_classes(left: numpy.ndarray, right: numpy.ndarray, close: float = CLOSE) -> Classes:
    """Classes with as many members on the left as on the right; rows of `left` and `right` are fingerprints."""
    import numpy

    both = numpy.concatenate([left, right])
    length = numpy.sqrt((both**2).sum(axis=1))
    coordinates = numpy.concatenate([both / length[:, None], numpy.log(length)[:, None]], axis=1)
    is_left = numpy.arange(len(both)) < len(left)
    members = numpy.arange(len(both))
    labels = numpy.zeros(len(both), dtype=numpy.int64)
    # A coordinate may hold far values together in a chain of close ones; once others have thinned the chain out,
    # it parts them.
    for column in [*coordinates.T, *coordinates.T]:
        members, labels = _split(members, labels, column, close)
        members, labels = _balanced(members, labels, is_left)
    lefts = numpy.bincount(labels, weights=is_left[members])
    even = (2 * lefts == numpy.bincount(labels))[labels]
    members, labels = members[even], labels[even]
    pairs = numpy.bincount(labels)[labels] == 2
    single = members[pairs].reshape(-1, 2) - numpy.array([0, len(left)])
    members, labels = members[~pairs], labels[~pairs]
    edges = numpy.flatnonzero(numpy.diff(labels)) + 1
    many = []
    for group in numpy.split(members, edges) if len(members) else []:
        half = len(group) // 2
        many.append((group[:half], group[half:] - len(left)))
    return Classes(single, many)


def _split(
    members: numpy.ndarray, labels: numpy.ndarray, column: numpy.ndarray, close: float
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Part each class where its values along a coordinate leave a gap; members end up sorted by class and number."""
    import numpy

    if not len(members):
        return members, labels
    # One key for class and value is sorted several times faster than two; it is exact far below `CLOSE`.
    own = column[members]
    order = numpy.argsort(labels * (2 * numpy.abs(own).max() + 1) + own)
    values, groups = column[members][order], labels[order]
    fresh = numpy.concatenate([[0], numpy.cumsum((numpy.diff(groups) != 0) | (numpy.diff(values) > close))])
    members = members[order]
    order = numpy.argsort(fresh * (members.max() + 1) + members)
    return members[order], fresh[order]


def _balanced(
    members: numpy.ndarray, labels: numpy.ndarray, is_left: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Only classes that have members on both sides."""
    import numpy

    lefts = numpy.bincount(labels, weights=is_left[members])
    total = numpy.bincount(labels)
    keep = ((lefts > 0) & (lefts < total))[labels]
    return members[keep], labels[keep]
