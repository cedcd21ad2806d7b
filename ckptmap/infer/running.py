"""How models are run for probing: wholly in float64, differentiable throughout, again and again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def copy_of(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy that shares nothing; caches that a run leaves in the copy are not seen by the next one."""
    import torch

    # Tensors with a history, as `torch.nn.utils.weight_norm` leaves them beside its parameters, refuse to be copied.
    copies: dict[int, Any] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    made = copy.deepcopy(module, copies)
    for part in made.modules():
        for name, value in vars(part).items():
            if isinstance(value, FunctionType) and value.__closure__:
                vars(part)[name] = _rebound(value, copies)
    return made


def _rebound(function: FunctionType, copies: Mapping[int, Any]) -> FunctionType:
    """A function that a module keeps for itself, with copies in place of the modules that it was made around."""
    cells = tuple(
        CellType(copies.get(id(cell.cell_contents), cell.cell_contents)) for cell in function.__closure__ or ()
    )
    again = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    again.__kwdefaults__ = function.__kwdefaults__
    return again


@contextmanager
def double_precision(lookups: list[tuple[int, torch.Tensor]], *, smooth: bool = False) -> Iterator[None]:
    """Models that ask for float32 in between get float64: no run breaks on mixed types, and no digits are lost.

    Args:
        lookups: Gets the id of every table that rows are looked up in, and the rows.
        smooth: Whether rectifiers let a little of everything through: no unit of a hidden layer is switched off.
    """
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    hook = register_module_forward_pre_hook(_widened_inputs)
    try:
        with _mode(lookups, smooth):
            yield
    finally:
        hook.remove()
        torch.set_default_dtype(before)


def _widened_inputs(_module: Any, inputs: tuple[Any, ...]) -> Any:
    return tuple(_widened(value) for value in inputs)


def _widened(value: Any) -> Any:
    """A narrower floating tensor or dtype as float64, a narrower complex one as complex128; else the value itself."""
    import torch

    wider = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
    wider[torch.complex64] = torch.complex128
    if isinstance(value, torch.Tensor):
        return value.to(wider[value.dtype]) if value.dtype in wider else value
    if isinstance(value, torch.dtype):
        return wider.get(value, value)
    if type(value) in (list, tuple):
        return type(value)(_widened(one) for one in value)
    return value


def _mode(lookups: list[tuple[int, torch.Tensor]], smooth: bool) -> Any:
    """A function mode under which every operation that would see or make a narrower type sees or makes float64."""
    import torch
    from torch.overrides import TorchFunctionMode

    in_place = {torch.relu_, torch.Tensor.relu_}
    rectifiers = {*in_place, torch.relu, torch.Tensor.relu, torch.nn.functional.relu, torch.nn.functional.relu6}
    narrowing = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}

    class Double(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in narrowing:
                return args[0].double()
            if getattr(func, "__name__", "") in {"__get__", "__set__"}:
                return func(*args, **(kwargs or {}))
            if func is torch.nn.functional.embedding:
                lookups.append((id(args[1]), args[0]))
            if smooth and func in rectifiers:
                return _softened(args[0], in_place=func in in_place or bool((kwargs or {}).get("inplace")))
            args = _widened(tuple(args))
            kwargs = {name: _widened(value) for name, value in (kwargs or {}).items()}
            return func(*args, **kwargs)

    return Double()


def _softened(value: torch.Tensor, *, in_place: bool) -> torch.Tensor:
    """A rectifier with a slope everywhere."""
    given = value.double().clone() if in_place else value.double()
    soft = 0.55 * given + 0.45 * (given.square() + 0.1).sqrt()
    return value.copy_(soft) if in_place else soft


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Fused kernels give way to plain ones, which know float64."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def differentiable() -> Iterator[None]:
    """Forwards that switch gradients off inside are differentiable too; fused kernels give way to plain ones."""
    import torch

    switches = (torch.no_grad, torch.inference_mode)
    kept = [(switch, switch.__enter__, switch.__exit__) for switch in switches]
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(plain_kernels())
        for switch in switches:
            switch.__enter__ = lambda self: None  # type: ignore[method-assign]
            switch.__exit__ = lambda self, *reason: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            for switch, enter, leave in kept:
                switch.__enter__, switch.__exit__ = enter, leave  # type: ignore[method-assign]


@contextmanager
def one_thread() -> Iterator[None]:
    """Small models run as fast on one thread, and do not wait for threads that other programs keep busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
