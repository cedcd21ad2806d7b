"""Binding: what is computed, what is refused and how it is said."""

from __future__ import annotations

import time

import pytest
import torch

from ckptmap.errors import PlanError
from ckptmap.rules.plan import Plan, bind
from ckptmap.rules.rules import Rules
from tests.rules.interpreter import run

Shapes = dict[str, tuple[int, ...]]


def problems(text: str, left: Shapes, right: Shapes | None = None, **told: object) -> str:
    with pytest.raises(PlanError) as caught:
        bind(Rules.parse(text, "f"), left, right, **told)  # type: ignore[arg-type]
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "left", "right", "said"),
    [
        (
            "a <-> b",
            {"a": (1,), "x": (2,)},
            None,
            "f: no rule covers left tensor x [2]. Add one, or leave it out: `x <-> _`.",
        ),
        ("a <-> b", {"a": (1,)}, {"b": (1,), "y": (2,)}, "no rule covers right tensor y [2]"),
        (
            "a <-> b",
            {"a": (1,)} | {f"h.{n}.{word}": (2,) for n in range(9) for word in "kv"},
            {"b": (1,)},
            "no rule covers left tensors h.{0..8}.{k,v} [2]. Add one, or leave them out: `h.{i}.{k,v} <-> _`.",
        ),
        (
            "a <-> b\nc <-> d",
            {"a": (1,)},
            None,
            "f:2: matches nothing: no tensor is called c. Delete it, or put `maybe`",
        ),
        ("a <-> b", {"a": (1,)}, {}, "f:1: there is no right tensor b, which goes with a. Correct the name"),
        ("a, c <-> b, d", {"a": (1,)}, None, "f:1: there is no left tensor c, which goes with a."),
        ("a <-> b", {"a": (1,)}, {"b": (2,)}, "f:1: a, b: `...` would be [1] and [2], which differ."),
        ("a <-> b : x y <-> y x", {"a": (1, 2)}, {"b": (1, 2)}, "f:1: a, b: a dimension of"),
        ("a <-> b : x y <-> y x", {"a": (1,)}, None, "f:1: a: [1] has 1 dimensions, x y has 2."),
        (
            "size r = 3\na <-> b : (h r) <-> (r h)",
            {"a": (4,)},
            None,
            "f:2: a: a dimension of 4 cannot be (h r) with r = 3.",
        ),
        ("a <-> b : (h r) <-> (r h)", {"a": (4,)}, None, "f:1: a: the size of h, r is unknown; give --size h=…."),
        (
            "a.{e} <-> b : m <-> e m",
            {"a.0": (1,), "a.2": (1,)},
            None,
            "f:1: a.0, a.2: {e} runs to 2 without 1. Stacked tensors are counted from 0 without holes.",
        ),
        (
            "a.{e} <-> b : m <-> e m",
            {"a.0": (1,), "a.1": (2,)},
            None,
            "f:1: a.0 is [1] and a.1 is [2], and both are to be stacked.",
        ),
        (
            "size e = 3\na.{e} <-> b : m <-> e m",
            {"a.0": (1,)},
            None,
            "f:2: a.0: e is 3, and left names count 1. Correct the size.",
        ),
        (
            "tie left a = c\na <-> b",
            {"a": (1,), "c": (2,)},
            None,
            "f:1: a is [1] and c is [2]: one tensor has one shape.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(text: str, left: Shapes, right: Shapes | None, said: str) -> None:
    assert said in problems(text, left, right)


def test_all_problems_are_told_together() -> None:
    assert len(problems("a <-> b\nc <-> d", {"x": (1,), "y": (2,)}).splitlines()) == 4


def test_sizes_come_from_the_caller_the_file_and_the_config() -> None:
    text = "size h = config.text.heads\nsize r\na <-> b : (h r d) <-> (h d r)"
    plan = bind(Rules.parse(text), {"a": (24,)}, config={"text": {"heads": 3}}, sizes={"r": 2})
    assert plan.equations[0].blocks[0].shape == (3, 2, 4)


def test_ten_comes_after_nine() -> None:
    left = {f"a.{e}": torch.full((1,), float(e)) for e in sorted(range(12), key=str)}
    plan = bind(Rules.parse("a.{e} <-> b : m <-> e m"), dict.fromkeys(left, (1,)))
    assert run(plan, left, {})["b"].flatten().tolist() == list(map(float, range(12)))


def test_partial_lists_what_it_leaves_out() -> None:
    plan = bind(Rules.parse("a, c <-> b, d\ne <-> f"), {"a": (1,), "e": (1,), "x": (2,)}, partial=True)
    assert plan.uncovered_left == ("x", "a")
    assert dict(plan.left) == {"e": (1,)}


def test_a_number_below_zero_is_no_name() -> None:
    rules = Rules.parse("l.{i} <-> b.{i-1}", "f")
    assert dict(bind(rules, {"l.1": (1,), "l.10": (1,)}).right) == {"b.0": (1,), "b.9": (1,)}
    assert dict(bind(rules, None, {"b.0": (1,)}).left) == {"l.1": (1,)}
    said = problems("l.{i} <-> b.{i-1}", {"l.0": (1,), "l.1": (1,)})
    assert said == (
        "f:1: l.0: {i-1} in b.{i-1} would be below 0. Write `{i+1}` for `{i}` throughout the rule, "
        "and give l.0 a rule of its own."
    )
    assert "l.0: {i-1} in b.{i-1} would be below 0" in problems("l.{i} <-> b.{i-1}", {"l.0": (1,)}, {"b.0": (1,)})
    assert bind(rules, {"l.0": (1,), "l.1": (1,)}, partial=True).uncovered_left == ("l.0",)
    apart = Rules.parse("l.{i+1} <-> b.{i}\nl.0 <-> first")
    assert set(bind(apart, {"l.0": (1,), "l.1": (1,)}).right) == {"first", "b.0"}


HINTED = Rules.parse("a <-> b\n_, p <-> q : k m, p m <-> [k + p] m\n_ <-> s.{i}\ntie right q = q2", "f")


def test_hints_tell_what_nothing_else_does() -> None:
    left = {"a": (1,), "p": (3, 2)}
    plan = bind(HINTED, left, hints={"q": (5, 2), "s.1": (4,), "other": (1,), "b": (9,)})
    assert dict(plan.right) == {"b": (1,), "q": (5, 2), "s.1": (4,), "q2": (5, 2)}
    assert plan.equations[-1].left == ()
    assert bind(HINTED, left, hints={"q2": (5, 2)}).right["q"] == (5, 2)
    assert bind(HINTED.inverse(), None, left, hints={"q": (5, 2)}).left["q"] == (5, 2)
    # What is told otherwise is not asked of them.
    assert bind(HINTED, left, sizes={"k": 1}, hints={"q": (5, 2)}).right["q"] == (4, 2)


def test_a_plan_knows_what_was_bound() -> None:
    rules = Rules.parse("size r = 2\na <-> b : (h r) <-> (r h)")
    plan = bind(rules, {"a": (6,)})
    assert (plan.rules, plan.sizes) == (rules, {"r": 2})
    assert plan.inverse().rules == rules.inverse()
    assert plan.inverse().inverse() == plan


def test_a_tie_may_be_written_by_either_name() -> None:
    rules = Rules.parse("tie left a = c\ntie right b = d\na <-> b")
    assert bind(rules, {"a": (1,)}).right_ties == (("d", "b"),)
    assert bind(rules, {"a": (1,), "c": (1,)}).left_ties == (("c", "a"),)
    assert bind(rules, {"c": (1,)}).equations[0].left == ("c",)


@pytest.mark.parametrize(
    ("text", "rename"),
    [
        ("a <-> b", True),
        ("a <-> b : x y <-> y x", False),
        ("a <-> b : (u v) y <-> (v u) y", False),
        ("a <-> b : x y <-> 1 x y", False),
    ],
)
def test_a_rename_keeps_shape_and_order(text: str, rename: bool) -> None:
    assert bind(Rules.parse(text), {"a": (4, 2)}, sizes={"u": 2}).equations[0].rename is rename


CASES = {
    "a <-> {q,k,v} : (h [d + d + d]) m <-> (h d) m": ({"a": (12, 5)}, {"h": 2}),
    "a <-> {q,k,v} : (g [r d + d + d]) ... <-> (g r d) ..., (g d) ..., (g d) ...": ({"a": (24, 2)}, {"g": 2, "r": 4}),
    "a <-> {g,u} : (f [1 + 1]) m <-> f m": ({"a": (6, 2)}, {}),
    "l.{i}.{e} <-> b : o m <-> i o e m": ({f"l.{i}.{e}": (3, 2) for i in range(2) for e in range(11)}, {}),
    "a.{e}, c <-> b : m, n <-> [e m + n]": ({"a.0": (2,), "a.1": (2,), "c": (3,)}, {}),
    "a <-> b : [h d + d + d] m <-> [h d + *h d + *h d] m": ({"a": (12, 2)}, {"h": 4}),
    "a <-> b : scalar <-> 1": ({"a": ()}, {}),
    "a <-> b : o c kh kw <-> o (c kh kw)": ({"a": (2, 3, 4, 5)}, {}),
    "a, a <-> b, c": ({"a": (2,)}, {}),
}


@pytest.mark.parametrize("text", CASES)
def test_there_and_back(text: str) -> None:
    left, sizes = CASES[text]
    tensors = {name: torch.randn(shape) for name, shape in left.items()}
    rules = Rules.parse(text)
    plan = bind(rules, left, sizes=sizes)
    right = run(plan, tensors, {})
    back: Plan = (
        bind(rules.inverse(), plan.right, left) if not sizes else bind(rules.inverse(), plan.right, left, sizes=sizes)
    )
    for way in (plan.inverse(), back):
        again = run(way, right, {})
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_100_000_tensors_are_bound_quickly() -> None:
    left = {f"m.{i}.x{j}.weight": (4, 4) for i in range(1000) for j in range(100)}
    lines = (f"x{j}.weight <-> y{j}.weight" + (" : a b <-> b a" if j % 2 else "") for j in range(100))
    rules = Rules.parse("[m.{i} <-> n.{i}]\n" + "\n".join(lines))
    start = time.process_time()
    plan = bind(rules, left)
    assert len(plan.equations) == 100_000
    assert time.process_time() - start < 6  # 2 s on a quiet machine
