"""`ckptmap fmt`: a rule file in its canonical form."""

from __future__ import annotations

import argparse
import difflib

from ckptmap.errors import RuleError
from ckptmap.printable import lines_of
from ckptmap.printing import say
from ckptmap.rules.layout import written
from ckptmap.rules.rules import read_text, write_text
from ckptmap.rules.text import read_statements

EXAMPLES = """\
  ckptmap fmt roberta.ckptmap
  ckptmap fmt *.ckptmap --check"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operand and flags."""
    parser.add_argument("rules", metavar="F", nargs="+", help="a rule file, or several")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; show what would change and exit 1 if it does"
    )


def run(args: argparse.Namespace) -> int:
    """Rewrite the files, or show how they would change; 0, or 1 if `--check` finds a change."""
    return max([_format(path, check=args.check) for path in args.rules])


def _format(path: str, *, check: bool) -> int:
    text = read_text(path)
    statements, faults = read_statements(text)
    if faults:
        lines = [f"{path}:{fault.line}:{fault.column}: {fault.what}" for fault in faults]
        raise RuleError(lines_of(lines), path=path, line=faults[0].line, column=faults[0].column)
    canonical = written(statements)
    if canonical == text:
        return 0
    if not check:
        write_text(path, canonical)
        return 0
    before, after = (one.removesuffix("\n").split("\n") for one in (text, canonical))  # as rule files are read
    for line in difflib.unified_diff(before, after, path, f"{path} (formatted)", lineterm=""):
        say(line)
    return 1
