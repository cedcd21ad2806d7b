"""What all tests share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ckptmap.cli import progress

# Nothing in a test may wait for the network; tests of the Hub point the client at a server of their own.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# What classes expect is kept where the session can forget it, one folder a worker: each class is asked for once.
os.environ["CKPTMAP_CACHE"] = tempfile.mkdtemp(prefix="ckptmap-tests-")

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_sign_of_life_in_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine it would stand between the lines that tests expect."""
    monkeypatch.setattr(progress, "LOG_EVERY", float("inf"))


@pytest.fixture
def fixtures() -> Path:
    return ROOT / "fixtures"
