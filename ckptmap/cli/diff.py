"""`ckptmap diff`: what differs between two checkpoints, values too, and what that means for their head classes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ckptmap.checkpoint import Checkpoint
from ckptmap.cli.common import (
    SOURCE_HELP,
    add_choices,
    add_html,
    add_output,
    add_yes,
    announced,
    check_page,
    keep_page,
    open_class,
    open_source,
    show_document,
    show_names,
)
from ckptmap.cli.progress import Progress
from ckptmap.diff import Diff, diff
from ckptmap.errors import ArchitectureError, CheckpointError
from ckptmap.heads import HeadsReport, architectures, heads
from ckptmap.printing import show_json, warn
from ckptmap.report.diff import diff_document, diff_json, diff_names
from ckptmap.report.document import Document
from ckptmap.report.heads import head_json, heads_sections
from ckptmap.report.html.diff import diff_page

EXAMPLES = """\
  ckptmap diff FacebookAI/roberta-base ./my-finetune
  ckptmap diff FacebookAI/roberta-base '#RobertaForTokenClassification'
  ckptmap diff ./v1 ./v2 --html report.html
  ckptmap diff FacebookAI/roberta-base ./my-finetune --values
  ckptmap diff FacebookAI/roberta-base mine.bin --values --rules r.ckptmap
  ckptmap diff last.ckpt ./exported --left-at state_dict
  ckptmap diff org/name org/name --right-variant fp16 -q"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operands and flags."""
    parser.add_argument("left", metavar="LEFT", help=SOURCE_HELP)
    parser.add_argument(
        "right",
        metavar="RIGHT",
        help="the same; or B#Class, a class with B's config; or #Class, one with LEFT's config",
    )
    group = parser.add_argument_group("values")
    group.add_argument("--values", action="store_true", help="compare values bit by bit, and measure what differs")
    group.add_argument("--rules", metavar="F", help="compare through this rule file, from LEFT to RIGHT, not by name")
    group.add_argument("--size", metavar="AXIS=N", action="append", default=[], help="length of an axis; repeatable")
    group.add_argument("--atol", metavar="X", type=_tolerance, help="|Δ| up to X is no difference")
    group.add_argument("--rtol", metavar="X", type=_tolerance, help="nor is |Δ| up to X times the left element")
    add_yes(group)
    parser.add_argument(
        "--prefix", metavar="OLD=NEW", help="compare left names that start with OLD as if they started with NEW"
    )
    group = parser.add_argument_group("head classes")
    group.add_argument(
        "--heads", action="store_true", help="tell of every class of RIGHT's family, not only of its own"
    )
    group.add_argument("--no-heads", action="store_true", help="tell of none")
    group.add_argument("--reverse", action="store_true", help="also what LEFT's class would load from RIGHT")
    group.add_argument("--no-cache", action="store_true", help="neither read nor keep what classes expect on disk")
    add_choices(parser, sides=("left", "right"))
    add_output(parser)
    add_html(parser)


def run(args: argparse.Namespace) -> int:
    """Show the difference; 0 if there is none, 1 if there is, 2 if that could not be told."""
    _check_flags(args)
    check_page(args.html)
    with open_source(args, args.left, "left") as left:
        source, _, class_name = args.right.partition("#")
        config: Mapping[str, Any] | None
        if class_name:
            right, config = open_class(args, source, class_name, beside=left)
        else:
            right = open_source(args, source, "right")
            config = right.config
        with right:
            difference = _diff(args, left, right)
            asked = [class_name] if class_name else None
            names_differ = bool(replace(difference, values=None)) and args.rules is None
            wanted = names_differ and not args.no_heads and (args.html is not None or not args.quiet)
            told = [_heads(args, left, config, asked)] if wanted else []
            if told and args.reverse and not class_name:
                told.append(_heads(args, right, left.config, None))
            keep_page(args.html, lambda: diff_page(difference, difference.left, right, told))
            if args.quiet:
                show_names(diff_names(difference))
                if difference.left_out:
                    warn(f"ckptmap: {difference}")
                return _exit_code(difference)
            if args.format == "json":
                fields = diff_json(difference, difference.left, right)
                for name, (report, notes) in zip(("heads", "reverse_heads"), told or [(None, [])], strict=False):
                    fields[name] = {} if report is None else {c: head_json(head) for c, head in report.items()}
                    fields["warnings"] += notes
                show_json(fields)
            else:
                document = diff_document(difference, difference.left, right, every=args.all)
                show_document(args, _with_heads(document, told, every=args.all))
    return _exit_code(difference)


def _diff(args: argparse.Namespace, left: Checkpoint, right: Checkpoint) -> Diff:
    old, equals, new = (args.prefix or "").partition("=")
    with Progress("Comparing values", unit="bytes") as progress:
        return diff(
            left,
            right,
            prefix=(old, new) if equals else None,
            values=args.values,
            rules=args.rules,
            sizes=_sizes(args.size),
            atol=args.atol,
            rtol=args.rtol,
            progress=progress,
            before_fetch=announced(yes=args.yes),
        )


def _sizes(texts: list[str]) -> dict[str, int]:
    if not texts:
        return {}
    from ckptmap.cli.check import read_sizes  # late: it brings the rule language

    return read_sizes(texts)


def _check_flags(args: argparse.Namespace) -> None:
    given = {"--rules": args.rules, "--atol": args.atol, "--rtol": args.rtol, "--size": args.size or None}
    if wrong := [flag for flag, value in given.items() if value is not None and not args.values]:
        raise CheckpointError("compares values; add --values", source=wrong[0])
    if args.size and args.rules is None:
        raise CheckpointError("is an axis of rules; name them with --rules", source="--size")
    if args.prefix is not None and "=" not in args.prefix:
        raise CheckpointError("must be OLD=NEW; either may be empty", source=f"--prefix {args.prefix}")
    if args.prefix is not None and args.rules is not None:
        raise CheckpointError("names are paired by rules already; leave one of them out", source="--prefix, --rules")


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)  # argparse says which flag it was
    return value


def _exit_code(difference: Diff) -> int:
    """As diff(1): 0 the same, 1 not, 2 when tensors were left out that might differ."""
    return 1 if difference else 2 if difference.left_out else 0


def _heads(
    args: argparse.Namespace, checkpoint: Checkpoint, config: Mapping[str, Any] | None, classes: Iterable[str] | None
) -> tuple[HeadsReport | None, list[str]]:
    """What the classes that a config names would load from the checkpoint, or why that cannot be told."""
    if config is None or "model_type" not in config:
        return None, []
    if classes is None and not args.heads:
        classes = architectures(config)
        if not classes:
            return None, []
    try:
        with Progress("Asking transformers"):
            report = heads(checkpoint, classes, config=config, use_cache=not args.no_cache, in_child=True)
    except (ArchitectureError, CheckpointError) as error:
        return None, [f"head classes cannot be told: {error}"]
    return report, list(report.notes)


def _with_heads(document: Document, told: list[tuple[HeadsReport | None, list[str]]], *, every: bool) -> Document:
    sections = [section for report, _ in told if report is not None for section in heads_sections(report, every=every)]
    notes = [note for _, notes in told for note in notes]
    return replace(document, sections=(*document.sections, *sections), closing=(*document.closing, *notes))
