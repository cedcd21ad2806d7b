"""Values decide what they can, names and shapes the rest, and every rule is compared with what both sides hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.errors import CkptmapError, PlanError
from ckptmap.infer.by_names import ByNames, by_names
from ckptmap.infer.by_values import ByValues, by_values
from ckptmap.infer.findings import Open
from ckptmap.infer.folding import folded, template_of
from ckptmap.infer.proof import Verification
from ckptmap.infer.readings import ends
from ckptmap.infer.shapes_related import Named
from ckptmap.infer.unstack import MARK, whole_name
from ckptmap.infer.value_proof import Compared, compare
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import LANGUAGE, Rules

if TYPE_CHECKING:
    from ckptmap.checkpoint import Checkpoint
    from ckptmap.infer.equations import Written
    from ckptmap.infer.findings import Sizes

Sides: TypeAlias = "tuple[Checkpoint, Checkpoint]"
Known: TypeAlias = "tuple[frozenset[str], frozenset[str]]"
Tie: TypeAlias = "tuple[str, str, str]"
"""Side, name, second name."""

CARRIED = "as in other layers, whose values are equal"

_LAYER = re.compile(r"(?:.*\.)?[0-9]+(?=\.)")
"""A name up to its last number."""


@dataclass(frozen=True)
class Settled:
    """What values and names give together.

    Attributes:
        seen: Equations and questions.
        ties: Side, name and second name of tensors with equal values of which the other side has one.
        compared: What the rules make of the left, beside what the right holds.
        proven: Right tensors that values decide; that a constant is equal to what its name says is no proof.
    """

    seen: ByNames
    ties: tuple[Tie, ...]
    compared: Compared
    proven: frozenset[str]

    @property
    def verification(self) -> Verification | None:
        """The proof of what values decide; None if that is nothing."""
        equal = {name: lefts for name, lefts in self.compared.equal.items() if name in self.proven}
        pairs = tuple((", ".join(dict.fromkeys(lefts)), right) for right, lefts in equal.items())
        casts = dict(Counter(cast for name, cast in self.compared.casts.items() if name in equal))
        return Verification(pairs, 0.0, None, bits=True, values=True, casts=casts) if equal else None

    def evidence(self, name: str, why: str) -> str:
        """What a right tensor's rule rests on, and what became of the comparison."""
        if name in self.compared.differ:
            return f"{why}; its values differ"
        if name not in self.compared.equal:
            return why
        cast = f", {self.compared.casts[name]}" if name in self.compared.casts else ""
        return f"{why}{'' if 'values' in why else '; its values are equal'}{cast}"


def values_first(
    seen: ByNames,
    seen_with: Callable[[str], ByNames],
    sides: Sides,
    known: Known,
    draft_of: Callable[[ByNames, Iterable[Tie]], Rules],
) -> Settled:
    """Put what values show before what names and shapes gave.

    Args:
        seen: What names and shapes gave.
        seen_with: What they give when these layers of the longer side are meant.
        sides: Two checkpoints whose values can be read.
        known: Names on either side that need no answer.
        draft_of: Makes a rule file of equations, guesses and ties.

    Raises:
        CheckpointError: Values cannot be read.
    """
    proposed = {
        one.written.right[0]: one.written.left[0]
        for one in seen.named
        if len(one.written.left) == len(one.written.right) == 1
    }
    told = by_values(*sides, known=known, named=proposed)
    if shown := _layers_shown(told.named, sides):
        with suppress(PlanError):
            seen = seen_with(shown)
    while True:
        sure = [*told.named, *_carried(told.named, seen, sides, known)]
        merged = _merged(seen, sure, told, sides, known)
        compared = compare(draft_of(merged, told.ties), *sides)
        failed = [one for one in told.named if _names([one], 1) & compared.differ]
        if not failed:
            tied = {second for side, _, second in told.ties if side == "right"}
            return Settled(merged, tuple(told.ties), compared, frozenset(_names(told.named, 1) | tied))
        # A fingerprint looks at a part only; what differs elsewhere is not equal.
        told.named = [one for one in told.named if one not in failed]
        lost = _names(failed, 0) | _names(failed, 1)
        told.ties = [tie for tie in told.ties if tie[1] not in lost]


def _carried(named: Sequence[Named], seen: ByNames, sides: Sides, known: Known) -> Iterator[Named]:
    """Equations of layers whose own values differ, like those of others whose values are equal.

    That these layers go as the others is what names say, too, or the others are most of all.
    """
    proposed = {name: {*ends(one.written, 0)} for one in seen.named for name in ends(one.written, 1)}
    members = Counter(map(template_of, sides[1]))
    done = [set(names) | _names(named, side) for side, names in enumerate(known)]
    groups: dict[object, list[Written]] = {}
    for one in named:
        said = one.written
        if not any(MARK in name for name in (*said.left, *said.right)):
            names = tuple(map(template_of, said.left)), tuple(map(template_of, said.right))
            groups.setdefault((names, said.left_shapes, said.right_shapes, said.told), []).append(said)
    shapes = _shapes(sides)
    for group in groups.values():
        settled = [{name: shapes[side][name] for one in group for name in ends(one, side)} for side in (0, 1)]
        for line in folded(group, *settled):
            if "{" not in f"{line.left}":
                continue
            sizes = "".join(f"size {axis} = {size}\n" for axis, size in group[0].told)
            try:
                plan = bind(Rules.parse(f"ckptmap {LANGUAGE}\n{sizes}{line}\n"), *shapes, partial=True)
            except CkptmapError:
                continue
            most = 2 * len(group) > members[template_of(ends(group[0], 1)[0])]
            for more in plan.equations:
                if not most and any(proposed.get(name) != {*more.left} for name in more.right):
                    continue
                like = _like(group[0], more.left, more.right)
                if like is not None and not (done[0] & {*more.left} or done[1] & {*more.right}):
                    done[0].update(more.left)
                    done[1].update(more.right)
                    yield Named(like, CARRIED)


def _like(one: Written, left: Iterable[str], right: Iterable[str]) -> Written | None:
    """The same equation between other tensors, given in any order; None if names do not tell which is which."""
    sides = []
    for terms, names in ((one.left, left), (one.right, right)):
        of = {template_of(name): name for name in names}
        if len(of) < len({*names}) or len({*terms}) < len(terms):
            return None
        sides.append(tuple(of.get(template_of(term), term) for term in terms))
    return replace(one, left=sides[0], right=sides[1])


def _shapes(sides: Sides) -> list[dict[str, Sizes]]:
    return [{name: spec.shape for name, spec in side.items()} for side in sides]


def _names(named: Iterable[Named], side: int) -> set[str]:
    return {whole_name(name) for one in named for name in ends(one.written, side)}


# ------------------------------------------------------------------ values and names


def _merged(seen: ByNames, sure: Sequence[Named], told: ByValues, sides: Sides, known: Known) -> ByNames:
    """What values show, and of what names and shapes gave all that does not touch it."""
    settled = [set(names) | _names(sure, side) for side, names in enumerate(known)]
    for one in told.open:
        settled[0].update(one.left)
        settled[1].update(one.right)
    for side, _, second in told.ties:
        settled[side == "right"].add(second)
    layers = _layers(sure)
    kept = [
        one
        for one in seen.named
        if not any(_names([one], side) & settled[side] for side in (0, 1)) and _is_in_layers(one, layers)
    ]
    guessed = _names((one for one in kept if one.question), 1)
    done = [names | _names(kept, side) for side, names in enumerate(settled)]
    # Names and shapes again, of what is left: with the rest out of their way they may ask less.
    rest = by_names(*_shapes(sides), known=(frozenset(done[0]), frozenset(done[1])))
    found = ByNames([*sure, *kept], [*told.open, *rest.open], rest.left)
    for lost in rest.right:
        alike = [
            name for name, spec in sides[0].items() if name not in done[0] and spec.shape == sides[1][lost.name].shape
        ]
        if not alike or "buffer" in lost.reason:
            found.right.append(lost)
            continue
        question = f"which is {lost.name} (its values do not tell)? --pin '{alike[0]} <-> {lost.name}', or another"
        found.open.append(Open(tuple(alike), (lost.name,), question))
    for asked in seen.open:
        if guessed & {*asked.right}:
            ours, theirs = (
                tuple(name for name in names if name not in settled[side])
                for side, names in enumerate((asked.left, asked.right))
            )
            found.open.append(replace(asked, left=ours, right=theirs))
    proposed: dict[tuple[str, ...], tuple[Named, dict[str, None]]] = {}
    for like in rest.named:
        theirs = tuple(dict.fromkeys(map(whole_name, ends(like.written, 1))))
        proposed.setdefault(theirs, (like, {}))[1].update(dict.fromkeys(map(whole_name, ends(like.written, 0))))
    for theirs, (like, lefts) in proposed.items():
        ours = tuple(lefts)
        asks = like.question or f"is it {ours[0]}, as its name and shape say?"
        pin = f"--pin '{ours[0]}{', …' if len(ours) > 1 else ''} <-> {theirs[0]}'"
        found.open.append(Open(ours, theirs, f"{theirs[0]}: {asks} {pin}"))
    return found


def _layers(sure: Iterable[Named]) -> dict[str, set[str]]:
    """For each numbered module of the right, the numbered modules of the left that its tensors were found in."""
    found: dict[str, set[str]] = {}
    for one in sure:
        for name in ends(one.written, 1):
            found.setdefault(_layer(name), set()).update(map(_layer, ends(one.written, 0)))
    return found


def _layers_shown(named: Iterable[Named], sides: Sides) -> str:
    """Which layers of the longer side values find on the other, as `--layers` takes them; empty if as many."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for theirs, ours in _layers(named).items():
        if len(ours) == 1:
            (left, here), (right, there) = _stem(next(iter(ours))), _stem(theirs)
            found.setdefault((left, right), []).append((here, there))
    for stems, pairs in found.items():
        numbers = [
            sorted({_stem(layer)[1] for layer in map(_layer, side) if _stem(layer)[0] == stem and layer})
            for stem, side in zip(stems, sides, strict=True)
        ]
        shorter, longer = (0, 1) if len(numbers[0]) < len(numbers[1]) else (1, 0)
        if len({*pairs}) == len(numbers[shorter]) < len(numbers[longer]):
            return ",".join(
                str(numbers[longer].index(one[longer])) for one in sorted(pairs, key=lambda one: one[shorter])
            )
    return ""


def _stem(layer: str) -> tuple[str, int]:
    """What stands before a layer's number, and the number; -1 where there is none."""
    stem, _, number = layer.rpartition(".")
    return stem, int(number or -1)


def _layer(name: str) -> str:
    match = _LAYER.match(name)
    return match.group() if match else ""


def _is_in_layers(one: Named, layers: Mapping[str, set[str]]) -> bool:
    """Whether names stay within the modules that values put together; one side may number the experts in them, too."""
    return all(
        any(_is_around(ours, there) for there in layers.get(_layer(theirs), {ours}))
        for theirs in ends(one.written, 1)
        for ours in map(_layer, ends(one.written, 0))
    )


def _is_around(one: str, other: str) -> bool:
    """Whether one of two modules is the other, or stands in it."""
    shorter, longer = sorted((one, other), key=len)
    return not shorter or f"{longer}.".startswith(f"{shorter}.")
