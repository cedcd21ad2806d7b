"""Flags and output that verbs share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ckptmap.checkpoint import Checkpoint, open_checkpoint, read_config
from ckptmap.cli.progress import Progress
from ckptmap.errors import CheckpointError, PlanError
from ckptmap.printing import say, show, warn
from ckptmap.report.document import Document, bytes_text, truncated
from ckptmap.report.markdown import as_markdown
from ckptmap.report.terminal import show_document as on_terminal

SECTION_LIMIT = 60
"""Lines of a section shown unless asked for all: a screen or two."""

FETCHED_UNASKED = 10**9
"""Bytes of values that are fetched without --yes."""

LONGEST_LINE = 10_000
"""Characters of a line of an error: it may quote what was typed, or a name."""

SOURCE_HELP = "a local file, folder or index file, or a Hub repo: org/name, org/name@revision, org/name/subfolder"

CHOICES = {
    "revision": "branch, tag or commit of a Hub repo",
    "subfolder": "folder inside the repo or folder",
    "variant": "read model.VARIANT.safetensors, as in transformers",
    "at": "part of a pickle to take, as dotted keys: model, ema.state_dict",
}
"""Flags that choose what is read of a source."""


def add_choices(parser: argparse.ArgumentParser, sides: Iterable[str] = ()) -> None:
    """Add the flags of `CHOICES`, and once more for each side (`--left-at`)."""
    group = parser.add_argument_group("what to read")
    for name, text in CHOICES.items():
        group.add_argument(f"--{name}", metavar=name.upper(), help=text)
    for side in sides:
        for name in CHOICES:
            group.add_argument(f"--{side}-{name}", metavar=name.upper(), help=f"the same, for {side.upper()} alone")
    for name, verb in (("include", "keep only"), ("exclude", "leave out")):
        group.add_argument(
            f"--{name}",
            metavar="PATTERN",
            action="append",
            default=[],
            help=f"{verb} names that match; * is any text; may be given more than once",
        )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how results are shown."""
    group = parser.add_argument_group("output")
    add_format(group)
    group.add_argument("-q", "--quiet", action="store_true", help="names only, one a line")
    group.add_argument("--all", action="store_true", help="every tensor on a line of its own, none grouped")
    group.add_argument("--no-truncate", action="store_true", help=f"show more than {SECTION_LIMIT} lines of a section")


def add_format(parser: argparse._ActionsContainer) -> None:
    """Add `--format`."""
    parser.add_argument("--format", choices=("table", "json", "markdown"), default="table", help="default: table")


def add_yes(group: argparse._ArgumentGroup) -> None:
    """Add the flag that lets values be fetched."""
    most = f"{FETCHED_UNASKED // 10**9} GB"
    group.add_argument("--yes", action="store_true", help=f"fetch values from the Hub even if they exceed {most}")


def add_html(parser: argparse.ArgumentParser) -> None:
    """Add the flag that keeps the report as a page, too."""
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the report as a page for the browser, too")


def keep_page(target: Path | None, made: Callable[[], dict[str, Any]]) -> None:
    """Write the page that a person asked for.

    Args:
        target: Where; None if nobody asked.
        made: Makes the page's data.
    """
    if target is None:
        return
    from ckptmap.report.html.page import write_page

    write_page(target, made())
    warn(f"{target}: written")


def check_page(target: Path | None) -> None:
    """Tell before any work if the page could not be written."""
    if target is not None:
        from ckptmap.report.html.page import check_target

        check_target(target)


def open_source(args: argparse.Namespace, source: str, side: str = "") -> Checkpoint:
    """Open one operand as its flags say, with a sign of life on a terminal when it takes long."""
    chosen = {
        name: getattr(args, f"{side}_{name}") if side and getattr(args, f"{side}_{name}") else getattr(args, name)
        for name in CHOICES
    }
    with Progress(f"Reading {source}"):
        checkpoint = open_checkpoint(source, include=args.include, exclude=args.exclude, **chosen)
    for warning in checkpoint.warnings:
        warn(f"ckptmap: {source}: {warning}")
    return checkpoint


def open_class(
    args: argparse.Namespace, source: str, class_name: str, *, beside: Checkpoint
) -> tuple[Checkpoint, Mapping[str, Any]]:
    """A class as one side, with the config of a source or, without one, of the other side."""
    from ckptmap.heads.architecture import class_checkpoint

    if source:
        config = read_config(
            source, revision=args.right_revision or args.revision, subfolder=args.right_subfolder or args.subfolder
        )
    else:
        config = beside.config
    if config is None:
        raise CheckpointError(
            "has no config.json, which the class needs; write B#Class with a B that has one",
            source=source or beside.source,
        )
    made = class_checkpoint(class_name, config, beside=beside, use_cache=not args.no_cache, in_child=True)
    return made, config


def read_json_object(path: str | Path, *, advice: str = "") -> dict[str, Any]:
    """A JSON object that a flag names a file of; `advice` follows the words for a file that holds something else."""
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", source=str(path)) from None
    except ValueError as error:
        raise CheckpointError(f"is not JSON: {error}", source=str(path)) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"is not a JSON object{advice}", source=str(path))
    return value


def announced(*, yes: bool) -> Callable[[int], None]:
    """What tells how much will be fetched, and refuses what nobody may have meant."""

    def tell(nbytes: int) -> None:
        text = f"{bytes_text(nbytes)} of values"
        if nbytes > FETCHED_UNASKED and not yes:
            raise CheckpointError(f"{text} would have to be fetched from the Hub; --yes does so", source="--values")
        warn(f"ckptmap: fetching {text} from the Hub")

    return tell


def show_document(args: argparse.Namespace, document: Document) -> None:
    """Print a document on stdout in the form asked for."""
    every = args.all or args.no_truncate
    document = truncated(document, None if every else SECTION_LIMIT)
    if args.format == "markdown":
        show(as_markdown(document) + "\n")
    else:
        on_terminal(document)


def show_error(error: Exception) -> None:
    """Print what an error says on stderr, its lines as lines."""
    # A checkpoint's names may have line ends in them; other errors join what they found by line ends of their own.
    first, *others = (
        error.problems
        if isinstance(error, PlanError)
        else [str(error)]
        if isinstance(error, CheckpointError)
        else str(error).split("\n")
    )
    for line in (f"ckptmap: {first}", *others):
        warn(cut(line))


def cut(line: str) -> str:
    """A line of an error, without the middle of one that holds a whole file."""
    if len(line) <= LONGEST_LINE:
        return line
    left_out = f" … ({len(line) - LONGEST_LINE:,} characters left out) … "
    return line[: LONGEST_LINE // 2] + left_out + line[-LONGEST_LINE // 2 :]


def show_names(names: Iterable[str]) -> None:
    """Print names, one a line."""
    for name in names:
        say(name)
