"""A Mixtral whose experts are two stacked tensors a layer, gate and up fused."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.handbuilt.llama_meta import RMSNorm
from tests.handbuilt.rotary import rotate_halves


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.width = heads, groups, width // heads
        self.q_proj = nn.Linear(width, heads * self.width, bias=False)
        self.k_proj = nn.Linear(width, groups * self.width, bias=False)
        self.v_proj = nn.Linear(width, groups * self.width, bias=False)
        self.o_proj = nn.Linear(heads * self.width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, self.width).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (rotate_halves(k), v))
        y = functional.scaled_dot_product_attention(rotate_halves(q), k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class Experts(nn.Module):
    def __init__(self, experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * hidden, width) / width**0.5)
        self.down_proj = nn.Parameter(torch.randn(experts, width, hidden) / hidden**0.5)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """All experts at once, x as `token width` and their weights as `token expert`."""
        gate, up = torch.einsum("efw,tw->tef", self.gate_up_proj, x).chunk(2, -1)
        return torch.einsum("ewf,tef,te->tw", self.down_proj, functional.silu(gate) * up, weights)


class Mixture(nn.Module):
    def __init__(self, experts: int, chosen: int, width: int, hidden: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = Experts(experts, width, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1)
        shares = self.gate(tokens).softmax(-1)
        best, at = shares.topk(self.chosen, dim=-1)
        weights = torch.zeros_like(shares).scatter(-1, at, best / best.sum(-1, keepdim=True))
        return self.experts(tokens, weights).view_as(x)


class Layer(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int, groups: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads, groups)
        self.mlp = Mixture(experts, chosen, width, hidden)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(width, 1e-5), RMSNorm(width, 1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, vocabulary: int, width: int, layers: int, *rest: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, *rest) for _ in range(layers))
        self.norm = RMSNorm(width, 1e-5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Mixtral(nn.Module):
    def __init__(
        self,
        vocabulary: int = 30,
        width: int = 16,
        hidden: int = 24,
        heads: int = 4,
        groups: int = 2,
        layers: int = 2,
        experts: int = 12,
        chosen: int = 2,
    ) -> None:
        super().__init__()
        self.model = Body(vocabulary, width, layers, hidden, heads, groups, experts, chosen)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.model(ids))
