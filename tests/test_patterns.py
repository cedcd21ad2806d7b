"""Patterns stand for exactly their names."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from ckptmap.patterns import Pattern, group


def lines(names: list[str], traits: dict[str, object] | None = None) -> list[str]:
    return [str(pattern) for pattern in group(names, traits)]


def expand(pattern: Pattern) -> list[str]:
    return [".".join(words) for words in product(*pattern.segments)]


def test_layers_and_siblings_become_one_line() -> None:
    names = [
        f"roberta.encoder.layer.{i}.attention.self.{part}.weight"
        for i in range(12)
        for part in ("query", "key", "value")
    ]
    (pattern,) = group(names)
    assert str(pattern) == "roberta.encoder.layer.{0..11}.attention.self.{query,key,value}.weight"
    assert len(pattern) == 36


def test_ten_comes_after_nine() -> None:
    names = [f"h.{i}.w" for i in ("0", "1", "10", "11", "2")]
    assert lines(names) == ["h.{0..2,10,11}.w"]


def test_what_differs_in_a_trait_stays_apart() -> None:
    traits = {"a.0.w": "F32", "a.1.w": "F32", "a.2.w": "BF16"}
    assert lines(list(traits), traits) == ["a.{0,1}.w", "a.2.w"]


def test_indices_without_a_full_grid_are_told_apart() -> None:
    names = ["l.0.e.0", "l.0.e.1", "l.1.e.0", "l.1.e.1", "l.2.e.0"]
    assert lines(names) == ["l.{0,1}.e.{0,1}", "l.2.e.0"]


def test_digits_within_a_word_are_no_index() -> None:
    assert lines(["fc1.weight", "fc2.weight"]) == ["{fc1,fc2}.weight"]


def test_a_number_with_a_leading_zero_keeps_it() -> None:
    assert lines(["x.01.w", "x.02.w"]) == ["x.{01,02}.w"]


def test_ninety_thousand_experts_are_a_few_lines() -> None:
    names = [
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
        for layer in range(3, 61)
        for expert in range(256)
        for part in ("gate", "up", "down")
    ]
    assert lines(names) == ["model.layers.{3..60}.mlp.experts.{0..255}.{gate_proj,up_proj,down_proj}.weight"]


def test_a_number_too_long_for_a_count_is_a_word() -> None:
    names = [f"x.{'9' * 5000}.w", "x.1.w"]
    assert sum(len(pattern) for pattern in group(names)) == 2


def test_braces_and_commas_of_a_name_are_escaped() -> None:
    assert lines(["a.{0,1}.w"]) == ["a.\\{0\\,1\\}.w"]
    assert lines(["a.x,y", "a.z\\"]) == ["a.{x\\,y,z\\\\}"]
    assert group(["a.{0}"])[0].first == "a.{0}"


segment = st.sampled_from(["a", "b", "weight", "0", "1", "2", "10", "07"])
name = st.lists(segment, min_size=1, max_size=4).map(".".join)


@given(st.lists(name, unique=True), st.data())
def test_patterns_cover_every_name_once(names: list[str], data: st.DataObject) -> None:
    traits = {name: data.draw(st.sampled_from("xy")) for name in names}
    patterns = group(names, traits)
    expanded = [name for pattern in patterns for name in expand(pattern)]
    assert sorted(expanded) == sorted(names)
    assert all(len({traits[name] for name in expand(pattern)}) == 1 for pattern in patterns)
    assert all(len(expand(pattern)) == len(pattern) and expand(pattern)[0] == pattern.first for pattern in patterns)
