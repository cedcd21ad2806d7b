"""Every rule file in the docs is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ckptmap.rules.rules import Rules

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"


@pytest.mark.parametrize("block", re.findall(r"^```ckptmap\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE))
def test_it_is_read(block: str) -> None:
    rules = Rules.parse(block, str(PAGE))
    assert rules.rules
    assert Rules.parse(str(rules)) == rules
