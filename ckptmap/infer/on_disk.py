"""From a model's names in memory to the names its checkpoints have, by the library's own mapping."""

from __future__ import annotations

from collections.abc import Mapping
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

    def in_memory_left(self, found: Elements) -> Elements:
        """What is known by elements of the checkpoint, by elements of the model."""
        import numpy

        elements = numpy.concatenate([*(array.reshape(-1) for array in self.elements.values()), numpy.array([-1])])
        return {name: elements[array] for name, array in found.items()}

    def in_memory_right(self, found: Elements, memory: Operand) -> Elements:
        """What is known of tensors of the checkpoint, for tensors of the model."""
        import numpy

        numbering = Numbering(memory.shapes)
        values = numpy.full(numbering.total, -1, dtype=numpy.int64)
        for name, array in found.items():
            values[self.elements[name].reshape(-1)] = array.reshape(-1)
        return {
            name: values[first : first + _size(memory.shapes[name])].reshape(memory.shapes[name])
            for name, first in numbering.first.items()
        }


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


def as_saved(
    sides: tuple[Operand, Operand], found: Elements, evidence: Mapping[str, str]
) -> tuple[tuple[Operand, Operand], Elements, Mapping[str, str]]:
    """What was found between two models, between their checkpoints where these have other names."""
    left, right = sides
    ours, theirs = (on_disk(side) if side.saved_as else None for side in sides)
    if theirs is not None:
        numbering = Numbering(right.shapes)
        owners = {
            name: numbering.names[int(numbering.owners(array.reshape(-1)[:1])[0])]
            for name, array in theirs.elements.items()
        }
        found = theirs.on_right(found, right)
        evidence = {name: evidence.get(right.ties.get(owners[name], owners[name]), "") for name in found}
        right = theirs.operand
    if ours is not None:
        found = ours.on_left(found, left)
        left = ours.operand
    return (left, right), found, evidence
