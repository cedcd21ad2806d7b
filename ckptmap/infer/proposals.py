"""Names propose what running could not find, and running decides: a second way where probes see nothing.

Outputs that are normalised, or that stand behind a part that differs, can be constant while models are filled alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptmap.infer.agreement import agreeing, alike_values
from ckptmap.infer.by_names import by_names
from ckptmap.infer.compile import compile_written, elements_of
from ckptmap.infer.layouts import Numbering
from ckptmap.infer.unstack import whole_name
from ckptmap.rules.plan import bind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptmap.infer.findings import Elements
    from ckptmap.infer.operands import Operand
    from ckptmap.infer.probe_runs import Subject

NAMED = "proposed by names, decided by equal outputs"


def _proposed(left: Operand, right: Operand, found: Elements) -> Elements:
    """What names and shapes say of right tensors that are not known whole, where it agrees with what is known."""
    import numpy

    numbering = Numbering(left.shapes)
    whole = {name for name, array in found.items() if (array >= 0).all()}
    taken = {int(owner) for name in whole for owner in numpy.unique(numbering.owners(found[name]))}
    known = (
        frozenset(left.ties) | {numbering.names[owner] for owner in taken},
        frozenset(right.ties) | whole,
    )
    named = by_names(left.shapes, right.shapes, known=known).named
    # A stack of which a part is known already is nobody's guess.
    written = [
        one.written
        for one in named
        if not {*map(whole_name, one.written.left)} & known[0] and not {*map(whole_name, one.written.right)} & known[1]
    ]
    if not written:
        return {}
    rules = compile_written(written, left.shapes, right.shapes)
    made = elements_of(bind(rules, left.shapes, right.shapes, partial=True), left.shapes, right.shapes)
    return {
        name: array
        for name, array in made.items()
        if name not in found or bool(((found[name] < 0) | (found[name] == array)).all())
    }


def _confirmed(
    models: tuple[Subject, Subject], elements: Elements, names: Sequence[str]
) -> tuple[frozenset[str], tuple[tuple[str, str], ...]]:
    """Which of these right tensors the outputs feel, and where both models agree when filled by these elements.

    Args:
        models: Left and right.
        elements: For each right tensor that trains its left elements; -1 where nothing is known.
        names: Right tensors that are in question.
    """
    import numpy

    left, right = models
    ours, theirs = alike_values(left, right, elements)
    straight = left.run(ours)
    compared = agreeing(straight, right.run(theirs))
    felt = set()
    random = numpy.random.default_rng(3)
    for name in names if compared else ():
        # Not by one factor for all: a norm behind it would take that out.
        nudged = theirs[name] * (1 + random.random(theirs[name].shape))
        if not set(compared) <= set(agreeing(straight, right.run({**theirs, name: nudged}))):
            felt.add(name)
    return frozenset(felt), compared


def confirmed_names(
    sides: tuple[Operand, Operand], models: tuple[Subject, Subject], found: Elements
) -> tuple[Elements, tuple[tuple[str, str], ...]]:
    """What names propose for right tensors that running did not find, where running then confirms it."""
    import numpy

    left, right = sides
    if all((array >= 0).all() for array in found.values()) and set(found) >= set(models[1].parameters) - {*right.ties}:
        return {}, ()
    named = {name: array for name, array in _proposed(left, right, found).items() if name in models[1].parameters}
    if not named:
        return {}, ()
    nothing = {name: numpy.full(right.shapes[name], -1, dtype=numpy.int64) for name in models[1].parameters}
    trial = nothing | {name: array for name, array in (found | named).items() if name in nothing}
    for second, first in right.ties.items():
        if second in trial and first in trial:
            trial[second] = trial[first]
    felt, compared = _confirmed(models, trial, tuple(named))
    return {name: array for name, array in named.items() if name in felt}, compared
