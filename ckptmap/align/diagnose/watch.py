"""The operations of a run that two models may do differently, noted with their place, and changed for an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from ckptmap.infer.probe_runs import Runner

NORM, ACTIVATION, ATTENTION, POOL = "norm", "activation", "softmax of attention", "pooling"
ADD, VIEW, MASK, MODULE = "sum", "view", "mask", "module"
LARGEST_EPS = 2e-3
HIDDEN = -1e3
"""Scores below this are masked."""


@dataclass
class Site:
    """One operation of a run.

    Attributes:
        kind: What it does.
        module: The module that it ran in.
        after: The module that ended last before it.
        before: The module that begins next after it.
        value: What may differ: an eps, the name of an activation, heads and width of a head, the way of pooling.
    """

    kind: str
    module: str
    after: str
    before: str = ""
    value: Any = None


@dataclass
class Operation:
    """A call of an operation: to be done as it is, or otherwise."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    site: Site

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do it, with other first arguments or keyword arguments where these are given."""
        return self.func(*(args or self.args), **{**self.kwargs, **kwargs})


Handler: TypeAlias = "Callable[[int, Operation], Any]"
"""Does the n-th operation of a kind in another way."""

Handlers: TypeAlias = "Mapping[str, Handler]"

EPS_POSITIONS = {"layer_norm": 4, "group_norm": 4, "rms_norm": 3, "batch_norm": 7}
"""Operations that normalise, and the position of their eps."""
_ACTIVATIONS = {"relu", "relu_", "relu6", "gelu", "silu", "silu_", "tanh", "tanh_", "mish", "elu", "leaky_relu"}
_ADDS = {"add", "__add__", "__radd__", "add_", "__iadd__"}


def site_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Kind and value of an operation that two models may do differently; None for all others."""
    name = getattr(func, "__name__", "")
    first: Any = args[0] if args else kwargs.get("input")
    if name in EPS_POSITIONS:
        at = EPS_POSITIONS[name]
        eps = args[at] if len(args) > at else kwargs.get("eps", 1e-5)
        return None if eps is None else (NORM, eps)
    if name in _ACTIVATIONS:
        tanh = name == "gelu" and (kwargs.get("approximate") == "tanh" or "tanh" in args[1:])
        return ACTIVATION, "gelu by tanh" if tanh else name.rstrip("_")
    if name == "scaled_dot_product_attention":
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        causal = bool(kwargs.get("is_causal") or (len(args) > 5 and args[5])) or _hides_later(mask)
        return ATTENTION, (first.shape[-3], first.shape[-1], causal)
    if not isinstance(first, torch.Tensor):
        return None
    if name == "softmax" and first.ndim == 4:
        return ATTENTION, (first.shape[1], None, _hides_later(first))
    if (
        name in ("masked_fill", "masked_fill_")
        and first.ndim > 2
        and args[1].dtype is torch.bool
        and _hides_later(~args[1])
    ):
        return MASK, "masked_fill"
    if name == "mean" and first.ndim == 3 and _dim(args, kwargs) in (1, -2):
        return POOL, "mean over tokens"
    if name == "__getitem__" and first.ndim == 3 and first.is_floating_point():
        return _picked(args[1])
    if name in _ADDS:
        return _added(first, args[1] if len(args) > 1 else kwargs.get("other"))
    if name in ("view", "reshape") and first.ndim == 3:
        sizes = sizes_of(args)
        return (VIEW, sizes[-2:]) if len(sizes) == 4 and sizes[-2] * sizes[-1] == first.shape[-1] else None
    return None


def _hides_later(scores: torch.Tensor | None) -> bool:
    """Whether the first token does not see the last, which sees the first."""
    if scores is None or scores.ndim < 2 or scores.shape[-1] < 2 or scores.shape[-2] < 2:
        return False
    if scores.dtype is not torch.bool and not scores.is_floating_point():
        return False
    hidden = ~scores if scores.dtype is torch.bool else scores < HIDDEN
    return bool(hidden[..., 0, -1].all() and not hidden[..., -1, 0].any())


def sizes_of(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape that a view asks for, -1 told."""
    sizes = tuple(args[1]) if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if not all(isinstance(one, int) for one in sizes):
        return ()
    if -1 in sizes:
        known = prod(one for one in sizes if one != -1)
        sizes = tuple(args[0].numel() // known if one == -1 else one for one in sizes)
    return sizes


def _dim(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return dim[0] if isinstance(dim, tuple | list) and len(dim) == 1 else dim


def _picked(index: Any) -> tuple[str, Any] | None:
    if isinstance(index, tuple) and len(index) >= 2 and index[0] == slice(None) and isinstance(index[1], int):
        rest = all(one == slice(None) for one in index[2:])
        return (POOL, "first token" if index[1] == 0 else "last token") if index[1] in (0, -1) and rest else None
    return None


def _added(first: torch.Tensor, other: Any) -> tuple[str, Any] | None:
    if isinstance(other, float):
        return (NORM, other) if 0 < other <= LARGEST_EPS else None
    if isinstance(other, torch.Tensor) and first.ndim == 4 and _hides_later(other):
        return MASK, "added"
    same = isinstance(other, torch.Tensor) and other.shape == first.shape and first.ndim == 3
    return (ADD, None) if same and first.is_floating_point() else None


class _Watch(TorchFunctionMode):
    def __init__(self, handlers: Handlers) -> None:
        super().__init__()
        self.sites: list[Site] = []
        self.stack: list[str] = [""]
        self.last = ""
        self._handlers = handlers
        self._counts: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        seen = site_of(func, args, kwargs)
        if seen is None:
            return func(*args, **kwargs)
        site = Site(seen[0], self.stack[-1], self.last, value=seen[1])
        self.sites.append(site)
        number = self._counts.get(site.kind, 0)
        self._counts[site.kind] = number + 1
        handler = self._handlers.get(site.kind)
        operation = Operation(func, tuple(args), kwargs, site)
        return operation() if handler is None else handler(number, operation)

    def enter(self, name: str) -> None:
        for site in reversed(self.sites):
            if site.before:
                break
            site.before = name
        self.sites.append(Site(MODULE, name, self.last))
        self.stack.append(name)

    def leave(self, name: str) -> None:
        self.stack.pop()
        self.last = name


def changed(
    call: Runner,
    handlers: Callable[[], Handlers],
    prepare: Callable[[torch.nn.Module], Callable[[], None]] | None = None,
    sites: list[Site] | None = None,
) -> Runner:
    """A call under which some operations are done in another way.

    Args:
        call: How to run the model.
        handlers: Makes what is done in another way, anew for each run.
        prepare: Changes the model before a run, and gives what undoes it.
        sites: Gets the operations of the last run.
    """

    def run(module: torch.nn.Module) -> Any:
        watch = _Watch(handlers())
        with ExitStack() as stack:
            if prepare is not None:
                stack.callback(prepare(module))
            for name, part in module.named_modules():
                enter = part.register_forward_pre_hook(_entering(watch, name))
                leave = part.register_forward_hook(_leaving(watch, name), always_call=True)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
            stack.enter_context(watch)
            returned = call(module)
        if sites is not None:
            sites[:] = watch.sites
        return returned

    return run


def _entering(watch: _Watch, name: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        watch.enter(name)

    return hook


def _leaving(watch: _Watch, name: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        watch.leave(name)

    return hook


def sites_of(module: torch.nn.Module, call: Runner) -> list[Site]:
    """The operations of a run that other models may do differently; none if it fails."""
    from ckptmap.infer.running import copy_of

    found: list[Site] = []
    try:
        with torch.no_grad():
            changed(call, dict, sites=found)(copy_of(module).eval())
    except Exception:
        return []
    return found
