"""A cause as data: how one side is changed so that both agree if that is what they do differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ckptmap.align.diagnose.watch import Handlers, Site

LEFT, RIGHT = 0, 1
SIDES = "left", "right"
Models: TypeAlias = "tuple[torch.nn.Module, torch.nn.Module]"
Traces: TypeAlias = "tuple[Sequence[Site], Sequence[Site]]"
Prepare: TypeAlias = "Callable[[torch.nn.Module], Callable[[], None]]"


@dataclass(frozen=True)
class Cause:
    """One way in which two models may differ, and the experiment that shows it.

    Attributes:
        kind: Its name in JSON.
        left: What the left does.
        right: What the right does.
        evidence: What was tried, and made the two agree.
        side: The side that is changed for the experiment.
        kinds: The operations whose places are named.
        handlers: Makes what is done in another way.
        prepare: Changes the model before a run.
        sites: The operations that it is about on the changed side; all of its kinds if it is None.
        others: The same of the other side.
        module: A module of the changed side that it is about, in place of operations.
    """

    kind: str
    left: str
    right: str
    evidence: str
    side: int = RIGHT
    kinds: tuple[str, ...] = ()
    handlers: Callable[[], Handlers] = dict
    prepare: Prepare | None = None
    sites: tuple[Site, ...] | None = None
    others: tuple[Site, ...] | None = None
    module: str = ""


def single(kind: str, handler: Any) -> Handlers:
    """One kind of operation done in another way."""
    return {kind: handler}


def sites_of_kinds(trace: Sequence[Site], kinds: Sequence[str]) -> tuple[Site, ...]:
    """The operations of these kinds in a run."""
    return tuple(one for one in trace if one.kind in kinds)


def in_layer(name: str) -> bool:
    """Whether a module is one of many, or inside of one."""
    return any(segment.isdigit() for segment in name.split("."))
