"""The page itself: data, styles and scripts in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ckptmap.errors import CheckpointError
from ckptmap.files import trouble, write_text
from ckptmap.printable import masked

SCRIPTS = (
    "basics.js",
    "links.js",
    "tree.js",
    "rows.js",
    "matching.js",
    "details.js",
    "picks.js",
    "tables.js",
    "heat.js",
    "page.js",
)
"""In the order in which they build on each other; together they are one script."""

BEGINNING = b"<!doctype html>"
"""How our pages begin; a file that begins otherwise is never overwritten."""


def page(data: dict[str, Any]) -> str:
    """The page that shows this data.

    Args:
        data: What the functions beside this file make: `kind`, `headline`, `facts`, … as docs/reports.md describes.
    """
    style, script = _asset("page.css"), "\n".join(map(_asset, SCRIPTS))
    # Scripts and styles run by their hash alone, whatever a name in the data may look like, and nothing reaches out.
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": _embedded(data)}
    before, *slots = _asset("page.html").split("<!--[")
    return before + "".join(parts[name] + rest for name, rest in (slot.split("]-->", 1) for slot in slots))


def check_target(target: Path) -> None:
    """Refuse early what `write_page` could not or should not write: no old report, but a checkpoint, say.

    Raises:
        CheckpointError: With what to do.
    """
    if target.is_dir():
        raise CheckpointError("is a folder; name a file in it", source=str(target))
    if target.exists() and not target.is_file():
        raise CheckpointError("is a pipe or a device; name a file", source=str(target))
    if not target.parent.is_dir():
        raise CheckpointError("cannot be written: its folder does not exist", source=str(target))
    with trouble(target), suppress(FileNotFoundError), target.open("rb") as old:
        beginning = old.read(len(BEGINNING))
        if beginning and beginning.lower() != BEGINNING:
            raise CheckpointError("exists and is no HTML; name another file, or delete it first", source=str(target))


def write_page(target: Path, data: dict[str, Any]) -> None:
    """Write the page whole or not at all; a report from an earlier run is overwritten.

    Raises:
        CheckpointError: It cannot be written; the old file is still there.
    """
    check_target(target)
    write_text(Path(os.path.realpath(target)), page(data).encode())


def _embedded(data: dict[str, Any]) -> str:
    """JSON of plain ASCII in which no tag and no comment can begin or end."""
    text = masked(json.dumps(data, separators=(",", ":"), allow_nan=False))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _asset(name: str) -> str:
    return files("ckptmap.report.html").joinpath("assets", name).read_text("utf-8")
