"""`ckptmap verify`: whether a rule file is right, by running both models."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ckptmap.cli.check import read_sizes
from ckptmap.cli.common import add_format
from ckptmap.cli.progress import Progress
from ckptmap.cli.remap import OPERAND_HELP, add_model_arguments, given_inputs, given_sides
from ckptmap.printing import say, show, show_json
from ckptmap.report.markdown import as_markdown
from ckptmap.report.remap import verdict, verify_document
from ckptmap.verifying import verify

if TYPE_CHECKING:
    from ckptmap.infer.proof import Verification

EXAMPLES = """\
  ckptmap verify roberta.ckptmap org/name#RobertaForMaskedLM my_model:build
  ckptmap verify my.ckptmap old.py:Model new.py:Model --left-arg layers=2"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operands and flags."""
    parser.add_argument("rules", metavar="F", help="a rule file")
    parser.add_argument("left", metavar="A", help=f"the left model: {OPERAND_HELP}")
    parser.add_argument("right", metavar="B", help="the right model, likewise")
    parser.add_argument("--values", action="store_true", help="convert the weights that A has, not random ones")
    parser.add_argument("--size", metavar="AXIS=N", action="append", default=[], help="length of an axis; repeatable")
    add_model_arguments(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Show what became of the proof; 0 if the rules are right, 1 if not."""
    with Progress("Building"):
        left, right = given_sides(args)
    with Progress("Running both models"):
        proof = verify(
            args.rules, left, right, inputs=given_inputs(args), values=args.values, sizes=read_sizes(args.size)
        )
    if args.format == "json":
        show_json(document(proof))
    elif args.format == "markdown":
        show(as_markdown(verify_document(proof)) + "\n")
    else:
        say(verdict(proof))
        for a, b in proof.compared:
            say(f"  {a} against {b}")
    return 0 if proof.passed else 1


def document(proof: Verification) -> dict[str, object]:
    """The same for programs."""
    return {
        "outcome": proof.outcome,
        "passed": proof.passed,
        "difference": proof.difference,
        "bits": proof.bits,
        "compared": proof.compared,
        "until": proof.until,
        "apart": proof.apart,
        "unreached": proof.unreached,
        "lacking": proof.lacking,
    }
