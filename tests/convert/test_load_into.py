"""Checkpoints streamed into modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ckptmap.conversion.convert import load_into
from ckptmap.errors import ConvertError, PlanError
from tests.convert.plans import equation, fused, fused_state, plan, rename, rows, save, whole


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qk = nn.Parameter(torch.zeros(6, 3))
        self.b = nn.Parameter(torch.zeros(5, 3))
        self.register_buffer("m", torch.zeros(7))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3, bias=False), nn.Linear(2, 3, bias=False)
        self.two.weight = self.one.weight


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("stored", [True, False])
def test_into_a_module(tmp_path: Path, device: str, stored: bool) -> None:
    with torch.device(device):
        model = Model()
    state = fused_state()
    source = save(tmp_path / "a.safetensors", state) if stored else state
    assert load_into(model, source, fused()) == ()
    assert torch.equal(model.qk, torch.cat([state["q"], state["k"]]))
    assert torch.equal(model.b, state["a"].T)
    assert torch.equal(model.m, state["n"])
    assert isinstance(model.qk, nn.Parameter)
    assert model.qk.requires_grad


def test_the_module_s_dtype_stays() -> None:
    model = Model().bfloat16()
    load_into(model, fused_state(), fused())
    assert model.qk.dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("ties", [(), (("two.weight", "one.weight"),)])
def test_tied_parameters_stay_tied(device: str, ties: tuple[tuple[str, str], ...]) -> None:
    with torch.device(device):
        model = Tied()
    value = torch.randn(3, 2)
    assert load_into(model, {"w": value}, plan(rename("w", "one.weight", 3, 2), right_ties=ties)) == ()
    assert model.one.weight is model.two.weight
    assert torch.equal(model.one.weight, value)


def test_tied_parameters_that_rules_would_part() -> None:
    both = plan(rename("a", "one.weight", 3, 2), rename("b", "two.weight", 3, 2))
    load_into(Tied(), {"a": torch.ones(3, 2), "b": torch.ones(3, 2)}, both)
    with pytest.raises(ConvertError, match=r"two.weight: is tied to one.weight in the model, and the rules make them"):
        load_into(Tied(), {"a": torch.ones(3, 2), "b": torch.zeros(3, 2)}, both)


def test_what_has_no_source_keeps_its_values() -> None:
    model = Model()
    nn.init.constant_(model.qk, 3.0)
    nn.init.constant_(model.b, 4.0)
    parts = plan(
        equation(
            ["q"],
            ["qk"],
            (whole("q", 4, 3), rows("qk", 0, 4, 6, 3), (4, 3)),
            ("none", rows("qk", 4, 2, 6, 3), (2, 3)),
        ),
        equation([], ["b"], ("none", whole("b", 5, 3), (5, 3))),
        rename("n", "m", 7),
    )
    state = fused_state()
    assert load_into(model, {"q": state["q"], "n": state["n"]}, parts) == ("b",)
    assert torch.equal(model.qk[:4], state["q"])
    assert (model.qk[4:] == 3).all()
    assert (model.b == 4).all()
    with torch.device("meta"):
        empty = Model()
    with pytest.raises(ConvertError, match=r"qk: a part of it, \[0:4:2\], has no source"):
        load_into(empty, {"q": state["q"], "n": state["n"]}, parts)


def test_strict() -> None:
    with pytest.raises(PlanError, match="b: no rule covers it"):
        load_into(Model(), {"n": torch.zeros(7)}, plan(rename("n", "m", 7)))
    with pytest.raises(PlanError, match=r"m: would be \[8\], and the model has \[7\]"):
        load_into(Model(), {"n": torch.zeros(8)}, plan(rename("n", "m", 8)))
    with pytest.raises(PlanError, match="x: the model has no such parameter or buffer"):
        load_into(Model(), {"n": torch.zeros(7)}, plan(rename("n", "x", 7)))
