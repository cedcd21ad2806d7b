"""From `argv` to an exit code; the only place where errors become text."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import ckptmap
from ckptmap.cli.common import show_error
from ckptmap.cli.streams import OutputError, drop_output, harmless_streams
from ckptmap.errors import CkptmapError
from ckptmap.printable import printable

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but an exit code leaves this function."""
    with harmless_streams():
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt:
            print("ckptmap: interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # the reader (`head`, a pager) has gone
            drop_output()
            return BROKEN_PIPE
        except OutputError as error:
            print(f"ckptmap: the output cannot be written: {error}", file=sys.stderr)
            drop_output()
            return COULD_NOT_TELL
        except _SignalError as ended:
            print(f"ckptmap: ended by {ended.args[0].name}", file=sys.stderr)
            return 128 + int(ended.args[0])


def _run(argv: Sequence[str]) -> int:
    with _signals_as_errors():
        try:
            args = _parsed(argv)
        except SystemExit as end:  # argparse has printed what there is to say
            sys.stdout.flush()
            return end.code if isinstance(end.code, int) else COULD_NOT_TELL
        try:
            code: int = args.run(args)
            sys.stdout.flush()
        except (BrokenPipeError, OutputError):
            raise
        except Exception as error:
            _tell(error, debug=args.debug)
            return COULD_NOT_TELL
        return code


def _tell(error: Exception, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    elif isinstance(error, CkptmapError):
        show_error(error)
    elif isinstance(error, FileNotFoundError) and not _has_current_folder():
        print("ckptmap: the current folder was deleted; go to another one", file=sys.stderr)
    else:
        print(
            f"ckptmap: a fault of ckptmap itself: {type(error).__name__}: {printable(str(error))}\n"
            "Please report it, with what `--debug` shows.",
            file=sys.stderr,
        )


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


class _SignalError(BaseException):
    """The system asks this process to end; what was begun is taken back on the way out."""


@contextmanager
def _signals_as_errors() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, so that no temporary file stays."""

    def end(number: int, _: object) -> None:
        raise _SignalError(signal.Signals(number))

    before = {}
    if threading.current_thread() is threading.main_thread():
        # One that is ignored stays so: `nohup` wants that.
        wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
        before = {number: signal.signal(number, end) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    parser = argparse.ArgumentParser(
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


class _Help(argparse.HelpFormatter):
    """Wraps sentences, and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def _operands(parser: argparse.ArgumentParser) -> str:
    """A verb's operands in one line: the usage of one with twenty flags would push the rest off the screen."""
    words = [(str(one.metavar), one.nargs) for one in parser._get_positional_actions()]
    return " ".join(f"[{word}]" if nargs == "?" else word for word, nargs in words if word)
