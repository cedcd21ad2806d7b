"""The meaning of a plan in twenty lines of torch: what any converter must do."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ckptmap.rules.plan import Piece, Plan


def block_of(tensor: torch.Tensor, piece: Piece) -> torch.Tensor:
    """A view of the block, axes in the shared order."""
    view = tensor.view(piece.view)
    for axis, start, length in piece.narrow:
        view = view.narrow(axis, start, length)
    part = (
        view.reshape(piece.split) if view.data_ptr() == view.reshape(piece.split).data_ptr() else view.view(piece.split)
    )
    return part.permute(piece.order)


def run(plan: Plan, tensors: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The right side of a plan; what has no home on the left comes from `base`."""
    out = {name: base[name].clone() if name in base else torch.zeros(shape) for name, shape in plan.right.items()}
    for equation in plan.equations:
        for block in equation.blocks:
            if isinstance(block.right, str):
                if block.right == "zeros" and isinstance(block.left, Piece):
                    assert not block_of(tensors[block.left.name], block.left).any(), "padding is not zero"
                continue
            piece = block.right
            target = out[piece.name].view(piece.view)
            for axis, start, length in piece.narrow:
                target = target.narrow(axis, start, length)
            if isinstance(block.left, Piece):
                source = block_of(tensors[block.left.name], block.left)
                for axis in block.left.repeated:
                    source = source.narrow(axis, 0, 1)
                assert tuple(source.shape) == block.shape
                # Expand along repeated axes, put the axes where the right side has them, close up the split.
                moved = [0] * len(piece.order)
                for at, axis in enumerate(piece.order):
                    moved[axis] = at
                target.copy_(source.permute(moved).expand(piece.split).reshape(target.shape))
            elif block.left == "zeros":
                target.zero_()
    for second, first in plan.right_ties:
        out[second] = out[first]
    return out
