"""`ckptmap check`: whether a rule file holds, by itself or for two checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ckptmap.cli.common import SOURCE_HELP, add_choices, open_source, read_json_object
from ckptmap.errors import PlanError, RuleError
from ckptmap.report.document import printable
from ckptmap.report.rules import coverage_lines, guess_lines, rules_line
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import Rules, read_text

EXAMPLES = """\
  ckptmap check roberta.ckptmap
  ckptmap check roberta.ckptmap FacebookAI/roberta-base
  ckptmap check llama.ckptmap meta-llama/Llama-3.2-1B consolidated.00.pth
  ckptmap check padded.ckptmap gpt2 --size p=47"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operands and flags."""
    parser.add_argument("rules", metavar="F", help="a rule file")
    parser.add_argument("left", metavar="A", nargs="?", help=f"the left side: {SOURCE_HELP}")
    parser.add_argument("right", metavar="B", nargs="?", help="the right side, likewise")
    parser.add_argument(
        "--size", metavar="AXIS=N", action="append", default=[], help="length of an axis; may be given more than once"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="a config.json for `config.KEY`; default: that of A, then of B"
    )
    add_choices(parser, sides=("left", "right"))


def run(args: argparse.Namespace) -> int:
    """Show every problem, or what is covered; 0 if it holds, 1 if not."""
    sizes = read_sizes(args.size)
    given = read_config_file(args.config)
    text = read_text(args.rules)  # a file that is not there is trouble, a file that is wrong is an answer
    try:
        rules = Rules.parse(text, args.rules)
    except RuleError as error:
        return _refuse(str(error).splitlines())
    guesses = list(guess_lines(rules))
    lines = [rules_line(rules)]
    if args.left is not None:
        config: dict[str, Any] = {}
        inventories: list[Mapping[str, tuple[int, ...]] | None] = [None, None]
        for at, side in enumerate(("left", "right")):
            source = getattr(args, side)
            if source is None:
                continue
            with open_source(args, source, side) as checkpoint:
                inventories[at] = {name: spec.shape for name, spec in checkpoint.items()}
                if given is None:
                    config = {**(checkpoint.config or {}), **config}
        try:
            plan = bind(rules, inventories[0], inventories[1], config=given or config, sizes=sizes)
        except PlanError as error:
            return _refuse([*error.problems, *guesses])
        lines += coverage_lines(plan, computed=args.right is None)
    if guesses:
        return _refuse(guesses)
    for line in lines:
        print(printable(line))
    return 0


def _refuse(problems: list[str]) -> int:
    for problem in problems:
        print(printable(problem))
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}")
    return 1


def read_sizes(texts: list[str]) -> dict[str, int]:
    """Lengths of axes from `--size AXIS=N`.

    Raises:
        RuleError: One is not of that form.
    """
    sizes = {}
    for text in texts:
        axis, _, number = text.partition("=")
        if not axis.isidentifier() or not (number.isascii() and number.isdigit()):
            raise RuleError(f"--size {text}: not a length. Write --size r=2.")
        sizes[axis] = int(number)
    return sizes


def read_config_file(path: str | None) -> Mapping[str, Any] | None:
    """A config.json that is given by itself.

    Raises:
        CheckpointError: It cannot be read.
    """
    return None if path is None else read_json_object(path, advice=". Give a config.json.")
