"""The command as a process: pipes, signals, colours, what it loads, how it is called."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ckptmap.__main__ import main

COMMAND = [sys.executable, "-m", "ckptmap"]


@pytest.mark.parametrize("form", ["roberta-cls", "roberta-cls-sharded", "roberta-cls-bin"])
def test_local_headers_need_no_heavy_import(fixtures: Path, form: str) -> None:
    code = f"""
import sys
from ckptmap.__main__ import main
main(["inspect", {str(fixtures / form)!r}])
main(["diff", {str(fixtures / form)!r}, {str(fixtures / "roberta-mlm")!r}])
heavy = {{"torch", "transformers", "numpy", "huggingface_hub", "rich", "safetensors", "ckptmap.rules"}}
heavy &= set(sys.modules)
sys.exit(", ".join(heavy) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_library_loads_no_torch() -> None:
    code = "import ckptmap, sys; sys.exit('torch' in sys.modules or 'rich' in sys.modules or 'argparse' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_reader_that_leaves_is_no_traceback(fixtures: Path) -> None:
    line = f"{sys.executable} -m ckptmap inspect {fixtures / 'roberta-cls'} --all | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("source")


def test_colour_on_a_terminal_and_none_in_a_pipe(fixtures: Path) -> None:
    argv = [*COMMAND, "diff", str(fixtures / "roberta-mlm"), str(fixtures / "roberta-cls")]
    assert "\x1b[" in on_terminal(argv, {"TERM": "xterm-256color"})
    assert "\x1b[3" not in on_terminal(argv, {"TERM": "xterm-256color", "NO_COLOR": "1"})
    assert b"\x1b[" not in subprocess.run(argv, capture_output=True).stdout


def on_terminal(argv: list[str], environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(argv, stdout=theirs, env={**os.environ, **environment})
    os.close(theirs)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the terminal's end of file
            break
        if not chunk:
            break
        output += chunk
    process.wait()
    os.close(ours)
    return output.decode()


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*args: object, **flags: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ckptmap.cli.common.open_checkpoint", interrupted)
    assert main(["inspect", "anything"]) == 130
    assert capsys.readouterr() == ("", "ckptmap: interrupted\n")


def test_a_fault_of_our_own_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **flags: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("ckptmap.cli.common.open_checkpoint", broken)
    assert main(["inspect", "anything"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "a fault of ckptmap itself: ZeroDivisionError: oops" in err
