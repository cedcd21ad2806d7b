"""The docs name every verb, flag and JSON field, and what they show is what happens."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptmap
from ckptmap.__main__ import main
from ckptmap.cli.main import VERBS, make_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> Iterator[pytest.param]:
    for page in PAGES:
        for number, (kind, text) in enumerate(BLOCK.findall(page.read_text())):
            if kind == language:
                yield pytest.param(text, id=f"{page.name}-{number}")


def subparsers() -> dict[str, argparse.ArgumentParser]:
    parser = make_parser()
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def test_every_verb_and_flag_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    sections = dict(re.findall(r"^## `ckptmap (\w+)[^\n]*`\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    assert set(sections) == set(VERBS)
    for verb, parser in subparsers().items():
        flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
        documented = set(re.findall(r"`(--?[a-z][a-z-]*)", sections[verb] + page.partition("\n## ")[0]))
        assert flags <= documented, f"{verb}: not in docs/commands.md: {flags - documented}"
        own = set(re.findall(r"`(--?[a-z][a-z-]*)", sections[verb]))
        assert own <= flags, f"{verb}: documented but not there: {own - flags}"


def test_every_json_field_is_documented(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "json.md").read_text()
    one, other = str(fixtures / "roberta-mlm"), str(fixtures / "roberta-cls")
    for verb, operands in (("inspect", [one]), ("diff", [one, other])):
        main([verb, *operands, "--format", "json"])
        section = re.search(rf"^## {verb}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        assert section is not None
        fields = json.loads(capsys.readouterr().out)
        missing = [field for field in fields if f"`{field}`" not in section[1]]
        assert not missing, f"{verb}: not in docs/json.md: {missing}"


@pytest.mark.parametrize("block", blocks("console"))
def test_a_console_block_prints_what_it_shows(block: str) -> None:
    """`$ command` lines, each followed by its output; a line `…` stands for any lines."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        argv = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
        pattern = ".*\n".join(re.escape(piece) for piece in shown.split("…\n"))
        assert re.fullmatch(pattern, done.stdout, re.DOTALL), done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_runs(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(block, "docs", "exec"), {})


def test_every_shell_block_is_one_of_the_two_commands_that_ci_and_people_run() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    lines = [line for (text,) in (p.values for p in blocks("sh")) for line in text.splitlines()]
    install, test = "pip install -c constraints.txt . && ", "pip install -c constraints.txt -e '.[test]' && pytest"
    assert test in lines
    assert test in ci
    assert any(line.startswith(install + "ckptmap diff fixtures/") for line in lines)


def test_public_names_are_documented() -> None:
    public = [name for name in vars(ckptmap) if not name.startswith("_") and hasattr(getattr(ckptmap, name), "__doc__")]
    undocumented = [name for name in public if not getattr(ckptmap, name).__doc__]
    assert not undocumented
