"""Rotary positions as transformers writes them: the first half of a head is turned against the second."""

from __future__ import annotations

import torch


def rotate_halves(x: torch.Tensor, theta: float = 10000.0) -> torch.Tensor:
    """Turn `batch head position dim` by its positions."""
    length, width = x.shape[-2:]
    frequencies = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2).to(x)
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat((-second, first), -1) * angles.sin()
