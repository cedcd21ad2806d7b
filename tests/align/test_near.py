"""Ports that deviate in one thing or two: their rules, where they part and why, and never called proven."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import ckptmap
from ckptmap.report.remap import remap_verdict

WIDTH, HEADS = 16, 2


class Layer(nn.Module):
    """A layer of a small transformer; `how` says what it does otherwise."""

    def __init__(self, names: tuple[str, ...], how: frozenset[str]) -> None:
        super().__init__()
        self.how, self.names = how, names
        for name in names[:4]:
            self.add_module(name, nn.Linear(WIDTH, WIDTH))
        self.add_module(names[4], nn.Linear(WIDTH, 24))
        self.add_module(names[5], nn.Linear(24, WIDTH))
        for name in names[6:]:
            self.add_module(name, nn.LayerNorm(WIDTH, eps=1e-2 if "eps" in how else 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value, out, up, down, first, second = (getattr(self, name) for name in self.names)
        b, t, _ = x.shape
        heads = 4 if "heads" in self.how else HEADS
        y = first(x)
        q, k, v = (one(y).view(b, t, heads, WIDTH // heads).transpose(1, 2) for one in (query, key, value))
        scale = 1.0 if "scale" in self.how else None
        y = functional.scaled_dot_product_attention(q, k, v, scale=scale, is_causal="causal" in self.how)
        x = x + out(y.transpose(1, 2).reshape(b, t, WIDTH))
        y = up(second(x))
        y = down(functional.silu(y) if "silu" in self.how else functional.gelu(y))
        return y if "residual" in self.how else x + y


class Model(nn.Module):
    """Ids in, the last token's scores out."""

    def __init__(self, names: tuple[str, ...], how: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.how = how
        self.words, self.places = nn.Embedding(40, WIDTH), nn.Parameter(torch.randn(12, WIDTH))
        self.layers = nn.ModuleList(Layer(names, how) for _ in range(1 if "fewer" in how else 2))
        self.final, self.head = nn.LayerNorm(WIDTH, eps=1e-2 if "eps" in how else 1e-6), nn.Linear(WIDTH, 5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.words(input_ids) + self.places[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        x = self.final(x)
        return self.head(x.mean(1) if "mean" in self.how else x[:, -1])


OURS = ("query", "key", "value", "out", "up", "down", "first", "second")
THEIRS = ("b", "c", "d", "e", "f", "g", "h", "i")


def near(*how: str) -> Any:
    torch.manual_seed(0)
    left, right = Model(OURS).eval(), Model(THEIRS, frozenset(how)).eval()
    ids = {"input_ids": torch.tensor([[3, 9, 4, 17, 21, 8, 30]])}
    found = ckptmap.remap(left, right, inputs=(ids, ids))
    assert found.verification is not None
    assert found.verification.outcome == "near", remap_verdict(found)
    assert not found.verification.passed
    assert f"# near: {found.differences[0].kind}" in str(found.rules)
    made = ckptmap.convert(found.rules, left.state_dict(), partial=True)
    for there, tensor in left.state_dict().items():
        name = there
        for ours, theirs in zip(OURS, THEIRS, strict=True):
            name = name.replace(f".{ours}.", f".{theirs}.")
        if name in made:
            assert torch.equal(made[name], tensor), name
        else:
            assert "fewer" in how and ".1." in name, name
    return found


@pytest.mark.parametrize(
    ("how", "kind", "place"),
    [
        ("eps", "eps", "final"),
        ("silu", "activation", "layers"),
        ("causal", "causal mask", "layers"),
        ("heads", "heads", "layers"),
        ("residual", "residual", "layers"),
        ("mean", "pooling", "head"),
        ("fewer", "layers", "layers"),
    ],
)
def test_a_port_that_deviates_gets_its_rules_the_place_and_the_cause(how: str, kind: str, place: str) -> None:
    found = near(how)
    assert [one.kind for one in found.differences] == [kind]
    (one,) = found.differences
    assert any(place in text for side in one.places for text in side)
    assert "agree" in one.evidence
    assert remap_verdict(found).startswith("near: ")


def test_two_deviations_at_once_are_both_told() -> None:
    assert {one.kind for one in near("eps", "silu").differences} == {"eps", "activation"}
