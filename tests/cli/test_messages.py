"""What beginners run into: where, what, and what to do, on lines that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptmap.__main__ import main

MODELS = """
import torch

class Model(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)

    def forward(self, one, other):
        return self.layer(one) + other["x"]

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("inspect x --inclde y", "did you mean --include?"),
        ("inspect x --zzz", "see ckptmap inspect --help"),
        ("convert one", "convert: takes [F] IN OUT, and 1 operands were given"),
        ("remap models.py:number models.py:number", "gives int, which is no torch.nn.Module"),
        ("remap models.py:Model models.py:Model", "arguments are given with --left-arg NAME=VALUE"),
        ("remap nowhere:Model models.py:Model", "modules are looked for in this folder"),
        (
            "remap models.py:Model models.py:Model --left-arg width=4 --right-arg width=4",
            "no usual input runs both models; give --left-inputs and --right-inputs",
        ),
        (
            "remap models.py:Model models.py:Model --left-arg width=4 --right-arg width=4 "
            "--left-inputs models.py:number --right-inputs models.py:number",
            "the inputs given are int; give a dict",
        ),
    ],
)
def test_it_says_what_to_do(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert "\\n" not in err


def test_several_faults_stand_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rules.ckptmap").write_text("ckptmap 1\nx y\n{ <-> b\n")
    assert main(["fmt", "rules.ckptmap"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("ckptmap: rules.ckptmap:2:1: ")
    assert second.startswith("rules.ckptmap:3:1: ")


def test_a_file_that_cannot_be_written_is_no_fault_of_ours(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.ckptmap").write_text("a   <-> b\n")
    sides = [str(fixtures / "roberta-cls")] * 2
    assert main(["remap", *sides, "-o", "nowhere/rules.ckptmap"]) == 2
    assert "nowhere/rules.ckptmap: cannot be written: No such file or directory" in capsys.readouterr().err


def test_the_config_beside_a_file_serves_a_class(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = fixtures / "roberta-mlm"
    assert main(["diff", str(source), f"{source / 'model.safetensors'}#RobertaForMaskedLM", "-q"]) == 1
    assert capsys.readouterr().out.splitlines() == ["+ lm_head.decoder.weight", "+ lm_head.decoder.bias"]


def test_an_export_that_cannot_be_written_or_said(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.ckptmap").write_text("ckptmap 1\nroberta.** <-> encoder.**\nclassifier.** <-> _\n")
    sides = ["a.ckptmap", str(fixtures / "roberta-cls"), "--to", "key-mapping"]
    assert main(["export", *sides]) == 1
    assert "\\n" not in capsys.readouterr().err
    assert main(["export", *sides[:2], "--to", "python", "-o", "nowhere/x.py"]) == 2
    assert "nowhere/x.py: cannot be written: No such file or directory" in capsys.readouterr().err
