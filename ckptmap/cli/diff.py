"""`ckptmap diff`: what differs between two checkpoints."""

from __future__ import annotations

import argparse

from ckptmap.cli.common import (
    SOURCE_HELP,
    add_choices,
    add_output,
    open_source,
    show_document,
    show_json,
    show_names,
)
from ckptmap.diff import diff
from ckptmap.report.diff import diff_document, diff_json, diff_names

EXAMPLES = """\
  ckptmap diff FacebookAI/roberta-base ./my-finetune
  ckptmap diff ./v1 ./v2 --format markdown
  ckptmap diff last.ckpt ./exported --left-at state_dict
  ckptmap diff org/name org/name --right-variant fp16 -q"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operands and flags."""
    parser.add_argument("left", metavar="LEFT", help=SOURCE_HELP)
    parser.add_argument("right", metavar="RIGHT", help="the same")
    add_choices(parser, sides=("left", "right"))
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Show the difference; 0 if there is none, else 1."""
    with open_source(args, args.left, "left") as left, open_source(args, args.right, "right") as right:
        difference = diff(left, right)
        if args.quiet:
            show_names(diff_names(difference))
        elif args.format == "json":
            show_json(diff_json(difference, left, right))
        else:
            show_document(args, diff_document(difference, left, right, every=args.all))
    return 1 if difference else 0
