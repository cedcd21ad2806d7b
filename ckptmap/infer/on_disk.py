"""From a model's names in memory to the names its checkpoints have, by the library's own mapping."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptmap.errors import ArchitectureError
from ckptmap.heads.classes import InternalsChangedError
from ckptmap.infer.layouts import Numbering

if TYPE_CHECKING:
    import numpy
    import torch

    from ckptmap.infer.findings import Elements
    from ckptmap.infer.operands import Operand


@dataclass(frozen=True)
class Disk:
    """A model's tensors as they stand in a checkpoint.

    Attributes:
        operand: The side with the names and shapes of the checkpoint.
        elements: For each of them, the elements of the model's own tensors that stand there.
    """

    operand: Operand
    elements: Elements

    def on_left(self, found: Elements, memory: Operand) -> Elements:
        """What is known by elements of the model, by elements of the checkpoint."""
        import numpy

        place = numpy.full(Numbering(memory.shapes).total + 1, -1, dtype=numpy.int64)
        start = 0
        for array in self.elements.values():
            place[array.reshape(-1)] = start + numpy.arange(array.size)
            start += array.size
        # The last place stands for -1.
        return {name: place[array] for name, array in found.items()}

    def on_right(self, found: Elements, memory: Operand) -> Elements:
        """What is known of tensors of the model, for tensors of the checkpoint."""
        import numpy

        flat = [
            found[name].reshape(-1) if name in found else numpy.full(_size(shape), -1, dtype=numpy.int64)
            for name, shape in memory.shapes.items()
        ]
        values: numpy.ndarray = numpy.concatenate([*flat, numpy.array([-1])])
        made = {name: values[array] for name, array in self.elements.items()}
        return {name: array for name, array in made.items() if (array >= 0).any()}


def on_disk(side: Operand) -> Disk | None:
    """The side as its checkpoints have it; None if names and shapes are the same.

    Raises:
        ArchitectureError: The library cannot tell.
    """
    import torch

    from ckptmap.heads.library import on_disk as saved

    assert side.module is not None
    numbering = Numbering(side.shapes)
    numbered = {
        name: torch.arange(numbering.first[name], numbering.first[name] + _size(shape)).reshape(shape)
        for name, shape in side.shapes.items()
    }
    try:
        made: dict[str, torch.Tensor] = saved(side.module, numbered)  # type: ignore[arg-type]
    except InternalsChangedError as error:
        raise ArchitectureError(
            f"{side.label}: transformers does not tell its names on disk ({error}); use --memory-names"
        ) from None
    shapes = {name: tuple(tensor.shape) for name, tensor in made.items()}
    if shapes == dict(side.shapes):
        return None
    ties = {second: first for second, first in side.ties.items() if second in shapes and first in shapes}
    operand = replace(side, shapes=shapes, ties=ties, buffers=side.buffers & frozenset(shapes), module=None)
    return Disk(operand, {name: tensor.numpy() for name, tensor in made.items()})


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
