"""Tries causes on one side until the two models agree, by matching and proving them anew each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.align.diagnose.cause import LEFT, Cause, Models, sites_of_kinds
from ckptmap.align.diagnose.causes import calls_with, causes, plain_causes
from ckptmap.align.diagnose.watch import ADD, Site, sites_of
from ckptmap.errors import CkptmapError
from ckptmap.infer.proof import Difference
from ckptmap.patterns import group
from ckptmap.printable import printable
from ckptmap.rules.rules import Rules
from ckptmap.stages import tell

if TYPE_CHECKING:
    from ckptmap.infer.probe_runs import Runner
    from ckptmap.remapping import Remap

Calls: TypeAlias = "tuple[Runner, Runner]"

SECONDS = 9.0
"""How long causes are tried."""


def diagnosed(models: Models, calls: Calls, matched: Callable[[Calls], Remap]) -> Remap | None:
    """The answer for two models that agree once named differences are allowed for; None if no cause tried explains it.

    Args:
        models: The left and the right.
        calls: How to run them.
        matched: Matches and proves them with other calls.
    """
    until = time.monotonic() + SECONDS
    tell("what the two do differently")
    left, right = (sites_of(model, call) for model, call in zip(models, calls, strict=True))

    def tried(chosen: Sequence[Cause]) -> Remap | None:
        if time.monotonic() > until:
            return None
        try:
            answer = matched(calls_with(chosen, calls))
        except CkptmapError:
            return None
        return answer if answer.verification is not None and answer.verification.passed else None

    for chosen in _orders(list(plain_causes((left, right))), causes(models, (left, right))):
        answer = tried(chosen)
        if answer is not None:
            kept, answer = _needed(chosen, answer, tried)
            found = tuple(_difference(one, (left, right)) for one in kept)
            assert answer.verification is not None
            return replace(
                answer,
                rules=_headed(answer.rules, found),
                verification=replace(answer.verification, differences=found),
            )
        if time.monotonic() > until:
            break
    return None


def _headed(rules: Rules, differences: Sequence[Difference]) -> Rules:
    """The rules with what the two do differently on top of the file."""
    version, _, rest = str(rules).partition("\n")
    told = [f"# near: {one}" for one in differences]
    return Rules.parse("\n".join([version, *map(printable, told), rest]))


def _orders(plain: list[Cause], others: Iterable[Cause]) -> Iterator[list[Cause]]:
    """What stands in the operations themselves together; then each other cause besides; then two of them."""
    if plain:
        yield plain
    listed = list(others)
    for one in listed:
        yield [*plain, one]
    for pair in combinations(listed, 2):
        if pair[0].kind != pair[1].kind:
            yield [*plain, *pair]


def _needed(
    chosen: Sequence[Cause], answer: Remap, tried: Callable[[Sequence[Cause]], Remap | None]
) -> tuple[Sequence[Cause], Remap]:
    """Only those causes without which the two do not agree."""
    for one in chosen if len(chosen) > 1 else ():
        fewer = [other for other in chosen if other is not one]
        again = tried(fewer) if fewer else None
        if again is not None:
            chosen, answer = fewer, again
    return chosen, answer


def _difference(cause: Cause, traces: tuple[Sequence[Site], Sequence[Site]]) -> Difference:
    if cause.module:
        here: tuple[tuple[str, ...], tuple[str, ...]] = (cause.module,), ()
        here = here if cause.side == LEFT else here[::-1]
        return Difference(cause.kind, here, cause.left, cause.right, cause.evidence)
    own = cause.sites if cause.sites is not None else sites_of_kinds(traces[cause.side], cause.kinds)
    other = cause.others if cause.others is not None else sites_of_kinds(traces[1 - cause.side], cause.kinds)
    named = _places(own), () if ADD in cause.kinds else _places(other)
    return Difference(cause.kind, named if cause.side == LEFT else named[::-1], cause.left, cause.right, cause.evidence)


def _places(sites: Iterable[Site]) -> tuple[str, ...]:
    """The modules in which this is done, as patterns; for what they do themselves, what ran before and after."""
    listed = list(sites)
    modules = dict.fromkeys(one.module or "the model" for one in listed)
    if len({one.module for one in listed}) == 1 or not any(one.module.endswith(one.after) for one in listed):
        after = dict.fromkeys(one.after for one in listed if one.after and one.after not in modules)
    else:
        after = {}
    before = dict.fromkeys(one.before for one in listed if one.before and one.before not in modules)
    kind = listed[0].kind if listed else ""
    text = [f"{', '.join(_patterns(modules))}: {kind}"]
    if after:
        text.append(f"after {', '.join(_patterns(after))}")
    if before:
        text.append(f"before {', '.join(_patterns(before))}")
    return (" ".join(text),) if listed else ()


def _patterns(names: Iterable[str]) -> list[str]:
    listed = list(names)
    return [str(one) for one in group(listed, dict.fromkeys(listed, ""))]
