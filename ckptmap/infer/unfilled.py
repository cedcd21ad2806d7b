"""Models are built without the minutes that random numbers for millions of weights take: they get values of our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LARGE = 1 << 20
"""Parameters of so many elements keep what the memory holds that they were given."""


@contextmanager
def unfilled() -> Iterator[None]:
    """Within, large parameters are not filled at random."""
    import torch
    from torch.overrides import TorchFunctionMode

    drawing = {torch.Tensor.normal_, torch.Tensor.uniform_}

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in drawing and isinstance(args[0], torch.nn.Parameter) and args[0].numel() >= LARGE:
                return args[0]
            return func(*args, **(kwargs or {}))

    with Unfilled():
        yield
