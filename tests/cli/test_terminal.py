"""Reports on screens of some width: nothing is cut off, and nothing that fits runs over."""

from __future__ import annotations

import pytest

from ckptmap.report.document import Document, Section
from ckptmap.report.terminal import as_text

LONG = "model.layers.{0..31}.self_attn.{k_proj,q_proj,v_proj}.weight.original"
DOCUMENT = Document(
    (("source", "a-folder"), ("files", ", ".join(f"model-0000{n}-of-00004.safetensors" for n in range(4)))),
    (
        Section("", (("short", "[4]", "F32", ""), (LONG, "[4096, 4096]", "BF16", "×96")), ("a", "b", "c", "d")),
        Section("why", (("name", "a sentence " * 12),), ("a", "b"), "changed"),
    ),
    ("Something to say at the end, in more words than a narrow screen has room for.",),
)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_lines_fit_and_nothing_is_lost(width: int) -> None:
    text = as_text(DOCUMENT, width)
    longest = max(text.splitlines(), key=len)
    assert len(longest) <= width or longest == LONG
    for words in (LONG, "[4096, 4096]", "×96", "model-00003-of-00004.safetensors"):
        assert words in text
    assert text.count("sentence") == 12


def test_a_name_too_long_has_its_cells_on_the_line_below() -> None:
    assert as_text(Document((), DOCUMENT.sections[:1]), 80).splitlines() == [
        "short" + " " * 52 + "[4]           F32",
        LONG,
        " " * 57 + "[4096, 4096]  BF16  ×96",
    ]


def test_in_a_pipe_a_row_is_a_line() -> None:
    text = as_text(DOCUMENT)
    assert f"{LONG}  [4096, 4096]  BF16  ×96" in text.splitlines()
    assert len(text.splitlines()) == 2 + 1 + 2 + 1 + 2 + 1 + 1


def test_columns_without_anything_take_no_room() -> None:
    rows = (("one", "[1]", "", "×2"), ("two", "[1]", "", ""))
    assert as_text(Document((), (Section("", rows, ("a", "b", "c", "d")),))) == "one  [1]  ×2\ntwo  [1]"
