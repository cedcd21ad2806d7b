"""Files that change, shrink or go while they are read, and a reader that is stopped: never a wrong "same"."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptmap
from ckptmap.errors import CheckpointError
from tests.values.files import write

Change = Callable[[Path], object]


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def replace(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


CHANGES = pytest.mark.parametrize("change", [flip, shrink, replace, Path.unlink])


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "left.safetensors", tmp_path / "right.safetensors"
    for path in paths:
        save_file({"a": torch.zeros(400_000), "b": torch.zeros(400_000)}, path)
        os.utime(path, (1, 1))  # a clock is too coarse to tell two writes of one moment apart
    return paths


@CHANGES
def test_what_changed_since_its_header_was_read(sides: tuple[Path, Path], change: Change) -> None:
    left, right = map(ckptmap.open_checkpoint, sides)
    change(sides[1])
    with pytest.raises(CheckpointError, match=r"right\.safetensors: (was changed or replaced|cannot be read)"):
        ckptmap.diff(left, right, values=True)
    for look in (ckptmap.digest, ckptmap.examine):
        with pytest.raises(CheckpointError):
            look(right)


@CHANGES
def test_what_changes_while_it_is_read(sides: tuple[Path, Path], change: Change) -> None:
    changes = iter([change])

    def progress(done: int, total: int) -> None:
        for once in changes:
            once(sides[1])

    with pytest.raises(
        CheckpointError, match=r"right\.safetensors: (was changed|cannot be read any more|ends at byte)"
    ):
        ckptmap.diff(*sides, values=True, progress=progress)


@CHANGES
def test_what_changes_while_its_digest_is_made(sides: tuple[Path, Path], change: Change) -> None:
    changes = iter([change])

    def progress(done: int, total: int) -> None:
        for once in changes:
            once(sides[1])

    with pytest.raises(CheckpointError, match=r"right\.safetensors"):
        ckptmap.digest(sides[1], progress=progress)


def test_a_shard_that_goes_while_another_is_read(fixtures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(fixtures / "roberta-cls-sharded", tmp_path / "shards")

    def progress(done: int, total: int) -> None:
        (folder / "model-00002-of-00003.safetensors").unlink(missing_ok=True)

    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: cannot be read"):
        ckptmap.diff(fixtures / "roberta-cls", folder, values=True, progress=progress)


def test_a_worker_that_fails_is_no_answer(sides: tuple[Path, Path]) -> None:
    def progress(done: int, total: int) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        ckptmap.diff(*sides, values=True, progress=progress)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("values-")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.parametrize("verb", [["diff", "left", "right", "--values"], ["inspect", "left", "--digest"]])
def test_a_reader_that_is_stopped_says_nothing(tmp_path: Path, verb: list[str], stop: int, code: int) -> None:
    for side in ("left", "right"):
        path = write(tmp_path / f"{side}.safetensors", {"x": ("U8", (0,), b"")})
        header = path.read_bytes()[8:].replace(b"[0]", b"[8000000000]").replace(b"[0, 0]", b"[0, 8000000000]")
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(path, 8 + len(header) + 8_000_000_000)  # a hole, that takes no room
    argv = [
        sys.executable,
        "-m",
        "ckptmap",
        *(f"{word}.safetensors" if word in ("left", "right") else word for word in verb),
    ]
    with subprocess.Popen(
        argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:  # fmt: skip
        until = time.monotonic() + 30
        while len(os.listdir(f"/proc/{process.pid}/task")) == 1 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(stop)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert err == ("ckptmap: interrupted\n" if code == 130 else "")


@pytest.mark.parametrize("asked", ["0", "x", "-1", "100000"])
def test_a_wrong_number_of_workers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("CKPTMAP_WORKERS", asked)
    one, other = (write(tmp_path / name, {"a": ("U8", (1,), b"a")}) for name in ("one", "other"))
    with pytest.raises(ckptmap.errors.UsageError, match=f"CKPTMAP_WORKERS={asked}: must be a whole number from 1"):
        ckptmap.diff(one, other, values=True)
