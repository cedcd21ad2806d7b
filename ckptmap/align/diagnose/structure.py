"""Causes that lie in the modules themselves: layers, norms, tables and rows that one side does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from ckptmap.align.diagnose.cause import LEFT, RIGHT, SIDES, Cause, Models, Traces, in_layer
from ckptmap.align.diagnose.watch import MODULE

# ------------------------------------------------------------------ layers


def depths(models: Models) -> Iterator[Cause]:
    """One side has more layers: its first or its last ones are the other's."""
    stacks = [_stacks(model) for model in models]
    most = [max(found.values(), default=0) for found in stacks]
    if not all(most) or most[0] == most[1]:
        return
    side, fewer = int(most[1] > most[0]), min(most)
    names = [
        next(name for name, count in found.items() if count == top) for found, top in zip(stacks, most, strict=True)
    ]
    for what, chosen in (("first", slice(0, fewer)), ("last", slice(most[side] - fewer, None))):
        yield Cause(
            "layers",
            f"{most[0]} layers in {names[0]}",
            f"{most[1]} layers in {names[1]}",
            f"with the {what} {fewer} layers of the {SIDES[side]} alone the two agree",
            side,
            prepare=partial(_cut, most[side], chosen),
            module=names[side],
        )


def _stacks(model: torch.nn.Module) -> dict[str, int]:
    """Lists of modules of one class."""
    return {
        name: len(part)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.ModuleList | torch.nn.Sequential)
        and len({type(one) for one in part}) == 1
        and any(True for _ in part.parameters())
    }


def _cut(length: int, chosen: slice, model: torch.nn.Module) -> Callable[[], None]:
    parts = [part for name, part in model.named_modules() if _stacks_itself(part, length)]
    before = [dict(part._modules) for part in parts]
    for part in parts:
        kept = list(part._modules.values())[chosen]
        part._modules.clear()
        part._modules.update({str(n): one for n, one in enumerate(kept)})

    def undo() -> None:
        for part, modules in zip(parts, before, strict=True):
            part._modules.clear()
            part._modules.update(modules)

    return undo


def _stacks_itself(part: torch.nn.Module, length: int) -> bool:
    return isinstance(part, torch.nn.ModuleList | torch.nn.Sequential) and _stacks(part).get("") == length


# ------------------------------------------------------------------ modules left out


def left_out(models: Models, traces: Traces) -> Iterator[Cause]:
    """A norm or a table outside of the layers that only one side has."""
    ran = [{one.module for one in trace if one.kind == MODULE} for trace in traces]
    counts = [
        [name for name, part in model.named_modules() if name in names and _leaves(part) and not in_layer(name)]
        for model, names in zip(models, ran, strict=True)
    ]
    side = int(len(counts[RIGHT]) > len(counts[LEFT]))
    if len(counts[LEFT]) != len(counts[RIGHT]):
        for name in counts[side]:
            has, lacks = f"{name} is used", f"{name} of the {SIDES[side]} is missing or not added"
            said = (has, lacks) if side == LEFT else (lacks, has)
            yield Cause(
                "module left out",
                said[LEFT],
                said[RIGHT],
                f"with {name} left out on the {SIDES[side]} the two agree",
                side,
                prepare=partial(_without, name),
                module=name,
            )


def _leaves(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.Embedding) or "norm" in type(part).__name__.lower()


def _without(name: str, model: torch.nn.Module) -> Callable[[], None]:
    part = model.get_submodule(name)
    table = isinstance(part, torch.nn.Embedding)

    def hook(_module: Any, args: tuple[Any, ...], returned: Any) -> Any:
        return returned * 0.0 if table else args[0]

    return part.register_forward_hook(hook).remove


def rows_left_out(models: Models) -> Iterator[Cause]:
    """The first row of a table of positions: that of the class token."""
    for side, model in enumerate(models):
        for name, tensor in model.named_parameters():
            if "pos" not in name.lower() or sum(size > 1 for size in tensor.shape) != 2:
                continue
            has, lacks = f"row 0 of {name} added", "the first token (class token) without a position"
            yield Cause(
                "row left out",
                (has, lacks)[side],
                (lacks, has)[side],
                f"without row 0 of {name} on the {SIDES[side]} the two agree: that position is not added",
                side,
                prepare=partial(_without_row, name),
                module=name,
            )


def _without_row(name: str, model: torch.nn.Module) -> Callable[[], None]:
    path, _, last = name.rpartition(".")
    held: Any = model.get_submodule(path)._parameters
    before = held[last]
    kept = torch.ones_like(before)
    kept.reshape(max(before.shape[:-1]), -1)[0] = 0.0
    held[last] = before * kept

    def undo() -> None:
        held[last] = before

    return undo
