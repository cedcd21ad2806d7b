"""Checkpoints of a Hub: the same inventory as from disk, for a fraction of the bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptmap
from ckptmap.__main__ import main
from tests.hub.conftest import problem
from tests.hub.loopback import LoopbackHub

FORMS = ["roberta-cls", "roberta-cls-sharded", "roberta-cls-bin"]


@pytest.fixture
def forms(hub: LoopbackHub, fixtures: Path) -> LoopbackHub:
    for form in FORMS:
        hub.add_repo(f"acme/{form}", fixtures / form)
    return hub


@pytest.mark.parametrize("form", FORMS)
def test_a_repo_is_what_its_files_are(forms: LoopbackHub, fixtures: Path, form: str) -> None:
    with ckptmap.open_checkpoint(f"acme/{form}") as remote, ckptmap.open_checkpoint(fixtures / form) as local:
        assert dict(remote) == dict(local)
        assert remote.config == local.config
        assert remote.files == local.files
        assert remote.source.startswith(f"acme/{form}@")
        name = "classifier.dense.weight"
        assert remote.read(name) == local.read(name)
        assert torch.equal(remote.load(name), local.load(name))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_headers_travel_and_weights_do_not(hub: LoopbackHub, tmp_path: Path, suffix: str) -> None:
    tensors = {f"layer.{i}.weight": torch.zeros(500_000) for i in range(10)}
    folder = tmp_path / "big"
    folder.mkdir()
    if suffix == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    hub.add_repo("acme/big", folder)
    assert main(["inspect", "acme/big"]) == 0
    size = next(folder.iterdir()).stat().st_size
    assert sum(logged.sent for logged in hub.log) < size / 100
    assert len(hub.log) <= 6


def test_diff_between_repos_and_files(forms: LoopbackHub, fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "acme/roberta-cls", str(fixtures / "roberta-cls-bin")]) == 0
    capsys.readouterr()
    assert main(["diff", "acme/roberta-cls", "hf://acme/roberta-cls-sharded@main", "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["same"]) == 41


def test_one_file_of_a_repo_and_a_subfolder(hub: LoopbackHub, fixtures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    shutil.copytree(fixtures / "roberta-cls-sharded", folder / "sub")
    hub.add_repo("acme/nested", folder)
    assert len(ckptmap.open_checkpoint("acme/nested/sub")) == 41
    assert len(ckptmap.open_checkpoint("acme/nested", subfolder="sub")) == 41
    shard = "model-00001-of-00003.safetensors"
    assert 0 < len(ckptmap.open_checkpoint(f"acme/nested/sub/{shard}")) < 41


def test_a_local_folder_wins_and_the_source_says_so(
    forms: LoopbackHub, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(fixtures / "bert-cls", tmp_path / "acme" / "roberta-cls")
    monkeypatch.chdir(tmp_path)
    checkpoint = ckptmap.open_checkpoint("acme/roberta-cls")
    assert checkpoint.source == "acme/roberta-cls"
    assert "bert.pooler.dense.weight" in checkpoint
    assert forms.log == []


def test_a_revision(hub: LoopbackHub, fixtures: Path) -> None:
    hub.add_repo("acme/model", fixtures / "roberta-mlm")
    hub.add_repo("acme/model", fixtures / "roberta-cls", revision="tuned")
    assert "lm_head.bias" in ckptmap.open_checkpoint("acme/model")
    assert "classifier.dense.bias" in ckptmap.open_checkpoint("acme/model@tuned")
    assert "classifier.dense.bias" in ckptmap.open_checkpoint("acme/model", revision="tuned")
    assert "give one" in problem(lambda: ckptmap.open_checkpoint("acme/model@main", revision="tuned"))


def test_a_broken_shard_on_the_hub_ends_in_one_line(
    hub: LoopbackHub, fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(fixtures / "roberta-cls-sharded", folder)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    hub.add_repo("acme/broken", folder)
    assert main(["inspect", "acme/broken"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ckptmap: acme/broken@")
    assert "model-00002-of-00003.safetensors: the tensors take" in err
    assert len(err.splitlines()) == 1


def test_a_repo_that_is_not_there(hub: LoopbackHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "acme/nowhere"]) == 2
    assert "there is no such local file or folder, so it was looked up on the Hub: " in (err := capsys.readouterr().err)
    assert "has no such repo, or it is private" in err
    assert main(["inspect", "hf://acme/nowhere"]) == 2
    assert "looked up" not in capsys.readouterr().err


def test_a_name_below_a_folder_that_is_here_asks_no_hub(
    forms: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "write hf://acme/roberta-cls" in problem(lambda: ckptmap.open_checkpoint("acme/roberta-cls"))
    assert forms.log == []
    assert len(ckptmap.open_checkpoint("hf://acme/roberta-cls")) == 41


def test_the_page_of_a_repo_and_the_commit_in_full(forms: LoopbackHub, capsys: pytest.CaptureFixture[str]) -> None:
    commit = forms.repos["acme/roberta-cls"].branches["main"]
    for page in ("", "/tree/main", "/blob/main/model.safetensors"):
        assert main(["inspect", f"{forms.url}/acme/roberta-cls{page}", "--format", "json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["commit"] == commit
        assert result["source"].startswith(f"acme/roberta-cls@{commit[:7]}")


def test_a_repo_of_folders_only_names_them(hub: LoopbackHub, fixtures: Path, tmp_path: Path) -> None:
    for name in ("unet", "vae"):
        shutil.copytree(fixtures / "roberta-cls", tmp_path / "repo" / name)
    hub.add_repo("acme/diffusers", tmp_path / "repo")
    assert "it has the folders unet, vae: name one" in problem(lambda: ckptmap.open_checkpoint("acme/diffusers"))


def test_what_a_head_would_load_is_told_without_weights(
    hub: LoopbackHub, fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("roberta-mlm", "roberta-cls"):
        hub.add_repo(f"acme/{name}", fixtures / name)
    assert main(["diff", "acme/roberta-mlm", "acme/roberta-cls", "--format", "json"]) == 1
    head = json.loads(capsys.readouterr().out)["heads"]["RobertaForSequenceClassification"]
    assert head["verdict"] == "train the head"
    assert head["missing_keys"] == head["newly_initialized"]
    assert head["newly_initialized"][0] == "classifier.dense.bias"
    assert head["unexpected_keys"][0] == "lm_head.bias"
    # One read of each file's start, and none of what follows the header.
    assert len([logged for logged in hub.log if logged.path.endswith(".safetensors")]) == 2
