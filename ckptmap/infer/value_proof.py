"""Runs rules on the values that both checkpoints hold, and compares bits: tensor by tensor, there and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptmap.conversion.blocks import as_integers, blocks_by_source, move, place
from ckptmap.conversion.reading import Reader, narrows, same_bytes, torch_dtype
from ckptmap.errors import ConvertError
from ckptmap.formats.live import SPEC_NAMES
from ckptmap.rules.plan import BoundBlock, Equation, Piece, bind
from ckptmap.spec import DTYPE_BITS
from ckptmap.stages import tell

if TYPE_CHECKING:
    import torch

    from ckptmap.checkpoint import Checkpoint
    from ckptmap.rules.rules import Rules


@dataclass
class Compared:
    """What rules make of the left, beside what the right holds.

    Attributes:
        equal: Right tensors with equal bits, each with the left tensors it is made of.
        casts: For those of them whose dtypes differ, the cast after which they are equal.
        differ: Right tensors that hold other values than the rules give, or from which the left's would not come back.
    """

    equal: dict[str, tuple[str, ...]] = field(default_factory=dict)
    casts: dict[str, str] = field(default_factory=dict)
    differ: set[str] = field(default_factory=set)

    def told(self, one: Equation, name: str, how: str | None) -> None:
        """Keep how a right tensor is equal to what an equation makes of the left; None if it is not."""
        if how is None:
            self.differ.add(name)
            return
        self.equal[name] = one.left
        if how:
            self.casts[name] = how


def compare(rules: Rules, left: Checkpoint, right: Checkpoint) -> Compared:
    """Convert the left, one equation at a time, and compare every element with the right's.

    Args:
        rules: What to run; tensors without a rule are passed over.
        left: A checkpoint whose values can be read.
        right: Another.

    Raises:
        CheckpointError: Values cannot be read.
        PlanError: The rules do not fit.
    """
    shapes = [{name: spec.shape for name, spec in side.items()} for side in (left, right)]
    plan = bind(rules, *shapes, partial=True)
    found = Compared()
    ours, theirs, again = Reader(left), Reader(right), Reader(right)
    try:
        for number, one in enumerate(plan.equations):
            tell("both sides' values compared", number, len(plan.equations))
            if not one.left or not one.right or any(block.left == "none" for block in one.blocks):
                continue
            if one.rename:
                found.told(one, one.right[0], _renamed(ours, one.left[0], theirs, one.right[0]))
                continue
            made = _made(one, ours, plan.right)
            for name in dict.fromkeys(one.right):
                found.told(one, name, _how_equal(made[name], theirs.tensor(name)) if made else None)
        for second, first in plan.right_ties:
            if first in found.equal and _renamed(theirs, first, again, second) == "":
                found.equal[second] = found.equal[first]
    finally:
        for reader in (ours, theirs, again):
            reader.close()
    return found


def _renamed(ours: Reader, left: str, theirs: Reader, right: str) -> str | None:
    """How two tensors are equal as they are; None if they are not."""
    dtypes = ours.checkpoint[left].dtype, theirs.checkpoint[right].dtype
    if dtypes[0] == dtypes[1]:
        here, there = ours.range(left), theirs.range(right)
        if here is not None and there is not None:
            return "" if same_bytes(here, ours, there, theirs) else None
    if any(DTYPE_BITS[dtype] < 8 for dtype in dtypes):
        same = dtypes[0] == dtypes[1] and ours.checkpoint.read(left) == theirs.checkpoint.read(right)
        return "" if same else None
    return _how_equal(ours.tensor(left), theirs.tensor(right))


def _made(one: Equation, reader: Reader, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The right tensors of an equation; nothing where values stand against it, or would not come back."""
    import torch

    dtypes = {reader.checkpoint[name].dtype for name in one.left}
    if len(dtypes) > 1 or any(DTYPE_BITS[dtype] < 8 for dtype in dtypes):
        return {}
    dtype = torch_dtype(dtypes.pop())
    made = {name: torch.empty(shapes[name], dtype=dtype) for name in one.right}
    try:
        move(one, reader.tensor, made, _no_fill)
    except ConvertError:
        return {}
    for name, blocks in blocks_by_source(one):
        source = as_integers(reader.tensor(name))
        if not all(_comes_back(block, source, made) for block in blocks):
            return {}
    return made


def comes_back(one: Equation, load: Callable[[str], torch.Tensor], made: Mapping[str, torch.Tensor]) -> bool:
    """Whether the way back would find every bit of an equation's left tensors in what was made of them."""
    import torch

    if one.rename:
        here, there = as_integers(load(one.left[0])), as_integers(made[one.right[0]])
        return torch.equal(here, there.reshape(here.shape))
    for name, blocks in blocks_by_source(one):
        source = as_integers(load(name))
        if not all(_comes_back(block, source, made) for block in blocks):
            return False
    return True


def _no_fill(piece: Piece, target: torch.Tensor) -> torch.Tensor:
    raise AssertionError(f"{piece.name}: equations with blocks from nowhere are not compared")


def _comes_back(block: BoundBlock, source: torch.Tensor, made: Mapping[str, torch.Tensor]) -> bool:
    """Whether a block of the left lies, bit for bit, where the way back will look for it."""
    import torch

    if not isinstance(block.left, Piece) or not isinstance(block.right, Piece) or 0 in block.shape:
        return True
    here = place(source, block.left)
    return torch.equal(here, place(as_integers(made[block.right.name]), block.right).expand_as(here))


def _how_equal(made: torch.Tensor, there: torch.Tensor) -> str | None:
    """How two tensors are equal: bit for bit (empty), or after a cast, which is told; None if they are not."""
    import torch

    def bits(one: torch.Tensor, other: torch.Tensor) -> bool:
        return torch.equal(as_integers(one), as_integers(other))

    made, there = made.cpu(), there.cpu()
    if made.dtype == there.dtype:
        return "" if bits(made, there) else None
    if not (made.is_floating_point() and there.is_floating_point()):
        return None
    told = SPEC_NAMES[str(made.dtype).removeprefix("torch.")], SPEC_NAMES[str(there.dtype).removeprefix("torch.")]
    for one, other, name in ((made, there, told[1]), (there, made, told[0])):
        if bits(one.to(other.dtype), other):
            own = told[0] if one is made else told[1]
            return f"rounded to {name}" if narrows(own, name) else f"widened to {name}"
    return None
