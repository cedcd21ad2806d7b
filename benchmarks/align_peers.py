"""Matchers that know names and shapes only; each gives for target names the source name, or leaves them out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

Shapes = Mapping[str, tuple[int, ...]]


def by_suffix(left: Shapes, right: Shapes) -> dict[str, str]:
    """The longest common suffix wins.

    Source: detectron2, checkpoint/c2_model_loading.py, align_and_update_state_dicts.
    """
    found = {}
    for name, shape in right.items():
        candidates = [one for one in left if name == one or name.endswith(f".{one}") or one.endswith(f".{name}")]
        best = max(candidates, key=len, default=None)
        if best is not None and left[best] == shape:
            found[name] = best
    return found


def by_order(left: Shapes, right: Shapes) -> dict[str, str]:
    """The n-th tensor of a shape is the n-th of that shape: what many conversion scripts do."""
    waiting: dict[tuple[int, ...], list[str]] = {}
    for name, shape in left.items():
        waiting.setdefault(shape, []).append(name)
    return {name: waiting[shape].pop(0) for name, shape in right.items() if waiting.get(shape)}


def weightbridge(left: Shapes, right: Shapes) -> dict[str, str]:
    """weightbridge 0.0.4: propagation of constraints in the trees of names; it raises rather than guess."""
    import numpy
    from weightbridge import adapt

    names = list(left)
    ours = {name: numpy.full(shape, number, dtype=numpy.int64) for number, (name, shape) in enumerate(left.items())}
    theirs = {name: numpy.full(shape, -1, dtype=numpy.int64) for name, shape in right.items()}
    try:
        made = adapt(ours, theirs, ignore_unmatched_inputs=True, ignore_unmatched_outputs=True)
    except Exception:  # its own errors are bare exceptions of several kinds
        return {}
    firsts = {name: int(array.reshape(-1)[0]) for name, array in made.items() if array.size}
    return {name: names[first] for name, first in firsts.items() if first >= 0}


def lit_wsl(left: Shapes, right: Shapes) -> dict[str, str]:
    """lit-wsl 0.3.3: equal shapes, then scores of names and places, without a threshold as is its default."""
    import torch
    from lit_wsl.mapper.weight_mapper import WeightMapper

    ours, theirs = ({name: torch.zeros(shape) for name, shape in side.items()} for side in (left, right))
    mapping = WeightMapper(source_params=ours, target_params=theirs).suggest_mapping().get_mapping()
    return {target: source for source, target in mapping.items()}


PEERS: dict[str, tuple[str, Callable[[Shapes, Shapes], dict[str, str]]]] = {
    "longest common suffix (detectron2)": ("", by_suffix),
    "order among equal shapes": ("", by_order),
    "weightbridge 0.0.4": ("weightbridge", weightbridge),
    "lit-wsl 0.3.3": ("lit_wsl.mapper.weight_mapper", lit_wsl),
}
"""By title: the package that is needed, if one is, and the matcher."""


def missing(peer: str) -> bool:
    """Whether the peer's package, or one that it needs, is not installed."""
    try:
        importlib.import_module(PEERS[peer][0] or __name__)
    except ImportError:
        return True
    return False
