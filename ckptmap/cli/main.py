"""From `argv` to an exit code; the only place where errors become text."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import NoReturn

import ckptmap
from ckptmap.cli.common import cut, show_error
from ckptmap.cli.ending import received, said, signals_as_errors
from ckptmap.errors import CkptmapError
from ckptmap.printable import printable
from ckptmap.printing import OutputError, doors, warn

VERBS = {
    "inspect": "Show the tensors of a checkpoint: names, shapes, dtypes, grouped by layer pattern.",
    "diff": "Show what differs between two checkpoints by name, shape and dtype. Exits 0 if nothing does, else 1.",
    "heads": "Show for each head class what from_pretrained would load, miss and initialise, from headers alone.",
    "remap": "Find the rules between two architectures and prove them. Exits 0 if all is decided and proven, else 1.",
    "verify": "Run two models on weights converted by a rule file. Exits 0 if they agree and bits come back, else 1.",
    "convert": "Convert a checkpoint by a rule file, either way. Exits 0 if it is written, 1 if the data refuse.",
    "export": "Write a rule file for another tool, as code or a table. Exits 0 if written, 1 if that cannot say it.",
    "check": "Check a rule file, by itself or against checkpoints. Exits 0 if it holds, 1 if there are problems.",
    "fmt": "Write a rule file in its canonical form; with --check, show what would change and exit 1.",
    "completion": "Print what bash, zsh or fish needs to complete verbs, flags and files.",
}
"""Each verb with what it does; its module is ckptmap/cli/<verb>.py."""

START = """\
start with:
  ckptmap inspect FILE-OR-REPO      what is in it
  ckptmap diff ONE OTHER            what differs, and what stays untrained
  ckptmap heads FILE-OR-REPO        which head classes are ready to use
  ckptmap remap MODEL MODEL         which tensor is which, as rules for convert
  ckptmap VERB --help               flags of a verb, with examples

exit codes: 0 yes, 1 no, 2 could not tell"""

COULD_NOT_TELL = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Run one command and return its exit code; nothing but an exit code leaves this function.

    Args:
        argv: The words after `ckptmap`; by default those of this process.
        own_process: Whether the process ends with the command, which may then end it at once when a signal comes.
    """
    with doors(), signals_as_errors(own_process=own_process):
        words = list(sys.argv[1:] if argv is None else argv)
        try:
            code = _run(words)
            sys.stdout.flush()
        except BaseException as error:
            code = _told(error, debug="--debug" in words)
        if (number := received()) is not None:  # even if a library swallowed it: what was done may be half of it
            code = 128 + number
    return code


def _run(words: Sequence[str]) -> int:
    try:
        args = _parsed(words)
    except SystemExit as end:  # argparse has printed what there is to say
        return end.code if isinstance(end.code, int) else COULD_NOT_TELL
    code: int = args.run(args)
    return code


def _told(error: BaseException, *, debug: bool) -> int:
    """Say on stderr what ended a command, and which exit code that makes."""
    if (number := received()) is not None:  # libraries make other errors of Ctrl-C, in the middle of an import, say
        warn(said(number))
    elif isinstance(error, KeyboardInterrupt):
        warn(said(signal.SIGINT))
        return INTERRUPTED
    elif isinstance(error, OutputError):
        if error.reader_left:
            return BROKEN_PIPE
        warn(f"ckptmap: the output cannot be written: {error}")
    elif debug:
        traceback.print_exception(error)
    elif isinstance(error, CkptmapError):
        show_error(error)
    elif isinstance(error, SystemExit):
        warn(f"ckptmap: code that was run ended the program: sys.exit({error.code!r})")
    elif isinstance(error, MemoryError):
        warn("ckptmap: there is not enough memory")
    elif isinstance(error, OSError):
        warn(f"ckptmap: {_of_the_system(error)}")
    else:
        warn(f"ckptmap: a fault of ckptmap itself: {type(error).__name__}: {error}")
        warn("Please report it, with what `--debug` shows.")
    return COULD_NOT_TELL


def _of_the_system(error: OSError) -> str:
    """What a refusal of the system says, and of which file."""
    files = [os.fsdecode(one) for one in (error.filename, error.filename2) if isinstance(one, (str, bytes))]
    text = ": ".join([*files, error.strerror or str(error) or type(error).__name__])
    try:
        os.getcwd()
    except OSError:
        return f"{text}; the current folder does not exist any more, change to another"
    return text


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = make_parser([word for word in words if word in VERBS][:1])
    if not words or words[0] not in VERBS:
        return parser.parse_args(words)
    verb = verb_parsers(parser)[words[0]]
    args, unknown = verb.parse_known_intermixed_args(words[1:])  # operands may stand between flags
    if unknown:
        verb.error(_unknown(unknown, verb))
    return args


def make_parser(whole: Collection[str] = VERBS.keys()) -> argparse.ArgumentParser:
    """The parser; of all verbs but these it knows no more than the name, and imports nothing."""
    parser = _Parser(
        prog="ckptmap",
        description=ckptmap.__doc__.partition("\n")[0],
        epilog=START,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"ckptmap {ckptmap.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, summary in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        if name not in whole:
            continue
        module = import_module(f"ckptmap.cli.{name}")
        verb.epilog = f"examples:\n{module.EXAMPLES}"
        module.add_arguments(verb)
        verb.usage = f"ckptmap {name} [flags] {_operands(verb)}".rstrip()
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.set_defaults(run=module.run)
    return parser


def _unknown(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """What to say of flags and operands that a verb does not take."""
    from difflib import get_close_matches  # late: only for who has mistyped something

    flags = [flag for action in parser._actions for flag in action.option_strings]
    near = get_close_matches(words[0].partition("=")[0], flags, 1)
    advice = f"did you mean {near[0]}?" if near else f"see {parser.prog} --help"
    return f"unrecognized arguments: {' '.join(words)}; {advice}"


def verb_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each verb."""
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(verbs.choices)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        super().error(cut(printable(message)))


class _Help(argparse.HelpFormatter):
    """Wraps sentences, and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def _operands(parser: argparse.ArgumentParser) -> str:
    """A verb's operands in one line: the usage of one with twenty flags would push the rest off the screen."""
    words = [(str(one.metavar), one.nargs) for one in parser._get_positional_actions()]
    return " ".join(f"[{word}]" if nargs == "?" else word for word, nargs in words if word)
