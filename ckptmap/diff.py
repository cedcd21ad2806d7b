"""Two checkpoints side by side: which names, shapes and dtypes differ and, when asked for, which values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

from ckptmap.checkpoint import Checkpoint, Source, open_checkpoint
from ckptmap.errors import CheckpointError
from ckptmap.spec import TensorSpec

if TYPE_CHECKING:
    from ckptmap.conversion.stamp import RulesLike
    from ckptmap.values.values import BeforeFetch, Prepared, Values
    from ckptmap.values.workers import Progress

MAX_PREFIX_SEGMENTS = 3
MAX_PREFIXES = 8
"""More names than this that end alike tell nothing of a prefix: adapters repeat `lora_A.weight` thousands of times."""
AGREE = " in name, shape and dtype"


@dataclass(frozen=True, slots=True)
class Pair:
    """One name, and what stands under it on each side."""

    name: str
    left: TensorSpec
    right: TensorSpec


@dataclass(frozen=True, slots=True)
class PrefixChange:
    """Left names become right names when the prefix `left` is replaced by `right`, for this many tensors."""

    left: str
    right: str
    tensors: int


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between two checkpoints; true when anything does.

    When values are compared within a tolerance, another dtype alone is no difference. Compared through rules, a name is
    the right side's, and the left spec is what the rules make of the left side.

    Attributes:
        only_left: Names that the right side lacks, in the left side's order.
        only_right: Names that the left side lacks.
        shape_differs: Names of both sides whose shapes differ.
        dtype_differs: Names of both sides whose dtypes differ; a tensor may be in both lists.
        same: Names whose shape and dtype agree.
        prefix: A mere change of prefix that would pair names of `only_left` and `only_right`, if there is one.
        tied: Names of `only_left` and `only_right`, each with a name of both sides that it is one stored tensor with.
        left_out: How many tensors could not be compared, as a side left them out (sparse, quantized, …).
        left: The left checkpoint.
        right: The right checkpoint.
        values: What is known of the values; None when they were not compared.
    """

    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    shape_differs: tuple[Pair, ...]
    dtype_differs: tuple[Pair, ...]
    same: tuple[str, ...]
    prefix: PrefixChange | None
    tied: tuple[tuple[str, str], ...]
    left_out: int
    left: Checkpoint = field(repr=False, compare=False)
    right: Checkpoint = field(repr=False, compare=False)

    values: Values | None = field(default=None, compare=False)

    def __bool__(self) -> bool:
        tolerant = self.values is not None and self.values.has_tolerance
        names_differ = self.only_left or self.only_right or self.shape_differs
        return bool(names_differ or (self.dtype_differs and not tolerant) or self.values)

    def __str__(self) -> str:
        if self.values is not None:
            return f"{names_text(self)}; {self.values}"
        # Names that agree say nothing of values, and whoever reads one line only must not take it for that.
        return names_text(self) + ("; values were not compared" if self.same else "")

    def _repr_html_(self) -> str:
        from ckptmap.report.html.notebook import diff_html

        return diff_html(self)


def diff(
    left: Source | Checkpoint,
    right: Source | Checkpoint,
    *,
    prefix: tuple[str, str] | None = None,
    values: bool = False,
    rules: RulesLike = None,
    sizes: Mapping[str, int] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    progress: Progress | None = None,
    before_fetch: BeforeFetch | None = None,
) -> Diff:
    """Compare two checkpoints by name, shape and dtype, from their headers; with `values`, bit by bit too.

    Args:
        left: A checkpoint, or anything that `open_checkpoint` opens.
        right: The same.
        prefix: Left names that start with the first text are compared as if they started with the second.
        values: Compare values: read both sides, and measure what has other bits.
        rules: Compare values through these rules, from left to right, in place of by name.
        sizes: Lengths of axes that the rules leave open.
        atol: How far apart elements may be, and
        rtol: how far as a share of the left element, without being different; by default every bit counts.
        progress: Told of the bytes read and to read.
        before_fetch: Told of the bytes of values that will come over a network; it may raise.

    Raises:
        CheckpointError: One of them cannot be read, filters left nothing of both, or a file changed meanwhile.
        RuleError: The rule file is wrong.
        PlanError: The rules do not fit.
        ConvertError: The rules cannot be run on the left side.
    """
    left = left if isinstance(left, Checkpoint) else open_checkpoint(left)
    right = right if isinstance(right, Checkpoint) else open_checkpoint(right)
    if not left and not right:
        left.check_filter()
        right.check_filter()
    if prefix is not None:
        left = left.with_prefix(*prefix)
    if not values:
        return _by_name(left, right)
    from ckptmap.values.values import prepare  # late: names are compared without

    prepared = prepare(left, right, rules=rules, sizes=sizes, progress=progress)
    found = _by_name(left, right) if prepared.rules is None else _by_rules(prepared)
    if before_fetch is not None and prepared.fetched:
        before_fetch(prepared.fetched)
    return replace(found, values=prepared.compare(atol=atol, rtol=rtol))


def _by_name(left: Checkpoint, right: Checkpoint) -> Diff:
    both = [Pair(name, spec, right[name]) for name, spec in left.items() if name in right]
    only_left = {name: spec.shape for name, spec in left.items() if name not in right}
    only_right = {name: spec.shape for name, spec in right.items() if name not in left}
    return Diff(
        tuple(only_left),
        tuple(only_right),
        shape_differs=tuple(pair for pair in both if pair.left.shape != pair.right.shape),
        dtype_differs=tuple(pair for pair in both if pair.left.dtype != pair.right.dtype),
        same=tuple(pair.name for pair in both if pair.left == pair.right),
        prefix=_prefix_change(
            _prefixes(only_left, _one_index(left)),
            _prefixes(only_right, _one_index(right)),
            at_least=min(len(left), len(right)) / 2,
        ),
        tied=(*_tied(left, right), *_tied(right, left)),
        left_out=left.left_out + right.left_out,
        left=left,
        right=right,
    )


def _by_rules(prepared: Prepared) -> Diff:
    """The same when rules say which tensors belong together."""
    found = prepared.rules
    assert found is not None
    pairs = [Pair(other.name, spec, other) for work in found.work for spec, other in work.specs]
    return Diff(
        found.only_left,
        found.only_right,
        shape_differs=(),
        dtype_differs=tuple(pair for pair in pairs if pair.left.dtype != pair.right.dtype),
        same=tuple(pair.name for pair in pairs if pair.left.dtype == pair.right.dtype),
        prefix=None,
        tied=(),
        left_out=prepared.left.left_out + prepared.right.left_out,
        left=prepared.left,
        right=prepared.right,
    )


def names_text(diff: Diff) -> str:
    """What headers tell, in one sentence: the differences first, of values nothing."""
    left_out = f"; {_tensors(diff.left_out)} left out could not be compared" if diff.left_out else ""
    differing = len({pair.name for pair in (*diff.shape_differs, *diff.dtype_differs)})
    in_what = f"{len(diff.shape_differs):,} in shape, {len(diff.dtype_differs):,} in dtype"
    counts = [
        f"{count:,} {what}"
        for count, what in (
            (len(diff.only_left), "only left"),
            (len(diff.only_right), "only right"),
            (differing, f"on both sides and not the same ({in_what})"),
        )
        if count
    ]
    if not counts:
        return f"{_all_agree(len(diff.same))}{left_out}"
    differences = len(diff.only_left) + len(diff.only_right) + differing
    noun = "difference" if differences == 1 else "differences"
    if diff.only_left and diff.only_right and not (diff.same or differing):
        return f"no name in common: {', '.join(counts)}{_architectures(diff)}{left_out}"
    same = f"; {len(diff.same):,} the same{AGREE}" if diff.same else ""
    return f"{differences:,} {noun}: {', '.join(counts)}{same}{left_out}"


def _architectures(diff: Diff) -> str:
    """That the sides are models of other kinds, where both say so."""
    kinds = [_model_type(side) for side in (diff.left, diff.right)]
    return f"; different architectures ({kinds[0]} / {kinds[1]})" if all(kinds) and kinds[0] != kinds[1] else ""


def _model_type(side: Checkpoint) -> str | None:
    try:
        kind = (side.config or {}).get("model_type")
    except CheckpointError:  # a config that cannot be read hides no difference of tensors
        return None
    return kind if isinstance(kind, str) else None


def _tensors(count: int) -> str:
    return f"{count:,} tensor" + ("" if count == 1 else "s")


def _all_agree(count: int) -> str:
    if not count:
        return "neither side has a tensor"
    return f"the 1 tensor agrees{AGREE}" if count == 1 else f"all {count:,} tensors agree{AGREE}"


def _tied(side: Checkpoint, other: Checkpoint) -> Iterator[tuple[str, str]]:
    """Names that only one side has, with a name of both sides that is the same tensor there."""
    for group in side.ties:
        shared = next((name for name in group if name in other), None)
        if shared is not None:
            yield from ((name, shared) for name in group if name not in other)


Prefixes = dict[tuple[str, tuple[int, ...]], list[str]]
"""What may stand before the rest of a name, by that rest and the tensor's shape."""


def _prefix_change(left: Prefixes, right: Prefixes, at_least: float) -> PrefixChange | None:
    """The one change of prefix that pairs most names, if it pairs so many that it cannot be chance.

    Heads of two models may share names below their own (`lm_head.dense`, `classifier.dense`) and be no renaming.
    """
    votes = Counter(
        change
        for rest, prefixes in left.items()
        if len(prefixes) <= MAX_PREFIXES and len(right.get(rest, ())) <= MAX_PREFIXES
        for change in product(prefixes, right.get(rest, ()))
    )
    if not votes:
        return None
    # Among equally good changes the shortest says it best: `a.` to `b.`, not `a.c.` to `b.c.`.
    (before, after), count = max(votes.items(), key=lambda item: (item[1], -len(item[0][0]) - len(item[0][1])))
    return PrefixChange(before, after, count) if count >= max(2, at_least) else None


def _prefixes(names: Mapping[str, tuple[int, ...]], index: str | None) -> Prefixes:
    found: Prefixes = {}
    for name, shape in names.items():
        for prefix, rest in _splits(name, index):
            found.setdefault((rest, shape), []).append(prefix)
    return found


def _one_index(names: Iterable[str]) -> str | None:
    """The index that all names start with, as those of one part of an `nn.Sequential` do."""
    first = {name.partition(".")[0] for name in names}
    return first.pop() if len(first) == 1 else None


def _splits(name: str, index: str | None) -> Iterator[tuple[str, str]]:
    """A name cut after each of its first segments, with one segment at least left.

    None of them is an index, but for `index` as the first of all.
    """
    yield "", name
    cut = 0
    for _ in range(MAX_PREFIX_SEGMENTS):
        end = name.find(".", cut)
        if end < 0 or (name[cut:end].isdigit() and not (cut == 0 and name[:end] == index)):
            return
        cut = end + 1
        yield name[:cut], name[cut:]
