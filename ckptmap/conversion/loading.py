"""Checkpoints streamed into a module that is already built. Torch is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import Checkpoint, Source, open_checkpoint
from ckptmap.conversion.reading import Reader, check_ties
from ckptmap.conversion.residue import Filler, Residue, open_residue
from ckptmap.conversion.run import tensors_of
from ckptmap.conversion.schedule import schedule
from ckptmap.conversion.stamp import RulesLike, make_task
from ckptmap.errors import ConvertError, PlanError

if TYPE_CHECKING:
    import torch


def load_into(
    model: torch.nn.Module,
    source: Checkpoint | Source,
    rules: RulesLike,
    *,
    back: bool = False,
    residue: Residue | None = None,
    base: Checkpoint | Source | None = None,
    sizes: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Load a checkpoint by rules into the parameters and buffers of a module, one equation at a time.

    Values go into the module's own memory and take its dtype and device, as with `load_state_dict`. What is on the meta
    device is replaced by new parameters of the checkpoint's dtype on the CPU, as with `assign=True`; a parameter that
    stands in several places stays one. A part of a tensor without a source keeps the module's values.

    Returns:
        Names newly initialized: without a source, they keep the module's values (or stay on the meta device).

    Raises:
        ConvertError: The data do not allow it; the module may have been loaded in part.
        PlanError: The rules do not fit, or do not cover all of the checkpoint and the module.
    """
    import torch

    opened = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    own = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    task = make_task(
        rules,
        opened,
        back=back,
        sizes=sizes,
        config=config,
        partial=False,
        known_shapes={name: tuple(value.shape) for name, value in own.items()},
    )
    plan = task.plan
    _check_fit(plan.right, own)
    kept = open_residue(residue, task.writes)
    given = open_checkpoint(model) if base is None else base if isinstance(base, Checkpoint) else open_checkpoint(base)
    check_ties(plan.left_ties, opened)
    whole = {
        name
        for equation in plan.equations
        for name in equation.right
        if all(block.left == "none" for block in equation.blocks)
    }
    reader = Reader(opened)
    try:
        filler = Filler(kept, given)
        filler.check(plan.right)
        keys = filler.keys
        fills = filler.dtypes if base is not None else _with_parts_only(filler.dtypes, own, whole, keys)
        made = schedule(plan, reader, fills, keys)
        fresh: dict[int, torch.Tensor] = {}
        seen: dict[int, str] = {}
        for step in made.steps:
            for name, tensor in tensors_of(step, reader, filler).items():
                there = own[name]
                if id(there) in seen and not _equal(there, tensor, fresh):
                    raise ConvertError(
                        f"{name}: is tied to {seen[id(there)]} in the model, and the rules make them differ"
                    )
                seen[id(there)] = name
                if there.is_meta:
                    fresh[id(there)] = tensor.clone()
                else:
                    with torch.no_grad():
                        there.copy_(tensor)
    finally:
        reader.close()
    _assign(model, fresh)
    tied = {second for second, first in plan.right_ties}
    return tuple(name for name in own if id(own[name]) not in seen and name not in tied)


def _check_fit(shapes: Mapping[str, tuple[int, ...]], own: Mapping[str, torch.Tensor]) -> None:
    problems = [f"{name}: the model has no such parameter or buffer" for name in shapes if name not in own]
    problems += [
        f"{name}: would be {list(shape)}, and the model has {list(own[name].shape)}"
        for name, shape in shapes.items()
        if name in own and tuple(own[name].shape) != tuple(shape)
    ]
    covered = {id(own[name]) for name in shapes if name in own}
    problems += [f"{name}: no rule covers it" for name, value in own.items() if id(value) not in covered]
    if problems:
        raise PlanError(tuple(problems))


def _with_parts_only(
    dtypes: Mapping[str, str], own: Mapping[str, torch.Tensor], whole: set[str], keys: set[str]
) -> dict[str, str]:
    """The model's own values fill parts; a tensor without any source is not touched at all."""
    return {
        name: dtype
        for name, dtype in dtypes.items()
        if name in keys or (name in own and name not in whole and not own[name].is_meta)
    }


def _equal(there: torch.Tensor, tensor: torch.Tensor, fresh: Mapping[int, torch.Tensor]) -> bool:
    import torch

    from ckptmap.conversion.blocks import as_integers

    now = fresh.get(id(there), there)
    new = tensor.to(now.device, now.dtype)
    return torch.equal(as_integers(now), as_integers(new))


def _assign(model: torch.nn.Module, fresh: Mapping[int, torch.Tensor]) -> None:
    """Put new tensors in every place where the old ones stand."""
    import torch

    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, old in list(table.items()):
                if old is None or id(old) not in fresh:
                    continue
                if id(old) not in made:
                    value = fresh[id(old)]
                    made[id(old)] = (
                        torch.nn.Parameter(value, requires_grad=old.requires_grad)
                        if isinstance(old, torch.nn.Parameter)
                        else value
                    )
                table[name] = made[id(old)]  # type: ignore[assignment]
