"""Two checkpoints of the same weights are matched by them, whatever their names, layouts, dtypes and files."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ckptmap
from ckptmap.__main__ import main
from ckptmap.errors import ArchitectureError
from ckptmap.infer.compile import elements_of
from ckptmap.rules.plan import bind
from tests.convert.test_random_rules import Case, cases
from tests.convert.test_worked_examples import CASES, EXAMPLES, Example, shaken

State = dict[str, torch.Tensor]


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def llama(layers: int = 3, *, norms: bool = True) -> State:
    """A Llama of transformers, its norms trained or as they are made: ones."""
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=30,
    )
    model = transformers.LlamaForCausalLM(config)
    return copied((shaken(model) if norms else model).state_dict())


def meta(state: State) -> State:
    """The same as Meta publishes it."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return made(ckptmap.Rules.read(EXAMPLES / "llama-meta.ckptmap"), state, config=heads)


def made(rules: ckptmap.Rules, state: State, **options: object) -> State:
    found = ckptmap.convert(rules, state, **options)  # type: ignore[arg-type]
    assert isinstance(found, dict)
    return copied(found)


def copied(state: Mapping[str, torch.Tensor]) -> State:
    """Tensors of their own, so that nothing but their values tells that they are equal."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def elements(
    rules: ckptmap.Rules, left: State, right: State, config: Mapping[str, object] | None = None
) -> dict[str, numpy.ndarray]:
    shapes = [{name: tuple(tensor.shape) for name, tensor in side.items()} for side in (left, right)]
    return elements_of(bind(rules, *shapes, partial=True, config=config), *shapes)


def pairs(found: ckptmap.Remap, left: State, right: State) -> dict[str, tuple[str, ...]]:
    """For each right tensor that a rule gives, the left tensors it is made of."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in side.items()} for side in (left, right)]
    return {name: one.left for one in bind(found.rules, *shapes, partial=True).equations for name in one.right}


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "as made"])
@pytest.mark.parametrize("example", CASES, ids=lambda example: example.rules)
def test_what_values_decide_is_what_the_authors_own_rules_say(example: Example, trained: bool) -> None:
    """Rotary rows, square transposes, packed and interleaved projections, stacked experts: nothing of it is a guess."""
    rules = ckptmap.Rules.read(EXAMPLES / f"{example.rules}.ckptmap")
    model = getattr(transformers, example.theirs)(example.config)
    model = shaken(model) if trained else model
    config, theirs, back = model.config.to_dict(), _on_disk(model), "--back" in example.there
    sizes = {"p": 34} if "p=34" in example.there else None
    right = made(rules, theirs, back=back, sizes=sizes, config=config)
    example.mine().load_state_dict(right, strict=True)

    found = ckptmap.remap(theirs, right)

    truth = elements(rules.inverse() if back else rules, theirs, right, config)
    shown = elements(found.rules, theirs, right)
    assert all((truth[name] == array).all() for name, array in shown.items())
    assert found.verification is not None
    assert found.verification.passed
    assert found.draft is None
    whole = {name for name, array in truth.items() if (array >= 0).all()}
    assert {name for name in whole if trained or truth[name].ndim > 1} <= set(shown)


@pytest.mark.parametrize("part", [0.3, 0.7])
@pytest.mark.parametrize("example", CASES, ids=lambda example: example.rules)
def test_where_a_part_was_trained_since_all_is_right_or_asked(example: Example, part: float) -> None:
    """Layers that differ go as those that do not, packed and stacked ones too; the rest is accounted for."""
    rules = ckptmap.Rules.read(EXAMPLES / f"{example.rules}.ckptmap")
    config = copy.deepcopy(example.config)
    config.num_hidden_layers = 5
    theirs, back = _on_disk(shaken(getattr(transformers, example.theirs)(config))), "--back" in example.there
    sizes = {"p": 34} if "p=34" in example.there else None
    right = made(rules, theirs, back=back, sizes=sizes, config=config.to_dict())
    chance = random.Random(1)
    right = {name: tensor + torch.randn(tensor.shape) * (chance.random() < part) for name, tensor in right.items()}

    found = ckptmap.remap(theirs, right)

    truth = elements(rules.inverse() if back else rules, theirs, right, config.to_dict())
    shown = elements(found.rules, theirs, right)
    assert all((truth[name] == array).all() for name, array in shown.items())
    guessed = elements(found.draft, theirs, right) if found.draft is not None else {}
    asked = {name for one in found.undecided for name in one.right}
    tied = {line.split()[-1] for line in str(found.rules).splitlines() if line.startswith("tie right")}
    assert set(right) == {*shown, *guessed, *asked, *tied, *(one.name for one in found.right_only)}


def _on_disk(model: transformers.PreTrainedModel) -> State:
    """What `save_pretrained` writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def test_a_checkpoint_of_one_dtype_is_matched_to_one_of_another() -> None:
    left = llama()
    right = meta(left)
    wide = made(ckptmap.Rules.parse("ckptmap 1\n** <-> **\n"), right, dtype="BF16")
    for ours, theirs, cast in (
        (left, wide, "rounded to BF16"),
        (
            copied({n: t.bfloat16() for n, t in left.items()}),
            copied({n: t.float() for n, t in wide.items()}),
            "widened to F32",
        ),
    ):
        found = ckptmap.remap(ours, theirs)
        assert len(found.evidence) == len(right)
        assert all(cast in why for why in found.evidence.values())
        assert found.verification is not None
        assert found.verification.casts == {cast: len(right)}


def test_names_that_tell_nothing_do_not_matter() -> None:
    left = llama()
    right = meta(left)
    names = random.Random(0).sample(list(right), len(right))
    opaque = {f"p{number}": right[name] for number, name in enumerate(names)}
    found = ckptmap.remap(left, opaque)
    truth = ckptmap.remap(left, right)
    assert not found.undecided
    expected = pairs(truth, left, right)
    assert pairs(found, left, opaque) == {f"p{number}": expected[name] for number, name in enumerate(names)}


def test_other_weights_decide_nothing() -> None:
    left, right = llama(norms=False), meta(llama(norms=False))
    found, unseen = ckptmap.remap(left, right), ckptmap.remap(left, right, values=False)
    assert found.verification is None
    assert "decide nothing" in found.note
    assert found.rules == unseen.rules
    assert [one.question for one in found.undecided] == [one.question for one in unseen.undecided]
    assert "its values differ" in found.evidence["output.weight"]


def test_constants_are_left_to_names_and_prove_nothing() -> None:
    left = llama(norms=False)
    found = ckptmap.remap(left, meta(left))
    assert not found.undecided
    assert found.evidence["norm.weight"] == "both are the last norm by name; its values are equal"
    assert found.verification is not None
    proven = {right for _, right in found.verification.compared}
    assert "norm.weight" not in proven
    assert "layers.0.attention.wq.weight" in proven
    nameless = {f"p{number}": tensor for number, tensor in enumerate(meta(left).values())}
    left_open = {name for one in ckptmap.remap(left, nameless).undecided for name in one.right}
    assert left_open == {name for name, tensor in nameless.items() if (tensor == 1).all()}


def test_a_head_that_was_trained_since_rests_on_its_name() -> None:
    left = llama()
    right = meta(left) | {"output.weight": weights(30, 16)}
    found = ckptmap.remap(left, right)
    assert not found.undecided
    assert pairs(found, left, right)["output.weight"] == ("lm_head.weight",)
    assert found.evidence["output.weight"].endswith("its values differ")
    assert found.verification is not None
    assert len(found.verification.compared) == len(right) - 1


def test_what_holds_in_the_other_layers_holds_in_one_that_was_trained() -> None:
    left = llama(4)
    right = meta(left) | {"layers.2.attention.wq.weight": weights(16, 16)}
    found, whole = ckptmap.remap(left, right), ckptmap.remap(left, meta(left))
    assert found.rules == whole.rules
    assert (
        found.evidence["layers.2.attention.wq.weight"]
        == "as in other layers, whose values are equal; its values differ"
    )


@pytest.mark.parametrize("where", [(17, 3), (17,)], ids=["an element", "a row"])
def test_what_differs_anywhere_is_not_decided_by_values(where: tuple[int, ...]) -> None:
    left = {"a": weights(300, 200), "b": weights(300)}
    right = {"x": left["a"].clone(), "y": left["b"].clone()}
    right["x"][where] += 1
    found = ckptmap.remap(left, right)
    assert found.verification is not None
    assert [name for _, name in found.verification.compared] == ["y"]
    assert "x" not in found.evidence or found.evidence["x"].endswith("its values differ")


@pytest.mark.parametrize("norms", [True, False])
def test_values_tell_which_layers_of_a_longer_stack_are_meant(norms: bool) -> None:
    left = llama(6, norms=norms)
    kept = {
        name.replace(f"layers.{2 * i}.", f"layers.{i}."): t
        for i in range(3)
        for name, t in left.items()
        if f"layers.{2 * i}." in name
    }
    right = copied(kept | {name: t for name, t in left.items() if "layers." not in name})
    found = ckptmap.remap(left, right)
    assert not found.undecided
    assert "[model.layers.{2*i} <-> model.layers.{i}]" in str(found.rules)
    assert len(found.evidence) == len(right)


def test_layers_in_another_order_are_found_where_they_are() -> None:
    left = llama(3)
    right = {
        name.replace("layers.0.", "layers.9.").replace("layers.2.", "layers.0.").replace("layers.9.", "layers.2."): t
        for name, t in meta(left).items()
    }
    found = ckptmap.remap(left, right)
    assert pairs(found, left, right)["layers.2.attention.wq.weight"] == ("model.layers.0.self_attn.q_proj.weight",)
    assert not found.undecided


def test_norms_do_not_go_by_names_into_layers_that_values_put_elsewhere() -> None:
    left = llama(3, norms=False)
    right = {
        name.replace("layers.0.", "layers.9.").replace("layers.2.", "layers.0.").replace("layers.9.", "layers.2."): t
        for name, t in meta(left).items()
    }
    found = ckptmap.remap(left, right)
    decided = pairs(found, left, right)
    assert decided["layers.1.attention_norm.weight"] == ("model.layers.1.input_layernorm.weight",)
    assert "layers.0.attention_norm.weight" not in decided
    assert "layers.0.attention_norm.weight" in {name for one in found.undecided for name in one.right}


def test_rows_that_only_the_right_has_are_asked_about_and_the_answer_is_taken() -> None:
    left = llama()
    right = meta(left)
    right["tok_embeddings.weight"] = torch.cat([right["tok_embeddings.weight"], weights(4, 16)])
    (asked,) = ckptmap.remap(left, right).undecided
    assert "holds the 30 rows of model.embed_tokens.weight, and 4 more" in asked.question
    pin = asked.question.partition("--pin '")[2].partition("'")[0]
    found = ckptmap.remap(left, right, hints=[pin])
    assert not found.undecided
    back = ckptmap.remap(right, left)
    assert not back.undecided
    assert "<-> model.embed_tokens.weight, _" in str(back.rules)
    assert torch.equal(made(back.rules, right)["model.embed_tokens.weight"], left["model.embed_tokens.weight"])


def test_tensors_of_equal_values_are_tied_or_told_apart_by_their_names() -> None:
    table = weights(30, 16)
    twice = {"emb.weight": table, "head.weight": table.clone()}
    once = {"tok": table.clone()}
    assert "tie left emb.weight = head.weight" in str(ckptmap.remap(twice, once).rules)
    assert "tie right emb.weight = head.weight" in str(ckptmap.remap(once, twice).rules)
    same = copied({f"model.{name}": tensor for name, tensor in twice.items()})
    found = ckptmap.remap(twice, same)
    assert pairs(found, twice, same) == {"model.emb.weight": ("emb.weight",), "model.head.weight": ("head.weight",)}
    (asked,) = ckptmap.remap(twice, {"a": table.clone(), "b": table.clone()}).undecided
    assert "all hold equal values: which is which?" in asked.question


def test_rows_in_an_order_of_no_layout_are_told_and_left_open() -> None:
    left = {"a": weights(40, 16)} | {f"experts.{number}": weights(12, 10) for number in range(3)}
    right = {"x": left["a"][torch.randperm(40)], "y": torch.stack([left[f"experts.{number}"] for number in (2, 0, 1)])}
    found = ckptmap.remap(left, right)
    assert not found.rules.rules
    assert {one.right: "in an order that one rule cannot say" in one.question for one in found.undecided} == {
        ("x",): True,
        ("y",): True,
    }


def test_axes_of_kernels_and_heads_may_stand_in_any_order() -> None:
    left = {"conv": weights(16, 12, 3, 3), "q": weights(32, 48), "a": weights(32, 24), "b": weights(32, 40)}
    right = {
        "kernel": left["conv"].permute(2, 3, 1, 0).contiguous(),
        "heads": left["q"].view(4, 8, 48).transpose(1, 2).contiguous(),
        "ab": torch.cat([left["a"], left["b"]], 1),
    }
    found = ckptmap.remap(left, right)
    assert {name: tensor.shape for name, tensor in made(found.rules, left).items()} == {
        n: t.shape for n, t in right.items()
    }
    assert all(torch.equal(tensor, right[name]) for name, tensor in made(found.rules, left).items())


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2))
def test_whatever_the_layout_nothing_is_claimed_that_bits_deny(case: Case, wide: int) -> None:
    # Axes as long as real ones are, where only one of them can be.
    sizes = {
        axis: size if axis in "eh" else size + 8 * (number % 3 == wide)
        for number, (axis, size) in enumerate(case.sizes.items())
    }
    case = dataclasses.replace(case, sizes=sizes)
    left = {name: torch.randn(tensor.shape) for name, tensor in case.tensors(0, torch.float32).items()}
    told = "".join(f"size {axis} = {size}\n" for axis, size in sizes.items() if axis in case.text)
    right = made(ckptmap.Rules.parse(f"ckptmap 1\n{told}{case.text}\n"), left, partial=True)
    found = ckptmap.remap(left, right)
    result = made(found.rules, left, partial=True)
    for _, name in found.verification.compared if found.verification else ():
        assert torch.equal(result[name], right[name])


def test_values_are_looked_at_where_they_are_unless_told_otherwise() -> None:
    left = llama()
    right = meta(left)
    specs = {name: ckptmap.TensorSpec(name, tuple(tensor.shape), "F32") for name, tensor in right.items()}
    assert ckptmap.remap(left, right, values=False).draft is not None
    assert ckptmap.remap(left, specs).draft is not None
    assert ckptmap.remap(left, {name: tensor.to("meta") for name, tensor in right.items()}).draft is not None
    arrays = {name: tensor.numpy() for name, tensor in right.items()}
    assert ckptmap.remap(left, arrays).draft is None  # type: ignore[arg-type]
    with pytest.raises(ArchitectureError, match="values are compared between checkpoints and state dicts"):
        ckptmap.remap(left, specs, values=True)


def test_files_and_shards_are_compared_from_the_command_line(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = load_file(fixtures / "roberta-cls" / "model.safetensors")
    mine = tmp_path / "mine.safetensors"
    save_file({name.replace("roberta.", "net.").replace("layer.", "blocks."): t for name, t in single.items()}, mine)
    sharded = str(fixtures / "roberta-cls-sharded")
    assert main(["remap", sharded, str(mine), "--why"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("proven by values: ")
    assert "  net.embeddings.word_embeddings.weight: equal values\n" in text
    assert main(["remap", sharded, str(mine), "--no-values"]) == 1
    assert main(["remap", sharded, str(mine), "--no-values", "--no-verify"]) == 0
    assert "not proven" in capsys.readouterr().out
    assert main(["remap", sharded, str(mine), "--save", str(tmp_path / "saved.safetensors")]) == 0
    saved = load_file(tmp_path / "saved.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in load_file(mine).items())


def test_a_constant_bias_does_not_follow_the_columns_of_a_square_weight() -> None:
    turned = torch.arange(16).view(4, 4).T.reshape(16)
    left = {"out.weight": weights(16, 16), "out.bias": torch.zeros(16), "in.weight": weights(16, 16)}
    left["in.bias"] = torch.zeros(16)
    right = {
        "o.weight": left["out.weight"][:, turned],
        "o.bias": torch.zeros(16),
        "i.weight": left["in.weight"].clone(),
        "i.bias": torch.zeros(16),
    }
    found = ckptmap.remap(left, right)
    assert pairs(found, left, right)["i.bias"] == ("in.bias",)
    assert "o.weight" in pairs(found, left, right)
    assert "o.bias" not in pairs(found, left, right)


def test_a_trained_head_is_not_lost_to_the_table_that_it_was_tied_to() -> None:
    left = llama()
    left["lm_head.weight"] = left["model.embed_tokens.weight"].clone()
    right = meta(left) | {"output.weight": weights(30, 16)}
    found = ckptmap.remap(left, right)
    assert pairs(found, left, right)["output.weight"] == ("lm_head.weight",)
    assert pairs(found, left, right)["tok_embeddings.weight"] == ("model.embed_tokens.weight",)
    assert "tie" not in str(found.rules)


def test_experts_of_some_layers_are_stacked_where_those_of_others_were_trained() -> None:
    left = {f"h.{layer}.{expert}.w": weights(12, 10) for layer in range(4) for expert in range(3)}
    right = {f"s.{layer}": torch.stack([left[f"h.{layer}.{expert}.w"] for expert in range(3)]) for layer in range(4)}
    right["s.1"], right["s.2"] = weights(3, 12, 10), weights(3, 12, 10)
    found = ckptmap.remap(left, right)
    assert found.verification is not None
    assert {name for _, name in found.verification.compared} == {"s.0", "s.3"}
    shown = made(found.rules, left, partial=True)
    assert torch.equal(shown["s.3"], right["s.3"])
