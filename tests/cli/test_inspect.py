"""`ckptmap inspect`: exit code, stdout, stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptmap.__main__ import main


def test_a_summary_and_patterns(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(fixtures / "roberta-cls")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "architecture  RobertaForSequenceClassification (model_type roberta)" in out
    assert "parameters    14,403" in out
    line = next(line for line in out.splitlines() if "self.{key,query,value}.weight" in line)
    assert line.split() == [
        "roberta.encoder.layer.{0,1}.attention.self.{key,query,value}.weight",
        "[24,",
        "24]",
        "F32",
        "×6",
    ]


def test_all_names_every_tensor(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(fixtures / "roberta-cls"), "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("roberta.", "classifier.")) for line in lines) == 41


def test_names_only(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["inspect", str(fixtures / "roberta-cls"), "-q", "--include", "classifier.*", "--exclude", "*.bias"]) == 0
    )
    assert capsys.readouterr().out == "classifier.dense.weight\nclassifier.out_proj.weight\n"


def test_json_has_the_documented_fields(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(fixtures / "roberta-cls-sharded"), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["architectures"] == ["RobertaForSequenceClassification"]
    assert result["totals"] == {"tensors": 41, "parameters": 14403, "bytes": 57612, "dtypes": {"F32": 41}}
    (bias,) = (tensor for tensor in result["tensors"] if tensor["name"] == "classifier.out_proj.bias")
    assert bias.pop("file") in {file["name"] for file in result["files"]}
    assert bias == {"name": "classifier.out_proj.bias", "dtype": "F32", "shape": [3], "bytes": 12}
    assert result["warnings"] == []


def test_markdown_is_a_table(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(fixtures / "gpt2-tied"), "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "- parameters: " in out
    assert "| tensor | shape | dtype | count |\n| --- | --- | --- | --- |\n" in out
    assert "| `transformer.h.{0,1}.attn.c_attn.weight` | [24, 72] | F32 | ×2 |" in out


def test_ninety_thousand_tensors_fit_a_screen_or_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = torch.zeros(1, dtype=torch.uint8)
    names = (
        f"model.layers.{i}.mlp.experts.{e}.{p}_proj.{w}"
        for i in range(60)
        for e in range(250)
        for p in ("gate", "up", "down")
        for w in ("weight", "scale")
    )
    save_file({name: one.clone() for name in names}, tmp_path / "model.safetensors")
    assert main(["inspect", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 15


def test_a_long_section_is_cut_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({f"{chr(97 + i % 26)}{i}.w{i}": torch.zeros(i + 1) for i in range(70)}, tmp_path / "model.safetensors")
    main(["inspect", str(tmp_path)])
    assert "… 10 more lines (--no-truncate shows them)" in capsys.readouterr().out
    main(["inspect", str(tmp_path), "--no-truncate"])
    assert "more lines" not in capsys.readouterr().out


def test_warnings_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"module.a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert main(["inspect", str(tmp_path), "-q"]) == 0
    out, err = capsys.readouterr()
    assert out == "module.a\n"
    assert "carry `module.`" in err


def test_a_source_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "./nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "ckptmap: ./nowhere: there is no such file or folder here, and it is not the name of a Hub repo (org/name)\n"
    )


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["inspect"], ["inspect", "a", "--frobnicate"]])
def test_a_wrong_call_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: ckptmap")


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(OSError, match="no such file or folder"):
        main(["inspect", "./nowhere", "--debug"])


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["inspect", "--help"], ["diff", "--help"]])
def test_help_is_no_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert "ckptmap" in capsys.readouterr().out
