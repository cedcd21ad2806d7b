"""`ckptmap check`: whether a rule file holds, by itself or for two checkpoints."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from ckptmap.cli.common import SOURCE_HELP, add_choices, add_format, open_source, read_json_object
from ckptmap.errors import CheckpointError, PlanError, RuleError
from ckptmap.printing import say, show, show_json
from ckptmap.report.document import Document, Section, count_text
from ckptmap.report.markdown import as_markdown
from ckptmap.report.rules import coverage_lines, guess_lines, rules_line
from ckptmap.rules.plan import Plan, bind
from ckptmap.rules.rules import Rules, read_text
from ckptmap.rules.text import MOST_DIGITS

EXAMPLES = """\
  ckptmap check roberta.ckptmap
  ckptmap check roberta.ckptmap FacebookAI/roberta-base
  ckptmap check llama.ckptmap meta-llama/Llama-3.2-1B consolidated.00.pth
  ckptmap check padded.ckptmap gpt2 --size p=47
  ckptmap check *.ckptmap -q"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operands and flags."""
    add_operands(parser)
    parser.add_argument("more", metavar="", nargs="*", help=argparse.SUPPRESS)  # .ckptmap files, see run
    group = parser.add_argument_group("output")
    add_format(group)
    group.add_argument("-q", "--quiet", action="store_true", help="problems only, one a line")


def add_operands(parser: argparse.ArgumentParser) -> None:
    """Declare a rule file, what it is bound to, and what is read of that."""
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
    """Show every problem, or what is covered; 0 if it holds, 1 if not. Several .ckptmap files stand by themselves."""
    named = [one for one in (args.rules, args.left, args.right, *args.more) if one is not None]
    if len(named) == 1 or not all(one.endswith(".ckptmap") for one in named):
        if args.more:
            raise CheckpointError("takes F [A] [B], or any number of .ckptmap files", source="check")
        return _check(args)
    if args.format == "json":
        raise CheckpointError("--format json is for one rule file at a time", source="check")
    return max(_check(argparse.Namespace(**{**vars(args), "rules": one, "left": None})) for one in named)


def _check(args: argparse.Namespace) -> int:
    sizes = read_sizes(args.size)
    given = read_config_file(args.config)
    text = read_text(args.rules)  # a file that is not there is trouble, a file that is wrong is an answer
    rules, plan, problems = None, None, []
    try:
        rules = Rules.parse(text, args.rules)
        problems = list(guess_lines(rules))
        plan = _bound(args, rules, sizes, given) if args.left is not None else None
    except RuleError as error:
        problems = str(error).split("\n")
    except PlanError as error:
        problems = [*error.problems, *problems]
    if args.format == "json":
        show_json(_document(args, rules, plan, problems))
    elif problems:
        _show_problems(args, problems)
    elif not args.quiet:
        assert rules is not None
        lines = [rules_line(rules), *(coverage_lines(plan, computed=args.right is None) if plan is not None else ())]
        if args.format == "markdown":
            show(as_markdown(Document(closing=tuple(lines), headline=f"{args.rules}: holds")) + "\n")
        else:
            for line in lines:
                say(line)
    return 1 if problems else 0


def _show_problems(args: argparse.Namespace, problems: list[str]) -> None:
    count = count_text(len(problems), "problem")
    if args.format == "markdown":
        section = Section("", tuple((problem,) for problem in problems), ("where, what, and what to do",))
        show(as_markdown(Document((), (section,), headline=f"{args.rules}: {count}")) + "\n")
        return
    for line in problems if args.quiet else (*problems, count):
        say(line)


def _bound(args: argparse.Namespace, rules: Rules, sizes: Mapping[str, int], given: Mapping[str, Any] | None) -> Plan:
    (left, right), config = read_sides(args, given)
    return bind(rules, left, right, config=config, sizes=sizes)


def read_sides(
    args: argparse.Namespace, given: Mapping[str, Any] | None
) -> tuple[list[dict[str, tuple[int, ...]] | None], Mapping[str, Any]]:
    """Names and shapes of the sides that are given, and the config: the one given, else that of A, then of B."""
    config: dict[str, Any] = {}
    inventories: list[dict[str, tuple[int, ...]] | None] = [None, None]
    for at, side in enumerate(("left", "right")):
        source = getattr(args, side)
        if source is None:
            continue
        with open_source(args, source, side) as checkpoint:
            inventories[at] = {name: spec.shape for name, spec in checkpoint.items()}
            if given is None:
                config = {**(checkpoint.config or {}), **config}
    return inventories, given or config


def _document(args: argparse.Namespace, rules: Rules | None, plan: Plan | None, problems: list[str]) -> dict[str, Any]:
    """The fields of `ckptmap check --format json`, described in docs/json.md."""
    return {
        "holds": not problems,
        "problems": [_problem(args.rules, text) for text in problems],
        "rules": None if rules is None else len(rules.rules),
        "coverage": None if plan is None else _coverage(plan, computed=args.right is None),
    }


def _problem(path: str, text: str) -> dict[str, Any]:
    found = re.fullmatch(re.escape(path) + r":(?:(\d+):(?:(\d+):)?)? (.*)", text, re.DOTALL)
    line, column, what = found.groups() if found else (None, None, text)
    return {"line": line and int(line), "column": column and int(column), "text": what}


def _coverage(plan: Plan, *, computed: bool) -> dict[str, Any]:
    equations = plan.equations
    return {
        "left": len(plan.left),
        "right": len(plan.right),
        "computed": computed,
        "equations": len(equations),
        "renames": sum(equation.rename for equation in equations),
        "left_ties": [list(pair) for pair in plan.left_ties],
        "right_ties": [list(pair) for pair in plan.right_ties],
        "left_only": [name for equation in equations if not equation.right for name in equation.left],
        "right_only": [name for equation in equations if not equation.left for name in equation.right],
    }


def read_sizes(texts: list[str]) -> dict[str, int]:
    """Lengths of axes from `--size AXIS=N`.

    Raises:
        RuleError: One is not of that form.
    """
    sizes = {}
    for text in texts:
        axis, _, number = text.partition("=")
        if not axis.isidentifier() or not (number.isascii() and number.isdigit()) or len(number) > MOST_DIGITS:
            raise RuleError(f"--size {text[:80]}: not a length. Write --size r=2.")
        sizes[axis] = int(number)
    return sizes


def read_config_file(path: str | None) -> Mapping[str, Any] | None:
    """A config.json that is given by itself.

    Raises:
        CheckpointError: It cannot be read.
    """
    return None if path is None else read_json_object(path, advice=". Give a config.json.")
