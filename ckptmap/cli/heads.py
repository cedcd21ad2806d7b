"""`ckptmap heads`: what each head class would load."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptmap.cli.common import (
    SOURCE_HELP,
    add_choices,
    add_html,
    add_output,
    check_page,
    keep_page,
    open_source,
    read_json_object,
    show_document,
    show_names,
)
from ckptmap.cli.progress import Progress
from ckptmap.errors import CheckpointError
from ckptmap.heads import architectures, heads, stored_head
from ckptmap.printing import say, show_json
from ckptmap.report.heads import head_document, heads_document, heads_json
from ckptmap.report.html.heads import heads_page

if TYPE_CHECKING:
    from ckptmap.checkpoint import Checkpoint
    from ckptmap.heads.untouched import Evidence

EXAMPLES = """\
  ckptmap heads FacebookAI/roberta-base
  ckptmap heads FacebookAI/roberta-base#RobertaForMaskedLM
  ckptmap heads org/name --class BertForTokenClassification --num-labels 5
  ckptmap heads model.safetensors --config config.json
  ckptmap heads ./my-checkpoint --check --format markdown"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operand and flags."""
    parser.add_argument("source", metavar="A", help=f"{SOURCE_HELP}; A#Class for one class in full")
    which = parser.add_argument_group("which classes, and how they are configured")
    which.add_argument(
        "--class",
        dest="classes",
        metavar="NAME",
        action="append",
        help="one class in full; may be given more than once",
    )
    which.add_argument("--all-classes", action="store_true", help="also classes that no auto table names")
    which.add_argument("--config", metavar="FILE", type=Path, help="a config.json, for a checkpoint without one")
    which.add_argument("--model-type", metavar="TYPE", help="a model type with its default config, in place of a file")
    which.add_argument("--num-labels", metavar="N", type=int, help="as from_pretrained(…, num_labels=N)")
    which.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="any config value, as JSON or text; repeatable"
    )
    which.add_argument(
        "--key-mapping", metavar="FILE", type=Path, help="a JSON object, as from_pretrained(key_mapping=…)"
    )
    which.add_argument("--no-cache", action="store_true", help="neither read nor keep what classes expect on disk")
    parser.add_argument(
        "--values",
        action="store_true",
        help="read the values of stored heads: do they look untouched since initialisation?",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 unless the classes asked for, or those that config.json declares, are ready",
    )
    add_choices(parser)
    add_output(parser)
    add_html(parser)


def run(args: argparse.Namespace) -> int:
    """Show the report; 0, or 1 if `--check` finds a class that would not come whole from the checkpoint."""
    source, _, class_name = args.source.partition("#")
    check_page(args.html)
    classes = [*(args.classes or ()), *([class_name] if class_name else ())]
    with open_source(args, source) as checkpoint:
        checkpoint.check_filter()
        classes = classes or _declared(args, checkpoint)
        with Progress("Asking transformers"):
            report = heads(
                checkpoint,
                classes or None,
                config_overrides=_overrides(args),
                key_mapping=read_json_object(args.key_mapping) if args.key_mapping else None,
                config=_config(args, checkpoint.config),
                all_classes=args.all_classes,
                use_cache=not args.no_cache,
            )
        evidence = _evidence(args, checkpoint) if args.values else None
    keep_page(args.html, lambda: heads_page(report, evidence))
    if args.quiet:
        if classes:
            show_names(dict.fromkeys(name for head in report.values() for name in sorted(head.newly_initialized)))
        else:
            show_names(f"{name}: {head.verdict}" for name, head in report.items())
    elif args.format == "json":
        show_json(heads_json(report, evidence))
    elif classes:
        for number, head in enumerate(report.values()):
            if number:
                say()
            show_document(args, head_document(report, head, evidence, every=args.all))
    else:
        show_document(args, heads_document(report, evidence))
    return 1 if args.check and any(head.verdict != "ready" for head in report.values()) else 0


def _declared(args: argparse.Namespace, checkpoint: Checkpoint) -> list[str]:
    """The classes that `--check` is about when none is named."""
    if not args.check:
        return []
    declared = architectures(_config(args, checkpoint.config) or {})
    if not declared:
        raise CheckpointError(
            "no class to check: its config.json declares no architectures. Name one with --class",
            source=checkpoint.source,
        )
    return declared


def _evidence(args: argparse.Namespace, checkpoint: Checkpoint) -> Collection[Evidence]:
    from ckptmap.heads.untouched import untouched

    config = _config(args, checkpoint.config)
    return untouched(checkpoint, stored_head(checkpoint, config=config, use_cache=not args.no_cache)).values()


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CheckpointError("must be KEY=VALUE", source=f"--set {text}")
        try:
            overrides[key] = json.loads(value)
        except ValueError:
            overrides[key] = value
    if args.num_labels is not None:
        overrides["num_labels"] = args.num_labels
    return overrides


def _config(args: argparse.Namespace, beside: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if args.config is not None:
        return read_json_object(args.config)
    if args.model_type is not None:
        return {"model_type": args.model_type}
    return beside
