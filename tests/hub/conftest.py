"""A Hub on loopback, and a client that knows no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from ckptmap.errors import CheckpointError
from tests.hub.loopback import LoopbackHub

UseHub = Callable[[str], None]


@pytest.fixture
def use_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[UseHub]:
    """Point huggingface_hub at an address, with an empty home, no login and no patience for stalls."""

    def use(url: str) -> None:
        home = tmp_path / "hf"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({urlsplit(url).hostname}))
        monkeypatch.setattr(constants, "HF_HOME", str(home))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # Without it the client asks the Hub which agents there are, to put one in its user agent.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
        close_session()

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield use
    close_session()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses a store would have made, without making them."""
    made: list[float] = []
    monkeypatch.setattr("ckptmap.stores.hub_http._sleep", made.append)
    return made


@pytest.fixture
def hub(use_hub: UseHub, pauses: list[float]) -> Iterator[LoopbackHub]:
    """A loopback Hub that the client uses; `pauses` records its waits."""
    with LoopbackHub() as server:
        use_hub(server.url)
        yield server


CONFIG = b'{"model_type": "bert"}'
WEIGHTS = bytes(range(256)) * 2000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repo's files: two at its root, one in a folder, one deeper."""
    made = tmp_path / "acme"
    (made / "sub" / "deep").mkdir(parents=True)
    (made / "config.json").write_bytes(CONFIG)
    (made / "model.safetensors").write_bytes(WEIGHTS)
    (made / "sub" / "pytorch_model.bin").write_bytes(WEIGHTS[:1000])
    (made / "sub" / "deep" / "x.txt").write_bytes(b"x")
    return made


@pytest.fixture
def tiny(hub: LoopbackHub, folder: Path) -> LoopbackHub:
    """The Hub with that folder as acme/tiny."""
    hub.add_repo("acme/tiny", folder)
    return hub


def problem(run: Callable[[], object]) -> str:
    """What the CheckpointError says that a call must raise."""
    with pytest.raises(CheckpointError) as caught:
        run()
    return str(caught.value)
