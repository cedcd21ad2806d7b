"""Runs a schedule: into a state dict, or piece by piece into files. Torch is imported only for what is rearranged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ckptmap.conversion.blocks import move
from ckptmap.conversion.reading import Arena, Range, Reader, buffer_of
from ckptmap.conversion.residue import Filler
from ckptmap.conversion.schedule import Step
from ckptmap.rules.plan import Piece, Plan
from ckptmap.spec import TORCH_NAMES, TensorSpec
from ckptmap.writing.safetensors import Writer

if TYPE_CHECKING:
    import torch

ALIGNED = 64


def tensors_of(step: Step, reader: Reader, filler: Filler) -> dict[str, torch.Tensor]:
    """The tensors of one step, each with memory of its own; a renamed one of a live source is that very tensor."""
    import torch

    if step.renamed is not None:
        return {step.outputs[0].name: reader.tensor(step.renamed)}
    targets = {spec.name: torch.empty(spec.shape, dtype=getattr(torch, TORCH_NAMES[spec.dtype])) for spec in _all(step)}
    _move(step, reader, filler, targets)
    return targets


def state_dict_of(steps: tuple[Step, ...], plan: Plan, reader: Reader, filler: Filler) -> dict[str, torch.Tensor]:
    """The tensors of all steps, second names too."""
    tensors: dict[str, torch.Tensor] = {}
    for step in steps:
        tensors |= tensors_of(step, reader, filler)
    return tensors | {second: tensors[first] for second, first in plan.right_ties if first in tensors}


def write_steps(
    steps: tuple[Step, ...], reader: Reader, filler: Filler, writer_for: Callable[[TensorSpec], Writer]
) -> None:
    """Write the tensors of all steps in order, with one equation's in memory at a time."""
    arena: Arena | None = None
    for step in steps:
        if step.copies is not None:
            for spec, parts in zip(step.outputs, step.copies, strict=True):
                writer = writer_for(spec)
                for part in parts:
                    if isinstance(part, Range):
                        writer.copy(part.path, part.offset, part.length)
                    else:
                        writer.zeros(part)
        elif step.renamed is not None:
            writer_for(step.outputs[0]).write(reader.bytes(step.renamed))
        else:
            arena = arena or Arena()
            targets = _in_arena(step, arena)
            _move(step, reader, filler, targets)
            for spec in step.outputs:
                writer_for(spec).write(buffer_of(targets[spec.name]))


def _move(step: Step, reader: Reader, filler: Filler, targets: dict[str, torch.Tensor]) -> None:
    dtypes = {spec.name: spec.dtype for spec in step.outputs}

    def fill(piece: Piece, target: torch.Tensor) -> torch.Tensor:
        return filler.fill(piece, target, dtypes[piece.name])

    move(step.equation, reader.tensor, targets, fill)


def _in_arena(step: Step, arena: Arena) -> dict[str, torch.Tensor]:
    import torch

    starts: list[int] = []
    total = 0
    for spec in _all(step):
        starts.append(total)
        total += -(-spec.nbytes // ALIGNED) * ALIGNED
    memory = arena.take(total)
    return {
        spec.name: memory[start : start + spec.nbytes].view(getattr(torch, TORCH_NAMES[spec.dtype])).reshape(spec.shape)
        for start, spec in zip(starts, step.outputs, strict=True)
    }


def _all(step: Step) -> Iterator[TensorSpec]:
    yield from step.outputs
