"""Finds the rules between two architectures, and proves them: `ckptmap.remap`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.errors import ArchitectureError, PlanError
from ckptmap.infer.compile import compile_rules, elements_of
from ckptmap.infer.findings import Open, Unmatched
from ckptmap.infer.operands import Operand, check_names, operand
from ckptmap.infer.pins import PINNED
from ckptmap.infer.proof import PARTS
from ckptmap.infer.undecided import is_said, leftovers, without_ties
from ckptmap.rules.plan import bind, collector_paused
from ckptmap.rules.rules import LANGUAGE, Rules

if TYPE_CHECKING:
    import os

    import torch

    from ckptmap.checkpoint import Checkpoint
    from ckptmap.infer.by_modules import ByModules
    from ckptmap.infer.findings import Elements, Sizes
    from ckptmap.infer.inputs import Inputs
    from ckptmap.infer.probe_runs import Runner
    from ckptmap.infer.proof import Difference, Verification
    from ckptmap.spec import TensorSpec

Names: TypeAlias = "Checkpoint | Mapping[str, TensorSpec | torch.Tensor]"
Side: TypeAlias = "Operand | torch.nn.Module | Names | str | os.PathLike[str]"
"""What may stand on a side: a model, a checkpoint or state dict, or the name of one of them."""

MOST_ELEMENTS = 24_000_000
"""Larger models are searched with a part of their layers, rows and elements; smaller ones are held whole in float64."""


@dataclass(frozen=True)
class Remap:
    """What is known of two architectures' correspondence.

    Attributes:
        rules: The decided rules, and nothing but them; none if they failed their proof. What running showed to
            have no counterpart has a line too, `x <-> _`.
        undecided: What stays open, each with the question that would decide it.
        left_only: Left tensors without a counterpart, with the reason.
        right_only: Right tensors without a counterpart, with the reason.
        evidence: For each right tensor that the rules give, why.
        verification: The proof; None when it was not asked for, or there was nothing to run and no values were equal.
        unproven: Rules that failed their proof; at least one of them is wrong.
        draft: The decided rules together with guesses, which are marked so; None if nothing is guessed.
        note: Why models were not run, if they were not.
        left: Shapes of the left tensors, by the names that the rules have.
        right: The same of the right.
    """

    rules: Rules
    undecided: tuple[Open, ...] = ()
    left_only: tuple[Unmatched, ...] = ()
    right_only: tuple[Unmatched, ...] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)
    verification: Verification | None = None
    unproven: Rules | None = None
    draft: Rules | None = None
    note: str = ""
    left: Mapping[str, Sizes] = field(default_factory=dict, repr=False)
    right: Mapping[str, Sizes] = field(default_factory=dict, repr=False)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """What the two do differently, where the proof holds once that is allowed for."""
        return self.verification.differences if self.verification else ()

    def _repr_html_(self) -> str:
        from ckptmap.report.html.notebook import remap_html

        return remap_html(self)


def remap(
    left: Side,
    right: Side,
    *,
    hints: Sequence[str] | None = None,
    inputs: tuple[Inputs, Inputs] | None = None,
    verify: bool = True,
    layers: str | None = None,
    values: bool | None = None,
) -> Remap:
    """Find which tensor of the right is which of the left, as rules that read both ways.

    Two models that can be run are matched by what they compute, two checkpoints by the values they hold as far as these
    are equal. For the rest there are names and shapes, and what these cannot see (an order of rows, the transpose of a
    square matrix) stays a guess.

    Args:
        left: A model, `module:callable` that builds one, `org/name#Class`, a checkpoint, or names with their specs.
        right: The same for the right.
        hints: Rules that are known, in the notation of rule files: `encoder.{i}.w <-> blocks.{i}.w`.
        inputs: For each model what to run it on: keyword arguments, positional ones, or a callable that takes the
            module; both must mean the same input. Left out, usual inputs are tried.
        verify: Whether to run both models on converted weights.
        layers: Where one side has more layers, which of them are meant: `first 6`, `last 6`, `0,2,4`.
        values: Whether to compare the values that two checkpoints or state dicts hold; by default if all of them are on
            this machine. What is equal is decided by that, and proven bit by bit.

    Raises:
        ArchitectureError: A model cannot be built or run, or the two compute nothing in common; or values are
            asked for where there are none.
        PlanError: A hint does not fit, or contradicts what was found.
        RuleError: A hint is no rule.
        CheckpointError: A checkpoint cannot be read.
    """
    sides = operand(left, "left"), operand(right, "right")
    check_names(sides)
    compared = _are_compared(sides, values)
    note = _why_not_run(sides) or (
        "layers are chosen: the models do not compute the same" if layers is not None else ""
    )
    if not note and any(_is_large(side) for side in sides):
        return _by_parts(sides, hints or (), inputs, verify)
    if not note:
        from ckptmap.infer.running import one_thread

        with one_thread():
            return _by_modules(sides, _pinned(hints or (), sides), inputs, verify)
    if inputs is not None:
        raise ArchitectureError(f"inputs are given, and nothing can be run on them: {note}")
    with collector_paused():
        found = _not_run(sides, hints or (), layers, values=compared)
        if compared:
            note = "values were compared" + ("" if found.verification else ", and decide nothing")
        return replace(found, note=note)


def _why_not_run(sides: tuple[Operand, Operand]) -> str:
    """What keeps the two from being run and compared; empty if nothing does."""
    for side in sides:
        if side.module is None:
            return f"{side.label} is known by names and shapes only"
        if any(tensor.is_meta for tensor in (*side.module.parameters(), *side.module.buffers())):
            return f"{side.label} is on the meta device"
    return ""


def _is_large(side: Operand) -> bool:
    return side.module is not None and sum(tensor.numel() for tensor in side.module.parameters()) > MOST_ELEMENTS


def _not_run(sides: tuple[Operand, Operand], hints: Sequence[str], layers: str | None, *, values: bool) -> Remap:
    from ckptmap.infer.compile import without_guesses
    from ckptmap.infer.not_run import not_run

    found = not_run(sides, hints, layers, values=values)
    guessed = any(one.question for one in found.seen.named)
    return Remap(
        without_guesses(found.draft) if guessed else found.draft,
        tuple(found.seen.open),
        tuple(found.seen.left),
        tuple(found.seen.right),
        found.evidence,
        found.verification,
        draft=found.draft if guessed else None,
        left=found.shapes[0],
        right=found.shapes[1],
    )


def _are_compared(sides: tuple[Operand, Operand], values: bool | None) -> bool:
    """Whether values are looked at: if asked for, else if they are on this machine on both sides."""
    for side in sides if values else ():
        if side.stored is None:
            raise ArchitectureError(
                f"{side.label}: values are compared between checkpoints and state dicts that hold them; give one on "
                "both sides (of a model its state_dict())"
            )
    return values if values is not None else all(side.local for side in sides)


def _by_modules(
    sides: tuple[Operand, Operand], pinned: Elements, inputs: tuple[Inputs, Inputs] | None, verify: bool
) -> Remap:
    """The answer for two models that are run; where they do not agree, once what they do differently is allowed for."""
    from ckptmap.align.diagnose.experiments import diagnosed
    from ckptmap.infer.guessed_inputs import calls_on

    left, right = sides[0].module, sides[1].module
    assert left is not None and right is not None
    calls = calls_on(inputs, left, right, (sides[0].label, sides[1].label))
    answer: Remap | ArchitectureError
    try:
        answer = _matched(sides, pinned, calls, verify)
        proven = answer.verification is not None and answer.verification.passed
    except ArchitectureError as error:
        answer, proven = error, False
    if verify and not proven:
        found = diagnosed((left, right), calls, lambda changed: _matched(sides, pinned, changed, verify))
        if found is not None:
            return found
    if isinstance(answer, ArchitectureError):
        raise answer
    return answer


def _matched(sides: tuple[Operand, Operand], pinned: Elements, calls: tuple[Runner, Runner], verify: bool) -> Remap:
    from ckptmap.align.config_sizes import with_config_sizes
    from ckptmap.align.prove.check import Model, prove
    from ckptmap.infer.by_modules import PROBED, by_modules, learnt_elsewhere
    from ckptmap.infer.probe_runs import Subject
    from ckptmap.infer.proposals import NAMED, confirmed_names
    from ckptmap.infer.siblings import straightened

    left, right = sides
    assert left.module is not None and right.module is not None
    labels = (left.label, right.label)
    problem: ArchitectureError | None = None
    found: Elements = {}
    beyond: frozenset[str] = frozenset()
    try:
        seen = by_modules(left.module, right.module, *calls, labels=labels)
        found = without_ties(seen.found.elements, sides)
        _check_alike(seen, found, labels)
        learnt, silent, beyond = seen.learnt, seen.silent, frozenset(seen.found.beyond)
        evidence = {name: seen.found.evidence.get(name, PROBED) for name in found}
    except ArchitectureError as error:
        problem, found, evidence = error, {}, {}
        learnt, silent = learnt_elsewhere(left.module, right.module), frozenset()
    _check_pins(pinned, found)
    found |= pinned
    evidence |= dict.fromkeys(pinned, PINNED)
    models = (
        Subject(left.module, calls[0], left.label, learnt=learnt[0]),
        Subject(right.module, calls[1], right.label, learnt=learnt[1]),
    )
    named, _ = confirmed_names(sides, models, found)
    if named:
        found |= named
        evidence |= dict.fromkeys(named, NAMED)
    elif problem is not None:
        raise problem
    answer = _answer(sides, found, evidence, silent, beyond)
    proven = [
        Model(side.module, call, side.label, names)
        for side, call, names in zip(sides, calls, learnt, strict=True)
        if side.module is not None
    ]
    proof = prove(answer.rules, _said(answer), proven[0], proven[1]) if verify else None
    if beyond and not (proof and proof.passed):
        # Only a proof shows that nothing ever looks at the rows that the left does not have.
        beyond = frozenset()
        answer = _answer(sides, found, evidence, silent, beyond)
        proof = prove(answer.rules, _said(answer), proven[0], proven[1]) if verify else None
    if len(answer.evidence) < len(found) and verify:
        straight = straightened(found, left.shapes)
        better = _answer(sides, straight, evidence, silent, beyond)
        if len(better.evidence) > len(answer.evidence):
            again = prove(better.rules, _said(better), proven[0], proven[1])
            if again.passed:
                found, answer, proof = straight, better, again
    if proof is not None and proof.outcome == PARTS:
        return _disproven(answer, proof, sides)
    answer = _by_saved_names(answer, sides, found, evidence, silent, beyond)
    return replace(answer, rules=with_config_sizes(answer.rules, sides), verification=proof)


def _by_parts(
    sides: tuple[Operand, Operand], hints: Sequence[str], inputs: tuple[Inputs, Inputs] | None, verify: bool
) -> Remap:
    """The answer for models of real size: what was found with a few layers, proven by running all."""
    from ckptmap.align.config_sizes import with_config_sizes
    from ckptmap.align.large import large
    from ckptmap.infer.by_modules import PROBED

    both = large(sides, inputs)
    cut, labels = both.cut, (sides[0].label, sides[1].label)
    found = without_ties(both.seen.found.elements, cut)
    _check_alike(both.seen, found, labels)
    pinned = _pinned(hints, cut)
    _check_pins(pinned, found)
    found |= pinned
    evidence = {name: both.seen.found.evidence.get(name, PROBED) for name in found} | dict.fromkeys(pinned, PINNED)
    silent, beyond = both.seen.silent, frozenset(both.seen.found.beyond)
    answer = _answer(cut, found, evidence, silent, beyond)
    note = both.lacking() if verify else ""
    proof = both.proof(answer.rules) if verify and not note else None
    if proof is not None and proof.outcome == PARTS:
        return _disproven(answer, proof, sides)
    answer = _by_saved_names(answer, cut, found, evidence, silent, beyond)
    return replace(
        answer,
        rules=with_config_sizes(answer.rules, sides),
        left_only=both.whole_unmatched(answer.left_only, 0),
        right_only=both.whole_unmatched(answer.right_only, 1),
        evidence=both.whole_names(answer.evidence, 1),
        verification=proof,
        note=note,
        left=sides[0].shapes,
        right=sides[1].shapes,
    )


def _by_saved_names(
    answer: Remap,
    sides: tuple[Operand, Operand],
    found: Elements,
    evidence: Mapping[str, str],
    silent: frozenset[str] | None,
    beyond: frozenset[str],
) -> Remap:
    """The answer by the names that checkpoints have, its rules with what has no counterpart."""
    from ckptmap.align.config_sizes import padded_with_zeros
    from ckptmap.infer.homeless import with_homeless
    from ckptmap.infer.on_disk import as_saved

    saved, carried, reasons = as_saved(sides, found, evidence)
    if saved != sides:
        answer = _answer(saved, carried, reasons, silent, beyond)
    rules = padded_with_zeros(answer.rules)
    rules = with_homeless(rules, saved[0].shapes, saved[1].shapes, answer.left_only, answer.right_only)
    return replace(answer, rules=rules)


def _said(answer: Remap) -> Elements:
    """Which element of the left stands where on the right, by the rules and nothing else."""
    return elements_of(bind(answer.rules, answer.left, answer.right, partial=True), answer.left, answer.right)


def _disproven(answer: Remap, proof: Verification, sides: tuple[Operand, Operand]) -> Remap:
    """Rules that do not make the models agree decide nothing."""
    question = "the rules found failed their proof; --pin those that you know to be right, or give other inputs"
    left, right = (side.shapes for side in sides)
    everything = Open(tuple(left), tuple(right), question)
    nothing = Rules.parse(f"ckptmap {LANGUAGE}\n")
    return Remap(nothing, (everything,), verification=proof, unproven=answer.rules, left=left, right=right)


def _check_alike(seen: ByModules, found: Elements, labels: tuple[str, str]) -> None:
    """Two models that share no output may share most of what leads there; if they share little, they are two things."""
    from ckptmap.infer.places import has_output

    outputs = has_output(seen.compared)
    # Where outputs agree as long as all is filled alike, tensors that change them may still be without a partner.
    counted = [array for name, array in found.items() if not outputs or name not in seen.silent]
    known = sum(bool((array >= 0).all()) for array in counted)
    if 2 * known < len(counted):
        a, b = seen.compared[0]
        agree = f"only {a} and {b} agree" + (", and only while most of the tensors are alike" if outputs else "")
        raise ArchitectureError(
            f"{labels[0]} and {labels[1]} do not compute the same function: filled alike, {agree}; "
            "check sizes, activations, norms' eps and the inputs given"
        )


def _answer(
    sides: tuple[Operand, Operand],
    found: Elements,
    evidence: Mapping[str, str],
    silent: frozenset[str] | None,
    beyond: frozenset[str],
) -> Remap:
    left, right = sides
    whole = {name: array for name, array in found.items() if array.size and ((array >= 0).all() or name in beyond)}
    ties = [
        (side, first, second)
        for side, one in zip(("left", "right"), sides, strict=True)
        for second, first in one.ties.items()
        if is_said(first, side, whole, left)
    ]
    made = compile_rules(whole, left.shapes, right.shapes, labels=(left.label, right.label), ties=ties)
    said = {name for name in whole if name not in made.unsaid}
    plan = bind(made.rules, left.shapes, right.shapes, partial=True)
    covered = {name for one in plan.equations for name in one.left} | set(left.ties)
    left_over = [name for name in left.shapes if name not in covered]
    right_over = [name for name in right.shapes if name not in said and name not in right.ties]
    undecided, left_only, right_only = leftovers(sides, left_over, right_over, made.unsaid, silent)
    return Remap(
        made.rules,
        undecided,
        left_only,
        right_only,
        {name: text for name, text in evidence.items() if name in said},
        left=left.shapes,
        right=right.shapes,
    )


def _pinned(hints: Sequence[str], sides: tuple[Operand, Operand]) -> Elements:
    """What the hints alone say."""
    from ckptmap.infer.pins import bound_hints

    shapes = sides[0].shapes, sides[1].shapes
    found: Elements = {}
    for hint in bound_hints(hints, *shapes):
        found |= elements_of(hint.plan, *shapes)
    return found


def _check_pins(pinned: Elements, found: Elements) -> None:
    wrong = [
        name for name, array in pinned.items() if name in found and ((found[name] >= 0) & (found[name] != array)).any()
    ]
    if wrong:
        raise PlanError((f"the hint for {wrong[0]} contradicts what running both models shows; correct or drop it",))
