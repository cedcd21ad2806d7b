"""`ckptmap completion`: what a shell needs to complete verbs, flags and files."""

from __future__ import annotations

import argparse

from ckptmap.printing import show

EXAMPLES = """\
  ckptmap completion bash > ~/.local/share/bash-completion/completions/ckptmap
  ckptmap completion zsh > "${fpath[1]}/_ckptmap"
  ckptmap completion fish > ~/.config/fish/completions/ckptmap.fish"""

SHELLS = ("bash", "zsh", "fish")

NO_FILES = ("RULE", "PATTERN", "WHICH", "TYPE", "NAME", "N", "T", "S", "REVISION", "VARIANT", "AT")
"""Metavars of what is no file; the rest may be one, or has choices of its own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operand."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Print the script; 0."""
    import shtab

    from ckptmap.cli.main import make_parser, verb_parsers

    parser = make_parser()
    for verb in verb_parsers(parser).values():
        for action in verb._actions:
            takes_value = action.nargs != 0 and action.choices is None
            if takes_value and action.metavar not in NO_FILES and "=" not in str(action.metavar):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    show(shtab.complete(parser, args.shell))
    return 0
