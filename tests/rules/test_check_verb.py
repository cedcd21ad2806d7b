"""`ckptmap check` for programs, and for scripts that want problems alone."""

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


def rules(tmp_path: Path, text: str) -> str:
    (tmp_path / "r.ckptmap").write_text(text)
    return str(tmp_path / "r.ckptmap")


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, object]]:
    code = main(["check", *argv, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_json_of_a_file_that_holds(tmp_path: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = rules(tmp_path, "tie right b = d\na <-> b : x m <-> m x\nc <-> _\nmaybe _ <-> e\n")
    assert answer(capsys, path) == (0, {"holds": True, "problems": [], "rules": 3, "coverage": None})
    code, fields = answer(capsys, path, left)
    assert code == 0
    assert fields["coverage"] == {
        "left": 2,
        "right": 2,
        "computed": True,
        "equations": 2,
        "renames": 0,
        "left_ties": [],
        "right_ties": [["d", "b"]],
        "left_only": ["c"],
        "right_only": [],
    }


def test_json_of_problems_has_their_places(tmp_path: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, fields = answer(capsys, rules(tmp_path, "a.{i} <-> b\n\n  x\n"))
    assert code == 1
    assert fields["holds"] is False
    assert [(p["line"], p["column"]) for p in fields["problems"]] == [(1, 1), (3, 3)]  # type: ignore[attr-defined]
    code, fields = answer(capsys, rules(tmp_path, "a <-> b : (h d) m <-> (d h) m\nguess z <-> y\n"), left)
    assert code == 1
    told = {(p["line"], p["column"]): p["text"] for p in fields["problems"]}  # type: ignore[attr-defined]
    assert told[1, None].startswith("a: the size of d, h is unknown")
    assert told[None, None].startswith("no rule covers left tensor c [1]")
    assert told[2, 1].startswith("z <-> y is a guess.")


def test_quiet_is_problems_alone(tmp_path: Path, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", rules(tmp_path, "a <-> b\nc <-> d\n"), left, "-q"]) == 0
    assert capsys.readouterr().out == ""
    path = rules(tmp_path, "a <-> b\n")
    assert main(["check", path, left, "--quiet"]) == 1
    assert (
        capsys.readouterr().out == f"{path}: no rule covers left tensor c [1]. Add one, or leave it out: `c <-> _`.\n"
    )


def test_trouble_is_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", rules(tmp_path, "a <-> b\n"), str(tmp_path / "none.safetensors"), "--format", "json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ckptmap: ")
