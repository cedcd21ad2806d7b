"""The pages of `--html`, in a real browser: what a person sees, searches, opens, picks and copies."""

from __future__ import annotations

import shlex
from itertools import product
from pathlib import Path

import pytest

from ckptmap.__main__ import main
from ckptmap.infer.findings import Open
from ckptmap.remapping import Remap
from ckptmap.report.html.page import write_page
from ckptmap.report.html.remap import remap_page
from ckptmap.rules.rules import Rules
from tests.browser.chromium import Tab
from tests.browser.reports import experts, llama, meta, saved


@pytest.fixture
def sides(tmp_path: Path) -> list[str]:
    """Four layers against six, one shape and one name changed."""
    left, right = llama(4), llama(6)
    right["model.layers.1.mlp.up_proj.weight"] = (96, 48)
    right["score.weight"] = right.pop("lm_head.weight")
    return [saved(tmp_path / "left.safetensors", left), saved(tmp_path / "right.safetensors", right)]


@pytest.fixture
def two_llamas(tmp_path: Path) -> list[str]:
    return [
        saved(tmp_path / "hf.safetensors", llama(4)),
        saved(tmp_path / "meta.safetensors", meta(4)),
    ]


def rows(tab: Tab, side: int) -> list[str]:
    """What the rows in sight say to a screen reader, from the top."""
    return tab.run(
        f"""[...document.querySelectorAll("#tree-{side} .row")]
          .sort((a, b) => a.getBoundingClientRect().y - b.getBoundingClientRect().y)
          .map((one) => one.getAttribute("aria-label"))"""
    )


def search(tab: Tab, text: str) -> None:
    tab.press("/")
    tab.wait("document.activeElement.id === 'search'")
    tab.run("document.activeElement.select()")
    tab.write(text)
    tab.run("new Promise((done) => setTimeout(done, 200))")


@pytest.mark.parametrize("verb", ["diff", "heads", "remap"])
def test_a_page_opens_without_complaint_and_fits_the_screen(
    verb: str, tab: Tab, page: Path, fixtures: Path, two_llamas: list[str]
) -> None:
    operands = {
        "diff": [str(fixtures / "roberta-mlm"), str(fixtures / "roberta-cls"), "--no-heads"],
        "heads": [str(fixtures / "roberta-mlm")],
        "remap": two_llamas,
    }
    main([verb, *operands[verb], "--html", str(page)])
    for width, theme in product((1280, 390), ("light", "dark")):
        tab.look(width=width, theme=theme)
        tab.open(page)
        assert tab.text("h1")
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert (paper(tab) > 128) == (theme == "light")
        tab.click("#theme")
        assert (paper(tab) < 128) == (theme == "light")


def paper(tab: Tab) -> float:
    """How bright the page's ground is, up to 255."""
    colour = tab.run("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_layers_stand_together_and_what_differs_stands_out(tab: Tab, page: Path, sides: list[str]) -> None:
    assert main(["diff", *sides, "--html", str(page), "-q"]) == 1
    tab.open(page)
    assert {"{0,2,3}, 27 tensors, same", "1, 9 tensors, shape differs, same"} <= set(rows(tab, 0))
    assert "{4,5}, 18 tensors, only right" in rows(tab, 1)
    assert "up_proj.weight, [96, 48] F32, shape differs" in rows(tab, 1)
    legend = [" ".join(text.split()) for text in tab.texts(".legend .chip")]
    assert legend == ["− only left 1", "+ only right 19", "≠ shape differs 1", "= same 37"]


def test_a_state_switched_off_leaves_the_rest(tab: Tab, page: Path, sides: list[str]) -> None:
    main(["diff", *sides, "--html", str(page), "-q"])
    tab.open(page)
    tab.click(".legend .chip", "same")
    assert [row for row in rows(tab, 0) if "[" in row] == [
        "model.layers.1.mlp.up_proj.weight, [80, 48] F32, shape differs",
        "lm_head.weight, [101, 48] F32, only left",
    ]


def test_a_search_shows_what_it_found_and_its_counterpart(tab: Tab, page: Path, two_llamas: list[str]) -> None:
    main(["remap", *two_llamas, "--html", str(page)])
    tab.open(page)
    search(tab, "layers.2 gate")
    assert rows(tab, 0) == ["model.layers.2.mlp.gate_proj.weight, [80, 48], decided"]
    assert rows(tab, 1) == ["layers.2.feed_forward.w1.weight, [80, 48], decided"]
    search(tab, "no such thing")
    assert "Nothing here" in tab.text(".matching .nothing")
    tab.click("#questions .chip", "right")
    assert "guess" in tab.text(".details .state"), "what is searched for does not hide what is asked for"
    search(tab, "norm")
    tab.press("Escape")
    tab.wait("document.querySelectorAll('#tree-0 .row').length > 10")


def test_the_keyboard_is_enough(tab: Tab, page: Path, two_llamas: list[str]) -> None:
    main(["remap", *two_llamas, "--html", str(page)])
    tab.open(page)
    tab.run("document.querySelector('#tree-0').focus()")
    tab.press("Home")
    assert tab.text(".details .name") == "model"
    before = len(rows(tab, 0))
    tab.press("ArrowLeft")
    assert tab.run("document.querySelector('#row-0-0').getAttribute('aria-expanded')") == "false"
    assert len(rows(tab, 0)) < before
    tab.press("ArrowRight", "ArrowRight")
    assert tab.text(".details .name") == "model.embed_tokens.weight"
    assert tab.run("document.activeElement.getAttribute('aria-activedescendant')") == "row-0-1"
    tab.press("Enter")
    assert tab.run("document.activeElement.id") == "tree-1"
    assert tab.text(".details .name") == "tok_embeddings.weight"
    assert "model.embed_tokens.weight <-> tok_embeddings.weight" in tab.text(".details .rule")
    tab.press("End")
    assert tab.text(".details .name") == "output.weight"


def test_guesses_confirmed_on_the_page_decide_the_whole(
    tab: Tab, page: Path, two_llamas: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["remap", *two_llamas, "--html", str(page)]) == 1
    tab.open(page)
    assert tab.texts("#questions li")
    for name in ("wq.weight", "wk.weight"):
        tab.click("#tree-1 .row", name)
        assert "guess" in tab.text(".details .state")
        tab.click("button", "Confirm this guess")
    tab.click("#copy-pins")
    tab.wait("document.querySelector('#copy-pins').textContent.includes('Copied')")
    flags = shlex.split(tab.clipboard().replace("\\\n", " "))
    assert flags[0] == "--pin"
    capsys.readouterr()
    assert main(["remap", *two_llamas, *flags, "--no-verify"]) == 0
    assert "\nguess " not in capsys.readouterr().out


def test_pairs_picked_on_the_page_are_rules(tab: Tab, page: Path, tmp_path: Path) -> None:
    left = {"blocks.0.a": (4, 6), "blocks.1.a": (4, 6), "one": (3, 3), "q": (5,), "k": (2,), "odd": (7, 7, 7)}
    right = {"h.0.x": (6, 4), "h.1.x": (6, 4), "two": (3, 3), "qk": (7,), "even": (7, 49)}
    files = [saved(tmp_path / "l.safetensors", left), saved(tmp_path / "r.safetensors", right)]
    main(["remap", *files, "--html", str(page)])
    tab.open(page)
    picked = []

    def pick(lefts: list[str], rights: list[str], *, turned: bool = False) -> str:
        for side, names in enumerate((lefts, rights)):
            for name in names:
                tab.click(f'#tree-{side} .row[title="{name}"] .label')
                tab.press("p")
        if turned:
            tab.click("#turned")
        said = tab.text("#picks .preview")
        if not tab.run("document.querySelector('#pair').disabled"):
            picked.append(said)
            tab.click("#pair")
        else:
            tab.click("#picks button", "Clear")
        return said

    assert pick(["blocks.{0,1}.a"], ["h.{0,1}.x"]) == "blocks.{i}.a <-> h.{i}.x : a b <-> b a"
    assert pick(["one"], ["two"], turned=True) == "one <-> two : a b <-> b a"
    assert pick(["q", "k"], ["qk"]) == "q, k <-> qk : a, b <-> [a + b]"
    assert "by hand" in pick(["odd"], ["even"])
    tab.click("#copy-rules")
    tab.wait("document.querySelector('#copy-rules').textContent.includes('Copied')")
    assert tab.clipboard().splitlines() == picked
    rules = tmp_path / "picked.ckptmap"
    rules.write_text(f"ckptmap 1\n{tab.clipboard()}_ <-> even\nodd <-> _\n")
    assert main(["check", str(rules), *files]) == 0


def test_names_are_text_whatever_they_say(tab: Tab, page: Path, tmp_path: Path) -> None:
    names = [
        "</script><script>window.hacked = 1</script>",
        "<img src=x onerror='window.hacked = 1'>",
        "<!--<script>",
        "a'; touch hacked; '.weight",
        "turned\u202eround\x1b[31m",
        "__proto__.constructor",
    ]
    left = dict.fromkeys(names, (2, 3))
    right = {f"r.{name}": shape for name, shape in left.items()}
    files = [saved(tmp_path / "l.safetensors", left), saved(tmp_path / "r.safetensors", right)]
    main(["diff", *files, "--html", str(page)])
    pages = [page, tmp_path / "remap.html"]
    question = Open(tuple(left), tuple(right), f"which is which? --pin '{names[1]} <-> {names[0]}'")
    write_page(pages[1], remap_page(Remap(Rules.parse("ckptmap 1\n"), (question,), left=left, right=right)))
    for one in pages:
        tab.open(one)
        shown = " ".join(rows(tab, 0))
        for name in (*names[:4], "turned\\u202eround\\x1b[31m", "__proto__.constructor"):
            assert name in shown
        assert tab.run("window.hacked ?? document.querySelectorAll('img, #page script').length") == 0
    for side in (0, 1):
        tab.click(f"#tree-{side} .row .label", "touch")
        tab.press("p")
    assert "cannot say" in tab.text("#picks .preview")


def test_ninety_thousand_tensors_open_at_once_and_few_rows_exist(tab: Tab, page: Path, tmp_path: Path) -> None:
    left, right = experts(61, 246), experts(61, 246)
    for name in list(right)[7::1000]:
        right[name] = (65, 32)
    files = [saved(tmp_path / "l.safetensors", left, "BF16"), saved(tmp_path / "r.safetensors", right, "BF16")]
    main(["diff", *files, "--html", str(page), "-q"])
    tab.send("Performance.enable", timeDomain="threadTicks")
    tab.open(page)
    metrics = {one["name"]: one["value"] for one in tab.send("Performance.getMetrics")["metrics"]}
    assert metrics["TaskDuration"] < 3, "seconds of work, however busy the machine is"
    tab.click("#grouped")
    tab.click("#expand")
    assert tab.run("document.querySelector('.scroller').scrollHeight") > 90_000 * 20
    for place in (0.2, 0.9):
        tab.run(f"(box => box.scrollTop = {place} * box.scrollHeight)(document.querySelector('.scroller'))")
        tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert 20 < len(rows(tab, 0)) < 100
    search(tab, "layers.60.mlp.experts.245.down")
    assert len([row for row in rows(tab, 0) if "weight" in row]) == 2


def test_verdicts_open_to_their_details(tab: Tab, page: Path, fixtures: Path) -> None:
    main(["heads", str(fixtures / "roberta-mlm"), "--html", str(page), "-q"])
    tab.open(page)
    assert tab.text("h1").endswith("2 of 7 head classes are ready")
    tab.click("#class-search")
    tab.write("sequenceclass")
    assert tab.texts(".class-row:not([hidden]) .class-name b") == ["RobertaForSequenceClassification"]
    assert "train the head" in tab.text(".class-row:not([hidden]) .verdict")
    tab.click(".class-row:not([hidden]) summary")
    assert "classifier.dense.weight" in tab.text(".class-row[open] .section-table")


def test_values_are_a_map_of_layers_and_modules(tab: Tab, page: Path) -> None:
    heat = {
        "title": "How far values moved",
        "unit": "relative L2",
        "note": "all 3 layers moved, the most in layer 2",
        "rows": ["layer 0", "layer 1", "layer <b>2"],
        "columns": ["query", "value", "mlp.up"],
        "cells": [[0, 0.01, None], [0, 0.02, 0.001], ["≠", 0.3, 0.0004]],
    }
    shown = {
        "kind": "diff",
        "title": "a",
        "headline": "b",
        "tone": "change",
        "facts": [],
        "sentences": [],
        "heat": [heat],
    }
    write_page(page, shown)
    tab.open(page)
    assert tab.texts(".heat tbody td") == ["0", "0.01", "·", "0", "0.02", "0.001", "≠", "0.3", "4e-4"]
    assert tab.texts(".heat tbody th")[2] == "layer <b>2"
    tab.click(".heat tbody td")
    tab.press("ArrowRight", "ArrowDown", "ArrowDown")
    assert tab.text(".heat-told") == "layer <b>2, value: relative L2 0.3000"
    darker = tab.run(
        "[...document.querySelectorAll('.heat tbody td')].map((one) => one.style.getPropertyValue('--heat'))"
    )
    assert darker[7] == "100%" and darker[0] == "0%"
