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


def test_a_filter_that_leaves_nothing_is_an_error(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["-q"], ["--format", "json"]):
        assert main(["inspect", str(fixtures / "roberta-cls"), "--include", "typo.*", *flags]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "no name is left by --include" in err


def test_names_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"ok\x1b[2J\nsecond": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert main(["inspect", str(tmp_path), "-q"]) == 0
    assert capsys.readouterr().out == "ok\\x1b[2J\\nsecond\n"


def test_warnings_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"module.a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert main(["inspect", str(tmp_path), "-q"]) == 0
    out, err = capsys.readouterr()
    assert out == "module.a\n"
    assert "1 name carries `module.`" in err


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


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "./nowhere", "--debug"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Traceback")
    assert "no such file or folder" in err


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["inspect", "--help"], ["diff", "--help"]])
def test_help_is_no_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert "ckptmap" in capsys.readouterr().out


def test_a_filter_is_told(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["inspect", str(fixtures / "roberta-cls")]
    assert main([*argv, "--include", "roberta.encoder.*"]) == 0
    assert "tensors       32 of 41 (filtered)\n" in capsys.readouterr().out
    assert main([*argv, "--include", "roberta.encoder.*", "--format", "json"]) == 0
    totals = json.loads(capsys.readouterr().out)["totals"]
    assert (totals["tensors"], totals["filtered_from"]) == (32, 41)
    for form in ("table", "json"):
        assert main([*argv, "--exclude", "*", "--format", form]) == 2
        assert "no name is left by --exclude '*'; the first name is 'classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fixture", "told"), [("roberta-cls", False), ("roberta-mlm", True), ("gpt2-tied", True), ("bert-cls", False)]
)
def test_a_tie_of_the_config_is_told_where_it_says_something(
    fixtures: Path, tmp_path: Path, fixture: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "config.json ties input and output embeddings; only the input one is stored"
    main(["inspect", str(fixtures / fixture)])
    assert (sentence in capsys.readouterr().out) is told


def test_a_config_that_cannot_be_read_is_no_reason_to_show_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    assert main(["inspect", str(tmp_path)]) == 0
    assert "config      config.json is not used: is not JSON" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "config.json is not used" in result["warnings"][0]
    (tmp_path / "config.json").write_text('{"model_type": Infinity, "architectures": [1, "A"]}')
    main(["inspect", str(tmp_path), "--format", "json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["model_type"], result["architectures"]) == (None, ["A"])


NASTY = "a\x1b[31m\nb\u202ec|`d"


def test_what_a_terminal_would_obey_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {NASTY: torch.zeros(1)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"k": "<b>\x1b]0;x\x07*y* [z](u)"})
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "a\\x1b[31m\\nb\\u202ec|`d" in out
    assert not set("\x1b\x07\u202e") & set(out)
    assert main(["inspect", str(tmp_path), "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "| ``a\\x1b[31m\\nb\\u202ec\\|`d`` | [1] |" in out
    assert "k=&lt;b>\\\\x1b]0;x\\\\x07\\*y\\* [z\\](u)" in out
