"""Patterns match, expand and overlap exactly."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptmap.rules.names import STAR, STARS, Choice, Group, Index, NamePattern
from ckptmap.rules.overlap import PatternTree, overlap
from ckptmap.rules.text import read_name

INDICES = st.builds(Index, st.sampled_from("ij"), st.integers(1, 3), st.integers(-1, 2))
CHOICES = st.sampled_from(
    [Choice("n", ("a", "b")), Choice("n", ("b", "0")), Choice("m", ("a", "1")), Choice("m", ("ab", "x"))]
)
SEGMENTS = st.one_of(
    st.just(STAR),
    st.sampled_from(["a", "b", "ab", "0", "1", "3", "a1"]).map(lambda text: (text,)),
    INDICES.map(lambda index: (index,)),
    CHOICES.map(lambda choice: (choice,)),
    INDICES.map(lambda index: ("a", index)),
    INDICES.map(lambda index: (index, "b")),
)
PATTERNS = st.builds(
    lambda segments, rest: NamePattern((*segments, *([STARS] if rest else []))),
    st.lists(SEGMENTS, min_size=1, max_size=2),
    st.booleans(),
)
WORDS = [
    "a",
    "b",
    "ab",
    "a1",
    "ab0",
    "x",
    *map(str, range(40)),
    *(f"a{n}" for n in range(40)),
    *(f"{n}b" for n in range(40)),
]


ALL = [*WORDS, *map(".".join, product(WORDS, WORDS)), *(f"{a}.x.x" for a in WORDS), *(f"{a}.x.0" for a in WORDS)]


def possible(one: NamePattern, other: NamePattern) -> list[str]:
    """Names of which each segment by itself fits both patterns: few enough to try all."""

    def words(at: int) -> list[str]:
        kept = WORDS
        for pattern in (one, other):
            if at < len(pattern.segments) and pattern.segments[at] != STARS:
                alone = NamePattern((pattern.segments[at],)).matcher()
                kept = [word for word in kept if alone.match(word) is not None]
        return kept

    first, second = words(0), words(1)
    pairs = [f"{a}.{b}" for a in first for b in second]
    return [*first, *pairs, *(f"{name}.x" for name in pairs)]


@given(PATTERNS, PATTERNS)
@settings(max_examples=150, deadline=None)
def test_overlap_agrees_with_enumeration(one: NamePattern, other: NamePattern) -> None:
    ours, theirs = one.matcher(), other.matcher()
    met = any(ours.match(name) is not None and theirs.match(name) is not None for name in possible(one, other))
    assert overlap(one, other) == overlap(other, one) == met


@given(st.lists(PATTERNS, min_size=1, max_size=5), PATTERNS)
@settings(deadline=None)
def test_the_tree_finds_every_pattern_that_matters(patterns: list[NamePattern], wanted: NamePattern) -> None:
    tree: PatternTree[int] = PatternTree()
    for number, pattern in enumerate(patterns):
        tree.add(pattern, number)
    near = set(tree.near(wanted))
    assert {number for number, pattern in enumerate(patterns) if overlap(pattern, wanted)} <= near
    for name in ALL[::197]:
        matched = {number for number, pattern in enumerate(patterns) if pattern.matcher().match(name) is not None}
        assert matched <= set(tree.candidates(name))


@given(PATTERNS, st.integers(1, 6), st.integers(1, 6), st.integers(0, 1))
def test_what_is_written_is_matched(pattern: NamePattern, i: int, j: int, at: int) -> None:
    binding = {"i": i, "j": j, "n": at, "m": 0, "*0": "x", "*1": "y", STARS: "p.q"}
    found = pattern.matcher().match(pattern.expand(binding))
    assert found == {key: value for key, value in binding.items() if key in pattern.variables}


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("a.{i}.w", "a.07.w", None),
        ("a.{i}.w", "a.7.w", {"i": 7}),
        ("a.{2*i+1}", "a.4", None),
        ("a.{2*i+1}", "a.5", {"i": 2}),
        ("a.{i-1}", "a.0", {"i": 1}),
        ("{i}.{i}", "1.2", None),
        ("x.{n:a|b}", "x.c", None),
        ("x.*", "x.a.b", None),
        ("x.**", "x.a.b", {"**": "a.b"}),
        ("x.**", "x", None),
    ],
)
def test_matching(pattern: str, name: str, found: dict[str, int | str] | None) -> None:
    assert read_name(pattern).matcher().match(name) == found


def test_a_group_is_its_words_in_order() -> None:
    pattern = read_name("attn.{q,k,v}_proj.weight")
    assert pattern.segments[1] == (Group(("q", "k", "v")), "_proj")
    assert [str(term) for term in pattern.terms()] == [f"attn.{w}_proj.weight" for w in "qkv"]
    assert str(pattern) == "attn.{q,k,v}_proj.weight"
