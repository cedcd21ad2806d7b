"""The docs name every verb, flag and JSON field, and what they show is what happens."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest

import ckptmap
from ckptmap.cli.main import VERBS, make_parser, verb_parsers
from tests.building.pages import PAGES, ROOT, blocks, commands, reader, shown_matches


def test_every_verb_and_flag_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    sections = dict(re.findall(r"^## `ckptmap (\w+)[^\n]*`\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    assert set(sections) == set(VERBS)
    for verb, parser in verb_parsers(make_parser()).items():
        flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
        documented = set(re.findall(r"`(--?[a-z][a-z-]*)", sections[verb] + page.partition("\n## ")[0]))
        assert flags <= documented, f"{verb}: not in docs/commands.md: {flags - documented}"
        own = set(re.findall(r"`(--?[a-z][a-z-]*)", sections[verb]))
        assert own <= flags, f"{verb}: documented but not there: {own - flags}"


RULES = "ckptmap 1\nroberta.** <-> encoder.**\nclassifier.** <-> head.**\n"
MODEL = "fixtures/roberta-cls#RobertaForSequenceClassification"
JSON = {
    "inspect": ["fixtures/gpt2-tied", "--values", "--digest"],
    "diff": ["fixtures/roberta-mlm", "fixtures/roberta-cls", "--reverse", "--values"],
    "heads": ["fixtures/roberta-cls", "--values"],
    "check": ["rules.ckptmap", "fixtures/roberta-cls"],
    "remap": ["fixtures/roberta-cls", "fixtures/roberta-mlm"],
    "verify": ["same.ckptmap", MODEL, MODEL],
}
"""Each verb that prints JSON, with operands that fill most of its fields."""


def fields_of(value: object) -> Iterator[str]:
    """Names of all fields, however deep, but not keys that are names of tensors, classes or files."""
    if isinstance(value, list):
        for one in value[:5]:
            yield from fields_of(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key.isidentifier() and key == key.lower():
                yield key
            if key != "metadata":  # people's own words
                yield from fields_of(one)


@pytest.mark.parametrize("verb", VERBS)
def test_every_json_field_is_documented(verb: str, tmp_path: Path) -> None:
    actions = verb_parsers(make_parser())[verb]._actions
    takes_json = any("--format" in one.option_strings and "json" in (one.choices or ()) for one in actions)
    assert takes_json == (verb in JSON)
    if not takes_json:
        return
    page = (ROOT / "docs" / "json.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    with reader(tmp_path) as person:
        Path("rules.ckptmap").write_text(RULES)
        Path("same.ckptmap").write_text("ckptmap 1\n** <-> **\n")
        fields = json.loads(person.type(shlex.join(["ckptmap", verb, *JSON[verb], "--format", "json"])))
    text = sections[verb] + (sections["heads"] if verb == "diff" else "")
    missing = [field for field in fields if f"`{field}`" not in sections[verb]]
    deeper = {field for field in fields_of(fields) if not re.search(rf"\b{field}\b", text)}
    assert not missing, f"{verb}: not in docs/json.md: {missing}"
    assert not deeper, f"{verb}: not in docs/json.md: {deeper}"


def public_names() -> dict[str, object]:
    found = {name: getattr(ckptmap, name) for name in dir(ckptmap) if not name.startswith("_")}
    return {name: one for name, one in found.items() if getattr(one, "__module__", "").startswith("ckptmap")}


def test_every_public_name_is_described_with_its_signature_and_no_other() -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    public = public_names()
    for name, one in public.items():
        summary = (one.__doc__ or "").partition("\n")[0]
        assert summary.endswith((".", "…", "anything does.")), f"{name}: the first line is no sentence"
        assert summary in page, f"{name}: docs/library.md does not say: {summary}"
        if isinstance(one, FunctionType):
            signature = inspect.signature(one)
            bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
            text = f"`{name}{signature.replace(parameters=bare, return_annotation=signature.empty)}`"
        else:
            text = f"`{name}`"
        assert text in page, f"docs/library.md lacks {text}"
    described = set(re.findall(r"^(?:\*\*|\| )`(\w+)", page, re.MULTILINE))
    assert described == set(public)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)]+)\)", prose):
            file, _, anchor = target.partition("#")
            if "://" in file:
                continue
            there = (page.parent / file) if file else page
            assert there.is_file(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{page.name}: {target}"


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.name == "README.md" or f"({page.relative_to(ROOT / 'docs')})" in contents, page


def test_commands_in_recipes_are_commands() -> None:
    lines = [line for page in PAGES for kind, text in blocks(page) if kind == "yaml" for line in text.splitlines()]
    found = [line.partition("run: ckptmap ")[2].partition(" >>")[0] for line in lines if "run: ckptmap " in line]
    assert found
    for line in found:
        assert verb_parsers(make_parser())[line.split()[0]].parse_intermixed_args(shlex.split(line)[1:])
    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text()
    for line in lines:
        if "- id: " in line:
            assert line.strip() in hooks


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
            elif language == "text" and printed:
                assert shown_matches(text, printed), printed
                printed = ""


def test_every_block_is_run_or_known() -> None:
    """Shell blocks are what installs; rule files are run by tests/rules, recipes for CI below."""
    for page in PAGES:
        for language, text in blocks(page):
            assert language in {"console", "python", "text", "sh", "ckptmap", "yaml", ""}, page
            if language == "":
                assert page.name == "architecture.md", f"{page}: a block without a language is not tested"
            if language == "sh":
                assert all(line.startswith(("pip install ", "ckptmap completion ")) for line in text.splitlines()), page
            if language == "text":
                assert not re.search(r"^(\$ )?ckptmap ", text, re.MULTILINE), f"{page}: a command that nothing runs"


def test_the_install_lines_are_those_that_ci_and_people_run() -> None:
    lines = [line for language, text in blocks(PAGES[0]) if language == "sh" for line in text.splitlines()]
    install, test = "pip install -c constraints.txt . && ", "pip install -c constraints.txt -e '.[test]' && pytest"
    assert test in lines
    assert test in (ROOT / ".ci" / "run").read_text()
    assert any(line.startswith(install + "ckptmap diff fixtures/") for line in lines)
