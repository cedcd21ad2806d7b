"""Small files that would keep a machine busy are refused with the bound, or read in a time that grows with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckptmap.errors import RuleError
from ckptmap.patterns import group
from ckptmap.rules.overlap import PatternTree, overlap
from ckptmap.rules.rules import Rules
from ckptmap.rules.text import read_name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a" + ".b" * 200 + " <-> c", "a name has 128 parts between dots at most"),
        ("a" * 250_000 + " <-> c", "a line has 200,000 characters at most"),
        (", ".join(["a"] * 3000) + " <-> c", "a side of a rule has 2,048 names at most"),
        ("x{n:" + "|".join(f"w{i}" for i in range(5000)) + "} <-> c", "can be combined in 4,096 ways at most"),
        ("{a:0|1}.{b:0|1|2|3|4|5|6|7}" * 1 + "".join(f".{{v{i}:x|y|z|w}}" for i in range(6)) + " <-> c", "combined in"),
        ("a.{i+" + "9" * 5000 + "} <-> b", "a number has 18 digits at most"),
        ("size r = " + "9" * 5000, "is no length"),
        ("ckptmap " + "9" * 5000, "is not a version"),
        ("\n" * 200_000, "a rule file has 100,000 lines at most"),
    ],
    ids=range(9),
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=said):
        Rules.parse(text)


def test_many_rules_and_names_end(tmp_path: Path) -> None:
    """Each of these took more than half a minute; the limit leaves room for a slow machine."""
    lines = [f"a{i}.{{n:x|y|z}}.{{i}}.* <-> b{i}.{{n:p|q|r}}.{{i}}.*\n" for i in range(3000)]
    (tmp_path / "many.ckptmap").write_text("".join(lines))
    code = """
import sys
from ckptmap.__main__ import main
from ckptmap.patterns import group
assert main(["check", "many.ckptmap"]) == 0
assert len(group(["a." * 32_000 + "x", "b"])) == 2
names = [".".join(str(i * j % 7) for j in range(1000)) + f".{i}" for i in range(500)]
assert len(group(names)) == 500
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_names_of_many_segments_are_kept_whole() -> None:
    deep = "a." * 100 + "0"
    assert [str(pattern) for pattern in group([deep, "b.0", "b.1"])] == ["b.{0,1}", deep]


NAMES = ["a1.x", "a2.x", "a{i}.x", "a1.{i}", "b.a1", "b.a2", "*.a1", "a1.**", "**", "{n:a1|a2}.x", "a12.x", "a1.2"]


@pytest.mark.parametrize("asked", NAMES)
def test_the_tree_leaves_out_nothing_that_overlaps(asked: str) -> None:
    patterns = [read_name(text) for text in NAMES]
    tree: PatternTree[int] = PatternTree()
    for number, pattern in enumerate(patterns):
        tree.add(pattern, number)
    near = set(tree.near(read_name(asked)))
    assert {number for number, other in enumerate(patterns) if overlap(read_name(asked), other)} <= near
