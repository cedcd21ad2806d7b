"""Models too large to be run again and again: searched with two layers and a few rows, and then proven whole."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

import ckptmap
from ckptmap import Remap

LAYERS = 4
VOCABULARY = 400


@pytest.fixture(scope="module")
def made() -> Iterator[ModuleType]:
    """The hand-written models of the benchmark."""
    path = Path(__file__).parents[2] / "benchmarks" / "real_sizes.py"
    spec = importlib.util.spec_from_file_location("real_sizes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptmap.remapping.MOST_ELEMENTS", 100_000)


def left_of(made: ModuleType, family: str, **sizes: Any) -> torch.nn.Module:
    name, config = made.LEFT[family]
    settings = {**config, **sizes}
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**{key: value for key, value in settings.items() if key != "model_type"})).eval()


def roberta(made: ModuleType) -> tuple[torch.nn.Module, Any]:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    left = left_of(made, "roberta", **sizes, intermediate_size=160)
    return left, made.Roberta(width=96, heads=4, hidden=160, layers=LAYERS, vocabulary=VOCABULARY)


def proven(left: torch.nn.Module, right: torch.nn.Module) -> Remap:
    """The answer, which holds for weights of the left."""
    found = ckptmap.remap(left, right)
    assert found.verification is not None and found.verification.outcome == "proven", found.note
    assert not found.undecided
    assert set(found.evidence) == set(right.state_dict()) - {"head.weight"} | ({"head.weight"} & set(found.evidence))
    converted = ckptmap.convert(found.rules, left.state_dict())
    assert isinstance(converted, dict)
    right.load_state_dict(converted)
    return found


def test_every_layer_and_row_of_a_model_follows_from_a_few(made: ModuleType) -> None:
    left, right = roberta(made)
    before = {name: one.clone() for name, one in left.state_dict().items()}

    found = proven(left, right)

    assert "[roberta.encoder.layer.{i} <-> blocks.{i}]" in str(found.rules)
    ids = torch.randint(5, VOCABULARY, (2, 20))
    with torch.no_grad():
        assert torch.allclose(left(ids).logits, right.eval()(ids), atol=1e-5)
    assert all(torch.equal(one, before[name]) for name, one in left.state_dict().items()), "the model was changed"
    assert any("rows of tok.weight" in text for text in found.verification.unreached)  # type: ignore[union-attr]


@pytest.mark.parametrize("fused", [True, False])
def test_fused_projections_that_lie_the_other_way_round(made: ModuleType, fused: bool) -> None:
    sizes = {"vocab_size": VOCABULARY, "n_embd": 96, "n_layer": LAYERS, "n_head": 4}
    left = left_of(made, "gpt2", **sizes)

    proven(left, made.GPT2(width=96, heads=4, layers=LAYERS, vocabulary=VOCABULARY, fused=fused).eval())


def test_grouped_heads_in_fused_matrices(made: ModuleType) -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": LAYERS}
    left = left_of(made, "llama", **sizes, num_attention_heads=8, num_key_value_heads=2)

    proven(left, made.Llama(width=128, heads=8, groups=2, hidden=160, layers=LAYERS, vocabulary=VOCABULARY))


def test_images_whose_layers_are_a_sequence(made: ModuleType) -> None:
    sizes = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    left = left_of(made, "vit", **sizes, image_size=32, patch_size=8)
    right = made.ViT(width=96, heads=4, hidden=160, layers=LAYERS, image=32, patch=8)

    proven(left, right)


def deviate_in_eps(model: Any) -> None:
    model.blocks[LAYERS - 1].ln1.eps = 1e-12


def deviate_in_a_layer(model: Any) -> None:
    del model.blocks[LAYERS - 1]


def deviate_in_activation(model: Any) -> None:
    model.blocks[LAYERS - 2].act = "tanh"


@pytest.mark.parametrize("deviate", [deviate_in_eps, deviate_in_a_layer, deviate_in_activation])
def test_what_differs_in_a_layer_that_was_left_out_is_seen(made: ModuleType, deviate: Any) -> None:
    left, right = roberta(made)
    deviate(right)

    try:
        found = ckptmap.remap(left, right)
    except ckptmap.CkptmapError:
        return
    assert found.verification is None or found.verification.outcome != "proven"


def test_a_proof_that_memory_does_not_hold_is_told_with_what_it_takes(
    made: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptmap.align.large.free_memory", lambda: 1000)

    found = ckptmap.remap(*roberta(made))

    assert found.verification is None
    assert "GiB" in found.note and f"2 of {LAYERS} layers" in found.note and "--left-arg" in found.note
    assert found.rules.rules, "what was found is kept"
