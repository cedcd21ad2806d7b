"""Further inputs made of the given ones: other contents, another length or size, the same for both models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from ckptmap.infer.inputs import outputs

if TYPE_CHECKING:
    from ckptmap.infer.probe_runs import Runner

Change: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
Calls: TypeAlias = "tuple[Runner, Runner]"
Modules: TypeAlias = "tuple[torch.nn.Module, torch.nn.Module]"

FEW = 3
"""Tensors of fewer values are masks or segments, and stay as they are."""

IMAGE = 4
"""Dims of a batch of images."""


@dataclass(frozen=True)
class Variation:
    """One input, as calls of both models.

    Attributes:
        what: What differs from the given input, for people; empty for that itself.
        calls: How to run the left and the right on it.
    """

    what: str
    calls: Calls


def variations(modules: Modules, calls: Calls) -> list[Variation]:
    """The given input; the same with other contents; and with another length or size, where both models take one."""
    found = [Variation("", calls)]
    seen = [_arguments(module, call) for module, call in zip(modules, calls, strict=True)]
    if not all(seen):
        return found
    content = _other_contents(seen[0], seen[1])
    if content is not None:
        made = _changed(calls, content)
        if _run(modules, made):
            found.append(Variation("other contents", made))
    for what, change in _other_sizes(seen[0], seen[1]):
        made = _changed(found[-1].calls, change)
        if _run(modules, made):
            found.append(Variation(what, made))
            break
    return found


def of_one_image(calls: Calls) -> Calls:
    """The calls with the first of several images, which says as much as all and takes less time."""
    return _changed(calls, lambda tensor: tensor[:1] if tensor.ndim == IMAGE else tensor)


def _changed(calls: Calls, change: Change) -> Calls:
    left, right = (_with(call, change) for call in calls)
    return left, right


def _with(call: Runner, change: Change) -> Runner:
    """The call with every tensor that the model is given changed."""

    def hook(_module: Any, args: Any, kwargs: Any) -> Any:
        return _mapped(args, change), _mapped(kwargs, change)

    def run(module: torch.nn.Module) -> Any:
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            return call(module)
        finally:
            handle.remove()

    return run


def _mapped(value: Any, change: Change) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(one, change) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(one, change) for one in value)
    return value


def _arguments(module: torch.nn.Module, call: Runner) -> list[torch.Tensor]:
    """The tensors that the model gets when it is called; none if it is not called as a whole, or fails."""
    seen: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor

    return seen if _runs(module, _with(call, note)) else []


def _run(modules: Modules, calls: Calls) -> bool:
    return all(_runs(module, call) for module, call in zip(modules, calls, strict=True))


def _runs(module: torch.nn.Module, call: Runner) -> bool:
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return bool(outputs(call(module)))
    except Exception:
        return False
    finally:
        module.train(training)


# ------------------------------------------------------------------ contents


def _other_contents(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> Change | None:
    """A change of values that does not depend on where they stand: ids by a permutation, numbers by a curve."""
    ids = [_ids(side) for side in (left, right)]
    if ids[0] != ids[1]:
        return None
    if not ids[0] and not any(_is_content(one) for one in (*left, *right)):
        return None
    low, high = (min(ids[0]), max(ids[0]) + 1) if ids[0] else (0, 1)
    count = high - low
    step = next(one for one in range(count // 2 + 1, 2 * count + 2) if gcd(one, count) == 1)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if not _is_content(tensor):
            return tensor
        if tensor.is_floating_point():
            return 0.6 * tensor + 0.5 * torch.sin(2 * tensor + 1)
        return low + ((tensor - low) * step + 1) % count if _values(tensor) <= ids[0] else tensor

    return change


def _values(tensor: torch.Tensor) -> set[Any]:
    return set(tensor.reshape(-1).tolist())


def _ids(tensors: Sequence[torch.Tensor]) -> set[int]:
    found: set[int] = set()
    for one in tensors:
        if not one.is_floating_point() and _is_content(one):
            found |= _values(one)
    return found


def _is_content(tensor: torch.Tensor) -> bool:
    """Whether this is neither a mask, nor segments, nor positions."""
    if tensor.is_complex() or tensor.dtype is torch.bool or len(_values(tensor)) < FEW:
        return False
    if tensor.is_floating_point():
        return bool(torch.isfinite(tensor).all())
    flat = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)
    return not bool((flat.diff(dim=-1) == 1).all())


# ------------------------------------------------------------------ sizes


def _other_sizes(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> Iterator[tuple[str, Change]]:
    """Changes that make an axis shorter on both sides, the axis of time first."""
    sizes = [{size for one in side for size in one.shape[1:] or one.shape if size > FEW} for side in (left, right)]
    firsts = [{one.shape[0] for one in side if one.ndim > 1} for side in (left, right)]
    both = sorted((sizes[0] & (sizes[1] | firsts[1])) | (sizes[1] & firsts[0]))
    for size in both:
        for fewer in dict.fromkeys((2 * size // 3, size // 2)):
            if fewer > 1:
                yield f"{fewer} in place of {size}", _shortened(size, fewer)


def _shortened(size: int, fewer: int) -> Change:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        for axis, length in enumerate(tensor.shape):
            if length == size:
                tensor = tensor.narrow(axis, 0, fewer)
        return tensor

    return change
