"""`ckptmap fmt`: exit code, stdout, and the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptmap.__main__ import main


def test_a_file_is_rewritten_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.ckptmap"
    path.write_text("a   <-> b # why\nlonger <-> c\n")
    assert main(["fmt", str(path), "--check"]) == 1
    assert "-a   <-> b # why\n+a      <-> b  # why\n longer <-> c\n" in capsys.readouterr().out
    assert main(["fmt", str(path)]) == 0
    assert path.read_text() == "a      <-> b  # why\nlonger <-> c\n"
    assert main(["fmt", str(path), "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_what_cannot_be_read_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.ckptmap"
    path.write_text("a -> b\n")
    assert main(["fmt", str(path)]) == 2
    assert f"{path}:1:1: there is no `<->`" in capsys.readouterr().err
    assert path.read_text() == "a -> b\n"


def test_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("a.ckptmap", "b.ckptmap", "c.ckptmap")]
    for path, text in zip(paths, ("ckptmap 1\na <-> b\n", "a   <-> b\n", "a <->\n"), strict=True):
        Path(path).write_text(text)
    assert main(["fmt", *paths[:2], "--check"]) == 1
    assert paths[0] not in capsys.readouterr().out
    assert main(["fmt", *paths]) == 2
    assert f"{paths[2]}:1:" in capsys.readouterr().err
    assert main(["fmt", *paths[:2], "--check"]) == 0
