"""Places in two runs at which the same values stand."""

from __future__ import annotations

from collections.abc import Sequence

from ckptmap.infer.probe_runs import Activation, Run

TOLERANCE = 1e-6
"""Relative difference up to which two outputs, both computed in float64, count as equal."""

CONSTANT = 1e-8
"""Values that deviate from their mean by no more than this share of their size are one value, and rounding."""


def common_places(left: Run, right: Run) -> list[tuple[str, str]]:
    """Places whose values are equal on both sides, outputs first.

    Outputs that cannot be told apart yet, as start and end of a span while both are filled alike, go together in the
    order in which they are returned, the last with the last.
    """
    for side, other, swap in ((right, left, True), (left, right, False)):
        found: list[tuple[str, str]] = []
        taken: set[str] = set()
        for one in reversed(side.activations):
            if not one.output:
                continue
            same = [there for there in other.activations if close(one, there)]
            if same:
                likes = [there for there in same if there.output == any(a.output for a in same)]
                best = next((there for there in reversed(likes) if there.place not in taken), likes[-1])
                taken.add(best.place)
                found.append((best.place, one.place) if swap else (one.place, best.place))
        if found:
            return found[::-1]
    found = _equal_constants(left.activations, right.activations)
    for one in left.activations:
        there = [a for a in right.activations if close(one, a)]
        here = [a for a in left.activations if close(one, a)]
        if there and _one_tensor(there) and _one_tensor(here) and here[0] is one:
            found.append((one.place, there[0].place))
    return found


def _equal_constants(left: Sequence[Activation], right: Sequence[Activation]) -> list[tuple[str, str]]:
    """Outputs of one value throughout: the classes of a single example, before their weights are told apart."""
    ours, theirs = ([one for one in side if one.output and is_constant(one)] for side in (left, right))
    found = []
    for one in ours:
        same = [a for a in theirs if a.tensor.numel() == one.tensor.numel() and still_equal(one, a)]
        if len(same) == 1 and one.moments[0]:
            found.append((one.place, same[0].place))
    return found


def _one_tensor(activations: Sequence[Activation]) -> bool:
    """Whether they are one and the same, passed on."""
    return len({one.tensor.data_ptr() for one in activations}) == 1


def has_output(places: Sequence[tuple[str, str]]) -> bool:
    """Whether an output of one of the models is among them."""
    return any("output" in (a.split()[0], b.split()[0]) for a, b in places)


def close(a: Activation, b: Activation) -> bool:
    """Whether they hold the same values, in whatever order, and are no constant."""
    return a.tensor.numel() == b.tensor.numel() and not is_constant(a) and still_equal(a, b)


def is_constant(one: Activation) -> bool:
    """Whether it is one value throughout, to rounding."""
    _, size, deviation, _ = one.moments
    return deviation <= CONSTANT * size


def still_equal(a: Activation, b: Activation) -> bool:
    """Whether their moments are equal up to rounding."""
    _, size, deviation, _ = a.moments
    if is_constant(a):
        return is_constant(b) and abs(a.moments[0] - b.moments[0]) <= TOLERANCE * size
    # What varies little around a large mean is compared by what varies: the mean alone says next to nothing.
    scales = (size, size, deviation, 1.0)
    return all(abs(x - y) <= TOLERANCE * scale for x, y, scale in zip(a.moments, b.moments, scales, strict=True))
