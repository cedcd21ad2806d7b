"""`ckptmap inspect`: what is in a checkpoint."""

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
from ckptmap.report.inspect import inspect_document, inspect_json

EXAMPLES = """\
  ckptmap inspect FacebookAI/roberta-base
  ckptmap inspect runs/checkpoint-500 --all
  ckptmap inspect last.ckpt --at state_dict --include '*.bias'
  ckptmap inspect model.safetensors -q | grep lm_head"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operand and flags."""
    parser.add_argument("source", metavar="A", help=SOURCE_HELP)
    add_choices(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Show the checkpoint; 0."""
    with open_source(args, args.source) as checkpoint:
        if args.quiet:
            checkpoint.check_filter()
            show_names(checkpoint)
        elif args.format == "json":
            show_json(inspect_json(checkpoint))
        else:
            show_document(args, inspect_document(checkpoint, every=args.all))
    return 0
