"""Differences by name, shape and dtype."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import ckptmap
from ckptmap.diff import PrefixChange
from ckptmap.errors import CheckpointError


def tensors(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def test_every_kind_of_difference() -> None:
    left = tensors(same=(2,), shape=(2, 3), left=(1,)) | {"dtype": torch.zeros(2), "both": torch.zeros(2)}
    right = tensors(same=(2,), shape=(3, 2), right=(1,)) | {
        "dtype": torch.zeros(2, dtype=torch.bfloat16),
        "both": torch.zeros(3, dtype=torch.float16),
    }
    diff = ckptmap.diff(left, right)
    assert diff.only_left == ("left",)
    assert diff.only_right == ("right",)
    assert [(pair.name, pair.left.shape, pair.right.shape) for pair in diff.shape_differs] == [
        ("shape", (2, 3), (3, 2)),
        ("both", (2,), (3,)),
    ]
    assert [(pair.name, pair.left.dtype, pair.right.dtype) for pair in diff.dtype_differs] == [
        ("dtype", "F32", "BF16"),
        ("both", "F32", "F16"),
    ]
    assert diff.same == ("same",)
    assert diff
    assert str(diff) == (
        "5 differences: 1 only left, 1 only right, 3 on both sides and not the same (2 in shape, 2 in dtype); "
        "1 the same in name, shape and dtype; values were not compared"
    )


def test_equal_inventories_are_no_difference() -> None:
    diff = ckptmap.diff(tensors(a=(1,)), tensors(a=(1,)))
    assert not diff
    assert str(diff) == "the 1 tensor agrees in name, shape and dtype; values were not compared"
    assert str(ckptmap.diff(tensors(a=(1,), b=(1,)), tensors(a=(1,), b=(1,)))).startswith("all 2 tensors agree in name")
    assert str(ckptmap.diff({}, {})) == "neither side has a tensor"
    assert hash(diff) == hash(ckptmap.diff(tensors(a=(1,)), tensors(a=(1,))))


def test_a_mere_prefix_is_told_either_way() -> None:
    bare = tensors(a__weight=(1,), a__bias=(1,), b=(1,))
    prefixed = {f"bert.{name}": tensor for name, tensor in bare.items()}
    assert ckptmap.diff(prefixed, bare).prefix == PrefixChange("bert.", "", 3)
    assert ckptmap.diff(bare, prefixed).prefix == PrefixChange("", "bert.", 3)


def test_one_prefix_in_place_of_another() -> None:
    left = tensors(bert__a__w=(1,), bert__a__b=(1,), bert__c=(1,), cls__w=(1,))
    right = tensors(roberta__a__w=(1,), roberta__a__b=(1,), roberta__c=(1,))
    assert ckptmap.diff(left, right).prefix == PrefixChange("bert.", "roberta.", 3)


def test_layers_are_never_taken_for_a_prefix() -> None:
    left = tensors(h__0__w=(1,), h__0__b=(1,))
    right = tensors(h__1__w=(1,), h__1__b=(1,))
    assert ckptmap.diff(left, right).prefix is None


def test_heads_that_share_names_are_no_prefix() -> None:
    backbone = {f"encoder.{i}": torch.zeros(1) for i in range(9)}
    left = backbone | tensors(lm_head__dense__weight=(1,), lm_head__dense__bias=(1,))
    right = backbone | tensors(classifier__dense__weight=(1,), classifier__dense__bias=(1,))
    assert ckptmap.diff(left, right).prefix is None


def test_unrelated_names_have_no_prefix() -> None:
    assert ckptmap.diff(tensors(a__x=(1,), b__y=(1,)), tensors(c__z=(1,), d__w=(1,))).prefix is None


def test_names_with_other_shapes_are_no_prefix() -> None:
    left = tensors(bert__a__w=(1,), bert__a__b=(2,), bert__c=(3,))
    right = tensors(a__w=(4,), a__b=(5,), c=(6,))
    assert ckptmap.diff(left, right).prefix is None


def test_thousands_of_names_that_end_alike_take_no_time() -> None:
    one = torch.zeros(1)
    left = {f"unet.{block}_{i}.lora_A.weight": one for block in "abc" for i in range(2000)}
    right = {f"text.{block}_{i}.lora_A.weight": one for block in "abc" for i in range(2000)}
    left, right = ckptmap.open_checkpoint(left), ckptmap.open_checkpoint(right)
    started = time.process_time()
    assert ckptmap.diff(left, right).prefix == PrefixChange("unet.", "text.", 6000)
    assert time.process_time() - started < 1


def test_an_index_that_all_names_start_with_may_be_a_prefix() -> None:
    bare = tensors(a__weight=(1,), a__bias=(2,), b=(3,))
    within = {f"0.auto_model.{name}": tensor for name, tensor in bare.items()}
    assert ckptmap.diff(within, bare).prefix == PrefixChange("0.auto_model.", "", 3)
    assert ckptmap.diff(within | tensors(**{"2__w": (1,)}), bare).prefix is None


def test_what_could_not_be_compared_is_said() -> None:
    left = tensors(a=(1,)) | {"s": torch.eye(2).to_sparse()}
    diff = ckptmap.diff(left, left)
    assert not diff
    assert diff.left_out == 2
    assert str(diff) == (
        "the 1 tensor agrees in name, shape and dtype; 2 tensors left out could not be compared; "
        "values were not compared"
    )
    without = ckptmap.open_checkpoint(left, exclude="s")
    assert ckptmap.diff(without, without).left_out == 0


def test_a_name_that_is_tied_to_one_of_both_sides() -> None:
    shared = torch.zeros(2)
    diff = ckptmap.diff({"embed": shared, "head": shared}, {"embed": shared})
    assert diff
    assert diff.tied == (("head", "embed"),)
    assert ckptmap.diff({"embed": shared}, {"head": shared, "embed": shared}).tied == (("head", "embed"),)
    assert ckptmap.diff({"a": shared, "b": shared}, {"c": shared}).tied == ()


def test_a_filter_that_leaves_nothing_of_both_sides_is_an_error() -> None:
    sides = [ckptmap.open_checkpoint(tensors(a=(1,)), include="nope") for _ in range(2)]
    with pytest.raises(CheckpointError, match="no name is left by --include 'nope'; the first name is 'a'"):
        ckptmap.diff(*sides)
    assert ckptmap.diff(sides[0], tensors(a=(1,))).only_right == ("a",)
    assert not ckptmap.diff({}, {})


def test_models_of_other_kinds_have_nothing_in_common_and_it_is_said(fixtures: Path) -> None:
    diff = ckptmap.diff(fixtures / "roberta-cls", fixtures / "gpt2-tied")
    assert str(diff).startswith("no name in common: 41 only left, ")
    assert str(diff).endswith("; different architectures (roberta / gpt2)")


def test_nobody_takes_names_that_agree_for_values_that_do() -> None:
    pair = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    assert "values were not compared" in str(ckptmap.diff(*pair))
    assert "values were not compared" not in str(ckptmap.diff(*pair, values=True))
