"""Two modules that compute the same function are matched element by element, whatever their tensors are called."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch import nn

from ckptmap.errors import ArchitectureError
from ckptmap.infer.by_modules import ByModules, by_modules

IDS = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:14].reshape(2, 7) + 5


def left_number(found: ByModules, name: str) -> Any:
    """Numbers of the left elements that stand in a right tensor."""
    return found.found.elements[name]


def own_numbers(found: ByModules, name: str) -> Any:
    """Numbers of a left tensor's own elements."""
    shape = found.found.left[name]
    return found.found.first[name] + numpy.arange(int(numpy.prod(shape))).reshape(shape)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=20, n_embd=16, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config).eval()


class Attention(nn.Module):
    """Queries, keys and values in three layers of their own, by nn.Linear."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.v, self.q, self.o, self.k = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, m = x.shape
        q, k, v = (one(x).reshape(b, t, self.heads, -1).transpose(1, 2) for one in (self.q, self.k, self.v))
        scores = q @ k.transpose(2, 3) / (m // self.heads) ** 0.5
        scores = scores.masked_fill(torch.ones(t, t).tril() == 0, -torch.inf)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, m))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.beta, self.alpha = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(self.alpha(x))
        return x + self.down(nn.functional.gelu(self.up(self.beta(x)), approximate="tanh"))


class HandBuilt(nn.Module):
    """A GPT-2 with names that tell nothing, norms declared crosswise and weights not transposed."""

    def __init__(self, width: int = 16, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.t, self.p = nn.Embedding(50, width), nn.Embedding(20, width)
        self.n = nn.LayerNorm(width)
        self.z = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.y = nn.Linear(width, 50, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.t(ids) + self.p(torch.arange(ids.shape[1]))
        for layer in self.z:
            x = layer(x)
        return self.y(self.n(x))


def test_fused_transposed_projections_of_gpt2_go_to_their_parts() -> None:
    found = by_modules(gpt2(), HandBuilt(), lambda m: m(input_ids=IDS).logits, lambda m: m(IDS))
    fused = own_numbers(found, "transformer.h.1.attn.c_attn.weight")
    for part, name in enumerate("qkv"):
        wanted = fused[:, 16 * part : 16 * (part + 1)].T
        assert (left_number(found, f"z.1.mix.{name}.weight") == wanted).all()
    assert (left_number(found, "z.0.up.weight") == own_numbers(found, "transformer.h.0.mlp.c_fc.weight").T).all()


def test_norms_are_told_apart_by_what_they_do_not_by_their_order() -> None:
    found = by_modules(gpt2(), HandBuilt(), lambda m: m(input_ids=IDS).logits, lambda m: m(IDS))
    for kind in ("weight", "bias"):
        assert (left_number(found, f"z.0.alpha.{kind}") == own_numbers(found, f"transformer.h.0.ln_1.{kind}")).all()
        assert (left_number(found, f"z.0.beta.{kind}") == own_numbers(found, f"transformer.h.0.ln_2.{kind}")).all()


def test_a_key_bias_that_softmax_cancels_follows_its_weight() -> None:
    found = by_modules(gpt2(), HandBuilt(), lambda m: m(input_ids=IDS).logits, lambda m: m(IDS))
    assert (left_number(found, "z.0.mix.k.bias") == own_numbers(found, "transformer.h.0.attn.c_attn.bias")[16:32]).all()
    assert "cannot change the outputs" in found.found.evidence["z.0.mix.k.bias"]


def test_rows_that_no_input_looked_up_go_on_as_the_others_began() -> None:
    found = by_modules(gpt2(), HandBuilt(), lambda m: m(input_ids=IDS).logits, lambda m: m(IDS))
    assert (left_number(found, "t.weight") == own_numbers(found, "transformer.wte.weight")).all()
    assert (left_number(found, "p.weight") == own_numbers(found, "transformer.wpe.weight")).all()


def test_deep_models_are_matched_on_three_layers_and_proven_on_all() -> None:
    left, right = HandBuilt(layers=9), HandBuilt(layers=9)
    found = by_modules(left, right, lambda m: m(IDS), lambda m: m(IDS))
    for name in right.state_dict():
        assert (left_number(found, name) == own_numbers(found, name)).all(), name


def test_models_that_compute_different_functions_are_never_claimed_to_be_alike() -> None:
    class PostNorm(HandBuilt):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.t(ids) + self.p(torch.arange(ids.shape[1]))
            for layer in self.z:
                x = layer.alpha(x + layer.mix(x))
                x = layer.beta(x + layer.down(nn.functional.relu(layer.up(x))))
            return self.y(x)

    try:
        found = by_modules(HandBuilt(), PostNorm(), lambda m: m(IDS), lambda m: m(IDS))
    except ArchitectureError:
        return
    assert not any(left_number(found, name).min() >= 0 for name in ("z.1.up.weight", "y.weight", "z.1.mix.o.weight"))


def test_the_models_are_left_as_they_were() -> None:
    left, right = gpt2(), HandBuilt()
    before = {name: tensor.clone() for name, tensor in right.state_dict().items()}
    by_modules(left, right, lambda m: m(input_ids=IDS).logits, lambda m: m(IDS))
    after = right.state_dict()
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.float32 for name in before)
    assert all(parameter.requires_grad for parameter in right.parameters())


def test_a_model_that_cannot_run_is_named_with_its_own_error() -> None:
    with pytest.raises(ArchitectureError, match=r"mine.*running it failed.*TypeError"):
        by_modules(HandBuilt(), HandBuilt(), lambda m: m(IDS), lambda m: m(), labels=("theirs", "mine"))


FAMILIES = {
    "bert": ("BertForSequenceClassification", {}),
    "roberta": ("RobertaForSequenceClassification", {"type_vocab_size": 1}),
    "electra": ("ElectraForSequenceClassification", {"embedding_size": 16}),
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", {"num_key_value_heads": 2}),
    "gpt_neox": ("GPTNeoXForCausalLM", {"rotary_pct": 0.5}),
    "mixtral": ("MixtralForCausalLM", {"num_key_value_heads": 2, "num_local_experts": 3}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_matched_to_itself_under_another_attention(family: str) -> None:
    import transformers

    name, more = FAMILIES[family]
    build = getattr(transformers, name)
    sizes = {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 30,
    }
    sides = []
    for attention in ("eager", "sdpa"):
        config = build.config_class(**sizes, **more)
        config._attn_implementation = attention
        sides.append(build(config).eval())
    found = by_modules(*sides, lambda m: m(input_ids=IDS), lambda m: m(input_ids=IDS))
    for name in sides[1].state_dict():
        assert (left_number(found, name) == own_numbers(found, name)).all(), name
