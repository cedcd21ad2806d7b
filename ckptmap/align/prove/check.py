"""The final check: both whole models, filled through the rules, must give equal outputs on all inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy
import torch

from ckptmap.align.prove.fills import DRAWS, Filled, constants, drawn, loose_tensors
from ckptmap.align.prove.outputs import difference, output_pairs, places
from ckptmap.align.prove.reach import reached, unreached_text
from ckptmap.align.prove.tolerance import tolerance
from ckptmap.align.prove.variations import variations
from ckptmap.conversion.convert import convert
from ckptmap.infer.places import close
from ckptmap.infer.probe_runs import Subject
from ckptmap.infer.proof import EXACT, Verification
from ckptmap.stages import tell

if TYPE_CHECKING:
    from ckptmap.infer.findings import Elements
    from ckptmap.infer.probe_runs import Run, Runner
    from ckptmap.rules.rules import Rules

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Model:
    """One side of a proof.

    Attributes:
        module: The model; it is copied, never changed.
        call: How to run it.
        label: What messages call it.
        learnt: Buffers that a parameter of the other side may stand for.
    """

    module: torch.nn.Module
    call: Runner
    label: str
    learnt: frozenset[str] = frozenset()

    def subject(self, call: Runner) -> Subject:
        """The model as it is run for a proof: its tied tensors are one."""
        return Subject(self.module, call, self.label, tied=True, learnt=self.learnt)


@dataclass
class _Seen:
    """What the runs showed so far."""

    pairs: Pairs = field(default_factory=list)
    worst: float = 0.0
    where: tuple[str, str] | None = None
    runs: tuple[Run, Run] | None = None
    returned: set[str] = field(default_factory=set)
    felt: tuple[dict[str, numpy.ndarray], dict[str, numpy.ndarray]] = field(default_factory=lambda: ({}, {}))


def prove(
    rules: Rules, elements: Elements, left: Model, right: Model, *, values: Mapping[str, torch.Tensor] | None = None
) -> Verification:
    """Fill both whole models through the rules, run them on several inputs, compare all outputs, and convert back.

    Args:
        rules: The rules, for the names of the modules.
        elements: What they say: for right tensors the left elements that stand there, -1 where they say nothing.
        left: The left model.
        right: The right model.
        values: Weights of the left to convert and run as well, besides random ones.
    """
    tell("the proof")
    varied = variations((left.module, right.module), (left.call, right.call))
    seen = _Seen()
    apart: tuple[str, ...] = ()
    subjects = left.subject(left.call), right.subject(right.call)
    for number, one in enumerate(varied):
        pair = subjects if number == 0 else (left.subject(one.calls[0]), right.subject(one.calls[1]))
        for draw in range(DRAWS):
            filled = drawn(*pair, elements, draw)
            apart = apart or filled.apart
            _look(seen, pair, filled, draw)
    if values is not None:
        _look(seen, subjects, _given(subjects, elements, values), 0)
    loose = loose_tensors(*subjects, elements)
    lacking = tuple(sorted(seen.returned - {b for _, b in seen.pairs}))
    allowed = EXACT if seen.worst <= EXACT or not seen.pairs else tolerance(subjects, seen.pairs)
    agree = bool(seen.pairs) and seen.worst <= allowed and not apart
    until, parted = (None, None) if agree or seen.runs is None else _parting(*seen.runs)
    alike = not agree and any((loose.left, loose.right)) and _agree_neutrally(subjects, elements, seen.pairs)
    return Verification(
        tuple(seen.pairs),
        seen.worst,
        seen.where,
        _comes_back(rules, *subjects),
        until,
        parted,
        allowed=allowed,
        lacking=lacking,
        apart_ties=apart,
        unreached=tuple(_unreached(seen, subjects, elements)) if agree else (),
        loose=(loose.left, loose.right),
        hangs_on_loose=alike,
        inputs=tuple(one.what for one in varied),
    )


def _look(seen: _Seen, subjects: tuple[Subject, Subject], filled: Filled, draw: int) -> None:
    """Run both on these values, and note by how much they differ and what they reach."""
    runs = subjects[0].run(filled.left), subjects[1].run(filled.right)
    if draw and not all(_finite(run) for run in runs):
        return  # values below zero where the models take none; the first draw has none
    if seen.runs is None:
        seen.pairs, seen.runs = output_pairs(*runs), runs
    seen.returned |= {one.place for one in runs[1].activations if one.output}
    ours, theirs = map(places, runs)
    for a, b in seen.pairs:
        gap = difference(ours.get(a), theirs.get(b))
        if seen.where is None or not gap <= seen.worst:
            seen.worst, seen.where, seen.runs = gap, (a, b), runs
    for number, run in enumerate(runs):
        for name, felt in reached(run, {pair[number] for pair in seen.pairs}).items():
            before = seen.felt[number].get(name)
            seen.felt[number][name] = felt if before is None else before | felt


def _finite(run: Run) -> bool:
    return all(bool(torch.isfinite(one.tensor).any()) for one in run.activations if one.output)


def _given(subjects: tuple[Subject, Subject], elements: Elements, values: Mapping[str, torch.Tensor]) -> Filled:
    """The left's own weights, and the right with what the rules make of them."""
    left, right = subjects
    random = drawn(left, right, elements, 0)
    ours = {name: values[name].double().numpy() if name in values else one for name, one in random.left.items()}
    flat = numpy.concatenate([_of(left, name, ours).reshape(-1) for name in left.shapes])
    theirs = dict(random.right)
    for name, array in elements.items():
        first = right.aliases.get(name, name)
        if first in theirs:
            made = numpy.where(array >= 0, flat[numpy.maximum(array, 0)], theirs[first])
            theirs[first] = numpy.where(array < -1, 0.0, made)
    return Filled(ours, theirs, random.apart)


def _of(side: Subject, name: str, values: Mapping[str, numpy.ndarray]) -> numpy.ndarray:
    value = values.get(side.aliases.get(name, name), side.own.get(name))
    return numpy.zeros(side.shapes[name]) if value is None else value


def _agree_neutrally(subjects: tuple[Subject, Subject], elements: Elements, pairs: Pairs) -> bool:
    """Whether the two agree as long as what no rule gives holds one value: then they may differ in that alone."""
    if not pairs:
        return False
    filled = drawn(*subjects, elements, 0, neutral=True)
    ours, theirs = places(subjects[0].run(filled.left)), places(subjects[1].run(filled.right))
    return all(difference(ours.get(a), theirs.get(b)) <= EXACT for a, b in pairs)


def _comes_back(rules: Rules, left: Subject, right: Subject) -> bool:
    """Whether weights that go through the rules there and back have equal bits."""
    generator = torch.Generator().manual_seed(11)
    state = {
        name: torch.rand(one.shape, generator=generator, dtype=torch.float64) if one.is_floating_point() else one
        for name, one in left.state().items()
    }
    for second, first in left.aliases.items():
        state[second] = state[first]
    homeless: dict[str, torch.Tensor] = {}
    there = convert(rules, state, partial=True, residue=homeless, base=right.state())
    assert isinstance(there, dict)
    back = convert(rules, there, back=True, partial=True, residue=homeless)
    assert isinstance(back, dict)
    return all(torch.equal(back[name], state[name]) for name in back)


def _unreached(seen: _Seen, subjects: tuple[Subject, Subject], elements: Elements) -> Iterator[str]:
    """What the proof does not speak of, for people: what no input reached, and buffers that stayed as built."""
    given = {subjects[1].aliases.get(name, name) for name in elements}
    yield from _names_of_both(seen, subjects, elements)
    yield from (f"{name}, kept as built" for name in constants(subjects[1], given))


def _names_of_both(seen: _Seen, subjects: tuple[Subject, Subject], elements: Elements) -> Sequence[str]:
    """Right tensors, and left ones that no rule gives on."""
    right = list(unreached_text(subjects[1].shapes, seen.felt[1]))
    loose = loose_tensors(*subjects, elements).left
    left = unreached_text(subjects[0].shapes, {name: seen.felt[0][name] for name in loose if name in seen.felt[0]})
    return [*right, *(f"{text} on the left" for text in left)]


def _parting(left: Run, right: Run) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """The last places at which two runs agree, and the first ones after them, in the order of execution."""
    last = None
    for at, one in enumerate(left.activations):
        like = next((there for there, other in enumerate(right.activations) if close(one, other)), None)
        last = last if like is None else (at, like)
    ours, theirs = (-1, -1) if last is None else last
    until = None if last is None else (left.activations[ours].place, right.activations[theirs].place)
    after = left.activations[ours + 1 : ours + 2], right.activations[theirs + 1 : theirs + 2]
    return until, (after[0][0].place, after[1][0].place) if all(after) else None
