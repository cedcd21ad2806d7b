"""Bases and residues: they give what has no source, and nothing that has one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckptmap.conversion.convert import Conversion, convert
from ckptmap.errors import ConvertError, PlanError
from ckptmap.rules.rules import Rules
from tests.convert.plans import State, read, same_bits, save

GROWN = Rules.parse("a <-> b\n_, p <-> q : k m, p m <-> [k + p] m\n_ <-> head.{i}.*")


def grown() -> State:
    return {"a": torch.randn(4), "p": torch.randn(3, 2)}


def made(rules: Rules, state: State, **options: object) -> State:
    there = convert(rules, state, **options)  # type: ignore[arg-type]
    assert isinstance(there, dict)
    return there


def test_a_base_may_hold_only_what_is_needed() -> None:
    """Not all of the written side: rows of one tensor, and a head that nothing else tells of."""
    state, base = grown(), {"q": torch.randn(5, 2), "head.1.weight": torch.randn(2, 4)}
    there = made(GROWN, state, base=base)
    assert there.keys() == {"b", "q", "head.1.weight"}
    assert torch.equal(there["q"], torch.cat([base["q"][:2], state["p"]]))
    assert torch.equal(there["head.1.weight"], base["head.1.weight"])


def test_without_the_base_the_size_is_asked_for() -> None:
    with pytest.raises(PlanError, match="p: the size of k is unknown; give --size k="):
        convert(GROWN, grown())


def test_what_has_a_source_is_not_taken_from_the_base() -> None:
    """A base of another size is no reason to refuse what does not come from it."""
    state, base = grown(), {"b": torch.zeros(9), "q": torch.randn(5, 2)}
    assert torch.equal(made(GROWN, state, base=base)["b"], state["a"])


def test_a_base_that_does_not_fit_what_it_fills() -> None:
    with pytest.raises(PlanError, match=r"p: a dimension of 2 cannot be \[k \+ p\] with p = 3"):
        convert(GROWN, grown(), base={"q": torch.zeros(2, 2)})
    with pytest.raises(ConvertError, match=r"q: is \[6, 2\] in the base and would be \[5, 2\]"):
        convert(GROWN, grown(), base={"q": torch.zeros(6, 2)}, sizes={"k": 2})


def test_what_a_base_has_and_no_rule_names_is_told(tmp_path: Path) -> None:
    told = convert(
        GROWN, grown(), tmp_path / "b.safetensors", base={"q": torch.zeros(5, 2), "lm_head.bias": torch.zeros(1)}
    )
    assert isinstance(told, Conversion)
    assert told.missing == ("lm_head.bias",)


# Each kind of rule that loses something, what it is run on, what must be told, and what is kept.
RESIDUES: dict[str, tuple[str, State, dict[str, int], set[str]]] = {
    "a whole tensor": ("x <-> y\nbuffer <-> _", {"x": torch.randn(2), "buffer": torch.randn(3)}, {}, {"buffer"}),
    "every layer's": (
        "h.{i}.w <-> l.{i}.w\nh.{i}.mask <-> _",
        {f"h.{i}.{n}": torch.randn(2) for i in range(2) for n in ("w", "mask")},
        {},
        {"h.0.mask", "h.1.mask"},
    ),
    "rows": ("x <-> _, y : [k + p] m <-> k m, p m", {"x": torch.randn(5, 2)}, {"k": 2}, {"x[0:0:2]"}),
    "rows in the middle": (
        "x <-> y, _, z : [a + k + b] <-> a, k, b",
        {"x": torch.randn(9)},
        {"a": 2, "k": 3},
        {"x[0:2:3]"},
    ),
    "columns of a transposed one": (
        "x <-> y, _ : m [p + k] <-> p m, k m",
        {"x": torch.randn(3, 5)},
        {"k": 2},
        {"x[1:3:2]"},
    ),
    "a part of each head": (
        "x <-> {q,k}, _ : (h [d + d + e]) m <-> (h d) m, (h d) m, (h e) m",
        {"x": torch.randn(10, 2)},
        {"h": 2, "e": 1},
        {"x[1:4:1]"},
    ),
    "a part of what is stacked": (
        "x.{e} <-> y, _ : [f + k] m <-> e f m, k e m",
        {f"x.{e}": torch.randn(5, 2) for e in range(11)},
        {"k": 2},
        {f"x.{e}[0:3:2]" for e in range(11)},
    ),
    "a transposed one beside": (
        "x <-> y : a b <-> b a\nz <-> _",
        {"x": torch.randn(2, 3), "z": torch.randn(())},
        {},
        {"z"},
    ),
}


@pytest.mark.parametrize("case", RESIDUES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_residue_makes_every_kind_of_rule_whole(tmp_path: Path, case: str, dtype: torch.dtype) -> None:
    text, state, sizes, kept_names = RESIDUES[case]
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    rules, kept = Rules.parse(text), {}
    there = made(rules, state, residue=kept, sizes=sizes)
    assert set(kept) == kept_names
    again = made(rules, there, back=True, residue=kept, sizes=sizes)
    assert same_bits(again, state)

    source, file, residue = (
        save(tmp_path / "a.safetensors", state),
        tmp_path / "b.safetensors",
        tmp_path / "kept.safetensors",
    )
    convert(rules, source, file, residue=residue, sizes=sizes)
    assert same_bits(read(file), there)
    convert(None, file, tmp_path / "c.safetensors", back=True, residue=residue)
    assert same_bits(read(tmp_path / "c.safetensors"), state)
    # A file that was trained in between says nothing of the sizes; the residue does.
    convert(rules, save(tmp_path / "d.safetensors", there), tmp_path / "e.safetensors", back=True, residue=residue)
    assert same_bits(read(tmp_path / "e.safetensors"), state)


def test_a_residue_of_another_size_does_not_stand_in_the_way() -> None:
    """A head trained for more labels comes back beside what was kept of the rest."""
    rules, kept = Rules.parse("head <-> top\nbuffer <-> _"), {}
    there = made(rules, {"head": torch.randn(2, 3), "buffer": torch.ones(2)}, residue=kept)
    there["top"] = torch.randn(5, 3)
    again = made(rules, there, back=True, residue=kept)
    assert again["head"].shape == (5, 3)
    assert torch.equal(again["buffer"], torch.ones(2))


def test_a_residue_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    rules = Rules.parse("x <-> _, y : [k + p] m <-> k m, p m\nbuffer <-> _")
    kept = {"x[0:0:2]": torch.zeros(3, 3), "buffer": torch.zeros(2)}
    source = save(tmp_path / "a.safetensors", {"y": torch.zeros(3, 2)})
    with pytest.raises(ConvertError, match=r"x\[0:0:2\]: is \[3, 3\] in the residue and would be \[2, 2\]; give one"):
        convert(rules, source, tmp_path / "b.safetensors", back=True, residue=kept, sizes={"k": 2})
    assert not (tmp_path / "b.safetensors").exists()
