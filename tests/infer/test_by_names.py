"""Names and shapes alone: what they decide, what they leave as a guess with its question, what they never claim."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import ckptmap
from ckptmap.errors import PlanError
from ckptmap.infer.templates import templates
from ckptmap.rules.plan import bind

Shapes = dict[str, tuple[int, ...]]

LAYERS = 3


def shapes(text: str, *, layers: int = LAYERS, experts: int = 4) -> Shapes:
    """`name: sizes` lines; `#` runs over layers, `@` over experts, `*` stands for a weight and a bias of its rows."""
    found: Shapes = {}
    for line in filter(str.strip, text.splitlines()):
        name, _, sizes = line.partition(":")
        numbers = tuple(map(int, sizes.split()))
        for kind, part in (
            (("weight", numbers), ("bias", numbers[:1])) if name.strip().endswith("*") else (("", numbers),)
        ):
            whole = name.strip().removesuffix("*") + kind
            for layer in range(layers) if "#" in whole else (0,):
                for expert in range(experts) if "@" in whole else (0,):
                    found[whole.replace("#", str(layer)).replace("@", str(expert))] = part
    return found


def remap(left: Shapes, right: Shapes, *hints: str, layers: str | None = None) -> ckptmap.Remap:
    specs = ({name: ckptmap.TensorSpec(name, shape, "F32") for name, shape in side.items()} for side in (left, right))
    return ckptmap.remap(*specs, hints=hints, layers=layers)


def pairs(found: ckptmap.Remap, left: Shapes, right: Shapes) -> dict[str, tuple[str, ...]]:
    """For each right tensor that is decided, the left tensors it is made of."""
    plan = bind(found.rules, left, right, partial=True)
    return {name: one.left for one in plan.equations for name in one.right}


def lines(rules: ckptmap.Rules | None) -> set[str]:
    return {re.sub(r" +", " ", line) for line in str(rules).splitlines()}


BERT = """
bert.embeddings.word_embeddings.weight: 101 32
bert.embeddings.position_embeddings.weight: 40 32
bert.embeddings.token_type_embeddings.weight: 2 32
bert.embeddings.LayerNorm.*: 32
bert.encoder.layer.#.attention.self.query.*: 32 32
bert.encoder.layer.#.attention.self.key.*: 32 32
bert.encoder.layer.#.attention.self.value.*: 32 32
bert.encoder.layer.#.attention.output.dense.*: 32 32
bert.encoder.layer.#.attention.output.LayerNorm.*: 32
bert.encoder.layer.#.intermediate.dense.*: 72 32
bert.encoder.layer.#.output.dense.*: 32 72
bert.encoder.layer.#.output.LayerNorm.*: 32
bert.pooler.dense.*: 32 32
classifier.*: 5 32
"""

TORCH_ENCODER = """
tok_emb.weight: 101 32
pos_emb.weight: 40 32
seg_emb.weight: 2 32
emb_norm.*: 32
encoder.layers.#.self_attn.in_proj_weight: 96 32
encoder.layers.#.self_attn.in_proj_bias: 96
encoder.layers.#.self_attn.out_proj.*: 32 32
encoder.layers.#.linear1.*: 72 32
encoder.layers.#.linear2.*: 32 72
encoder.layers.#.norm1.*: 32
encoder.layers.#.norm2.*: 32
pooler.*: 32 32
head.*: 5 32
"""

LLAMA = """
model.embed_tokens.weight: 101 48
model.layers.#.self_attn.q_proj.weight: 48 48
model.layers.#.self_attn.k_proj.weight: 16 48
model.layers.#.self_attn.v_proj.weight: 16 48
model.layers.#.self_attn.o_proj.weight: 48 48
model.layers.#.mlp.gate_proj.weight: 80 48
model.layers.#.mlp.up_proj.weight: 80 48
model.layers.#.mlp.down_proj.weight: 48 80
model.layers.#.input_layernorm.weight: 48
model.layers.#.post_attention_layernorm.weight: 48
model.norm.weight: 48
lm_head.weight: 101 48
"""

META = """
tok_embeddings.weight: 101 48
layers.#.attention.wq.weight: 48 48
layers.#.attention.wk.weight: 16 48
layers.#.attention.wv.weight: 16 48
layers.#.attention.wo.weight: 48 48
layers.#.feed_forward.w1.weight: 80 48
layers.#.feed_forward.w2.weight: 48 80
layers.#.feed_forward.w3.weight: 80 48
layers.#.attention_norm.weight: 48
layers.#.ffn_norm.weight: 48
norm.weight: 48
output.weight: 101 48
"""

GPT2 = """
transformer.wte.weight: 101 32
transformer.wpe.weight: 36 32
transformer.h.#.ln_1.*: 32
transformer.h.#.attn.c_attn.weight: 32 96
transformer.h.#.attn.c_attn.bias: 96
transformer.h.#.attn.c_proj.*: 32 32
transformer.h.#.ln_2.*: 32
transformer.h.#.mlp.c_fc.weight: 32 128
transformer.h.#.mlp.c_fc.bias: 128
transformer.h.#.mlp.c_proj.weight: 128 32
transformer.h.#.mlp.c_proj.bias: 32
transformer.ln_f.*: 32
lm_head.weight: 101 32
"""


def turned(text: str) -> Shapes:
    return {
        name: shape if "wte" in name or "wpe" in name or "lm_" in name else shape[::-1]
        for name, shape in shapes(text).items()
    }


def test_a_classifier_goes_into_torchs_encoder_layers_whole() -> None:
    left, right = shapes(BERT), shapes(TORCH_ENCODER)
    found = remap(left, right)
    assert set(pairs(found, left, right)) == {name for name in right if not name.startswith("pooler")}
    assert {
        "attention.self.{query,key,value}.weight <-> self_attn.in_proj_weight : o m <-> [o + o + o] m",
        "attention.output.LayerNorm.* <-> norm1.*",
        "output.LayerNorm.* <-> norm2.*",
    } <= lines(found.rules)


def test_llamas_norms_are_not_crossed_and_rotary_rows_are_asked_about() -> None:
    left, right = shapes(LLAMA), shapes(META)
    found = remap(left, right)
    made = pairs(found, left, right)
    assert made["layers.1.attention_norm.weight"] == ("model.layers.1.input_layernorm.weight",)
    assert made["layers.1.ffn_norm.weight"] == ("model.layers.1.post_attention_layernorm.weight",)
    assert made["layers.1.feed_forward.w1.weight"] == ("model.layers.1.mlp.gate_proj.weight",)
    assert made["layers.1.feed_forward.w3.weight"] == ("model.layers.1.mlp.up_proj.weight",)
    assert not {name for name in made if ".wq." in name or ".wk." in name}
    assert "guess self_attn.q_proj.weight <-> attention.wq.weight" in lines(found.draft)
    assert "rotary" in found.undecided[0].question


def test_two_answers_decide_the_whole() -> None:
    left, right = shapes(LLAMA), shapes(META)
    answers = [
        f"model.layers.{{i}}.self_attn.{a}_proj.weight <-> layers.{{i}}.attention.w{a}.weight : (h r d) m <-> (h d r) m"
        for a in "qk"
    ]
    found = remap(left, right, "size r = 2", "size d = 4", *answers)
    assert set(pairs(found, left, right)) == set(right)
    assert not found.undecided
    assert found.draft is None
    assert found.evidence["layers.0.attention.wk.weight"] == "told by a pin"


def test_one_answer_that_rows_stay_holds_for_all() -> None:
    left, right = shapes(LLAMA), shapes(META)
    found = remap(left, right, "model.layers.{i}.self_attn.q_proj.weight <-> layers.{i}.attention.wq.weight")
    assert set(pairs(found, left, right)) == set(right)


def test_hints_that_contradict_each_other_are_refused() -> None:
    left, right = shapes(LLAMA), shapes(META)
    with pytest.raises(PlanError, match=r"model\.norm.*input_layernorm.*contradict"):
        remap(left, right, "model.norm.weight <-> norm.weight", "model.layers.0.input_layernorm.weight <-> norm.weight")


def test_saying_one_thing_twice_is_fine() -> None:
    left, right = shapes(LLAMA), shapes(META)
    hints = "model.norm.* <-> norm.*", "model.norm.weight <-> norm.weight", "model.norm.weight <-> norm.weight"
    assert remap(left, right, *hints).evidence["norm.weight"] == "told by a pin"


def test_a_hint_that_names_nothing_says_so() -> None:
    with pytest.raises(PlanError, match="no tensor"):
        remap(shapes(LLAMA), shapes(META), "transformer.wte.weight <-> tok_embeddings.weight")


@pytest.mark.parametrize("text", [BERT, TORCH_ENCODER, LLAMA, META, GPT2])
@pytest.mark.parametrize("prefix", ["", "module.", "net.0."])
def test_the_same_names_under_a_prefix_are_decided_whole(text: str, prefix: str) -> None:
    left = shapes(text)
    right = {prefix + name: shape for name, shape in left.items()}
    found = remap(left, right)
    assert pairs(found, left, right) == {prefix + name: (name,) for name in left}
    assert not found.undecided


def test_a_square_matrix_among_turned_ones_is_a_guess() -> None:
    left, right = shapes(GPT2), turned(GPT2)
    found = remap(left, right)
    made = pairs(found, left, right)
    assert "mlp.c_fc.weight <-> mlp.c_fc.weight : o m <-> m o" in lines(found.rules)
    assert not {name for name in made if name.endswith("attn.c_proj.weight")}
    assert "guess attn.c_proj.weight <-> attn.c_proj.weight : o m <-> m o" in lines(found.draft)
    told = "transformer.h.{i}.attn.c_proj.weight <-> transformer.h.{i}.attn.c_proj.weight : o m <-> m o"
    assert set(pairs(remap(left, right, told), left, right)) == set(right)


def test_gamma_is_the_weight_and_beta_the_bias() -> None:
    left = shapes(BERT)
    right = {name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): s for name, s in left.items()}
    made = pairs(remap(left, right), left, right)
    assert made["bert.embeddings.LayerNorm.gamma"] == ("bert.embeddings.LayerNorm.weight",)
    assert made["bert.encoder.layer.2.output.LayerNorm.beta"] == ("bert.encoder.layer.2.output.LayerNorm.bias",)


def test_other_layer_counts_ask_which_layers_are_meant() -> None:
    left, right = shapes(BERT, layers=6), shapes(TORCH_ENCODER, layers=2)
    found = remap(left, right)
    assert not {name for name in pairs(found, left, right) if "layers" in name}
    assert any("--layers 'first 2'" in one.question for one in found.undecided)
    for answer, expected in (("first 2", (0, 1)), ("last 2", (4, 5)), ("1,4", (1, 4))):
        made = pairs(remap(left, right, layers=answer), left, right)
        assert [made[f"encoder.layers.{n}.norm1.weight"] for n in (0, 1)] == [
            (f"bert.encoder.layer.{n}.attention.output.LayerNorm.weight",) for n in expected
        ]


@pytest.mark.parametrize("answer", ["first 3", "0,1,2", "7,8", "some", "0,0"])
def test_a_choice_of_layers_that_does_not_fit_is_refused(answer: str) -> None:
    with pytest.raises(PlanError, match="must name 2 of 6 layers"):
        remap(shapes(BERT, layers=6), shapes(TORCH_ENCODER, layers=2), layers=answer)


def test_a_choice_of_layers_without_need_is_refused() -> None:
    with pytest.raises(PlanError, match="leave the choice out"):
        remap(shapes(BERT), shapes(TORCH_ENCODER), layers="first 2")


def test_packed_projections_of_unknown_order_are_guesses() -> None:
    left = shapes(BERT)
    right = shapes(
        TORCH_ENCODER.replace("self_attn.in_proj_weight", "attention.query_key_value.weight").replace(
            "self_attn.in_proj_bias", "attention.query_key_value.bias"
        )
    )
    found = remap(left, right)
    assert not {name for name in pairs(found, left, right) if "query_key_value" in name}
    assert any("interleaved head by head" in one.question for one in found.undecided)


MOE = LLAMA.replace("mlp.gate_proj.weight: 80 48", "mlp.gate.weight: 4 48").replace(
    "model.layers.#.mlp.up_proj.weight: 80 48\nmodel.layers.#.mlp.down_proj.weight: 48 80",
    "model.layers.#.mlp.experts.gate_up_proj: 4 80 48\nmodel.layers.#.mlp.experts.down_proj: 4 48 40",
)


def meta_moe(first: str, second: str, third: str) -> Shapes:
    expert = "layers.#.feed_forward.experts.@."
    text = META.replace("feed_forward.w1.weight: 80 48", "feed_forward.gate.weight: 4 48").replace(
        "layers.#.feed_forward.w2.weight: 48 80\nlayers.#.feed_forward.w3.weight: 80 48",
        f"{expert}{first}.weight: 40 48\n{expert}{third}.weight: 48 40\n{expert}{second}.weight: 40 48",
    )
    return shapes(text)


def test_stacked_experts_are_taken_apart() -> None:
    left, right = shapes(MOE), meta_moe("w1", "w3", "w2")
    found = remap(left, right)
    assert {
        "mlp.gate.weight <-> feed_forward.gate.weight",
        "mlp.experts.gate_up_proj <-> feed_forward.experts.{j}.{w1,w3}.weight : j [o + o] m <-> o m",
        "mlp.experts.down_proj <-> feed_forward.experts.{j}.w2.weight : j o m <-> o m",
    } <= lines(found.rules)


def test_which_of_two_like_matrices_is_the_gate_is_asked() -> None:
    left, right = shapes(MOE), meta_moe("fc1", "fc2", "fc3")
    found = remap(left, right)
    made = pairs(found, left, right)
    assert "layers.0.feed_forward.experts.0.fc3.weight" in made
    assert "layers.0.feed_forward.experts.0.fc1.weight" not in made
    assert any("gate" in one.question for one in found.undecided)


def tower(name: str) -> str:
    return re.sub(r"(?m)^", f"{name}.", TORCH_ENCODER.strip())


def test_equal_towers_are_told_apart_by_their_words_only() -> None:
    left = shapes(f"{tower('text_model')}\n{tower('vision_model')}")
    right = shapes(f"{tower('visual')}\n{tower('textual')}")
    made = pairs(remap(left, right), left, right)
    assert made["visual.encoder.layers.0.norm1.weight"] == ("vision_model.encoder.layers.0.norm1.weight",)
    assert made["textual.tok_emb.weight"] == ("text_model.tok_emb.weight",)
    assert len(made) == len(right)
    nameless = shapes(f"{tower('one')}\n{tower('two')}")
    assert not {name for name in pairs(remap(left, nameless), left, nameless) if ".layers." in name}


def test_adapters_in_each_layer_leave_the_rest_decided() -> None:
    adapters = "encoder.layers.#.adapter.down.*: 8 32\nencoder.layers.#.adapter.up.*: 32 8"
    left, right = shapes(BERT), shapes(f"{TORCH_ENCODER}{adapters}")
    found = remap(left, right)
    made = pairs(found, left, right)
    assert not {name for name in made if "adapter" in name}
    assert made["encoder.layers.1.norm2.weight"] == ("bert.encoder.layer.1.output.LayerNorm.weight",)


def test_buffers_and_new_heads_are_left_over_with_a_reason() -> None:
    left = shapes(BERT)
    right = shapes(f"{TORCH_ENCODER}\nencoder.layers.#.self_attn.mask: 40 40\nextra_head.*: 7 32")
    found = remap(left, right)
    reasons = {one.name: one.reason for one in found.right_only}
    assert reasons["encoder.layers.0.self_attn.mask"] == "buffer, by its name"
    assert reasons["extra_head.weight"] == "nothing of that shape is left over on the left"


def test_a_longer_position_table_is_asked_about() -> None:
    left = shapes(BERT.replace("position_embeddings.weight: 40", "position_embeddings.weight: 42"))
    found = remap(left, shapes(TORCH_ENCODER))
    assert any("42 rows" in one.question and "40" in one.question for one in found.undecided)


def test_names_that_say_nothing_are_matched_by_unique_shapes_or_not_at_all() -> None:
    left = shapes(BERT)
    opaque = {
        "attention.self.query": "a",
        "attention.self.key": "b",
        "attention.self.value": "c",
        "attention.output.dense": "d",
        "attention.output.LayerNorm": "e",
        "intermediate.dense": "f",
        "output.dense": "g",
        "output.LayerNorm": "h",
    }

    def renamed(name: str) -> str:
        for old, new in opaque.items():
            name = name.replace(f".{old}.", f".{new}.")
        return name.replace("bert.encoder.layer", "blocks")

    right = {renamed(name): shape for name, shape in left.items()}
    made = pairs(remap(left, right), left, right)
    assert made["blocks.0.f.weight"] == ("bert.encoder.layer.0.intermediate.dense.weight",)
    assert made["blocks.0.g.bias"] == ("bert.encoder.layer.0.output.dense.bias",)
    assert not {name for name in made if re.match(r"blocks\.\d\.[abcdeh]", name)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["net.0.weight 8 4", "net.2.weight 2 8"], {"net.0.weight", "net.2.weight"}),
        (["h.0.w 4", "h.1.w 4"], {"h.{i}.w"}),
        (["fc1.weight 4", "fc2.weight 4"], {"fc1.weight", "fc2.weight"}),
        (
            [f"b.{n}.{part} 4" for n in range(4) for part in (("q", "k", "v"), ("up", "down", "n"))[n % 2]],
            {f"b.{{i}}.{part}" for part in ("kinda.q", "kinda.k", "kinda.v", "kindb.up", "kindb.down", "kindb.n")},
        ),
    ],
)
def test_digits_are_indices_only_where_modules_repeat(names: Iterable[str], expected: set[str]) -> None:
    inventory = {name: tuple(map(int, sizes)) for name, *sizes in map(str.split, names)}
    assert {str(one) for one in templates(inventory)} == expected


def test_what_is_decided_never_depends_on_the_order_of_names() -> None:
    def backwards(side: Mapping[str, tuple[int, ...]]) -> Shapes:
        return dict(reversed(side.items()))

    for left, right in ((shapes(BERT), shapes(TORCH_ENCODER)), (shapes(LLAMA), shapes(META))):
        straight = pairs(remap(left, right), left, right)
        assert pairs(remap(backwards(left), backwards(right)), left, right) == straight


def test_two_kinds_of_layers_are_never_taken_for_one(fixtures: Path) -> None:
    found = ckptmap.remap(fixtures / "llama-causal", fixtures / "roberta-cls")
    assert not found.rules.rules
    assert found.draft is not None
    assert any("do the two compute the same?" in one.question for one in found.undecided)


@pytest.mark.parametrize("name", ["a b", "a,b", "a{b", "*", "a|b", 'a"b', "<->", ""])
def test_a_name_that_no_rule_can_write_is_refused_by_name(name: str) -> None:
    with pytest.raises(PlanError, match=re.escape(repr(name))):
        remap({name: (2, 3)}, {"b": (2, 3)})
