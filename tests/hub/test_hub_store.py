"""HubStore against a loopback Hub: what it asks and what it reads."""

from __future__ import annotations

import hashlib
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptmap.stores.hub import HubStore
from tests.hub.conftest import CONFIG, WEIGHTS, problem
from tests.hub.loopback import TOKEN, LoopbackHub


def test_one_listing_then_ranges_at_its_commit(tiny: LoopbackHub) -> None:
    store = HubStore("acme/tiny")
    assert store.label == "acme/tiny"
    files = store.files()
    assert list(files) == ["config.json", "model.safetensors"]
    assert files["model.safetensors"].content_hash == "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()
    assert store.read("model.safetensors", 300, 1000) == WEIGHTS[300:1300]
    assert store.read("config.json", 0, len(CONFIG)) == CONFIG
    commit = tiny.repos["acme/tiny"].branches["main"]
    assert (store.commit, store.label) == (commit, f"acme/tiny@{commit[:7]}")
    assert [logged.path.partition("?")[0] for logged in tiny.log] == [
        "/api/models/acme/tiny/tree/main",
        f"/acme/tiny/resolve/{commit}/model.safetensors",
        f"/acme/tiny/resolve/{commit}/config.json",
    ]
    assert tiny.log[1].range == "bytes=300-1299"
    assert store.requests == 3
    assert store.bytes_received == sum(logged.sent for logged in tiny.log)


def test_without_a_commit_in_the_listing_the_first_read_fixes_it(tiny: LoopbackHub) -> None:
    tiny.commit_in_listing = False
    store = HubStore("acme/tiny")
    store.files()
    assert store.commit is None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda start: store.read("model.safetensors", start, 10), range(8)))
    commit = tiny.repos["acme/tiny"].branches["main"]
    assert store.commit == commit
    revisions = [logged.path.split("/")[4] for logged in tiny.asked("resolve")]
    assert revisions == ["main"] + [commit] * 7


def test_pages_of_a_long_listing_are_followed(tiny: LoopbackHub, folder: Path) -> None:
    for number in range(7):
        (folder / f"{number}.txt").write_text("x")
    tiny.add_repo("acme/tiny", folder)
    tiny.page_size = 2
    assert len(HubStore("acme/tiny").files()) == 9
    assert len(tiny.asked("tree")) == 5


def test_a_subfolder_is_the_root_of_its_names(tiny: LoopbackHub) -> None:
    store = HubStore("acme/tiny", subfolder="sub/")
    assert list(store.files()) == ["pytorch_model.bin"]
    assert store.read("pytorch_model.bin", 1, 3) == WEIGHTS[1:4]
    assert store.label.endswith("/sub")
    assert list(HubStore("acme/tiny", subfolder="sub/deep").files()) == ["x.txt"]


def test_revisions_with_slashes_and_commits(tiny: LoopbackHub, folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    commit = tiny.add_repo("acme/tiny", folder, "refs/pr/3")
    assert HubStore("acme/tiny", revision="refs/pr/3").size("config.json") == 2
    store = HubStore("acme/tiny", revision=commit)
    assert store.commit == commit
    assert store.read("config.json", 0, 2) == b"{}"


def test_a_renamed_repo_is_asked_by_its_new_name(tiny: LoopbackHub) -> None:
    tiny.renamed["old-tiny"] = "acme/tiny"
    store = HubStore("old-tiny")
    assert store.read("config.json", 0, len(CONFIG)) == CONFIG
    assert len(tiny.asked("resolve")) == 1
    assert store.requests == 3


def test_hundred_shards_take_102_requests(hub: LoopbackHub, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    header = json.dumps({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    names = [f"model-{number:05d}-of-00100.safetensors" for number in range(1, 101)]
    for name in names:
        (many / name).write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    (many / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))
    hub.add_repo("acme/many", many)
    store = HubStore("acme/many")
    index = "model.safetensors.index.json"
    shards = json.loads(store.read(index, 0, store.size(index)))["weight_map"]
    with ThreadPoolExecutor(store.parallel) as pool:
        read = list(pool.map(lambda name: store.read(name, 0, store.size(name)), shards))
    assert {len(data) for data in read} == {8 + len(header) + 4}
    assert len(hub.log) == store.requests == 102


def test_thirty_two_threads_read_the_right_bytes(tiny: LoopbackHub) -> None:
    tiny.latency = 0.005
    store = HubStore("acme/tiny")
    with ThreadPoolExecutor(32) as pool:
        read = list(pool.map(lambda start: store.read("model.safetensors", start * 1000, 1000), range(200)))
    assert b"".join(read) == WEIGHTS[:200_000]
    assert len(tiny.asked("tree")) == 1
    assert store.requests == 201


def test_no_login_is_sent_to_a_cdn_on_another_host(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    tiny.cdn = "other"
    store = HubStore("acme/tiny")
    assert store.read("model.safetensors", 10, 10) == WEIGHTS[10:20]
    at_cdn = [logged for logged in tiny.log if logged.server == "cdn"]
    assert [(logged.authorization, logged.range) for logged in at_cdn] == [(None, "bytes=10-19")]
    assert {logged.authorization for logged in tiny.log if logged.server == "hub"} == {f"Bearer {TOKEN}"}
    assert store.requests == 3
    assert store.commit == tiny.repos["acme/tiny"].branches["main"]


def test_redirects_on_the_same_host_are_followed(tiny: LoopbackHub) -> None:
    tiny.cdn = "same"
    tiny.commit_in_listing = False
    store = HubStore("acme/tiny")
    assert store.read("model.safetensors", 10, 10) == WEIGHTS[10:20]
    assert store.commit == tiny.repos["acme/tiny"].branches["main"]


def test_no_bytes_need_no_request(tiny: LoopbackHub) -> None:
    store = HubStore("acme/tiny")
    assert store.read("config.json", 3, 0) == b""
    assert store.requests == 1


@pytest.mark.parametrize("weights", [WEIGHTS[:-1], WEIGHTS[:-1] + b"?", None])
def test_a_branch_that_moves_between_listing_and_read(tiny: LoopbackHub, folder: Path, weights: bytes | None) -> None:
    tiny.commit_in_listing = False
    store = HubStore("acme/tiny")
    store.files()
    if weights is None:
        (folder / "model.safetensors").unlink()
    else:
        (folder / "model.safetensors").write_bytes(weights)
    tiny.fault("resolve", before=lambda: tiny.add_repo("acme/tiny", folder))
    assert "model.safetensors: the repo changed while it was read, run again" in problem(
        lambda: store.read("model.safetensors", 0, 10)
    )


def test_a_pinned_commit_does_not_move(tiny: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    store = HubStore("acme/tiny")
    store.files()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    tiny.add_repo("acme/tiny", other)
    assert store.read("config.json", 0, len(CONFIG)) == CONFIG


@pytest.mark.parametrize("status", [404, 405, 500, 501])
def test_without_a_listing_of_folders_the_repo_is_asked(tiny: LoopbackHub, status: int) -> None:
    tiny.fault("/tree/", status=status, times=None)
    store = HubStore("acme/tiny", subfolder="sub")
    assert list(store.files()) == ["pytorch_model.bin"]
    assert store.files() == HubStore("acme/tiny", subfolder="sub").files()
    assert store.commit == tiny.repos["acme/tiny"].branches["main"]


def test_a_listing_that_fails_and_hangs_up(tiny: LoopbackHub) -> None:
    tiny.fault("/tree/", status=500, times=3)
    tiny.fault("/tree/", drop_after=5)
    assert "config.json" in HubStore("acme/tiny").files()
    assert len(tiny.asked("/revision/")) == 1


def test_sizes_that_the_repo_does_not_tell_are_asked_for(tiny: LoopbackHub) -> None:
    expected = HubStore("acme/tiny").files()
    tiny.fault("/tree/", status=404, times=None)
    names = [{"rfilename": name} for name in expected]
    info = {"sha": tiny.repos["acme/tiny"].branches["main"], "siblings": names}
    tiny.fault("/revision/", body=json.dumps(info).encode())
    assert HubStore("acme/tiny").files() == expected
    assert len(tiny.asked("paths-info")) == 1


def test_a_server_that_is_no_hub(tiny: LoopbackHub) -> None:
    tiny.fault("/api/", status=404, times=None)
    said = problem(HubStore("acme/tiny").files)
    assert said == (f"acme/tiny: /api/models/acme/tiny/tree/main answers 404; is {tiny.url} a Hub? Check HF_ENDPOINT")
