"""Tensors that no rule covers, in words: those that are alike in one sentence, with the rule that leaves them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckptmap.patterns import Pattern, group
from ckptmap.rules.plan import Sizes
from ckptmap.rules.rules import SIDES


def without_rule(side: int, shapes: Mapping[str, Sizes]) -> Iterator[str]:
    """What to do about tensors without a rule.

    Args:
        side: 0 for the left, 1 for the right.
        shapes: Their shapes by name.
    """
    for pattern in group(shapes, shapes):
        shape, rule = list(shapes[pattern.first]), left_out(side, pattern)
        many, them = ("s", "them") if len(pattern) > 1 else ("", "it")
        yield f"no rule covers {SIDES[side]} tensor{many} {pattern} {shape}. Add one, or leave {them} out: `{rule}`."


def left_out(side: int, names: Pattern | str) -> str:
    """The rule that leaves tensors of a side out."""
    name = names if isinstance(names, str) else _as_rule(names)
    return f"{name} <-> _" if side == 0 else f"_ <-> {name}"


def _as_rule(pattern: Pattern) -> str:
    """The names as rules write them: `{i}` for numbers that run, `{query,key}` for words."""
    indices = iter("ijln")
    words = []
    for choice in pattern.segments:
        if len(choice) == 1:
            words.append(choice[0])
        else:
            words.append(f"{{{next(indices, 'n')}}}" if choice[0].isdigit() else f"{{{','.join(choice)}}}")
    return ".".join(words)
