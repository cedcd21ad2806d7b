"""Modules of two models put together in one place: a pair of stacks, or what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.infer.named_modules import Module
from ckptmap.infer.packed import WHICH, joined
from ckptmap.infer.shapes_related import related
from ckptmap.infer.stacked_layers import apart

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes
    from ckptmap.infer.stacked_layers import Units
    from ckptmap.infer.templates import Template

UNKNOWN = "unknown"
"""The role of modules in a layer that no word describes; they may be queries."""

SAME_PACKING = "do both sides hold its parts in the same order, end to end or head by head?"

Members: TypeAlias = "list[tuple[str, str, Sizes, Sizes]]"
"""Names of tensors that are each other's, and their shapes."""


@dataclass
class Place:
    """A pair of stacks, or what stands beside them: modules of both sides that can only be each other's."""

    left: list[Module]
    right: list[Module]
    units: tuple[Callable[[Template], Units], Callable[[Template], Units]]
    starts: tuple[int, int]
    layered: bool
    same_code: bool = False
    roles: tuple[dict[Module, str], dict[Module, str]] = field(default_factory=lambda: ({}, {}))
    members: dict[tuple[Template, Template], Members | None] = field(default_factory=dict)


@dataclass
class Pair:
    """Modules that are one, or parts of one."""

    left: tuple[Module, ...]
    right: tuple[Module, ...]
    evidence: str
    role: str = ""
    question: str = ""


def matched(place: Place) -> list[Pair]:
    """Modules put together, surest evidence first."""
    found: list[Pair] = []
    waiting = {0: list(place.left), 1: list(place.right)}

    def take(
        left: Sequence[Module], right: Sequence[Module], evidence: str, role: str = "", question: str = ""
    ) -> None:
        for side, modules in enumerate((left, right)):
            waiting[side] = [one for one in waiting[side] if one not in modules]
        found.append(Pair(tuple(left), tuple(right), evidence, role, question))

    ours, theirs = place.roles
    if place.same_code:
        for one, other in _unique_likes(waiting, lambda module: _inner(module, layered=place.layered)):
            if _fits(place, one, other):
                take([one], [other], "the same name in the same place", ours.get(one, ""))
    by_role = {role.rstrip("?"): one for one, role in theirs.items() if one in waiting[1]}
    for one, said in ours.items():
        role = said.rstrip("?")
        like = by_role.get(role)
        if one in waiting[0] and like is not None and _fits(place, one, like):
            question = WHICH if "?" in said + theirs[like] else _packed_doubt(role, one, like)
            take([one], [like], f"both are the {role} by name", role, question)
    for lefts, rights, role, question in joined(place.roles, (waiting[0], waiting[1])):
        take(lefts, rights, f"parts of the {role}", role, question)
    for one, other in _unique_likes(waiting, Module.spoken):
        if _fits(place, one, other) and not _differ(place, one, other):
            role = ours.get(one) or theirs.get(other) or ""
            take([one], [other], "the same words in the same place", role, _packed_doubt(role, one, other))
    while True:
        rest = _last_ones(place, waiting)
        if rest is None:
            return found
        role = ours.get(rest[0]) or theirs.get(rest[1]) or (UNKNOWN if place.layered else "")
        take([rest[0]], [rest[1]], "only ones of these shapes left over here", role, _packed_doubt(role, *rest))


def _packed_doubt(role: str, one: Module, other: Module) -> str:
    """What is unknown of two packed tensors of different names."""
    return SAME_PACKING if role.endswith("packed") and one.own != other.own else ""


def _inner(module: Module, *, layered: bool) -> tuple[str, ...]:
    return module.path if layered else module.path[-2:]


def _unique_likes(
    waiting: Mapping[int, list[Module]], key: Callable[[Module], tuple[str, ...]]
) -> list[tuple[Module, Module]]:
    """Modules with a key that no other module of either side has."""
    sides: list[dict[tuple[str, ...], list[Module]]] = [{}, {}]
    for side, modules in waiting.items():
        for one in modules:
            sides[side].setdefault(key(one), []).append(one)
    return [
        (ours[0], sides[1][said][0])
        for said, ours in sides[0].items()
        if said and len(ours) == 1 and len(sides[1].get(said, ())) == 1
    ]


def _differ(place: Place, one: Module, other: Module) -> bool:
    """Whether their roles speak against each other."""
    ours, theirs = place.roles[0].get(one), place.roles[1].get(other)
    return (ours is not None and theirs is not None and ours != theirs) or one.is_norm != other.is_norm


def _fits(place: Place, one: Module, other: Module) -> bool:
    """Whether all that both have is there for the same layers, in shapes that go together."""
    kinds = common_kinds(one, other)
    return bool(kinds) and all(members(place, one.tensors[a], other.tensors[b]) is not None for a, b in kinds)


def common_kinds(one: Module, other: Module) -> list[tuple[str, str]]:
    """Kinds of tensors that both have; a lone bare parameter may be the other's weight."""
    if len(one.tensors) == len(other.tensors) == 1 and "" in (*one.tensors, *other.tensors):
        ours, theirs = next(iter(one.tensors)), next(iter(other.tensors))
        return [(ours, theirs)] if {ours, theirs} <= {"", "weight"} else []
    return [(kind, kind) for kind in one.tensors if kind in other.tensors]


def members(place: Place, one: Template, other: Template) -> Members | None:
    """Tensors of two templates that are each other's; None if there is one without the other, or shapes disagree."""
    key = one, other
    if key not in place.members:
        place.members[key] = _members_of(place, one, other)
    return place.members[key]


def _members_of(place: Place, one: Template, other: Template) -> Members | None:
    ours, theirs = _levelled(place.units[0](one), place.units[1](other))
    if not ours or ours.keys() != theirs.keys():
        return None
    found = [(ours[key][0], theirs[key][0], ours[key][1], theirs[key][1]) for key in ours]
    relations = {related(a, b) for _, _, a, b in found}
    return found if len(relations) == 1 and None not in relations else None


def _levelled(ours: Units, theirs: Units) -> tuple[Units, Units]:
    """Tensors of both sides by the same keys: a stack of experts is taken apart if the other side has it in pieces."""
    depths = [len(next(iter(side))) if side else 0 for side in (ours, theirs)]
    if depths[1] == depths[0] + 1:
        return apart(ours), theirs
    if depths[0] == depths[1] + 1:
        return ours, apart(theirs)
    return ours, theirs


def _last_ones(place: Place, waiting: Mapping[int, list[Module]]) -> tuple[Module, Module] | None:
    """A pair that fits nothing else, in a place where both sides hold as much."""
    volumes = [sum(_volume(place.units[side], one) for one in waiting[side]) for side in (0, 1)]
    complete = volumes[0] == volumes[1]
    fits = {(one, other): _fits_alone(place, one, other) for one in waiting[0] for other in waiting[1]}
    for (one, other), fit in fits.items():
        alone = sum(fits[one, b] for b in waiting[1]) == 1 and sum(fits[a, other] for a in waiting[0]) == 1
        if not fit or not alone or _differ(place, one, other):
            continue
        if complete if place.layered else _is_telling(one):
            return one, other
    return None


def _fits_alone(place: Place, one: Module, other: Module) -> bool:
    return set(one.tensors) == set(other.tensors) and _fits(place, one, other)


def _is_telling(one: Module) -> bool:
    """Whether a shape says much by itself: a matrix that is not square."""
    shape = one.matrix()
    return len(shape) >= 2 and len({*shape}) > 1


def _volume(units_of: Callable[[Template], Units], one: Module) -> int:
    return sum(prod(shape) for template in one.tensors.values() for _, shape in units_of(template).values())
