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
from ckptmap.errors import UsageError
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
  ckptmap inspect ./my-finetune --values
  ckptmap inspect org/name --safety"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operand and flags."""
    parser.add_argument("sources", metavar="A", nargs="+", help=f"{SOURCE_HELP}; with --safety, any number of them")
    group = parser.add_argument_group("values")
    group.add_argument("--digest", action="store_true", help="one digest of names, dtypes, shapes and bits; -q: alone")
    group.add_argument(
        "--values", action="store_true", help="what stands out: equal tensors, constants, NaN, fresh initialisation"
    )
    add_yes(group)
    parser.add_argument(
        "--safety",
        action="store_true",
        help="what loading the pickles of A would run: exits 0 if nothing, 1 if something, 2 if not all can be read",
    )
    add_choices(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Show the checkpoint; 0. With `--safety` 0 if its pickles run nothing, 1 if they do, 2 if that cannot be told."""
    if args.safety:
        return _safety(args)
    if len(args.sources) > 1:
        raise UsageError("inspect shows one checkpoint at a time; with --safety it looks at any number of them")
    with open_source(args, args.sources[0]) as checkpoint:
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


def _safety(args: argparse.Namespace) -> int:
    from ckptmap.report.safety import safety_document, safety_json
    from ckptmap.safety import scan, together

    with Progress("Looking at pickles"):
        each = [scan(source, revision=args.revision, subfolder=args.subfolder) for source in args.sources]
    found = each[0] if len(each) == 1 else together(each)
    if args.quiet:
        show_names(one.file for one in found.files if one.dangers)
    elif args.format == "json":
        show_json(safety_json(found))
    else:
        show_document(args, safety_document(found))
    return 1 if found.dangers else 2 if found.unread else 0


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
