"""`ckptmap convert`: run a rule file on a checkpoint."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ckptmap.cli.common import SOURCE_HELP, add_choices, open_source
from ckptmap.conversion.convert import Conversion, convert, undo
from ckptmap.errors import CheckpointError, ConvertError, PlanError

EXAMPLES = """\
  ckptmap convert roberta.ckptmap FacebookAI/roberta-base mine.safetensors
  ckptmap convert roberta.ckptmap mine.safetensors out/ --back --like FacebookAI/roberta-base
  ckptmap convert mine.safetensors theirs.safetensors --back      # by the rules that the file carries
  ckptmap convert names.ckptmap big.safetensors --in-place
  ckptmap convert --undo big.safetensors"""

SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operands and flags."""
    parser.add_argument(
        "operands",
        metavar="[F] IN OUT",
        nargs="*",
        help=f"a rule file (left out, the rules that IN carries); IN, {SOURCE_HELP}; "
        "OUT, a .safetensors file or a folder",
    )
    parser.add_argument("--back", action="store_true", help="from the right side to the left")
    parser.add_argument("--force", action="store_true", help="overwrite what exists")
    parser.add_argument("--partial", action="store_true", help="leave out what no rule covers, and list it")
    parser.add_argument("--residue", metavar="FILE", type=Path, help="keeps what has no home on the other side")
    parser.add_argument("--base", metavar="SRC", help="a checkpoint that gives what has no source")
    parser.add_argument("--size", metavar="K=V", action="append", default=[], help="length of an axis; repeatable")
    where = parser.add_argument_group("what is written")
    where.add_argument("--dtype", metavar="T", help="make every floating-point tensor this: bf16, float32, …")
    where.add_argument("--max-shard-size", metavar="S", help="split a folder's weights into files of at most S (5GB)")
    where.add_argument("--like", metavar="SRC", help="copy config, tokenizer and generation files from there")
    where.add_argument("--architecture", metavar="N", help="class for the config, in place of the one the rules name")
    where.add_argument("--to-bin", action="store_true", help="write a file of torch.save")
    where.add_argument("--in-place", action="store_true", help="rename within IN itself, which then is OUT")
    where.add_argument("--undo", metavar="FILE", type=Path, help="roll back an --in-place that was cut short")
    where.add_argument("-q", "--quiet", action="store_true", help="do not tell what was written")
    add_choices(parser)


def run(args: argparse.Namespace) -> int:
    """Convert; 0 when it is written, 1 when the data refuse."""
    try:
        if args.undo is not None:
            print(f"{args.undo}: {'rolled back' if undo(args.undo) else 'nothing to undo'}")
            return 0
        return _convert(args)
    except (ConvertError, PlanError) as error:
        if args.debug:
            raise
        print(f"ckptmap: {error}", file=sys.stderr)
        return 1


def _convert(args: argparse.Namespace) -> int:
    rules, source, out = _operands(args)
    if Path(source).is_file():
        undo(source)
    with open_source(args, source) as checkpoint, _Progress(f"Writing {out or source}") as progress:
        made = convert(
            rules,
            checkpoint,
            out,
            back=args.back,
            residue=args.residue,
            base=args.base,
            sizes=_sizes(args.size),
            partial=args.partial,
            dtype=args.dtype,
            max_shard_size=args.max_shard_size,
            like=args.like,
            architecture=args.architecture,
            force=args.force,
            in_place=args.in_place,
            to_bin=args.to_bin,
            progress=progress,
        )
    assert isinstance(made, Conversion)
    if not args.quiet:
        _show(made)
    return 0


def _operands(args: argparse.Namespace) -> tuple[str | None, str, str | None]:
    words = list(args.operands)
    wanted = 1 if args.in_place else 2
    if len(words) not in (wanted, wanted + 1):
        usage = "[F] FILE --in-place" if args.in_place else "[F] IN OUT"
        raise CheckpointError(f"takes {usage}; {len(words)} operands were given", source="ckptmap convert")
    rules = words.pop(0) if len(words) > wanted else None
    return rules, words[0], None if args.in_place else words[1]


def _sizes(texts: list[str]) -> dict[str, int]:
    sizes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value.isdecimal():
            raise CheckpointError("must be NAME=NUMBER", source=f"--size {text}")
        sizes[name] = int(value)
    return sizes


def _show(made: Conversion) -> None:
    files = made.files[0] if len(made.files) == 1 else f"{len(made.files)} files in {Path(made.files[0]).parent}"
    print(f"{files}: {made.tensors:,} tensors, {made.nbytes:,} bytes")
    for old, new, count in made.casts:
        loss = ", which narrows" if (old, new, count) in made.narrowed else ""
        print(f"cast {old} to {new}: {count:,} tensors{loss}")
    if made.residue is not None:
        print(f"kept in {made.residue}: what has no home on the other side")
    _list("left out", made.left_out)
    _list("not written, as nothing gave their values", made.missing)
    _list("stored once", tuple(f"{second} = {first}" for second, first in made.tied))


def _list(what: str, names: tuple[str, ...]) -> None:
    if names:
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        print(f"{what}: {', '.join(names[:SHOWN])}{more}")


class _Progress:
    """A bar on stderr, only on a terminal and only after a second."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._start = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            if not sys.stderr.isatty() or time.monotonic() - self._start < 1:
                return
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._text, total=total)
        self._bar.update(self._task, completed=done)
