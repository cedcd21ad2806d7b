"""Shapes as equations: `(kv r d) m`, `[q + k + v] m`, `o ...`.

A shape is a row of dims; a dim is a row of factors that are multiplied; a factor is an axis or a sum of blocks laid end
to end; a block is a row of axes. `1` is an axis of size one that need not be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

ELLIPSIS = "..."


class ShapeError(ValueError):
    """A shape does not fit its tensor, or cannot be solved."""


class UnknownSizeError(ShapeError):
    """Nothing tells a size."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis by name; `repeated` (`*h`) holds the same values at each of its positions."""

    name: str
    repeated: bool = False

    def __str__(self) -> str:
        return f"*{self.name}" if self.repeated else self.name


Block: TypeAlias = "tuple[Axis, ...]"
"""Axes multiplied within a sum; the empty block is `1`."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Blocks laid end to end along one axis."""

    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return f"[{' + '.join(' '.join(map(str, block)) or '1' for block in self.blocks)}]"


Factor: TypeAlias = "Axis | Sum"


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape of a rule.

    Args:
        dims: Factors of each dimension; an empty dim is `1`.
        rest: Whether `...` ends it: any further dimensions, the same on both sides.
    """

    dims: tuple[tuple[Factor, ...], ...]
    rest: bool = False

    def __str__(self) -> str:
        if not self.dims and not self.rest:
            return "scalar"
        texts = [self._dim_text(dim) for dim in self.dims]
        return " ".join([*texts, ELLIPSIS] if self.rest else texts)

    @staticmethod
    def _dim_text(dim: tuple[Factor, ...]) -> str:
        if not dim:
            return "1"
        return str(dim[0]) if len(dim) == 1 else f"({' '.join(map(str, dim))})"

    @property
    def sum(self) -> Sum | None:
        """The one sum of the shape, if it has one."""
        return next((factor for dim in self.dims for factor in dim if isinstance(factor, Sum)), None)

    def blocks(self) -> list[tuple[Axis, ...]]:
        """For each block, the axes of its elements in the tensor's own order."""
        total = self.sum
        chosen: tuple[Block, ...] = total.blocks if total else ((),)
        return [
            tuple(
                axis
                for dim in self.dims
                for factor in dim
                for axis in (block if isinstance(factor, Sum) else (factor,))
            )
            for block in chosen
        ]

    def axes(self) -> Iterator[Axis]:
        """Every axis that is named, in order, as often as it stands there."""
        for dim in self.dims:
            for factor in dim:
                if isinstance(factor, Sum):
                    for block in factor.blocks:
                        yield from block
                else:
                    yield factor


def solve(shape: Shape, sizes: tuple[int, ...], known: dict[str, int]) -> bool:
    """Learn sizes of axes from a tensor's shape; returns whether anything was learnt.

    Raises:
        ShapeError: The tensor cannot have this shape.
    """
    if len(sizes) < len(shape.dims) or (len(sizes) > len(shape.dims) and not shape.rest):
        raise ShapeError(f"{list(sizes)} has {len(sizes)} dimensions, {shape} has {len(shape.dims)}")
    learnt = False
    for dim, size in zip(shape.dims, sizes, strict=False):
        learnt |= _solve_dim(dim, size, known)
    return learnt


def _solve_dim(dim: tuple[Factor, ...], size: int, known: dict[str, int]) -> bool:
    """size = Π axes × Σ blocks, for one unknown, once or in several blocks alike."""
    unknown = {axis.name for axis in Shape((dim,)).axes() if axis.name not in known}
    if len(unknown) > 1:
        return False
    if not unknown:
        if _value(dim, known) != size:
            raise ShapeError(f"a dimension of {size} is not {Shape((dim,))} = {_value(dim, known)}")
        return False
    (name,) = unknown
    # The size is a polynomial in the unknown; it is linear unless the axis multiplies itself.
    at0, at1, at2 = (_value(dim, {**known, name: value}) for value in (0, 1, 2))
    slope = at1 - at0
    if at2 - at1 != slope:
        raise ShapeError(f"{Shape((dim,))} has {name} multiplied by itself; give its size")
    value, rest = divmod(size - at0, slope) if slope else (0, size - at0)
    if rest or value < 0 or not slope:
        raise ShapeError(f"a dimension of {size} cannot be {Shape((dim,))}" + _where(dim, known))
    known[name] = value
    return True


def _where(dim: tuple[Factor, ...], known: Mapping[str, int]) -> str:
    told = {axis.name: known[axis.name] for axis in Shape((dim,)).axes() if axis.name in known}
    return f" with {', '.join(f'{name} = {value}' for name, value in told.items())}" if told else ""


def _value(dim: tuple[Factor, ...], sizes: Mapping[str, int]) -> int:
    return prod(factor_size(factor, sizes) for factor in dim)


def factor_size(factor: Factor, sizes: Mapping[str, int]) -> int:
    """The number of positions along a factor."""
    if isinstance(factor, Axis):
        return sizes[factor.name]
    return sum(prod(sizes[axis.name] for axis in block) for block in factor.blocks)


def full_shape(shape: Shape, sizes: Mapping[str, int], rest: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor's shape, once all sizes are known; `rest` are the sizes that `...` stands for."""
    return (*(_value(dim, sizes) for dim in shape.dims), *(rest if shape.rest else ()))
