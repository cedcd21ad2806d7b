"""Which tensor is which, as far as names and shapes tell: templates, stacks, roles, and what is left over.

Names and shapes cannot see an order of rows (rotary embeddings, heads of a packed projection) or the transpose of a
square matrix; where the two sides make one possible, what is found is a guess with its question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from ckptmap.infer.findings import Open, Unmatched
from ckptmap.infer.named_modules import Module, gathered
from ckptmap.infer.packed import packed_equations
from ckptmap.infer.pairing import UNKNOWN, Pair, Place, common_kinds, matched, members
from ckptmap.infer.pins import is_turned, says_rows_stay
from ckptmap.infer.roles import block_roles, outer_roles
from ckptmap.infer.shapes_related import TURNED, Named, related, written
from ckptmap.infer.stacked_layers import Layers, Stack, component, paired_stacks, stacks_of, units
from ckptmap.infer.templates import Path, Template, templates
from ckptmap.infer.unstack import MARK
from ckptmap.infer.words import ROTARY, all_words, words

if TYPE_CHECKING:
    from ckptmap.infer.equations import Written
    from ckptmap.infer.findings import Sizes
    from ckptmap.infer.stacked_layers import Units

SAME_CODE = 0.8
"""Sides that share at least this part of their inner names are taken for one implementation."""

OTHER_KIND = 0.2
"""Two layers that both have more than this part of their tensors to themselves are no copies of one architecture."""

UNLIKE = "layers of both sides have much that the other lacks; do the two compute the same?"

BUFFERS = frozenset({"inv", "freq", "freqs", "mask", "ids", "masked", "index", "tracked", "cos", "sin"})
"""Words of tensors that are computed, not learnt."""

ROTATED = (UNKNOWN, "attention query", "attention key", "attention packed")


@dataclass
class ByNames:
    """All that names and shapes give."""

    named: list[Named] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)
    left: list[Unmatched] = field(default_factory=list)
    right: list[Unmatched] = field(default_factory=list)


def by_names(
    left: Mapping[str, Sizes],
    right: Mapping[str, Sizes],
    *,
    known: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset()),
    pinned: Sequence[Written] = (),
    layers: str | None = None,
) -> ByNames:
    """Match two inventories by names and shapes.

    Args:
        left: Shapes of the left tensors by name.
        right: Shapes of the right tensors.
        known: Names on either side that need no answer: told by hints, or second names.
        pinned: Equations that hints gave; what they say of square matrices holds for the others, too.
        layers: Which layers of the longer stack are those of the shorter: `first 6`, `last 6`, `0,2,4`.

    Raises:
        PlanError: The choice of layers does not fit.
    """
    both = [templates(shapes) for shapes in (left, right)]
    rotary = _may_rotate(both) and not says_rows_stay(pinned)
    turned = is_turned(pinned, left)
    free = [_without(listed, done) for listed, done in zip(both, known, strict=True)]
    (our_stacks, our_rest), (their_stacks, their_rest) = (stacks_of(listed) for listed in free)
    stacks = paired_stacks(our_stacks, their_stacks, layers)
    found = ByNames()
    places = [_stack_place(one) for one in stacks.layers]
    places += _outer_places(our_rest, their_rest, stacks.layers)
    if stacks.uneven is not None:
        found.open.append(_layers_question(*stacks.uneven))
    elif stacks.left and stacks.right:
        found.open.append(_stacks_question(stacks.left, stacks.right))
    pairs = [(place, pair) for place in places for pair in matched(place)]
    lost = _lost_place(places, pairs)
    if lost is not None:
        pairs += [(lost, pair) for pair in matched(lost)]
    turns = {relation for place, pair in pairs for relation in _relations(place, pair)}
    for place, pair in pairs:
        question = pair.question or _doubt(place, pair, rotary=rotary, turns=turns, turned=turned)
        found.named += _equations(place, pair, question, turned=turned, turns=turns)
    apart = next((place for place in places if place.layered and _is_other_kind(place, found.named)), None)
    if apart is not None:
        found.named = [_doubted(one) for one in found.named]
    _leave(found, places, stacks.left, stacks.right)
    return found


def _without(listed: list[Template], known: Iterable[str]) -> list[Template]:
    done = set(known)
    kept = []
    for one in listed:
        names = {ranks: name for ranks, name in one.names.items() if name not in done}
        if names:
            kept.append(Template(one.path, names, {ranks: one.shapes[ranks] for ranks in names}))
    return kept


def _may_rotate(both: Sequence[Sequence[Template]]) -> bool:
    """Whether positions may be told by turning queries and keys: nothing else tells them, or a name says so."""
    told = []
    for listed in both:
        said = {word for one in listed for word in all_words(one.path)}
        if said & ROTARY:
            return True
        told.append(bool({"wpe", "rel", "relative"} & said or {"position", "positional", "positions", "pos"} & said))
    return not all(told)


# ------------------------------------------------------------------ places


def _stack_place(one: Layers) -> Place:
    starts = len(one.left.prefix), len(one.right.prefix)
    place = Place(
        gathered(one.left.templates, starts[0]),
        gathered(one.right.templates, starts[1]),
        (
            cache(lambda template: units(template, one.left.depth, one.numbers[0])),
            cache(lambda template: units(template, one.right.depth, one.numbers[1])),
        ),
        starts,
        layered=True,
    )
    place.roles = block_roles(place.left), block_roles(place.right)
    place.same_code = _is_same_code(place)
    return place


def _outer_places(left: list[Template], right: list[Template], layers: list[Layers]) -> list[Place]:
    """What stands beside the stacks; with several stacks, what belongs to each of them."""
    homes = [_homes(left, [one.left.prefix for one in layers]), _homes(right, [one.right.prefix for one in layers])]
    places = []
    for number in range(-1, len(layers)):
        ours, theirs = ([t for t, home in side if home == number] for side in homes)
        if ours or theirs:
            place = Place(gathered(ours, 0), gathered(theirs, 0), (_plain_units, _plain_units), (0, 0), layered=False)
            place.roles = outer_roles(place.left), outer_roles(place.right)
            place.same_code = _is_same_code(place)
            places.append(place)
    return places


def _lost_place(places: Sequence[Place], pairs: Sequence[tuple[Place, Pair]]) -> Place | None:
    """What one side puts beside a stack and the other beside none; nothing if it could be beside several."""
    done = {one for _, pair in pairs for one in (*pair.left, *pair.right)}
    outer = [place for place in places if not place.layered]
    rests = [[[one for one in side if one not in done] for side in (place.left, place.right)] for place in outer]
    ours = [at for at, rest in enumerate(rests) if rest[0] and not rest[1]]
    theirs = [at for at, rest in enumerate(rests) if rest[1] and not rest[0]]
    if len(ours) != 1 or len(theirs) != 1:
        return None
    place = Place(rests[ours[0]][0], rests[theirs[0]][1], (_plain_units, _plain_units), (0, 0), layered=False)
    place.roles = outer_roles(place.left), outer_roles(place.right)
    return place


def _homes(listed: list[Template], prefixes: list[Path]) -> list[tuple[Template, int]]:
    """The stack that each template stands beside; -1 if it is nobody's."""
    if len(prefixes) < 2:
        return [(one, -1) for one in listed]
    found = []
    for one in listed:
        shared = [_shared(one.path, prefix) for prefix in prefixes]
        part = component(one.path)
        same = [at for at, prefix in enumerate(prefixes) if part and component(prefix) == part]
        if len(same) == 1:
            found.append((one, same[0]))
        elif shared.count(max(shared)) == 1 and max(shared):
            found.append((one, shared.index(max(shared))))
        else:
            found.append((one, -1))
    return found


def _shared(path: Path, prefix: Path) -> int:
    count = 0
    for one, other in zip(path, prefix, strict=False):
        if one != other:
            break
        count += 1
    return count


def _plain_units(template: Template) -> Units:
    return {ranks: (name, template.shapes[ranks]) for ranks, name in template.names.items()}


def _is_same_code(place: Place) -> bool:
    """Whether most inner names are the same on both sides, with the same shapes."""
    sides = []
    for modules, start in zip((place.left, place.right), place.starts, strict=True):
        listed = {t.path[start:]: t for one in modules for t in one.tensors.values()}
        # Outside of layers a wrapper's name may stand in front on one side: `bert.`, `model.`.
        sides.append(listed if place.layered else {path[-2:]: one for path, one in listed.items()})
    common = [path for path in sides[0] if path in sides[1] and sides[0][path].shape == sides[1][path].shape]
    return bool(common) and len(common) >= SAME_CODE * max(map(len, sides))


# ------------------------------------------------------------------ doubts


def _relations(place: Place, pair: Pair) -> Iterable[str]:
    """How the matrices of a pair lie to each other, where their shapes show it; a bare parameter lies as it likes."""
    if len(pair.left) != 1 or len(pair.right) != 1 or pair.left[0].raw or pair.right[0].raw:
        return
    for a, b in common_kinds(pair.left[0], pair.right[0]):
        for _, _, ours, theirs in (members(place, pair.left[0].tensors[a], pair.right[0].tensors[b]) or ())[:1]:
            relation = related(ours, theirs)
            if relation is not None and len(ours) == 2 and ours[0] != ours[1]:
                yield relation


def _doubt(place: Place, pair: Pair, *, rotary: bool, turns: set[str], turned: bool | None) -> str:
    """What names and shapes cannot see of this pair; empty if nothing."""
    if place.same_code and TURNED not in turns:
        return ""
    role = pair.role.removeprefix("norm of the ")
    if rotary and role in ROTATED:
        return "are rows in the same rotary order (halves or pairs) on both sides?"
    if turned is None and any(_is_square(one) for one in (*pair.left, *pair.right)):
        raw = {one.raw for one in (*pair.left, *pair.right)}
        if TURNED in turns:
            return "is this square matrix turned like the others, or the same way round?"
        if len(pair.left) == len(pair.right) == 1 and (len(raw) > 1 or (True in raw and not place.same_code)):
            return "is this square matrix the same way round on both sides?"
    return ""


def _is_other_kind(place: Place, named: Iterable[Named]) -> bool:
    """Whether layers of both sides have much that the other has no shape for."""
    done = {name.partition(MARK)[0] for one in named for name in (*one.written.left, *one.written.right)}
    rests = [_open_templates(place, side, done) for side in (0, 1)]
    sides = [[t for one in modules for t in one.tensors.values()] for modules in (place.left, place.right)]
    alone = (
        sum(not any(members(place, one, other) for other in rests[1]) for one in rests[0]),
        sum(not any(members(place, one, other) for one in rests[0]) for other in rests[1]),
    )
    return all(count > OTHER_KIND * len(side) for count, side in zip(alone, sides, strict=True))


def _doubted(one: Named) -> Named:
    pattern = one.pattern or f"{', '.join(one.written.left)} <-> {', '.join(one.written.right)}"
    return replace(one, question=one.question or UNLIKE, pattern=pattern)


def _is_square(one: Module) -> bool:
    shape = one.matrix()
    return len(shape) == 2 and shape[0] == shape[1]


# ------------------------------------------------------------------ equations


def _equations(place: Place, pair: Pair, question: str, *, turned: bool | None, turns: set[str]) -> Iterable[Named]:
    """Equations of a pair, tensor by tensor."""
    if len(pair.left) > 1 or len(pair.right) > 1:
        yield from packed_equations(place.units, pair.left, pair.right, pair.evidence, question)
        return
    one, other = pair.left[0], pair.right[0]
    for a, b in common_kinds(one, other):
        for ours, theirs, shape, their_shape in members(place, one.tensors[a], other.tensors[b]) or ():
            square = len(shape) == 2 and shape == their_shape and shape[0] == shape[1] > 1
            turn = square and (turned if turned is not None else bool(question) and TURNED in turns)
            doubted = question if len(shape) >= 2 or pair.role.removeprefix("norm of the ") in ROTATED else ""
            equation = written(ours, theirs, shape, their_shape, turned=bool(turn))
            yield Named(equation, pair.evidence, doubted, f"{one.tensors[a]} <-> {other.tensors[b]}" if doubted else "")


# ------------------------------------------------------------------ the rest


def _layers_question(one: Stack, other: Stack) -> Open:
    counts = len(one.places), len(other.places)
    few = min(counts)
    question = (
        f"the left has {counts[0]} layers and the right {counts[1]}: which are meant? "
        f"--layers 'first {few}', 'last {few}', or numbers: '0,2,4'"
    )
    return Open(_names_of([one]), _names_of([other]), question)


def _stacks_question(left: Sequence[Stack], right: Sequence[Stack]) -> Open:
    ours, theirs = (".".join(side[0].prefix[:-1]) for side in (left, right))
    question = f"which stacks of layers are each other's? --pin '{ours}.** <-> {theirs}.**' or the rules of one layer"
    return Open(_names_of(left), _names_of(right), question)


def _names_of(stacks: Sequence[Stack]) -> tuple[str, ...]:
    return tuple(name for stack in stacks for one in stack.templates for name in one.names.values())


def _leave(
    found: ByNames,
    places: list[Place],
    left: Sequence[Stack],
    right: Sequence[Stack],
) -> None:
    """What stays open, and what has no counterpart whatever the answer."""
    done = [
        {name.partition(MARK)[0] for one in found.named for name in getattr(one.written, side)}
        for side in ("left", "right")
    ]
    questions: dict[str, list[Named]] = {}
    for one in found.named:
        if one.question:
            questions.setdefault(one.question, []).append(one)
    for question, guesses in questions.items():
        ours = tuple(dict.fromkeys(name.partition(MARK)[0] for one in guesses for name in one.written.left))
        theirs = tuple(dict.fromkeys(name.partition(MARK)[0] for one in guesses for name in one.written.right))
        more = f" and {len(theirs) - 1} more" if len(theirs) > 1 else ""
        pins = list(dict.fromkeys(one.pattern for one in guesses))
        others = f" (and so on for {len(pins) - 1} more)" if len(pins) > 1 else ""
        answer = f"--pin '{pins[0]}'{others}, with shapes if not as it is; or give models that can be run"
        found.open.append(Open(ours, theirs, f"{theirs[0]}{more}: {question} {answer}"))
    for place in places:
        rest = [_open_templates(place, side, done[side]) for side in (0, 1)]
        _ask(found, place, rest[0], rest[1])
    for alone, there, unmatched in ((left, right, found.left), (right, left, found.right)):
        if not there:
            names = [name for stack in alone for one in stack.templates for name in one.names.values()]
            unmatched += [Unmatched(name, "there is no stack of layers like this on the other side") for name in names]


def _open_templates(place: Place, side: int, done: set[str]) -> list[Template]:
    modules = place.left if side == 0 else place.right
    return [
        template
        for one in modules
        for template in one.tensors.values()
        if any(name not in done for name, _ in place.units[side](template).values())
    ]


def _table_of_other_length(place: Place, other: Template) -> Template | None:
    """The left table of this one's role, where only the number of rows keeps them apart."""
    role = next((place.roles[1].get(one) for one in place.right if other in one.tensors.values()), None)
    if role is None or not role.endswith("table"):
        return None
    likes = [one.main for one, said in place.roles[0].items() if said == role]
    return likes[0] if likes and likes[0].shape[1:] == other.shape[1:] else None


def _ask(found: ByNames, place: Place, ours: list[Template], theirs: list[Template]) -> None:
    asked: set[int] = set()
    for other in theirs:
        names = tuple(other.names.values())
        if BUFFERS & {*words(other.path[-1])}:
            found.right += [Unmatched(name, "buffer, by its name") for name in names]
            continue
        likes = [one for one in ours if members(place, one, other) is not None]
        longer = _table_of_other_length(place, other)
        if not likes and longer is not None:
            question = (
                f"{longer} has {longer.shape[0]} rows and {other} has {other.shape[0]}: which rows are meant? "
                f"--pin '{longer}, _ <-> {other}' with shapes, or give models that can be run"
            )
            found.open.append(Open(tuple(longer.names.values()), names, question))
            asked.add(id(longer))
            continue
        if not likes:
            found.right += [Unmatched(name, "nothing of that shape is left over on the left") for name in names]
            continue
        asked |= {id(one) for one in likes}
        question = f"which is {other}? --pin '{likes[0]} <-> {other}'"
        if len(likes) > 1:
            question += f", or one of {', '.join(map(str, likes[1:4]))}" + (", …" if len(likes) > 4 else "")
        found.open.append(Open(tuple(n for one in likes for n in one.names.values()), names, question))
    for one in ours:
        if id(one) not in asked:
            reason = "buffer, by its name" if BUFFERS & {*words(one.path[-1])} else "nothing of that shape on the right"
            found.left += [Unmatched(name, reason) for name in one.names.values()]
