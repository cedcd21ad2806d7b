"""HubStore and the local cache of huggingface_hub, online and offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download

from ckptmap.stores.hub import HubStore
from tests.hub.conftest import WEIGHTS, problem
from tests.hub.loopback import LoopbackHub


def test_cached_files_are_read_from_the_cache(tiny: LoopbackHub) -> None:
    path = hf_hub_download("acme/tiny", "model.safetensors")
    tiny.log.clear()
    store = HubStore("acme/tiny")
    assert str(store.local_path("model.safetensors")) == path
    assert store.local_path("config.json") is None
    assert store.read("model.safetensors", 7, 9) == WEIGHTS[7:16]
    assert len(tiny.log) == 1


def test_a_cached_content_serves_another_commit(tiny: LoopbackHub, folder: Path) -> None:
    hf_hub_download("acme/tiny", "model.safetensors")
    (folder / "config.json").write_text("{}")
    tiny.add_repo("acme/tiny", folder)
    store = HubStore("acme/tiny")
    path = store.local_path("model.safetensors")
    assert path is not None
    assert path.read_bytes() == WEIGHTS
    assert store.commit == tiny.repos["acme/tiny"].branches["main"]


def test_a_cached_file_of_another_size_is_not_trusted(tiny: LoopbackHub) -> None:
    path = Path(hf_hub_download("acme/tiny", "model.safetensors"))
    path.resolve().write_bytes(b"half")
    store = HubStore("acme/tiny")
    assert store.local_path("model.safetensors") is None
    assert store.read("model.safetensors", 7, 9) == WEIGHTS[7:16]


def test_hashes_in_a_listing_name_no_paths(tiny: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"123")
    entry = {"type": "file", "path": "a.bin", "size": 3, "oid": "../" * 9 + str(tmp_path / "secret").lstrip("/")}
    tiny.fault("tree", body=json.dumps([entry]).encode())
    assert HubStore("acme/tiny").local_path("a.bin") is None


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_offline_reads_a_snapshot(tiny: LoopbackHub, offline: Callable[[], None]) -> None:
    online = HubStore("acme/tiny", subfolder="sub").files()
    snapshot_download("acme/tiny")
    tiny.log.clear()
    offline()
    store = HubStore("acme/tiny")
    assert store.read("model.safetensors", 7, 9) == WEIGHTS[7:16]
    assert store.commit == tiny.repos["acme/tiny"].branches["main"]
    assert HubStore("acme/tiny", subfolder="sub").files() == online
    assert list(HubStore("acme/tiny", revision=store.commit).files()) == ["config.json", "model.safetensors"]
    assert (tiny.log, store.requests) == ([], 0)


def test_offline_with_a_partial_snapshot(tiny: LoopbackHub, offline: Callable[[], None]) -> None:
    hf_hub_download("acme/tiny", "config.json")
    offline()
    store = HubStore("acme/tiny")
    assert list(store.files()) == ["config.json"]
    assert problem(lambda: store.read("model.safetensors", 0, 8)) == (
        f"{store.label}: model.safetensors: is not in the local cache, and HF_HUB_OFFLINE is set: unset it to read "
        "the file from the Hub, or fetch it first: hf download acme/tiny model.safetensors"
    )
    assert "the folder is not in the local cache" in problem(HubStore("acme/tiny", subfolder="sub").files)


def test_offline_without_the_repo_or_the_revision(tiny: LoopbackHub, offline: Callable[[], None]) -> None:
    hf_hub_download("acme/tiny", "config.json")
    offline()
    said = problem(HubStore("acme/other").files)
    assert said.startswith("acme/other: the repo is not in the local cache (")
    assert said.endswith(
        "HF_HUB_OFFLINE is set: unset it to read from the Hub, or fetch it first: hf download acme/other"
    )
    assert "revision 'v2' of the repo is not in the local cache" in problem(HubStore("acme/tiny", revision="v2").files)
    assert "is not in the local cache" in problem(HubStore("acme/tiny", revision="../../x").files)


def test_going_offline_in_the_middle(tiny: LoopbackHub, offline: Callable[[], None]) -> None:
    store = HubStore("acme/tiny")
    store.files()
    offline()
    assert "HF_HUB_OFFLINE is set" in problem(lambda: store.read("config.json", 0, 2))
