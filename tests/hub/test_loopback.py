"""The loopback Hub serves the unmodified clients, so that what is tested against it holds for a real one."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

from huggingface_hub import HfApi

from tests.hub.conftest import CONFIG, WEIGHTS
from tests.hub.loopback import TOKEN, LoopbackHub


def test_the_loopback_hub_serves_the_client(tiny: LoopbackHub) -> None:
    api = HfApi(endpoint=tiny.url)
    assert [branch.name for branch in api.list_repo_refs("acme/tiny").branches] == ["main"]
    assert [info.size for info in api.get_paths_info("acme/tiny", ["config.json"])] == [len(CONFIG)]
    assert api.model_info("acme/tiny", files_metadata=True).siblings[1].lfs.size == len(WEIGHTS)
    assert api.file_exists("acme/tiny", "config.json")
    assert not api.file_exists("acme/tiny", "nope")


CLIENT = """
import json, sys
from huggingface_hub import HfFileSystem, get_safetensors_metadata, hf_hub_download, snapshot_download
from transformers import AutoConfig

print(json.dumps({
    "config": AutoConfig.from_pretrained("acme/model").model_type,
    "tensors": sorted(get_safetensors_metadata("acme/model").files_metadata["model.safetensors"].tensors),
    "listed": [entry["size"] for entry in HfFileSystem().ls("acme/model", refresh=True)],
    "read": HfFileSystem().open("acme/model/model.safetensors").read(8).hex(),
    "snapshot": snapshot_download("acme/model"),
}))
"""


def test_the_unmodified_client_in_a_fresh_process(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    header = json.dumps({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + b"1234"
    (folder / "model.safetensors").write_bytes(weights)
    with LoopbackHub(cdn="other") as hub:
        hub.add_repo("acme/model", folder)
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", CLIENT],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert {logged.authorization for logged in hub.log if logged.server == "cdn"} == {None}
    assert said["config"] == "bert"
    assert said["tensors"] == ["t"]
    assert said["listed"] == [len(CONFIG), len(weights)]
    assert said["read"] == weights[:8].hex()
    assert (Path(said["snapshot"]) / "model.safetensors").read_bytes() == weights
