from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from ckptmap.checkpoint import open_checkpoint
from ckptmap.heads.untouched import Says, untouched

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
BERT_HEAD = ["classifier.weight", "classifier.bias"]
ROBERTA_HEAD = [f"classifier.{part}.{leaf}" for part in ("dense", "out_proj") for leaf in ("weight", "bias")]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """The same values every time, and no threads that fight over small matrices."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def said(source: object, names: list[str] | None = None, **options: float) -> dict[str, Says]:
    with open_checkpoint(source) as checkpoint:  # type: ignore[arg-type]
        return {name: evidence.says for name, evidence in untouched(checkpoint, names, **options).items()}


def batches(steps: int) -> Iterator[dict[str, torch.Tensor]]:
    for _ in range(steps):
        labels = torch.randint(0, 2, (8,))
        yield {"input_ids": torch.randint(3, 50, (8, 12)) + 48 * labels[:, None], "labels": labels}


def train(model: PreTrainedModel, steps: int, rate: float) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for batch in batches(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_head_saved_right_after_initialisation_is_flagged(tmp_path: Path, dtype: torch.dtype) -> None:
    RobertaForSequenceClassification(RobertaConfig(**SIZES)).to(dtype).save_pretrained(tmp_path)
    assert said(tmp_path, ROBERTA_HEAD) == dict.fromkeys(ROBERTA_HEAD, "untouched")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_from_pretrained_made_is_flagged_and_its_backbone_is_not(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    trained = BertForSequenceClassification(BertConfig(**SIZES))
    train(trained, 100, 1e-3)
    trained.bert.to(dtype).save_pretrained(tmp_path / "base")
    BertForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=5).save_pretrained(tmp_path / "head")
    evidence = said(tmp_path / "head")
    assert [name for name, says in evidence.items() if says == "untouched"] == sorted(BERT_HEAD)
    assert evidence["bert.encoder.layer.0.attention.output.dense.weight"] == "trained"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("steps", "rate"), [(1, 5e-5), (120, 5e-5), (120, 1e-3)])
def test_a_trained_head_is_not_flagged_however_short_the_training(
    tmp_path: Path, steps: int, rate: float, dtype: torch.dtype
) -> None:
    model = RobertaForSequenceClassification(RobertaConfig(**SIZES))
    train(model, steps, rate)
    model.to(dtype).save_pretrained(tmp_path)
    assert said(tmp_path, ROBERTA_HEAD) == dict.fromkeys(ROBERTA_HEAD, "trained")


def test_over_a_frozen_backbone_only_the_trained_head_looks_trained(tmp_path: Path) -> None:
    model = BertForSequenceClassification(BertConfig(**SIZES))
    model.bert.requires_grad_(False)
    train(model, 100, 1e-3)
    model.save_pretrained(tmp_path)
    evidence = said(tmp_path)
    assert {name for name, says in evidence.items() if says == "trained"} == set(BERT_HEAD)
    assert evidence["bert.pooler.dense.weight"] == "untouched"


def test_without_a_config_the_usual_initialisers_are_tried(tmp_path: Path) -> None:
    BertForSequenceClassification(BertConfig(**SIZES)).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert set(said(tmp_path, BERT_HEAD).values()) == {"untouched"}


def test_an_unusual_range_is_told_by_the_config_or_the_caller(tmp_path: Path) -> None:
    model = RobertaForSequenceClassification(RobertaConfig(**SIZES, initializer_range=0.05))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["initializer_range"] == 0.05
    assert set(said(tmp_path, ROBERTA_HEAD).values()) == {"untouched"}
    assert said(model, ["classifier.dense.weight"]) == {"classifier.dense.weight": "unclear"}
    assert set(said(model, ROBERTA_HEAD, initializer_range=0.05).values()) == {"untouched"}


def test_torch_defaults_are_known() -> None:
    fresh = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.Conv2d(8, 64, 3), torch.nn.LayerNorm(8))
    assert set(said(fresh).values()) == {"untouched"}
    with torch.no_grad():
        fresh[0].bias.mul_(0.999)
        fresh[1].bias.mul_(0.99)
    assert said(fresh)["0.bias"] == said(fresh)["1.bias"] == "trained"


def test_without_a_bias_only_32_bit_weights_can_tell(tmp_path: Path) -> None:
    model = LlamaForSequenceClassification(LlamaConfig(**{**SIZES, "hidden_size": 64}, num_labels=20))
    model.save_pretrained(tmp_path / "fresh")
    assert said(tmp_path / "fresh", ["score.weight"]) == {"score.weight": "untouched"}
    model.bfloat16().save_pretrained(tmp_path / "rounded")
    assert said(tmp_path / "rounded", ["score.weight"]) == {"score.weight": "unclear"}
    model.float()
    train(model, 1, 5e-5)
    assert said(model, ["score.weight"]) == {"score.weight": "unclear"}


def test_an_embedding_of_which_some_rows_were_trained_is_unclear() -> None:
    weight = torch.empty(1000, 64).normal_(0, 0.02)
    assert said({"weight": weight}) == {"weight": "untouched"}
    weight[:250] += 1e-5 * torch.randn(250, 64)
    evidence = untouched(open_checkpoint({"weight": weight}))["weight"]
    assert evidence.says == "unclear"
    assert "in part untouched" in evidence.statistic


def test_weak_evidence_alone_is_unclear() -> None:
    tensors = {
        "norm.weight": torch.ones(64),
        "bias": torch.zeros(64),
        "few.weight": torch.randn(2, 8) * 0.02,
        "few.bias": torch.zeros(2),
        "count": torch.tensor(3),
        "empty.weight": torch.empty(0, 4),
        "large.weight": torch.randn(2000, 2),
    }
    assert said(tensors, max_parameters=3000) == dict.fromkeys(tensors, "unclear")


def test_a_constant_weight_other_than_a_norm_s_and_values_that_are_not_finite() -> None:
    assert said({"a.weight": torch.full((8, 8), 0.3), "a.bias": torch.zeros(8)}) == {
        "a.weight": "unclear",
        "a.bias": "unclear",
    }
    broken = torch.randn(64, 64)
    broken[3, 3] = float("nan")
    assert said({"a.weight": broken}) == {"a.weight": "trained"}


def test_a_table_of_sines_is_not_called_trained() -> None:
    angles = torch.arange(50)[:, None] / 10000 ** (torch.arange(16) / 16)
    assert said({"positions.weight": torch.cat([angles.sin(), angles.cos()], 1)}) == {"positions.weight": "unclear"}


def test_weights_of_a_low_rank_change_are_trained() -> None:
    weight = torch.randn(200, 300) * 0.02 + 3e-3 * torch.randn(200, 1).sign() * torch.randn(1, 300).sign()
    evidence = untouched(open_checkpoint({"weight": weight}))["weight"]
    assert evidence.says == "trained"
    assert "a direction stands out" in evidence.statistic


@pytest.mark.parametrize("cut", [2, 3])
def test_truncated_normals_look_like_fresh_ones(cut: int) -> None:
    weight = torch.nn.init.trunc_normal_(torch.empty(300, 300), std=0.02, a=-cut * 0.02, b=cut * 0.02)
    assert said({"weight": weight.half(), "bias": torch.zeros(300)}) == {"weight": "untouched", "bias": "untouched"}


def test_fresh_weights_that_only_decayed_are_unclear_and_it_is_said() -> None:
    tensors = {"pooler.weight": torch.randn(64, 64) * 0.0091, "pooler.bias": torch.zeros(64)}
    evidence = untouched(open_checkpoint(tensors))["pooler.weight"]
    assert evidence.says == "unclear"
    assert "weight decay alone would leave this; its bias: exactly 0 throughout" in evidence.statistic


def test_the_statistic_is_a_sentence_with_the_numbers() -> None:
    torch.manual_seed(1)
    weight = torch.empty(100, 64, dtype=torch.bfloat16).normal_(0, 0.02)
    found = untouched(open_checkpoint({"a.weight": weight, "a.bias": torch.zeros(100)}), initializer_range=0.02)
    text = found["a.weight"].statistic
    assert text.startswith("looks untouched since initialisation: std 0.0")
    assert "against 0.02 (initializer_range, normal), mean " in text
    assert text.endswith("n 6,400; its bias: exactly 0 throughout; n 100")


def test_a_name_that_is_not_there_is_an_error_and_names_choose() -> None:
    model = BertModel(BertConfig(**SIZES))
    with pytest.raises(KeyError, match="nothing"):
        untouched(open_checkpoint(model), ["nothing"])
    assert list(said(model, ["pooler.dense.bias"])) == ["pooler.dense.bias"]
