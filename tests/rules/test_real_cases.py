"""The table of real cases in docs/rules.md, row by row: each is there, and runs both ways, bit for bit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ckptmap.conversion.convert import convert
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import Provenance, Rule, Rules, Section, Size, Tie
from tests.convert.plans import State, same_bits
from tests.convert.test_state_dicts import any_bits

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
SECTION = re.search(r"^## Real cases\n(.*?)(?=^## )", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]  # type: ignore[index]
BLOCKS = re.findall(r"^```ckptmap\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
DOCUMENTED = [Rules.parse(block, str(PAGE)) for block in BLOCKS]

Shapes = dict[str, tuple[int, ...]]

# What people know a case by: lines of the page, the tensors of the left, sizes, and the names that come out.
CASES: dict[str, tuple[str, Shapes, dict[str, int], Shapes]] = {
    "prefix": (
        "bert.** <-> encoder.**",
        {"bert.a.weight": (2, 3), "bert.pooler.b": (4,)},
        {},
        {"encoder.a.weight": (2, 3), "encoder.pooler.b": (4,)},
    ),
    "prefix of a section": (
        "[roberta.encoder.layer.{i} <-> blocks.{i}]\nintermediate.dense.* <-> linear1.*",
        {f"roberta.encoder.layer.{i}.intermediate.dense.{n}": (2, 3) for i in (0, 10, 9) for n in ("weight", "bias")},
        {},
        {f"blocks.{i}.linear1.{n}": (2, 3) for i in (0, 10, 9) for n in ("weight", "bias")},
    ),
    "gamma and beta": (
        "x.LayerNorm.{n:gamma|beta} <-> x.LayerNorm.{n:weight|bias}",
        {"x.LayerNorm.gamma": (2,), "x.LayerNorm.beta": (2,)},
        {},
        {"x.LayerNorm.weight": (2,), "x.LayerNorm.bias": (2,)},
    ),
    "weight norm, old and parametrized": (
        "conv.{n:weight_g|weight_v} <-> conv.parametrizations.weight.{n:original0|original1}",
        {"conv.weight_g": (2, 1, 1), "conv.weight_v": (2, 3, 4)},
        {},
        {
            "conv.parametrizations.weight.original0": (2, 1, 1),
            "conv.parametrizations.weight.original1": (2, 3, 4),
        },
    ),
    "every second slot of a Sequential": (
        "mlp.{i}.weight <-> net.{2*i+1}.weight",
        {f"mlp.{i}.weight": (2,) for i in range(6)},
        {},
        {f"net.{i}.weight": (2,) for i in range(1, 12, 2)},
    ),
    "shifted index": (
        "attn_queries.{i} <-> layers.{i+1}.attention_input.query",
        {f"attn_queries.{i}": (2,) for i in range(10)},
        {},
        {f"layers.{i}.attention_input.query": (2,) for i in range(1, 11)},
    ),
    "one tensor twice": (
        "shared.weight, shared.weight <-> enc.tokens.weight, dec.tokens.weight",
        {"shared.weight": (3, 2)},
        {},
        {"enc.tokens.weight": (3, 2), "dec.tokens.weight": (3, 2)},
    ),
    "Conv1D": (
        "c_attn.weight <-> c_attn2.weight : a b <-> b a",
        {"c_attn.weight": (2, 3)},
        {},
        {"c_attn2.weight": (3, 2)},
    ),
    "RoPE, any number of key-value heads": (
        "size r = 2\nk_proj.weight <-> wk.weight : (kv r d) m <-> (kv d r) m",
        {"k_proj.weight": (24, 3)},
        {"kv": 3},
        {"wk.weight": (24, 3)},
    ),
    "heads as a dimension": (
        "size heads = config.num_attention_heads\no_proj.weight <-> o.kernel : (heads d) m <-> heads m d",
        {"o_proj.weight": (6, 5)},
        {"heads": 3},
        {"o.kernel": (3, 5, 2)},
    ),
    "QKV end to end, grouped queries": (
        "a.{q,k,v}.weight <-> a.qkv.weight : q m, k m, v m <-> [q + k + v] m",
        {"a.q.weight": (8, 3), "a.k.weight": (2, 3), "a.v.weight": (2, 3)},
        {"q": 8, "k": 2},
        {"a.qkv.weight": (12, 3)},
    ),
    "QKV by head": (
        "b.qkv.weight <-> b.{q,k,v}.weight : (h [d + d + d]) m <-> (h d) m",
        {"b.qkv.weight": (12, 3)},
        {"h": 2},
        {f"b.{n}.weight": (4, 3) for n in "qkv"},
    ),
    "QKV by group": (
        "c.qkv.weight <-> c.{q,k,v}.weight : (g [t d + d + d]) m <-> (g t d) m, (g d) m, (g d) m",
        {"c.qkv.weight": (20, 3)},
        {"g": 2, "t": 3},
        {"c.q.weight": (12, 3), "c.k.weight": (4, 3), "c.v.weight": (4, 3)},
    ),
    "one key and value head for all": (
        "d.c_attn.weight <-> d.Wqkv.weight : [h d + d + d] m <-> [h d + *h d + *h d] m",
        {"d.c_attn.weight": (10, 3)},
        {"h": 3},
        {"d.Wqkv.weight": (18, 3)},
    ),
    "gate and up, fused": (
        "e.{gate,up}.weight <-> e.gate_up.weight : f m <-> [f + f] m",
        {"e.gate.weight": (4, 3), "e.up.weight": (4, 3)},
        {},
        {"e.gate_up.weight": (8, 3)},
    ),
    "gate and up, interleaved": (
        "f.{gate,up}.weight <-> f.gate_up.weight : f m <-> (f [1 + 1]) m",
        {"f.gate.weight": (4, 3), "f.up.weight": (4, 3)},
        {},
        {"f.gate_up.weight": (8, 3)},
    ),
    "experts stacked and fused": (
        "experts.{e}.{w1,w3}.weight <-> experts.gate_up_proj : f m <-> e [f + f] m",
        {f"experts.{e}.{w}.weight": (2, 3) for e in range(11) for w in ("w1", "w3")},
        {},
        {"experts.gate_up_proj": (11, 4, 3)},
    ),
    "experts stacked and padded": (
        "experts.{e}.w2.weight, 0 <-> experts.down_proj : m f, e m p <-> e m [f + p]",
        {f"experts.{e}.w2.weight": (3, 2) for e in range(11)},
        {"p": 2},
        {"experts.down_proj": (11, 3, 4)},
    ),
    "scanned layers": (
        "layers.{i}.q.weight <-> q.kernel : (h d) m <-> i m h d",
        {f"layers.{i}.q.weight": (6, 4) for i in range(11)},
        {"h": 3},
        {"q.kernel": (11, 4, 3, 2)},
    ),
    "unit axes": ("cls <-> cls_token : c <-> 1 1 c", {"cls": (4,)}, {}, {"cls_token": (1, 1, 4)}),
    "patch embedding": (
        "patch <-> proj : o c kh kw <-> o (c kh kw)",
        {"patch": (2, 3, 2, 2)},
        {"c": 3, "kh": 2},
        {"proj": (2, 12)},
    ),
    "scalar": ("scale <-> logit : scalar <-> 1", {"scale": ()}, {}, {"logit": (1,)}),
    "padded vocabulary": (
        "wte.weight, 0 <-> tok.weight : v m, p m <-> [v + p] m",
        {"wte.weight": (5, 2)},
        {"p": 3},
        {"tok.weight": (8, 2)},
    ),
    "tied head": (
        "tie left wte.weight = lm_head.weight\nwte.weight, 0 <-> tok.weight : v m, p m <-> [v + p] m",
        {"wte.weight": (5, 2), "lm_head.weight": (5, 2)},
        {"p": 0},
        {"tok.weight": (5, 2)},
    ),
    "rows of a position table": (
        "position.weight <-> _, pos.weight : [k + p] m <-> k m, p m",
        {"position.weight": (6, 2)},
        {"k": 2},
        {"pos.weight": (4, 2)},
    ),
    "a segment table padded by a row": (
        "segment.weight, _ <-> seg.weight : t m, k m <-> [t + k] m",
        {"segment.weight": (2, 3)},
        {"k": 1},
        {"seg.weight": (3, 3)},
    ),
    "buffers": ("maybe rotary.inv_freq <-> _", {"rotary.inv_freq": (4,)}, {}, {}),
    "a new head": ("maybe _ <-> score.weight", {}, {}, {"score.weight": (3, 4)}),
}


def lines(rules: Rules) -> set[object]:
    """Rules with whole names, ties and sizes: what a file says, however it is laid out."""
    return {*rules.rules, *(s for s in rules.statements if isinstance(s, Tie | Size))}


def plain(statements: set[object]) -> set[str]:
    """Told apart by what they say, not by their comments."""
    return {str(Rules((s,))).partition("  #")[0].strip() for s in statements if isinstance(s, Rule | Tie | Size)}


@pytest.mark.parametrize("case", CASES)
def test_it_is_in_the_page(case: str) -> None:
    assert any(plain(lines(Rules.parse(CASES[case][0]))) <= plain(lines(page)) for page in DOCUMENTED), CASES[case][0]


def test_every_line_of_the_page_is_run_here() -> None:
    documented = set().union(*(plain(lines(page)) for page in DOCUMENTED))
    run = set().union(*(plain(lines(Rules.parse(text))) for text, *_ in CASES.values()))
    assert documented == run
    assert not any(isinstance(s, Provenance) for page in DOCUMENTED for s in page.statements)
    assert any(isinstance(s, Section) for page in DOCUMENTED for s in page.statements)


@pytest.mark.parametrize("case", CASES)
def test_it_runs_both_ways(case: str) -> None:
    text, left, sizes, right = CASES[case]
    torch.manual_seed(0)
    rules = Rules.parse(text)
    state: State = {name: any_bits(shape, torch.float32) for name, shape in left.items()}
    if "lm_head.weight" in state:
        state["lm_head.weight"] = state["wte.weight"]
    # A base gives what has no source on the left: the row of a table, the head.
    base: State = {name: any_bits(shape, torch.float32) for name, shape in right.items()}
    kept: State = {}
    there = convert(rules, state, sizes=sizes, residue=kept, base=base if "_" in text.split("<->")[0] else None)
    assert isinstance(there, dict)
    assert {name: tuple(tensor.shape) for name, tensor in there.items()} == right
    again = convert(rules, there, back=True, sizes=sizes, residue=kept)
    assert same_bits(again, state)  # type: ignore[arg-type]
    # Bound to both sides, and from the right alone, it is the same equations.
    both, home = bind(rules, left, right, sizes=sizes), bind(rules, None, right, sizes=sizes, hints=left)
    assert set(both.left) == set(left) == set(home.left)
    assert set(both.right) == set(right) == set(home.right)
