"""What a model is run on, and what comes out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptmap.errors import ArchitectureError

if TYPE_CHECKING:
    import torch

Inputs: TypeAlias = "Mapping[str, Any] | tuple[Any, ...] | Callable[[torch.nn.Module], Any]"
"""Keyword arguments, positional arguments, or a callable that takes the module and runs it."""


def call_with(inputs: Inputs) -> Callable[[torch.nn.Module], Any]:
    """A call of a module on given inputs.

    Raises:
        ArchitectureError: They are nothing that a module can be called with.
    """
    if isinstance(inputs, Mapping):
        return lambda module: module(**inputs)
    if callable(inputs):
        return inputs
    if not isinstance(inputs, tuple | list):
        raise ArchitectureError(
            f"the inputs given are {type(inputs).__name__}; give a dict of keyword arguments, a tuple, or a callable "
            "that takes the module and runs it"
        )
    return lambda module: module(*inputs)


def outputs(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    """All floating-point tensors in what a model returned, by the path that leads to each."""
    import torch

    if isinstance(value, torch.Tensor):
        return {path: value} if value.is_floating_point() else {}
    if isinstance(value, Mapping):
        parts = [(f"{path}.{key}", part) for key, part in value.items()]
    elif isinstance(value, tuple | list):
        parts = [(f"{path}[{number}]", part) for number, part in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(f"{path}.{one.name}", getattr(value, one.name)) for one in dataclasses.fields(value)]
    else:
        parts = []
    found: dict[str, torch.Tensor] = {}
    for name, part in parts:
        found.update(outputs(part, name))
    return found
