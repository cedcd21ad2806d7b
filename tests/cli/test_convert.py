"""`ckptmap convert`: exit code, stdout, stderr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptmap.cli.convert as verb
from ckptmap.__main__ import main
from ckptmap.cli.main import VERBS
from ckptmap.conversion.convert import convert
from ckptmap.writing import inplace
from tests.convert.plans import fused, fused_state, read, save


@pytest.fixture(autouse=True)
def run_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are a plan made by hand, whatever file is named."""
    monkeypatch.setitem(VERBS, "convert", VERBS.get("convert", "Convert a checkpoint by rules."))
    monkeypatch.setattr(verb, "convert", lambda rules, *args, **named: convert(fused(), *args, **named))


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "a.safetensors", fused_state())
    there, again = str(tmp_path / "b.safetensors"), str(tmp_path / "c.safetensors")
    assert main(["convert", "f.ckptmap", str(source), there]) == 0
    assert capsys.readouterr() == (f"{there}: 3 tensors, 160 bytes\n", "")
    assert main(["convert", there, again, "--back", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert torch.equal(read(Path(again))["a"], read(source)["a"])


def test_casts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "a.safetensors", fused_state())
    assert main(["convert", "f.ckptmap", str(source), str(tmp_path / "b.safetensors"), "--dtype", "bf16"]) == 0
    assert "cast F32 to BF16: 4 tensors, which narrows\n" in capsys.readouterr().out


def test_what_the_data_refuse_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(save(tmp_path / "a.safetensors", fused_state()))
    assert main(["convert", "f.ckptmap", source, source]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"ckptmap: {source}: is read by this conversion; write to another place\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a"], "convert: takes [F] IN OUT, and 1 operands were given"),
        (["f", "a", "b", "--in-place"], "convert: takes [F] FILE --in-place, and 3 operands were given"),
        (["f", "fixtures/roberta-cls", "b", "--size", "k"], "--size k: not a length. Write --size r=2."),
        (["f", "nowhere.safetensors", "b.safetensors"], "nowhere.safetensors: there is no such file or folder here"),
    ],
)
def test_trouble_exits_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *words]) == 2
    assert told in capsys.readouterr().err


def test_undo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "a.safetensors", fused_state())
    data: Any = source.read_bytes()
    assert main(["convert", "--undo", str(source)]) == 0
    assert capsys.readouterr().out == f"{source}: nothing to undo\n"
    inplace._write_journal(source, source.stat(), data[: 8 + int.from_bytes(data[:8], "little")], 0)
    source.write_bytes(bytes(40) + data[40:])
    assert main(["convert", "--undo", str(source)]) == 0
    assert capsys.readouterr().out == f"{source}: rolled back\n"
    assert source.read_bytes() == data
