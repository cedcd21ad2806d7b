"""Models as people write them by hand, at the sizes they have: right-hand sides for transformers' own classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.wq, self.wk, self.wv = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        b, t, w = x.shape
        parts = self.qkv(x).chunk(3, dim=-1) if hasattr(self, "qkv") else (self.wq(x), self.wk(x), self.wv(x))
        q, k, v = (one.view(b, t, self.heads, w // self.heads).transpose(1, 2) for one in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(b, t, w))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, eps: float, *, fused: bool, before: bool, act: str) -> None:
        super().__init__()
        self.attn = _Attention(width, heads, fused)
        self.ln1, self.ln2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.before, self.act = before, act

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.act))

    def forward(self, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        if self.before:
            x = x + self.attn(self.ln1(x), causal)
            return x + self.feed(self.ln2(x))
        x = self.ln1(x + self.attn(x))
        return self.ln2(x + self.feed(x))


class Roberta(nn.Module):
    """A classifier on the first token."""

    def __init__(self, width=768, heads=12, hidden=3072, layers=12, vocabulary=50265, labels=2) -> None:
        super().__init__()
        self.tok, self.pos, self.seg = (nn.Embedding(n, width) for n in (vocabulary, 514, 1))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.blocks = nn.ModuleList(
            _Block(width, heads, hidden, 1e-5, fused=False, before=False, act="none") for _ in range(layers)
        )
        self.dense, self.classify = nn.Linear(width, width), nn.Linear(width, labels)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1]) + 2) + self.seg(torch.zeros_like(ids))
        x = self.norm(x)
        for block in self.blocks:
            x = block(x)
        return self.classify(torch.tanh(self.dense(x[:, 0])))


class GPT2(nn.Module):
    """A language model with plain linear layers."""

    def __init__(self, width=768, heads=12, layers=12, vocabulary=50257, fused=True) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocabulary, width), nn.Embedding(1024, width)
        self.blocks = nn.ModuleList(
            _Block(width, heads, 4 * width, 1e-5, fused=fused, before=True, act="tanh") for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tok.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x, True)
        return self.head(self.norm(x))


class ViT(nn.Module):
    """An image classifier, its patches cut by a linear layer."""

    def __init__(self, width=768, heads=12, hidden=3072, layers=12, image=224, patch=16, labels=1000) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(3 * patch * patch, width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(
            *(_Block(width, heads, hidden, 1e-12, fused=True, before=True, act="none") for _ in range(layers))
        )
        self.norm, self.head = nn.LayerNorm(width, eps=1e-12), nn.Linear(width, labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.embed(x)], dim=1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


class _RMS(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class _LlamaBlock(nn.Module):
    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.qkv = nn.Linear(width, (heads + 2 * groups) * self.size, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.n1, self.n2 = _RMS(width), _RMS(width)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        half = self.size // 2
        speed = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * speed
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, w = x.shape
        parts = self.qkv(self.n1(x)).view(b, t, -1, self.size).transpose(1, 2)
        q, k, v = parts.split([self.heads, self.groups, self.groups], dim=1)
        q, k = self.rotate(q), self.rotate(k)
        k, v = (one.repeat_interleave(self.heads // self.groups, dim=1) for one in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.size)
        scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, w))
        gate, up = self.gate_up(self.n2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    """A language model with grouped heads and fused projections."""

    def __init__(self, width=2048, heads=32, groups=4, hidden=5632, layers=22, vocabulary=32000) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(_LlamaBlock(width, heads, groups, hidden) for _ in range(layers))
        self.norm, self.head = _RMS(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tok(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


LEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": (
        "RobertaForSequenceClassification",
        {
            "model_type": "roberta",
            "vocab_size": 50265,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
        },
    ),
    "gpt2": ("GPT2LMHeadModel", {"model_type": "gpt2"}),
    "vit": ("ViTForImageClassification", {"model_type": "vit", "num_labels": 1000}),
    "llama": (
        "LlamaForCausalLM",
        {
            "model_type": "llama",
            "vocab_size": 32000,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-5,
        },
    ),
}
"""For each family the class on the left and its config."""


def roberta() -> nn.Module:
    """RoBERTa base."""
    return Roberta()


def gpt2() -> nn.Module:
    """GPT-2 with 124 million elements, q, k and v in one."""
    return GPT2()


def gpt2_split() -> nn.Module:
    """The same, q, k and v each by itself."""
    return GPT2(fused=False)


def vit() -> nn.Module:
    """ViT-B/16."""
    return ViT()


def llama() -> nn.Module:
    """A Llama of 1.1 billion elements."""
    return Llama()
