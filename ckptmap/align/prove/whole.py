"""The final check of models that are too large to be held several times over.

One model stands in memory at a time, in the precision it has. Weights are made tensor by tensor, each from a number of
its own, so that they can be made again for the other side; every operation widens what it takes to float64 and lets go
of it at once. So a difference of 1e-9 is seen as it is in small models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy
import torch

from ckptmap.align.prove.fills import DRAWS, NEUTRAL, POSITIVE
from ckptmap.align.prove.outputs import difference, output_pairs, places
from ckptmap.align.prove.tolerance import MARGIN, ULP
from ckptmap.conversion.blocks import move
from ckptmap.infer.inputs import outputs
from ckptmap.infer.probe_runs import (
    Activation,
    Run,
    aliases_of,
    constants_of,
    moved_constants,
    note_outputs,
    numbered,
    plain_experts,
)
from ckptmap.infer.proof import EXACT, Verification
from ckptmap.infer.running import copy_of, double_precision, plain_kernels
from ckptmap.infer.value_proof import comes_back
from ckptmap.rules.plan import Piece, bind
from ckptmap.stages import tell

if TYPE_CHECKING:
    from ckptmap.align.prove.variations import Variation
    from ckptmap.infer.probe_runs import Runner
    from ckptmap.rules.plan import Equation, Plan
    from ckptmap.rules.rules import Rules

Pairs = list[tuple[str, str]]


@dataclass
class Whole:
    """One side: a model, and how it is filled.

    Attributes:
        module: The model.
        label: What messages call it.
        ours: Whether the model was made for this and may be filled in place; else a copy is, while it is needed.
        learnt: Buffers that a parameter of the other side may stand for.
        returned: Outputs that depend on some parameter; others are not compared.
    """

    module: torch.nn.Module
    label: str
    ours: bool
    learnt: frozenset[str]
    returned: frozenset[str]

    def __post_init__(self) -> None:
        tensors = self.module.state_dict(keep_vars=True)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
        self.aliases = aliases_of(floating)
        self.dtypes = {name: tensor.dtype for name, tensor in floating.items()}
        trains = dict(self.module.named_parameters(remove_duplicate=False)).keys() | self.learnt
        self.buffers = frozenset(name for name in floating if name not in trains)
        self.states = frozenset(name for name in self.buffers if _is_state(floating[name]))
        self.floating = tuple(name for name in floating if name not in self.aliases)
        self.number = {name: at for at, name in enumerate(self.shapes)}

    def first(self, name: str) -> str:
        """The first name of the tensor."""
        return self.aliases.get(name, name)

    def filled(self, given: set[str]) -> list[str]:
        """Tensors that get values: all that train, state, and buffers that rules give or use."""
        return [name for name in self.floating if name not in self.buffers or name in self.states or name in given]

    @contextmanager
    def stage(self) -> Iterator[torch.nn.Module]:
        """The model to be filled and run; its buffers are afterwards as before."""
        made = self.module if self.ours else copy_of(self.module)
        plain_experts(made)
        training = [(part, part.training) for part in made.modules()]
        kept = {name: one.clone() for name, one in made.named_buffers()} if self.ours else {}
        made.eval()
        try:
            yield made
        finally:
            for part, was in training:
                part.training = was
            for name, one in made.named_buffers() if kept else ():
                one.data.copy_(kept[name])

    def value(self, name: str, draw: int, side: int) -> torch.Tensor:
        """The values of a tensor; the same each time."""
        shape, signed = self.shapes[name], draw > 0
        dtype = self.dtypes[name]
        random = numpy.random.default_rng((draw, side, self.number[name]))
        made = torch.from_numpy(random.random(shape, dtype=numpy.float32).reshape(shape))
        if sum(size > 1 for size in shape) >= 2:
            # As wide as a normal distribution would be, in a fraction of the time.
            return made.sub_(0.5).mul_((1.0 + 0.7 * signed) * (12 / shape[-1]) ** 0.5).to(dtype)
        made += 0.5
        signs = torch.from_numpy(random.random(shape).reshape(shape)) < 0.5
        return (torch.where(signs, -made, made) if signed and not name.endswith(POSITIVE) else made).to(dtype)


def _is_state(value: torch.Tensor) -> bool:
    """Whether a buffer looks as training finds it, all zeros or all ones."""
    return value.numel() > 0 and float(value.flatten()[0]) in (0.0, 1.0) and bool((value == value.flatten()[0]).all())


@dataclass
class _Seen:
    pairs: Pairs = field(default_factory=list)
    worst: float = 0.0
    where: tuple[str, str] | None = None
    returned: set[str] = field(default_factory=set)
    apart: tuple[str, ...] = ()
    bits: bool = True


def prove_whole(
    rules: Rules,
    left: Whole,
    right: Whole,
    varied: Sequence[Variation],
    *,
    allowed: Callable[[], float],
    unreached: Callable[[], Sequence[str]],
) -> Verification:
    """Fill both whole models through the rules, run them on several inputs, compare all outputs, and convert back.

    Args:
        rules: The rules, for the names of the modules.
        left: The left model.
        right: The right model.
        varied: The inputs.
        allowed: What rounding in float32 explains, asked for where outputs are not equal.
        unreached: What no input reaches, asked for where they are.
    """
    plan = bind(rules, left.shapes, right.shapes, partial=True)
    seen = _Seen()
    for draw in range(DRAWS):
        tell("the whole models", draw, DRAWS)
        _look(seen, _runs(plan, left, right, varied, draw, seen), draw)
    loose = _loose(plan, left, right)
    most = EXACT
    if seen.pairs and seen.worst > EXACT:
        compared = [{pair[at] for pair in seen.pairs} for at in (0, 1)]
        most = max(EXACT, allowed(), MARGIN * _constants_amount_to(plan, left, right, varied[:1], compared))
    agree = bool(seen.pairs) and seen.worst <= most and not seen.apart
    alike = False
    if not agree and any(loose) and seen.pairs:
        neutral = _Seen()
        _look(neutral, _runs(plan, left, right, varied[:1], 0, neutral, neutral=True), 0)
        alike = neutral.worst <= EXACT
    return Verification(
        tuple(seen.pairs),
        seen.worst,
        seen.where,
        seen.bits,
        allowed=most,
        lacking=tuple(sorted(seen.returned - {b for _, b in seen.pairs})),
        apart_ties=seen.apart,
        unreached=(*unreached(), *_kept(plan, right)) if agree else (),
        loose=loose,
        hangs_on_loose=alike,
        inputs=tuple(one.what for one in varied),
    )


def _kept(plan: Plan, right: Whole) -> Iterator[str]:
    """Buffers that no rule gives and that keep the values they were built with."""
    given = {right.first(name) for one in plan.equations for name in one.right}
    return (f"{name}, kept as built" for name in sorted(right.buffers - right.states - given))


def _look(seen: _Seen, runs: list[tuple[Run, Run]], draw: int) -> None:
    for ours, theirs in runs:
        if draw and not all(_finite(run) for run in (ours, theirs)):
            continue  # values below zero where the models take none; the first draw has none
        if not seen.pairs:
            seen.pairs = output_pairs(ours, theirs)
        seen.returned |= {one.place for one in theirs.activations if one.output}
        here, there = places(ours), places(theirs)
        for a, b in seen.pairs:
            gap = difference(here.get(a), there.get(b))
            if seen.where is None or not gap <= seen.worst:
                seen.worst, seen.where = gap, (a, b)


def _finite(run: Run) -> bool:
    return all(bool(torch.isfinite(one.tensor).any()) for one in run.activations if one.output)


def _runs(
    plan: Plan,
    left: Whole,
    right: Whole,
    varied: Sequence[Variation],
    draw: int,
    seen: _Seen,
    *,
    neutral: bool = False,
) -> list[tuple[Run, Run]]:
    """Both models filled one after the other, each run on all inputs."""
    loose = _loose(plan, left, right) if neutral else ((), ())
    used = {left.first(name) for one in plan.equations for name in one.left}
    with left.stage() as module:
        tensors = module.state_dict(keep_vars=True)
        for name in left.filled(used):
            tensors[name].data.copy_(_left(left, name, draw, loose[0]))
        ours = [_run(left, module, one.calls[0]) for one in varied]
    with right.stage() as module:
        _fill(plan, left, right, module, draw, seen, loose)
        theirs = [_run(right, module, one.calls[1]) for one in varied]
    return list(zip(ours, theirs, strict=True))


def _left(left: Whole, name: str, draw: int, loose: Sequence[str]) -> torch.Tensor:
    if name in loose:
        return torch.full(left.shapes[name], NEUTRAL)
    return left.value(name, draw, 0)


def _fill(
    plan: Plan,
    left: Whole,
    right: Whole,
    module: torch.nn.Module,
    draw: int,
    seen: _Seen,
    loose: tuple[Sequence[str], Sequence[str]],
) -> None:
    """Fill the right as the rules say, and see that every bit would come back."""
    tensors = module.state_dict(keep_vars=True)
    given = {right.first(name) for one in plan.equations for name in one.right}
    unknown = {*_loose(plan, left, right)[1]}
    done: set[str] = set()
    for name in right.filled(given):
        if name in unknown or name not in given:
            own = torch.full(right.shapes[name], NEUTRAL) if name in loose[1] else right.value(name, draw, 1)
            tensors[name].data.copy_(own)

    def load(name: str) -> torch.Tensor:
        first = left.first(name)
        if first not in left.floating:
            whole: torch.Tensor = left.module.state_dict()[name]
            return whole
        return _left(left, first, draw, loose[0]).to(torch.float32)

    for one in sorted(plan.equations, key=lambda one: any(name in right.aliases for name in one.right)):
        made = {name: _target(tensors[name].data, name in right.aliases) for name in one.right}
        _move(one, load, made)
        if not draw:
            seen.bits = seen.bits and comes_back(one, load, made)
        for name, value in made.items():
            first = right.first(name)
            if first in done and not torch.equal(value, tensors[first].data.to(value.dtype)):
                seen.apart = tuple(dict.fromkeys((*seen.apart, name)))
            elif value.data_ptr() != tensors[name].data_ptr():
                tensors[name].data.copy_(value)
            done.add(first)


def _target(tensor: torch.Tensor, second: bool) -> torch.Tensor:
    """Where a tensor is made: in place, if it is one that can be."""
    fits = tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.int64) and not second
    if fits:
        return tensor
    made = tensor.detach().clone(memory_format=torch.contiguous_format)
    return made.to(torch.float32) if tensor.is_floating_point() else made


def _move(one: Equation, load: Callable[[str], torch.Tensor], made: Mapping[str, torch.Tensor]) -> None:
    def kept(_piece: Piece, target: torch.Tensor) -> torch.Tensor:
        return target.clone()

    if one.rename:
        made[one.right[0]].copy_(load(one.left[0]).reshape(made[one.right[0]].shape))
    else:
        move(one, load, made, kept)


def _loose(plan: Plan, left: Whole, right: Whole) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tensors of both sides that no rule gives, in whole or in part, by their first names."""
    found = []
    for at, side in enumerate((left, right)):
        names: set[str] = set()
        partly: set[str] = set()
        for one in plan.equations:
            names.update((one.left, one.right)[at])
            for block in one.blocks:
                here, there = (block.left, block.right) if at == 0 else (block.right, block.left)
                if isinstance(here, Piece) and there == "none":
                    partly.add(here.name)
        whole = {side.first(name) for name in names - partly}
        given = {side.first(name) for name in names}
        found.append(tuple(name for name in side.filled(given) if name not in whole))
    return found[0], found[1]


# ------------------------------------------------------------------ runs


def _run(side: Whole, module: torch.nn.Module, call: Runner) -> Run:
    """One run in float64 of a model that is kept in less."""
    seen: list[tuple[str, torch.Tensor]] = []
    hooks = [part.register_forward_hook(note_outputs(name, seen)) for name, part in module.named_modules()]
    try:
        with plain_kernels(), torch.no_grad(), double_precision([]):
            returned = outputs(call(module))
    finally:
        for one in hooks:
            one.remove()
    inner = [Activation(place, tensor, False) for place, tensor in numbered(seen) if tensor.numel() > 1]
    ends = [
        Activation(place, tensor, True)
        for path, tensor in returned.items()
        if (place := f"output {path}".strip()) in side.returned
    ]
    return Run({}, (*inner, *ends), label=side.label)


def _constants_amount_to(
    plan: Plan, left: Whole, right: Whole, varied: Sequence[Variation], compared: Sequence[set[str]]
) -> float:
    """By how much outputs move if constants that were made in float32 are off by as much as that rounds."""
    worst = 0.0
    for at, side in enumerate((left, right)):
        with side.stage() as module:
            if at == 0:
                tensors = module.state_dict(keep_vars=True)
                for name in left.filled(set()):
                    tensors[name].data.copy_(left.value(name, 0, 0))
            else:
                _fill(plan, left, right, module, 0, _Seen(), ((), ()))
            for one in varied:
                straight = places(_run(side, module, one.calls[at]))
                with moved_constants(constants_of(module), 2 * ULP):
                    moved = places(_run(side, module, one.calls[at]))
                worst = max(worst, *(difference(straight.get(place), moved.get(place)) for place in compared[at]))
    return worst if worst != float("inf") else 0.0


# ------------------------------------------------------------------ memory


def bytes_needed(left: Whole, right: Whole) -> int:
    """Memory that the check takes on top of the models themselves: a copy of what is not ours, the largest tensors."""
    copies, largest = [], 0
    for side in (left, right):
        tensors = side.module.state_dict(keep_vars=True)
        sizes = [tensors[name].numel() * tensors[name].element_size() for name in side.floating]
        copies.append(0 if side.ours else sum(sizes))
        largest = max([largest, *(prod(side.shapes[name]) for name in side.floating)])
    return max(copies) + 24 * largest
