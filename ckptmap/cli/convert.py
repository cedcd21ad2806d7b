"""`ckptmap convert`: run a rule file on a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from ckptmap.cli.check import read_sizes
from ckptmap.cli.common import SOURCE_HELP, add_choices, open_source, show_error
from ckptmap.cli.progress import Progress
from ckptmap.conversion.convert import Conversion, convert, undo
from ckptmap.errors import CheckpointError, ConvertError, PlanError
from ckptmap.printing import say

EXAMPLES = """\
  ckptmap convert roberta.ckptmap FacebookAI/roberta-base mine.safetensors
  ckptmap convert roberta.ckptmap mine.safetensors out/ --back --like org/name
  ckptmap convert mine.safetensors out/ --back      # by the rules it carries
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
    parser.add_argument("--size", metavar="AXIS=N", action="append", default=[], help="length of an axis; repeatable")
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
            say(f"{args.undo}: {'rolled back' if undo(args.undo) else 'nothing to undo'}")
            return 0
        return _convert(args)
    except (ConvertError, PlanError) as error:
        if args.debug:
            raise
        show_error(error)
        return 1


def _convert(args: argparse.Namespace) -> int:
    rules, source, out = _operands(args)
    if Path(source).is_file():
        undo(source)
    with (
        open_source(args, source) as checkpoint,
        Progress(f"Writing {Path(out or source).name}", unit="bytes") as progress,
    ):
        made = convert(
            rules,
            checkpoint,
            out,
            back=args.back,
            residue=args.residue,
            base=args.base,
            sizes=read_sizes(args.size),
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
        raise CheckpointError(f"takes {usage}, and {len(words)} operands were given", source="convert")
    rules = words.pop(0) if len(words) > wanted else None
    return rules, words[0], None if args.in_place else words[1]


def _show(made: Conversion) -> None:
    for path in made.leftovers:
        say(f"removed {path}, which a run that was cut short had left")
    files = made.files[0] if len(made.files) == 1 else f"{len(made.files)} files in {Path(made.files[0]).parent}"
    say(f"{files}: {made.tensors:,} tensors, {made.nbytes:,} bytes")
    for old, new, count in made.casts:
        loss = ", which narrows" if (old, new, count) in made.narrowed else ""
        say(f"cast {old} to {new}: {count:,} tensors{loss}")
    _list("left out" if made.residue is None else f"kept in {made.residue}", made.left_out)
    _list("not written, as nothing gave their values", made.missing)
    _list("stored once", tuple(f"{second} = {first}" for second, first in made.tied))


def _list(what: str, names: tuple[str, ...]) -> None:
    if names:
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        say(f"{what}: {', '.join(names[:SHOWN])}{more}")
