"""What moved: differences by layer and module, and one sentence that says it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from ckptmap.patterns import group, is_index
from ckptmap.values.dtypes import ROUNDED
from ckptmap.values.statistics import Statistics

if TYPE_CHECKING:
    from ckptmap.values.compare import TensorValues
    from ckptmap.values.values import Values

MOST_SAID = 2
"""Patterns that a sentence may name."""
EMBEDDINGS = ("emb", "wte", "wpe")
"""What names of embeddings have in one of their segments."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The tensors of one module in one layer.

    Attributes:
        stack: What stands before the number of the layer: `encoder.layer`.
        layer: The number; None for what is in no layer.
        module: The module in it, numbers of further lists written `*`: `attention.self.query`.
        tensors: How many it has.
        differing: How many of them differ.
        statistics: Of those that differ, together; None if none do, or they cannot be compared as numbers.
    """

    stack: str
    layer: int | None
    module: str
    tensors: int
    differing: int
    statistics: Statistics | None


def cells(values: Values) -> tuple[Cell, ...]:
    """Every module in every layer, in order of first appearance."""
    differing = {one.name for one in values.differing}
    places: dict[tuple[str, int | None, str], list[TensorValues]] = {}
    for one in values.tensors:
        places.setdefault(place_of(one.name), []).append(one)
    return tuple(
        Cell(*place, len(group), len(moved := [one for one in group if one.name in differing]), together(moved))
        for place, group in places.items()
    )


def place_of(name: str) -> tuple[str, int | None, str]:
    """Stack, layer and module of a tensor: the first number in its name is that of the layer."""
    words = name.split(".")
    at = next((place for place, word in enumerate(words) if is_index(word)), None)
    if at is None:
        return "", None, ".".join(words[:-1]) or name
    module = ".".join("*" if is_index(word) else word for word in words[at + 1 : -1])
    return ".".join(words[:at]), int(words[at]), module


def together(tensors: Iterable[TensorValues]) -> Statistics | None:
    """The statistics of several tensors as of one."""
    found = [one.statistics for one in tensors if one.statistics is not None]
    return reduce(add, found) if found else None


def summary(values: Values) -> str:
    """One sentence: same weights, or what moved."""
    count = len(values.set_aside)
    aside = f"; {_tensors(count)} or parts of some were not compared, as the rules set them aside" if count else ""
    return _told(values) + aside


def _told(values: Values) -> str:
    count, differing = len(values.tensors), values.differing
    if not count:
        return "no tensor is on both sides, so that no values were compared"
    if not differing:
        return _same(values)
    these = _of(len(differing), count)
    numbers = [one for one in differing if one.same_numbers]
    if len(numbers) == len(differing):
        return f"{these} differ in bits and are equal as numbers ({_why(differing)})"
    if rounding := _rounding(differing):
        return f"{these}: {rounding}"
    bits_only = f"; {_tensors(len(numbers))} of them in bits only, as numbers they are equal" if numbers else ""
    return f"values: {_moved(values)} ({these}){bits_only}"


def _same(values: Values) -> str:
    count = len(values.tensors)
    exact = sum(one.same_bits for one in values.tensors)
    if exact == count:
        return f"same weights: {'the 1 tensor is' if count == 1 else f'all {count:,} tensors are'} equal bit for bit"
    largest = max(one.statistics.max_abs for one in values.tensors if one.statistics is not None)
    return (
        f"same weights within the tolerance: {_of(exact, count)} are equal bit for bit, "
        f"the others by less than it allows (max |Δ| {largest:.3g})"
    )


def _why(differing: Iterable[TensorValues]) -> str:
    dtypes = dict.fromkeys(f"{one.left} against {one.right}" for one in differing if one.left != one.right)
    return ", ".join(dtypes) or "−0.0 against 0.0, or NaNs of other bits"


def _rounding(differing: Sequence[TensorValues]) -> str | None:
    """Whether one side is the other rounded, as conversions of dtype leave it."""
    if any(one.statistics is None or one.statistics.unrounded or one.left == one.right for one in differing):
        return None
    dtypes = {(one.left, one.right) for one in differing}
    if len(dtypes) > 1:
        return None
    ((left, right),) = dtypes
    return f"RIGHT is LEFT rounded to {right}" if right in ROUNDED.get(left, ()) else f"LEFT is RIGHT rounded to {left}"


def _moved(values: Values) -> str:
    every, differing = [one.name for one in values.tensors], [one.name for one in values.differing]
    if len(every) == len(differing) and all(place_of(name)[1] is None for name in every):
        return "every tensor moved"
    if len(differing) < len(every) and (only := _only(values)):
        return only
    outside = [name for name in differing if place_of(name)[1] is None]
    clauses = list(_layers(values))
    if outside:
        whole = _whole_parts(outside, every)
        told = _listed(whole) if len(whole) <= MOST_SAID else _tensors(len(outside)) + " outside of layers"
        clauses.append(f"{told} {'moved' if not clauses else 'too'}")
    embeddings = [name for name in every if _is_embedding(name)]
    if embeddings and not set(embeddings) & set(differing):
        clauses.append("embeddings frozen")
    return "; ".join(clauses)


def _only(values: Values) -> str | None:
    """What differs, when that is a few parts outside of layers or the same few tensors of every layer."""
    differing = [one.name for one in values.differing]
    if len(differing) == 1:
        return f"only {differing[0]} differs"
    layered = [name for name in differing if place_of(name)[1] is not None]
    layers = {place_of(name)[:2] for name in layered}
    if layered and len(layered) == sum(place_of(one.name)[:2] in layers for one in values.tensors):
        return None  # whole layers are told by their numbers
    if not layered:
        parts = _whole_parts(differing, [one.name for one in values.tensors])
        few = parts if len(parts) <= MOST_SAID else []
        note = ""
    else:
        patterns = group(differing)
        few = [str(pattern) for pattern in patterns] if len(patterns) <= MOST_SAID else []
        note = ", as merging a LoRA leaves it" if len(layered) == len(differing) and _like_lora(values) else ""
    if not few:
        return None
    verb = "differs" if len(few) == 1 and few[0].endswith(".*") else "differ"
    return f"only {_listed(few)} {verb}{note}"


def _like_lora(values: Values) -> bool:
    """Whether in every layer the same matrices differ, and nothing else, though there is more."""
    names = {one.name for one in values.differing}
    layers_of: dict[str, set[tuple[str, int]]] = {}
    modules = set()
    for one in values.tensors:
        stack, layer, module = place_of(one.name)
        if layer is None or len(one.shape) != 2:
            if one.name in names:
                return False
            continue
        modules.add(module)
        if one.name in names:
            layers_of.setdefault(module, set()).add((stack, layer))
    first, *others = layers_of.values()
    return len(first) > 1 and all(one == first for one in others) and len(layers_of) < len(modules)


def _layers(values: Values) -> Iterator[str]:
    """Of each stack which layers moved, and where the most."""
    differing = {one.name for one in values.differing}
    stacks: dict[str, dict[int, list[TensorValues]]] = {}
    for one in values.tensors:
        stack, layer, _ = place_of(one.name)
        if layer is not None:
            stacks.setdefault(stack, {}).setdefault(layer, []).append(one)
    for stack, layers in stacks.items():
        far = {
            layer: together(moved)
            for layer, tensors in layers.items()
            if (moved := [one for one in tensors if one.name in differing])
        }
        if not far:
            continue
        numbers = sorted(far)
        if len(far) == len(layers):
            told = {1: "the one layer", 2: "both layers"}.get(len(layers), f"all {len(layers)} layers")
        else:
            told = f"{'layers' if len(far) > 1 else 'layer'} {_runs(numbers)} of {len(layers)}"
        of_stack = f" of {stack}" if len(stacks) > 1 and stack else ""
        distances = {layer: sums.relative_l2 or 0.0 for layer, sums in far.items() if sums is not None}
        most = max(distances, key=distances.__getitem__, default=None)
        how = ""
        if most is not None:
            where = f", the most in layer {most}" if len(far) > 1 else ""
            how = f"{where} (relative L2 {distances[most]:.3g})"
        yield f"{told}{of_stack} moved{how}"


def _whole_parts(names: Sequence[str], every: Iterable[str]) -> list[str]:
    """The fewest patterns `part.*` and names that cover these names and none of the others."""
    moved = set(names)
    mixed = {prefix for name in every if name not in moved for prefix in _prefixes(name)}
    parts = {next((p for p in _prefixes(name) if p not in mixed), name): None for name in names}
    return [part if part in moved else f"{part}.*" for part in parts]


def _prefixes(name: str) -> Iterator[str]:
    words = name.split(".")
    return (".".join(words[:end]) for end in range(1, len(words)))


def _is_embedding(name: str) -> bool:
    return place_of(name)[1] is None and any(part in word for word in name.lower().split(".") for part in EMBEDDINGS)


def _runs(numbers: Sequence[int]) -> str:
    """Numbers as `0, 3–5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(words)


def _tensors(count: int) -> str:
    return f"{count:,} tensor" + ("" if count == 1 else "s")


def _of(count: int, total: int) -> str:
    return (
        f"{count:,} of {_tensors(total)}"
        if count < total
        else ("the 1 tensor" if total == 1 else f"all {_tensors(total)}")
    )
