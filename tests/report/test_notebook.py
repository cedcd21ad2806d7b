"""What notebooks show: short, escaped, readable on any ground."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ckptmap
from ckptmap.infer.proof import Verification
from ckptmap.report.html.notebook import COLOURS, LINES

Shapes = dict[str, tuple[int, ...]]


class Reader(HTMLParser):
    """The text and the tags of a fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"style"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        assert self.open == []
        assert self.tags <= {"div", "table", "tr", "td", "pre"}
        return "\n".join(self.words)


def shown(value: object) -> str:
    """What a notebook's front end gets."""
    return Reader(value._repr_html_()).text  # type: ignore[attr-defined]


def remap(left: Shapes, right: Shapes) -> ckptmap.Remap:
    specs = ({name: ckptmap.TensorSpec(name, shape, "F32") for name, shape in side.items()} for side in (left, right))
    return ckptmap.remap(*specs)


def test_a_diff(fixtures: Path) -> None:
    text = shown(ckptmap.diff(fixtures / "roberta-mlm", fixtures / "roberta-cls"))
    assert text.startswith("9 differences: 5 only left, 4 only right; 37 the same")
    assert "lm_head.layer_norm.{bias,weight}" in text


def test_heads_in_a_table_and_one_class_in_full(fixtures: Path) -> None:
    report = ckptmap.heads(fixtures / "roberta-mlm")
    assert "RobertaForCausalLM" in shown(report)
    one = shown(ckptmap.heads(fixtures / "roberta-mlm", ["RobertaForSequenceClassification"]))
    assert "newly initialized: 4 tensors" in one
    assert "classifier.out_proj.weight" in one


def test_a_remap_shows_its_questions_and_its_rules() -> None:
    answer = remap({"a": (3, 4), "x": (2,), "y": (2,)}, {"b": (3, 4), "p": (2,), "q": (2,)})
    text = shown(answer)
    assert text.startswith("not proven")
    assert answer.undecided[0].question in text
    assert "ckptmap 1" in text


def test_rules_and_proofs() -> None:
    rules = ckptmap.Rules.parse("ckptmap 1\nleft: mine\na.{i} <-> b.{i}\n")
    assert "a.{i} <-> b.{i}" in shown(rules)
    assert "mine" in shown(rules)
    assert shown(Verification((("output", "output"),), 1e-9, ("output", "output"), True)).startswith("proven: ")
    refuted = shown(Verification((("output", "output"),), 0.5, ("output", "output"), True))
    assert refuted.startswith("parts: ")
    assert "proven" not in refuted


def test_long_lists_are_cut_and_counted() -> None:
    left = {f"tensor_{number}_{'x' * number}": (number + 1,) for number in range(LINES + 9)}
    specs = {name: ckptmap.TensorSpec(name, shape, "F32") for name, shape in left.items()}
    text = shown(remap(left, {"other": (999,)}))
    assert len(specs) == LINES + 9
    assert "… 9 more lines" in text
    assert text.count("tensor_") <= LINES + 1


def test_names_are_text() -> None:
    name = "</td><script>alert(1)</script>\u202e"
    text = shown(remap({name: (3,)}, {"b": (4, 4)}))
    assert "</td><script>alert(1)</script>\\u202e" in text


@pytest.mark.parametrize("colour", [colour for colour in COLOURS.values() if colour.startswith("#")])
def test_colours_can_be_read_on_white_and_on_black(colour: str) -> None:
    parts = [int(part, 16) / 255 for part in re.findall("..", colour[1:])]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    brightness = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (brightness + 0.05) >= 4.5
    assert (brightness + 0.05) / 0.05 >= 4.5
