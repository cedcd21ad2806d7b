"""`ckptmap export`: exit code, stdout, stderr, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptmap.__main__ import main


@pytest.fixture
def left(tmp_path: Path) -> str:
    save_file({"a": torch.zeros(4, 2), "c": torch.zeros(1)}, tmp_path / "left.safetensors")
    return str(tmp_path / "left.safetensors")


@pytest.fixture
def rules(tmp_path: Path) -> str:
    (tmp_path / "r.ckptmap").write_text("a <-> b : (h d) m <-> (d h) m\nc <-> d\n")
    return str(tmp_path / "r.ckptmap")


def test_written_to_stdout_or_a_file(left: str, rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", rules, left, "--to", "python", "--size", "h=2"]) == 0
    text = capsys.readouterr().out
    assert "def left_to_right" in text
    out = tmp_path / "out.py"
    argv = ["export", rules, left, "--to", "python", "--size", "h=2", "-o", str(out)]
    assert main(argv) == 0
    assert out.read_text() == text
    assert main(argv) == 2
    assert capsys.readouterr().err == f"ckptmap: {out}: exists; --force overwrites\n"
    out.write_text("")
    assert main([*argv, "--force"]) == 0
    assert out.read_text() == text


def test_what_cannot_be_said_is_1_and_trouble_is_2(
    left: str, rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert main(["export", rules, left, "--to", "key-mapping", "--size", "h=2", "-o", str(out)]) == 1
    assert "key-mapping cannot say the rule in line 1" in capsys.readouterr().err
    assert not out.exists()
    assert main(["export", rules, "--to", "key-mapping"]) == 2
    assert "Give a checkpoint of the left side" in capsys.readouterr().err
    assert main(["export", rules, left, "--to", "python"]) == 2
    assert "is unknown; give --size" in capsys.readouterr().err
    assert main(["export", rules, left, "--to", "gguf"]) == 2
    assert main(["export", str(tmp_path / "none.ckptmap"), left, "--to", "json"]) == 2
    assert main(["export", rules, "--to", "json", "-o", str(tmp_path / "no" / "folder.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_json_and_the_way_back(left: str, rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", rules, "--to", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["statements"][1]["left"] == ["c"]
    assert main(["export", rules, "--to", "json", "--back"]) == 0
    assert json.loads(capsys.readouterr().out)["statements"][1]["left"] == ["d"]
