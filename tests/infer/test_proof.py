"""`proven` means proven: both whole models, every element at a value of its own, all outputs against outputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import ckptmap
from ckptmap.errors import ArchitectureError

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


class Plain(nn.Module):
    """One layer of attention over a table of tokens and one of positions, a norm, and a head on the first token."""

    def __init__(self, rows: int = 12, positions: int = 9, eps: float = 1e-5, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.table, self.places = nn.Embedding(rows, 8), nn.Embedding(positions, 8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(8, eps=eps), nn.Linear(8, 3)

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return q @ k.mT / math.sqrt(q.shape[-1])

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (one(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        return self.o((self.scores(q, k).softmax(-1) @ v).transpose(1, 2).flatten(-2))

    def body(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) + self.places(torch.arange(ids.shape[1]))
        return self.norm(x + self.mixed(x))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(ids)[:, 0])


class Unscaled(Plain):
    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return q @ k.mT


class Causal(Plain):
    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return super().scores(q, k).masked_fill(torch.ones(q.shape[-2], q.shape[-2]).triu(1).bool(), -1e9)


class Softmaxed(Plain):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids).softmax(-1)


class Scaled(Plain):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * 2


class Capped(Plain):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return 30 * torch.tanh(super().forward(ids) / 30)


class Mean(Plain):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(ids).mean(1))


class Backwards(Plain):
    """Positions count from the end: for one length, the rows of the table turned round."""

    def body(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) + self.places(torch.arange(ids.shape[1]).flip(0))
        return self.norm(x + self.mixed(x))


class Tied(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 12, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(ids))


class Untied(Tied):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 12, bias=False)


class ExtraBias(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) + self.shift


SAME_NAMES = "ckptmap 1\n{n:table|places|q|k|v|o|norm|head}.* <-> {n}.*\n"

DEVIATING: dict[str, Callable[[], nn.Module]] = {
    "scores without their scale": Unscaled,
    "a causal mask": Causal,
    "another number of heads": lambda: Plain(heads=4),
    "a softmax at the end": Softmaxed,
    "outputs times two": Scaled,
    "capped outputs": Capped,
    "the mean in place of the first token": Mean,
    "another eps, far below what float32 sees": lambda: Plain(eps=1.001e-5),
    "positions that count from the end, right for one length": Backwards,
    "a bias more": ExtraBias,
}


@pytest.mark.parametrize("build", [pytest.param(build, id=name) for name, build in DEVIATING.items()])
def test_a_model_that_computes_something_else_is_never_proven(build: Callable[[], nn.Module]) -> None:
    verified = ckptmap.verify(ckptmap.Rules.parse(SAME_NAMES), Plain(), build(), inputs=((IDS,), (IDS,)))
    assert not verified.passed
    assert verified.outcome in ("open", "parts")


@pytest.mark.parametrize("name", ["scores without their scale", "a softmax at the end", "a bias more"])
def test_nor_are_the_rules_that_remap_finds_for_it(name: str) -> None:
    found = ckptmap.remap(Plain(), DEVIATING[name](), inputs=((IDS,), (IDS,)))
    assert found.verification is not None
    assert not found.verification.passed


def test_one_tensor_on_the_right_cannot_be_two_of_the_left() -> None:
    both = "{n:table|places|q|k|v|o|norm}.* <-> {n}.*\n"
    rules = ckptmap.Rules.parse(
        f"ckptmap 1\n{both}tie left table.weight = out.weight\ntie right table.weight = out.weight\n"
    )
    inputs = (IDS,), (IDS,)
    assert ckptmap.verify(rules, Tied(), Tied(), inputs=inputs).passed
    only_right = ckptmap.Rules.parse(f"ckptmap 1\n{both}tie right table.weight = out.weight\n")
    assert not ckptmap.verify(only_right, Untied(), Tied(), inputs=inputs).passed


def test_what_no_input_reaches_is_named_in_the_verdict() -> None:
    from ckptmap.report.remap import verdict

    proof = ckptmap.verify(ckptmap.Rules.parse(SAME_NAMES), Plain(), Plain(), inputs=((IDS,), (IDS,)))
    assert proof.passed
    assert len(proof.inputs) == 3, "the input itself, other contents, another length"
    said = verdict(proof)
    assert said.startswith("proven: ")
    assert "rows 7–8 of places.weight" in said
    assert "k.bias" in said
    assert "q.weight" not in said


def test_a_longer_table_gets_the_rows_there_are_and_zeros() -> None:
    left, right = Plain(rows=12), Plain(rows=16)
    found = ckptmap.remap(left, right, inputs=((IDS,), (IDS,)))
    assert found.verification is not None
    assert found.verification.passed
    made = ckptmap.convert(found.rules, left.state_dict())
    assert torch.equal(made["table.weight"][:12], left.table.weight)
    assert not made["table.weight"][12:].any()
    right.load_state_dict(made)
    torch.testing.assert_close(right(IDS), left(IDS))


def test_the_head_of_one_side_may_be_left_out_but_not_made_up() -> None:
    class Bare(Plain):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.body(ids)

    inputs = (IDS,), (IDS,)
    rules = ckptmap.Rules.parse(SAME_NAMES)
    assert ckptmap.verify(rules, Plain(), Bare(), inputs=inputs).passed
    made_up = ckptmap.verify(rules, Bare(), Plain(), inputs=inputs)
    assert not made_up.passed
    assert made_up.lacking == ("output",) or not made_up.compared


def test_two_heads_that_stand_in_another_order_are_told_apart() -> None:
    class Span(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(12, 8), nn.Linear(8, 2)

        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(one.squeeze(-1) for one in self.head(torch.tanh(self.table(ids))).split(1, -1))

    class Apart(Span):
        def __init__(self) -> None:
            super().__init__()
            del self.head
            self.start, self.end = nn.Linear(8, 1), nn.Linear(8, 1)

        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
            x = torch.tanh(self.table(ids))
            return self.start(x).squeeze(-1), self.end(x).squeeze(-1)

    left = Span()
    found = ckptmap.remap(left, Apart(), inputs=((IDS,), (IDS,)))
    assert found.verification is not None
    assert found.verification.passed
    assert not found.undecided
    made = ckptmap.convert(found.rules, left.state_dict())
    assert torch.equal(torch.cat([made["start.weight"], made["end.weight"]]), left.head.weight)


def test_what_derivatives_cannot_go_through_is_an_error_that_names_the_model() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    class Kernel(Plain):
        def body(self, ids: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = Opaque.apply(super().body(ids))
            return made

    with pytest.raises(ArchitectureError, match="Kernel: it runs, but its derivatives"):
        ckptmap.remap(Plain(), Kernel(), inputs=((IDS,), (IDS,)))
