"""Outputs of both models: which are compared with which, and by how much they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ckptmap.infer.probe_runs import Activation, Run

MOST_AXES = 4
"""Outputs of more axes are compared in the order they have."""


def difference(left: torch.Tensor | None, right: torch.Tensor | None) -> float:
    """Largest difference as a share of the largest value; infinite if the two are not of one shape.

    Batch and time may be exchanged, or the logits of images and texts, and axes of length 1 may be there or not.
    Values that are infinite must be so on both sides.
    """
    if left is None or right is None:
        return float("inf")
    return min((_apart(one, right) for one in _arranged(left, right)), default=float("inf"))


def _arranged(left: torch.Tensor, right: torch.Tensor) -> Iterator[torch.Tensor]:
    """The left as the right's shape, in every order of axes that has it."""
    if left.numel() != right.numel():
        return
    ours, theirs = left.squeeze(), right.squeeze()
    orders = permutations(range(ours.ndim)) if ours.ndim <= MOST_AXES else iter([tuple(range(ours.ndim))])
    for order in orders:
        turned = ours.permute(order)
        if turned.shape == theirs.shape:
            yield turned.reshape(right.shape)
    if ours.shape != theirs.shape and _merged(ours.shape, theirs.shape):
        yield left.reshape(right.shape)


def _merged(left: Sequence[int], right: Sequence[int]) -> bool:
    """Whether one shape is the other with neighbouring axes made one, as batch and time are for a loss."""
    more, fewer = (left, right) if len(left) > len(right) else (right, left)
    at, size = 0, 1
    for length in more:
        size *= length
        if at < len(fewer) and size == fewer[at]:
            at, size = at + 1, 1
    return at == len(fewer) and size == 1


def _apart(left: torch.Tensor, right: torch.Tensor) -> float:
    left, right = left.to(torch.float64), right.to(torch.float64)
    finite = torch.isfinite(left) & torch.isfinite(right)
    same = (left == right) | finite
    if not bool(same.all()) or not bool(finite.any()):
        return float("inf")
    scale = max(float(left[finite].abs().max()), float(right[finite].abs().max()), 1e-30)
    return float((left[finite] - right[finite]).abs().max()) / scale


def of_one_shape(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether the two could be the same output."""
    return next(_arranged(left, right), None) is not None


def output_pairs(left: Run, right: Run) -> list[tuple[str, str]]:
    """For each output of the right the left's place that it is compared with.

    That is an output of its shape, the closest one that no other has taken. Only if the left returns nothing of that
    shape, an inner place: the right may be a part of the left, which goes on with a head.
    """
    ours, theirs = ([one for one in run.activations if one.output] for run in (left, right))
    gaps = {
        (a.place, b.place): difference(a.tensor.detach(), b.tensor.detach())
        for b in theirs
        for a in ours
        if of_one_shape(a.tensor, b.tensor)
    }
    found: dict[str, str] = {}
    taken: set[str] = set()
    for a, b in sorted(gaps, key=lambda pair: gaps[pair]):
        if b not in found and a not in taken:
            found[b] = a
            taken.add(a)
    shaped = {b for _, b in gaps}
    for one in theirs:
        if one.place not in shaped and (inner := _closest(left, one)) is not None:
            found[one.place] = inner
    return [(found[one.place], one.place) for one in theirs if one.place in found]


def _closest(run: Run, output: Activation) -> str | None:
    """The inner place whose values are closest to those of an output."""
    there = [one for one in run.activations if not one.output and of_one_shape(one.tensor, output.tensor)]
    gaps = {one.place: difference(one.tensor.detach(), output.tensor.detach()) for one in reversed(there)}
    return min(gaps, key=lambda place: gaps[place], default=None)


def places(run: Run) -> Mapping[str, torch.Tensor]:
    """The run's values by their places."""
    return {one.place: one.tensor.detach() for one in run.activations}
