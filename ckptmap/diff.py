"""Two inventories side by side: which names, shapes and dtypes differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field

from ckptmap.checkpoint import Checkpoint, Source, open_checkpoint
from ckptmap.spec import Inventory, TensorSpec

MAX_PREFIX_SEGMENTS = 3


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
    """What differs between two checkpoints by name, shape and dtype; true when anything does.

    Attributes:
        only_left: Names that the right side lacks, in the left side's order.
        only_right: Names that the left side lacks.
        shape_differs: Names of both sides whose shapes differ.
        dtype_differs: Names of both sides whose dtypes differ; a tensor may be in both lists.
        same: Names whose shape and dtype agree.
        prefix: A mere change of prefix that would pair names of `only_left` and `only_right`, if there is one.
        left: The left inventory.
        right: The right inventory.
    """

    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    shape_differs: tuple[Pair, ...]
    dtype_differs: tuple[Pair, ...]
    same: tuple[str, ...]
    prefix: PrefixChange | None
    left: Inventory = field(repr=False, compare=False)
    right: Inventory = field(repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.only_left or self.only_right or self.shape_differs or self.dtype_differs)

    def __str__(self) -> str:
        if not self:
            return f"all {_tensors(self.same)} agree in name, shape and dtype"
        differing = len({pair.name for pair in (*self.shape_differs, *self.dtype_differs)})
        counts = f"{len(self.shape_differs)} in shape, {len(self.dtype_differs)} in dtype"
        return (
            f"{_tensors(self.same)} the same, {len(self.only_left)} only left, {len(self.only_right)} only right, "
            f"{differing} differ" + (f" ({counts})" if differing else "")
        )


def diff(left: Source | Checkpoint, right: Source | Checkpoint) -> Diff:
    """Compare two checkpoints by name, shape and dtype, from their headers.

    Args:
        left: A checkpoint, or anything that `open_checkpoint` opens.
        right: The same.

    Raises:
        CheckpointError: One of them cannot be opened.
    """
    return diff_inventories(
        *(side if isinstance(side, Checkpoint) else open_checkpoint(side) for side in (left, right))
    )


def diff_inventories(left: Inventory, right: Inventory) -> Diff:
    """Compare two inventories by name, shape and dtype."""
    both = [Pair(name, spec, right[name]) for name, spec in left.items() if name in right]
    only_left = tuple(name for name in left if name not in right)
    only_right = tuple(name for name in right if name not in left)
    return Diff(
        only_left,
        only_right,
        shape_differs=tuple(pair for pair in both if pair.left.shape != pair.right.shape),
        dtype_differs=tuple(pair for pair in both if pair.left.dtype != pair.right.dtype),
        same=tuple(pair.name for pair in both if pair.left == pair.right),
        prefix=_prefix_change(only_left, only_right, at_least=min(len(left), len(right)) / 2),
        left=left,
        right=right,
    )


def _tensors(names: Sized) -> str:
    return f"{len(names):,} tensor" + ("" if len(names) == 1 else "s")


def _prefix_change(only_left: Iterable[str], only_right: Iterable[str], at_least: float) -> PrefixChange | None:
    """The one change of prefix that pairs most names, if it pairs so many that it cannot be chance.

    Heads of two models may share names below their own (`lm_head.dense`, `classifier.dense`) and be no renaming.
    """
    left_prefixes: dict[str, list[str]] = {}
    for name in only_left:
        for prefix, rest in _splits(name):
            left_prefixes.setdefault(rest, []).append(prefix)
    votes = Counter(
        (left, right) for name in only_right for right, rest in _splits(name) for left in left_prefixes.get(rest, ())
    )
    if not votes:
        return None
    # Among equally good changes the shortest says it best: `a.` to `b.`, not `a.c.` to `b.c.`.
    (left, right), count = max(votes.items(), key=lambda item: (item[1], -len(item[0][0]) - len(item[0][1])))
    return PrefixChange(left, right, count) if count >= max(2, at_least) else None


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """A name cut after each of its first segments, none of them an index, with one segment at least left."""
    yield "", name
    cut = 0
    for _ in range(MAX_PREFIX_SEGMENTS):
        end = name.find(".", cut)
        if end < 0 or name[cut:end].isdigit():
            return
        cut = end + 1
        yield name[:cut], name[cut:]
