"""Rule files are read, refused with what to do, and written in one form."""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptmap.errors import RuleError
from ckptmap.rules.rules import Rules

REFUSED = {
    "a.{i} <-> b": "1:1: {i} is on the left only. Give it a place on the right, in the name or as an axis.",
    "x.{n:a|b} <-> y.{n:c}": "1:15: {n} is one of 2 and one of 1. Choices are paired by position",
    "x.{n:a|b} <-> y": "1:1: {n} is on the left only. Give it a place on the right, in the name.",
    "x.{n:a|b}.{n+1} <-> y.{n}": "{n+1} counts, and {n} is a choice of words. Rename one of them.",
    "p <-> q : a b <-> a c": "block 1 has b on the left only (a b <-> a c). Both sides of a block have the same axes",
    "a.{i}.* <-> b.{i}": "`*` number 1 is on the left only. Give it a place on the right, in the name.",
    "a.{i}, b <-> c.{i}, d.{i}": "b has no {i}, so it is in many equations. Give all names the same variables.",
    "u, v <-> w": "2 on the left and 1 on the right, without shapes. Write ` : `",
    "u, v <-> w : a, b, c <-> a": "2 on the left have 3 shapes. Write one for each, or one for all.",
    "u, v <-> w : a <-> a": "the left side has 2 blocks and the right has 1. The k-th block on the left",
    "m.* <-> x.*\nm.{i} <-> y.{i}": "2:1: m.{i} and m.* (line 1) can both be one left tensor. Every tensor belongs to one",
    "a <-> x\nmaybe b <-> x": "2:13: x and x (line 1) can both be one right tensor.",
    "z <-> y : [a + b] [c + d] <-> a": "1:19: two sums in a shape. Split it into two rules",
    "a{i}3 <-> b{i}": "1:1: {i} and 3 stand side by side, so no one sees where a number ends. Part them.",
    "s.{i} <-> t.{i} : i m <-> m i": "axis i bears the name of the index {i} of both sides. Rename the axis.",
    "a <-> b : x x <-> x x": "axis x stands twice in block 1. Give the second a name of its own.",
    "a <-> b : *h d <-> *h d": "*h is repeated, so it stands on one side only; the other has h too. Delete one of them.",
    "a, 0 <-> b, _ : x, y <-> x, y": "block 2 has no tensor on either side. Delete it.",
    "_ <-> 0": "no tensor is named here. Delete the line.",
    "a.{e} <-> b : m <-> [m e + m]": "the left side has 1 blocks and the right has 2.",
    "a.{e}, c <-> b : m, m <-> [m e + m]": "e is stacked and not the first axis of its block in [m e + m]. Write it first.",
    "size r = 2\nsize r = 3": "2:1: the size of r stands in line 1 already. Delete one.",
    "tie left a = b\ntie left c = b": "2:1: a tie of b stands in line 1 already. Delete one.",
    "tie left a.{i} = b": "a.{i} and b have different variables. Write the same on both sides of `=`.",
    "tie left a = b\na <-> x\nb <-> y": "b and b (line 3) can both be one left tensor.",
    "foo bar": "1:1: `foo bar` is not a statement. Write a rule as `left <-> right`.",
    "foo -> bar": "there is no `<->` between spaces here. Rules read both ways: write `left <-> right`.",
    "a <-> b <-> c": "1:9: `<->` stands twice. Write one rule a line.",
    "size r = x": "1:10: `x` is no length. Write a number or `config.KEY`.",
    "size = 2": "`size = 2` is not a size.",
    "tie left a b": "`tie left a b` is not a tie. Write `tie left NAME = SECOND_NAME`.",
    "[a <-> b": "the section is not closed. Put `]` at its end.",
    "[a.** <-> b]": "`**` cannot stand in a prefix, since names go on after it.",
    "[a]": "`[a]` is not a section. Write `[left.prefix <-> right.prefix]`, or `[]` to end one.",
    "a <-> b\nckptmap 1": "2:1: the version of the language stands below other lines. Move it to the first line.",
    "ckptmap 2": "1:1: this is language 2; this ckptmap reads language 1. Update ckptmap.",
    "a..b <-> c": "1:3: nothing stands between two dots. Delete one, or write `*` for any segment.",
    "a.** .b <-> c": "has a space in it. Separate names by commas.",
    "**.a <-> b": "`**` is the rest of a name. Put it last, or write `*` for one segment.",
    "a*.b <-> c": "1:2: `*` stands for a whole segment.",
    "a.{i <-> b": "1:3: `{` is not closed. Put `}` after the variable.",
    "a.{i!} <-> b": "`{i!}` is not a variable. Write `{i}`, `{2*i+1}`, `{n:a|b}` or `{q,k,v}`.",
    "a.{0*i} <-> b": "`{0*i}` is the same number always. Write the number.",
    "a.{n:x|x} <-> b.{n}": "a word stands twice in `{n:x|x}`. Delete one.",
    "a.{n:x|} <-> b.{n}": "a word is empty in `{n:x|}`.",
    "a, <-> b": "a name is missing. Write a name, `0` for zeros, or `_` for what has no home here.",
    "a <-> b : 2 x <-> x": "1:11: `2` is not part of a shape.",
    "a <-> b : (x y <-> x": "1:15: the shape ends too early. Close what was opened, and name its axes.",
    "a <-> b : ... x <-> x": "`...` stands for the dimensions at the end. Put it last.",
    "{a,b}.{c,d} <-> x": "two groups in a name. Write the names one by one, separated by commas.",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_faulty_file_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(RuleError) as caught:
        Rules.parse(text, "f.ckptmap")
    assert REFUSED[text] in str(caught.value)
    assert str(caught.value).startswith("f.ckptmap:")
    assert caught.value.path == "f.ckptmap"
    assert caught.value.line == int(str(caught.value).split(":")[1])


def test_all_faults_are_told_together() -> None:
    with pytest.raises(RuleError) as caught:
        Rules.parse("a.{i} <-> b\nnot a rule\n\nsize r =\nx <-> y : a <-> b")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["1", "2", "4", "5"]


def test_comments_and_blank_lines_stay_and_columns_are_aligned() -> None:
    text = "# head\n\nleft: a#b\nright:  c  \nsize r=2 # why\n[ x<->y ]\na.* <->  b.*\nlonger <-> c:d : m n<->n m#no\n#\n\n\n"
    with pytest.raises(RuleError, match="no `<->` between spaces"):
        Rules.parse(text.replace("[ x<->y ]", "").replace("m n<->n m#no", "m n<->n m"))
    rules = Rules.parse(text.replace("[ x<->y ]", "[ x <-> y ]").replace("m n<->n m#no", "m n <-> n m #no"))
    assert str(rules) == (
        "# head\n\nleft:  a#b\nright: c\nsize r = 2  # why\n[x <-> y]\n"
        "a.*    <-> b.*\nlonger <-> c:d : m n <-> n m  # no\n#\n"
    )


RULES = st.sampled_from(
    [
        "{p}.* <-> {p}.z.*",
        "maybe {p}.{{i}} <-> {p}.{{2*i+1}}",
        "guess {p}.{{n:a|b}} <-> {p}.{{n}}",
        "{p}.{{e}}.{{u,v}} <-> {p} : f m <-> e [f + f] m",
        "{p}, 0 <-> {p} : v m, w m <-> [v + w] m",
        "{p} <-> _",
        "{p} <-> {p} : (g [r d + d + d]) 1 ... <-> (g r d) 1 ..., (g d) 1 ..., (g d) 1 ...".replace(
            "<-> {p} :", "<-> {p}.{{q,k,v}} :"
        ),
        "{p} <-> {p} : scalar <-> 1",
        "{p} <-> {p} : d <-> *h d",
    ]
)
OTHERS = st.sampled_from(
    ["", "# words", "[x.{j} <-> y.{j}]", "[]", "[ <-> z]", "tie left t{p} = s{p}", "size {p} = config.a.b"]
)


@given(st.lists(st.tuples(st.one_of(RULES, OTHERS), st.sampled_from(["", "   # why"])), max_size=8))
@settings(deadline=None)
def test_what_is_written_reads_as_it_was(parts: list[tuple[str, str]]) -> None:
    lines = [(line.format(p=f"p{n}") if "{p}" in line else line) + end for n, (line, end) in enumerate(parts)]
    rules = Rules.parse("\n".join(lines))
    text = str(rules)
    assert Rules.parse(text) == rules
    assert str(Rules.parse(text)) == text
    assert Rules.from_json(rules.to_json()) == rules
    assert rules.inverse().inverse() == rules
    rules.inverse().check()


def test_reading_and_writing_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.ckptmap"
    Rules.parse("a<->b <-> c").write(path)
    assert Rules.read(path).path == str(path)
    assert path.read_text() == "a<->b <-> c\n"
    assert [p.name for p in tmp_path.iterdir()] == ["r.ckptmap"]
    with pytest.raises(RuleError, match="cannot be read: No such file"):
        Rules.read(tmp_path / "none")


PLACES = {
    "[a.{i} <-> b.{i}]\nq, k.{e} <-> y : m, m <-> [m + m]": (2, 4, "{e} is on the left only"),
    "x, y.{i} <-> z, w": (1, 4, "{i} is on the left only"),
    "a, {q,k}.{e} <-> z : m <-> [m + m + m]": (1, 4, "{e} is on the left only"),
    "a, {n:x|y} <-> {n:z|w}, b.{n-1}": (1, 25, "{n-1} counts"),
    "a.{e} <-> b : m <-> e [m + m]": (1, 15, "has 1 blocks and the right has 2"),
    "a, b <-> c : x, y z, w <-> [x + y]": (1, 14, "2 on the left have 3 shapes"),
    "a <-> b : x y <->   ([x + y] [x + y])": (1, 21, "two sums in a shape"),
    "a.{i} <-> b.{i} : m n <->  i m": (1, 28, "axis i bears the name of the index {i}"),
    "a.{e} <-> b : e m <-> e m": (1, 15, "e is an index and an axis on the left"),
    "a, b <-> c : x m, y n <-> [x + y] m": (1, 27, "block 2 has m on the right only"),
    "a, b <-> c : x m, y m m <-> [x + y] m": (1, 19, "axis m stands twice in block 2"),
    "a.{e-1} <-> b : m <-> e m": (1, 1, "{e-1} would be below 0"),
    "a <-> b\n  maybe z, {c,a} <-> {x,y}, w": (2, 12, "a and a (line 1) can both be one left tensor"),
    "a.{e} <-> b : m <-> [n e]": (1, 21, "e is stacked and not the first axis of its block"),
    "a.{e}, z <-> b : m, n <-> [m e + n]": (1, 27, "e is stacked and not the first axis of its block"),
}


@pytest.mark.parametrize("text", PLACES)
def test_a_fault_is_told_where_it_stands(text: str) -> None:
    line, column, what = PLACES[text]
    with pytest.raises(RuleError) as caught:
        Rules.parse(text, "f")
    told = [one for one in str(caught.value).splitlines() if what in one]
    assert told, str(caught.value)
    assert told[0].startswith(f"f:{line}:{column}: ")


def test_places_are_no_part_of_what_rules_say() -> None:
    tight, wide = Rules.parse("a, b <-> c : x, y <-> [x + y]"), Rules.parse("a,  b  <->  c  :  x,  y  <->  [x + y]")
    assert tight == wide
    assert tight.rules == wide.rules
    assert hash(tight.rules[0]) == hash(wide.rules[0])
    assert tight.inverse().inverse().rules[0].columns == tight.rules[0].columns
    # Rules that were not read from text have no places in it, and are told by their line.
    with pytest.raises(RuleError, match=r"rules:1:1: block 1 has y on the left only"):
        Rules.from_json(
            Rules(Rules.parse("a <-> b : x <-> x").statements).to_json()
            | {
                "statements": [
                    {
                        "kind": "rule",
                        "mark": "",
                        "left": ["a"],
                        "right": ["b"],
                        "left_shapes": ["x y"],
                        "right_shapes": ["x"],
                    }
                ]
            }
        )
