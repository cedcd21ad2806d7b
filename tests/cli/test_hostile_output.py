"""What strangers wrote reaches a terminal only as text; streams that are closed, full or gone are told of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptmap.__main__ import main
from ckptmap.cli.main import VERBS
from ckptmap.printable import SECRETS, json_text, printable

EVIL = "\x1b[31m\x1b]0;title\x07\u009b2J\u202egnp\u2066\u200b\U000e0041"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")
FORMATS = [[], ["--format", "json"], ["--format", "markdown"]]
COMMANDS = {
    "inspect": [[source, *form] for source in ("a.safetensors", "folder") for form in [*FORMATS, ["-q"], ["--values"]]],
    "diff": [["a.safetensors", "b.safetensors", *form] for form in [*FORMATS, ["-q"], ["--values"]]],
    "heads": [["folder", *form] for form in FORMATS] + [["folder", "--class", EVIL], ["a.safetensors"]],
    "remap": [["a.safetensors", "b.safetensors", *form] for form in FORMATS] + [[f"{EVIL}.py:f", "a.safetensors"]],
    "verify": [["r.ckptmap", f"x{EVIL}:build", "b.safetensors"]],
    "convert": [
        ["r.ckptmap", "a.safetensors", "out.safetensors", "--force"],
        ["r.ckptmap", "a.safetensors", "b.safetensors"],
        ["r.ckptmap", "a.safetensors", f"{EVIL}.bin"],
        ["r.ckptmap", "plain.safetensors", "out.safetensors", "--force", "--partial"],
    ],
    "export": [["r.ckptmap", "--to", "json", "a.safetensors"], ["r.ckptmap", "--to", EVIL, "a.safetensors"]],
    "check": [["r.ckptmap"], ["r.ckptmap", "a.safetensors", "--format", "json"], ["broken.ckptmap"]],
    "fmt": [["r.ckptmap", "--check"], ["broken.ckptmap"], [f"{EVIL}.ckptmap"]],
    "completion": [[EVIL]],
}
EVERY = [[verb, *words] for verb, lines in COMMANDS.items() for words in lines]
EVERY += [[verb, f"--{EVIL}", EVIL] for verb in VERBS] + [[EVIL], [f"--{EVIL}"]]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixtures: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    save_file({f"w{EVIL}": torch.zeros(2), "same": torch.zeros(2), "m": torch.ones(1)}, "a.safetensors", {EVIL: EVIL})
    save_file({f"v{EVIL}": torch.zeros(2), "same": torch.zeros(3), "m": torch.zeros(1)}, "b.safetensors")
    save_file({"same": torch.zeros(2), "m": torch.ones(1)}, "plain.safetensors")
    Path("r.ckptmap").write_text(f"# {EVIL}\nsame   <-> same2  # {EVIL}\n")
    Path("broken.ckptmap").write_text(f"sa{EVIL}me <-> {{ <->{EVIL}\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    config = json.loads((fixtures / "roberta-cls/config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": EVIL, "architectures": [EVIL]}))
    save_file({f"w{EVIL}": torch.zeros(2)}, folder / "model.safetensors")
    return tmp_path


def test_every_verb_is_driven() -> None:
    assert set(COMMANDS) == set(VERBS)


@pytest.mark.parametrize("words", EVERY, ids=lambda words: ascii(" ".join(words))[:60])
def test_no_verb_and_no_format_lets_a_control_character_through(
    hostile: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) in (0, 1, 2)
    said = capsys.readouterr()
    assert said.out + said.err
    assert not RAW.findall(said.out + said.err)
    assert "fault of ckptmap" not in said.err


def test_json_still_says_the_same_names(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "a.safetensors", "--format", "json"]) == 0
    names = {tensor["name"] for tensor in json.loads(capsys.readouterr().out)["tensors"]}
    assert f"w{EVIL}" in names


def test_escapes() -> None:
    assert printable("a\x1b\u009b\u202eb\nc") == "a\\x1b\\x9b\\u202eb\\nc"
    text = json.dumps({"a": EVIL + "\ud800 é"}, ensure_ascii=False)
    assert json.loads(json_text(text)) == json.loads(text)
    assert not RAW.search(json_text(text))


def test_secrets_are_masked_in_all_that_is_printed(
    hostile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_0123456789abcdef"
    monkeypatch.setattr("ckptmap.printable.SECRETS", SECRETS | {secret})
    save_file({f"w.{secret}": torch.zeros(2)}, "token.safetensors")
    for form in FORMATS:
        assert main(["inspect", "token.safetensors", *form]) == 0
        assert secret not in capsys.readouterr().out


COMMAND = [str(Path(sys.executable).with_name("ckptmap"))]


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    line = line.replace("ckptmap", COMMAND[0], 1)
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("line", ["ckptmap inspect {f} >&-", "ckptmap inspect {f} > /dev/full", "ckptmap --help >&-"])
def test_output_that_cannot_be_written_is_an_error(fixtures: Path, tmp_path: Path, line: str) -> None:
    done = shell(line.format(f=fixtures / "roberta-cls"), tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"ckptmap: the output cannot be written: .+\n", done.stderr)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ckptmap inspect {f} 2>&- | tail -1", 0),
        ("ckptmap inspect nowhere 2>&-", 2),
        ("ckptmap inspect nowhere 2> /dev/full", 2),
        ("ckptmap inspect {f} <&-", 0),
        ("ckptmap inspect nowhere >&- 2>&-", 2),
        ("ckptmap inspect {f} | head -1", 0),
    ],
)
def test_closed_streams_are_no_fault(fixtures: Path, tmp_path: Path, line: str, code: int) -> None:
    done = shell(line.format(f=fixtures / "roberta-cls"), tmp_path)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_closed_stdout_is_not_what_a_file_is_written_to(fixtures: Path, tmp_path: Path) -> None:
    (tmp_path / "r.ckptmap").write_text("** <-> m.**\n")
    source = fixtures / "roberta-cls/model.safetensors"
    shell(f"ckptmap convert r.ckptmap {source} whole.safetensors", tmp_path)
    done = shell(f"ckptmap convert r.ckptmap {source} out.safetensors >&- 2>&- <&-", tmp_path)
    assert done.returncode in (0, 2)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize("verb", ["inspect .", "diff . .", "heads .", "check r", "fmt r", "convert r a b", "remap . ."])
def test_a_deleted_current_folder_is_told(tmp_path: Path, verb: str) -> None:
    done = shell(f"mkdir gone; cd gone; rmdir ../gone; exec ckptmap {verb}", tmp_path)
    assert done.returncode == 2
    assert "fault of ckptmap" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "0"},
        {"COLUMNS": "x"},
        {"CKPTMAP_CACHE": "~nouser"},
        {"HOME": "/nonexistent"},
    ],
    ids=str,
)
def test_odd_environments_are_no_fault(fixtures: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    line = f"ckptmap diff {fixtures / 'roberta-mlm'} {fixtures / 'roberta-cls'}"
    done = subprocess.run(
        [*COMMAND, *line.split()[1:]], cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert b"fault of ckptmap" not in done.stderr


def test_odd_arguments_are_no_fault(tmp_path: Path) -> None:
    for words in ([b""], [b"\xff\xfe"], [b"x" * 100_000], [b"a\xf0\x9f.safetensors"]):
        done = subprocess.run([*COMMAND, "inspect", *words], cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 2
        assert b"fault of ckptmap" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["check", "pipe"],
        ["fmt", "pipe"],
        ["inspect", "pipe"],
        ["convert", "pipe", "b.safetensors", "c.safetensors"],
        ["diff", "pipe", "pipe"],
    ],
)
def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path, words: list[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    save_file({"same": torch.zeros(2)}, tmp_path / "b.safetensors")
    done = subprocess.run([*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode in (1, 2)
    assert "pipe" in done.stderr
    assert "fault of ckptmap" not in done.stderr


def test_a_pipe_in_the_cache_does_not_hang(fixtures: Path, tmp_path: Path) -> None:
    words = [*COMMAND, "heads", str(fixtures / "roberta-cls"), "--class", "RobertaForMaskedLM"]
    environment = {**os.environ, "CKPTMAP_CACHE": str(tmp_path)}
    first = subprocess.run(words, env=environment, capture_output=True, timeout=120)
    for entry in (tmp_path / "heads").iterdir():
        entry.unlink()
        os.mkfifo(entry)
    second = subprocess.run(words, env=environment, capture_output=True, timeout=120)
    assert first.stdout == second.stdout != b""
