"""A transformers folder is written: the class that the rules name, and a config that fits the head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from ckptmap.__main__ import main

NAME = "RobertaForSequenceClassification"


@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("like", ["roberta-mlm", "roberta-cls"])
def test_the_config_gets_the_head_s_labels(
    fixtures: Path, tmp_path: Path, like: str, labels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head trained for another number of labels, beside a config of another model, or of another number."""
    config = transformers.AutoConfig.from_pretrained(fixtures / like, num_labels=labels)
    state = getattr(transformers, NAME)(config).state_dict()
    save_file({f"x.{name}": value.contiguous() for name, value in state.items()}, tmp_path / "mine.safetensors")
    rules = tmp_path / "r.ckptmap"
    rules.write_text(f"left: FacebookAI/roberta-base, {NAME}\nright: mine\n** <-> x.**\n")
    argv = ["convert", str(rules), str(tmp_path / "mine.safetensors"), str(tmp_path / "out"), "--back"]
    assert main([*argv, "--like", str(fixtures / like)]) == 0, capsys.readouterr().err
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["architectures"] == [NAME]
    made, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert type(made).__name__ == NAME
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    assert made.config.num_labels == labels
    assert made.config.label2id == {name: number for number, name in made.config.id2label.items()}
    assert torch.equal(made.classifier.out_proj.weight, state["classifier.out_proj.weight"])


def test_names_of_labels_stay_where_their_number_fits(fixtures: Path, tmp_path: Path) -> None:
    config = json.loads((fixtures / "roberta-cls/config.json").read_text())
    config |= {"id2label": {"0": "no", "1": "maybe", "2": "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2}}
    (tmp_path / "like").mkdir()
    (tmp_path / "like/config.json").write_text(json.dumps(config))
    rules = tmp_path / "r.ckptmap"
    rules.write_text("** <-> **\n")
    argv = [
        "convert",
        str(rules),
        str(fixtures / "roberta-cls"),
        str(tmp_path / "out"),
        "--like",
        str(tmp_path / "like"),
    ]
    assert main(argv) == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"] == config["id2label"]


@pytest.mark.parametrize(
    ("side", "named"),
    [
        ("FacebookAI/roberta-base, RobertaForMaskedLM", "RobertaForMaskedLM"),
        ("GPT2LMHeadModel", "GPT2LMHeadModel"),
        ("google/vit, ViTModel", "ViTModel"),
        ("my_model.Classifier", "RobertaForSequenceClassification"),
        ("", "RobertaForSequenceClassification"),
    ],
)
def test_the_class_is_the_one_that_the_rules_name_last(fixtures: Path, tmp_path: Path, side: str, named: str) -> None:
    rules, out = tmp_path / "r.ckptmap", tmp_path / "out"
    rules.write_text(f"right: {side}\n** <-> **\n" if side else "** <-> **\n")
    like = str(fixtures / "roberta-cls")
    assert main(["convert", str(rules), like, str(out), "--like", like, "-q"]) == 0
    assert json.loads((out / "config.json").read_text())["architectures"] == [named]
    argv = ["convert", str(rules), like, str(out), "--like", like, "--architecture", "RobertaModel", "--force", "-q"]
    assert main(argv) == 0
    assert json.loads((out / "config.json").read_text())["architectures"] == ["RobertaModel"]
