"""Exported conversions, really loaded by from_pretrained and saved back under the original names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import conversion_mapping

from ckptmap.conversion.convert import convert
from ckptmap.errors import ExportError
from ckptmap.exporting import export
from ckptmap.rules.rules import Rules
from tests.convert.plans import State, same_bits
from tests.convert.test_random_rules import Case, cases
from tests.convert.test_worked_examples import CASES, EXAMPLES, Example, inputs, shaken

VIT_IN_MEMORY = """\
[ <-> vit.embeddings]
cls_token           <-> cls_token
pos_embed           <-> position_embeddings
patch_embed.proj.*  <-> patch_embeddings.projection.*
[]
norm.*              <-> vit.layernorm.*
head.*              <-> classifier.*
[blocks.{i} <-> vit.layers.{i}]
norm1.*             <-> layernorm_before.*
norm2.*             <-> layernorm_after.*
attn.qkv.weight     <-> attention.{q_proj,k_proj,v_proj}.weight : [o + o + o] m <-> o m
attn.qkv.bias       <-> attention.{q_proj,k_proj,v_proj}.bias   : [o + o + o] <-> o
attn.proj.*         <-> attention.o_proj.*
mlp.fc1.*           <-> mlp.fc1.*
mlp.fc2.*           <-> mlp.fc2.*
"""


@pytest.fixture
def register() -> Iterator[Callable[[str, str], dict[str, Any]]]:
    """Runs an exported file and registers it for a class, until the test ends."""

    def run(text: str, class_name: str) -> dict[str, Any]:
        module: dict[str, Any] = {"__name__": "exported"}
        exec(compile(text, "exported.py", "exec"), module)
        module["register"](class_name)
        return module

    yield run
    conversion_mapping.USER_REGISTERED_MAPPINGS.clear()
    conversion_mapping._checkpoint_conversion_mapping_cache = None  # transformers' own are made again when asked for


def example(name: str) -> Example:
    return next(case for case in CASES if case.rules == name)


def loads_and_saves(cls: Any, folder: Path, state: State) -> Any:
    """from_pretrained with nothing missing, save_pretrained with equal names and bits."""
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    model.save_pretrained(folder / "saved")
    assert same_bits(load_file(folder / "saved" / "model.safetensors"), state)
    return model.eval()


# Rules whose left side is the hand-built module's and whose right side is what the class holds in memory.
CONVERTED = {
    "vit-timm": VIT_IN_MEMORY,
    "llama-meta": str(Rules.read(EXAMPLES / "llama-meta.ckptmap").inverse()),
    "neox-split": str(Rules.read(EXAMPLES / "neox-split.ckptmap").inverse()).replace("embed_out", "lm_head"),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_a_hand_built_checkpoint_in_a_class_of_transformers(
    name: str, tmp_path: Path, register: Callable[[str, str], dict[str, Any]]
) -> None:
    torch.manual_seed(0)
    case = example(name)
    mine = shaken(case.mine())
    state = {key: tensor.contiguous() for key, tensor in mine.state_dict().items()}
    case.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    rules = Rules.parse(CONVERTED[name])
    register(export(rules, "transformers", state, config=case.config.to_dict()), case.theirs)
    model = loads_and_saves(getattr(transformers, case.theirs), tmp_path, state)
    x = inputs(case)
    with torch.no_grad():
        torch.testing.assert_close(model(x).logits, mine(x), rtol=0, atol=1e-5)


def test_experts_are_stacked_by_operations_of_transformers(
    tmp_path: Path, register: Callable[[str, str], dict[str, Any]]
) -> None:
    """One tensor per expert on disk, twelve of them, so that 10 sorts after 9; a stack in memory."""
    case = example("mixtral-stacked")
    theirs = shaken(transformers.MixtralForCausalLM(case.config))
    theirs.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    text = export(EXAMPLES / "mixtral-stacked.ckptmap", "transformers", state)
    assert "[MergeModulelist(dim=0), Concatenate(dim=1)]" in text
    assert "Rearrange" not in text
    register(text, "MixtralForCausalLM")
    model = loads_and_saves(transformers.MixtralForCausalLM, tmp_path, state)
    assert same_bits(dict(model.state_dict()), dict(theirs.state_dict()))


class ToyConfig(transformers.PretrainedConfig):
    model_type = "toy-of-these-tests"


class Toy(transformers.PreTrainedModel):
    """A class of one's own: grouped queries in one layer, a transposed one, experts transposed, swapped names."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(7, 6)
        self.layers = nn.ModuleList(nn.ModuleDict({"qkv": nn.Linear(6, 12), "out": nn.Linear(6, 6)}) for _ in range(11))
        self.experts = nn.Parameter(torch.zeros(3, 6, 4))
        self.one, self.two = nn.Linear(6, 2), nn.Linear(6, 2)
        self.post_init()


TOY = """\
tok.weight <-> embed.weight
experts.{e}.w.weight <-> experts : f m <-> e m f
one.* <-> two.*
two.* <-> one.*
[h.{i+1} <-> layers.{i}]
{q,k,v}.{n:weight|bias} <-> qkv.{n} : q ..., k ..., k ... <-> [q + k + k] ...
out.weight <-> out.weight : a b <-> b a
out.bias <-> out.bias
"""


def toy_checkpoint() -> State:
    torch.manual_seed(0)
    state = {"tok.weight": torch.randn(7, 6)} | {f"experts.{e}.w.weight": torch.randn(4, 6) for e in range(3)}
    for i in range(1, 12):
        for word, rows in (("q", 6), ("k", 3), ("v", 3), ("out", 6)):
            state |= {f"h.{i}.{word}.weight": torch.randn(rows, 6), f"h.{i}.{word}.bias": torch.randn(rows)}
    for word in ("one", "two"):
        state |= {f"{word}.weight": torch.randn(2, 6), f"{word}.bias": torch.randn(2)}
    return state


def test_a_class_of_ones_own(tmp_path: Path, register: Callable[[str, str], dict[str, Any]]) -> None:
    state, rules = toy_checkpoint(), Rules.parse(TOY)
    ToyConfig().save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    text = export(rules, "transformers", state, Toy(ToyConfig()).state_dict())
    assert "$" not in text
    assert "Transpose(0, 1)" in text
    register(text, "Toy")
    model = loads_and_saves(Toy, tmp_path, state)
    assert torch.equal(model.layers[10].qkv.weight[6:9], state["h.11.k.weight"])
    assert torch.equal(model.one.weight, state["two.weight"])
    assert torch.equal(model.experts[2], state["experts.2.w.weight"].T)
    assert torch.equal(model.layers[0].out.weight, state["h.1.out.weight"].T)


def test_unequal_parts_are_cut_by_the_model() -> None:
    """Chunk cuts equal parts only; Split asks the model."""
    rules = Rules.parse("qkv.{i} <-> {q,k,v}.{i} : [q + k + k] <-> q, k, k")
    state = {"qkv.0": torch.zeros(8), "q.0": torch.zeros(4), "k.0": torch.zeros(2), "v.0": torch.zeros(2)}
    text = export(rules, "transformers", {"qkv.0": state.pop("qkv.0")}, state)
    assert "Split(dim=0)" in text


REFUSED = {
    "roberta-encoder-layers": "line 7: a part of roberta.embeddings.position_embeddings.weight is nothing (`_`)",
    "gpt2-nanogpt": "line 4: a part of transformer.wte.weight is zeros on the other side",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_home_is_refused_by_name(name: str) -> None:
    case = example(name)
    theirs = getattr(transformers, case.theirs)(case.config).state_dict()
    ties = {"lm_head.weight"} if name == "gpt2-nanogpt" else set()
    theirs = {key: tensor for key, tensor in theirs.items() if key not in ties}
    with pytest.raises(ExportError) as refused:
        export(EXAMPLES / f"{name}.ckptmap", "transformers", theirs, case.mine().state_dict())
    assert REFUSED[name] in str(refused.value)
    assert "--to python says everything" in str(refused.value)
    assert refused.value.rules == ((7,) if name.startswith("roberta") else (4,))


def test_everything_that_cannot_be_said_is_told_at_once() -> None:
    rules = Rules.parse("a <-> _\nb, b <-> c, d\nx.{e}.{f} <-> y : scalar <-> e f\n")
    state = {"a": torch.zeros(2), "b": torch.zeros(2), **{f"x.{e}.{f}": torch.zeros(()) for e in "01" for f in "01"}}
    with pytest.raises(ExportError) as refused:
        export(rules, "transformers", state)
    assert str(refused.value).splitlines()[:3] == [
        "transformers cannot say the rule in line 1: a is nothing (`_`) on the other side. Put `maybe` before the rule "
        "and leave the tensor out: --exclude a.",
        "transformers cannot say the rule in line 2: it names one tensor twice, and transformers gives a tensor to one "
        "rule.",
        "transformers cannot say the rule in line 3: x.{e}.{f} is stacked along two indices, and one is all there can "
        "be.",
    ]
    assert refused.value.rules == (1, 2, 3)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_random_rules_are_said_or_refused(case: Case) -> None:
    """What is handed over has been loaded and saved by transformers; the rest is refused with lines."""
    rules, state = Rules.parse(case.text), case.tensors(0, torch.float32)
    try:
        export(rules, "transformers", state, sizes=case.sizes)
    except ExportError as refused:
        assert refused.rules == (1,), refused


class Plain(transformers.PreTrainedModel):
    """Names and nothing else to convert."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(7, 6)
        self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(6, 12), "norm": nn.LayerNorm(6)}) for _ in range(11))
        self.norm = nn.LayerNorm(6)
        self.post_init()


PLAIN = """\
cls_token <-> embed.weight
norm.{n:gamma|beta} <-> norm.{n:weight|bias}
[encoder.block_{i} <-> layers.{i}]
fc.* <-> up.*
norm.{n:gamma|beta} <-> norm.{n:weight|bias}
"""


def test_key_mapping_there_and_home(tmp_path: Path) -> None:
    plain = shaken(Plain(ToyConfig()))
    ToyConfig().save_pretrained(tmp_path)
    rules = Rules.parse(PLAIN)
    text = export(rules, "key-mapping", None, plain.state_dict())
    assert json.loads(text)[r"^encoder\.block_(\d+)\.fc\.weight"] == r"layers\.\1\.up\.weight"
    state = convert(rules, plain.state_dict(), back=True)
    save_file(
        {name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    model, info = Plain.from_pretrained(tmp_path, key_mapping=json.loads(text), output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"])
    assert same_bits(dict(model.state_dict()), dict(plain.state_dict()))
    model.save_pretrained(tmp_path / "saved")
    assert same_bits(load_file(tmp_path / "saved" / "model.safetensors"), state)


def test_names_in_a_chain_are_put_in_order_and_circles_refused() -> None:
    chain = Rules.parse("a <-> b\nb <-> c\nc <-> d")
    state = {name: torch.randn(2) for name in "abc"}
    assert list(json.loads(export(chain, "key-mapping", state)).items()) == [("^c", "d"), ("^b", "c"), ("^a", "b")]
    circle = Rules.parse("a <-> b\nb <-> a\nc <-> d")
    with pytest.raises(
        ExportError, match=r"lines? 1: its new names are old names of other rules in a circle"
    ) as refused:
        export(circle, "key-mapping", state)
    assert refused.value.rules == (1, 2)
    assert "Rearrange" in export(circle, "transformers", state)


def test_key_mapping_refuses_layouts_by_name() -> None:
    with pytest.raises(ExportError, match=r"line 1: tensors differ in more than their names") as refused:
        export(
            Rules.parse("a <-> b : x y <-> y x\nc <-> d"), "key-mapping", {"a": torch.zeros(2, 3), "c": torch.zeros(1)}
        )
    assert refused.value.rules == (1,)
