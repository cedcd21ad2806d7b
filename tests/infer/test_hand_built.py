"""What other people build, with names that tell nothing: all of it is found, and gives equal outputs on new inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import ckptmap
from ckptmap.errors import ArchitectureError
from tests.handbuilt import opaque_encoders as built
from tests.handbuilt.opaque_encoders import CLASSES, EACH, HEADS, INNER, LAYERS, PLACES, WIDTH, WORDS


def bert(kind: str = "SequenceClassification", labels: int = CLASSES) -> nn.Module:
    import transformers

    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=PLACES,
        num_labels=labels,
    )
    model: nn.Module = getattr(transformers, f"BertFor{kind}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + 0.5 * (parameter.ndim < 2))
    return model


def some(seed: int, batch: int = 2, length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids, and which of two segments each belongs to."""
    ids = torch.randint(5, WORDS, (batch, length), generator=torch.Generator().manual_seed(seed))
    kinds = torch.zeros_like(ids)
    kinds[:, length // 2 :] = 1
    return ids, kinds


def source(ids: torch.Tensor, kinds: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "token_type_ids": kinds}


def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    found: torch.Tensor = model(**inputs).logits
    return found


def in_dict(*values: torch.Tensor) -> Any:
    return (dict(zip("abc", values, strict=False)),)


SHAPES: dict[str, tuple[type[nn.Module], Callable[..., Any], Callable[[Any], torch.Tensor]]] = {
    "einsum": (built.Einsum, lambda *values: values, lambda made: made[0]),
    "convolutions": (built.Convolutions, lambda *values: values, lambda made: made["y"]),
    "fused": (built.Fused, in_dict, lambda made: made[1]),
    "torch": (built.Torchs, lambda ids, kinds: (ids, kinds, torch.ones_like(ids)), lambda made: made),
}


def agree(right: nn.Module, left: nn.Module, given: Callable[..., Any], read: Callable[[Any], torch.Tensor]) -> None:
    """All weights go over, and both give the same for ids that nobody has seen."""
    found = ckptmap.remap(left, right, inputs=(source(*some(1)), given(*some(1))))
    assert found.verification is not None and found.verification.passed
    assert not found.undecided and not found.right_only
    made = ckptmap.convert(found.rules, left.state_dict(), partial=True)
    assert isinstance(made, dict)
    right.load_state_dict(made)
    with torch.no_grad():
        wanted, got = logits(left, source(*some(9, 3, 11))), read(right.eval()(*given(*some(9, 3, 11))))
    assert torch.allclose(wanted, got, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_classifier_whose_names_tell_nothing_is_found_whole(shape: str) -> None:
    build, given, read = SHAPES[shape]
    agree(build(), bert(), given, read)


def test_a_bare_encoder_with_a_module_for_each_head_takes_all_but_the_head() -> None:
    left, right = bert(), built.OneModulePerHead()
    found = ckptmap.remap(left, right, inputs=(source(*some(1)), some(1)))
    assert not found.undecided and not found.right_only
    assert {one.name.split(".")[0] for one in found.left_only} == {"classifier", "bert"}
    made = ckptmap.convert(found.rules, left.state_dict(), partial=True)
    assert isinstance(made, dict)
    wanted = left.state_dict()["bert.encoder.layer.1.attention.self.key.weight"][2 * EACH : 3 * EACH]
    assert torch.equal(made["y.1.hs.2.p.weight"], wanted)


def test_rows_of_a_projection_that_is_fused_head_by_head_go_where_they_are_used() -> None:
    left = bert()
    found = ckptmap.remap(left, built.Fused(), inputs=(source(*some(1)), in_dict(*some(1))))
    made = ckptmap.convert(found.rules, left.state_dict(), partial=True)
    assert isinstance(made, dict)
    state = left.state_dict()
    parts = [state[f"bert.encoder.layer.0.attention.self.{name}.bias"] for name in ("query", "key", "value")]
    assert torch.equal(made["l.0.i.bias"], torch.stack([one.reshape(HEADS, EACH) for one in parts], 1).reshape(-1))


def test_a_key_bias_is_found_beside_its_weight_whatever_it_is_called() -> None:
    left = bert()
    found = ckptmap.remap(left, built.Einsum(), inputs=(source(*some(1)), some(1)))
    made = ckptmap.convert(found.rules, left.state_dict(), partial=True)
    assert isinstance(made, dict)
    key = left.state_dict()["bert.encoder.layer.0.attention.self.key.bias"]
    assert torch.equal(made["q.0.cc"], key.reshape(HEADS, EACH))
    assert "cannot change the outputs" in found.evidence["q.0.cc"]


def test_outputs_that_are_alike_at_first_go_in_order() -> None:
    left, right = bert("QuestionAnswering", 2), built.Spans()
    found = ckptmap.remap(left, right, inputs=(source(*some(1)), in_dict(*some(1))))
    made = ckptmap.convert(found.rules, left.state_dict(), partial=True)
    assert isinstance(made, dict)
    assert torch.equal(made["h.0.weight"], left.state_dict()["qa_outputs.weight"])


@pytest.mark.parametrize("labels", [1, CLASSES])
def test_one_example_is_enough(labels: int) -> None:
    given = some(1, 1)
    right = built.Fused(labels)
    found = ckptmap.remap(bert(labels=labels), right, inputs=(source(*given), in_dict(*given)))
    assert found.verification is not None and found.verification.passed
    assert not found.undecided and not found.right_only


def test_a_loss_beside_the_scores_changes_nothing() -> None:
    given = (*some(1), torch.tensor([0, 2]))
    found = ckptmap.remap(bert(), built.Fused(), inputs=(source(*some(1)), in_dict(*given)))
    assert not found.undecided and not found.right_only


def test_arguments_without_a_default_get_what_their_names_ask_for() -> None:
    found = ckptmap.remap(bert(), built.Torchs())
    assert not found.undecided and not found.right_only


def test_models_that_agree_only_while_most_of_them_is_filled_alike_are_refused() -> None:
    given = some(1)
    with pytest.raises(ArchitectureError, match="do not compute the same function"):
        ckptmap.remap(bert(), built.WithoutFirstNorm(), inputs=(source(*given), given))


class Residual(nn.Module):
    """Two convolutions with rectifiers, one dropout for both; narrow, so that units are often switched off."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        names = ["b", "a", "c", "d"] if swapped else ["a", "b", "c", "d"]
        for name in names:
            setattr(self, name, nn.Conv2d(3 if name == "a" else 6, 6, 3, padding=1))
            setattr(self, name + "n", nn.BatchNorm2d(6))
        self.out = nn.Linear(6, 4)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in "abcd":
            x = self.drop(torch.relu(getattr(self, name + "n")(getattr(self, name)(x))))
            x = nn.functional.max_pool2d(x, 2) if x.shape[-1] > 1 else x
        scores: torch.Tensor = self.out(x.mean((2, 3)))
        return scores


def test_convolutions_are_found_though_rectifiers_switch_units_off_and_maps_shrink_to_a_point() -> None:
    torch.manual_seed(5)
    left, right = Residual(swapped=False), Residual(swapped=True)
    x = torch.randn(2, 3, 8, 8)
    found = ckptmap.remap(left, right, inputs=((x,), (x,)))
    assert not found.undecided
    made = ckptmap.convert(found.rules, left.state_dict(), partial=True)
    assert isinstance(made, dict)
    assert all(torch.equal(made[name], tensor) for name, tensor in left.state_dict().items())
