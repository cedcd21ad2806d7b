"""Models of real size: searched where they were cut short, and then run whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.infer.by_modules import ByModules, learnt_elsewhere
from ckptmap.infer.findings import Unmatched
from ckptmap.infer.operands import Operand, of_module
from ckptmap.infer.shortened import Shortened, shortened

if TYPE_CHECKING:
    import numpy

    from ckptmap.align.prove.whole import Whole
    from ckptmap.infer.findings import Sizes
    from ckptmap.infer.inputs import Inputs
    from ckptmap.infer.probe_runs import Runner
    from ckptmap.infer.proof import Verification
    from ckptmap.infer.sketch import Sketched
    from ckptmap.rules.rules import Rules

Sides: TypeAlias = "tuple[Operand, Operand]"

GIB = 1 << 30


@dataclass(frozen=True)
class Large:
    """Two models of real size, and what was found where they were cut short.

    Attributes:
        sides: The whole models.
        cut: The same, cut short: fewer layers, fewer rows of the vocabulary.
        short: How they were cut.
        calls: How to run either, whole or cut.
        seen: What running the cut ones showed.
        sketched: What was told apart there.
    """

    sides: Sides
    cut: Sides
    short: tuple[Shortened, Shortened]
    calls: tuple[Runner, Runner]
    seen: ByModules
    sketched: Sketched

    def proof(self, rules: Rules) -> Verification | None:
        """Run both whole models; None if this machine has not the memory, which `lacking` tells."""
        from ckptmap.align.prove.tolerance import tolerance
        from ckptmap.align.prove.variations import variations
        from ckptmap.align.prove.whole import prove_whole

        modules = [one.module for one in self.short]
        varied = variations((modules[0], modules[1]), self.calls)
        return prove_whole(
            rules,
            *self._wholes,
            varied,
            allowed=lambda: tolerance(self.sketched.subjects, list(self.seen.compared)),
            unreached=lambda: self._unreached([one.calls[1] for one in varied]),
        )

    def lacking(self) -> str:
        """What the proof takes and is not there; empty if it is."""
        from ckptmap.align.prove.whole import bytes_needed

        takes, free = bytes_needed(*self._wholes), free_memory()
        if takes <= free:
            return ""
        return (
            f"running both whole models takes {takes / GIB:.1f} GiB more than they are in memory with, and "
            f"{free / GIB:.1f} GiB are free; what follows was found with {self.short[0].text}. "
            "Free memory, or build both with fewer layers (--left-arg, --right-arg) to have it proven"
        )

    @cached_property
    def _wholes(self) -> tuple[Whole, Whole]:
        from ckptmap.align.prove.whole import Whole

        made = []
        for at, side in enumerate(self.sides):
            assert side.module is not None
            made.append(Whole(side.module, side.label, side.built, self.seen.learnt[at], self.sketched.returned[at]))
        return made[0], made[1]

    def _unreached(self, calls: Sequence[Runner]) -> Sequence[str]:
        """Right tensors and rows of them that no input reaches, by the names of the whole model."""
        from ckptmap.align.prove.reach import reached, unreached_text
        from ckptmap.infer.probe_fills import random_values

        subject, short, shapes = self.sketched.subjects[1], self.short[1], self.sides[1].shapes
        seen: dict[str, numpy.ndarray] = {}
        for call in calls:
            run = subject.run_whole(random_values(subject), call)
            for name, felt in reached(run, {one.place for one in run.activations if one.output}).items():
                seen[name] = seen.get(name, False) | felt
        whole = {
            name: _widened(seen[short.like(name)], shape)
            for name, shape in shapes.items()
            if short.like(name) in seen and name not in self.sides[1].ties
        }
        return list(unreached_text(shapes, whole))

    def whole_names(self, names: Mapping[str, str], at: int) -> dict[str, str]:
        """What is said of tensors of a cut model, said of all tensors of the whole one that are like them."""
        short, shapes = self.short[at], self.sides[at].shapes
        return {name: names[short.like(name)] for name in shapes if short.like(name) in names}

    def whole_unmatched(self, found: Sequence[Unmatched], at: int) -> tuple[Unmatched, ...]:
        """The same for tensors without a counterpart."""
        reasons = self.whole_names({one.name: one.reason for one in found}, at)
        return tuple(Unmatched(name, reason) for name, reason in reasons.items())


def _widened(felt: numpy.ndarray, shape: Sizes) -> numpy.ndarray:
    """What was seen of some rows, of a tensor that has more."""
    import numpy

    if felt.shape == tuple(shape):
        return felt
    made: numpy.ndarray = numpy.full(shape, bool(felt.all()))
    made[tuple(slice(0, size) for size in felt.shape)] = felt
    return made


def large(sides: Sides, inputs: tuple[Inputs, Inputs] | None) -> Large:
    """Search two models that are too large to be run again and again.

    Raises:
        ArchitectureError: They cannot be run, or compute nothing in common.
    """
    from ckptmap.align.prove.variations import of_one_image
    from ckptmap.infer.guessed_inputs import calls_on
    from ckptmap.infer.sketch import search_sketches

    left, right = sides
    assert left.module is not None and right.module is not None
    labels = left.label, right.label
    short = shortened(left.module, right.module, tables=inputs is None)
    calls = calls_on(inputs, short[0].module, short[1].module, labels)
    if inputs is None:
        calls = of_one_image(calls)
    learnt = learnt_elsewhere(left.module, right.module)
    kept = [
        frozenset(name for name in names if one.like(name) == name) for names, one in zip(learnt, short, strict=True)
    ]
    sketched = search_sketches((short[0].module, short[1].module), calls, labels, (kept[0], kept[1]))
    cut = [
        replace(of_module(one.module, side.label), saved_as=side.saved_as)
        for one, side in zip(short, sides, strict=True)
    ]
    return Large(sides, (cut[0], cut[1]), short, calls, replace(sketched.seen, learnt=learnt), sketched)


def free_memory() -> int:
    """Bytes that can be had without pushing others out, as far as the system tells."""
    try:
        with open("/proc/meminfo") as file:
            told = dict(line.split(":", 1) for line in file)
        return int(told["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (OSError, ValueError, AttributeError):
            return 1 << 62
