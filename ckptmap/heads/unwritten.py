"""Parameters that transformers allocates and never writes when a checkpoint lacks them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


def known_unwritten(class_name: str) -> frozenset[str]:
    """Names of a class that hold whatever the memory held, as `benchmarks/unwritten.py` saw it in real loads."""
    return frozenset(_table().get(class_name, ()))


@cache
def _table() -> Mapping[str, list[str]]:
    classes: Mapping[str, list[str]] = json.loads((files("ckptmap.heads") / "unwritten.json").read_text())["classes"]
    return classes
