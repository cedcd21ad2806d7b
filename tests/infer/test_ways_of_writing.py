"""Ways in which models are written that must not keep them from being matched, or lead to wrong matches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ckptmap

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
WAVES = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(2))


def made(left: nn.Module, right: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the right gets when the rules found for both are run on the left's own weights."""
    for number, tensor in enumerate(left.parameters()):
        torch.nn.init.normal_(tensor, generator=torch.Generator().manual_seed(number))
    found = ckptmap.remap(left, right, inputs=((inputs,), (inputs,)))
    assert found.verification is not None
    assert found.verification.passed
    there = ckptmap.convert(found.rules, left.state_dict(), partial=True)
    assert isinstance(there, dict)
    return there


class OldNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.utils.weight_norm(nn.Conv1d(4, 6, 3, padding=1), dim=2)
        self.out = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(nn.functional.gelu(self.wide(x)).transpose(1, 2))


class NewNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)
        self.conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3, padding=1), dim=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.gelu(self.conv(x)).transpose(1, 2))


def test_a_weight_norm_of_the_older_kind_goes_to_one_of_the_newer() -> None:
    left, right = OldNorm(), NewNorm()
    there = made(left, right, WAVES)
    assert torch.equal(there["conv.parametrizations.weight.original0"], left.state_dict()["wide.weight_g"])
    assert torch.equal(there["conv.parametrizations.weight.original1"], left.state_dict()["wide.weight_v"])
    assert there.keys() == right.state_dict().keys()


class Tokens(nn.Module):
    """Patches with two tokens in front that nothing but their names tells apart, averaged by the head."""

    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        shapes = {"place": (1, 6, 4)}
        for name in order:
            setattr(self, name, nn.Parameter(torch.zeros(shapes.get(name, (1, 1, 4)))))
        self.cut = nn.Conv2d(3, 4, 4, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.cut(x).flatten(2).transpose(1, 2)
        tokens = [getattr(self, name).expand(len(x), -1, -1) for name in ("cls", "dist")]
        x = torch.cat([*tokens, patches], 1) + self.place
        x = x + torch.softmax(self.mix(x) @ x.transpose(1, 2), -1) @ x
        return self.head((x[:, 0] + x[:, 1]) / 2)


def test_tokens_are_not_crossed_with_the_rows_of_the_table_that_is_added_to_them() -> None:
    left = Tokens(("cls", "dist", "place"))
    right = Tokens(("place", "cls", "dist"))
    there = made(left, right, IMAGES)
    for name, tensor in left.state_dict().items():
        assert torch.equal(there[name], tensor), name


class Rows(nn.Module):
    def __init__(self, skip: int) -> None:
        super().__init__()
        self.skip = skip
        self.place = nn.Parameter(torch.zeros(1, 4 + skip, 4))
        self.cut = nn.Conv2d(3, 4, 4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.cut(x).flatten(2).transpose(1, 2) + self.place[:, self.skip :]))


def test_a_table_of_which_the_right_has_the_rest_only() -> None:
    left, right = Rows(1), Rows(0)
    there = made(left, right, IMAGES)
    assert torch.equal(there["place"], left.place[:, 1:])


class Segments(nn.Module):
    """All of the text is of one segment; what is added for it is a row of a table, or a bare vector."""

    def __init__(self, *, bare: bool) -> None:
        super().__init__()
        self.bare = bare
        self.words, self.norm, self.head = nn.Embedding(11, 6), nn.LayerNorm(6), nn.Linear(6, 5)
        self.segment = nn.Parameter(torch.zeros(6)) if bare else nn.Embedding(2, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        told = self.segment if self.bare else self.segment(torch.zeros_like(ids))
        return self.head(torch.tanh(self.norm(self.words(ids) + told)))


def test_a_row_of_a_table_may_be_a_bare_vector() -> None:
    left, right = Segments(bare=False), Segments(bare=True)
    there = made(left, right, torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]))
    assert torch.equal(there["segment"], left.state_dict()["segment.weight"][0])


IDS = torch.tensor([[3, 1, 4, 1, 5, 7], [9, 2, 6, 5, 3, 0]])


class Attention(nn.Module):
    """One head, with rotary positions in halves or in pairs, scores as q kᵀ or as k qᵀ, norm before or after."""

    def __init__(
        self, names: tuple[str, ...], *, halves: bool = True, turned: bool = False, before: bool = True
    ) -> None:
        super().__init__()
        self.names, self.halves, self.turned, self.before = names, halves, turned, before
        self.table, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        for name in names:
            setattr(self, name, nn.Linear(8, 8, bias=False))

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.03])
        a, b = x.chunk(2, -1) if self.halves else (x[..., 0::2], x[..., 1::2])
        a, b = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return torch.cat([a, b], -1) if self.halves else torch.stack([a, b], -1).flatten(-2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        query, key, value, out = (getattr(self, name) for name in self.names)
        x = self.table(ids)
        h = self.norm(x) if self.before else x
        q, k = self.rotated(query(h)), self.rotated(key(h))
        weights = (k @ q.mT).softmax(-2).mT if self.turned else (q @ k.mT).softmax(-1)
        x = x + out(weights @ value(h))
        return x if self.before else self.norm(x)


def test_rotary_rows_are_put_in_the_order_of_the_other_convention() -> None:
    left, right = Attention(("q", "k", "v", "o")), Attention(("c", "a", "d", "b"), halves=False)
    right.load_state_dict(made(left, right, IDS))
    assert torch.allclose(left(IDS), right(IDS), atol=1e-5)
    assert torch.equal(right.c.weight[0::2], left.q.weight[:4])
    assert torch.equal(right.d.weight, left.v.weight)


def test_scores_that_are_turned_do_not_cross_query_and_key() -> None:
    left, right = Attention(("q", "k", "v", "o")), Attention(("k", "q", "v", "o"), turned=True)
    there = made(left, right, IDS)
    assert torch.equal(there["k.weight"], left.q.weight)
    assert torch.equal(there["q.weight"], left.k.weight)


def test_a_norm_before_is_not_taken_for_a_norm_after() -> None:
    left, right = Attention(("q", "k", "v", "o")), Attention(("q", "k", "v", "o"), before=False)
    with pytest.raises(ckptmap.ArchitectureError, match="do not compute the same function"):
        ckptmap.remap(left, right, inputs=((IDS,), (IDS,)))
