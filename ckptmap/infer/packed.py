"""Projections that one side holds in one tensor and the other in parts: query, key and value; gate and up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.infer.equations import Written, equation
from ckptmap.infer.findings import Block, Strided
from ckptmap.infer.shapes_related import Named
from ckptmap.infer.stacked_layers import apart

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes
    from ckptmap.infer.named_modules import Module
    from ckptmap.infer.stacked_layers import Units
    from ckptmap.infer.templates import Template

UnitsOf: TypeAlias = "Callable[[Template], Units]"

PARTS = {"attention": ("query", "key", "value"), "": ("gate", "up")}

ORDER = "do its rows stand end to end in the order {}, or interleaved head by head?"
WHICH = "which of the two goes through the activation (the gate), and which is its factor?"
WAY = "are its parts, square matrices, turned or the same way round?"


def joined(
    roles: tuple[Mapping[Module, str], Mapping[Module, str]], waiting: tuple[Sequence[Module], Sequence[Module]]
) -> Iterator[tuple[list[Module], list[Module], str, str]]:
    """Modules packed on one side and in parts on the other: those of the left, of the right, their role, a question."""
    for side in (0, 1):
        others = {role.rstrip("?"): one for one, role in roles[1 - side].items() if one in waiting[1 - side]}
        unsure = {one for one, role in roles[1 - side].items() if role.endswith("?")}
        for packed, role in roles[side].items():
            stem, _, last = role.rpartition(" ")
            if last != "packed" or packed not in waiting[side]:
                continue
            words = PARTS["attention" if stem.endswith("attention") else ""]
            parts = [others.get(f"{stem} {word}") for word in words]
            found = [one for one in parts if one is not None]
            if len(found) < len(words) or _layout(packed, found) is None:
                continue
            question = "" if _is_known(packed) else ORDER.format(", ".join(words))
            if not question and unsure & {*found}:
                question = WHICH
            if not question and any(len({*one.matrix()}) == 1 for one in found) and _layout(packed, found) == "columns":
                question = WAY
            ends = [packed], found
            yield (ends[side], ends[1 - side], role, question)


def _is_known(packed: Module) -> bool:
    """Whether the order of its parts is documented.

    Source: torch.nn.MultiheadAttention (`in_proj_weight` is query, key, value end to end), GPT-2's `c_attn` (split into
    query, key, value), transformers' `gate_up_proj` (chunked into gate and up; with a bias it is gpt-oss, interleaved).
    """
    if packed.own in (("in", "proj"), ("c", "attn")):
        return True
    return packed.own == ("gate", "up", "proj") and "bias" not in packed.tensors


def _layout(packed: Module, parts: Sequence[Module]) -> str | None:
    """Whether parts are the rows of the packed matrix, its columns, or neither."""
    whole, pieces = packed.matrix(), [one.matrix() for one in parts]
    if len(whole) != 2 or any(len(piece) != 2 for piece in pieces):
        return None
    rows = sum(piece[0] for piece in pieces)
    if all(piece[1] == whole[1] for piece in pieces) and rows == whole[0]:
        return "rows"
    if all(piece[1] == whole[0] for piece in pieces) and rows == whole[1]:
        return "columns"
    return None


def packed_equations(
    units: tuple[UnitsOf, UnitsOf], left: Sequence[Module], right: Sequence[Module], evidence: str, question: str
) -> Iterator[Named]:
    """Equations of a packed tensor and its parts, for each layer and expert."""
    on_left = len(left) == 1
    packed, parts = (left[0], right) if on_left else (right[0], left)
    whole_units, part_units = units if on_left else units[::-1]
    for kind, template in packed.tensors.items():
        others = [one.tensors.get(kind) or (one.main if kind in ("", "weight") else None) for one in parts]
        if None in others:
            continue
        terms = [str(template)], [str(one) for one in others]
        pattern = " <-> ".join(", ".join(end) for end in (terms if on_left else terms[::-1]))
        tables = [part_units(one) for one in others if one is not None]
        whole = whole_units(template)
        if len(next(iter(tables[0]))) > len(next(iter(whole))):
            whole = apart(whole)
        elif len(next(iter(whole))) > len(next(iter(tables[0]))):
            tables = [apart(table) for table in tables]
        for key, (name, shape) in whole.items():
            ends = [table.get(key) for table in tables]
            if None in ends:
                continue
            made = _equation(shape, tuple(end[1] for end in ends if end), on_left=on_left)
            if made is not None:
                names = {"whole": name} | {f"part{at}": end[0] for at, end in enumerate(ends) if end}
                # A bias has no way round.
                doubt = "" if question == WAY and len(shape) == 1 else question
                yield Named(_named(made, names), evidence, doubt, pattern)


def _named(made: Written, names: Mapping[str, str]) -> Written:
    return replace(made, left=tuple(names[name] for name in made.left), right=tuple(names[name] for name in made.right))


@cache
def _equation(whole: Sizes, parts: tuple[Sizes, ...], *, on_left: bool) -> Written | None:
    """The equation between a packed tensor, called `whole`, and its parts in this order."""
    columns = len(whole) == 2 and sum(part[0] for part in parts) != whole[0]
    blocks = []
    at = 0
    for number, part in enumerate(parts):
        steps = [1] if len(whole) == 1 else [part[1], 1]
        inside = [1] if len(whole) == 1 else [1, whole[1]] if columns else [whole[1], 1]
        axes = [axis for axis, size in enumerate(part) if size > 1]
        sizes = tuple(part[axis] for axis in axes)
        offset = at * (1 if columns or len(whole) == 1 else whole[1])
        here = Strided("whole", offset, tuple(inside[axis] for axis in axes))
        there = Strided(f"part{number}", 0, tuple(steps[axis] for axis in axes))
        blocks.append(Block(sizes, here, there) if on_left else Block(sizes, there, here))
        at += part[0]
    shapes = {f"part{number}": part for number, part in enumerate(parts)}
    ends = ({"whole": whole}, shapes) if on_left else (shapes, {"whole": whole})
    try:
        return equation(blocks, *ends)
    except ValueError:
        return None
