"""Places in two runs at which the same values stand."""

from __future__ import annotations

from collections.abc import Sequence

from ckptmap.infer.probe_runs import Activation, Run

TOLERANCE = 1e-6
"""Relative difference up to which two outputs, both computed in float64, count as equal."""


def common_places(left: Run, right: Run) -> list[tuple[str, str]]:
    """Places whose values are equal on both sides, outputs first."""
    for side, other, swap in ((right, left, True), (left, right, False)):
        found = _outputs_found(side.activations, other.activations)
        if found:
            return [(there, one) if swap else (one, there) for one, there in found]
    found = _equal_constants(left.activations, right.activations)
    for one in left.activations:
        there = [a for a in right.activations if close(one, a)]
        here = [a for a in left.activations if close(one, a)]
        if there and _one_tensor(there) and _one_tensor(here) and here[0] is one:
            found.append((one.place, there[0].place))
    return found


def _outputs_found(side: Sequence[Activation], other: Sequence[Activation]) -> list[tuple[str, str]]:
    """Outputs of a side, and where their values stand on the other one, in an output if it can be."""
    found: list[tuple[str, str]] = []
    used: dict[int, int] = {}
    for one in side:
        same = [there for there in other if one.output and close(one, there)]
        if not same:
            continue
        best = [there for there in same if there.output] or same[-1:]
        # Outputs that are alike while all is filled alike (start and end of an answer) go in order.
        number = used.get(id(best[0]), 0)
        used[id(best[0])] = number + 1
        found.append((one.place, best[min(number, len(best) - 1)].place))
    return found


def _equal_constants(left: Sequence[Activation], right: Sequence[Activation]) -> list[tuple[str, str]]:
    """Outputs of one value throughout: the classes of a single example, before their weights are told apart."""
    ours, theirs = ([one for one in side if one.output and is_constant(one)] for side in (left, right))
    found = []
    for one in ours:
        same = [a for a in theirs if a.tensor.numel() == one.tensor.numel() and still_equal(one, a)]
        if len(same) == 1 and one.power[0]:
            found.append((one.place, same[0].place))
    return found


def _one_tensor(activations: Sequence[Activation]) -> bool:
    """Whether they are one and the same, passed on."""
    return len({one.tensor.data_ptr() for one in activations}) == 1


def close(a: Activation, b: Activation) -> bool:
    """Whether they hold the same values, in whatever order, and are no constant."""
    return a.tensor.numel() == b.tensor.numel() and not is_constant(a) and still_equal(a, b)


def is_constant(one: Activation) -> bool:
    """Whether it is one value throughout, to rounding."""
    return one.power[1] - one.power[0] ** 2 <= 1e-9 * one.power[1]


def still_equal(a: Activation, b: Activation) -> bool:
    """Whether their first powers are equal up to rounding."""
    scale = a.power[1] ** 0.5
    return all(abs(x - y) <= TOLERANCE * scale**n for n, (x, y) in enumerate(zip(a.power, b.power, strict=True), 1))
