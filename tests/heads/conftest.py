"""Inventories of classes are kept where the test session can forget them."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # One folder a worker, so that a class is asked for once and tests do not wait for it again.
    folder = tmp_path_factory.getbasetemp() / "class-inventories"
    monkeypatch.setenv("CKPTMAP_CACHE", str(folder))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CKPTMAP_CACHE", str(folder))
    return folder
