"""Stacked tensors taken apart, so that each slice has an equation of its own: experts, scanned layers.

A slice is called by its tensor's name, `@` and its number, which no tensor of a file is; once equations are folded over
the number, it becomes an axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptmap.infer.findings import Block, Strided

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes

MARK = "@"

_INDEX = re.compile(MARK + r"\{([a-z])\}$")


def unstacked(
    blocks: Sequence[Block], left: Mapping[str, Sizes], right: Mapping[str, Sizes]
) -> list[tuple[list[Block], dict[str, Sizes], dict[str, Sizes]]]:
    """Blocks by equations: one, or as many as there are slices, with the shapes that belong to them."""
    stacks = [
        {name for name in dict.fromkeys(end.name for end in ends) if _is_stack(name, shapes[name], ends, blocks)}
        for ends, shapes in (([b.left for b in blocks], left), ([b.right for b in blocks], right))
    ]
    ours = {name: left[name] for name in dict.fromkeys(block.left.name for block in blocks)}
    theirs = {name: right[name] for name in dict.fromkeys(block.right.name for block in blocks)}
    if bool(stacks[0]) == bool(stacks[1]):
        return [(list(blocks), ours, theirs)]
    groups: list[tuple[set[tuple[int, str]], list[Block]]] = []
    for block in blocks:
        part = replace(
            block,
            left=_slice(block.left, left) if block.left.name in stacks[0] else block.left,
            right=_slice(block.right, right) if block.right.name in stacks[1] else block.right,
        )
        names, parts = {(0, part.left.name), (1, part.right.name)}, [part]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names, parts = names | group[0], [*group[1], *parts]
        groups.append((names, parts))
    return [
        (
            parts,
            {name: _shape(name, left) for side, name in sorted(names) if side == 0},
            {name: _shape(name, right) for side, name in sorted(names) if side == 1},
        )
        for names, parts in groups
    ]


def _is_stack(name: str, shape: Sizes, ends: Iterable[Strided], blocks: Sequence[Block]) -> bool:
    """Whether each of its blocks lies in one slice, and all slices are there."""
    if len(shape) < 2 or shape[0] < 2:
        return False
    step = prod(shape[1:])
    slices = set()
    for end, block in zip(ends, blocks, strict=True):
        if end.name == name:
            last = end.offset + sum((size - 1) * stride for size, stride in zip(block.sizes, end.strides, strict=True))
            slices.add(end.offset // step)
            if last // step != end.offset // step:
                return False
    return slices == set(range(shape[0]))


def _slice(end: Strided, shapes: Mapping[str, Sizes]) -> Strided:
    number, rest = divmod(end.offset, prod(shapes[end.name][1:]))
    return Strided(f"{end.name}{MARK}{number}", rest, end.strides)


def _shape(name: str, shapes: Mapping[str, Sizes]) -> Sizes:
    return shapes[whole_name(name)][1:] if MARK in name else shapes[name]


def whole_name(name: str) -> str:
    """The tensor that a slice belongs to; any other name as it is."""
    return name.partition(MARK)[0]


def stacked(terms: tuple[str, ...], shapes: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Folded slices as tensors again, their number the first axis.

    Raises:
        ValueError: A slice's number is no index.
    """
    made = []
    for term, shape in zip(terms, shapes, strict=True):
        index = _INDEX.search(term)
        if MARK not in term:
            made.append((term, shape))
        elif index is None:
            raise ValueError(term)
        else:
            made.append((whole_name(term), f"{index[1]} {shape}".removesuffix(" scalar")))
    return tuple(term for term, _ in made), tuple(shape for _, shape in made)
