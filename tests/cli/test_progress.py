"""A sign of life on stderr: on a terminal after a second, in a log now and then, and none for what is quick."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from ckptmap.cli.progress import Progress, far_text
from ckptmap.stages import tell

SLOW = """
import sys, time
from ckptmap.cli import progress
from ckptmap.stages import tell
progress.PATIENCE, progress.LOG_EVERY = 0.2, 0.2
with progress.Progress("Writing out", unit="bytes") as shown:
    for done in range(1, 9):
        time.sleep(0.1)
        shown(done * 10**9, 16 * 10**9)
    tell("headers [of] shards", 3, 100)
    time.sleep(0.3)
"""


@pytest.mark.parametrize(
    ("done", "total", "seconds", "unit", "text"),
    [
        (0, 0, 3.0, "bytes", ""),
        (0, 4 * 10**9, 0.0, "bytes", "0 B of 4 GB"),
        (10**9, 4 * 10**9, 5.0, "bytes", "1 GB of 4 GB, 200 MB/s, 15 s left"),
        (10**10, 400 * 10**9, 50.0, "bytes", "10 GB of 400 GB, 200 MB/s, 32 min 30 s left"),
        (10**11, 9000 * 10**9, 500.0, "bytes", "100 GB of 9 TB, 200 MB/s, 12 h 21 min left"),
        (6000, 3 * 10**9, 1.0, "bytes", "6 kB of 3 GB"),
        (37, 1000, 5.0, "", "37 of 1,000"),
    ],
)
def test_how_far_it_is(done: int, total: int, seconds: float, unit: str, text: str) -> None:
    assert far_text(done, total, seconds, unit) == text


def test_a_terminal_sees_a_bar_with_rate_and_remaining_time_and_it_goes_away() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SLOW], stderr=theirs, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    seen = os.read(ours, 1 << 20).decode()
    assert (done.returncode, done.stdout) == (0, b"")
    assert "GB of 16 GB, " in seen
    assert "s left" in seen
    assert "Writing out: headers [of] shards" in seen
    assert seen.endswith("\x1b[2K")  # the line is wiped


@pytest.mark.parametrize("term", ["", "dumb"])
def test_a_log_gets_plain_lines(term: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW], capture_output=True, text=True, env={**os.environ, "TERM": term}
    )
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 4
    assert lines[0].startswith("ckptmap: Writing out, 2 GB of 16 GB, ")
    assert lines[0].endswith(" s left")
    assert "\x1b" not in done.stderr


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Reading"):
        tell("headers of shards", 1, 2)
    tell("nobody listens")
    assert capsys.readouterr() == ("", "")
