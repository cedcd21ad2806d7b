"""The loader's rename rules and conversions, run on names and shapes without torch.

Source for every behaviour here: transformers 5.23.0, `core_model_loading.py` (`WeightTransform` and its subclasses,
`rename_source_key`, `ConversionOps`). What a rule matches is the library's own compiled pattern, carried as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

Shape = tuple[int, ...]
Collected = dict[str, list[Shape]]
"""Shapes gathered for one target, by the source pattern that matched."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a class's mapping.

    Args:
        kind: `rename`; `group`, renames that only count once their first one has matched; `offset`, a rename that
            shifts the index it captures; `convert`, whose tensors go through `operations`.
        sources: Patterns as the library spells them.
        targets: What they become.
        pattern: The compiled form of all sources, one named group a source.
        scope: Only names below this submodule, if any.
        base: Prefix that the scope may carry in front.
        offset: For `offset`: what is added to the index.
        operations: For `convert`: name and arguments of each operation, in turn.
    """

    kind: Literal["rename", "group", "offset", "convert"]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    pattern: str
    scope: str | None = None
    base: str | None = None
    offset: int = 0
    operations: tuple[tuple[str, dict[str, Any]], ...] = ()


class Renamer:
    """Renames checkpoint names as one load does; a fresh one for each load, since some rules remember."""

    def __init__(self, rules: Collection[Rule], base_prefix: str, expected: Collection[str]) -> None:
        compiled = {rule.pattern: re.compile(rule.pattern) for rule in rules}
        self._renames = [(rule, compiled[rule.pattern]) for rule in rules if rule.kind != "convert"]
        self._converters = [(rule, compiled[rule.pattern]) for rule in rules if rule.kind == "convert"]
        self._active: set[int] = set()
        self._base_prefix = base_prefix
        self._expected = expected

    def rename(self, name: str) -> tuple[str, Rule | None, str | None]:
        """The name in memory, with the converter that takes it and the source pattern by which it does."""
        renamed = name
        for rule, pattern in self._renames:
            renamed, _ = self._apply(rule, pattern, renamed)
        converter, source = None, None
        for rule, pattern in self._converters:
            renamed, source = self._apply(rule, pattern, renamed)
            if source is not None:
                converter = rule
                break
        renamed = self._with_or_without_base(renamed)
        if renamed not in self._expected and name in self._expected:
            return self._with_or_without_base(name), None, None
        return renamed, converter, source

    def _with_or_without_base(self, name: str) -> str:
        prefix = self._base_prefix
        if name.startswith(prefix):
            bare = re.sub(f"^{prefix}.", "", name, count=1)
            if bare in self._expected:
                return bare
        longer = f"{prefix}.{name}"
        return longer if longer in self._expected else name

    def _apply(self, rule: Rule, pattern: re.Pattern[str], name: str) -> tuple[str, str | None]:
        scope = ""
        if rule.scope is not None:
            inner = f"{rule.scope}." if rule.scope else ""
            outer = f"{rule.base}." if rule.base else ""
            if name.startswith(outer + inner):
                scope = outer + inner
            elif name.startswith(inner):
                scope = inner
            else:
                return name, None
        key = name.removeprefix(scope)
        match = pattern.search(key)
        if match is None:
            return name, None
        group = next(group for group, text in match.groupdict().items() if text is not None)
        index = int(group[1:])
        first_inner = pattern.groupindex[group] + 1
        if rule.kind == "group":
            if index == 0:
                self._active.add(id(rule))
            elif id(rule) not in self._active:
                return name, None
            replacement = re.sub(
                r"\\(\d+)", lambda found: match.group(first_inner - 1 + int(found[1])), rule.targets[index]
            )
        else:
            replacement = rule.targets[0]
            if r"\1" in replacement:
                captured = match.group(first_inner)
                if rule.kind == "offset":
                    captured = str(int(captured) + rule.offset)
                replacement = replacement.replace(r"\1", captured)
        # The library replaces the first place where the matched text stands, not the match itself.
        return scope + key.replace(match.group(0), replacement, 1), rule.sources[index]


def convert(rule: Rule, target: str, collected: Collected, expected: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes that a converter makes of what was collected for its first target, by full name.

    Raises:
        ValueError: An operation would fail, and so the load.
    """
    shapes: dict[str, Any] = dict(collected)
    for name, arguments in rule.operations:
        shapes = OPERATIONS[name](shapes, rule, target, expected, **arguments)
    full = target.replace("*.", "0.")
    parts = next((full.partition(key) for key in shapes if key in full), None)
    if parts is not None:
        prefix, _, suffix = parts
        shapes = {prefix + key + suffix: shape for key, shape in shapes.items()}
    return {key: shape[0] if isinstance(shape, list) else shape for key, shape in shapes.items()}


def _one(shapes: Mapping[str, Any]) -> Shape:
    if len(shapes) != 1:
        raise ValueError("several tensors meet where one is expected")
    shape = next(iter(shapes.values()))
    return tuple(shape[0] if isinstance(shape, list) else shape)


def _only_target(rule: Rule) -> str:
    if len(rule.targets) != 1:
        raise ValueError("several targets where one is expected")
    return rule.targets[0]


def _resized(shape: Shape, dim: int, size: int) -> Shape:
    dim %= len(shape)
    return (*shape[:dim], size, *shape[dim + 1 :])


def _chunk(
    shapes: Mapping[str, Any], rule: Rule, target: str, expected: Mapping[str, Shape], *, dim: int, shards: int | None
) -> dict[str, Shape]:
    shape = _one(shapes)
    targets = rule.targets
    if shards is not None:
        targets = tuple(_only_target(rule).replace("*", str(index)) for index in range(shards))
    size = shape[dim]
    # torch.chunk rounds the size of a chunk up; the last may be smaller, and there may be fewer.
    step = max(ceil(size / len(targets)), 1)
    sizes = [min(step, size - start) for start in range(0, max(size, 1), step)]
    return {name: _resized(shape, dim, size) for name, size in zip(targets, sizes, strict=False)}


def _split(
    shapes: Mapping[str, Any], rule: Rule, target: str, expected: Mapping[str, Shape], *, dim: int
) -> dict[str, Shape]:
    shape = _one(shapes)
    sizes = [expected[target.replace(rule.targets[0], name)][dim] for name in rule.targets]
    if sum(sizes) != shape[dim]:
        raise ValueError(f"{shape[dim]} rows cannot be split into {sizes}")
    return {name: _resized(shape, dim, size) for name, size in zip(rule.targets, sizes, strict=True)}


def _concatenate(
    shapes: Mapping[str, Any], rule: Rule, target: str, expected: Mapping[str, Shape], *, dim: int
) -> dict[str, Shape]:
    parts: list[Shape] = []
    for source in rule.sources:
        if source in shapes:
            found = shapes[source]
            parts += found if isinstance(found, list) else [found]
    return {_only_target(rule): _concatenated(parts, dim)}


def _concatenated(parts: list[Shape], dim: int) -> Shape:
    if not parts:
        raise ValueError("nothing to concatenate")
    if len({_resized(shape, dim, 0) for shape in parts}) != 1:
        raise ValueError(f"shapes {parts} cannot be concatenated along axis {dim}")
    return _resized(parts[0], dim, sum(shape[dim] for shape in parts))


def _stacked(parts: list[Shape], dim: int) -> Shape:
    if len(set(parts)) != 1:
        raise ValueError("tensors of unequal shapes cannot be stacked")
    shape = parts[0]
    dim %= len(shape) + 1
    return (*shape[:dim], len(parts), *shape[dim:])


def _merge_modulelist(
    shapes: Mapping[str, Any], rule: Rule, target: str, expected: Mapping[str, Shape], *, dim: int
) -> dict[str, Shape]:
    merged = {}
    for source, parts in shapes.items():
        name = source if len(shapes) > 1 else _only_target(rule)
        merged[name] = _stacked(parts, dim) if isinstance(parts, list) else parts
    return merged


def _interleave(
    shapes: Mapping[str, Any], rule: Rule, target: str, expected: Mapping[str, Shape], *, dim: int
) -> dict[str, Shape]:
    shape = next(iter(shapes.values()))
    shape = tuple(shape[0] if isinstance(shape, list) else shape)
    if shape[dim] % 2:
        raise ValueError(f"an odd size, {shape[dim]}, cannot be interleaved")
    return {rule.targets[0]: shape}


def _transpose(
    shapes: Mapping[str, Any],
    rule: Rule,
    target: str,
    expected: Mapping[str, Shape],
    *,
    dim0: int,
    dim1: int,
    check_dims: bool,
) -> dict[str, Shape]:
    shape = _one(shapes)
    if len(rule.targets) > 1:
        if len(rule.sources) != 1:
            raise ValueError("several sources meet several targets")
        name = rule.sources[0]
    else:
        name = rule.targets[0]
    if check_dims and shape == expected[target]:
        return {name: shape}
    swapped = list(shape)
    swapped[dim0], swapped[dim1] = shape[dim1], shape[dim0]
    return {name: tuple(swapped)}


def _permute_for_rope(
    shapes: Mapping[str, Any],
    rule: Rule,
    target: str,
    expected: Mapping[str, Shape],
    *,
    heads: int,
    names: list[str] | None,
) -> dict[str, Any]:
    permuted: dict[str, Any] = {}
    for source, found in shapes.items():
        if (len(rule.targets) > 1) != (len(rule.sources) > 1):
            name = source
        elif len(rule.targets) == 1:
            name = rule.targets[0]
        else:
            raise ValueError("several sources meet several targets")
        permuted[name] = found
        if names is None or any(part in source for part in names):
            if isinstance(found, list) and len(found) > 1:
                raise ValueError("rotary rows are permuted in one tensor at a time")
            shape = found[0] if isinstance(found, list) else found
            if len(shape) in (1, 2) and shape[0] != heads * (shape[0] // heads // 2) * 2:
                raise ValueError(f"{shape[0]} rows are not {heads} heads of an even size")
            permuted[name] = shape
    return permuted


def _fuse_and_split_experts(
    shapes: Mapping[str, Any],
    rule: Rule,
    target: str,
    expected: Mapping[str, Shape],
    *,
    stack_dim: int,
    concat_dim: int,
) -> dict[str, Shape]:
    halves: dict[str, list[Shape]] = {name: [] for name in rule.targets}
    for source in rule.sources:
        if source not in shapes:
            raise ValueError(f"no tensors for {source}")
        parts = shapes[source]
        step = ceil(len(parts) / len(rule.targets))
        for index, name in enumerate(rule.targets):
            halves[name].append(_stacked(parts[index * step : (index + 1) * step], stack_dim))
    return {name: _concatenated(parts, concat_dim) for name, parts in halves.items()}


OPERATIONS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "Chunk": _chunk,
    "Split": _split,
    "Concatenate": _concatenate,
    "MergeModulelist": _merge_modulelist,
    "Interleave": _interleave,
    "Transpose": _transpose,
    "PermuteForRope": _permute_for_rope,
    "ErnieFuseAndSplitTextVisionExperts": _fuse_and_split_experts,
}
"""Every operation of the built-in table, by its class name; a mapping with any other takes the library's own road."""
