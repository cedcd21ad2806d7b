"""Evidence from two modules that can be run: which element of the left plays the part of each element of the right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.errors import ArchitectureError
from ckptmap.infer.agreement import agreement
from ckptmap.infer.extend import Partial, extend
from ckptmap.infer.leftovers import pair_leftovers
from ckptmap.infer.probe_runs import Runner, Subject
from ckptmap.infer.probes import Probed, probe
from ckptmap.infer.siblings import complete_siblings
from ckptmap.infer.stacks import KEPT, Stack, carry_on, cut

if TYPE_CHECKING:
    import numpy
    import torch

    from ckptmap.infer.probe_side import Side

Modules: TypeAlias = "tuple[torch.nn.Module, torch.nn.Module]"
Calls: TypeAlias = "tuple[Runner, Runner]"
Learnt: TypeAlias = "tuple[frozenset[str], frozenset[str]]"

PROBED = "equal outputs and derivatives when both models are filled alike"


@dataclass(frozen=True)
class ByModules:
    """What running both models showed.

    Attributes:
        found: The element map, and what rests on other evidence than the probes'.
        silent: Right tensors that cannot change what was compared: never run, or behind it.
        left_silent: The same on the left.
        compared: Places on both sides whose values are equal.
        learnt: Buffers of the left and of the right that a parameter of the other side may stand for.
    """

    found: Partial
    silent: frozenset[str]
    left_silent: frozenset[str]
    compared: tuple[tuple[str, str], ...]
    learnt: Learnt = (frozenset(), frozenset())


def by_modules(
    left: torch.nn.Module,
    right: torch.nn.Module,
    left_call: Runner,
    right_call: Runner,
    *,
    labels: tuple[str, str] = ("left", "right"),
) -> ByModules:
    """Match two modules that compute the same function on the same inputs.

    Args:
        left: A module on the CPU.
        right: Another.
        left_call: How to run the left on the inputs.
        right_call: How to run the right on the same inputs.
        labels: What messages call them.

    Raises:
        ArchitectureError: One cannot be run, or they have no activation in common when filled alike.
    """
    modules, calls = (left, right), (left_call, right_call)
    learnt = learnt_elsewhere(left, right)
    shallow, stacked = zip(*(cut(module) for module in modules), strict=True)
    depths = [sorted(stack.layers for stack in stacks) for stacks in stacked]
    carried = None
    if depths[0] and depths[0] == depths[1]:
        carried = _carried(modules, calls, labels, _search(shallow, calls, labels, learnt), stacked)
    result = carried or _search(modules, calls, labels, learnt)
    if any(place.startswith("output") for _, place in result.compared):
        # Else what seems to change no output may only lie behind the part that differs.
        pair_leftovers(result.found, *([name for name, _ in module.named_parameters()] for module in modules))
    return replace(result, learnt=learnt)


def learnt_elsewhere(left: torch.nn.Module, right: torch.nn.Module) -> Learnt:
    """Buffers of each side that may be a parameter on the other: a table of positions that one side does not train.

    They have a shape of which the other side has more parameters.
    """
    import torch

    shapes = [Counter(tuple(p.shape) for p in module.parameters()) for module in (left, right)]
    found = []
    for side, module in enumerate((left, right)):
        saved = set(module.state_dict())
        found.append(
            frozenset(
                name
                for name, tensor in module.named_buffers()
                if name in saved
                and tensor.is_floating_point()
                and tensor.ndim > 1
                and tensor.numel() > 1
                and bool(torch.isfinite(tensor).all())
                and shapes[1 - side][tuple(tensor.shape)] > shapes[side][tuple(tensor.shape)]
            )
        )
    return found[0], found[1]


def _search(modules: Modules, calls: Calls, labels: tuple[str, str], learnt: Learnt) -> ByModules:
    best: ByModules | None = None
    problem: ArchitectureError | None = None
    # Rectifiers that are softened leave no unit switched off, unless only one of the two is written as such.
    for tied, smooth in ((False, True), (False, False), (True, True)):
        subjects = _subjects(modules, calls, labels, learnt, tied=tied, smooth=smooth)
        if tied and not any(subject.aliases for subject in subjects):
            break
        try:
            result = _collect(probe(*subjects))
        except ArchitectureError as error:
            problem = error
            continue
        if best is None or known_elements(result) > known_elements(best):
            best = result
        # What looks silent may only lie behind what the two have in common so far.
        if all((array >= 0).all() for array in best.found.elements.values()):
            break
    if best is None:
        raise problem or ArchitectureError(f"{labels[0]} and {labels[1]} cannot be compared")
    extend(best.found)
    complete_siblings(best.found)
    return best


def _subjects(
    modules: Modules, calls: Calls, labels: tuple[str, str], learnt: Learnt, *, tied: bool = False, smooth: bool = False
) -> list[Subject]:
    return [
        Subject(module, call, label, tied=tied, smooth=smooth, learnt=names & module.state_dict().keys())
        for module, call, label, names in zip(modules, calls, labels, learnt, strict=True)
    ]


def _carried(
    modules: Modules, calls: Calls, labels: tuple[str, str], shallow: ByModules, stacked: Sequence[list[Stack]]
) -> ByModules | None:
    """What was found on the first layers, carried on to all of them and proven there."""
    if _lacking(shallow):
        return None
    subjects = _subjects(modules, calls, labels, learnt_elsewhere(*modules))
    shapes = [subject.shapes for subject in subjects]
    elements = carry_on(shallow.found, shapes[0], shapes[1], *stacked)
    if elements is None:
        return None
    compared = agreement(subjects[0], subjects[1], elements)
    if not compared:
        return None
    evidence = dict(shallow.found.evidence)
    for stack in stacked[1]:
        for name in shapes[1]:
            place = stack.layer(name)
            like = f"{stack.path}.{KEPT - 1}.{place[1]}" if place else ""
            if place and place[0] >= KEPT and like in evidence:
                evidence[name] = evidence[like]
    found = Partial(elements, shapes[0], shapes[1], evidence, set(shallow.found.beyond))
    return ByModules(found, shallow.silent, shallow.left_silent, compared)


def _collect(probed: Probed) -> ByModules:
    import numpy

    left, right = probed.left.subject, probed.right.subject
    nothing = {name: numpy.full(shape, -1, dtype=numpy.int64) for name, shape in right.shapes.items()}
    found = Partial(nothing, left.shapes, right.shapes)
    numbers = numpy.full(probed.left.size + 1, -1, dtype=numpy.int64)
    for name in probed.left.names:
        part = probed.left.part(numbers[:-1], name)
        part[...] = found.first[name] + numpy.arange(part.size).reshape(part.shape)
    elements = {name: numbers[probed.right.part(probed.partner, name)] for name in probed.right.names}
    share_aliases(elements, right.aliases)
    return ByModules(
        Partial({**found.elements, **elements}, left.shapes, right.shapes),
        silent_tensors(probed.right, probed.right_silent),
        silent_tensors(probed.left, probed.left_silent),
        probed.compared,
    )


def share_aliases(elements: dict[str, numpy.ndarray], aliases: Mapping[str, str]) -> None:
    """Let all names of a tensor have what is known of one."""
    for name, first in aliases.items():
        # Where each name is a leaf of its own, one of them may be the only one that the model uses.
        if name not in elements or (elements[name] < 0).all():
            elements[name] = elements[first]
        elif (elements[first] < 0).all():
            elements[first] = elements[name]


def silent_tensors(side: Side, silent: numpy.ndarray) -> frozenset[str]:
    """Tensors of which no element changes what was compared."""
    return frozenset(name for name in side.names if side.part(silent, name).all())


def known_elements(result: ByModules) -> int:
    """Right elements that have a partner."""
    return sum(int((array >= 0).sum()) for array in result.found.elements.values())


def _lacking(result: ByModules) -> bool:
    """Whether a right tensor that changes outputs is still without a partner."""
    return any((array < 0).all() and name not in result.silent for name, array in result.found.elements.items())
