"""Proves rules by what they do: weights go through them there and back, and both models are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any

from ckptmap.conversion.convert import convert
from ckptmap.infer.places import close
from ckptmap.infer.probe_runs import Subject
from ckptmap.rules.plan import bind
from ckptmap.stages import tell

if TYPE_CHECKING:
    import torch

    from ckptmap.infer.probe_runs import Run
    from ckptmap.rules.rules import Rules

ENOUGH = 1e-5
"""Relative difference of outputs up to which two models agree."""


MOST_AXES = 4
"""Outputs of more axes are compared in the order they have."""

NEUTRAL = 0.1
"""What tensors without a rule are filled with on both sides: nobody can tell them apart by it."""


@dataclass(frozen=True)
class Verification:
    """What became of the proof.

    Attributes:
        compared: Places of both models whose values were compared.
        difference: Largest difference, as a share of the largest value at its place.
        where: The place where it was found.
        bits: Whether the left's tensors came back with equal bits.
        until: Where outputs differ, the last places that agree.
        apart: The first places after those.
        values: Whether no model was run, and what was compared are stored tensors: those that the rules make of the
            left's with the right's, every bit of them.
        casts: With `values`, the casts after which tensors of other dtypes are equal, and for how many.
    """

    compared: tuple[tuple[str, str], ...]
    difference: float
    where: tuple[str, str] | None
    bits: bool
    until: tuple[str, str] | None = None
    apart: tuple[str, str] | None = None
    values: bool = False
    casts: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether outputs were compared and agree, and all bits came back."""
        return bool(self.compared) and self.difference <= ENOUGH and self.bits

    def _repr_html_(self) -> str:
        from ckptmap.report.html.notebook import verification_html

        return verification_html(self)


def prove(
    rules: Rules, left: Subject, right: Subject, compared: Sequence[tuple[str, str]], *, values: bool = False
) -> Verification:
    """Fill the left at random, convert, run both in float64, compare, and convert back.

    Args:
        rules: The decided rules.
        left: The left model.
        right: The right model.
        compared: Places where the two are expected to agree.
        values: Whether to convert what the left holds, in place of random values.
    """
    import torch

    tell("the proof")
    state = left.state() if values else _random_state(left)
    homeless: dict[str, torch.Tensor] = {}
    there = convert(rules, state, partial=True, residue=homeless)
    assert isinstance(there, dict)
    back = convert(rules, there, back=True, partial=True, residue=homeless)
    assert isinstance(back, dict)
    bits = all(torch.equal(back[name], state[name]) for name in back)
    plan = bind(rules, left.shapes, right.shapes, partial=True)
    for name in plan.uncovered_left:
        if name in left.parameters:
            state[name] = torch.full_like(state[name], NEUTRAL)
        elif name in left.own:
            # The right keeps neutral statistics where it gets none.
            state[name] = torch.from_numpy(left.own[name])
    rest = {name: tensor for name, tensor in right.state().items() if name not in there and name in right.parameters}
    runs = _run(left, state), _run(right, there | {name: torch.full_like(t, NEUTRAL) for name, t in rest.items()})
    worst, where = 0.0, None
    places = [{one.place: one.tensor.detach() for one in run.activations} for run in runs]
    for a, b in compared:
        difference = _difference(places[0].get(a), places[1].get(b))
        if where is None or not difference <= worst:
            worst, where = difference, (a, b)
    until, apart = (None, None) if worst <= ENOUGH else _parting(*runs)
    return Verification(tuple(compared), worst, where, bits, until, apart)


def _parting(left: Run, right: Run) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """The last places at which two runs agree, and the first ones after them, in the order of execution."""
    last = None
    for at, one in enumerate(left.activations):
        like = next((there for there, other in enumerate(right.activations) if close(one, other)), None)
        last = last if like is None else (at, like)
    ours, theirs = (-1, -1) if last is None else last
    until = None if last is None else (left.activations[ours].place, right.activations[theirs].place)
    after = left.activations[ours + 1 : ours + 2], right.activations[theirs + 1 : theirs + 2]
    return until, (after[0][0].place, after[1][0].place) if all(after) else None


def _random_state(subject: Subject) -> dict[str, torch.Tensor]:
    """All tensors of the left, those that train filled at random, norms and biases included."""
    import torch

    random = torch.Generator().manual_seed(11)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in subject.state().items():
        if name not in subject.parameters:
            state[name] = tensor
        elif sum(size > 1 for size in tensor.shape) < 2:
            state[name] = 0.5 + torch.rand(tensor.shape, generator=random, dtype=torch.float64)
        else:
            spread = max(tensor.shape[-1], 1) ** -0.5
            state[name] = spread * torch.randn(tensor.shape, generator=random, dtype=torch.float64)
    for second, first in subject.aliases.items():
        state[second] = state[first]
    return state


def _run(subject: Subject, state: dict[str, torch.Tensor]) -> Run:
    return subject.run({name: value.numpy() for name, value in state.items() if value.is_floating_point()})


def _difference(a: Any, b: Any) -> float:
    if a is None or b is None or a.numel() != b.numel():
        return float("inf")
    scale = max(float(a.abs().max()), 1e-30)
    # Batch and time may be exchanged, or the logits of images and texts: any order of axes is the same output.
    turned = [a.permute(order) for order in permutations(range(a.ndim))] if a.ndim <= MOST_AXES else [a]
    alike = [one for one in turned if one.shape == b.shape]
    if not alike:
        # Inner places may be laid out in other ways: heads apart or together, images flat or not.
        a, b = a.flatten().sort().values, b.flatten().sort().values
        alike = [a]
    return min(float((one - b).abs().max()) for one in alike) / scale
