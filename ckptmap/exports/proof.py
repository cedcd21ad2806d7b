"""What an export is run on before it is handed over: tensors in which every element is told from its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.conversion.convert import convert
from ckptmap.errors import ExportError
from ckptmap.rules.plan import Equation, Piece, Plan, Sizes

if TYPE_CHECKING:
    import torch

State: TypeAlias = "dict[str, torch.Tensor]"

PRIME = 32749
"""Codes count up to this prime and begin again, so that no dimension of a tensor is in step with them."""


def coded(plan: Plan) -> tuple[State, State]:
    """The left side of a plan with codes as values, and the right side that ckptmap makes of it.

    Takes two bytes for each element; those of a tensor that is only renamed share one.
    """
    import torch

    renamed = {name for equation in plan.equations if equation.rename for name in equation.left}
    state: State = {}
    for number, (name, shape) in enumerate(plan.left.items(), start=1):
        if name in renamed:
            state[name] = torch.full((), number % PRIME + 1, dtype=torch.int16).expand(shape)
        else:
            state[name] = _codes(shape, number)
    for equation in plan.equations:
        _agree(equation, state)
    state |= {second: state[first] for second, first in plan.left_ties}
    made = convert(plan, state, base=base_of(plan))
    assert isinstance(made, dict)
    return state, made


def _codes(shape: Sizes, number: int) -> torch.Tensor:
    import torch

    codes = torch.arange(number * 7919, number * 7919 + prod(shape)).remainder(PRIME) + 1
    return codes.to(torch.int16).reshape(shape)


def base_of(plan: Plan) -> State:
    """Values for what has no source on the left, and the dtype of zeros."""
    wanted = {
        block.right.name
        for equation in plan.equations
        for block in equation.blocks
        if isinstance(block.left, str) and isinstance(block.right, Piece)
    }
    return {name: _codes(plan.right[name], number) for number, name in enumerate(sorted(wanted), start=10_000)}


def _agree(equation: Equation, state: State) -> None:
    """Make tensors what the rule says of them: zeros zero, repeats repeated, twins equal."""
    from ckptmap.conversion.blocks import place

    if equation.rename:
        return
    twins: dict[object, torch.Tensor] = {}
    for block in equation.blocks:
        if not isinstance(block.left, Piece):
            continue
        there = place(state[block.left.name], block.left, writable=True)
        if block.right == "zeros":
            there.zero_()
        for axis in block.left.repeated:
            there.copy_(there.narrow(axis, 0, 1).clone().expand_as(there))
        if isinstance(block.right, Piece):
            region = (block.right.name, block.right.view, block.right.narrow)
            if region in twins:
                there.copy_(twins[region])
            else:
                twins[region] = there


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> str:
    """The first name at which two state dicts differ; nothing if they are equal."""
    import torch

    for name in [*one, *other]:
        if name not in one or name not in other or not torch.equal(one[name], other[name]):
            return name
    return ""


def require(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], target: str, way: str) -> None:
    """Refuse to hand over what does not do as the rules say.

    Raises:
        ExportError: It does not.
    """
    if name := same(found, wanted):
        raise ExportError(
            f"{target}: the export was run before it is handed over, and {way} it gives another {name} than the rules "
            "do. It is not written; use --to python, which says everything."
        )
