"""`ckptmap inspect`: what is in a checkpoint, and what its values tell."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptmap.checkpoint import Checkpoint
from ckptmap.cli.common import (
    SOURCE_HELP,
    add_choices,
    add_output,
    add_yes,
    announced,
    open_source,
    show_document,
    show_names,
)
from ckptmap.cli.progress import Progress
from ckptmap.printing import show_json
from ckptmap.report.examine import examine_json, examine_sections
from ckptmap.report.inspect import inspect_document, inspect_json

if TYPE_CHECKING:
    from ckptmap.values.examine import Examination

EXAMPLES = """\
  ckptmap inspect FacebookAI/roberta-base
  ckptmap inspect runs/checkpoint-500 --all
  ckptmap inspect last.ckpt --at state_dict --include '*.bias'
  ckptmap inspect model.safetensors -q | grep lm_head
  ckptmap inspect ./my-finetune --digest -q
  ckptmap inspect ./my-finetune --values"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operand and flags."""
    parser.add_argument("source", metavar="A", help=SOURCE_HELP)
    group = parser.add_argument_group("values")
    group.add_argument("--digest", action="store_true", help="one digest of names, dtypes, shapes and bits; -q: alone")
    group.add_argument(
        "--values", action="store_true", help="what stands out: equal tensors, constants, NaN, fresh initialisation"
    )
    add_yes(group)
    add_choices(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Show the checkpoint; 0."""
    with open_source(args, args.source) as checkpoint:
        found, digest = _values(args, checkpoint)
        if args.quiet:
            checkpoint.check_filter()
            show_names(checkpoint if digest is None else [digest])
        elif args.format == "json":
            values = None if found is None else examine_json(found)
            show_json(inspect_json(checkpoint) | {"digest": digest, "values": values})
        else:
            document = inspect_document(checkpoint, every=args.all)
            facts = () if digest is None else (("digest", digest),)
            sections = () if found is None else examine_sections(found, checkpoint, every=args.all)
            document = replace(document, facts=(*document.facts, *facts), sections=(*document.sections, *sections))
            show_document(args, document)
    return 0


def _values(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[Examination | None, str | None]:
    """What is asked of the values, in one reading of them."""
    if not args.values and not args.digest:
        return None, None
    tell = announced(yes=args.yes)
    with Progress("Reading values", unit="bytes") as progress:
        if not args.values or (args.digest and checkpoint.left_out):  # of what cannot be read there is no digest
            from ckptmap.values.digest import digest  # late: most looks at a checkpoint read no values

            return None, digest(checkpoint, progress=progress, before_fetch=tell)
        from ckptmap.values.examine import examine

        found = examine(checkpoint, progress=progress, before_fetch=tell)
    return found, found.digest if args.digest else None
