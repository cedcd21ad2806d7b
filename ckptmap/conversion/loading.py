"""Checkpoints streamed into a module that is already built. Torch is imported here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import Checkpoint, Source
from ckptmap.conversion.blocks import as_integers
from ckptmap.conversion.reading import Reader, check_ties, opened, torch_dtype
from ckptmap.conversion.residue import Filler, Residue, open_residue
from ckptmap.conversion.run import tensors_of
from ckptmap.conversion.schedule import Step, may_refuse, schedule
from ckptmap.conversion.stamp import RulesLike, make_task, names_covered
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
    stands in several places stays one. A part of a tensor without a source keeps the module's values. All that values
    can refuse is asked before the first is written.

    Returns:
        Names newly initialized: without a source, they keep the module's values (or stay on the meta device).

    Raises:
        ConvertError: The data do not allow it; the module is as it was.
        PlanError: The rules do not fit, or do not cover all of the checkpoint and the module.
        CheckpointError: Something cannot be read; if that is a tensor, the module may have been loaded in part.
    """
    import torch

    with ExitStack() as stack:
        checkpoint = stack.enter_context(opened(source))
        given = stack.enter_context(opened(model if base is None else base))
        own = {n: value for n, value in model.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
        alike = _memories(own)
        covered = names_covered(rules, checkpoint, own, back=back)
        task = make_task(
            rules,
            checkpoint,
            back=back,
            sizes=sizes,
            config=checkpoint.config if config is None else config,
            partial=False,
            target={name: tuple(own[name].shape) for name in _named_once(own, alike, covered)},
        )
        plan = task.plan
        _check_fit(plan.right, own, alike)
        kept = open_residue(residue, task.writes, checkpoint)
        check_ties(plan.left_ties, checkpoint)
        whole = {
            name
            for equation in plan.equations
            for name in equation.right
            if all(block.left == "none" for block in equation.blocks)
        }
        reader = Reader(checkpoint)
        stack.callback(reader.close)
        filler = Filler(kept, given)
        filler.check(plan)
        keys = filler.keys
        fills = filler.dtypes if base is not None else _with_parts_only(filler.dtypes, own, whole, keys)
        made = schedule(plan, reader, fills, keys)
        _check_values(made.steps, reader, filler, own, alike)
        fresh: dict[int, torch.Tensor] = {}
        loaded: set[object] = set()
        for step in made.steps:
            for name, tensor in tensors_of(step, reader, filler).items():
                there = own[name]
                loaded.add(alike[name])
                if there.is_meta:
                    fresh[id(there)] = tensor.clone()
                else:
                    with torch.no_grad():
                        there.copy_(tensor)
    _assign(model, fresh)
    tied = {second for second, first in plan.right_ties}
    return tuple(name for name in own if alike[name] not in loaded and name not in tied)


def _memories(own: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """What tells tied tensors: the same parameter, or the same elements in the same memory."""
    return {
        name: id(value)
        if value.is_meta or not value.numel()
        else (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        for name, value in own.items()
    }


def _named_once(own: Mapping[str, torch.Tensor], alike: Mapping[str, object], covered: set[str]) -> Iterator[str]:
    """Names to be covered: of tied ones those that the rules name, else the first."""
    named = {alike[name] for name in covered}
    seen: set[object] = set()
    for name in own:
        if name in covered or (alike[name] not in named and alike[name] not in seen):
            yield name
        seen.add(alike[name])


def _check_fit(
    shapes: Mapping[str, tuple[int, ...]], own: Mapping[str, torch.Tensor], alike: Mapping[str, object]
) -> None:
    problems = [f"{name}: the model has no such parameter or buffer" for name in shapes if name not in own]
    problems += [
        f"{name}: would be {list(shape)}, and the model has {list(own[name].shape)}"
        for name, shape in shapes.items()
        if name in own and tuple(own[name].shape) != tuple(shape)
    ]
    covered = {alike[name] for name in shapes if name in own}
    problems += [
        f"{name}: no rule covers it; add one, or `_ <-> {name}` for what the checkpoint lacks"
        for name in own
        if alike[name] not in covered
    ]
    if problems:
        raise PlanError(tuple(problems))


def _check_values(
    steps: tuple[Step, ...],
    reader: Reader,
    filler: Filler,
    own: Mapping[str, torch.Tensor],
    alike: Mapping[str, object],
) -> None:
    """Run what values may refuse, and write nothing: zeros, repeats, and rules that part what the model ties.

    Raises:
        ConvertError: They do, or the model's dtype cannot hold them.
    """
    import torch

    outputs = [spec.name for step in steps for spec in step.outputs]
    places: dict[object, list[str]] = {}
    for name in outputs:
        places.setdefault(alike[name], []).append(name)
    first: dict[object, tuple[str, torch.Tensor]] = {}
    for step in steps:
        tied = [spec.name for spec in step.outputs if len(places[alike[spec.name]]) > 1]
        for spec in step.outputs:
            stored, wanted = torch_dtype(spec.dtype), own[spec.name].dtype
            if not own[spec.name].is_meta and not torch.can_cast(stored, wanted):
                raise ConvertError(
                    f"{spec.name}: is {str(stored).removeprefix('torch.')} and the model has it as "
                    f"{str(wanted).removeprefix('torch.')}, which cannot hold such values; change the model's dtype"
                )
        if not tied and not may_refuse(step.equation):
            continue
        made = tensors_of(step, reader, filler)
        for name in tied:
            value = made[name].to("cpu", made[name].dtype if own[name].is_meta else own[name].dtype)
            if alike[name] not in first:
                first[alike[name]] = name, value.clone()
                continue
            other, before = first[alike[name]]
            if before.dtype != value.dtype or not torch.equal(as_integers(before), as_integers(value)):
                raise ConvertError(f"{name}: is tied to {other} in the model, and the rules make them differ")


def _with_parts_only(
    dtypes: Mapping[str, str], own: Mapping[str, torch.Tensor], whole: set[str], keys: set[str]
) -> dict[str, str]:
    """The model's own values fill parts; a tensor without any source is not touched at all."""
    return {
        name: dtype
        for name, dtype in dtypes.items()
        if name in keys or (name in own and name not in whole and not own[name].is_meta)
    }


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
