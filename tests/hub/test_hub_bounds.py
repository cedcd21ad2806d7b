"""A server that never ends, sends too much or too slowly, or says a secret back: an error that names the bound."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file

from ckptmap.stores import hub_http
from ckptmap.stores.hub import HubStore
from tests.hub.conftest import WEIGHTS, problem
from tests.hub.loopback import TOKEN, LoopbackHub


def test_a_listing_without_end(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_http, "MAX_PAGES", 20)
    again = f'<{tiny.url}/api/models/acme/tiny/tree/main?recursive=true&cursor=0>; rel="next"'
    tiny.fault("tree", headers={"Link": again}, times=None)
    assert "the listing has more than 20 pages" in problem(HubStore("acme/tiny").files)


def test_a_listing_with_too_many_entries(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_http, "MOST_ENTRIES", 100)
    entry = b'{"type": "file", "path": "x", "size": 1, "oid": "0"}'
    tiny.fault("tree", body=b"[" + b", ".join([entry] * 101) + b"]", times=None)
    assert "the listing has more than 100 entries" in problem(HubStore("acme/tiny").files)


@pytest.mark.parametrize("status", [None, 404])
def test_an_answer_that_grows_when_it_is_unpacked(tiny: LoopbackHub, status: int | None) -> None:
    bomb = gzip.compress(bytes(200_000_000))
    tiny.fault("tree", body=bomb, headers={"Content-Encoding": "gzip"}, status=status, times=None)
    assert "bytes" in (said := problem(HubStore("acme/tiny").files))
    assert "answers with more than" in said


@pytest.mark.parametrize("what", ["tree", "resolve"])
def test_a_server_that_drips(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(hub_http, "SLOW_AFTER", 0.2)
    store = HubStore("acme/tiny")
    if what == "resolve":
        store.files()
    tiny.fault(what, drip=0.02, times=None)
    start = time.monotonic()
    said = problem(store.files if what == "tree" else lambda: store.read("model.safetensors", 0, 1000))
    assert "sends less than 200 bytes a second; run again later" in said
    assert time.monotonic() - start < 10


def test_a_server_that_always_limits(tiny: LoopbackHub, pauses: list[float]) -> None:
    tiny.fault("tree", status=429, headers={"Retry-After": "0"}, times=None)
    assert "the server limits them (429)" in problem(HubStore("acme/tiny").files)
    assert sum(pauses) <= hub_http.LONGEST_WAIT


@pytest.mark.parametrize("message", [f"no access for {TOKEN}", "x" * 195 + TOKEN])
def test_a_token_that_a_server_echoes_is_masked(
    tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    tiny.fault("tree", status=403, message=message, times=None)
    assert TOKEN[:7] not in problem(HubStore("acme/tiny").files)


def test_a_file_with_another_etag_than_before_is_refused(tiny: LoopbackHub) -> None:
    store = HubStore("acme/tiny")
    tiny.fault("resolve", headers={"ETag": '"first"'})
    assert store.read("model.safetensors", 0, 10) == WEIGHTS[:10]
    tiny.fault("resolve", headers={"ETag": '"second"'})
    assert "the repo changed while it was read" in problem(lambda: store.read("model.safetensors", 10, 10))


@pytest.mark.parametrize("shards", [1, 40])
def test_ctrl_c_ends_stalled_reads_at_once(tmp_path: Path, shards: int) -> None:
    import torch

    folder = tmp_path / "repo"
    folder.mkdir()
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for number, name in enumerate(names):
        save_file({f"t{number}": torch.zeros(2)}, folder / name)
    index = {"weight_map": {f"t{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with LoopbackHub() as server:
        server.add_repo("acme/stalled", folder)
        server.fault("safetensors$", stall_after=0, times=None)
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        argv = [str(Path(sys.executable).with_name("ckptmap")), "inspect", "acme/stalled"]
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(600):
            if server.asked("safetensors$"):
                break
            time.sleep(0.02)
        time.sleep(0.2)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert time.monotonic() - start < 2
    assert (process.returncode, said) == (130, "ckptmap: interrupted\n")


@pytest.mark.parametrize("verb", ["heads", "diff"])
def test_ctrl_c_in_an_import_ends_at_once(fixtures: Path, tmp_path: Path, verb: str) -> None:
    folder = str(fixtures / "roberta-cls")
    words = [verb, folder] + ([str(fixtures / "roberta-mlm")] if verb == "diff" else [])
    environment = {**os.environ, "CKPTMAP_CACHE": str(tmp_path)}
    argv = [str(Path(sys.executable).with_name("ckptmap")), *words]
    process = subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(1.0)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the children, too
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - start < 2
    assert process.returncode == 130
    assert "Traceback" not in said
