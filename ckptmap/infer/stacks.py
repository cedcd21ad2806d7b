"""Deep models, probed on their first layers: equal layers are cut down to a few, and what was found is carried on.

The full models then prove it: they are filled alike and run once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch

    from ckptmap.infer.extend import Partial
    from ckptmap.infer.findings import Elements, Sizes

KEPT = 3
"""Layers that a cut stack keeps: a first, a last, and one between."""

DEEP = 6
"""Stacks of fewer layers are probed whole."""


@dataclass(frozen=True)
class Stack:
    """Layers of one kind, one after the other: `path.0`, `path.1`, …"""

    path: str
    layers: int
    chained: bool = False
    """Whether the layers are a sequence that runs them itself."""

    def layer(self, name: str) -> tuple[int, str] | None:
        """The layer that a tensor belongs to, and its name in there."""
        if not name.startswith(self.path + "."):
            return None
        number, _, rest = name[len(self.path) + 1 :].partition(".")
        return (int(number), rest) if number.isdigit() else None


def stacks(module: torch.nn.Module) -> list[Stack]:
    """The outermost lists of at least `DEEP` layers that hold equal tensors."""
    return [one for one in equal_layers(module, DEEP) if not one.chained]


def equal_layers(module: torch.nn.Module, fewest: int) -> list[Stack]:
    """The outermost lists and sequences of at least so many layers that hold equal tensors."""
    import torch

    found: list[Stack] = []
    for path, part in module.named_modules():
        chained = isinstance(part, torch.nn.Sequential)
        if not (chained or isinstance(part, torch.nn.ModuleList)) or len(list(part.children())) < fewest:
            continue
        if any(path.startswith(stack.path + ".") for stack in found):
            continue
        kinds = {
            tuple((name, tuple(tensor.shape)) for name, tensor in layer.state_dict().items())
            for layer in part.children()
        }
        if len(kinds) == 1 and kinds != {()} and [*part._modules] == [*map(str, range(len(part._modules)))]:
            found.append(Stack(path, len(part._modules), chained))
    return found


def cut(module: torch.nn.Module) -> tuple[torch.nn.Module, list[Stack]]:
    """A copy with only the first layers of each stack, and the stacks that were cut."""
    import torch

    from ckptmap.infer.running import copy_of

    found = stacks(module)
    if not found:
        return module, []
    # The layers cut away are not copied: they are most of the model.
    whole: list[tuple[torch.nn.ModuleList, dict[str, Any]]] = []
    try:
        for stack in found:
            part = module.get_submodule(stack.path)
            assert isinstance(part, torch.nn.ModuleList)
            whole.append((part, dict(part._modules)))
            for number in range(KEPT, stack.layers):
                del part._modules[str(number)]
        return copy_of(module), found
    finally:
        for part, layers in whole:
            part._modules.clear()
            part._modules.update(layers)


def carry_on(
    found: Partial,
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    left_stacks: list[Stack],
    right_stacks: list[Stack],
) -> Elements | None:
    """The map of the whole models, if every layer of the cut ones was matched in the same way with its like."""
    import numpy

    first: dict[str, int] = {}
    total = 0
    for name, shape in left.items():
        first[name] = total
        total += int(numpy.prod(shape, dtype=numpy.int64))
    shift = numpy.zeros(found.taken.size + 1, dtype=numpy.int64)
    for name, start in found.first.items():
        size = int(numpy.prod(found.left[name], dtype=numpy.int64))
        shift[start : start + size] = first[name] - start
    numbers = numpy.arange(found.taken.size + 1) + shift
    numbers[-1] = -1
    elements = {name: numbers[array] for name, array in found.elements.items()}
    lengths = _lengths(left, first, left_stacks)
    for name, shape in right.items():
        if name in elements:
            continue
        made = _from_last_layers(name, elements, right_stacks, lengths)
        elements[name] = numpy.full(shape, -1, dtype=numpy.int64) if made is None else made
        if made is None and _place(name, right_stacks) is None:
            return None
    return {name: elements[name] for name in right}


def _place(name: str, stacks: list[Stack]) -> tuple[Stack, int, str] | None:
    for stack in stacks:
        layer = stack.layer(name)
        if layer is not None:
            return stack, *layer
    return None


def _lengths(left: Mapping[str, Sizes], first: Mapping[str, int], stacks: list[Stack]) -> numpy.ndarray:
    """For every left element, how many elements further the same one of the next layer is; 0 outside of stacks."""
    import numpy

    total = sum(int(numpy.prod(shape, dtype=numpy.int64)) for shape in left.values())
    steps = numpy.zeros(total + 1, dtype=numpy.int64)
    for name, shape in left.items():
        place = _place(name, stacks)
        if place is None:
            continue
        stack, number, rest = place
        other = number + 1 if number + 1 < stack.layers else number - 1
        step = (first[f"{stack.path}.{other}.{rest}"] - first[name]) * (1 if other > number else -1)
        size = int(numpy.prod(shape, dtype=numpy.int64))
        steps[first[name] : first[name] + size] = step
    return steps


def _from_last_layers(name: str, elements: Elements, stacks: list[Stack], steps: numpy.ndarray) -> numpy.ndarray | None:
    """A deeper layer's map, where the last two kept layers differ by exactly one layer of the left."""
    place = _place(name, stacks)
    if place is None:
        return None
    stack, number, rest = place
    last = elements[f"{stack.path}.{KEPT - 1}.{rest}"]
    before = elements[f"{stack.path}.{KEPT - 2}.{rest}"]
    if (last < 0).any() or (before < 0).any():
        return None
    step = steps[last]
    if (step == 0).any() or (last - before != step).any():
        return None
    made: numpy.ndarray = last + step * (number - KEPT + 1)
    return made
