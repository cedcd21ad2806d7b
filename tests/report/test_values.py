"""What a page is told of values: cells of layers and modules, and a sentence for each tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import ckptmap
from ckptmap.report.html.diff import diff_page

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def left() -> Tensors:
    random = torch.Generator().manual_seed(3)
    names = [f"blocks.{layer}.{part}.weight" for layer in (10, 2, 0) for part in ("query", "up")]
    return {name: torch.randn(3, 4, generator=random) for name in [*names, "embed.weight", "head.weight"]}


def page(folder: Path, left: Tensors, right: Tensors, **flags: Any) -> dict[str, Any]:
    for name, tensors in (("left", left), ("right", right)):
        save_file(tensors, folder / f"{name}.safetensors")
    found = ckptmap.diff(folder / "left.safetensors", folder / "right.safetensors", values=True, **flags)
    return diff_page(found, found.left, found.right)


def states(shown: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """For each name of the right its state and what is said of it."""
    matching, names, last = shown["matching"], [], ""
    for shared, rest in zip(matching["names"][::2], matching["names"][1::2], strict=True):
        last = last[:shared] + rest
        names.append(last)
    links = matching["links"]
    return {
        names[matching["sides"][1]["names"][right]]: (matching["states"][state]["label"], matching["texts"][text])
        for right, state, text in zip(links["right"], links["state"], links["text"], strict=True)
        if right != []
    }


def test_cells_are_distances_of_layers_in_order(tmp_path: Path, left: Tensors) -> None:
    right = {name: tensor.clone() for name, tensor in left.items()}
    right["blocks.2.up.weight"] *= 1.25
    right["head.weight"] *= 2
    del right["blocks.10.up.weight"]
    shown = page(tmp_path, left, right)
    layers, outside = shown["heat"]
    assert layers["rows"] == ["layer 0", "layer 2", "layer 10"]
    assert layers["columns"] == ["query", "up"]
    assert layers["cells"] == [[0, 0], [0, pytest.approx(0.25)], [0, None]]
    assert dict(zip(outside["rows"], outside["cells"], strict=True)) == {"embed": [0], "head": [pytest.approx(1.0)]}
    told = states(shown)
    assert told["blocks.2.up.weight"][0] == "values differ"
    assert "12 of 12 elements changed" in told["blocks.2.up.weight"][1]
    assert told["blocks.2.query.weight"] == ("same", "every bit is equal")
    assert "values" in shown["headline"]


def test_what_has_no_distance_is_not_called_equal(tmp_path: Path, left: Tensors) -> None:
    right = {name: tensor.clone() for name, tensor in left.items()}
    left["blocks.0.up.weight"][0, 0], right["blocks.0.up.weight"][0, 0] = 0.0, -0.0
    shown = page(tmp_path, left, right)
    assert shown["heat"][0]["cells"][0] == [0, "≠"]
    assert states(shown)["blocks.0.up.weight"] == ("values differ", "other bits, the same numbers")


def test_within_the_tolerance_is_the_same(tmp_path: Path, left: Tensors) -> None:
    right = {name: tensor + 1e-6 for name, tensor in left.items()}
    shown = page(tmp_path, left, right, atol=1e-3)
    assert shown["heat"] == []
    assert {state for state, _ in states(shown).values()} == {"same"}
    right["head.weight"] += 1
    assert "0 is equal within the tolerance" in page(tmp_path, left, right, atol=1e-3)["heat"][0]["note"]


def test_through_rules_both_sides_have_the_rights_names(tmp_path: Path) -> None:
    left = {"q": torch.ones(2, 3), "k": torch.ones(2, 3), "gone": torch.zeros(1)}
    rules = ckptmap.Rules.parse("ckptmap 1\nq, k <-> qk : a m, b m <-> [a + b] m\ngone <-> _\n")
    shown = page(tmp_path, left, {"qk": torch.ones(4, 3)}, rules=rules)
    assert shown["matching"]["sides"][0]["label"].endswith("left.safetensors, through the rules")
    assert states(shown)["qk"] == ("same", "every bit is equal")
    assert shown["matching"]["links"]["left"][0] == 0
