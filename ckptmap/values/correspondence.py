"""Pairs by a rule file: what a conversion would write, beside what is there, without writing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptmap.conversion.reading import Reader, buffer_of, check_ties
from ckptmap.conversion.residue import Filler
from ckptmap.conversion.run import tensors_of
from ckptmap.conversion.schedule import Step, key_of, may_refuse, schedule
from ckptmap.conversion.stamp import make_task
from ckptmap.rules.plan import Piece
from ckptmap.spec import TensorSpec
from ckptmap.values.pairs import Pair, Whole, Work
from ckptmap.values.sources import HeldBytes, JoinedBytes, Side

if TYPE_CHECKING:
    from ckptmap.conversion.stamp import RulesLike
    from ckptmap.rules.plan import Equation, Plan


@dataclass(frozen=True, slots=True)
class Correspondence:
    """What rules pair, and what they leave alone.

    Attributes:
        work: The pairs.
        only_left: Left tensors that no rule covers.
        only_right: Right tensors that none does.
        set_aside: What rules say has no counterpart, tensors and parts of them as `name[axis:start:length]`, each after
            its side.
    """

    work: tuple[Work, ...]
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    set_aside: tuple[tuple[str, str], ...]


def pairs_by_rules(
    rules: RulesLike, left: Side, right: Side, *, sizes: Mapping[str, int] | None = None
) -> Correspondence:
    """Bind rules to both sides, and pair what they say is the same.

    Raises:
        RuleError: The rule file is wrong.
        PlanError: The rules do not fit these checkpoints.
        ConvertError: They cannot be run on the left one: a tie is broken, parts have several dtypes.
    """
    one, two = left.checkpoint, right.checkpoint
    task = make_task(
        rules,
        one,
        back=False,
        sizes=sizes,
        config={**(two.config or {}), **(one.config or {})},
        partial=True,
        target={name: spec.shape for name, spec in two.items()},
    )
    check_ties(task.plan.left_ties, one)
    seconds: dict[str, list[str]] = {}
    for second, first in task.plan.right_ties:
        seconds.setdefault(first, []).append(second)
    # What a tensor has and the left side lacks is taken from the right one, so that the rest of it can be compared.
    steps = _Steps(Reader(one, reuse=False), Filler(None, two), left, right, seconds)
    made = schedule(task.plan, steps.reader, steps.filler.dtypes, ())
    work = [pair for step in made.steps for pair in steps.pairs_of(step)]
    aside = tuple(_without_counterpart(task.plan))
    accounted = {other.name for job in work for _, other in job.specs} | {key for side, key in aside if side == "right"}
    only_right = tuple(name for name in two if name not in accounted)
    return Correspondence(tuple(work), task.plan.uncovered_left, only_right, aside)


def _without_counterpart(plan: Plan) -> Iterator[tuple[str, str]]:
    for equation in plan.equations:
        for block in equation.blocks:
            if isinstance(block.left, Piece) and block.right == "none":
                yield "left", key_of(block.left)
            if isinstance(block.right, Piece) and block.left == "none":
                yield "right", key_of(block.right)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Turns steps of a conversion into pairs: `seconds` are other names of the right side for a tensor that is made."""

    reader: Reader
    filler: Filler
    left: Side
    right: Side
    seconds: Mapping[str, list[str]]

    def pairs_of(self, step: Step) -> Iterator[Work]:
        """What a step would write, beside what is there."""
        made = {
            name: (spec, self.right.checkpoint[name])
            for spec in step.outputs
            if not _is_bare(step.equation, spec.name)
            for name in (spec.name, *self.seconds.get(spec.name, ()))
            if name in self.right.checkpoint
        }
        if step.renamed is not None:
            for spec, other in made.values():
                yield Pair(spec, other, self.left.bytes_of(step.renamed), self.right.bytes_of(other.name))
        elif step.copies is not None:
            parts = {spec.name: copy for spec, copy in zip(step.outputs, step.copies, strict=True)}
            for spec, other in made.values():
                data = JoinedBytes(self.left.files, parts[spec.name])
                yield Pair(spec, other, data, self.right.bytes_of(other.name))
        elif made or may_refuse(step.equation):
            sources = {name for name in step.equation.left if name in self.left.checkpoint}
            fetched = sum(self.left.nbytes_fetched(name) for name in sources)
            fetched += sum(self.right.nbytes_fetched(name) for name in made)
            yield Whole(tuple(made.values()), lambda: self._make(step, made), fetched)

    def _make(self, step: Step, made: Mapping[str, tuple[TensorSpec, TensorSpec]]) -> Iterator[Pair]:
        tensors = tensors_of(step, self.reader, self.filler)
        for name, (spec, other) in made.items():
            tensor = tensors[spec.name]
            yield Pair(spec, other, HeldBytes(buffer_of(tensor), tensor), self.right.bytes_of(name))


def _is_bare(equation: Equation, name: str) -> bool:
    """Whether nothing of a right tensor comes from the left."""
    return all(
        block.left == "none" for block in equation.blocks if isinstance(block.right, Piece) and block.right.name == name
    )
