"""What it takes to list a large model on the Hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import files
import measure
from measure import ROOT, Row, Run

HOW = """\
A repo of 100 shards of 60 tensors each, with its index, on a small Hub on loopback that takes 50 ms before every answer
and sends files itself, with no redirect. `open_checkpoint` against `HfApi().get_safetensors_metadata`, each with an
empty cache. Requests and bytes of answers as the server's log has them, wall time of the call without imports, medians
of 7; both must list the same. Not measured: `get_sharded_safetensors_metadata`, by which the Hub itself, and no other
server, answers for the main branch in one request."""

SHARDS = 100
TENSORS = 60
LATENCY = 0.05
REPO = "acme/large"
REQUESTS_BAR = 102
BYTES_BAR = 1 / 3
TIME_BAR = 1 / 2


def run(folder: Path) -> list[Row]:
    """Measure both against one server."""
    sys.path.insert(0, str(ROOT))  # the server is part of the tests
    from tests.hub.loopback import LoopbackHub

    repo = folder / "repo"
    repo.mkdir()
    _write_repo(repo)
    with LoopbackHub(latency=LATENCY) as hub:
        hub.add_repo(REPO, repo)
        requests: dict[str, list[int]] = {"ckptmap_open_remote": [], "hub_metadata": []}
        received: dict[str, list[int]] = {name: [] for name in requests}
        found: list[Any] = []

        def runner(name: str) -> Callable[[], Run]:
            def run() -> Run:
                asked = len(hub.asked())
                home = folder / f"home-{len(found)}"
                measured, listed = measure.subject(name, REPO, environment=_environment(hub.url, home))
                answers = hub.asked()[asked:]
                requests[name].append(len(answers))
                received[name].append(sum(logged.sent for logged in answers))
                found.append(listed)
                return measured

            return run

        took = measure.by_turns(7, **{name: runner(name) for name in requests})
    measure.agree(found)
    ours, client = took.values()
    our_requests, client_requests = (median(counts) for counts in requests.values())
    our_bytes, client_bytes = (median(counts) for counts in received.values())
    bytes_ratio, time_ratio = our_bytes / client_bytes, ours.call / client.call
    return [
        Row(
            f"list a repo of {SHARDS} shards at {LATENCY * 1000:.0f} ms, requests",
            f"{our_requests:.0f}",
            f"`get_safetensors_metadata`: {client_requests:.0f}",
            our_requests / client_requests,
            f"≤ {REQUESTS_BAR}",
            our_requests <= REQUESTS_BAR,
        ),
        Row(
            "the same, bytes received",
            f"{our_bytes / 1e6:.2f} MB",
            f"{client_bytes / 1e6:.2f} MB",
            bytes_ratio,
            "≤ 1/3",
            bytes_ratio <= BYTES_BAR,
        ),
        Row(
            "the same, time",
            f"{ours.call:.2f} s",
            f"{client.call:.2f} s",
            time_ratio,
            "≤ 1/2",
            time_ratio <= TIME_BAR,
        ),
    ]


def _write_repo(folder: Path) -> None:
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        names = [f"model.layers.{shard}.mlp.experts.{n}.down_proj.weight" for n in range(TENSORS)]
        files.write_safetensors(folder / file, dict.fromkeys(names, (512, 256)))
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": SHARDS * TENSORS * 512 * 256 * 2}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text('{"model_type": "mixtral"}')


def _environment(url: str, home: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
