"""A fine-tuned transformers classifier goes into a hand-built module, is trained there, and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

import ckptmap
from ckptmap.__main__ import main

RULES = """\
ckptmap 1
left:  fixtures/roberta-cls, RobertaForSequenceClassification
right: tests.convert.test_handbuilt.Classifier
size k = 2                       # positions are counted from padding_idx + 1
[roberta.embeddings <-> ]
word_embeddings.weight         <-> tok.weight
position_embeddings.weight     <-> _, pos.weight                 : [k + p] m <-> k m, p m
token_type_embeddings.weight   <-> seg.weight
LayerNorm.*                    <-> norm.*
[roberta.encoder.layer.{i} <-> blocks.{i}]
attention.self.{query,key,value}.weight <-> self_attn.in_proj_weight : o m <-> [o + o + o] m
attention.self.{query,key,value}.bias   <-> self_attn.in_proj_bias   : o <-> [o + o + o]
attention.output.dense.*       <-> self_attn.out_proj.*
attention.output.LayerNorm.*   <-> norm1.*
intermediate.dense.*           <-> linear1.*
output.dense.*                 <-> linear2.*
output.LayerNorm.*             <-> norm2.*
[]
classifier.dense.*             <-> head.0.*
classifier.out_proj.*          <-> head.1.*
"""


class Classifier(nn.Module):
    """RoBERTa for sequence classification, written with PyTorch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tok, self.pos, self.seg = nn.Embedding(120, 24), nn.Embedding(40, 24), nn.Embedding(2, 24)
        self.norm = nn.LayerNorm(24, eps=1e-12)
        options = {"activation": "gelu", "batch_first": True, "layer_norm_eps": 1e-12, "dropout": 0.0}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(24, 4, 48, **options) for _ in range(2))
        self.head = nn.ModuleList([nn.Linear(24, 24), nn.Linear(24, 3)])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.tok(ids) + self.pos(torch.arange(ids.shape[1])) + self.seg(torch.zeros_like(ids))
        hidden = self.norm(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head[1](torch.tanh(self.head[0](hidden[:, 0])))


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "roberta.ckptmap"
    path.write_text(RULES)
    return str(path)


def ids() -> torch.Tensor:
    return torch.randint(3, 120, (2, 16), generator=torch.Generator().manual_seed(0))


def test_there_trained_and_back_into_transformers(
    fixtures: Path, rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, residue = str(fixtures / "roberta-cls"), str(tmp_path / "residue.safetensors")
    assert main(["check", rules, source]) == 0
    assert main(["convert", rules, source, str(tmp_path / "mine.safetensors"), "--residue", residue]) == 0

    mine = Classifier().eval()
    mine.load_state_dict(load_file(tmp_path / "mine.safetensors"), strict=True)
    theirs = AutoModelForSequenceClassification.from_pretrained(source).eval()
    with torch.no_grad():
        torch.testing.assert_close(mine(ids()), theirs(ids()).logits, rtol=0, atol=1e-5)

    optimizer = torch.optim.AdamW(mine.parameters(), lr=1e-3)
    for _ in range(3):
        loss = nn.functional.cross_entropy(mine(ids()), torch.tensor([0, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(mine.state_dict(), tmp_path / "trained.safetensors")

    back = str(tmp_path / "back")
    trained = str(tmp_path / "trained.safetensors")
    argv = ["convert", rules, trained, back, "--back", "--residue", residue, "--like", source]
    assert main(argv) == 0, capsys.readouterr().err
    returned, info = AutoModelForSequenceClassification.from_pretrained(back, output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    with torch.no_grad():
        torch.testing.assert_close(returned.eval()(ids()).logits, mine(ids()), rtol=0, atol=1e-5)


def test_there_and_back_without_training_is_bit_for_bit(fixtures: Path, rules: str, tmp_path: Path) -> None:
    source, residue = str(fixtures / "roberta-cls"), str(tmp_path / "residue.safetensors")
    middle, back = str(tmp_path / "mine.safetensors"), str(tmp_path / "back.safetensors")
    assert main(["convert", rules, source, middle, "--residue", residue]) == 0
    assert main(["convert", rules, middle, back, "--back", "--residue", residue]) == 0
    with ckptmap.open_checkpoint(source) as before, ckptmap.open_checkpoint(back) as after:
        assert set(before) == set(after)
        assert all(before.read(name) == after.read(name) for name in before)


def test_without_the_residue_the_way_back_is_refused(
    fixtures: Path, rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    middle = str(tmp_path / "mine.safetensors")
    assert main(["convert", rules, str(fixtures / "roberta-cls"), middle]) == 0
    assert main(["convert", rules, middle, str(tmp_path / "back.safetensors"), "--back"]) in (1, 2)
    assert "roberta.embeddings.position_embeddings.weight" in capsys.readouterr().err
    assert not (tmp_path / "back.safetensors").exists()


def test_a_second_conversion_is_refused(
    fixtures: Path, rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    middle = str(tmp_path / "mine.safetensors")
    assert main(["convert", rules, str(fixtures / "roberta-cls"), middle]) == 0
    assert main(["convert", rules, middle, str(tmp_path / "again.safetensors")]) in (1, 2)
    assert not (tmp_path / "again.safetensors").exists()


def test_load_into_a_built_module(fixtures: Path, rules: str) -> None:
    mine = Classifier().eval()
    ckptmap.load_into(mine, fixtures / "roberta-cls", ckptmap.Rules.read(rules))
    theirs = AutoModelForSequenceClassification.from_pretrained(fixtures / "roberta-cls").eval()
    with torch.no_grad():
        torch.testing.assert_close(mine(ids()), theirs(ids()).logits, rtol=0, atol=1e-5)
