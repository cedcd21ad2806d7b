"""Moves the blocks of one equation between tensors, as integers, so that every bit survives. Torch is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

from ckptmap.errors import ConvertError
from ckptmap.rules.plan import BoundBlock, Equation, Piece, Sizes

if TYPE_CHECKING:
    import torch

Load = Callable[[str], "torch.Tensor"]
Fill = Callable[[Piece, "torch.Tensor"], "torch.Tensor"]
"""From a block without a source, and its place in the target, to the integers that belong there."""


def as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as integers of the same size; complex128 gets a last axis of two."""
    import torch

    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = tensor.resolve_conj()
    tensor = tensor.resolve_neg()
    if tensor.dtype == torch.complex128:
        return torch.view_as_real(tensor).view(torch.int64)
    of_size = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(of_size[tensor.element_size()])


def place(integers: torch.Tensor, piece: Piece, *, writable: bool = False) -> torch.Tensor:
    """The block of a tensor that a piece describes, in shared axis order; with `writable` surely a view of it."""
    return ordered(narrowed(integers, piece, writable=writable), piece, writable=writable)


def narrowed(integers: torch.Tensor, piece: Piece, *, writable: bool = False) -> torch.Tensor:
    """The block in the tensor's own order, which is the same whichever side the rules are read from."""
    view = _reshaped(integers, piece.view, writable)
    for axis, start, length in piece.narrow:
        view = view.narrow(axis, start, length)
    return view


def ordered(block: torch.Tensor, piece: Piece, *, writable: bool = False) -> torch.Tensor:
    """A block in the tensor's own order as one in shared axis order."""
    view = _reshaped(block, piece.split, writable)
    return view.permute((*piece.order, *range(len(piece.split), view.dim())))


def _reshaped(tensor: torch.Tensor, shape: Sizes, writable: bool) -> torch.Tensor:
    # Of a contiguous tensor all of this is a view: axes are parted, never joined across a narrowed one.
    whole = shape if tensor.numel() == prod(shape) else (*shape, 2)  # the last axis of two that complex128 was given
    return tensor.view(whole) if writable else tensor.reshape(whole)


def move(equation: Equation, load: Load, targets: Mapping[str, torch.Tensor], fill: Fill) -> None:
    """Fill the targets of one equation, loading each source once and letting go of it before the next.

    Args:
        equation: Read from left to right.
        load: Gives a source by name.
        targets: Contiguous tensors to write into; blocks of tensors that are not among them are only checked.
        fill: Gives the values of a block that has no source.

    Raises:
        ConvertError: Zeros are not zero, or places that must hold the same values do not.
    """
    integers = {name: as_integers(tensor) for name, tensor in targets.items()}
    written: set[object] = set()
    for name, blocks in blocks_by_source(equation):
        if all(block.right == "none" for block in blocks):
            continue
        source = as_integers(load(name))
        for block in blocks:
            assert isinstance(block.left, Piece)
            if block.right == "none" or 0 in block.shape:
                continue
            values = _without_repeats(place(source, block.left), block.left, equation)
            if block.right == "zeros":
                check_zero(values, name, equation)
            elif isinstance(block.right, Piece) and block.right.name in integers:
                _put(values, integers[block.right.name], block.right, written, equation)
    for block in equation.blocks:
        if isinstance(block.left, Piece) or not isinstance(block.right, Piece) or block.right.name not in integers:
            continue
        if 0 in block.shape:
            continue
        target = place(integers[block.right.name], block.right, writable=True)
        if block.left == "zeros":
            target.zero_()
        else:
            target.copy_(fill(block.right, target))


def blocks_by_source(equation: Equation) -> Iterator[tuple[str, list[BoundBlock]]]:
    """The blocks that have a source, by its name, in order."""
    groups: dict[str, list[BoundBlock]] = {}
    for block in equation.blocks:
        if isinstance(block.left, Piece):
            groups.setdefault(block.left.name, []).append(block)
    yield from groups.items()


def check_zero(values: torch.Tensor, name: str, equation: Equation) -> None:
    """Refuse padding that holds anything but zero bits.

    Raises:
        ConvertError: It does.
    """
    if wrong := int(values.count_nonzero()):
        raise ConvertError(
            f"{name}: {wrong:,} of {values.numel():,} padding elements are not zero, as the rule in line "
            f"{equation.line} says they are; they would be lost. Write `_` for `0` to drop or keep them (--residue)"
        )


def _without_repeats(values: torch.Tensor, piece: Piece, equation: Equation) -> torch.Tensor:
    """One position of each repeated axis, once all positions are known to be equal."""
    import torch

    for axis in piece.repeated:
        first = values.narrow(axis, 0, 1)
        if not torch.equal(values, first.expand_as(values)):
            raise ConvertError(
                f"{piece.name}: the values along an axis that the rule in line {equation.line} repeats (`*`) are not "
                "all the same; converting would lose all but the first"
            )
        values = first
    return values


def _put(values: torch.Tensor, target: torch.Tensor, piece: Piece, written: set[object], equation: Equation) -> None:
    import torch

    there = place(target, piece, writable=True)
    region = (piece.name, piece.view, piece.narrow) if piece.narrow else piece.name
    if region not in written:
        written.add(region)
        there.copy_(values)
    elif not torch.equal(there, values.expand_as(there)):
        raise ConvertError(
            f"{piece.name}: the rule in line {equation.line} reads it from {' and '.join(dict.fromkeys(equation.left))}"
            ", which are not equal; make them equal or choose one"
        )
