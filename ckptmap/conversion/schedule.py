"""What a conversion will write, worked out from names, shapes and dtypes before any value is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod

from ckptmap.conversion.reading import Range, Reader
from ckptmap.errors import ConvertError
from ckptmap.printable import lines_of
from ckptmap.rules.plan import BoundBlock, Equation, Piece, Plan, Sizes
from ckptmap.spec import DTYPE_BITS, TensorSpec

Zeros = int
"""A run of so many zero bytes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One equation with the tensors it writes and, if no value must be looked at, the byte ranges that make them up."""

    equation: Equation
    outputs: tuple[TensorSpec, ...]
    copies: tuple[tuple[Range | Zeros, ...], ...] | None = None

    @property
    def renamed(self) -> str | None:
        """The source, when it goes over as it is."""
        return self.equation.left[0] if self.equation.rename and self.outputs else None


@dataclass(frozen=True)
class Schedule:
    """All of it: `left_out` has no home on the written side, `missing` no source on the read one."""

    steps: tuple[Step, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    homeless: tuple[tuple[Equation, Piece], ...]
    casts: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def outputs(self) -> list[TensorSpec]:
        """Every tensor written, in order."""
        return [spec for step in self.steps for spec in step.outputs]


def schedule(plan: Plan, reader: Reader, fills: Mapping[str, str], keys: Collection[str]) -> Schedule:
    """Work out what a plan writes.

    Args:
        plan: Read from left to right.
        reader: The checkpoint.
        fills: Dtypes of what tensors without a source may be taken from, by name on the written side.
        keys: What the residue holds of blocks.

    Raises:
        ConvertError: Tensors would collide, mix dtypes, or have blocks that come from nowhere; all of them told.
    """
    problems = _collisions(plan)
    steps: list[Step] = []
    missing = list(plan.uncovered_right)
    left_out = list(plan.uncovered_left)
    homeless: list[tuple[Equation, Piece]] = []
    casts: dict[tuple[str, str], int] = {}
    for equation in plan.equations:
        for block in equation.blocks:
            if isinstance(block.left, Piece) and block.right == "none" and block.left.name in reader.checkpoint:
                homeless.append((equation, block.left))
                left_out.append(key_of(block.left))
        outputs = []
        for name in dict.fromkeys(equation.right):
            blocks = [block for block in equation.blocks if isinstance(block.right, Piece) and block.right.name == name]
            dtype = _dtype(name, blocks, equation, reader, fills, keys, problems)
            if dtype is None:
                missing.append(name)
            else:
                outputs.append(TensorSpec(name, tuple(plan.right[name]), dtype))
        for name in filter(reader.checkpoint.__contains__, dict.fromkeys(equation.left)):
            old, new = reader.checkpoint[name].dtype, reader.dtype(name)
            if old != new and outputs:
                casts[old, new] = casts.get((old, new), 0) + 1
        steps.append(Step(equation, tuple(outputs), _copies(equation, outputs, reader)))
    if problems:
        raise ConvertError(lines_of(dict.fromkeys(problems)))
    return Schedule(_in_order(steps, reader), tuple(left_out), tuple(missing), tuple(homeless), casts)


def may_refuse(equation: Equation) -> bool:
    """Whether values can stand against an equation: zeros that are none, repeats or two sources that differ."""
    ends = [end for block in equation.blocks for end in (block.left, block.right)]
    written = [block.right for block in equation.blocks if isinstance(block.right, Piece)]
    return (
        any(block.right == "zeros" for block in equation.blocks)
        or any(isinstance(end, Piece) and end.repeated for end in ends)
        or len({(piece.name, piece.view, piece.narrow) for piece in written}) < len(written)
    )


def key_of(piece: Piece) -> str:
    """How a residue names a block: the tensor's name, and the part of it when it is not the whole."""
    return piece.name + "".join(f"[{axis}:{start}:{length}]" for axis, start, length in piece.narrow)


def _collisions(plan: Plan) -> list[str]:
    problems: list[str] = []
    lines: dict[str, int] = {second: 0 for second, _ in plan.right_ties}
    for equation in plan.equations:
        for name in dict.fromkeys(equation.right):
            if name in lines:
                other = f"the rule in line {lines[name]}" if lines[name] else "a tie"
                problems.append(f"{name}: written by the rule in line {equation.line} and by {other}; keep one of them")
            lines[name] = equation.line
    return problems


def _dtype(
    name: str,
    blocks: list[BoundBlock],
    equation: Equation,
    reader: Reader,
    fills: Mapping[str, str],
    keys: Collection[str],
    problems: list[str],
) -> str | None:
    """The dtype a tensor will have; None when there is nothing to write."""
    sources = dict.fromkeys(block.left.name for block in blocks if isinstance(block.left, Piece))
    bare = [block.right for block in blocks if block.left == "none" and isinstance(block.right, Piece)]
    unknown = [piece for piece in bare if key_of(piece) not in keys and name not in fills]
    dtypes = {reader.dtype(source): source for source in sources}
    if len(dtypes) > 1:
        told = ", ".join(f"{source} is {dtype}" for dtype, source in dtypes.items())
        problems.append(f"{name}: its parts have different dtypes ({told}); give --dtype to make them one")
    elif unknown and len(unknown) < len(blocks):
        problems.append(
            f"{name}: a part of it, {key_of(unknown[0]).removeprefix(name)}, has no source (`_` in line "
            f"{equation.line}); give --residue FILE, written by the conversion this one undoes, or --base CHECKPOINT"
        )
    elif dtypes and not equation.rename and DTYPE_BITS[next(iter(dtypes))] < 8:
        problems.append(f"{name}: {next(iter(dtypes))} is packed and can only be renamed, not rearranged")
    if dtypes:
        return next(iter(dtypes))
    if unknown:
        return None
    if bare:
        return fills.get(name) or fills[key_of(bare[0])]
    if name not in fills:
        problems.append(f"{name}: is zeros alone, so that nothing tells its dtype; give --base CHECKPOINT")
    return fills.get(name)


def _copies(
    equation: Equation, outputs: list[TensorSpec], reader: Reader
) -> tuple[tuple[Range | Zeros, ...], ...] | None:
    """The byte ranges that make up the outputs; None when values must be looked at or rearranged."""
    if any(block.right == "zeros" for block in equation.blocks):
        return None
    copies = []
    for spec in outputs:
        if DTYPE_BITS[spec.dtype] < 8 and not equation.rename:
            return None
        ranges = _ranges(equation, spec, reader)
        if ranges is None:
            return None
        copies.append(ranges)
    return tuple(copies)


def _ranges(equation: Equation, spec: TensorSpec, reader: Reader) -> tuple[Range | Zeros, ...] | None:
    if equation.rename:
        whole = reader.range(equation.left[0])
        return None if whole is None else (whole,)
    size = DTYPE_BITS[spec.dtype] // 8
    parts: list[tuple[int, Range | Zeros, int]] = []
    for block in equation.blocks:
        if not isinstance(block.right, Piece) or block.right.name != spec.name:
            continue
        there, length = run_of(block.right), prod(block.shape) * size
        if there is None:
            return None
        if block.left == "zeros":
            parts.append((there * size, length, length))
            continue
        if not isinstance(block.left, Piece) or not _same_order(block.left, block.right):
            return None
        start, source = run_of(block.left), reader.range(block.left.name)
        if start is None or source is None:
            return None
        parts.append((there * size, Range(source.path, source.offset + start * size, length), length))
    position = 0
    for begin, _, length in sorted(parts, key=lambda part: (part[0], part[2])):
        if begin != position:
            return None
        position += length
    return tuple(part for _, part, _ in sorted(parts, key=lambda part: (part[0], part[2]))) if parts else None


def run_of(piece: Piece) -> int | None:
    """The first element of a block that lies in one run in its tensor; None when it does not."""
    if piece.repeated:
        return None
    sizes: list[int] = list(piece.view)
    start = 0
    for axis, begin, length in piece.narrow:
        sizes[axis] = length
        start += begin * prod(piece.view[axis + 1 :])
    narrowed = [axis for axis, (part, whole) in enumerate(zip(sizes, piece.view, strict=True)) if part != whole]
    if narrowed and any(size != 1 for size in sizes[: narrowed[-1]]):
        return None
    return start


def _same_order(left: Piece, right: Piece) -> bool:
    """Whether both tensors hold the elements of a block in the same order; axes of one position do not matter."""

    def order(piece: Piece) -> list[int]:
        axes = [shared for shared, axis in enumerate(piece.order) if piece.split[axis] != 1]
        return sorted(axes, key=lambda shared: piece.order[shared])

    return order(left) == order(right)


def _in_order(steps: list[Step], reader: Reader) -> tuple[Step, ...]:
    """Steps in the order in which data is written.

    Large elements come first, so that every tensor starts at a multiple of its element's size, and within those the
    order of the file that is read, so that ranges that touch stay together.
    """
    ranges = {
        index: first
        for index, step in enumerate(steps)
        if step.copies and step.copies[0] and isinstance(first := step.copies[0][0], Range)
    }
    files = {path: number for number, path in enumerate(dict.fromkeys(found.path for found in ranges.values()))}

    def rank(index: int) -> tuple[int, int, int, int]:
        outputs, found = steps[index].outputs, ranges.get(index)
        bits = -max((DTYPE_BITS[spec.dtype] for spec in outputs), default=0)
        return (bits, files[found.path], found.offset, index) if found else (bits, len(files), 0, index)

    return tuple(steps[index] for index in sorted(range(len(steps)), key=rank))


def shapes_of(plan: Plan) -> dict[str, Sizes]:
    """Shapes of the read side that the other side may not show: where a block has no tensor there."""
    return {
        name: tuple(plan.left[name])
        for equation in plan.equations
        if any(not isinstance(end, Piece) for block in equation.blocks for end in (block.left, block.right))
        for name in dict.fromkeys(equation.left)
        if name in plan.left
    }
