"""What a conversion that fails, is killed or has company leaves: the old or the new, and all that others own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ckptmap import files
from ckptmap.conversion.convert import convert
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.writing.folder import INDEX
from tests.convert.plans import plan, read, rename, save

CALLS = ("open", "write", "copy_file_range", "fsync", "fchmod", "close", "link", "rename", "replace", "unlink", "mkdir")
KILLED = 9
NAMES = [f"layer.{number}" for number in range(4)]
PLAN = plan(*(rename(name, f"new.{name}", 300) for name in NAMES))


KEPT = "n <-> m\nextra <-> _\n"


def state(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full((300,), float(value)) for name in NAMES}


def values(path: Path) -> set[float]:
    """The values that a reader of a file or folder gets."""
    if path.is_file():
        tensors = read(path)
    else:
        from ckptmap import open_checkpoint

        with open_checkpoint(path) as checkpoint:
            tensors = {name: checkpoint.load(name) for name in checkpoint}
    assert sorted(tensors) == [f"new.{name}" for name in NAMES]
    return {value for tensor in tensors.values() for value in tensor.tolist()}


@contextmanager
def dying_at(number: int) -> Iterator[None]:
    """Let this process die before its so-and-so-manieth call of the system that changes something."""
    left = number

    def counting(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*given: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(KILLED)
            return call(*given, **named)

        return counted

    before = {name: getattr(os, name) for name in CALLS}
    exchange = files._rename
    for name, call in before.items():
        setattr(os, name, counting(call))
    files._rename = counting(exchange)  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(os, name, call)
        files._rename = exchange


def runs_that_die(run: Callable[[], object]) -> Iterator[int]:
    """A run for every call at which it can die, in a process of its own; ends with one that lives."""
    for number in range(1000):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                with dying_at(number):
                    run()
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, KILLED)
        yield number
        if not code:
            return
    raise AssertionError("it does not end")


@pytest.mark.parametrize("form", ["file", "folder", "shards", "shards over a file", "a file over shards"])
@pytest.mark.filterwarnings("ignore:.*fork")
def test_killed_at_any_call_the_old_or_the_new_is_there_and_what_is_others(tmp_path: Path, form: str) -> None:
    old, new = save(tmp_path / "old.safetensors", state(1)), save(tmp_path / "new.safetensors", state(2))
    out = tmp_path / ("out.safetensors" if form == "file" else "out")
    small = 2500  # bytes: two tensors in each of two shards
    before = {"max_shard_size": small} if form in ("shards", "a file over shards") else {}
    after = {"max_shard_size": small} if form in ("shards", "shards over a file") else {}
    seen = set()

    def begin() -> None:
        convert(PLAN, old, out, force=True, **before)
        if out.is_dir():
            (out / "notes").write_text("mine")
            (out / "data").mkdir(exist_ok=True)
            (out / "data" / "train.txt").write_text("mine")

    begin()
    for _ in runs_that_die(lambda: convert(PLAN, new, out, force=True, **after)):
        found = values(out)
        assert found in ({1.0}, {2.0})
        seen |= found
        if out.is_dir():
            assert (out / "notes").read_text() == (out / "data" / "train.txt").read_text() == "mine"
        begin()
        assert values(out) == {1.0}
        assert not list((out if out.is_dir() else tmp_path).glob(".*.tmp"))
    assert seen == {1.0, 2.0}


def test_an_index_never_names_a_shard_that_is_not_there(tmp_path: Path) -> None:
    new = save(tmp_path / "new.safetensors", state(2))

    def run() -> None:
        convert(PLAN, new, tmp_path / "out", max_shard_size=2500)

    for number in runs_that_die(run):
        index = tmp_path / "out" / INDEX
        if index.exists():
            assert values(tmp_path / "out") == {2.0}
        for path in sorted((tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []:
            path.unlink()
        assert number < 900


def test_what_a_killed_run_left_is_told_and_removed_but_not_what_a_live_one_writes(tmp_path: Path) -> None:
    source, out = save(tmp_path / "a.safetensors", state(1)), tmp_path / "out.safetensors"
    (tmp_path / ".out.safetensors.0123456789ab.tmp").write_text("half")
    (tmp_path / ".out.safetensors.mine.tmp").write_text("mine")
    with files.Staging(overwrite=True) as alive, alive.file(out):
        made = convert(PLAN, source, out)
        assert made.leftovers == (str(tmp_path / ".out.safetensors.0123456789ab.tmp"),)  # type: ignore[union-attr]
        assert len(list(tmp_path.glob(".out.*.tmp"))) == 2


@pytest.mark.parametrize("how", ["saved anew", "overwritten in place", "time set back", "removed"])
@pytest.mark.parametrize("role", ["source", "residue", "base"])
def test_a_file_that_changes_after_its_header_was_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, role: str
) -> None:
    rules = tmp_path / "r.ckptmap"
    rules.write_text(KEPT)
    source = save(tmp_path / "source.safetensors", {"n": torch.ones(4), "extra": torch.ones(2)})
    convert(rules, source, tmp_path / "there.safetensors", residue=tmp_path / "residue.safetensors")
    given = {
        "source": tmp_path / "there.safetensors",
        "residue": tmp_path / "residue.safetensors",
        "base": save(tmp_path / "base.safetensors", {"n": torch.zeros(4), "extra": torch.zeros(2)}),
    }
    target, before = given[role], os.stat(given[role])
    data = target.read_bytes()
    write = files.Staging.file

    def meanwhile(staging: files.Staging, place: Path) -> object:
        if how == "saved anew":
            (tmp_path / "again").write_bytes(data)
            os.replace(tmp_path / "again", target)
        elif how == "removed":
            target.unlink(missing_ok=True)
        else:
            target.write_bytes(data[:-4] + b"\1\2\3\4")
        if how == "time set back":
            os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        return write(staging, place)

    monkeypatch.setattr(files.Staging, "file", meanwhile)
    more = {role: given[role]} if role != "source" else {"residue": given["residue"]}
    with pytest.raises(CheckpointError, match=r"changed or replaced|cannot be read|No such file"):
        convert(rules, given["source"], tmp_path / "back.safetensors", back=True, **more)  # type: ignore[arg-type]
    assert not (tmp_path / "back.safetensors").exists()
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_of_two_conversions_to_one_new_place_one_wins(tmp_path: Path, out: str) -> None:
    code = """
import sys
from pathlib import Path
from ckptmap.conversion.convert import convert
from ckptmap.errors import ConvertError
from tests.convert.test_nothing_lost import PLAN
sys.stdin.readline()
try:
    convert(PLAN, sys.argv[1], sys.argv[2], max_shard_size=int(sys.argv[3]) or None)
except ConvertError as error:
    assert "--force overwrites" in str(error), error
    sys.exit(1)
"""
    sources = [save(tmp_path / f"{value}.safetensors", state(value)) for value in (1, 2)]
    for size in ((0, 0),) if out.endswith("s") else ((2500, 2500), (2500, 1300), (0, 2500)):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(source), str(tmp_path / out), str(largest)],
                stdin=subprocess.PIPE, cwd=Path(__file__).parents[2],
            )
            for source, largest in zip(sources, size, strict=True)
        ]  # fmt: skip
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.close()
        codes = [process.wait() for process in running]
        assert sorted(codes) == [0, 1]
        assert values(tmp_path / out) == {float(codes.index(0) + 1)}
        assert not list(tmp_path.rglob(".*.tmp"))
        for path in [tmp_path / out] if out.endswith("s") else (tmp_path / out).iterdir():
            path.unlink()


def test_a_failed_conversion_leaves_old_target_and_old_residue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = tmp_path / "r.ckptmap"
    rules.write_text(KEPT)
    for number in (1, 2):
        save(
            tmp_path / f"{number}.safetensors", {"n": torch.full((4,), float(number)), "extra": torch.ones(2) * number}
        )
    out, residue = tmp_path / "out.safetensors", tmp_path / "residue.safetensors"
    convert(rules, tmp_path / "1.safetensors", out, residue=residue)
    before = out.read_bytes(), residue.read_bytes()
    exchange = files._rename
    for refused in (out, residue):

        def refusing(old: Path, new: Path, flag: int, refused: Path = refused) -> bool:
            if new == refused:
                raise OSError(28, "No space left on device")
            return exchange(old, new, flag)

        with monkeypatch.context() as patch:
            patch.setattr(files, "_rename", refusing)
            with pytest.raises(CheckpointError, match="No space left on device; nothing was changed"):
                convert(rules, tmp_path / "2.safetensors", out, residue=residue, force=True)
        assert (out.read_bytes(), residue.read_bytes()) == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_where_the_system_knows_no_exchange_and_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(files, "_rename", lambda *_: False)
    source, out = save(tmp_path / "a.safetensors", state(1)), tmp_path / "out"
    convert(PLAN, source, out)
    assert values(out) == {1.0}
    with pytest.raises(ConvertError, match="--force overwrites"):
        convert(PLAN, source, out)
    convert(PLAN, save(tmp_path / "b.safetensors", state(2)), out, force=True)
    assert values(out) == {2.0}
    assert os.listdir(out) == ["model.safetensors"]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_written_over(tmp_path: Path, kind: str) -> None:
    source, odd = save(tmp_path / "a.safetensors", state(1)), tmp_path / "odd.safetensors"
    os.mkfifo(odd) if kind == "pipe" else odd.symlink_to("/dev/null")
    for force in (False, True):
        with pytest.raises(ConvertError, match=r"odd\.safetensors: (is a device, a pipe or a socket|exists)"):
            convert(PLAN, source, odd, force=force)
    with pytest.raises(CheckpointError, match="is a folder, a device or a pipe; name a file"):
        files.write_text(odd, b"rules")
    assert odd.is_fifo() or odd.is_symlink()


def test_the_room_is_looked_at_before_a_long_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONG_WRITE", 1)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(ConvertError, match=r"4,800 bytes are to be written, and 100 are free there; make room"):
        convert(PLAN, save(tmp_path / "a.safetensors", state(1)), tmp_path / "new" / "out")
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors"]


def test_in_place_is_refused_through_links(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", state(1))
    before = source.read_bytes()
    (tmp_path / "symbolic.safetensors").symlink_to(source)
    with pytest.raises(ConvertError, match=r"is a symbolic link to .*a\.safetensors, which others may use; name OUT"):
        convert(PLAN, tmp_path / "symbolic.safetensors", in_place=True)
    os.link(source, tmp_path / "hard.safetensors")
    with pytest.raises(ConvertError, match=r"has other names \(hard links\).* cp -L .*a\.safetensors COPY"):
        convert(PLAN, source, in_place=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_run_without_leaving_anything(tmp_path: Path, number: signal.Signals) -> None:
    save(tmp_path / "a.safetensors", state(1))
    (tmp_path / "r.ckptmap").write_text("layer.{i} <-> x.{i}\n")
    code = f"""
import os, signal, sys
from ckptmap import files
from ckptmap.__main__ import main
sync = os.fsync
def hit(descriptor):
    os.kill(os.getpid(), {int(number)})
    sync(descriptor)
os.fsync = hit
sys.exit(main(["convert", "r.ckptmap", "a.safetensors", "out.safetensors"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 128 + number
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "r.ckptmap"]


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_like_does_not_copy_through_links_out_of_its_folder(tmp_path: Path, name: str) -> None:
    private, like = tmp_path / "private", tmp_path / "like"
    private.write_text("secret")
    like.mkdir()
    (like / "config.json").write_text('{"model_type": "bert"}')
    (like / name).symlink_to(private)
    with pytest.raises(CheckpointError, match=f"{name}: is a symbolic link out of its folder"):
        convert(PLAN, save(tmp_path / "a.safetensors", state(1)), tmp_path / "out", like=like)
    assert not (tmp_path / "out").exists()
