"""Which tensor is which by what both checkpoints hold: equal rows, columns and whole tensors, whatever their names.

Fingerprints propose (`infer/fibers.py`); bits are compared before anything is claimed (`infer/value_proof.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptmap.conversion.blocks import as_integers
from ckptmap.conversion.reading import FLOATS, PRECISION, Reader, torch_dtype
from ckptmap.infer.extend import siblings
from ckptmap.infer.fibers import FEWEST, SHORTEST, Index, View, fingerprints, views
from ckptmap.infer.findings import Open
from ckptmap.infer.readings import FOLLOWS, Reading, equations, is_sayable, linked
from ckptmap.infer.shapes_related import Named
from ckptmap.spec import DTYPE_BITS
from ckptmap.stages import tell

if TYPE_CHECKING:
    import numpy

    from ckptmap.checkpoint import Checkpoint
    from ckptmap.infer.findings import Sizes
    from ckptmap.spec import TensorSpec

WIDE = ("F64", "F32", "F16", "BF16")
"""Dtypes whose values may have been cast on their way from one side to the other."""


@dataclass
class ByValues:
    """What values give.

    Attributes:
        named: Equations, each with what it rests on.
        open: What values show but cannot settle.
        ties: Side, name and second name of tensors with equal values of which the other side has one.
    """

    named: list[Named] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)
    ties: list[tuple[str, str, str]] = field(default_factory=list)


def by_values(
    left: Checkpoint,
    right: Checkpoint,
    *,
    known: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset()),
    named: Mapping[str, str] | None = None,
) -> ByValues:
    """Match two checkpoints by the values they hold.

    Args:
        left: A checkpoint whose values can be read.
        right: Another.
        known: Names on either side that need no answer.
        named: For right names the left ones that names and shapes propose; they choose where values are equal.

    Raises:
        CheckpointError: Values cannot be read.
    """
    dtype = _common_dtype(left, right)
    index, twins = _indexed(left, _lengths(right, known[1]), known[0], dtype)
    found = ByValues()
    readings: dict[str, Reading] = {}
    reader = Reader(right)
    for number, name in enumerate(right):
        tell("values of the right", number, len(right))
        if name in known[1] or not _is_readable(right, name):
            continue
        reading = _read(reader, name, index, dtype)
        if reading is not None and reading.is_complete and is_sayable(reading):
            readings[name] = reading
        elif reading is not None and (question := _rows_question(reading, twins, named or {})):
            found.open.append(question)
    reader.close()
    _share(found, readings, twins, named or {})
    _follow(readings, left, right, known)
    shapes = {name: spec.shape for name, spec in left.items()}, {name: spec.shape for name, spec in right.items()}
    for group in linked(readings):
        said, unsaid = equations(group, *shapes)
        found.named += said
        found.open += [unsaid] if unsaid else []
    return found


# ------------------------------------------------------------------ reading


def _is_readable(checkpoint: Checkpoint, name: str) -> bool:
    """Whether the tensor's values may tell something: a mask or a few small numbers are like many others."""
    spec = checkpoint[name]
    if spec.dtype in FLOATS:
        return spec.parameters >= FEWEST
    return spec.dtype not in ("BOOL", "C128") and DTYPE_BITS[spec.dtype] >= 8 and spec.parameters >= SHORTEST


def _common_dtype(left: Checkpoint, right: Checkpoint) -> str | None:
    """What floating-point values are made before they are looked at; None if both sides hold the same dtypes."""
    ours, theirs = ({spec.dtype for spec in side.values() if spec.dtype in WIDE} for side in (left, right))
    if ours == theirs and len(ours) < 2:
        return None
    # With other dtypes on the other side, values may have been rounded to the narrowest; else to none.
    choose = max if ours == theirs else min
    return choose(ours | theirs, key=lambda dtype: PRECISION[dtype][::-1])


def _integers(reader: Reader, name: str, dtype: str | None) -> numpy.ndarray:
    tensor = reader.tensor(name).cpu()
    if dtype is not None and reader.checkpoint[name].dtype in WIDE:
        tensor = tensor.to(torch_dtype(dtype))
    found: numpy.ndarray = as_integers(tensor).contiguous().numpy()
    return found


def _lengths(right: Checkpoint, known: frozenset[str]) -> set[int]:
    return {view.length for name, spec in right.items() if name not in known for view in views(name, spec.shape)}


def _indexed(
    left: Checkpoint, lengths: set[int], known: frozenset[str], dtype: str | None
) -> tuple[Index, dict[str, list[str]]]:
    """All fibers of the left that may be met on the right, and tensors of equal values, which are in there once."""
    import numpy

    index = Index()
    twins: dict[str, list[str]] = {}
    first: dict[tuple[Sizes, int], str] = {}
    reader, again = Reader(left), Reader(left)
    for number, (name, spec) in enumerate(left.items()):
        tell("values of the left", number, len(left))
        if name in known or not _is_readable(left, name):
            continue
        whole, *others = views(name, spec.shape)
        integers = _integers(reader, name, dtype)
        prints = fingerprints(whole, integers)
        if not prints[1][0]:
            one = first.setdefault((spec.shape, int(prints[0][0])), name)
            if one != name and numpy.array_equal(_integers(again, one, dtype), integers):
                twins.setdefault(one, []).append(name)
                continue
        index.add(whole, *prints)
        for view in others:
            if view.length in lengths:
                index.add(view, *fingerprints(view, integers))
    reader.close()
    again.close()
    return index, twins


# ------------------------------------------------------------------ readings


def _rows_question(reading: Reading, twins: Mapping[str, Sequence[str]], named: Mapping[str, str]) -> Open | None:
    """What to ask where a table goes on behind, or begins before, all the rows that the left has."""
    view, (source, places, there) = reading.view, reading.parts[0]
    if len(reading.parts) > 1 or len(view.shape) != 2 or view.start != 1 or source.start != 1:
        return None
    shift = int(places[0] - there[0])
    if len(source.shape) != 2 or len(there) != source.count or (places - there != shift).any():
        return None
    first = _chosen(view.name, (source.name, *twins.get(source.name, ())), named, source.name)
    before, behind = shift, view.count - shift - source.count
    terms, shapes = [first], ["v m"]
    if before:
        terms, shapes = ["_", *terms], ["k m", *shapes]
    if behind:
        terms, shapes = [*terms, "_"], [*shapes, "p m"]
    sums = " + ".join(shape.split()[0] for shape in shapes)
    told = f" and --pin 'size k = {before}'" if before and behind else ""
    pin = f"{', '.join(terms)} <-> {view.name} : {', '.join(shapes)} <-> [{sums}] m"
    return Open(
        (first,),
        (view.name,),
        f"{view.name} holds the {source.count:,} rows of {first}, and {before + behind:,} more that nothing "
        f"on the left has: new rows? --pin '{pin}'{told}",
    )


def _read(reader: Reader, name: str, index: Index, dtype: str | None) -> Reading | None:
    """A right tensor as fibers of the left, all of them if there is such a view, else most of them."""
    integers, best = None, None
    for view in views(name, reader.checkpoint[name].shape):
        if view.length not in index:
            continue
        integers = _integers(reader, name, dtype) if integers is None else integers
        numbers = index.find(view, *fingerprints(view, integers))
        if numbers is None:
            continue
        reading = Reading(view, tuple(index.owners(view.length, numbers)))
        if reading.is_complete and is_sayable(reading):
            return reading
        best = best or reading
    return best


def _share(
    found: ByValues, readings: dict[str, Reading], twins: Mapping[str, Sequence[str]], named: Mapping[str, str]
) -> None:
    """Say which of several tensors of equal values is which, as far as that matters."""
    users: dict[str, list[str]] = {}
    for name, one in readings.items():
        for view, _, _ in one.parts:
            users.setdefault(view.name, []).append(name)
    # A head that was trained since no longer holds the table's values, but may still be the one that names tell.
    elsewhere = {source for name, source in named.items() if name not in readings}
    for first, rights in users.items():
        group = (first, *twins.get(first, ()))
        rights = [name for name in rights if name in readings]
        if not _overlap(first, [readings[name] for name in rights]):
            # Equal tensors of which the other side has one are tied, and then any of them is the first.
            chosen = _chosen(rights[0], group, named, first) if len(rights) == 1 else first
            if chosen != first:
                readings[rights[0]] = _from(readings[rights[0]], first, chosen)
            found.ties += [("left", chosen, one) for one in group if one != chosen and one not in elsewhere]
            continue
        if len(group) == 1 and len({(readings[name].copied, readings[name].view.shape) for name in rights}) == 1:
            found.ties += [("right", rights[0], one) for one in rights[1:]]
            for name in rights[1:]:
                del readings[name]
            continue
        pairs = _paired(group, rights, named)
        for name in rights:
            if pairs:
                readings[name] = _from(readings[name], first, pairs[name])
            else:
                del readings[name]
        if not pairs:
            ours, theirs = ", ".join(group[:4]), ", ".join(rights[:4])
            question = f"{ours} and {theirs} all hold equal values: which is which? --pin '{group[0]} <-> {rights[0]}'"
            found.open.append(Open(group, tuple(rights), question))


def _overlap(source: str, using: Sequence[Reading]) -> bool:
    """Whether two tensors of the right hold the same fibers of one of the left."""
    import numpy

    theirs = [there for one in using for view, _, there in one.parts if view.name == source]
    return len(numpy.unique(numpy.concatenate(theirs))) < sum(map(len, theirs))


def _from(reading: Reading, source: str, other: str) -> Reading:
    """The reading with another left tensor of equal values in place of one."""
    parts = ((replace(v, name=other) if v.name == source else v, here, there) for v, here, there in reading.parts)
    return replace(reading, parts=tuple(parts))


def _chosen(name: str, group: Sequence[str], named: Mapping[str, str], default: str) -> str:
    """That of several left tensors which has the name that is proposed, or the right one's own."""
    return next((one for one in (named.get(name, name), name) if one in group), default)


def _paired(group: Sequence[str], rights: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Each right tensor with a left one of its own, by name and by what is left over; nothing if that does not tell."""
    pairs = {name: one for name in rights if (one := _chosen(name, group, named, ""))}
    free = [name for name in group if name not in pairs.values()]
    rest = [name for name in rights if name not in pairs]
    if len(rest) == len(free) == 1:
        pairs[rest[0]] = free[0]
    return pairs if len(set(pairs.values())) == len(rights) else {}


def _follow(
    readings: dict[str, Reading],
    left: Mapping[str, TensorSpec],
    right: Mapping[str, TensorSpec],
    known: tuple[frozenset[str], frozenset[str]],
) -> None:
    """Biases that values do not tell apart go where their weights went."""
    taken = {view.name for one in readings.values() for view, _, _ in one.parts} | known[0]
    for name, spec in right.items():
        weight = next((readings[one] for one in siblings(name, "bias") if one in readings), None)
        if name in readings or name in known[1] or weight is None or len(spec.shape) != 1 or not weight.tells_axes:
            continue
        parts = []
        for source, places, there in weight.parts:
            size = spec.shape[0] if weight.copied else source.count
            bias = next((one for one in siblings(source.name, "weight") if one in left and one not in taken), None)
            if bias is None or left[bias].shape != (size,):
                break
            if weight.copied:
                places = there = _all(size)
            parts.append((View(bias, (size,), 0, 0), places, there))
        if len(parts) == len(weight.parts) and sum(len(places) for _, places, _ in parts) == spec.shape[0]:
            readings[name] = Reading(View(name, spec.shape, 0, 0), tuple(parts), FOLLOWS)


def _all(size: int) -> numpy.ndarray:
    import numpy

    return numpy.arange(size)
