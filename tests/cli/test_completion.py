"""Completion as shells do it: the script is loaded, and asked what could stand where the cursor is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ckptmap.__main__ import main
from ckptmap.cli.main import VERBS

pytest.importorskip("shtab", reason="an environment older than the dependency")

ASKED = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={last}
$(complete -p ckptmap | sed -E 's/.*-F ([^ ]+).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Path:
    assert main(["completion", request.param]) == 0
    path = tmp_path / f"ckptmap.{request.param}"
    path.write_text(capsys.readouterr().out)
    return path


def in_bash(script: Path, words: list[str]) -> set[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    code = ASKED.format(script=script, words=quoted, last=len(words) - 1)
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=script.parent)
    assert not done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes_verbs_flags_choices_and_files(script: Path) -> None:
    (script.parent / "roberta.ckptmap").touch()
    assert set(VERBS) <= in_bash(script, ["ckptmap", ""])
    assert in_bash(script, ["ckptmap", "he"]) == {"heads"}
    assert {"--left-at", "--left-variant"} <= in_bash(script, ["ckptmap", "diff", "--left-"])
    assert in_bash(script, ["ckptmap", "diff", "a", "b", "--format", "m"]) == {"markdown"}
    assert "roberta.ckptmap" in in_bash(script, ["ckptmap", "check", "rob"])
    assert in_bash(script, ["ckptmap", "completion", "z"]) == {"zsh"}


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_completes(script: Path) -> None:
    code = f"source {script}; complete -C 'ckptmap he'; complete -C 'ckptmap diff --left-a'"
    done = subprocess.run(["fish", "-c", code], capture_output=True, text=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["heads", "--left-at"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_reads_it(script: Path) -> None:
    assert script.read_text().startswith("#compdef ckptmap")
    assert subprocess.run(["zsh", "-n", script]).returncode == 0


def test_another_shell_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "choose from 'bash', 'zsh', 'fish'" in capsys.readouterr().err
