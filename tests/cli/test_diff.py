"""`ckptmap diff`: exit code, stdout, stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptmap.__main__ import main


@pytest.fixture
def sides(tmp_path: Path) -> list[str]:
    left = {"same": torch.zeros(2), "shape": torch.zeros(2, 3), "dtype": torch.zeros(2), "old.w": torch.zeros(1)}
    right = {"same": torch.zeros(2), "shape": torch.zeros(3, 2), "dtype": torch.zeros(2).half(), "new": torch.zeros(4)}
    for name, tensors in (("left", left), ("right", right)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return [str(tmp_path / "left.safetensors"), str(tmp_path / "right.safetensors")]


@pytest.mark.parametrize("other", ["roberta-cls-sharded", "roberta-cls-bin"])
def test_the_same_model_in_another_form_is_no_difference(
    fixtures: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(fixtures / "roberta-cls"), str(fixtures / other)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == (
        "all 41 tensors agree in name, shape and dtype; values were not compared (--values reads at most 115 kB)"
    )
    assert err == ""


def test_what_differs_is_shown_by_kind(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *sides]) == 1
    out = capsys.readouterr().out
    assert "only left: 1 tensor, 1 parameter\n- old.w  [1]  F32" in out
    assert "only right: 1 tensor, 4 parameters\n+ new  [4]  F32" in out
    assert "shape differs: 1 tensor\n~ shape  [2, 3] -> [3, 2]" in out
    assert "dtype differs: 1 tensor\n~ dtype  F32 -> F16" in out
    assert out.splitlines()[-1] == (
        "4 differences: 1 only left, 1 only right, 2 on both sides and not the same (1 in shape, 1 in dtype); "
        "1 the same in name, shape and dtype; values were not compared (--values reads at most 16 B)"
    )


def test_names_only(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *sides, "-q"]) == 1
    assert set(capsys.readouterr().out.splitlines()) == {"- old.w", "+ new", "~ shape", "~ dtype"}


def test_json_has_the_documented_fields(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *sides, "--format", "json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["only_left"] == ["old.w"]
    assert result["only_right"] == ["new"]
    assert result["same"] == ["same"]
    assert result["shape_differs"] == [{"name": "shape", "left": [2, 3], "right": [3, 2]}]
    assert result["dtype_differs"] == [{"name": "dtype", "left": "F32", "right": "F16"}]
    assert result["prefix"] is None
    assert result["warnings"] == []


def test_markdown_leads_with_the_summary(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *sides, "--format", "markdown"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("**4 differences: 1 only left, 1 only right")
    assert "### only left: 1 tensor, 1 parameter\n\n| tensor | shape | dtype |\n" in out
    assert "| `shape` | [2, 3] -> [3, 2] |" in out


def test_a_mere_prefix_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a.weight", "a.bias", "b.weight")
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "bare.safetensors")
    save_file({f"bert.{name}": torch.zeros(1) for name in names}, tmp_path / "bert.safetensors")
    assert main(["diff", str(tmp_path / "bert.safetensors"), str(tmp_path / "bare.safetensors")]) == 1
    assert "3 left names would be right names without the prefix `bert.`." in capsys.readouterr().out


def test_filters_hold_for_both_sides(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *sides, "--include", "same"]) == 0
    out = capsys.readouterr().out
    assert "the 1 tensor agrees" in out
    assert "(names on disk, 1 of 4 tensors, filtered)" in out
    assert main(["diff", *sides, "--include", "same", "--format", "json"]) == 0
    side = json.loads(capsys.readouterr().out)["left"]
    assert (side["tensors"], side["filtered_from"], side["part"], side["commit"]) == (1, 4, None, None)
    assert main(["diff", *sides, "--include", "nope"]) == 2
    assert "no name is left by --include 'nope'" in capsys.readouterr().err


def test_a_flag_for_one_side(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(fixtures / "roberta-cls-bin" / "pytorch_model.bin", weights_only=True)
    torch.save({"student": state, "teacher": state}, tmp_path / "both.ckpt")
    argv = ["diff", str(tmp_path / "both.ckpt"), str(fixtures / "roberta-cls"), "-q"]
    assert main(argv) == 2
    assert "--at" in capsys.readouterr().err
    assert main([*argv, "--left-at", "teacher"]) == 0


def test_what_was_left_out_is_not_called_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side, size in (("left", 3), ("right", 5)):
        torch.save({"a": torch.zeros(2), "sparse": torch.eye(size).to_sparse()}, tmp_path / f"{side}.pt")
    argv = ["diff", str(tmp_path / "left.pt"), str(tmp_path / "right.pt")]
    assert main(argv) == 2
    assert "could not be compared" in capsys.readouterr().out
    assert main([*argv, "-q"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "could not be compared" in err


def test_trouble_on_either_side_is_two(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(fixtures / "roberta-cls"), "./nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "./nowhere" in err


def test_tied_tensors_count_once_and_a_tie_to_both_sides_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, other = torch.zeros(3), torch.zeros(5)
    torch.save({"embed": shared, "head": shared, "x": other, "y": other}, tmp_path / "left.pt")
    torch.save({"embed": shared}, tmp_path / "right.pt")
    argv = ["diff", str(tmp_path / "left.pt"), str(tmp_path / "right.pt")]
    assert main(argv) == 1
    out = capsys.readouterr().out
    assert "only left: 3 tensors, 8 parameters" in out
    assert "`head` is one stored tensor with `embed`, which both sides have: its values are on both sides." in out
    assert main([*argv, "--format", "json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["tied"], result["left_out"]) == ([["head", "embed"]], 0)
