"""The tensors that one equation is about, found on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from ckptmap.rules.compiled import CompiledRule, LaidEnd, Layout, Stacked
from ckptmap.rules.names import Binding, NamePattern
from ckptmap.rules.plan import End, Piece, Sizes

Slot: TypeAlias = "tuple[int, Stacked]"
"""A term, and the numbers of its stacked indices."""


ONLY: Slot = (0, ())
"""The slot of a side's only tensor."""


class Instance:
    """A rule for one choice of its shared variables, and the tensors that are there for it, left and right.

    `hinted` are shapes of terms of the right side where nothing else is known of it.
    """

    __slots__ = ("binding", "found", "hinted", "rule")

    def __init__(self, rule: CompiledRule, binding: Binding) -> None:
        self.rule = rule
        self.binding = binding
        self.found: tuple[dict[Slot, str], dict[Slot, str]] = ({}, {})
        self.hinted: dict[int, Sizes] = {}


def slots_of(instance: Instance, side: int, layout: Layout) -> Iterator[Slot]:
    """Every tensor that the equation needs on a side."""
    for term, pattern in enumerate(instance.rule.sides[side]):
        if isinstance(pattern, NamePattern):
            for stacked in layout.stacks[side][term]:
                yield term, stacked


def expanded(instance: Instance, side: int, slot: Slot) -> str:
    """What that tensor is called."""
    term, stacked = slot
    writer = instance.rule.writers[side][term]
    assert writer is not None
    if not stacked:
        return writer.write(instance.binding)
    return writer.write(instance.binding | dict(zip(instance.rule.stack_of(side, term), stacked, strict=True)))


def heading(instance: Instance) -> str:
    """The tensors of an equation, for a message."""
    names = [*instance.found[0].values(), *instance.found[1].values()]
    if not names:
        names = [term.expand(instance.binding) for term in instance.rule.sides[1] if isinstance(term, NamePattern)]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def end_of(end: LaidEnd, names: Mapping[Slot, str]) -> End:
    """A place in any tensor of a term as a place in the tensor of that name."""
    if isinstance(end, str):
        return end
    return Piece(names[end.term, end.stacked], end.view, end.narrow, end.split, end.order, end.repeated)
