"""Exports that are names alone, read as their readers read them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from ckptmap.errors import ExportError, PlanError
from ckptmap.exporting import export
from ckptmap.exports.vllm import Mapper
from ckptmap.rules.rules import Rules

LLAMA = """\
size m = 4
model.embed.weight <-> tok.weight
maybe model.layers.{i}.self_attn.rotary_emb.inv_freq <-> _
[model.layers.{i} <-> layers.{i}]
self_attn.{q_proj,k_proj,v_proj}.weight <-> attn.qkv_proj.weight : q m, k m, k m <-> [q + k + k] m
mlp.{w1,w3}.weight <-> ff.gate_up.weight : f m <-> [f + f] m
{n:ln1|ln2}.* <-> {n:norm_a|norm_b}.*
"""


def llama() -> dict[str, torch.Tensor]:
    state = {"model.embed.weight": torch.zeros(9, 4)}
    for i in range(11):
        at = f"model.layers.{i}."
        state |= {
            f"{at}self_attn.{word}_proj.weight": torch.zeros(rows, 4)
            for word, rows in zip("qkv", (8, 4, 4), strict=True)
        }
        state |= {f"{at}mlp.w{n}.weight": torch.zeros(6, 4) for n in (1, 3)}
        state |= {f"{at}ln{n}.{word}": torch.zeros(4) for n in (1, 2) for word in ("weight", "bias")}
        state |= {f"{at}self_attn.rotary_emb.inv_freq": torch.zeros(2)}
    return state


def vllm_mapper(text: str) -> Mapper:
    """The exported object; the class is the one thing that is not vLLM's own."""
    names: dict[str, Any] = {"WeightsMapper": Mapper}
    exec(re.sub("from vllm.*", "", text), names)
    return names["hf_to_vllm_mapper"]


def test_vllm_renames_drops_and_names_the_parts_of_a_layer() -> None:
    text = export(Rules.parse(LLAMA), "vllm", llama())
    assert "from vllm.model_executor.models.utils import WeightsMapper" in text
    mapper = vllm_mapper(text)
    assert mapper.map("model.embed.weight") == ("tok.weight", None)
    assert mapper.map("model.layers.10.self_attn.rotary_emb.inv_freq") is None
    assert mapper.map("model.layers.10.self_attn.k_proj.weight") == ("layers.10.attn.qkv_proj.weight", "k")
    assert mapper.map("model.layers.3.mlp.w3.weight") == ("layers.3.ff.gate_up.weight", 1)
    assert mapper.map("model.layers.3.ln2.bias") == ("layers.3.norm_b.bias", None)
    assert mapper.orig_to_new_stacked[".q_proj."] == (".qkv_proj.", "q")


def test_vllm_entries_are_whole_names_in_an_order_without_chains() -> None:
    text = export(
        Rules.parse("a.w <-> b.w\nb.w <-> c.w\naa.w <-> d.w"),
        "vllm",
        {n: torch.zeros(1) for n in ("a.w", "b.w", "aa.w")},
    )
    mapper = vllm_mapper(text)
    assert [mapper.map(name) for name in ("a.w", "b.w", "aa.w")] == [("b.w", None), ("c.w", None), ("d.w", None)]
    assert all(
        pattern.pattern.startswith("^") and pattern.pattern.endswith("$") for pattern in mapper.orig_to_new_regex
    )


def test_vllm_refuses_a_stacked_entry_that_another_name_would_meet() -> None:
    rules = Rules.parse("x.{q,k}.weight <-> x.qk.weight : a m, a m <-> [a + a] m\ny.q.weight <-> z.q.weight")
    state = {name: torch.zeros(2, 2) for name in ("x.q.weight", "x.k.weight", "y.q.weight")}
    with pytest.raises(ExportError, match=r"line 2: y.q.weight would become \('z.qk.weight', 0\)"):
        export(rules, "vllm", state)


@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        ("a <-> b : x y <-> y x", (2, 3)),
        ("a <-> b : (h r d) m <-> (h d r) m", (8, 2)),
        ("a <-> b.{e} : e m <-> m", (2, 3)),
    ],
)
def test_vllm_refuses_other_layouts(rule: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match=r"vllm cannot say the rule in line 1: its tensors are laid out anew"):
        export(Rules.parse(rule), "vllm", {"a": torch.zeros(shape)}, sizes={"h": 2, "r": 2})


def test_torchtune_reads_the_dict_both_ways() -> None:
    state = {name: tensor for name, tensor in llama().items() if not re.search(r"q_proj|k_proj|v_proj|mlp", name)}
    rules = Rules.parse("\n".join(line for line in LLAMA.splitlines() if "{q_proj" not in line and "{w1" not in line))
    names: dict[str, Any] = {}
    exec(export(rules, "torchtune", state), names)
    assert names["FROM_LEFT"] == {
        "model.embed.weight": "tok.weight",
        "model.layers.{}.self_attn.rotary_emb.inv_freq": None,
        "model.layers.{}.ln1.weight": "layers.{}.norm_a.weight",
        "model.layers.{}.ln1.bias": "layers.{}.norm_a.bias",
        "model.layers.{}.ln2.weight": "layers.{}.norm_b.weight",
        "model.layers.{}.ln2.bias": "layers.{}.norm_b.bias",
    }


@pytest.mark.parametrize(
    ("rule", "names", "why"),
    [
        ("a.{i}.{j}.w <-> b.{i}.{j}.w", ["a.0.1.w", "a.1.1.w"], "has another number"),
        ("a.{i} <-> b.{i+1}", ["a.0", "a.1"], "has another number"),
        ("a.{n:0|1} <-> b.{n:x|y}", ["a.0", "a.1"], "and names like it become"),
        ("a <-> b : x <-> x 1", ["a"], "differ in more than their names"),
        ("a <-> _", ["a"], "is nothing"),
    ],
)
def test_torchtune_refuses_what_one_number_cannot_say(rule: str, names: list[str], why: str) -> None:
    with pytest.raises(ExportError, match=rf"torchtune cannot say the rule in line 1: .*{why}"):
        export(Rules.parse(rule), "torchtune", {name: torch.zeros(1) for name in names})


@pytest.mark.parametrize("target", ["key-mapping", "vllm", "torchtune", "transformers"])
def test_a_second_name_in_the_checkpoint_is_refused(target: str) -> None:
    rules = Rules.parse("tie left a = c\na <-> b")
    with pytest.raises(ExportError, match=r"line 1: c is a a second time. Leave it out: --exclude c"):
        export(rules, target, {"a": torch.zeros(1), "c": torch.zeros(1)})


def test_json_needs_no_checkpoint_and_reads_back() -> None:
    rules = Rules.parse(LLAMA)
    assert Rules.from_json(json.loads(export(rules, "json"))) == rules
    assert Rules.from_json(json.loads(export(rules, "json", back=True))) == rules.inverse()


@pytest.mark.parametrize("target", ["key-mapping", "vllm", "torchtune", "transformers", "python"])
def test_the_others_need_one(target: str) -> None:
    with pytest.raises(PlanError, match=f"{target}: an export is run before it is handed over"):
        export(Rules.parse("a <-> b"), target)


def test_rules_without_lines_are_told_by_the_lines_they_would_have() -> None:
    """Rules that a program made stand in no file."""
    made = Rules.from_json(
        {"ckptmap": 1, "statements": [*Rules.parse("a <-> b : x y <-> y x").to_json()["statements"]]}
    )
    with pytest.raises(ExportError, match="line 1"):
        export(made, "key-mapping", {"a": torch.zeros(2, 3)})
