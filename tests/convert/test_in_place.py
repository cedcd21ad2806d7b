"""Names changed where they stand, and put back when that was cut short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckptmap.__main__ import main
from ckptmap.conversion.convert import convert, undo
from ckptmap.errors import ConvertError
from ckptmap.rules.plan import Plan
from ckptmap.writing import inplace
from tests.convert.plans import fused, fused_state, plan, read, rename, save

ROOT = Path(__file__).parents[2]


def longer(length: int) -> Plan:
    return plan(rename("n", "m" * length, 7), rename("o", "p", 5, 3))


def state() -> dict[str, torch.Tensor]:
    return {"n": torch.randn(7), "o": torch.randn(5, 3)}


@pytest.mark.parametrize("length", [1, 9000])
def test_in_place_and_back(tmp_path: Path, length: int) -> None:
    values = state()
    file = save(tmp_path / "a.safetensors", values)
    inode = file.stat().st_ino
    try:
        convert(longer(length), file, in_place=True)
    except ConvertError as refusal:
        assert "cannot grow a file at its front; convert to a new file" in str(refusal)
        pytest.skip("this filesystem cannot grow a file at its front")
    assert torch.equal(read(file)["m" * length], values["n"])
    assert torch.equal(read(file)["p"], values["o"])
    assert file.stat().st_ino == inode
    assert os.listdir(tmp_path) == ["a.safetensors"]
    convert(longer(length), file, in_place=True, back=True)
    assert torch.equal(read(file)["n"], values["n"])


def test_a_filesystem_that_cannot_grow_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inplace, "_can_insert", lambda *_: False)
    file = save(tmp_path / "a.safetensors", state())
    before = file.read_bytes()
    with pytest.raises(ConvertError, match="this filesystem cannot grow a file at its front; convert to a new file"):
        convert(longer(9000), file, in_place=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize("length", [1, 9000])
@pytest.mark.parametrize("at", ["journal", "grown", "half", "header", "synced"])
def test_killed_at_any_point_it_has_not_happened(tmp_path: Path, at: str, length: int) -> None:
    file = save(tmp_path / "a.safetensors", state())
    # Room for a short name, so that only the long one must grow the file.
    padded = tmp_path / "b.safetensors"
    convert(plan(rename("n", "n", 7), rename("o", "o", 5, 3)), file, padded)
    before = padded.read_bytes()
    script = f"""
import os, signal
from ckptmap.writing import inplace
from ckptmap.conversion.convert import convert
from tests.convert.test_in_place import longer

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

at = {at!r}
if at == "journal":
    inplace._pwrite = die
    if {length} > 4000:
        inplace._can_insert = lambda *_: True
        inplace._fallocate = die
elif at == "grown":
    inplace._pwrite = die
elif at == "half":
    inplace._pwrite = lambda descriptor, data: (os.pwrite(descriptor, data[:40], 0), die())
elif at == "header":
    real = inplace._pwrite
    inplace._pwrite = lambda descriptor, data: (real(descriptor, data), die())
elif at == "synced":
    inplace.sync_folder = die
convert(longer({length}), {str(padded)!r}, in_place=True)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    if "cannot grow" in done.stderr:
        pytest.skip("this filesystem cannot grow a file at its front")
    assert done.returncode == -9, done.stderr
    if at == "synced":
        assert set(read(padded)) == {"m" * length, "p"}
    else:
        assert undo(padded)
        assert padded.read_bytes() == before
    assert not undo(padded)


def test_the_next_conversion_undoes_first(tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", state())
    with open(file, "rb") as stream:
        old = stream.read(8 + int.from_bytes(stream.read(8), "little"))
    old = file.read_bytes()[: 8 + int.from_bytes(file.read_bytes()[:8], "little")]
    inplace._write_journal(file, file.stat(), old, 0)
    with open(file, "r+b") as stream:
        stream.write(b"\0" * 30)
    made = convert(longer(1), file)
    assert set(made) == {"m", "p"}


@pytest.mark.parametrize("damage", [b"", b"\0" * 30])
def test_who_only_reads_is_told_of_a_journal(tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the header looks like by now: a conversion with a journal has not happened."""
    file = save(tmp_path / "model.safetensors", state())
    before = file.read_bytes()
    inplace._write_journal(file, file.stat(), before[: 8 + int.from_bytes(before[:8], "little")], 0)
    with open(file, "r+b") as stream:
        stream.write(damage)
    for source in (file, tmp_path):
        assert main(["inspect", str(source)]) == 2
        told = capsys.readouterr().err
        assert "a conversion --in-place of this file is under way or was cut short" in told
        assert f"`ckptmap convert --undo {file}`" in told
    assert main(["convert", "--undo", str(file)]) == 0
    assert main(["inspect", str(file)]) == 0
    assert file.read_bytes() == before


def test_a_journal_of_another_file(tmp_path: Path) -> None:
    file, other = save(tmp_path / "a.safetensors", state()), save(tmp_path / "b.safetensors", state())
    inplace._write_journal(other, other.stat(), b"x", 0)
    inplace.journal_of(other).rename(inplace.journal_of(file))
    with pytest.raises(ConvertError, match=r"is the journal of another file than a\.safetensors is now"):
        undo(file)


def test_what_in_place_refuses(tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", fused_state())
    with pytest.raises(ConvertError, match="the rule in line 1 does more than rename, and --in-place writes no data"):
        convert(fused(), file, in_place=True)
    with pytest.raises(ConvertError, match="--in-place changes names only; leave --dtype and --to-bin out"):
        convert(fused(), file, in_place=True, dtype="bf16")
    with pytest.raises(ConvertError, match="--in-place needs one safetensors file on this machine"):
        convert(longer(1), state(), in_place=True)
    more = save(tmp_path / "b.safetensors", state() | {"extra": torch.zeros(1)})
    with pytest.raises(ConvertError, match="extra would be left out, and --in-place keeps all data"):
        convert(longer(1), more, in_place=True, partial=True)
