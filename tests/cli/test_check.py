"""`ckptmap check`: exit code, stdout, stderr."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptmap.__main__ import main


@pytest.fixture
def left(tmp_path: Path) -> str:
    save_file({"a": torch.zeros(4, 2), "c": torch.zeros(1)}, tmp_path / "left.safetensors")
    return str(tmp_path / "left.safetensors")


def rules(tmp_path: Path, text: str) -> str:
    (tmp_path / "r.ckptmap").write_text(text)
    return str(tmp_path / "r.ckptmap")


def test_it_holds(tmp_path: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = rules(tmp_path, "a <-> b : (h d) m <-> (d h) m\nc <-> _\n")
    assert main(["check", path]) == 0
    assert capsys.readouterr().out == "2 rules; no two can meet in one tensor\n"
    assert main(["check", path, "--size", "h=2", left]) == 0
    assert "2 left tensors <-> 1 right tensor (computed)" in capsys.readouterr().out


def test_every_problem_is_shown(tmp_path: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = rules(tmp_path, "a <-> b : (h d) m <-> (d h) m\n")
    assert main(["check", path, left]) == 1
    out = capsys.readouterr().out
    assert "the size of d, h is unknown; give --size" in out
    assert "no rule covers left tensor c" in out
    assert out.endswith("2 problems\n")
    assert main(["check", rules(tmp_path, "a.{i} <-> b\nx")]) == 1
    assert capsys.readouterr().out.endswith("2 problems\n")


def test_a_guess_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", rules(tmp_path, "guess a <-> b\n")]) == 1
    assert "a <-> b is a guess. Delete the word `guess` once you have confirmed it." in capsys.readouterr().out


def test_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rules(tmp_path, "a <-> b\n")
    assert main(["check", str(tmp_path / "none")]) == 2
    assert main(["check", path, "--size", "h"]) == 2
    assert "--size h: not a length. Write --size r=2." in capsys.readouterr().err
    assert main(["check", path, str(tmp_path / "none.safetensors")]) == 2
    assert main(["check", path, "--config", str(tmp_path / "none.json")]) == 2


def test_markdown(tmp_path: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = rules(tmp_path, "a <-> b : (h d) m <-> (d h) m\nc <-> _\n")
    assert main(["check", path, "--format", "markdown"]) == 0
    assert capsys.readouterr().out == f"**{path}: holds**\n\n2 rules; no two can meet in one tensor\n"
    assert main(["check", path, left, "--format", "markdown"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"**{path}: 1 problem**"
    assert lines[-1].startswith(f"| {path}:1: a: the size")
    assert "give --size" in lines[-1]


def test_several_files_stand_by_themselves(tmp_path: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.ckptmap", tmp_path / "bad.ckptmap"
    good.write_text("a <-> b\n")
    bad.write_text("a.{i} <-> b\nguess x <-> y\n")
    assert main(["check", str(good), str(good), str(good), str(good)]) == 0
    assert main(["check", str(good), str(bad), "-q"]) == 1
    out = capsys.readouterr().out
    assert f"{bad}:1:" in out
    assert main(["check", str(good), left, left, left]) == 2
    assert main(["check", str(good), str(good), "--format", "json"]) == 2
