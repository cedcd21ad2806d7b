"""What a conversion that fails, is killed or has company leaves: the old or the new, and all that others own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from ckptmap import files, open_checkpoint, renames
from ckptmap.conversion.convert import convert
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.writing import places
from tests.convert.plans import plan, read, rename, save

NAMES = [f"layer.{number}" for number in range(4)]
PLAN = plan(*(rename(name, f"new.{name}", 300) for name in NAMES))


KEPT = "n <-> m\nextra <-> _\n"


def state(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full((300,), float(value)) for name in NAMES}


def values(path: Path) -> set[float]:
    """The values that a reader of a file or folder gets."""
    if path.suffix == ".safetensors":
        tensors = read(path)
    else:
        with open_checkpoint(path) as checkpoint:
            tensors = {name: checkpoint.load(name) for name in checkpoint}
    assert sorted(tensors) == [f"new.{name}" for name in NAMES]
    return {value for tensor in tensors.values() for value in tensor.tolist()}


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

    def meanwhile(staging: files.Staging, place: Path, **more: bool) -> object:
        if how == "saved anew":
            (tmp_path / "again").write_bytes(data)
            os.replace(tmp_path / "again", target)
        elif how == "removed":
            target.unlink(missing_ok=True)
        else:
            target.write_bytes(data[:-4] + b"\1\2\3\4")
        if how == "time set back":
            os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        return write(staging, place, **more)

    monkeypatch.setattr(files.Staging, "file", meanwhile)
    more = {role: given[role]} if role != "source" else {"residue": given["residue"]}
    with pytest.raises(CheckpointError, match=r"changed or replaced|cannot be read|No such file"):
        convert(rules, given["source"], tmp_path / "back.safetensors", back=True, **more)  # type: ignore[arg-type]
    assert not (tmp_path / "back.safetensors").exists()
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("out", ["out.safetensors", "out", "there", "out.bin"])
@pytest.mark.filterwarnings("ignore:.*fork")
def test_of_two_conversions_to_one_new_place_one_wins(tmp_path: Path, out: str) -> None:
    sources = [save(tmp_path / f"{value}.safetensors", state(value)) for value in (1, 2)]
    for size in ((None, None), (2500, 2500), (2500, 1300), (None, 2500)) if "." not in out else [(None, None)] * 4:
        if out == "there":
            (tmp_path / out).mkdir()
        start, go = os.pipe()
        running = []
        for source, largest in zip(sources, size, strict=True):
            pid = os.fork()
            if not pid:
                code = 2
                try:
                    os.close(go)
                    os.read(start, 1)  # both go on when the other end is closed
                    convert(PLAN, source, tmp_path / out, max_shard_size=largest, to_bin=out.endswith(".bin"))
                    code = 0
                except ConvertError as error:
                    code = 1 if "--force overwrites" in str(error) else 3
                finally:
                    os._exit(code)
            running.append(pid)
        os.close(start)
        os.close(go)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in running]
        assert sorted(codes) == [0, 1]
        assert values(tmp_path / out) == {float(codes.index(0) + 1)}
        assert not list(tmp_path.rglob(".*"))
        shutil.rmtree(tmp_path / out) if (tmp_path / out).is_dir() else (tmp_path / out).unlink()


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
    rename = renames.rename_by
    for refused in (out, residue):

        def refusing(old: Path, new: Path, flag: int, refused: Path = refused) -> bool:
            if new == refused:
                raise OSError(28, "No space left on device")
            return rename(old, new, flag)

        with monkeypatch.context() as patch:
            patch.setattr(renames, "rename_by", refusing)
            with pytest.raises(CheckpointError, match="No space left on device; nothing was changed"):
                convert(rules, tmp_path / "2.safetensors", out, residue=residue, force=True)
        assert (out.read_bytes(), residue.read_bytes()) == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_where_the_system_knows_no_exchange_and_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(renames, "rename_by", lambda *_: False)
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
    monkeypatch.setattr(places, "LONG_WRITE", 1)
    full = types.SimpleNamespace(f_bavail=10, f_bfree=10, f_frsize=10, f_blocks=1000)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(CheckpointError, match=r"4,800 bytes are to be written, and 100 are free there; make room"):
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
from ckptmap import files, open_checkpoint, renames
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
