"""Values of repos: what a hash tells is not fetched, and of the rest only what can differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file, save_file

import ckptmap
from ckptmap.__main__ import main
from ckptmap.errors import CheckpointError
from tests.hub.loopback import LoopbackHub

SHARDS = 3
ELEMENTS = 200_000
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Three shards of two tensors each, large enough that a header brings none of a shard's end along."""
    folder = tmp_path / "model"
    folder.mkdir()
    weight_map = {}
    for shard in range(SHARDS):
        file = f"model-0000{shard + 1}-of-0000{SHARDS}.safetensors"
        names = [f"layers.{2 * shard + n}.weight" for n in range(2)]
        save_file({name: torch.randn(ELEMENTS) for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = str({"metadata": {}, "weight_map": weight_map}).replace("'", '"')
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


@pytest.fixture
def other(model: Path, tmp_path: Path) -> Path:
    """The same with one bit of one shard flipped."""
    folder = shutil.copytree(model, tmp_path / "other")
    tensors = load_file(folder / SHARD)
    tensors["layers.3.weight"].view(torch.int32)[ELEMENTS // 2] ^= 1
    save_file(tensors, folder / SHARD)
    return folder


def sent(hub: LoopbackHub) -> int:
    return sum(logged.sent for logged in hub.log)


def test_equal_files_compare_for_no_weight_bytes(hub: LoopbackHub, model: Path) -> None:
    for repo in ("acme/one", "acme/two"):
        hub.add_repo(repo, model)
    left, right = ckptmap.open_checkpoint("acme/one"), ckptmap.open_checkpoint("acme/two")
    before = len(hub.log)
    found = ckptmap.diff(left, right, values=True, before_fetch=pytest.fail)
    assert not found
    assert str(found.values) == "same weights: all 6 tensors are equal bit for bit"
    assert len(hub.log) == before


@pytest.mark.parametrize("form", ["roberta-cls", "roberta-cls-sharded", "roberta-cls-bin"])
def test_and_so_do_equal_files_of_every_form(hub: LoopbackHub, fixtures: Path, form: str) -> None:
    hub.add_repo("acme/one", fixtures / form)
    hub.add_repo("acme/two", fixtures / form)
    left, right = ckptmap.open_checkpoint("acme/one"), ckptmap.open_checkpoint("acme/two")
    before = len(hub.log)
    assert not ckptmap.diff(left, right, values=True)
    assert len(hub.log) == before


def test_of_one_shard_that_differs_only_its_bytes_travel(hub: LoopbackHub, model: Path, other: Path) -> None:
    hub.add_repo("acme/one", model)
    hub.add_repo("acme/two", other)
    left, right = ckptmap.open_checkpoint("acme/one"), ckptmap.open_checkpoint("acme/two")
    before, asked = len(hub.log), []
    found = ckptmap.diff(left, right, values=True, before_fetch=asked.append)
    assert found.values is not None
    assert [one.name for one in found.values.differing] == ["layers.3.weight"]
    both = 2 * 2 * 4 * ELEMENTS
    assert (asked, found.values.fetched) == ([both], both)
    assert sum(logged.sent for logged in hub.log[before:]) == both
    assert all(SHARD in logged.path for logged in hub.log[before:])


def test_a_file_here_is_hashed_before_one_is_fetched(hub: LoopbackHub, model: Path, other: Path) -> None:
    hub.add_repo("acme/one", model)
    repo = ckptmap.open_checkpoint("acme/one")
    before = len(hub.log)
    assert not ckptmap.diff(model, repo, values=True)
    assert not ckptmap.diff(repo, model, values=True)
    assert len(hub.log) == before
    found = ckptmap.diff(other, repo, values=True)
    assert found.values is not None
    assert found.values.fetched == 2 * 4 * ELEMENTS
    assert [one.name for one in found.values.differing] == ["layers.3.weight"]


def test_what_the_cache_holds_is_read_there(hub: LoopbackHub, model: Path, other: Path) -> None:
    hub.add_repo("acme/one", model)
    hub.add_repo("acme/two", other)
    hf_hub_download("acme/two", SHARD)
    found = ckptmap.diff("acme/one", "acme/two", values=True)
    assert found.values is not None
    assert found.values.fetched == 2 * 4 * ELEMENTS
    assert len(found.values.differing) == 1


def test_another_sharding_dtype_and_format(hub: LoopbackHub, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    state = {name: tensor for shard in sorted(model.glob("*.safetensors")) for name, tensor in load_file(shard).items()}
    torch.save(state, folder / "pytorch_model.bin")
    hub.add_repo("acme/one", model)
    hub.add_repo("acme/bin", folder)
    assert not ckptmap.diff("acme/one", "acme/bin", values=True)
    assert ckptmap.digest("acme/one") == ckptmap.digest("acme/bin") == ckptmap.digest(model)
    half = {name: tensor.half() for name, tensor in state.items()}
    assert "LEFT rounded to F16" in str(ckptmap.diff("acme/bin", half, values=True).values)
    examined = ckptmap.examine("acme/bin", evidence=False)
    assert examined.digest == ckptmap.digest(state)


def test_a_prefix_and_rules_across_repos(hub: LoopbackHub, model: Path) -> None:
    hub.add_repo("acme/one", model)
    renamed = ckptmap.convert(ckptmap.Rules.parse("layers.{i}.weight <-> blocks.{i}.weight\n"), model)
    turned = {name: tensor.reshape(400, 500).T for name, tensor in renamed.items()}
    assert not ckptmap.diff("acme/one", renamed, values=True, prefix=("layers.", "blocks."))
    rules = ckptmap.Rules.parse("layers.{i}.weight <-> blocks.{i}.weight : (a b) <-> b a\n")
    found = ckptmap.diff("acme/one", turned, values=True, rules=rules)
    assert not found
    assert found.values is not None
    assert found.values.fetched == 6 * 4 * ELEMENTS


def test_it_is_announced_and_refused_above_a_limit(
    hub: LoopbackHub,
    model: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.add_repo("acme/one", model)
    hub.add_repo("acme/two", other)
    argv = ["diff", "acme/one", "acme/two", "--values", "--no-heads"]
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert err == "ckptmap: fetching 3.2 MB of values from the Hub\n"
    assert "values: only layers.3.weight differs (1 of 6 tensors)" in out
    monkeypatch.setattr("ckptmap.cli.common.FETCHED_UNASKED", 1_000_000)
    before = sent(hub)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "ckptmap: --values: 3.2 MB of values would have to be fetched from the Hub; --yes does so\n"
    assert sent(hub) - before < 500_000  # headers
    assert main([*argv, "--yes"]) == 1
    assert main(["inspect", "acme/one", "--digest"]) == 2
    capsys.readouterr()
    assert main(["inspect", "acme/one", "--digest", "-q", "--yes"]) == 0
    assert capsys.readouterr().out == f"{ckptmap.digest(model)}\n"


def test_a_hub_that_fails_half_way_is_no_answer(hub: LoopbackHub, model: Path, other: Path) -> None:
    hub.add_repo("acme/one", model)
    hub.add_repo("acme/two", other)
    left, right = ckptmap.open_checkpoint("acme/one"), ckptmap.open_checkpoint("acme/two")
    hub.fault(rf"two/resolve/.*/{SHARD}", drop_after=1000, times=2)
    assert len(ckptmap.diff(left, right, values=True).values.differing) == 1  # type: ignore[union-attr]
    hub.fault(rf"two/resolve/.*/{SHARD}", status=404, code="EntryNotFound", times=None)
    with pytest.raises(CheckpointError, match="the repo changed while it was read"):
        ckptmap.diff(left, right, values=True)
