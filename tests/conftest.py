"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Nothing in a test may wait for the network; tests of the Hub point the client at a server of their own.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

ROOT = Path(__file__).parent.parent


@pytest.fixture
def fixtures() -> Path:
    return ROOT / "fixtures"
