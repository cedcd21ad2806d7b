"""Models of real size made small enough to be searched: of equal layers two are kept, of a vocabulary some rows.

What was found there says nothing yet of the whole models; `align/prove/whole.py` runs those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptmap.infer.running import copy_of
from ckptmap.infer.stacks import Stack, equal_layers

if TYPE_CHECKING:
    import torch

LAYERS = 2
"""Layers that are kept of a stack."""

FEWEST = 3
"""Stacks of fewer layers stay whole."""

ROWS = 64
"""Rows that are kept of a vocabulary."""

MOST_PADDING = 1024
"""Vocabularies that differ by more are not the same one, padded."""


@dataclass(frozen=True)
class Shortened:
    """A copy of a model without most of its layers and rows.

    Attributes:
        module: The copy.
        stacks: The stacks it has fewer layers of, as they are in the whole model.
        rows: Rows of the vocabulary in the whole model and in the copy; the same if nothing was cut.
    """

    module: torch.nn.Module
    stacks: tuple[Stack, ...]
    rows: tuple[int, int]

    @property
    def text(self) -> str:
        """How it was cut, for people."""
        layers = " and ".join(f"{LAYERS} of {stack.layers} layers of {stack.path}" for stack in self.stacks)
        rows = f"{self.rows[1]:,} of {self.rows[0]:,} rows of the vocabulary" if self.rows[0] else ""
        return " and ".join(filter(None, (layers, rows))) or "all layers"

    def like(self, name: str) -> str:
        """The tensor of the copy that is like this one of the whole model."""
        for stack in self.stacks:
            place = stack.layer(name)
            if place is not None and place[0] >= LAYERS:
                return f"{stack.path}.{LAYERS - 1}.{place[1]}"
        return name


def shortened(left: torch.nn.Module, right: torch.nn.Module, *, tables: bool) -> tuple[Shortened, Shortened]:
    """Both models, cut where they have the same to cut.

    Args:
        left: A model; it is not changed.
        right: Another.
        tables: Whether vocabularies may be cut: inputs are not given, and may be made of the rows that are kept.
    """
    modules = (left, right)
    stacks = [equal_layers(module, FEWEST) for module in modules]
    depths = [sorted(stack.layers for stack in side) for side in stacks]
    if depths[0] != depths[1]:
        stacks = [[], []]
    rows = [_vocabulary(module) for module in modules]
    known = [one for one in rows if one]
    if not tables or not known or max(known) - min(known) > MOST_PADDING or min(known) < 4 * ROWS:
        rows = [0, 0]
    elif len(known) == 1:
        rows = [one or known[0] for one in rows]
    least = min(rows)
    made = [
        Shortened(
            _cut(module, side, size, ROWS + size - least), tuple(side), (size, ROWS + size - least if size else 0)
        )
        for module, side, size in zip(modules, stacks, rows, strict=True)
    ]
    return made[0], made[1]


def _vocabulary(module: torch.nn.Module) -> int:
    """Rows of the largest table of embeddings; 0 if there is none."""
    from torch import nn

    return max((part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)), default=0)


def _cut(module: torch.nn.Module, stacks: list[Stack], rows: int, kept: int) -> torch.nn.Module:
    """A copy without what is cut, which is most of the model and never copied."""
    changed: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def change(store: dict[str, Any], now: dict[str, Any]) -> None:
        changed.append((store, dict(store)))
        store.clear()
        store.update(now)

    try:
        for stack in stacks:
            layers = module.get_submodule(stack.path)._modules
            change(layers, {name: one for name, one in layers.items() if int(name) < LAYERS})
        fewer: dict[int, Any] = {}
        for part in module.modules() if rows else ():
            for store in (part._parameters, part._buffers):
                if any(tensor is not None and rows in tensor.shape for tensor in store.values()):
                    change(store, {name: _fewer(tensor, rows, kept, fewer) for name, tensor in store.items()})
        made = copy_of(module)
    finally:
        for store, before in reversed(changed):
            store.clear()
            store.update(before)
    for holder in _holders(made) if rows else ():
        for name, value in vars(holder).items():
            if type(value) is int and value == rows:
                setattr(holder, name, kept)
    return made


def _fewer(tensor: Any, rows: int, kept: int, made: dict[int, Any]) -> Any:
    """The tensor with fewer rows, wherever it has as many as the vocabulary; one that is shared stays one."""
    import torch

    if tensor is None or rows not in tensor.shape:
        return tensor
    if id(tensor) not in made:
        part = tensor.detach()
        for axis, size in enumerate(tensor.shape):
            part = part.narrow(axis, 0, kept) if size == rows else part
        part = part.clone()
        made[id(tensor)] = torch.nn.Parameter(part) if isinstance(tensor, torch.nn.Parameter) else part
    return made[id(tensor)]


def _holders(module: torch.nn.Module) -> Iterator[Any]:
    """What keeps sizes as plain numbers: modules and their configs."""
    for part in module.modules():
        yield part
        config = vars(part).get("config")
        if config is not None and hasattr(config, "__dict__"):
            yield config
