"""How large a model may be that is built to learn its names: a number in a config must not fill the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ckptmap.errors import ArchitectureError

MOST_MODULES, MOST_LABELS = 4096, 1_000_000
"""Layers, experts and the like become modules of their own; the deepest published models have hundreds."""
_MODULES = frozenset(
    f"{word}{ending}" for word in ("layer", "block", "depth", "stage", "expert", "repeat") for ending in ("", "s")
)
_NO_COUNT = frozenset(("size", "sizes", "dim", "dims", "width", "id", "ids", "idx", "index", "indices", "freq", "rate"))
"""Words of the names of fields, which say that modules are counted, and that it is another thing."""
_LABELS = re.compile(r"(^|_)num_(labels|classes)$")


def check_counts(config: Mapping[str, Any], class_name: str) -> None:
    """Refuse a config that asks for more modules or labels than a model has.

    Args:
        config: The fields of a config.json, sections in it too.
        class_name: For the message.

    Raises:
        ArchitectureError: With the field and the bound.
    """
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        place, value = waiting.pop()
        key = place.rpartition(".")[2]
        if isinstance(value, Mapping):
            waiting += [(f"{place}.{key}" if place else str(key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            if _most(key) and len(value) > MOST_MODULES:
                raise _too_many(class_name, place, f"a list of {len(value):,}", MOST_MODULES)
            waiting += [(place, inner) for inner in value if isinstance(inner, int | list | Mapping)]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            most = _most(key)
            if most is not None and value > most:
                raise _too_many(class_name, place, f"{value:,}", most)


def _most(key: str) -> int | None:
    if _LABELS.search(key):
        return MOST_LABELS
    words = set(key.lower().split("_"))
    return MOST_MODULES if words & _MODULES and not words & _NO_COUNT else None


def _too_many(class_name: str, place: str, found: str, most: int) -> ArchitectureError:
    return ArchitectureError(
        f"{class_name}: {place[:80]} is {found[:40]} in its config, and a model that is built to learn its names "
        f"may have {most:,} at most; check the config"
    )
