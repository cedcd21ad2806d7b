"""Tensors gathered to modules: a weight with its bias, whatever they are called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptmap.infer.templates import SLOT
from ckptmap.infer.words import EXPERT, KINDS, NONDESCRIPT, NORM, PLAIN_KINDS, all_words, words

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes
    from ckptmap.infer.templates import Path, Template


@dataclass(eq=False)
class Module:
    """What one name stands for without its leaf.

    Attributes:
        path: Segments of its name, from the block or from the root.
        tensors: Its tensors by kind: weight, bias, or `` for one that has no module of its own.
        raw: Whether its tensor is a bare parameter, which may be kept either way round.
    """

    path: Path
    tensors: dict[str, Template] = field(default_factory=dict)
    raw: bool = False

    @property
    def own(self) -> tuple[str, ...]:
        """Words of its own name."""
        for segment in reversed(self.path):
            if segment != SLOT:
                return words(segment)
        return ()

    def spoken(self) -> tuple[str, ...]:
        """Its own words; with its parent's where its own say nothing: `pooler.dense`, `net.0`."""
        if set(self.own) <= NONDESCRIPT or all(word.isdigit() for word in self.own):
            return all_words([segment for segment in self.path if segment != SLOT][-2:])
        return self.own

    @property
    def around(self) -> tuple[str, ...]:
        """Words of all its names."""
        return all_words(segment for segment in self.path if segment != SLOT)

    @property
    def main(self) -> Template:
        """Its weight, or whatever it has."""
        return self.tensors.get("weight") or next(iter(self.tensors.values()))

    @property
    def shape(self) -> Sizes:
        """The shape of the weight."""
        return self.main.shape

    @property
    def is_norm(self) -> bool:
        """Whether its words say that it normalises, and its shape allows it."""
        return bool(NORM & {*self.own}) and len(_squeezed(self.shape)) <= 1

    @property
    def is_expert(self) -> bool:
        """Whether it is one of many: below an index, or stacked."""
        around = {*self.around}
        return "shared" not in around and (SLOT in self.path or (bool(EXPERT & around) and len(self.shape) == 3))

    def matrix(self) -> Sizes:
        """Its weight as a matrix: without an expert's axis, without axes of one."""
        shape = self.shape[1:] if self.is_expert and SLOT not in self.path else self.shape
        return _squeezed(shape)


def _squeezed(shape: Sizes) -> Sizes:
    return tuple(size for size in shape if size != 1)


def gathered(templates: Iterable[Template], start: int) -> list[Module]:
    """Modules of these templates, their paths from this segment on."""
    found: dict[Path, Module] = {}
    by_parent: dict[Path, set[str]] = {}
    listed = list(templates)
    for template in listed:
        by_parent.setdefault(template.path[:-1], set()).add(template.path[-1])
    for template in listed:
        *parents, leaf = template.path[start:]
        siblings = by_parent[template.path[:-1]]
        path, kind = _parted(tuple(parents), leaf, siblings)
        module = found.setdefault(path, Module(path, raw=kind == ""))
        module.tensors[kind] = template
    return list(found.values())


def _parted(parents: Path, leaf: str, siblings: set[str]) -> tuple[Path, str]:
    if leaf in PLAIN_KINDS:
        return parents, leaf
    around = {*words(parents[-1])} if parents else set()
    if leaf in KINDS and (NORM & around or (siblings <= KINDS.keys() and len(siblings) == 2)):
        return parents, KINDS[leaf]
    for kind in PLAIN_KINDS:
        if leaf.endswith(f"_{kind}"):
            return (*parents, leaf.removesuffix(f"_{kind}")), kind
    return (*parents, leaf), ""
