"""Conversions that read from a Hub: the same files as from disk, each tensor fetched once, and whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptmap.__main__ import main
from tests.hub.loopback import LoopbackHub

RULES = """\
left:  acme/model, RobertaForSequenceClassification
right: mine
[roberta.encoder.layer.{i} <-> blocks.{i}]
attention.self.{query,key,value}.weight <-> qkv.weight : o m <-> m [o + o + o]
attention.self.{query,key,value}.bias <-> qkv.bias : o <-> [o + o + o]
attention.output.** <-> attention.output.**
{n:intermediate|output}.** <-> {n}.**
[]
roberta.embeddings.** <-> embeddings.**
classifier.** <-> head.**
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "r.ckptmap"
    path.write_text(RULES)
    return str(path)


@pytest.mark.parametrize("form", ["roberta-cls", "roberta-cls-sharded", "roberta-cls-bin"])
def test_a_repo_is_converted_as_its_files_are(
    hub: LoopbackHub, fixtures: Path, tmp_path: Path, rules: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add_repo("acme/model", fixtures / form)
    assert main(["convert", rules, "acme/model", str(tmp_path / "hub.safetensors")]) == 0, capsys.readouterr().err
    sent = sum(logged.sent for logged in hub.log)
    assert main(["convert", rules, str(fixtures / form), str(tmp_path / "disk.safetensors")]) == 0
    there, here = load_file(tmp_path / "hub.safetensors"), load_file(tmp_path / "disk.safetensors")
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in there)
    stored = sum(path.stat().st_size for path in (fixtures / form).iterdir())
    assert sent < 2 * stored + 200_000  # the first look at a header fetches more than there is in files this small


def test_home_beside_the_files_of_a_repo(
    hub: LoopbackHub, fixtures: Path, tmp_path: Path, rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add_repo("acme/model", fixtures / "roberta-cls")
    assert main(["convert", rules, "acme/model", str(tmp_path / "mine.safetensors")]) == 0
    argv = ["convert", str(tmp_path / "mine.safetensors"), str(tmp_path / "home"), "--back", "--like", "acme/model"]
    assert main(argv) == 0, capsys.readouterr().err
    home, stored = load_file(tmp_path / "home/model.safetensors"), load_file(fixtures / "roberta-cls/model.safetensors")
    assert home.keys() == stored.keys()
    assert all(torch.equal(home[name], stored[name]) for name in stored)
    config = json.loads((tmp_path / "home/config.json").read_text())
    assert config["architectures"] == ["RobertaForSequenceClassification"]


def test_a_base_on_the_hub_sends_what_is_needed_of_it(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({"head": torch.ones(3), "body": torch.zeros(2_000_000)}, folder / "model.safetensors")
    hub.add_repo("acme/base", folder)
    save_file({"x": torch.full((2_000_000,), 2.0)}, tmp_path / "x.safetensors")
    (tmp_path / "b.ckptmap").write_text("x <-> body\n_ <-> head\n")
    argv = ["convert", str(tmp_path / "b.ckptmap"), str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors")]
    assert main([*argv, "--base", "acme/base"]) == 0
    made = load_file(tmp_path / "y.safetensors")
    assert (made["head"] == 1).all()
    assert (made["body"] == 2).all()
    assert sum(logged.sent for logged in hub.log) < 1_000_000


def test_a_hub_that_fails_half_way_leaves_nothing(
    hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({f"x{i}": torch.zeros(300_000) for i in range(4)}, folder / "model.safetensors")
    hub.add_repo("acme/model", folder)
    (tmp_path / "r.ckptmap").write_text("x{i} <-> y{i} : (a b) <-> (b a)\nsize a = 3\n")
    out = tmp_path / "out"
    out.mkdir()
    hub.fault(r"resolve/.*/model\.safetensors", times=3)
    hub.fault(r"resolve/.*/model\.safetensors", status=404, times=None)
    assert main(["convert", str(tmp_path / "r.ckptmap"), "acme/model", str(out / "y.safetensors")]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("ckptmap: acme/model@")
    assert "Traceback" not in err
    assert any(logged.sent >= 1_200_000 for logged in hub.log)  # a tensor had come already
    assert os.listdir(out) == []
