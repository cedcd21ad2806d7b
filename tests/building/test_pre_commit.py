"""The hooks of .pre-commit-hooks.yaml, run as pre-commit runs them: the entry, then the names of changed files."""

from __future__ import annotations

import pickle
import re
import shlex
from pathlib import Path

import pytest
import yaml

from ckptmap.__main__ import main

HOOKS = {
    hook["id"]: hook for hook in yaml.safe_load((Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text())
}


def run(hook: str, folder: Path) -> int:
    """What pre-commit does for a hook of language `system`."""
    command, *words = shlex.split(HOOKS[hook]["entry"])
    assert command == "ckptmap"
    changed = [str(path) for path in sorted(folder.iterdir()) if re.search(HOOKS[hook]["files"], path.name)]
    return main([*words, *changed])


def test_each_hook_says_what_pre_commit_needs() -> None:
    assert set(HOOKS) == {"ckptmap-fmt", "ckptmap-check", "ckptmap-safety"}
    for hook in HOOKS.values():
        assert {"id", "name", "description", "entry", "language", "files"} == set(hook)


def test_hooks_fix_and_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.md").write_text("not a rule file")
    (tmp_path / "good.ckptmap").write_text("a   <-> b\n")
    (tmp_path / "guess.ckptmap").write_text("ckptmap 1\nguess a <-> b\n")
    assert run("ckptmap-fmt", tmp_path) == 0
    assert (tmp_path / "good.ckptmap").read_text() == "a <-> b\n"
    assert run("ckptmap-check", tmp_path) == 1
    out = capsys.readouterr().out
    assert "guess.ckptmap:2:" in out
    assert "good.ckptmap" not in out
    (tmp_path / "guess.ckptmap").unlink()
    assert run("ckptmap-check", tmp_path) == 0


def test_a_file_that_runs_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.bin").write_bytes(pickle.dumps({"lr": 0.1}, 2))
    assert run("ckptmap-safety", tmp_path) == 0
    (tmp_path / "bad.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert run("ckptmap-safety", tmp_path) == 1
    assert "os.system('true')" in capsys.readouterr().out
