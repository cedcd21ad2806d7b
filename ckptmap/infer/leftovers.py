"""Decides tensors that change no output by their place: left over on both sides, beside what was matched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptmap.infer.extend import Partial

BESIDE = "it changes no output; the only one of its shape that is left over in both modules, and its name is alike"


def pair_leftovers(found: Partial, left_names: Iterable[str], right_names: Iterable[str]) -> None:
    """Pair parameters that no run can tell, in place.

    Both must be the only ones left over of their shape, in modules that belong together because their other tensors do,
    and their names must have a word in common.

    Args:
        found: What is known so far.
        left_names: Tensors of the left that may be given away.
        right_names: Tensors of the right that may get one.
    """
    import numpy

    lefts = [name for name in left_names if not found.taken[_span(found, name)].any()]
    rights = [name for name in right_names if (found.elements[name] < 0).all()]
    for name in rights:
        partner = _partner(found, name, lefts, rights)
        if partner is not None:
            start = found.first[partner]
            size = found.elements[name].size
            found.give(name, numpy.arange(size), start + numpy.arange(size), BESIDE)


def _span(found: Partial, name: str) -> slice:
    start, size = found.first[name], 1
    for length in found.left[name]:
        size *= length
    return slice(start, start + size)


def _partner(found: Partial, name: str, lefts: list[str], rights: list[str]) -> str | None:
    """The left tensor that has the same place, seen from the innermost module that has matched tensors."""
    for prefix in _prefixes(name):
        there = _counterpart(found, prefix)
        if there is None:
            continue
        shape = found.right[name]
        ours = [one for one in lefts if one.startswith(there) and found.left[one] == shape]
        theirs = [one for one in rights if one.startswith(prefix) and found.right[one] == shape]
        ours = [one for one in ours if not found.taken[_span(found, one)].any()]
        if len(ours) == 1 and theirs == [name] and _are_alike(ours[0], name):
            return ours[0]
        if ours:
            return None
    return None


def _prefixes(name: str) -> Iterator[str]:
    """Modules that hold a tensor, the innermost first, with a dot behind; the whole model is the last."""
    parts = name.split(".")[:-1]
    for end in range(len(parts), -1, -1):
        yield "".join(f"{part}." for part in parts[:end])


def _counterpart(found: Partial, prefix: str) -> str | None:
    """The left module that holds what the tensors of a right module were matched with."""
    owners = [
        found.owner(int(array.reshape(-1)[0]))
        for name, array in found.elements.items()
        if name.startswith(prefix) and array.size and (array >= 0).all()
    ]
    if not owners:
        return None
    if not prefix:
        return ""
    modules = [owner.split(".")[:-1] for owner in owners]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*modules, strict=False))
    return "".join(f"{parts[0]}." for parts in common)


def _are_alike(one: str, other: str) -> bool:
    """Whether the last segments have a word in common; `emb` and `embed` are one."""
    words = [[word for word in re.split(r"[._]", name.rpartition(".")[2]) if len(word) > 2] for name in (one, other)]
    if one.rpartition(".")[2] == other.rpartition(".")[2]:
        # `weight` says nothing by itself: the module's name has to.
        parents = [name.rpartition(".")[0].rpartition(".")[2] for name in (one, other)]
        return words[0] not in (["weight"], ["bias"]) or parents[0] == parents[1]
    return any(a.startswith(b) or b.startswith(a) for a in words[0] for b in words[1])
