"""The file of `--html`: whole or not at all, and never onto something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ckptmap
from ckptmap.__main__ import main
from ckptmap.infer.proof import Verification
from ckptmap.remapping import Remap
from ckptmap.report.html.remap import remap_page


@pytest.fixture
def argv(fixtures: Path) -> list[str]:
    return ["diff", str(fixtures / "roberta-mlm"), str(fixtures / "roberta-cls"), "--no-heads", "-q", "--html"]


def test_the_report_is_printed_all_the_same_and_the_page_is_told_on_stderr(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, str(tmp_path / "a.html")]) == 1
    out, err = capsys.readouterr()
    assert "- lm_head.bias" in out
    assert err == f"{tmp_path / 'a.html'}: written\n"
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


def test_an_older_page_is_overwritten_and_nothing_else_is(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, other = tmp_path / "a.html", tmp_path / "model.safetensors"
    assert main([*argv, str(page)]) == 1
    old = page.read_text()
    page.write_text("<!doctype html>old")
    assert main([*argv, str(page)]) == 1
    assert page.read_text() == old
    other.write_bytes(b"weights of a month")
    assert main([*argv, str(other)]) == 2
    assert other.read_bytes() == b"weights of a month"
    assert main([*argv, str(tmp_path)]) == 2
    assert main([*argv, str(tmp_path / "no" / "a.html")]) == 2
    err = capsys.readouterr().err
    for words in ("exists and is no HTML; name another file", "is a folder; name a file in it", "its folder does not"):
        assert words in err


def test_a_disk_that_is_full_leaves_the_old_page(argv: list[str], tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text("<!doctype html>old")
    code = (
        "import resource, signal, sys\n"
        "from ckptmap.__main__ import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv, str(page)], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{page}: cannot be written" in done.stderr
    assert page.read_text() == "<!doctype html>old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.html"]


def test_no_name_can_end_the_data(argv: list[str], tmp_path: Path) -> None:
    main([*argv, str(tmp_path / "a.html")])
    data = (tmp_path / "a.html").read_text().split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(data)
    assert data.isascii()


def test_nothing_is_called_good_that_is_not_whole_and_proven() -> None:
    rules, shapes = ckptmap.Rules.parse("ckptmap 1\na <-> b\n"), {"left": {"a": (2,)}, "right": {"b": (2,)}}
    passed = Verification((("output", "output"),), 0.0, ("output", "output"), True)
    failed = Verification((("output", "output"),), 0.5, ("output", "output"), True)
    nothing = ckptmap.Rules.parse("ckptmap 1\n")
    answers = {
        "good": Remap(rules, verification=passed, **shapes),
        "doubt": Remap(rules, note="names only", **shapes),
        "open": Remap(nothing, draft=ckptmap.Rules.parse("ckptmap 1\nguess a <-> b\n"), **shapes),
        "left": Remap(nothing, verification=failed, unproven=rules, **shapes),
    }
    assert {tone: remap_page(answer)["tone"] for tone, answer in answers.items()} == {tone: tone for tone in answers}
    labels = [remap_page(answer)["matching"] for answer in answers.values()]
    states = [one["states"][one["links"]["state"][0]]["label"] for one in labels]
    assert states == ["decided", "decided", "guess", "not proven"]
