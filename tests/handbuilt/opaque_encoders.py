"""BERTs as different people write them, with names that tell nothing, in an order that tells nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WIDTH, HEADS, INNER, WORDS, PLACES, LAYERS, CLASSES = 16, 4, 24, 50, 20, 2, 3
EACH = WIDTH // HEADS


def norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=1e-12)


class Tables(nn.Module):
    """The embeddings that all of them share, positions as a parameter with an axis of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.randn(2, WIDTH))
        self.b = nn.Parameter(torch.randn(1, PLACES, WIDTH))
        self.n = norm()
        self.a = nn.Embedding(WORDS, WIDTH)

    def forward(self, ids: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.n(self.a(ids) + self.b[:, : ids.shape[1]] + self.c[kinds])
        return made


class Einsum(nn.Module):
    """A weight for each head, time first inside, plain matrices on the right of their inputs."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in "cab":
                setattr(self, name, nn.Parameter(torch.randn(HEADS, WIDTH, EACH)))
                setattr(self, name + name, nn.Parameter(torch.randn(HEADS, EACH)))
            self.d = nn.Parameter(torch.randn(HEADS, EACH, WIDTH))
            self.h = nn.Parameter(torch.randn(WIDTH))
            self.n2, self.n1 = norm(), norm()
            self.w, self.u = nn.Parameter(torch.randn(INNER, WIDTH)), nn.Parameter(torch.randn(WIDTH, INNER))
            self.wb, self.ub = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(INNER))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            v, q, k = (
                torch.einsum("tbd,hdk->bhtk", x, getattr(self, one)) + getattr(self, one + one)[:, None]
                for one in "abc"
            )
            seen = (torch.einsum("bhtk,bhsk->bhts", q, k) / EACH**0.5).softmax(-1)
            x = self.n2(x + torch.einsum("bhts,bhsk,hkd->tbd", seen, v, self.d) + self.h)
            made: torch.Tensor = self.n1(x + functional.gelu(x @ self.u + self.ub) @ self.w + self.wb)
            return made

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.ModuleList(self.Layer() for _ in range(LAYERS))
        self.e = Tables()
        self.s, self.t = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: torch.Tensor, kinds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.e(ids, kinds).transpose(0, 1)
        for layer in self.q:
            x = layer(x)
        return self.s(self.t(x[0]).tanh()), x


class Convolutions(nn.Module):
    """Every matrix a convolution of one by one, batch and channels first."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z = nn.ModuleList([nn.Conv2d(WIDTH, INNER, 1), nn.Conv2d(INNER, WIDTH, 1)])
            self.k, self.o, self.q, self.v = (nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(4))
            self.late, self.early = norm(), norm()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (one(x).squeeze(2).unflatten(1, (HEADS, EACH)) for one in (self.q, self.k, self.v))
            seen = (torch.einsum("bhcq,bhck->bhkq", q, k) / EACH**0.5).softmax(2)
            mixed = torch.einsum("bhkq,bhck->bhcq", seen, v).flatten(1, 2).unsqueeze(2)
            x = self.early((x + self.o(mixed)).transpose(1, 3)).transpose(1, 3)
            x = self.late((x + self.z[1](functional.gelu(self.z[0](x)))).transpose(1, 3)).transpose(1, 3)
            return x

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Conv2d(WIDTH, CLASSES, 1)
        self.p = nn.Conv2d(WIDTH, WIDTH, 1)
        self.l = nn.Sequential(*(self.Layer() for _ in range(LAYERS)))
        self.e = Tables()

    def forward(self, ids: torch.Tensor, kinds: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.l(self.e(ids, kinds).transpose(1, 2).unsqueeze(2))
        return {"y": self.g(self.p(x[..., :1]).tanh()).flatten(1)}


class OneModulePerHead(nn.Module):
    """Heads in a list, a head's queries and the rest in layers of their own; the bare encoder."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r, self.p, self.q = (nn.Linear(WIDTH, EACH) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.q(x) @ self.p(x).mT / EACH**0.5).softmax(-1) @ self.r(x)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seq = nn.Sequential(nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH))
            self.b, self.a = norm(), norm()
            self.m = nn.Linear(WIDTH, WIDTH)
            self.hs = nn.ModuleList(OneModulePerHead.Head() for _ in range(HEADS))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.b(x + self.m(torch.cat([head(x) for head in self.hs], -1)))
            made: torch.Tensor = self.a(x + self.seq(x))
            return made

    def __init__(self) -> None:
        super().__init__()
        self.y = nn.Sequential(*(self.Layer() for _ in range(LAYERS)))
        self.e = Tables()

    def forward(self, ids: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.y(self.e(ids, kinds))
        return made


class Fused(nn.Module):
    """One projection for all, head by head; time first; a batch in a dict, the loss or None in front."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.o, self.i = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
            self.f = nn.ModuleList([nn.Linear(INNER, WIDTH), nn.Linear(WIDTH, INNER)])
            self.n = nn.ModuleList([norm(), norm()])
            self.d = nn.Dropout(0.1)
            # The function holds on to modules of this layer, as closures do.
            self.inner = lambda x: self.f[0](functional.gelu(self.f[1](x)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t, b, _ = x.shape
            q, k, v = self.i(x).reshape(t, b * HEADS, 3 * EACH).transpose(0, 1).chunk(3, -1)
            mixed = torch.bmm((torch.bmm(q, k.mT) / EACH**0.5).softmax(-1), v)
            x = self.n[1](x + self.d(self.o(mixed.transpose(0, 1).reshape(t, b, WIDTH))))
            made: torch.Tensor = self.n[0](x + self.d(self.inner(x)))
            return made

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.h = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.1), nn.Linear(WIDTH, classes))
        self.l = nn.Sequential(*(self.Layer() for _ in range(LAYERS)))
        self.e = Tables()

    def forward(self, batch: Mapping[str, Any]) -> tuple[Any, torch.Tensor]:
        scores = self.h(self.l(self.e(batch["a"], batch["b"]).transpose(0, 1))[0])
        labels = batch.get("c")
        return (None if labels is None else functional.cross_entropy(scores, labels)), scores


class Spans(Fused):
    """Where an answer starts and ends, each of them time by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.Sequential(nn.Linear(WIDTH, 2))

    def forward(self, batch: Mapping[str, Any]) -> tuple[Any, torch.Tensor]:
        starts, ends = self.h(self.l(self.e(batch["a"], batch["b"]).transpose(0, 1))).unbind(-1)
        return starts, ends


class Torchs(nn.Module):
    """torch's own layers, a mask that has to be given."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.p = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, 0.0, "gelu", 1e-12, batch_first=True)
        self.k = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.e = Tables()

    def forward(self, ids: torch.Tensor, seg: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        x = self.k(self.e(ids, seg), src_key_padding_mask=attn_mask == 0)
        made: torch.Tensor = self.z(self.p(x[:, 0]).tanh())
        return made


class WithoutFirstNorm(OneModulePerHead):
    """Not a BERT: what is looked up is not normalised."""

    def forward(self, ids: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.y(self.e.a(ids) + self.e.b[:, : ids.shape[1]] + self.e.c[kinds])
        return made
