"""Class inventories kept on disk, so that the next question about the same class needs no import of transformers.

The folder is `$CKPTMAP_CACHE`, else `$XDG_CACHE_HOME/ckptmap`, else `~/.cache/ckptmap`; deleting it is always safe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ckptmap.heads.inventory import ClassInventory

FORMAT = 1
"""Raised whenever an inventory or what it means changes."""


def cache_folder() -> Path | None:
    """Where inventories are kept; None where nobody knows, as for a user without a home."""
    try:
        if chosen := os.environ.get("CKPTMAP_CACHE"):
            return Path(chosen).expanduser() / "heads"
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home) if home else Path.home() / ".cache") / "ckptmap" / "heads"
    except RuntimeError:
        return None


def cache_key(
    class_name: str, config: Mapping[str, Any], overrides: Mapping[str, Any], key_mapping: Mapping[str, str] | None
) -> str:
    """The file name of an inventory: a hash of all that it depends on."""
    from hashlib import sha256

    # The rules of a key mapping apply in their order; that of a config says nothing.
    rules = list(key_mapping.items()) if key_mapping else None
    what = [FORMAT, _version("transformers"), _version("torch"), class_name, config, overrides, rules]
    text = json.dumps(what, sort_keys=True, default=str)
    return f"{class_name}-{sha256(text.encode()).hexdigest()[:32]}.json"


def cached(key: str) -> ClassInventory | None:
    """The inventory kept under a key; None where there is none or it cannot be read."""
    folder = cache_folder()
    try:
        if folder is None or not (folder / key).is_file():  # a pipe would keep us waiting
            return None
        return ClassInventory.from_json(json.loads((folder / key).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None


def keep(key: str, inventory: ClassInventory) -> None:
    """Keep an inventory, whole or not at all; a folder that cannot be written is no error."""
    from tempfile import NamedTemporaryFile

    folder = cache_folder()
    if folder is None:
        return
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as file:
            try:
                json.dump(inventory.to_json(), file, separators=(",", ":"))
                file.close()
                os.replace(file.name, folder / key)
            except OSError:
                os.unlink(file.name)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
