"""`ckptmap heads`: exit code, stdout, stderr."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from ckptmap import open_checkpoint
from ckptmap.__main__ import main


def test_a_row_a_class_under_its_verdict(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", str(fixtures / "roberta-mlm")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    ready, train, more = out.split("\n\n")[1:]
    assert ready.startswith("ready: every tensor comes from the checkpoint\n+ RobertaForMaskedLM")
    assert train.startswith("train the head: the pretrained part is loaded, the head is new")
    (row,) = (line for line in train.splitlines() if "RobertaForSequenceClassification" in line)
    assert "backbone 37 of 37  head 0 of 4  new: 4 tensors, 650 parameters" in row
    assert more.startswith("train more than the head")


def test_a_class_that_does_not_fit_is_loud(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", str(fixtures / "llama-causal")]) == 0
    out = capsys.readouterr().out
    assert "backbone not loaded: MOST OF THE PRETRAINED PART IS RANDOM" in out
    assert "- LlamaForQuestionAnswering  backbone 0 of 20" in out


@pytest.mark.parametrize("argv", [["--class", "RobertaForSequenceClassification"], ["#"]])
def test_one_class_in_full(fixtures: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    source = str(fixtures / "roberta-mlm")
    if argv == ["#"]:
        source, argv = f"{source}#RobertaForSequenceClassification", []
    assert main(["heads", source, *argv, "--num-labels", "3"]) == 0
    out = capsys.readouterr().out
    assert "verdict     train the head (the pretrained part is loaded, the head is new)" in out
    assert "newly initialized: 4 tensors, 675 of 14,403 parameters" in out
    assert "~ classifier.out_proj.weight  [3, 24]" in out
    assert "not used: 5 tensors, they belong to RobertaForMaskedLM\n  lm_head.bias" in out


def test_json_bears_the_names_of_transformers(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", str(fixtures / "bert-cls"), "--num-labels", "5", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model_type"] == "bert"
    head = report["classes"]["BertForSequenceClassification"]
    assert head["verdict"] == "will raise"
    assert head["mismatched_keys"] == [["classifier.bias", [3], [5]], ["classifier.weight", [3, 24], [5, 24]]]
    assert head["missing_keys"] == head["unexpected_keys"] == head["error_msgs"] == []
    assert head["newly_initialized"] == ["classifier.bias", "classifier.weight"]


def test_markdown(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", str(fixtures / "roberta-mlm"), "--format", "markdown"]) == 0
    assert "| class | backbone loaded | head loaded | newly initialized |" in capsys.readouterr().out


def test_names_only(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(fixtures / "roberta-mlm")
    assert main(["heads", source, "-q"]) == 0
    assert "RobertaForMaskedLM: ready\n" in capsys.readouterr().out
    assert main(["heads", source, "-q", "--class", "RobertaForTokenClassification"]) == 0
    assert capsys.readouterr().out == "classifier.bias\nclassifier.weight\n"


def test_a_bare_file_with_a_config_or_a_model_type(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "weights.safetensors")
    shutil.copy(fixtures / "roberta-mlm" / "model.safetensors", file)
    assert main(["heads", file]) == 2
    assert (
        "has no config.json to tell its family; give one with --config FILE, or --model-type TYPE"
        in capsys.readouterr().err
    )
    config = str(fixtures / "roberta-mlm" / "config.json")
    assert main(["heads", file, "--config", config, "--class", "RobertaForMaskedLM"]) == 0
    assert "verdict     ready" in capsys.readouterr().out
    sizes = ["vocab_size=120", "hidden_size=24", "num_hidden_layers=2", "intermediate_size=48", "num_attention_heads=4"]
    flags = [word for size in (*sizes, "max_position_embeddings=42") for word in ("--set", size)]
    assert main(["heads", file, "--model-type", "roberta", *flags, "--class", "RobertaForMaskedLM"]) == 0
    assert "verdict     ready" in capsys.readouterr().out


def test_a_key_mapping_file(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_checkpoint(fixtures / "roberta-cls") as checkpoint:
        tensors = {name.replace("roberta.", "encoder_model.", 1): checkpoint.load(name) for name in checkpoint}
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(fixtures / "roberta-cls" / "config.json", tmp_path)
    (tmp_path / "map.json").write_text('{"^encoder_model": "roberta"}')
    argv = ["heads", str(tmp_path), "--class", "RobertaForSequenceClassification"]
    assert main(argv) == 0
    assert "verdict     backbone not loaded" in capsys.readouterr().out
    argv.append("--key-mapping")
    assert main([*argv, str(tmp_path / "map.json")]) == 0
    assert "verdict     ready" in capsys.readouterr().out
    assert main([*argv, str(tmp_path / "none.json")]) == 2
    assert "none.json: cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--class", "RobertaForPoetry"], "has no such class for model_type 'roberta'; it has RobertaModel"),
        (["--set", "nonsense"], "--set nonsense: must be KEY=VALUE"),
        (["--model-type", "robberta"], "model_type 'robberta' is unknown to transformers"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    fixtures: Path, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["heads", str(fixtures / "roberta-mlm"), *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


class TestDiff:
    """`ckptmap diff` tells what the head class of the right side would load."""

    def test_what_the_class_of_the_right_side_would_load(
        self, fixtures: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        left, right = str(fixtures / "roberta-mlm"), str(fixtures / "roberta-cls")
        assert main(["diff", left, right]) == 1
        out = capsys.readouterr().out
        assert f"RobertaForSequenceClassification would load from {left}: train the head" in out
        assert "missing 4, unexpected 5, newly initialized 4, mismatched 0" in out
        assert "newly initialized: 4 tensors, 675 of 14,403 parameters" in out

    def test_every_class_and_the_way_back_as_json(self, fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
        argv = ["diff", str(fixtures / "roberta-mlm"), str(fixtures / "roberta-cls"), "--format", "json"]
        assert main([*argv, "--heads", "--reverse"]) == 1
        fields = json.loads(capsys.readouterr().out)
        assert len(fields["heads"]) == 7
        head = fields["heads"]["RobertaForSequenceClassification"]
        assert head["missing_keys"] == head["newly_initialized"]
        assert head["unexpected_keys"][0] == "lm_head.bias"
        assert fields["reverse_heads"]["RobertaForMaskedLM"]["verdict"] == "train the head"
        assert main([*argv, "--no-heads"]) == 1
        assert json.loads(capsys.readouterr().out)["heads"] == {}

    @pytest.mark.parametrize("source", ["", "{fixtures}/roberta-cls", "{fixtures}/roberta-cls/config.json"])
    def test_a_class_as_the_right_side(self, fixtures: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
        right = source.format(fixtures=fixtures) + "#RobertaForTokenClassification"
        assert main(["diff", str(fixtures / "roberta-mlm"), right, "--format", "json"]) == 1
        fields = json.loads(capsys.readouterr().out)
        assert fields["only_right"] == ["classifier.weight", "classifier.bias"]
        assert fields["dtype_differs"] == []
        assert fields["heads"]["RobertaForTokenClassification"]["newly_initialized"] == [
            "classifier.bias",
            "classifier.weight",
        ]

    def test_a_family_that_cannot_be_told_does_not_spoil_the_diff(
        self, fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(fixtures / "roberta-cls" / "model.safetensors", tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "homemade", "architectures": ["Mine"]}')
        assert main(["diff", str(fixtures / "roberta-mlm"), str(tmp_path)]) == 1
        out = capsys.readouterr().out
        assert "head classes cannot be told: Mine: " in out
        assert "37 the same in name, shape and dtype" in out


def test_check_is_about_the_declared_class(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = fixtures / "roberta-cls"
    assert main(["heads", str(whole), "--check"]) == 0
    assert "verdict     ready" in capsys.readouterr().out
    with open_checkpoint(whole) as checkpoint:
        rest = {name: checkpoint.load(name) for name in checkpoint if name != "classifier.out_proj.bias"}
    save_file(rest, tmp_path / "model.safetensors")
    shutil.copy(whole / "config.json", tmp_path)
    assert main(["heads", str(tmp_path), "--check", "--format", "markdown"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("**RobertaForSequenceClassification from ")
    assert "| `classifier.out_proj.bias` | [3] |" in out
    assert main(["heads", str(tmp_path), "--check", "--class", "RobertaForMaskedLM", "-q"]) == 1
    assert "lm_head.bias" in capsys.readouterr().out.splitlines()


def test_check_needs_a_class(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(fixtures / "roberta-cls" / "model.safetensors")
    assert main(["heads", weights, "--check", "--model-type", "roberta"]) == 2
    assert "declares no architectures. Name one with --class" in capsys.readouterr().err
