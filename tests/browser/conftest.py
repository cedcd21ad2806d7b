"""A browser for the tests of pages, started once; without one they are skipped, and say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, Tab, chromium, running


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no browser: install chromium to test the pages of --html")
    with running(path, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    """An empty page; whatever its console complains of fails the test."""
    with browser.tab() as opened:
        yield opened
        opened.run("1")
        assert opened.problems == []
        assert [url for url in opened.requests if not url.startswith(("file:", "about:"))] == []


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "report.html"
