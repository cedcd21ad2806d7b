"""Conversions of files: streamed, whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ckptmap import CheckpointError, open_checkpoint
from ckptmap.conversion.convert import Conversion, convert
from ckptmap.errors import ConvertError
from ckptmap.rules.plan import Plan
from tests.convert.plans import fused, fused_state, plan, read, rename, same_bits, save
from tests.convert.test_state_dicts import homeless, padded, tied

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_there_and_back(tmp_path: Path, dtype: torch.dtype) -> None:
    state = fused_state(dtype)
    source = save(tmp_path / "a.safetensors", state)
    made = convert(fused(), source, tmp_path / "b.safetensors")
    assert isinstance(made, Conversion)
    assert (made.files, made.tensors) == ((str(tmp_path / "b.safetensors"),), 3)
    assert same_bits(read(tmp_path / "b.safetensors"), convert(fused(), state))  # type: ignore[arg-type]
    convert(fused(), tmp_path / "b.safetensors", tmp_path / "c.safetensors", back=True)
    assert same_bits(read(tmp_path / "c.safetensors"), state)


@pytest.mark.parametrize("suffix", ["bin", "live"])
def test_from_torch_files_and_memory(tmp_path: Path, suffix: str) -> None:
    state = fused_state()
    torch.save(state, tmp_path / "a.bin")
    convert(fused(), tmp_path / "a.bin" if suffix == "bin" else state, tmp_path / "b.safetensors")
    assert same_bits(read(tmp_path / "b.safetensors"), convert(fused(), state))  # type: ignore[arg-type]


def test_to_bin(tmp_path: Path) -> None:
    state = fused_state()
    convert(fused(), save(tmp_path / "a.safetensors", state), tmp_path / "b.bin", to_bin=True)
    assert same_bits(torch.load(tmp_path / "b.bin"), convert(fused(), state))  # type: ignore[arg-type]


def renames() -> Plan:
    return plan(*(rename(f"a.{i}", f"b.{9 - i}", 5, i + 1) for i in range(10)))


def rename_state() -> dict[str, torch.Tensor]:
    return {f"a.{i}": torch.randn(5, i + 1) for i in range(10)}


def test_a_rename_reads_no_tensor(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", rename_state())
    script = f"""
import sys
from tests.convert.test_files import renames
sys.modules["torch"] = None
from ckptmap.conversion.convert import convert
convert(renames(), {str(tmp_path / "a.safetensors")!r}, {str(tmp_path / "b.safetensors")!r})
"""
    # The plan is made where torch may be imported; the conversion runs where it must not.
    script = script.replace('sys.modules["torch"] = None', 'made = renames(); sys.modules["torch"] = None')
    script = script.replace("convert(renames()", "convert(made")
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    found = read(tmp_path / "b.safetensors")
    assert all(torch.equal(found[f"b.{9 - i}"], t) for i, t in enumerate(read(tmp_path / "a.safetensors").values()))


def test_copying_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", cannot)
    state = fused_state()
    convert(fused(), save(tmp_path / "a.safetensors", state), tmp_path / "b.safetensors")
    assert same_bits(read(tmp_path / "b.safetensors"), convert(fused(), state))  # type: ignore[arg-type]


def test_tensors_start_at_multiples_of_their_elements(tmp_path: Path) -> None:
    state = {"x": torch.ones(3, dtype=torch.bfloat16), "y": torch.ones(2), "z": torch.ones(3, dtype=torch.int8)}
    names = plan(rename("z", "c", 3), rename("x", "a", 3), rename("y", "b", 2))
    torch.save(state, tmp_path / "a.bin")
    convert(names, tmp_path / "a.bin", tmp_path / "b.safetensors")
    with open_checkpoint(tmp_path / "b.safetensors") as made:
        assert all(made.locate(name).offset % spec.nbytes in range(8) for name, spec in made.items())
        assert made.locate("b").offset % 8 == 0
        assert made.locate("b").offset < made.locate("a").offset < made.locate("c").offset


def test_room_is_left_in_the_header(tmp_path: Path) -> None:
    convert(fused(), save(tmp_path / "a.safetensors", fused_state()), tmp_path / "b.safetensors")
    data = (tmp_path / "b.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert data[8 : 8 + length].endswith(b"}" + b" " * 4096) or data[8 : 8 + length].endswith(b" " * 4096)


def test_shards_and_index(tmp_path: Path) -> None:
    state = fused_state()
    source = save(tmp_path / "a.safetensors", state)
    made = convert(fused(), source, tmp_path / "out", max_shard_size="80B")
    assert isinstance(made, Conversion)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 160
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    back = convert(fused(), tmp_path / "out", back=True)
    assert same_bits(back, state)  # type: ignore[arg-type]
    with pytest.raises(ConvertError, match="--max-shard-size many: is no size; write 5GB"):
        convert(fused(), source, tmp_path / "out2", max_shard_size="many")


def test_a_transformers_folder(tmp_path: Path, fixtures: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    with open_checkpoint(fixtures / "roberta-cls") as source:
        state = {f"x.{name}": source.load(name) for name in source}
        names = plan(*(rename(name, f"x.{name}", *spec.shape) for name, spec in source.items()))
    path = save(tmp_path / "mine.safetensors", state)
    like, name = fixtures / "roberta-cls", "RobertaForSequenceClassification"
    convert(names, path, tmp_path / "hf", back=True, like=like, architecture=name)
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == [name]
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == name


def test_ties_are_stored_once(tmp_path: Path) -> None:
    made = convert(tied(), {"a": torch.ones(2)}, tmp_path / "b.safetensors")
    assert isinstance(made, Conversion)
    assert made.tied == (("d", "c"),)
    assert list(read(tmp_path / "b.safetensors")) == ["c"]


def test_a_broken_tie_of_a_file_writes_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", {"a": torch.ones(2), "b": torch.zeros(2)})
    with pytest.raises(ConvertError, match="b differs from a"):
        convert(tied(), source, tmp_path / "b.safetensors")
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_zeros_in_files(tmp_path: Path) -> None:
    state = {"w": torch.randn(3, 2)}
    convert(padded(), save(tmp_path / "a.safetensors", state), tmp_path / "b.safetensors")
    assert not read(tmp_path / "b.safetensors")["v"][3:].any()
    convert(padded(), tmp_path / "b.safetensors", tmp_path / "c.safetensors", back=True)
    assert same_bits(read(tmp_path / "c.safetensors"), state)


def test_residue_and_left_out(tmp_path: Path) -> None:
    state = {"w": torch.randn(5, 3), "buffer": torch.randn(4)}
    source = save(tmp_path / "a.safetensors", state)
    made = convert(homeless(), source, tmp_path / "b.safetensors", residue=tmp_path / "r.safetensors")
    assert isinstance(made, Conversion)
    assert (made.left_out, made.missing) == (("w[0:0:2]", "buffer"), ("head",))
    assert made.residue == str(tmp_path / "r.safetensors")
    convert(
        homeless(),
        tmp_path / "b.safetensors",
        back=True,
        residue=tmp_path / "r.safetensors",
        out=tmp_path / "c.safetensors",
    )
    assert same_bits(read(tmp_path / "c.safetensors"), state)
    with pytest.raises(ConvertError, match=r"b\.safetensors: is not a residue that ckptmap wrote"):
        convert(homeless(), source, tmp_path / "d.safetensors", residue=tmp_path / "b.safetensors")


def test_casts_are_told(tmp_path: Path) -> None:
    made = convert(fused(), save(tmp_path / "a.safetensors", fused_state()), tmp_path / "b.safetensors", dtype="fp16")
    assert isinstance(made, Conversion)
    assert made.casts == made.narrowed == (("F32", "F16", 4),)


def test_targets_that_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", fused_state())
    (tmp_path / "b.safetensors").write_text("mine")
    with pytest.raises(ConvertError, match=r"b\.safetensors: exists; --force overwrites it"):
        convert(fused(), source, tmp_path / "b.safetensors")
    (tmp_path / "link.safetensors").symlink_to(source)
    for onto in ("a.safetensors", "link.safetensors"):
        with pytest.raises(ConvertError, match="is read by this conversion; write to another place"):
            convert(fused(), source, tmp_path / onto, force=True)
    inside = save(tmp_path / "model.safetensors", fused_state())
    with pytest.raises(ConvertError, match=r"model\.safetensors: is read by this conversion"):
        convert(fused(), inside, tmp_path, force=True)
    with pytest.raises(ConvertError, match="ckptmap writes safetensors; name OUT"):
        convert(fused(), source, tmp_path / "b.bin")
    convert(fused(), source, tmp_path / "b.safetensors", force=True)
    assert set(read(tmp_path / "b.safetensors")) == {"qk", "b", "m"}


def test_an_existing_folder(tmp_path: Path) -> None:
    source, out = save(tmp_path / "a.safetensors", fused_state()), tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("kept")
    (out / "model-00001-of-00002.safetensors").write_text("old")
    with pytest.raises(ConvertError, match=r"out: holds model-00001-of-00002\.safetensors; --force overwrites"):
        convert(fused(), source, out)
    convert(fused(), source, out, max_shard_size=1, force=True)
    assert "README.md" in os.listdir(out)
    convert(fused(), source, out, force=True)
    # The shards of the index are gone with it; a file that no index names is somebody's own.
    assert sorted(os.listdir(out)) == ["README.md", "model-00001-of-00002.safetensors", "model.safetensors"]


def test_permissions(tmp_path: Path) -> None:
    source, out = save(tmp_path / "a.safetensors", fused_state()), tmp_path / "b.safetensors"
    umask = os.umask(0o027)
    try:
        convert(fused(), source, out)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    out.chmod(0o604)
    convert(fused(), source, out, force=True)
    assert stat.S_IMODE(out.stat().st_mode) == 0o604


@pytest.mark.parametrize("name", ["b.safetensors", "out"])
def test_a_full_disk_leaves_the_old(tmp_path: Path, name: str) -> None:
    source = save(tmp_path / "a.safetensors", {"n": torch.zeros(100_000)})
    names, out = plan(rename("n", "m", 100_000)), tmp_path / name
    convert(names, save(tmp_path / "c.safetensors", {"n": torch.ones(100_000)}), out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot be written: File too large; nothing was changed"):
            convert(names, source, out, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with open_checkpoint(out) as old:
        assert old.load("m").all()
    assert len(os.listdir(tmp_path)) == 3


SMALL_DISK = """
mount -t tmpfs -o size=600k none "$1" || exit 77
exec "$2" -c "$3" "$1"
"""
FULL = """
import os, sys
from pathlib import Path
import torch
from ckptmap import CheckpointError
from ckptmap.__main__ import main
from ckptmap.conversion.convert import convert
from tests.convert.plans import fused, plan, read, rename, save
disk = Path(sys.argv[1])
names = plan(rename("n", "m", 60_000))
zeros = save(disk / "a.safetensors", {"n": torch.zeros(60_000)})
for name in ("b.safetensors", "out"):
    for force in (False, True):
        if force:
            (disk / name).mkdir() if name == "out" else (disk / name).write_text("old")
            (disk / name / "model.safetensors" if name == "out" else disk / name).write_text("old")
        before = sorted(os.walk(disk))
        (disk / "filler").write_bytes(bytes(200_000))
        try:
            convert(names, zeros, disk / name, force=force)
        except CheckpointError as error:
            assert "cannot be written: No space left on device; nothing was changed" in str(error), error
        else:
            raise SystemExit("there was room")
        (disk / "filler").unlink()
        assert sorted(os.walk(disk)) == before, (sorted(os.walk(disk)), before)
        if force:
            kept = disk / name / "model.safetensors" if name == "out" else disk / name
            assert kept.read_text() == "old"
(disk / "r.ckptmap").write_text("n <-> m")
(disk / "filler").write_bytes(bytes(200_000))
before = sorted(os.walk(disk))
assert main(["convert", str(disk / "r.ckptmap"), str(disk / "a.safetensors"), str(disk / "d.safetensors")]) == 2
assert sorted(os.walk(disk)) == before
"""


def test_a_disk_that_is_really_full_leaves_the_old(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh", str(disk), sys.executable, FULL]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no small disk can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith("ckptmap: ")
    assert done.stderr.endswith("d.safetensors: cannot be written: No space left on device; nothing was changed\n")


def test_kill_leaves_old_or_new(tmp_path: Path) -> None:
    size = 2_000_000
    names = plan(rename("n", "m", size))
    zeros = save(tmp_path / "zeros.safetensors", {"n": torch.zeros(size)})
    ones = save(tmp_path / "ones.safetensors", {"n": torch.ones(size)})
    out = tmp_path / "out"
    convert(names, zeros, out)
    script = f"""
from ckptmap.conversion.convert import convert
from tests.convert.plans import plan, rename
names = plan(rename("n", "m", {size}))
print("on", flush=True)
while True:
    for source in ({str(ones)!r}, {str(zeros)!r}):
        convert(names, source, {str(out)!r}, force=True)
"""
    for wait in (0.0, 0.004, 0.013, 0.03, 0.06):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        value = read(out / "model.safetensors")["m"]
        assert value.all() or not value.any()


def test_a_second_conversion_of_a_plan_is_the_caller_s_business(tmp_path: Path) -> None:
    convert(fused(), save(tmp_path / "a.safetensors", fused_state()), tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as made:
        assert made.metadata() == {"format": "pt", "ckptmap.side": "right"}
