"""Help that a newcomer can act on, on a screen of 80 columns."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

import pytest

from ckptmap.__main__ import main
from ckptmap.cli.main import VERBS, make_parser, verb_parsers


@pytest.mark.parametrize("argv", [[], *([verb] for verb in VERBS)], ids=lambda argv: " ".join(argv) or "ckptmap")
def test_help_fits_a_screen_and_ends_with_what_to_type(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*argv, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  ckptmap " in "\n".join(lines[-8:])
    assert sum(line.startswith("usage:") for line in lines) == 1
    assert len(lines[0]) <= 80
    assert not lines[1]


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_is_a_command_that_the_verb_takes(verb: str) -> None:
    examples = import_module(f"ckptmap.cli.{verb}").EXAMPLES.splitlines()
    assert examples
    for example in examples:
        words = shlex.split(re.sub(r" +[#|>].*", "", example))
        assert words[:2] == ["ckptmap", verb]
        verb_parsers(make_parser())[verb].parse_intermixed_args(words[2:])


def test_a_word_that_is_no_verb_is_told_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspekt", "x"]) == 2
    err = capsys.readouterr().err
    assert "inspekt" in err
    assert "inspect" in err


@pytest.mark.parametrize("line", ["f --back in out -q", "--back -q f in out", "f in out --back -q"])
def test_flags_may_stand_anywhere(line: str) -> None:
    args = verb_parsers(make_parser())["convert"].parse_intermixed_args(line.split())
    assert (args.operands, args.back, args.quiet) == (["f", "in", "out"], True, True)
