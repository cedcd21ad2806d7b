"""RoBERTa for sequence classification on PyTorch's own encoder layer, its one segment a plain vector."""

from __future__ import annotations

import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(
        self,
        vocabulary: int = 30,
        positions: int = 10,
        width: int = 16,
        hidden: int = 24,
        heads: int = 4,
        layers: int = 2,
        classes: int = 3,
    ) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.seg = nn.Parameter(torch.randn(width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        options = {"activation": "gelu", "batch_first": True, "layer_norm_eps": 1e-12, "dropout": 0.0}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, hidden, **options) for _ in range(layers))
        self.head = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, classes)])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device)) + self.seg)
        for block in self.blocks:
            x = block(x)
        return self.head[1](torch.tanh(self.head[0](x[:, 0])))
