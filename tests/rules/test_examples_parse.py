"""The worked examples of the specification: real tiny models, there and back, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from ckptmap.rules.plan import Plan, bind
from ckptmap.rules.rules import Rules
from tests.rules.interpreter import run

EXAMPLES = Path(__file__).parent / "examples"
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 30}


def state(model: str, config: str, **changes: object) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    torch.manual_seed(0)
    made = getattr(transformers, config)(**{**SMALL, **changes})
    tensors = getattr(transformers, model)(made).state_dict()
    return {name: torch.randn(value.shape) for name, value in tensors.items()}, made.to_dict()


def vit() -> dict[str, torch.Tensor]:
    shapes = {"cls_token": (1, 1, 8), "pos_embed": (1, 5, 8), "patch_embed.proj.weight": (8, 3, 2, 2)}
    shapes |= {"patch_embed.proj.bias": (8,), "norm.weight": (8,), "head.weight": (3, 8), "head.bias": (3,)}
    for i in range(2):
        shapes |= {f"blocks.{i}.attn.qkv.weight": (24, 8), f"blocks.{i}.attn.qkv.bias": (24,)}
        shapes |= {f"blocks.{i}.{n}.weight": (8, 8) for n in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def example(name: str) -> tuple[dict[str, torch.Tensor], dict[str, object], dict[str, int]]:
    if name == "roberta-encoder-layers":
        return *state(
            "RobertaForSequenceClassification", "RobertaConfig", max_position_embeddings=12, type_vocab_size=1
        ), {}
    if name == "gpt2-nanogpt":
        tensors, config = state("GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=2, n_head=2, n_positions=8)
        return tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}, config, {"p": 34}
    if name == "llama-meta":
        return *state("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2), {}
    if name == "neox-split":
        tensors, config = state("GPTNeoXForCausalLM", "GPTNeoXConfig")
        return {name.replace("lm_head", "embed_out"): value for name, value in tensors.items()}, config, {}
    if name == "mixtral-stacked":
        tensors, config = state("MixtralForCausalLM", "MixtralConfig", num_key_value_heads=2, num_local_experts=12)
        return *on_disk(tensors), {}
    return vit(), {}, {}


def on_disk(memory: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """What the example's right side is in memory, as its left side is on disk."""
    plan = bind(Rules.read(EXAMPLES / "mixtral-stacked.ckptmap"), None, shapes(memory)).inverse()
    return run(plan, memory, {}), {}


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ckptmap")), ids=lambda path: path.stem)
def test_there_and_back(path: Path) -> None:
    rules = Rules.read(path)
    assert Rules.parse(str(rules)) == rules
    assert str(Rules.parse(str(rules))) == str(rules)
    tensors, config, sizes = example(path.stem)
    plan = bind(rules, shapes(tensors), config=config, sizes=sizes)
    assert plan.left == shapes(tensors)
    right = run(plan, tensors, {})
    assert shapes(right) == plan.right
    both = bind(rules, shapes(tensors), shapes(right), config=config)
    assert same(plan, both)
    back = bind(rules, None, shapes(right), config=config, sizes={"v": 30} if "p" in sizes else {})
    assert same(back.inverse().inverse(), plan)
    again = run(back.inverse(), right, tensors)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def same(one: Plan, other: Plan) -> bool:
    return dict(one.left) == dict(other.left) and dict(one.right) == dict(other.right)


def test_llama_is_the_published_permutation() -> None:
    tensors, config, _ = example("llama-meta")
    rules = Rules.read(EXAMPLES / "llama-meta.ckptmap")
    right = run(bind(rules, shapes(tensors), config=config), tensors, {})
    meta = right["layers.1.attention.wk.weight"]
    permuted = meta.view(2, 2, 2, 16).transpose(1, 2).reshape(8, 16)
    assert torch.equal(permuted, tensors["model.layers.1.self_attn.k_proj.weight"])
