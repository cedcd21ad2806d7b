"""The docs name every verb, flag and JSON field, and what they show is what happens."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

import ckptmap
from ckptmap.__main__ import main
from ckptmap.cli.main import VERBS, make_parser
from tests.building.pages import PAGES, ROOT, blocks, commands, reader, shown_matches


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Console and Python blocks, in the order of the page; `text` after Python is what it prints."""
    printed = ""
    with reader(tmp_path) as person:
        for language, text in blocks(page):
            if language == "console":
                for command, shown in commands(text):
                    real = person.type(command)
                    assert shown_matches(shown, real), f"$ {command}\n{real}"
            elif person.keep(text):
                continue
            elif language == "python":
                printed = person.run(text)
            elif language == "text":
                assert shown_matches(text, printed), printed


def test_every_block_is_run_or_known() -> None:
    """Shell blocks are what installs; rule files are run by tests/rules, recipes for CI below."""
    for page in PAGES:
        for language, text in blocks(page):
            assert language in {"console", "python", "text", "sh", "ckptmap", "yaml", ""}, page
            if language == "":
                assert page.name == "architecture.md", f"{page}: a block without a language is not tested"
            if language == "sh":
                assert all(line.startswith(("pip install ", "ckptmap completion ")) for line in text.splitlines()), page


def test_the_install_lines_are_those_that_ci_and_people_run() -> None:
    lines = [line for language, text in blocks(PAGES[0]) if language == "sh" for line in text.splitlines()]
    install, test = "pip install -c constraints.txt . && ", "pip install -c constraints.txt -e '.[test]' && pytest"
    assert test in lines
    assert test in (ROOT / ".ci" / "run").read_text()
    assert any(line.startswith(install + "ckptmap diff fixtures/") for line in lines)


def test_public_names_are_documented() -> None:
    public = [name for name in vars(ckptmap) if not name.startswith("_") and hasattr(getattr(ckptmap, name), "__doc__")]
    undocumented = [name for name in public if not getattr(ckptmap, name).__doc__]
    assert not undocumented
