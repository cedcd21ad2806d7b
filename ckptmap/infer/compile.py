"""From equations between tensors to the file that a person would have written: folded over layers, in sections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptmap.errors import CkptmapError
from ckptmap.infer.equations import Written, equation, with_told_names
from ckptmap.infer.folding import folded, numbers_of, template_of
from ckptmap.infer.layouts import ShuffledError, linked_blocks
from ckptmap.infer.lines import Line, kinds_joined, sections
from ckptmap.infer.unstack import MARK, unstacked, whole_name
from ckptmap.printable import printable
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import LANGUAGE, NOWHERE, Rule, Rules, Section, Size, Statement

if TYPE_CHECKING:
    from ckptmap.infer.findings import Block, Elements, Sizes
    from ckptmap.rules.plan import Plan

MANY = 4096
"""So many equations are bound again in full."""

SECTIONS, FOLDED, LITERAL = LEVELS = ("folded, in sections", "folded", "literal")
"""Ways to write equations, the shortest first."""


@dataclass(frozen=True)
class Compiled:
    """A rule file, and what it could not say.

    Attributes:
        rules: The file.
        unsaid: Right tensors whose elements were known, in an order that the language has no words for.
    """

    rules: Rules
    unsaid: tuple[str, ...]


def compile_rules(
    elements: Elements,
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    *,
    labels: tuple[str, str] | None = None,
    ties: Iterable[tuple[str, str, str]] = (),
) -> Compiled:
    """The shortest file we can write that says exactly which element is which.

    Args:
        elements: For right tensors, the left elements that stand there.
        left: Shapes of the left tensors, in the order in which elements are numbered.
        right: Shapes of the right tensors.
        labels: What the sides are, for people.
        ties: Side, name and second name of tensors that are one.
    """
    said, unsaid = equations_of(elements, left, right)
    for level in LEVELS:
        if level == LITERAL:
            # Slices of a stack have no names that could stand without an index.
            parts = {whole_name(name) for one in said if _has_slices(one) for name in one.right}
            unsaid = (*unsaid, *(name for name in right if name in parts))
            said = [one for one in said if not _has_slices(one)]
        wanted = {whole_name(name): elements[whole_name(name)] for one in said for name in one.right if name != NOWHERE}
        rules = _file(said, left, right, level, _heads(labels), ties)
        if rules is not None and _says(rules, left, right, wanted):
            return Compiled(rules, unsaid)
    raise AssertionError("the rules do not say what they were made from; please report this as a bug")


def compile_written(
    said: Sequence[Written],
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    guesses: Sequence[Written] = (),
    *,
    labels: tuple[str, str] | None = None,
    ties: Iterable[tuple[str, str, str]] = (),
) -> Rules:
    """The shortest file that holds just these equations.

    Args:
        said: Equations between tensors by their full names.
        left: Shapes of the left tensors.
        right: Shapes of the right tensors.
        guesses: Equations that are marked as guesses.
        labels: What the sides are, for people.
        ties: Side, name and second name of tensors that are one.
    """
    rules = _written(said, left, right, guesses, _heads(labels), ties)
    if rules is None:
        raise AssertionError("the rules do not say what they were made from; please report this as a bug")
    return rules


def can_be_said(said: Sequence[Written], left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> bool:
    """Whether there is a file that holds just these equations."""
    try:
        return _written(said, left, right, (), _heads(None), ()) is not None
    except ShuffledError:
        return False


def _written(
    said: Sequence[Written],
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    guesses: Sequence[Written],
    heads: Sequence[str],
    ties: Iterable[tuple[str, str, str]],
) -> Rules | None:
    """The shortest file that holds just these equations; None if there is none."""
    place = {name: number for number, name in enumerate(left)}
    ordered = sorted(
        (*said, *(replace(one, guess=True) for one in guesses)),
        key=lambda one: min(place[whole_name(name)] for name in one.left if name != NOWHERE),
    )
    told = list(with_told_names(ordered))
    sample, ours, theirs = _sample(told, left, right)
    wanted = _linked((tuple(map(whole_name, one.left)), tuple(map(whole_name, one.right))) for one in sample)
    for level in LEVELS:
        rules = _file(told, left, right, level, heads, ties)
        if rules is not None and _links(rules, ours, theirs) == wanted:
            return rules
    return None


def without_guesses(draft: Rules) -> Rules:
    """The file without its guesses, and without headings and sizes that only they had."""
    kept = [one for one in draft.statements if not (isinstance(one, Rule) and one.mark == "guess")]
    shapes = [
        str(shape)
        for one in kept
        if isinstance(one, Rule)
        for shape in (*(one.left_shapes or ()), *(one.right_shapes or ()))
    ]
    used = {word for text in shapes for word in re.findall(r"\w+", text)}
    found: list[Statement] = []
    for one in reversed(kept):
        headed = found and isinstance(found[-1], Rule)
        if (isinstance(one, Section) and not headed) or (isinstance(one, Size) and one.axis not in used):
            continue
        found.append(one)
    return Rules(tuple(reversed(found)))


def _sample(
    said: Sequence[Written], left: Mapping[str, Sizes], right: Mapping[str, Sizes]
) -> tuple[Sequence[Written], Mapping[str, Sizes], Mapping[str, Sizes]]:
    """Equations of a few layers instead of all, with what no equation names.

    Folding has compared all indices with all names; what is bound again is the text that was made of them.
    """
    if len(said) <= MANY:
        return said, left, right
    groups: dict[Any, dict[int, list[Written]]] = {}
    for one in said:
        key = tuple(map(template_of, (*one.left, *one.right)))
        groups.setdefault(key, {}).setdefault(next(iter(numbers_of(one.left[0])), 0), []).append(one)
    kept: list[Written] = []
    dropped: tuple[set[str], set[str]] = (set(), set())
    for layers in groups.values():
        chosen = {*sorted(layers)[:2], *sorted(layers)[-2:]}
        for number, written in layers.items():
            if number in chosen:
                kept += written
                continue
            for names, side in zip(dropped, ("left", "right"), strict=True):
                names.update(whole_name(name) for one in written for name in getattr(one, side))
    return (
        kept,
        {name: shape for name, shape in left.items() if name not in dropped[0]},
        {name: shape for name, shape in right.items() if name not in dropped[1]},
    )


def _links(rules: Rules, left: Mapping[str, Sizes], right: Mapping[str, Sizes]) -> set[tuple[str, str]]:
    try:
        plan = bind(rules, left, right, partial=True)
    except CkptmapError:
        return set()
    return _linked({(one.left, one.right) for one in plan.equations})


def _linked(equations: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]) -> set[tuple[str, str]]:
    """Which names stand in one equation; slices of a stack and the stack itself come to the same."""
    linked = {(one, other) for ours, theirs in equations for one in ours for other in theirs}
    return {pair for pair in linked if NOWHERE not in pair}


def _heads(labels: tuple[str, str] | None) -> list[str]:
    sides = zip(("left", "right"), labels or ("", ""), strict=True)
    # A file may be called anything, and its name is not to be read as a rule.
    told = [(side, printable(label).replace("<->", "to")) for side, label in sides]
    return [f"ckptmap {LANGUAGE}", *(f"{side}: {label}" for side, label in told if label not in ("", side))]


def _file(
    said: Sequence[Written],
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    level: str,
    heads: Sequence[str],
    ties: Iterable[tuple[str, str, str]],
) -> Rules | None:
    """The file at this level of brevity; None if it cannot be said so."""
    try:
        lines = [_literal(one, left) for one in said] if level == LITERAL else folded(said, left, right)
    except ValueError:
        return None
    if level == SECTIONS:
        lines = kinds_joined(lines, left, right)
    told = sorted({pair for one in said for pair in one.told})
    body = list(sections(lines)) if level == SECTIONS else [str(line) for line in lines]
    text = [*heads, *(f"size {axis} = {size}" for axis, size in told)]
    text += [f"tie {side} {name} = {second}" for side, name, second in ties]
    try:
        return Rules.parse(str(Rules.parse("".join(f"{line}\n" for line in [*text, *body]))))
    except CkptmapError:
        return None


def equations_of(
    elements: Elements, left: Mapping[str, Sizes], right: Mapping[str, Sizes]
) -> tuple[list[Written], tuple[str, ...]]:
    """An equation for each group of linked tensors, and names of the right tensors that have none."""
    unsaid: list[str] = []
    said: list[Written] = []
    first, copies = _copies(elements)

    def blocks_of(names: Iterable[str]) -> Iterator[list[Block]]:
        # Groups one by one only if one of them makes the whole fail.
        chosen = {name: elements[name] for name in names}
        try:
            yield from linked_blocks(chosen, left, right)
        except ShuffledError:
            if len(chosen) == 1:
                unsaid.extend(chosen)
                return
            for group in _groups(chosen, left):
                if len(group) == len(chosen):
                    unsaid.extend(chosen)
                else:
                    yield from blocks_of(group)

    for blocks in blocks_of(first):
        names = dict.fromkeys(block.right.name for block in blocks)
        try:
            said += [_copied(equation(*part), copies) for part in _parts(blocks, left, right)]
        except ShuffledError:
            unsaid.extend(copy for name in names for copy in (name, *copies.get(name, ())))
    place = {name: number for number, name in enumerate(left)}
    said.sort(key=lambda one: min(place[whole_name(name)] for name in one.left if name != NOWHERE))
    return list(with_told_names(said)), tuple(unsaid)


def _parts(
    blocks: Sequence[Block], left: Mapping[str, Sizes], right: Mapping[str, Sizes]
) -> list[tuple[list[Block], dict[str, Sizes], dict[str, Sizes]]]:
    """Slices of a stack apart where they go to numbered tensors; a stack of start and end stays whole."""
    parts = unstacked(blocks, left, right)
    kinds = {tuple(sorted(template_of(whole_name(name)) for name in (*ours, *theirs))) for _, ours, theirs in parts}
    if len(kinds) == 1:
        return parts
    ours = {name: left[name] for name in dict.fromkeys(block.left.name for block in blocks)}
    theirs = {name: right[name] for name in dict.fromkeys(block.right.name for block in blocks)}
    return [(list(blocks), ours, theirs)]


def _copies(elements: Elements) -> tuple[Elements, dict[str, list[str]]]:
    """One of the tensors that hold the same elements in the same order, and the names of its copies."""
    first: dict[Any, str] = {}
    copies: dict[str, list[str]] = {}
    for name, array in elements.items():
        flat = array.reshape(-1)
        one = first.setdefault((array.shape, int(flat[0]), int(flat[-1])), name)
        if one != name and (elements[one] == array).all():
            copies.setdefault(one, []).append(name)
    doubled = {name for names in copies.values() for name in names}
    return {name: array for name, array in elements.items() if name not in doubled}, copies


def _copied(one: Written, copies: Mapping[str, list[str]]) -> Written:
    """The equation with the copies of its right tensor, the left's name once for each."""
    more = [copy for name in one.right for copy in copies.get(name, ())]
    if not more:
        return one
    if len(one.left) > 1 or len(one.right) > 1:
        raise ShuffledError
    count = 1 + len(more)
    return replace(
        one,
        left=one.left * count,
        right=(*one.right, *more),
        left_shapes=one.left_shapes * count,
        right_shapes=one.right_shapes * count,
    )


def _groups(elements: Elements, left: Mapping[str, Sizes]) -> list[list[str]]:
    from ckptmap.infer.layouts import Numbering, linked_names

    return [rights for _, rights in linked_names(elements, Numbering(left))]


def _says(rules: Rules, left: Mapping[str, Sizes], right: Mapping[str, Sizes], wanted: Elements) -> bool:
    """Whether the rules, bound again, put the very same elements into the very same places, from either side alone."""
    try:
        plan = bind(rules, left, right, partial=True)
    except CkptmapError:
        return False
    made = elements_of(plan, left, right)
    if set(made) != set(wanted):
        return False
    return all((made[name] == wanted[name]).all() for name in wanted)


def elements_of(plan: Plan, left: Mapping[str, Sizes], right: Mapping[str, Sizes], *, zero: int = -1) -> Elements:
    """For each right tensor of a plan, the left elements that stand there; -1 where none does.

    Args:
        plan: Rules bound to both sides.
        left: Shapes of the left tensors, in the order in which elements are numbered.
        right: Shapes of the right tensors.
        zero: What stands for zeros that the rules put there.
    """
    import numpy

    from ckptmap.infer.layouts import Numbering

    ours = Numbering(left)
    found: dict[str, numpy.ndarray] = {}
    for one in plan.equations:
        for block in one.blocks:
            if isinstance(block.right, str):
                continue
            target = found.get(block.right.name)
            if target is None:
                shape = right[block.right.name]
                target = found[block.right.name] = numpy.full(shape, -1, dtype=numpy.int64)
            if isinstance(block.left, str):
                if block.left == "zeros":
                    target.reshape(-1)[_reached(block.right, numpy.arange(target.size)).reshape(-1)] = zero
                continue
            start = ours.first[block.left.name]
            source = start + numpy.arange(int(numpy.prod(left[block.left.name], dtype=numpy.int64)))
            places = _reached(block.right, numpy.arange(target.size)).reshape(-1)
            target.reshape(-1)[places] = _reached(block.left, source).reshape(-1)
    return found


def _reached(piece: Any, flat: Any) -> Any:
    array = flat.reshape(piece.view)
    for axis, start, length in piece.narrow:
        array = array.take(range(start, start + length), axis=axis)
    return array.reshape(piece.split).transpose(piece.order)


def _has_slices(one: Written) -> bool:
    return any(MARK in name for name in (*one.left, *one.right))


def _literal(one: Written, left: Mapping[str, Sizes]) -> Line:
    place = min(list(left).index(whole_name(name)) for name in one.left if name != NOWHERE)
    return Line(one.left, one.right, one.left_shapes, one.right_shapes, place, one.guess)
