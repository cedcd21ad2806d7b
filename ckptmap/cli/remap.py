"""`ckptmap remap`: find the rules between two architectures, prove them, write them."""

from __future__ import annotations

import argparse
import ast
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import open_checkpoint
from ckptmap.cli.common import add_format, add_html, check_page, keep_page, show_error
from ckptmap.cli.progress import Progress
from ckptmap.conversion.convert import convert
from ckptmap.errors import ArchitectureError, CheckpointError, PlanError, RuleError
from ckptmap.printable import printable_lines
from ckptmap.printing import say, show, show_json, warn
from ckptmap.remapping import Remap, remap
from ckptmap.report.html.remap import remap_page
from ckptmap.report.markdown import as_markdown, fenced
from ckptmap.report.remap import remap_counts, remap_document, remap_verdict
from ckptmap.rules.plan import bind

if TYPE_CHECKING:
    from ckptmap.infer.inputs import Inputs
    from ckptmap.infer.operands import Operand

EXAMPLES = """\
  ckptmap remap org/name#RobertaForMaskedLM my_model:build -o roberta.ckptmap
  ckptmap remap old.py:Model new.py:Model --left-arg layers=2
  ckptmap remap a.safetensors b.safetensors --pin 'enc.** <-> bert.enc.**'"""

OPERAND_HELP = "org/name#Class, module:callable, file.py:callable, or a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operands and flags."""
    parser.add_argument("left", metavar="LEFT", help=OPERAND_HELP)
    parser.add_argument("right", metavar="RIGHT", help=OPERAND_HELP)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the decided rules there")
    parser.add_argument("--pin", metavar="RULE", action="append", default=[], help="a rule that is known; repeatable")
    parser.add_argument(
        "--layers",
        metavar="WHICH",
        help="where one side has more layers, which are meant: 'first 6', 'last 6', '0,2,4'",
    )
    parser.add_argument(
        "--ask", action="store_true", help="ask what stays open, on a terminal; answers are rules, as with --pin"
    )
    parser.add_argument(
        "--save", metavar="OUT", type=Path, help="convert the left checkpoint at once, as `convert` does"
    )
    parser.add_argument(
        "--values",
        action=argparse.BooleanOptionalAction,
        help="compare the values of two checkpoints; default: if all are on this machine",
    )
    parser.add_argument("--why", action="store_true", help="tell for each tensor what its rule rests on")
    parser.add_argument("--no-verify", action="store_true", help="do not run the models on converted weights")
    add_model_arguments(parser)
    add_format(parser)
    add_html(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how models are built and run."""
    models = parser.add_argument_group("models")
    for side in ("left", "right"):
        models.add_argument(
            f"--{side}-arg",
            metavar="K=V",
            action="append",
            default=[],
            help=f"an argument of the {side} callable, or a value of its config; repeatable",
        )
        models.add_argument(
            f"--{side}-inputs", metavar="M:C", help=f"module:callable that gives what the {side} is run on"
        )
    models.add_argument(
        "--memory-names",
        action="store_true",
        help="write rules for the names of transformers modules, not of their checkpoints",
    )


def given_sides(args: argparse.Namespace) -> tuple[Operand, Operand]:
    """Both operands, built."""
    from ckptmap.infer.operands import operand

    sides = (
        operand(args.left, "left", _arguments(args.left_arg), memory_names=args.memory_names),
        operand(args.right, "right", _arguments(args.right_arg), memory_names=args.memory_names),
    )
    for side in sides:
        if side.danger is not None:
            warn(f"ckptmap: {side.label}: {side.danger}")
    return sides


def given_inputs(args: argparse.Namespace) -> tuple[Inputs, Inputs] | None:
    """What a user gave to run both models on."""
    from ckptmap.infer.operands import called

    given = (args.left_inputs, args.right_inputs)
    if (given[0] is None) != (given[1] is None):
        raise ArchitectureError("--left-inputs and --right-inputs go together: both models must get the same input")
    return None if given[0] is None else (called(given[0]), called(given[1]))


def run(args: argparse.Namespace) -> int:
    """Find rules; 0 when all is decided and proven, 1 otherwise."""
    from ckptmap.infer.operands import is_callable_name

    check_page(args.html)
    with Progress("Building"):
        sides, inputs = given_sides(args), given_inputs(args)
    if args.save is not None and is_callable_name(args.left):
        raise ArchitectureError(
            f"--save {args.save}: {args.left} has no weights to convert; give a checkpoint on the left"
        )
    hints = list(args.pin)

    def found() -> Remap:
        with Progress("Matching"):
            return remap(
                *sides, hints=hints, inputs=inputs, verify=not args.no_verify, layers=args.layers, values=args.values
            )

    answer = found()
    while args.ask and (told := _asked(answer)):
        hints.append(told)
        try:
            answer = found()
        except (RuleError, PlanError) as error:
            show_error(error)
            hints.pop()
    if args.output is not None and answer.unproven is None:
        (answer.draft or answer.rules).write(args.output)
    on_disk = not args.memory_names and any(side.module is not None and side.saved_as for side in sides)
    keep_page(args.html, lambda: remap_page(answer, module_pins=on_disk and not answer.note))
    if args.format == "json":
        show_json(_document(answer))
    elif args.format == "markdown":
        rules = fenced(str(answer.unproven or answer.draft or answer.rules))
        show(f"{as_markdown(remap_document(answer, why=args.why))}\n\n{rules}\n")
    else:
        _show(answer, args)
    proven = args.no_verify or (answer.verification is not None and answer.verification.passed)
    done = bool(answer.evidence) and proven and not answer.undecided
    if args.save is not None and answer.unproven is None:
        _save(answer, args.left.partition("#")[0], args.save)
        warn(f"{args.save}: written{', without what stays open' if answer.undecided else ''}")
    return 0 if done else 1


def _save(answer: Remap, source: str, out: Path) -> None:
    """Convert the left's weights, all that is decided of them."""
    with open_checkpoint(source) as checkpoint:
        shapes = {name: spec.shape for name, spec in checkpoint.items()}
        given = bind(answer.rules, shapes, None, partial=True).right
        lacking = [name for name in answer.evidence if name not in given]
        if lacking:
            raise ArchitectureError(
                f"--save {out}: {source} has no tensors for {lacking[0]} and {len(lacking) - 1} more; the rules are "
                "written for other names than the checkpoint's (leave --memory-names out, or convert by hand)"
            )
        with Progress(f"Writing {out.name}", unit="bytes") as progress:
            convert(answer.rules, checkpoint, out, partial=True, progress=progress)


def _asked(answer: Remap) -> str:
    """The answer of a person to the first open question; empty to leave it open."""
    if not answer.undecided or sys.stdin is None or not sys.stdin.isatty():
        return ""
    warn(answer.undecided[0].question)
    try:
        return input("rule (empty: leave it open): ").strip()
    except EOFError:
        return ""


def _arguments(texts: list[str]) -> dict[str, Any]:
    """`K=V` with V as Python writes it; what is none of that is text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise CheckpointError("must be NAME=VALUE", source=f"--left-arg or --right-arg {text}")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _show(answer: Remap, args: argparse.Namespace) -> None:
    say(remap_verdict(answer))
    if answer.unproven is not None:
        say("nothing is decided and nothing is written; one of these rules is wrong:")
        show(f"\n{answer.unproven}")
        return
    for line in remap_counts(answer):
        say(line)
    if args.why:
        for name, evidence in answer.evidence.items():
            say(f"  {name}: {evidence}")
    for heading, names in (("only on the left", answer.left_only), ("only on the right", answer.right_only)):
        if names:
            say(f"{heading}:")
            for one in names:
                say(f"  {one.name}: {one.reason}")
    if answer.undecided:
        say("undecided:")
        for group in answer.undecided:
            say(f"  {group.question}")
    if args.output is not None:
        say(f"{args.output}: written")
        return
    rules = str(answer.draft or answer.rules)
    show(f"\n{rules}")
    if printable_lines(rules) != rules:
        warn("ckptmap: some names hold characters that are shown escaped here; -o FILE writes them as they are")


def _document(answer: Remap) -> dict[str, Any]:
    proof = answer.verification
    return {
        "rules": str(answer.rules),
        "draft": None if answer.draft is None else str(answer.draft),
        "unproven": None if answer.unproven is None else str(answer.unproven),
        "note": answer.note,
        "undecided": [{"left": one.left, "right": one.right, "question": one.question} for one in answer.undecided],
        "left_only": {one.name: one.reason for one in answer.left_only},
        "right_only": {one.name: one.reason for one in answer.right_only},
        "evidence": dict(answer.evidence),
        "differences": [asdict(one) for one in answer.differences],
        "verification": None
        if proof is None
        else {
            "outcome": proof.outcome,
            "passed": proof.passed,
            "difference": proof.difference,
            "bits": proof.bits,
            "compared": proof.compared,
            "values": proof.values,
            "casts": proof.casts,
            "unreached": proof.unreached,
            "lacking": proof.lacking,
        },
    }
