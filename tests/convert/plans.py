"""Plans made by hand, and checkpoints for them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ckptmap.rules.plan import BoundBlock, End, Equation, Piece, Plan

State = dict[str, torch.Tensor]


def whole(name: str, *shape: int) -> Piece:
    return Piece(name, shape, (), shape, tuple(range(len(shape))))


def rows(name: str, start: int, length: int, total: int, *rest: int) -> Piece:
    return Piece(name, (total, *rest), ((0, start, length),), (length, *rest), tuple(range(1 + len(rest))))


def equation(left: list[str], right: list[str], *blocks: tuple[End, End, tuple[int, ...]], line: int = 1) -> Equation:
    bound = tuple(BoundBlock(shape, one, other) for one, other, shape in blocks)
    return Equation(line, tuple(left), tuple(right), bound, False)


def rename(old: str, new: str, *shape: int, line: int = 1) -> Equation:
    return Equation(line, (old,), (new,), (BoundBlock(shape, whole(old, *shape), whole(new, *shape)),), True)


def plan(*equations: Equation, **more: tuple[tuple[str, str], ...]) -> Plan:
    """Shapes are those of the pieces' views, which in these tests have an axis for each dimension."""
    sides: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for one in equations:
        for block in one.blocks:
            for side, end in enumerate((block.left, block.right)):
                if isinstance(end, Piece):
                    sides[side][end.name] = end.view
    return Plan(equations, sides[0], sides[1], more.get("left_ties", ()), more.get("right_ties", ()))


def fused() -> Plan:
    """q, k <-> qk; a <-> b transposed; n renamed."""
    transposed = Piece("a", (3, 5), (), (3, 5), (1, 0))
    return plan(
        equation(
            ["q", "k"],
            ["qk"],
            (whole("q", 4, 3), rows("qk", 0, 4, 6, 3), (4, 3)),
            (whole("k", 2, 3), rows("qk", 4, 2, 6, 3), (2, 3)),
        ),
        equation(["a"], ["b"], (transposed, whole("b", 5, 3), (5, 3)), line=2),
        rename("n", "m", 7, line=3),
    )


def fused_state(dtype: torch.dtype = torch.float32) -> State:
    shapes = {"q": (4, 3), "k": (2, 3), "a": (3, 5), "n": (7,)}
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


def save(path: Path, state: State) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def same_bits(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and bits(one[name]) == bits(other[name])
        for name in one
    )


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


def read(path: Path) -> State:
    return load_file(path)
