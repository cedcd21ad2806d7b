"""Checkpoints streamed into modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ckptmap.conversion.convert import load_into
from ckptmap.errors import ConvertError, PlanError
from ckptmap.rules.rules import Rules
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


def rules(text: str) -> Rules:
    return Rules.parse(text)


class Shared(nn.Module):
    """A head tied to the embedding, and a buffer that is the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("alias", self.embed.weight.data)


@pytest.mark.parametrize("name", ["embed.weight", "head.weight", "alias"])
def test_what_the_model_ties_needs_one_rule(name: str) -> None:
    model, value = Shared(), torch.randn(3, 2)
    assert load_into(model, {"w": value}, rules(f"w <-> {name}")) == ()
    assert torch.equal(model.embed.weight, value)
    assert torch.equal(model.alias, value)
    assert model.head.weight is model.embed.weight


def test_what_the_model_ties_may_have_a_rule_each() -> None:
    both, value = rules("w <-> embed.weight\nv <-> head.weight"), torch.randn(3, 2)
    model = Shared()
    assert load_into(model, {"w": value, "v": value.clone()}, both) == ()
    before = model.embed.weight.clone()
    with pytest.raises(ConvertError, match=r"is tied to .* in the model, and the rules make them differ"):
        load_into(model, {"w": value, "v": value + 1}, both)
    assert torch.equal(model.embed.weight, before)


def test_a_tied_tensor_without_any_rule_is_told_once() -> None:
    with pytest.raises(PlanError) as caught:
        load_into(Shared(), {"w": torch.zeros(3, 2)}, rules("w <-> _"))
    assert len(caught.value.problems) == 1


LATE_REFUSALS = {
    "padding that is not zero": ("z <-> b, 0 : [v + p] <-> v, p", {"z": torch.tensor([1.0, 2.0, 3.0])}, {"p": 1}),
    "repeats that differ": ("z <-> b : (*h d) <-> d", {"z": torch.tensor([1.0, 2.0, 3.0, 4.0])}, {"h": 2}),
    "two sources that differ": ("y, z <-> b, b", {"y": torch.zeros(2), "z": torch.ones(2)}, {}),
    "a broken tie": ("tie left z = y\nz <-> b", {"y": torch.zeros(2), "z": torch.ones(2)}, {}),
}


@pytest.mark.parametrize("case", LATE_REFUSALS)
def test_a_module_that_is_refused_is_as_it_was(case: str) -> None:
    text, more, sizes = LATE_REFUSALS[case]

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.full((2,), 7.0)), nn.Parameter(torch.full((2,), 7.0))

    model = Two()
    with pytest.raises(ConvertError):
        load_into(model, {"x": torch.zeros(2), **more}, rules(f"x <-> a\n{text}"), sizes=sizes)
    assert (model.a == 7).all()
    assert (model.b == 7).all()


@pytest.mark.parametrize("own", [torch.float32, torch.int64])
def test_values_the_model_s_dtype_cannot_hold(own: torch.dtype) -> None:
    model = nn.Module()
    model.register_buffer("b", torch.zeros(2, dtype=own))
    value = torch.full((2,), 1.5, dtype=torch.complex64 if own.is_floating_point else torch.float32)
    with pytest.raises(ConvertError, match="which cannot hold such values; change the model's dtype"):
        load_into(model, {"a": value}, rules("a <-> b"))
    assert not model.b.any()
