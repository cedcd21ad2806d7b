"""The answer for sides that are not run: pins, then values where both sides hold them, then names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptmap.conversion.reading import opened
from ckptmap.infer.by_names import ByNames, by_names
from ckptmap.infer.compile import compile_written
from ckptmap.infer.on_disk import on_disk
from ckptmap.infer.pins import PINNED, bound_hints
from ckptmap.infer.unstack import whole_name
from ckptmap.infer.values_first import values_first

if TYPE_CHECKING:
    from ckptmap.infer.findings import Sizes
    from ckptmap.infer.operands import Operand
    from ckptmap.infer.proof import Verification
    from ckptmap.infer.values_first import Tie
    from ckptmap.rules.rules import Rules


@dataclass(frozen=True)
class NotRun:
    """What is known without running anything.

    Attributes:
        draft: The rules, guesses included.
        seen: The equations they were made of, and what stays open.
        evidence: For each right tensor that is decided, why.
        shapes: Shapes of both sides' tensors, by the names that the rules have.
        verification: The comparison of values; None if there is none, or nothing is equal.
    """

    draft: Rules
    seen: ByNames
    evidence: Mapping[str, str]
    shapes: tuple[Mapping[str, Sizes], Mapping[str, Sizes]]
    verification: Verification | None = None


def not_run(sides: tuple[Operand, Operand], hints: Sequence[str], layers: str | None, *, values: bool) -> NotRun:
    """Find rules without running a model.

    Args:
        sides: The left and the right.
        hints: Rules that are known.
        layers: Which layers of the longer stack are meant.
        values: Whether to compare what both sides hold.

    Raises:
        PlanError: A hint does not fit, or the choice of layers.
        RuleError: A hint is no rule.
        CheckpointError: Values cannot be read.
    """
    saved = [on_disk(side) if side.saved_as else None for side in sides]
    left, right = (side if disk is None else disk.operand for side, disk in zip(sides, saved, strict=True))
    told = bound_hints(hints, left.shapes, right.shapes)
    pinned = list(dict.fromkeys(written for hint in told for written in hint.equations))
    known = (
        frozenset(left.ties) | {name for one in pinned for name in one.left},
        frozenset(right.ties) | {name for one in pinned for name in one.right},
    )

    def draft_of(seen: ByNames, more: Iterable[Tie] = ()) -> Rules:
        decided = [*pinned, *(one.written for one in seen.named if not one.question)]
        guesses = [one.written for one in seen.named if one.question]
        said = {name for one in (*decided, *guesses) for name in (*one.left, *one.right)}
        ties = [
            (side, first, second)
            for side, one in (("left", left), ("right", right))
            for second, first in one.ties.items()
            if first in said
        ]
        labels = left.label, right.label
        return compile_written(decided, left.shapes, right.shapes, guesses, labels=labels, ties=[*ties, *more])

    def evidence_of(seen: ByNames) -> dict[str, str]:
        found = {name: PINNED for one in pinned for name in one.right}
        found |= {
            whole_name(name): one.evidence for one in seen.named if not one.question for name in one.written.right
        }
        return {name: found[name] for name in right.shapes if name in found}

    def seen_with(layers: str | None) -> ByNames:
        return by_names(left.shapes, right.shapes, known=known, pinned=pinned, layers=layers)

    seen, shapes = seen_with(layers), (left.shapes, right.shapes)
    if not values:
        return NotRun(draft_of(seen), seen, evidence_of(seen), shapes)
    with opened(left.stored) as ours, opened(right.stored) as theirs:
        settled = values_first(seen, seen_with, (ours, theirs), known, draft_of)
    evidence = {name: settled.evidence(name, why) for name, why in evidence_of(settled.seen).items()}
    return NotRun(draft_of(settled.seen, settled.ties), settled.seen, evidence, shapes, settled.verification)
