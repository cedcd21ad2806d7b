"""The worked examples from the command line: into a hand-built module and home again, equal in bits and in outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_model, save_model
from torch import nn

import ckptmap
from ckptmap.__main__ import main
from tests.handbuilt import llama_meta, mixtral_stacked, nanogpt, neox_split, roberta, vit_timm

EXAMPLES = Path(__file__).parents[1] / "rules" / "examples"
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 30}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True)
class Example:
    """A rule file, the two models, and what each way must be told."""

    rules: str
    theirs: str
    config: Any
    mine: Callable[[], nn.Module]
    there: tuple[str, ...] = ()
    home: tuple[str, ...] = ("--back",)
    residue: bool = False
    images: bool = False


GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 8, "vocab_size": 30, "activation_function": "gelu"}
ROBERTA = {"max_position_embeddings": 12, "type_vocab_size": 1, "num_labels": 3, "pad_token_id": 1}
VIT = {"image_size": 8, "patch_size": 4, "num_labels": 3, "layer_norm_eps": 1e-6}
MIXTRAL = {
    "num_key_value_heads": 2,
    "num_local_experts": 12,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
CASES = [
    Example(
        "roberta-encoder-layers",
        "RobertaForSequenceClassification",
        transformers.RobertaConfig(**{**SMALL, **IDS, **ROBERTA, "layer_norm_eps": 1e-12}),
        roberta.Classifier,
        residue=True,
    ),
    Example(
        "gpt2-nanogpt",
        "GPT2LMHeadModel",
        transformers.GPT2Config(**GPT2, **IDS),
        nanogpt.GPT,
        there=("--size", "p=34"),
        home=("--back", "--size", "v=30"),
    ),
    Example(
        "llama-meta",
        "LlamaForCausalLM",
        transformers.LlamaConfig(**SMALL, **IDS, num_key_value_heads=2),
        llama_meta.Transformer,
    ),
    Example(
        "neox-split",
        "GPTNeoXForCausalLM",
        transformers.GPTNeoXConfig(
            **{**SMALL, **IDS, "hidden_size": 32},
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
        neox_split.NeoX,
    ),
    Example(
        "mixtral-stacked",
        "MixtralForCausalLM",
        transformers.MixtralConfig(**SMALL, **IDS, **MIXTRAL),
        mixtral_stacked.Mixtral,
    ),
    Example(
        "vit-timm",
        "ViTForImageClassification",
        transformers.ViTConfig(**{**SMALL, **VIT}),
        vit_timm.VisionTransformer,
        there=("--back",),
        home=(),
        images=True,
    ),
]


def shaken(model: nn.Module) -> nn.Module:
    """The model with values of its own everywhere, norms and biases too, so that none can be mistaken for another."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter if parameter.ndim == 1 else 0))
    return model.eval()


def inputs(example: Example) -> torch.Tensor:
    make = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 8, 8, generator=make) if example.images else torch.randint(3, 30, (2, 7), generator=make)


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.rules)
def test_there_and_home_again(example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    theirs = shaken(getattr(transformers, example.theirs)(example.config))
    theirs.save_pretrained(tmp_path / "hf")
    rules, source, there = (
        str(EXAMPLES / f"{example.rules}.ckptmap"),
        str(tmp_path / "hf"),
        tmp_path / "mine.safetensors",
    )
    kept = ["--residue", str(tmp_path / "kept.safetensors")] if example.residue else []
    assert main(["convert", rules, source, str(there), *example.there, *kept]) == 0, capsys.readouterr().err

    mine = example.mine().eval()
    assert load_model(mine, there, strict=True) == (set(), [])
    x = inputs(example)
    with torch.no_grad():
        expected = theirs(x).logits
        torch.testing.assert_close(mine(x)[..., : expected.shape[-1]], expected, rtol=0, atol=1e-5)

    save_model(mine, str(tmp_path / "trained.safetensors"))
    argv = ["convert", rules, str(tmp_path / "trained.safetensors"), str(tmp_path / "home"), *example.home, *kept]
    assert main([*argv, "--like", source, "--architecture", example.theirs]) == 0, capsys.readouterr().err
    with ckptmap.open_checkpoint(source) as before, ckptmap.open_checkpoint(tmp_path / "home") as after:
        assert {name: (s.shape, s.dtype) for name, s in before.items()} == {
            name: (s.shape, s.dtype) for name, s in after.items()
        }
        assert all(before.read(name) == after.read(name) for name in before)
    loading = getattr(transformers, example.theirs).from_pretrained
    returned, info = loading(tmp_path / "home", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    with torch.no_grad():
        torch.testing.assert_close(returned.eval()(x).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.rules)
def test_the_header_alone_leads_home(example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A converted file says by itself how it was made, sizes included."""
    theirs = shaken(getattr(transformers, example.theirs)(example.config))
    theirs.save_pretrained(tmp_path / "hf")
    rules, source, there = (
        str(EXAMPLES / f"{example.rules}.ckptmap"),
        str(tmp_path / "hf"),
        tmp_path / "mine.safetensors",
    )
    kept = ["--residue", str(tmp_path / "kept.safetensors")] if example.residue else []
    assert main(["convert", rules, source, str(there), *example.there, *kept]) == 0
    assert main(["convert", rules, str(there), str(tmp_path / "again.safetensors"), *example.there]) == 1
    assert "already, as its header says" in capsys.readouterr().err
    way = [word for word in example.home if word == "--back"]
    assert main(["convert", str(there), str(tmp_path / "home.safetensors"), *way, *kept]) == 0, capsys.readouterr().err
    with ckptmap.open_checkpoint(source) as before, ckptmap.open_checkpoint(tmp_path / "home.safetensors") as after:
        assert set(before) == set(after)
        assert all(before.read(name) == after.read(name) for name in before)


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.rules)
def test_it_loads_into_a_built_module(example: Example, tmp_path: Path) -> None:
    """No file between: the model's own shapes tell all sizes that shapes can tell, and its ties need no second rule."""
    theirs = shaken(getattr(transformers, example.theirs)(example.config))
    theirs.save_pretrained(tmp_path / "hf")
    rules = ckptmap.Rules.read(EXAMPLES / f"{example.rules}.ckptmap")
    mine = example.mine().eval()
    assert ckptmap.load_into(mine, tmp_path / "hf", rules, back="--back" in example.there) == ()
    x = inputs(example)
    with torch.no_grad():
        expected = theirs(x).logits
        torch.testing.assert_close(mine(x)[..., : expected.shape[-1]], expected, rtol=0, atol=1e-5)
