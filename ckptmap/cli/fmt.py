"""`ckptmap fmt`: a rule file in its canonical form."""

from __future__ import annotations

import argparse
import difflib

from ckptmap.errors import RuleError
from ckptmap.report.document import printable
from ckptmap.rules.layout import written
from ckptmap.rules.rules import read_text, write_text
from ckptmap.rules.text import read_statements

EXAMPLES = """\
  ckptmap fmt roberta.ckptmap
  ckptmap fmt roberta.ckptmap --check"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operand and flags."""
    parser.add_argument("rules", metavar="F", help="a rule file")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; show what would change and exit 1 if it does"
    )


def run(args: argparse.Namespace) -> int:
    """Rewrite the file, or show how it would change; 0, or 1 if `--check` finds a change."""
    text = read_text(args.rules)
    statements, faults = read_statements(text)
    if faults:
        lines = [f"{args.rules}:{fault.line}:{fault.column}: {fault.what}" for fault in faults]
        raise RuleError("\n".join(lines), path=args.rules, line=faults[0].line, column=faults[0].column)
    canonical = written(statements)
    if canonical == text:
        return 0
    if not args.check:
        write_text(args.rules, canonical)
        return 0
    for line in difflib.unified_diff(
        text.splitlines(), canonical.splitlines(), args.rules, f"{args.rules} (formatted)", lineterm=""
    ):
        print(printable(line))
    return 1
