"""Values of two checkpoints compared: which tensors have equal bits, and how far apart the others are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ckptmap.values.compare import Comparison, TensorValues
from ckptmap.values.pairs import Work, find_equal_files, pairs_by_name
from ckptmap.values.sources import OpenFiles, Side, unchanged
from ckptmap.values.workers import Meter

if TYPE_CHECKING:
    from ckptmap.checkpoint import Checkpoint
    from ckptmap.conversion.stamp import RulesLike
    from ckptmap.values.correspondence import Correspondence
    from ckptmap.values.workers import Progress

BeforeFetch = Callable[[int], None]
"""Told of the bytes of values that a network would bring, before any comes; it may raise."""


@dataclass(frozen=True)
class Values:
    """What is known of the values of two checkpoints; true when any differ.

    Attributes:
        tensors: Every tensor that was compared.
        atol: How far elements may be apart, and
        rtol: how far as a share of the left element; both None when only bits count.
        set_aside: What the rules themselves say has no counterpart (`_`), tensors and parts of them as
            `name[axis:start:length]`, each after its side; it is no difference.
        fetched: Bytes of values that came over a network.
    """

    tensors: tuple[TensorValues, ...]
    atol: float | None = None
    rtol: float | None = None
    set_aside: tuple[tuple[str, str], ...] = ()
    fetched: int = 0

    def __bool__(self) -> bool:
        return bool(self.differing)

    def __str__(self) -> str:
        from ckptmap.values.moved import summary

        return summary(self)

    @property
    def has_tolerance(self) -> bool:
        """Whether numbers are compared within a tolerance, and not bits."""
        return self.atol is not None or self.rtol is not None

    @cached_property
    def differing(self) -> tuple[TensorValues, ...]:
        """Tensors whose bits differ or, with a tolerance, whose numbers are further apart than that."""
        if not self.has_tolerance:
            return tuple(one for one in self.tensors if not one.same_bits)
        return tuple(
            one for one in self.tensors if not one.same_bits and (one.statistics is None or one.statistics.beyond)
        )


@dataclass(frozen=True)
class Prepared:
    """All that is to be compared, before any value is read.

    Attributes:
        left: The left checkpoint.
        right: The right one.
        work: What is compared with what.
        files: Where files stay open.
        meter: Where bytes are counted.
        rules: What rules pair and leave alone; None when tensors are compared by name.
    """

    left: Checkpoint
    right: Checkpoint
    work: tuple[Work, ...]
    files: OpenFiles
    meter: Meter
    rules: Correspondence | None = None

    @property
    def fetched(self) -> int:
        """Bytes of values that a network would bring."""
        return sum(one.fetched for one in self.work)

    def compare(self, *, atol: float | None = None, rtol: float | None = None) -> Values:
        """Read the values.

        Args:
            atol: How far elements may be apart, and
            rtol: how far as a share of the left element, without being different; None for bits.

        Raises:
            CheckpointError: Something cannot be read, or a file changed meanwhile.
            ConvertError: Values stand against the rules.
        """
        with unchanged((self.left, self.right)), self.files:
            found = Comparison(atol, rtol, self.meter).run(self.work)
        return Values(found, atol, rtol, self.rules.set_aside if self.rules else (), self.fetched)


def prepare(
    left: Checkpoint,
    right: Checkpoint,
    *,
    rules: RulesLike = None,
    sizes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Find out what must be read to compare two checkpoints; of repos only what is surely equal is known by its hash.

    Args:
        left: The left checkpoint.
        right: The right one.
        rules: Compare through these rules, in place of by name.
        sizes: Lengths of axes that the rules leave open.
        progress: Told of the bytes read and to read, now and later.

    Raises:
        CheckpointError: Something cannot be read.
        RuleError: The rule file is wrong.
        PlanError: The rules do not fit.
        ConvertError: The rules cannot be run on the left checkpoint.
    """
    files, meter = OpenFiles(), Meter(progress)
    sides = Side(left, files), Side(right, files)
    find_equal_files(*sides, meter)
    for one, other in (sides, sides[::-1]):
        one.locate_fetched(meter, other)
    if rules is None:
        return Prepared(left, right, tuple(pairs_by_name(*sides)), files, meter)
    from ckptmap.values.correspondence import pairs_by_rules  # late: it brings the rule language

    found = pairs_by_rules(rules, *sides, sizes=sizes)
    return Prepared(left, right, found.work, files, meter, found)
