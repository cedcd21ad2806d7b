"""HubStore against olah, a Hub server that is not ours: it knows no ranges and lists no root folder."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path

import pytest

from ckptmap.stores.hub import HubStore
from tests.hub.conftest import CONFIG, WEIGHTS, UseHub

pytestmark = pytest.mark.skipif(find_spec("olah") is None, reason="olah is not installed (pip install ckptmap[test])")

SETTINGS = """
[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{folder}/repos"
mirrors-path = ["{folder}/mirrors"]

[accessibility]
offline = true
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _commit(folder: Path) -> None:
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True, timeout=30)


@pytest.fixture
def olah(folder: Path, tmp_path: Path) -> Iterator[str]:
    """Address of an olah that serves the folder as acme/tiny from a git repository, and asks nobody else."""
    repo = tmp_path / "mirrors" / "models" / "acme" / "tiny"
    repo.parent.mkdir(parents=True)
    folder.rename(repo)
    _commit(repo)
    for _ in range(3):
        port = _free_port()
        settings = tmp_path / "olah.toml"
        settings.write_text(SETTINGS.format(port=port, folder=tmp_path))
        command = [sys.executable, "-m", "olah.server", "--config", str(settings), "--log-path", str(tmp_path / "logs")]
        with (tmp_path / "olah.out").open("wb") as output:
            server = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
        try:
            # Another test may have taken the port in the meantime; then olah ends, and another port is tried.
            if _is_up(port, server):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            server.terminate()
            server.wait(10)
    pytest.fail(f"olah did not start:\n{(tmp_path / 'olah.out').read_text()}")


def _is_up(port: int, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/api/models/acme/none/tree/main/x")
            if connection.getresponse().getheader("server") == "uvicorn":
                return True
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    return False


def test_listing_and_bytes_are_those_of_the_repository(olah: str, use_hub: UseHub, pauses: list[float]) -> None:
    use_hub(olah)
    store = HubStore("acme/tiny")
    assert {name: stored.size for name, stored in store.files().items()} == {
        "config.json": len(CONFIG),
        "model.safetensors": len(WEIGHTS),
    }
    assert store.commit is not None
    assert store.read("config.json", 0, len(CONFIG)) == CONFIG
    assert store.read("model.safetensors", 0, 1000) == WEIGHTS[:1000]
    assert store.read("model.safetensors", 400_003, 700) == WEIGHTS[400_003:400_703]

    below = HubStore("acme/tiny", subfolder="sub")
    assert list(below.files()) == ["pytorch_model.bin"]
    assert below.read("pytorch_model.bin", 990, 10) == WEIGHTS[990:1000]
