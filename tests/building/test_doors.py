"""The doors between modules open one way, and heavy libraries are imported late, in the rooms that may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ckptmap"
FILES = sorted(PACKAGE.rglob("*.py"))

# Rooms from the ground up: a module imports from its own room and from rooms before it.
FLOORS = (
    "errors",
    "printable",
    "renames",
    "files",
    "printing",
    "stages",
    "threads",
    "spec",
    "patterns",
    "stores",
    "formats",
    "sources",
    "checkpoint",
    "safety",
    "heads",
    "rules",
    "writing",
    "conversion",
    "exports",
    "exporting",
    "values",
    "diff",
    "infer",
    "align",
    "remapping",
    "verifying",
    "report",
    "cli",
)
ENTRANCES = {"__init__", "__main__"}

# Libraries that cost time to import, and the only places that may do so, inside a function.
LATE = {
    "torch": {
        "formats/live.py",
        "heads/library.py",
        "heads/public_road.py",
        "heads/untouched.py",
        "conversion/",
        "exports/",
        "infer/",
        "align/",
    },
    "numpy": {"values/", "infer/", "align/", "remapping.py", "verifying.py"},
    "transformers": {"heads/library.py", "exports/loading.py"},
    "safetensors": set(),
    "huggingface_hub": {"stores/"},
    "httpx2": {"stores/"},
    "rich": {"report/", "cli/"},
    "shtab": {"cli/"},
}

# Rooms of which every file needs the heavy libraries; whoever uses them imports them late.
BEHIND_A_DOOR = ("align/prove/", "align/diagnose/", "infer/sketch.py")

# What a notebook shows of a value is what a report says of it, and reports stand above all values. So one method of
# each of these looks up, when a notebook calls it, to one module; nothing else of theirs may, and no other file's.
SHOWN_IN_NOTEBOOKS = {"diff.py", "heads/reports.py", "remapping.py", "rules/rules.py", "infer/proof.py"}
LOOKS_UP, LOOKS_UP_TO = "_repr_html_", "ckptmap.report.html.notebook"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module a file imports, and whether that happens when the file itself is imported."""
    tree = ast.parse(path.read_text())
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    looking_up = {
        id(inner)
        for node in methods_that_look_up(path, tree)
        for inner in ast.walk(node)
        if isinstance(inner, ast.ImportFrom) and inner.module == LOOKS_UP_TO
    }
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing or id(node) in looking_up:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or "", id(node) not in inside
            yield from ((f"{node.module}.{alias.name}", id(node) not in inside) for alias in node.names)


def methods_that_look_up(path: Path, tree: ast.Module) -> list[ast.FunctionDef]:
    if path.relative_to(PACKAGE).as_posix() not in SHOWN_IN_NOTEBOOKS:
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == LOOKS_UP]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_from_the_rooms_below_it(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own in ENTRANCES:
        return
    for module, _ in imports(path):
        if module.startswith("ckptmap.") and room(module) in FLOORS:
            assert FLOORS.index(room(module)) <= FLOORS.index(own), f"{path.name} imports {module}"


def test_each_value_that_notebooks_show_has_the_one_method_that_looks_up() -> None:
    for place in SHOWN_IN_NOTEBOOKS:
        path = PACKAGE / place
        assert len(methods_that_look_up(path, ast.parse(path.read_text()))) == 1, place


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_come_late_and_only_where_they_may(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for module, at_import in imports(path):
        allowed = LATE.get(module.split(".")[0])
        if allowed is not None:
            assert any(place.startswith(prefix) for prefix in allowed), f"{place} may not import {module}"
            assert not at_import or place.startswith(BEHIND_A_DOOR), f"{place} imports {module} at its top"


def test_every_room_is_on_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert rooms - ENTRANCES == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_swallows_everything(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420, "which two things is it?"
