"""From `argv` to an exit code; the only place where errors become text."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import ckptmap
from ckptmap.errors import CkptmapError

VERBS = ("inspect", "diff")

COULD_NOT_TELL = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but an exit code leaves this function."""
    try:
        args = make_parser().parse_args(argv)
    except SystemExit as end:  # argparse has printed what there is to say
        return end.code if isinstance(end.code, int) else COULD_NOT_TELL
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("ckptmap: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except CkptmapError as error:
        if args.debug:
            raise
        print(f"ckptmap: {error}", file=sys.stderr)
        return COULD_NOT_TELL
    except Exception as error:
        if args.debug:
            raise
        print(
            f"ckptmap: a fault of ckptmap itself: {type(error).__name__}: {error}\n"
            "Please report it, with what `--debug` shows.",
            file=sys.stderr,
        )
        return COULD_NOT_TELL
    return code


def make_parser() -> argparse.ArgumentParser:
    """The parser with all verbs and flags."""
    parser = argparse.ArgumentParser(prog="ckptmap", description=ckptmap.__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"ckptmap {ckptmap.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name in VERBS:
        module = import_module(f"ckptmap.cli.{name}")
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.set_defaults(run=module.run)
    return parser
