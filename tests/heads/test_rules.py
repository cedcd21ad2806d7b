"""The renaming and the shape operations beside the library's own, for every mapping that it has."""

from __future__ import annotations

import itertools
import random
import re
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.conversion_mapping import _build_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    ConversionOps,
    ErnieFuseAndSplitTextVisionExperts,
    GroupWeightRename,
    Inkling2IndexOffsetWeightRename,
    Interleave,
    MergeModulelist,
    PermuteForRope,
    PrefixChange,
    Split,
    Transpose,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    dot_natural_key,
    rename_source_key,
)

from ckptmap.heads.library import _rule
from ckptmap.heads.prediction import natural_order
from ckptmap.heads.rules import OPERATIONS, Renamer, Shape, convert

MAPPINGS: dict[str, list[WeightTransform]] = _build_checkpoint_conversion_mapping()
CONVERTERS = {
    f"{name}-{index}": transform
    for name, transforms in MAPPINGS.items()
    for index, transform in enumerate(transforms)
    if isinstance(transform, WeightConverter)
}
CONFIG = SimpleNamespace(
    num_attention_heads=2,
    vision_config=SimpleNamespace(num_attention_heads=3),
    get_text_config=lambda: SimpleNamespace(parts=3, many=7),
)
SCOPES = ((None, None), ("encoder", "model"), ("", "model"), ("encoder", ""))
PREFIXES = ("", "model.", "encoder.", "model.encoder.", "layers.1.")
SUFFIXES = ("", ".weight", ".0.bias", "_scale")
ROUNDS = 60

MADE: dict[str, tuple[Any, ...]] = {
    "chunk": ("a.qkv", ["a.q", "a.k", "a.v"], [Chunk(0)]),
    "chunk the last axis": ("a.qkv", ["a.q", "a.k"], [Chunk(-1)]),
    "chunk by a config": ("a.parts", "a.part.*", [Chunk(0, "parts")]),
    "chunk more than there is": ("a.parts", "a.part.*", [Chunk(1, "many")]),
    "split": ("a.qkv", ["a.q", "a.k", "a.v"], [Split(0)]),
    "split the second axis": ("a.qkv", ["a.q", "a.k"], [Split(1)]),
    "concatenate": (["a.q", "a.k", "a.v"], "a.qkv", [Concatenate(0)]),
    "concatenate the last axis": (["a.q", "a.k"], "a.qkv", [Concatenate(-1)]),
    "stack": ("e.*.up", "e.up", [MergeModulelist(0)]),
    "stack along the second axis": ("e.*.up", "e.up", [MergeModulelist(1)]),
    "stack along the last axis": ("e.*.up", "e.up", [MergeModulelist(-1)]),
    "stack and concatenate": (["e.*.gate", "e.*.up"], "e.gate_up", [MergeModulelist(0), Concatenate(1)]),
    "stack and transpose": ("e.*.up", "e.up", [MergeModulelist(0), Transpose(1, 2)]),
    "transpose": ("a.w", "b.w", [Transpose(0, 1)]),
    "transpose the last axes": ("a.w", "b.w", [Transpose(-1, -2)]),
    "transpose where needed": ("a.w", "b.w", [Transpose(0, 1, check_dims=True)]),
    "transpose and chunk": ("a.w", ["b.w", "b.v"], [Transpose(0, 1), Chunk(0)]),
    "interleave": ("a.w", "b.w", [Interleave(0)]),
    "interleave inversely": ("a.w", "b.w", [Interleave(1, inverse=True)]),
    "permute": ("a.w", "b.w", [PermuteForRope()]),
    "permute by a part's config": ("a.w", "b.w", [PermuteForRope("vision_config")]),
    "chunk and permute": ("a.qkv", ["a.q", "a.k", "a.v"], [Chunk(0), PermuteForRope(permute_layer_names=["a.q"])]),
    "permute and concatenate": (["a.q", "a.k"], "a.qk", [PermuteForRope(permute_layer_names=["a.q"]), Concatenate(0)]),
    "fuse and split": (["e.*.gate", "e.*.up"], ["t.gate_up", "v.gate_up"], [ErnieFuseAndSplitTextVisionExperts()]),
    "fuse and split elsewhere": ("e.*.gate", ["t.gate", "v.gate"], [ErnieFuseAndSplitTextVisionExperts(1, 0)]),
}
"""Converters for arguments that the library's own table does not have today."""


def instances(pattern: str) -> list[str]:
    """Texts that a pattern may match; plausible, and not sure to be complete."""
    text = re.sub(r"\(\?<?[=!](?:[^()]|\([^()]*\))*\)", "", pattern).replace("*.", "7.")
    texts = [text]
    while any("(" in one for one in texts):
        spread = []
        for one in texts:
            group = re.search(r"\((?:\?:)?([^()]*)\)\??", one)
            options = group[1].split("|") if group else [""]
            spread += [one[: group.start()] + option + one[group.end() :] if group else one for option in options[:4]]
        texts = spread[:8]
    filled = []
    for one in texts:
        for number, rest in (("0", "layers.0.attention.weight"), ("11", "x")):
            some = re.sub(r"\\d\+?|\[0-9\]\+?", number, one)
            some = re.sub(r"\[\^\.\]\+|\\w\+|\[[^\]]*\]\+?", "word", some)
            some = re.sub(r"(?<!\\)\.[+*]\??", rest, some)
            filled.append(some.replace("\\", "").strip("^$").replace("?", ""))
    return list(dict.fromkeys(filled))


def plausible_names(transforms: list[WeightTransform]) -> list[str]:
    """Names that the patterns of a mapping match, that they nearly match, and that they make."""
    texts = [
        text
        for transform in transforms
        for pattern in (*transform.source_patterns, *transform._original_target_patterns)
        for text in instances(pattern)
    ]
    suffixes = itertools.cycle(SUFFIXES)
    # Coprime numbers of prefixes and suffixes: every prefix meets every suffix.
    names = {prefix + text + next(suffixes) for text in texts for prefix in PREFIXES}
    return sorted(names, key=dot_natural_key)


def by_the_library(
    names: list[str], transforms: list[WeightTransform], prefix: str, expected: dict[str, Shape]
) -> list[Any]:
    """What the loader makes of names. Source: `convert_and_load_state_dict_in_model`."""
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    converter_of = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    found = []
    for name in names:
        renamed, source = rename_source_key(name, renamings, converters, prefix, expected)
        if renamed not in expected and name in expected:
            renamed, source = rename_source_key(name, [], [], prefix, expected)
        targets = tuple(converter_of[source].target_patterns) if source is not None else None
        found.append((name, renamed, source, targets))
    return found


def by_us(names: list[str], transforms: list[WeightTransform], prefix: str, expected: dict[str, Shape]) -> list[Any]:
    renamer = Renamer([_rule(transform, CONFIG) for transform in transforms], prefix, expected)
    found = []
    for name in names:
        renamed, rule, source = renamer.rename(name)
        found.append((name, renamed, source, rule.targets if rule else None))
    return found


def compare_renaming(transforms: list[WeightTransform], names: list[str], seed: str) -> list[Any]:
    """Rename with a model that has none of the names, and with some that have some; returns the first."""
    bare = by_the_library(names, deepcopy(transforms), "model", {})
    assert by_us(names, transforms, "model", {}) == bare
    chosen = random.Random(seed)
    for prefix in ("model", "", "encoder"):
        expected: dict[str, Shape] = {}
        for name, renamed, *_ in bare:
            spellings = (name, renamed, f"{prefix}.{renamed}", renamed.removeprefix(f"{prefix}."), f"{prefix}.{name}")
            if chosen.random() < 0.5:
                expected[chosen.choice(spellings)] = ()
        assert by_us(names, transforms, prefix, expected) == by_the_library(
            names, deepcopy(transforms), prefix, expected
        )
    return bare


@pytest.mark.parametrize("model_type", MAPPINGS)
def test_every_mapping_of_the_library_renames_alike(model_type: str) -> None:
    names = plausible_names(MAPPINGS[model_type])
    for scope, base in SCOPES:
        transforms = deepcopy(MAPPINGS[model_type]) + deepcopy(MAPPINGS["legacy"])
        for transform in transforms[: len(MAPPINGS[model_type])]:
            transform.scope_prefix, transform.base_model_prefix = scope, base
        renamed = compare_renaming(transforms, names, f"{model_type} {scope} {base}")
        assert any(source or name != new for name, new, source, _ in renamed)


def test_the_names_tried_reach_nearly_every_rule_of_the_library() -> None:
    patterns = [
        (transform, names)
        for transforms in MAPPINGS.values()
        for names in [plausible_names(transforms)]
        for transform in transforms
    ]
    reached = sum(any(transform.compiled_sources.search(name) for name in names) for transform, names in patterns)
    assert reached >= 0.98 * len(patterns)


@pytest.mark.parametrize(
    "transforms",
    [
        [WeightRenaming("a", "b"), WeightRenaming("b", "c")],
        [WeightRenaming(r"^net\.", ""), WeightRenaming(r"(q|k)_lin", r"\1_proj")],
        [WeightRenaming("", "x")],
        [WeightRenaming(["first", "second_first"], "third")],
        [WeightRenaming(r"layer\.(\d+)\.(?:in|out)", r"block.\1.io")],
        [PrefixChange(prefix_to_add="model"), PrefixChange(prefix_to_remove="net")],
        [PrefixChange(prefix_to_add="inner", model_prefix="model")],
        [GroupWeightRename(["norm0", "norm1"], ["norm1", "norm2"])],
        [GroupWeightRename([r"n0\.(\w+)", r"n1\.(\w+)"], [r"n1.\1", r"n2.\1"])],
        [Inkling2IndexOffsetWeightRename(r"queries\.(\d+)\.", r"layers.\1.", 1)],
        [WeightConverter("qkv", ["q", "k", "v"], [Chunk(0)]), WeightConverter("q", "r", [Transpose(0, 1)])],
        [WeightRenaming("old", "qkv"), WeightConverter(["gate", "up"], "gate_up", [Concatenate(0)])],
    ],
    ids=str,
)
def test_rules_of_every_kind_rename_alike(transforms: list[WeightTransform]) -> None:
    texts = ["a", "b", "q_lin", "k_lin", "first", "second_first", "layer.3.in", "layer.12.out", "norm0", "norm1"]
    texts += ["n0.w", "n1.w", "qkv", "q", "gate", "up", "old", "queries.0.w", "model.inner.x", "net.net.a", "inner.a"]
    names = sorted(
        {p + t + s for t, p, s in itertools.product(texts, (*PREFIXES, "net."), SUFFIXES)}, key=dot_natural_key
    )
    compare_renaming(transforms, names, "kinds")


def test_names_are_gone_through_in_the_loader_s_order() -> None:
    chosen = random.Random(0)
    names = [
        ".".join(
            chosen.choice(["0", "2", "10", "a", "a2", "a10", "b", "010", "a_1b"]) for _ in range(chosen.randint(1, 4))
        )
        for _ in range(2000)
    ]
    assert sorted(names, key=natural_order) == sorted(names, key=dot_natural_key)


class Model:
    """Answers the one question that operations ask of a model."""

    def __init__(self, shapes: dict[str, Shape]) -> None:
        self.shapes = shapes

    def get_parameter(self, name: str) -> torch.Tensor:
        return torch.empty(self.shapes[name], device="meta")


def outcome(make: Any, errors: Any) -> dict[str, Shape] | str:
    try:
        return {name: tuple(shape) for name, shape in make().items()}
    except errors:
        return "raises"


def library_shapes(
    converter: WeightConverter, target: str, collected: dict[str, list[Shape]], expected: dict[str, Shape]
) -> dict[str, Shape]:
    fresh = deepcopy(converter)
    for pattern, shapes in collected.items():
        fresh.collected_tensors[pattern] = [torch.empty(shape, device="meta") for shape in shapes]
    made = fresh.convert(target, model=Model(expected), config=CONFIG)
    return {name: (found[0] if isinstance(found, list) else found).shape for name, found in made.items()}


def compare_conversion(converter: WeightConverter, seed: str) -> set[bool]:
    """Convert random shapes both ways; returns whether some conversions succeed, and whether some raise."""
    rule = _rule(converter, CONFIG)
    chosen = random.Random(seed)
    seen = set()
    for _ in range(ROUNDS):
        rank = chosen.choice([1, 2, 2, 2, 3])
        size = chosen.choice([2, 3, 4, 6, 12])
        shape = tuple(chosen.choice([size, size, chosen.randint(1, 12)]) for _ in range(rank))

        def near(shape: Shape = shape) -> Shape:
            if chosen.random() < 0.9:
                return shape
            return tuple(chosen.choice([size, chosen.randint(1, 12)]) for size in shape)[: chosen.randint(1, 3)]

        sources = [one for one in rule.sources if chosen.random() < 0.95] or [rule.sources[0]]
        count = chosen.randint(1, 4)
        collected = {
            one: [near() for _ in range(count if "*" in one or chosen.random() < 0.1 else 1)] for one in sources
        }
        if chosen.random() < 0.05:
            # A name in memory and one of the file both end at the same target.
            collected["in.memory"] = [near()]
        target = "model.layers.0." + rule.targets[0].replace(r"\1", "3").removeprefix("^")
        expected = {target.replace(rule.targets[0], one): near() for one in rule.targets}
        expected[target] = chosen.choice([near(), shape, shape[::-1]])
        if len(rule.targets) > 1 and chosen.random() < 0.7:
            # Sizes that add up, as `Split` wants them.
            for axis in range(rank):
                total = shape[axis]
                if total >= len(rule.targets):
                    parts = [1] * (len(rule.targets) - 1)
                    for one, part in zip(rule.targets, [*parts, total - sum(parts)], strict=True):
                        name = target.replace(rule.targets[0], one)
                        expected[name] = (*shape[:axis], part, *shape[axis + 1 :])
                    if chosen.random() < 0.5:
                        break
        theirs = outcome(lambda: library_shapes(converter, target, collected, expected), Exception)  # noqa: B023
        ours = outcome(
            lambda: convert(rule, target, deepcopy(collected), expected),  # noqa: B023
            (ValueError, IndexError, KeyError, ZeroDivisionError),
        )
        assert ours == theirs, (converter, target, collected, expected)
        seen.add(theirs != "raises")
    return seen


@pytest.mark.parametrize("name", CONVERTERS)
def test_every_conversion_of_the_library_makes_the_same_shapes(name: str) -> None:
    assert True in compare_conversion(CONVERTERS[name], name)


@pytest.mark.parametrize("name", MADE)
def test_operations_make_the_same_shapes_or_both_raise(name: str) -> None:
    sources, targets, operations = MADE[name]
    seen = compare_conversion(WeightConverter(sources, targets, operations), name)
    assert True in seen


def test_every_operation_of_the_table_is_known() -> None:
    used = {type(operation).__name__ for converter in CONVERTERS.values() for operation in converter.operations}
    assert used <= set(OPERATIONS)
    for name in OPERATIONS:
        assert any(cls.__name__ == name for cls in ConversionOps.__subclasses__())
