"""What may part two models, as data: how one side is changed so that both agree if that is the cause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from ckptmap.align.diagnose.cause import (
    LEFT,
    RIGHT,
    SIDES,
    Cause,
    Models,
    Traces,
    in_layer,
    single,
    sites_of_kinds,
)
from ckptmap.align.diagnose.structure import depths, left_out, rows_left_out
from ckptmap.align.diagnose.watch import (
    ACTIVATION,
    ADD,
    ATTENTION,
    EPS_POSITIONS,
    MASK,
    MODULE,
    NORM,
    POOL,
    VIEW,
    Handlers,
    Operation,
    Site,
    changed,
    sizes_of,
)

if TYPE_CHECKING:
    from ckptmap.infer.probe_runs import Runner


def plain_causes(traces: Traces) -> Iterator[Cause]:
    """Differences that stand in the operations themselves: an eps, an activation. They are tried together."""
    for kind, name in ((NORM, "eps"), (ACTIVATION, "activation")):
        left, right = (sites_of_kinds(side, (kind,)) for side in traces)
        wanted = _wanted([one.value for one in left], [one.value for one in right])
        other = [n for n, (one, want) in enumerate(zip(right, wanted, strict=True)) if one.value != want]
        if not other:
            continue
        theirs = ", ".join(dict.fromkeys(str(right[n].value) for n in other))
        ours = ", ".join(dict.fromkeys(str(wanted[n]) for n in other))
        change = partial(_with_eps if kind == NORM else _with_activation, wanted)
        what = "norm eps" if kind == NORM else name
        said = f"{what} {ours}", f"{what} {theirs}"
        yield Cause(
            name,
            said[LEFT],
            said[RIGHT],
            f"with {said[0]} on the right the two agree",
            kinds=(kind,),
            handlers=partial(single, kind, change),
            sites=tuple(right[n] for n in other),
            others=tuple(left[n] for n in other) if len(left) == len(right) else None,
        )


def causes(models: Models, traces: Traces) -> Iterator[Cause]:
    """All others: first those of which the operations that were run give a sign, then those that no operation shows."""
    yield from _pools(traces)
    yield from _heads(traces)
    yield from _masks(traces)
    yield from depths(models)
    yield from _norm_orders(traces)
    yield from _residuals(traces)
    yield from left_out(models, traces)
    yield from rows_left_out(models)
    yield from _scales(traces)


def _wanted(left: list[Any], right: list[Any]) -> list[Any]:
    """What the right's operations would have to be to be as the left's."""
    if len(left) == len(right):
        return left
    if len(set(left)) == 1:
        return left[:1] * len(right)
    return right


# ------------------------------------------------------------------ eps and activations


def _with_eps(wanted: list[float], number: int, operation: Operation) -> Any:
    eps = wanted[number % len(wanted)]
    name, args = operation.func.__name__, list(operation.args)
    at = EPS_POSITIONS.get(name, 1)
    if len(args) > at:
        args[at] = eps
        return operation(*args)
    return operation(**{"eps" if at > 1 else "other": eps})


def _with_activation(wanted: list[str], number: int, operation: Operation) -> Any:
    name, given = wanted[number % len(wanted)], operation.args[0]
    if name == operation.site.value:
        return operation()
    if name.startswith("gelu"):
        return torch.nn.functional.gelu(given, approximate="tanh" if "tanh" in name else "none")
    return torch.tanh(given) if name == "tanh" else getattr(torch.nn.functional, name)(given)


# ------------------------------------------------------------------ pooling


def _pools(traces: Traces) -> Iterator[Cause]:
    found = [sites_of_kinds(side, (POOL,)) for side in traces]
    if not all(found):
        return
    ours, theirs = found[0][-1], found[1][-1]
    if ours.value != theirs.value:
        at = len(found[1]) - 1
        yield Cause(
            "pooling",
            f"the {ours.value}",
            f"the {theirs.value}",
            f"with the {ours.value} on the right the two agree",
            kinds=(POOL,),
            handlers=partial(single, POOL, partial(_pooled, at, ours.value)),
            sites=(theirs,),
            others=(ours,),
        )


def _pooled(at: int, how: str, number: int, operation: Operation) -> Any:
    if number != at:
        return operation()
    given = operation.args[0]
    return given.mean(1) if "mean" in how else given[:, 0 if "first" in how else -1]


# ------------------------------------------------------------------ attention


def _attention(traces: Traces) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
    left, right = (sites_of_kinds(side, (ATTENTION,)) for side in traces)
    return left, right


def _width_of_heads(sites: Sequence[Site], trace: Sequence[Site]) -> int | None:
    known = [one.value[1] for one in sites if one.value[1]]
    views = [one.value[1] for one in trace if one.kind == VIEW and sites and one.value[0] == sites[0].value[0]]
    return next(iter([*known, *views]), None)


def _scales(traces: Traces) -> Iterator[Cause]:
    left, right = _attention(traces)
    width = _width_of_heads(left, traces[0]) or _width_of_heads(right, traces[1])
    if not right or not width or {one.value[0] for one in left} != {one.value[0] for one in right}:
        return
    factors = {
        f"1/√{width}": width**-0.5,
        f"√{width}": width**0.5,
        f"1/{width}": 1 / width,
    }
    for text, factor in factors.items():
        yield Cause(
            "attention scale",
            f"attention scores times {text} as against the right",
            "attention scores with another scale",
            f"with scores multiplied by {factor:.4g} = {text} on the right the two agree: the scale factor differs",
            kinds=(ATTENTION,),
            handlers=partial(single, ATTENTION, partial(_scaled, factor)),
        )


def _scaled(factor: float, _number: int, operation: Operation) -> Any:
    query, *rest = operation.args
    return operation(query * factor, *rest)


def _masks(traces: Traces) -> Iterator[Cause]:
    left, right = _attention(traces)
    hides = [any(one.value[2] for one in sites) for sites in (left, right)]
    if not left or not right or hides[0] == hides[1]:
        return
    side = RIGHT if hides[RIGHT] else LEFT
    said = [("no causal mask", "a causal mask")[one] for one in hides]
    # Without the mask every token is seen, which tells more than with it.
    for at, change, how in (
        (side, _unmasked, "without the"),
        (1 - side, partial(single, ATTENTION, _masked), "with a"),
    ):
        yield Cause(
            "causal mask",
            said[LEFT],
            said[RIGHT],
            f"{how} causal mask on the {SIDES[at]} the two agree",
            at,
            (ATTENTION,),
            change,
        )


def _unmasked() -> Handlers:
    def attention(_number: int, operation: Operation) -> Any:
        if operation.func.__name__ != "scaled_dot_product_attention" or not operation.site.value[2]:
            return operation()
        return operation(*operation.args[:3], attn_mask=None, is_causal=False)

    def mask(_number: int, operation: Operation) -> Any:
        return operation.args[0]

    return {ATTENTION: attention, MASK: mask}


def _masked(_number: int, operation: Operation) -> Any:
    args = operation.args
    if operation.func.__name__ != "scaled_dot_product_attention":
        scores = args[0]
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return operation(scores.masked_fill(later, -1e9), *args[1:])
    given = dict(operation.kwargs)
    mask = args[3] if len(args) > 3 else given.get("attn_mask")
    later = torch.ones(args[0].shape[-2], args[1].shape[-2], dtype=torch.bool).triu(1)
    causal = torch.zeros(later.shape, dtype=args[0].dtype).masked_fill(later, float("-inf"))
    if mask is not None:
        added = torch.zeros(mask.shape, dtype=causal.dtype).masked_fill(~mask, float("-inf"))
        causal = causal + (added if mask.dtype is torch.bool else mask)
    return operation(*args[:3], attn_mask=causal, is_causal=False)


def _heads(traces: Traces) -> Iterator[Cause]:
    left, right = _attention(traces)
    if not left or not right or left[0].value[0] == right[0].value[0]:
        return
    heads, theirs = left[0].value[0], right[0].value[0]
    for factor in (1.0, (heads / theirs) ** 0.5):
        yield Cause(
            "heads",
            f"{heads} attention heads",
            f"{theirs} attention heads",
            f"with {heads} heads on the right the two agree",
            kinds=(ATTENTION,),
            handlers=partial(_other_heads, theirs, heads, factor),
        )


def _other_heads(now: int, wanted: int, factor: float) -> Handlers:
    def viewed(_number: int, operation: Operation) -> Any:
        sizes = sizes_of(operation.args)
        if sizes[-2] != now:
            return operation()
        return operation(operation.args[0], *sizes[:-2], wanted, sizes[-1] * now // wanted)

    # Where the scale is written beside the softmax, it is of the width of the heads that there were.
    return {VIEW: viewed, ATTENTION: partial(_scaled, factor)}


# ------------------------------------------------------------------ residuals


def _residuals(traces: Traces) -> Iterator[Cause]:
    """The side with more sums in its layers drops one in each layer."""
    sums = [[one for one in sites_of_kinds(side, (ADD,)) if in_layer(one.module)] for side in traces]
    if not all(sums) or len(sums[0]) == len(sums[1]):
        return
    side = int(len(sums[1]) > len(sums[0]))
    layers = abs(len(sums[1]) - len(sums[0]))
    if len(sums[side]) % layers:
        return
    period = len(sums[side]) // layers
    numbers = [n for n, one in enumerate(sites_of_kinds(traces[side], (ADD,))) if in_layer(one.module)]
    says = "residual added", "no residual added (a skip connection is missing)"
    for offset in reversed(range(period)):
        dropped = frozenset(numbers[offset::period])
        for kept in (0, 1):
            yield Cause(
                "residual",
                says[side],
                says[1 - side],
                f"without the residual on the {SIDES[side]} the two agree",
                side,
                (ADD,),
                partial(single, ADD, partial(_dropped, dropped, kept)),
                sites=tuple(sums[side][offset::period]),
            )


def _dropped(dropped: frozenset[int], kept: int, number: int, operation: Operation) -> Any:
    return operation.args[kept] if number in dropped else operation()


# ------------------------------------------------------------------ norms before or after


def _norm_orders(traces: Traces) -> Iterator[Cause]:
    order = "the norm before its sublayer (pre-norm)", "the norm after the residual is added (post-norm)"
    behind = [_are_behind_sums(trace) for trace in traces]
    if behind[LEFT] == behind[RIGHT]:
        return
    side = LEFT if behind[RIGHT] else RIGHT
    said = [order[one] for one in behind]
    yield Cause(
        "norm order",
        said[LEFT],
        said[RIGHT],
        f"with each norm of the {SIDES[side]} moved behind the next residual the two agree",
        side,
        (NORM,),
        _norms_moved,
        sites=tuple(one for one in sites_of_kinds(traces[side], (NORM,)) if in_layer(one.module or one.after)),
    )


def _are_behind_sums(trace: Sequence[Site]) -> bool:
    """Whether the second norm of the first layer and those behind it stand right behind a sum."""
    found = [
        before.kind == ADD
        for before, one in pairwise([one for one in trace if one.kind != MODULE])
        if one.kind == NORM and in_layer(one.module)
    ]
    return bool(found) and found[0] and 2 * sum(found) > len(found)


def _norms_moved() -> Handlers:
    waiting: list[Operation] = []

    def norm(_number: int, operation: Operation) -> Any:
        if not in_layer(operation.site.module) or operation.args[0].ndim != 3:
            return operation()
        waiting.append(operation)
        return operation.args[0]

    def add(_number: int, operation: Operation) -> Any:
        total = operation()
        if not waiting:
            return total
        held = waiting.pop(0)
        return held(total, *held.args[1:])

    return {NORM: norm, ADD: add}


def calls_with(causes: Sequence[Cause], calls: tuple[Runner, Runner]) -> tuple[Runner, Runner]:
    """Both calls with these experiments made."""
    made = list(calls)
    for one in causes:
        made[one.side] = changed(made[one.side], one.handlers, one.prepare)
    return made[0], made[1]
