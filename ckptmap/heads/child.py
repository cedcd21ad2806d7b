"""Class inventories made in a process of their own, so that the caller's never imports torch or transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptmap.errors import ArchitectureError
from ckptmap.heads.classes import InternalsChangedError
from ckptmap.heads.inventory import ClassInventory

PATIENCE = 300
"""Seconds that a class may take to be built, the import of transformers included."""


def inventory_from_child(
    module: str,
    class_name: str,
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
    key_mapping: Mapping[str, str] | None,
) -> ClassInventory:
    """What a class expects, asked of transformers in a child process.

    Raises:
        ArchitectureError: The class cannot be built.
        InternalsChangedError: This release of transformers is not made as expected.
    """
    question = json.dumps([module, class_name, config, overrides, key_mapping])
    start = f"import sys; sys.path[:] = {_import_path()!r}; from {__name__} import main; main()"
    # Isolated: else Python puts the current folder, which may be a downloaded one, before its own library.
    argv = [sys.executable, "-I", "-c", start]
    try:
        done = subprocess.run(argv, input=question, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise ArchitectureError(f"{class_name}: was not built within {PATIENCE} s; check the config") from None
    try:
        kind, answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ArchitectureError(f"{class_name}: the process that asked transformers failed ({last})") from None
    if kind == "inventory":
        return ClassInventory.from_json(answer)
    raise (InternalsChangedError if kind == "internals" else ArchitectureError)(answer)


def _import_path() -> list[str]:
    """Where this process imports from, but for folders that are named from the current one, and this package last."""
    package = str(Path(__file__).resolve().parents[2])
    return [*(entry for entry in sys.path if os.path.isabs(entry)), package]


def main() -> None:
    """Answer one question from standard input on standard output."""
    from ckptmap.heads import library

    module, class_name, config, overrides, key_mapping = json.load(sys.stdin)
    try:
        cls = library.model_class(module, class_name)
        model = library.build(cls, library.class_config(cls, config, overrides))
        answer: list[object] = ["inventory", library.inventory_of(model, key_mapping).to_json()]
    except ArchitectureError as error:
        answer = ["architecture", str(error)]
    except InternalsChangedError as error:
        answer = ["internals", str(error)]
    print(f"\n{json.dumps(answer)}")
