"""Hostile files: nothing in them runs, only CheckpointError comes out, and time and memory stay bounded."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptmap.errors import CheckpointError
from ckptmap.formats.torch_globals import KNOWN
from ckptmap.formats.torch_legacy import read_torch_legacy, read_torch_tar
from ckptmap.formats.torch_zip import read_torch_zip
from ckptmap.formats.unpickle import unpickle
from ckptmap.stores.base import StoredFile

FIXTURES = Path(__file__).parents[2] / "fixtures"
_SPEC = importlib.util.spec_from_file_location("hostile_pickles", FIXTURES / "hostile_pickles.py")
hostile = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hostile)

# Reads a file in a fresh process. The peak is the kernel's own of this program; getrusage would tell pytest's,
# which the child starts from.
MEASURE = """
import json, re, sys, time
from pathlib import Path
from ckptmap.errors import CheckpointError
from ckptmap.formats.torch_zip import read_torch_zip
from ckptmap.stores.local import LocalStore
path = Path(sys.argv[1])
started = time.process_time()
try:
    outcome = f"{len(read_torch_zip(LocalStore(path.parent), path.name).tensors)} tensors"
except CheckpointError as error:
    outcome = str(error)
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
print(json.dumps([outcome, peak, time.process_time() - started]))
"""


class MemoryStore:
    """One file that is in memory."""

    label, parallel = "memory", 1

    def __init__(self, data: bytes) -> None:
        self.data = data

    def files(self):
        return {"file": StoredFile(len(self.data))}

    def size(self, file):
        return len(self.data)

    def read(self, file, offset, length):
        if offset < 0 or length < 0 or offset + length > len(self.data):
            raise CheckpointError("the file ends before", source=file)
        return self.data[offset : offset + length]

    def local_path(self, file):
        return None


def read_all(data: bytes, reader=read_torch_zip) -> object:
    store = MemoryStore(data)
    contents = reader(store, "file")
    for name in contents.tensors:
        extent = contents.locate(name)
        assert 0 <= extent.offset <= extent.offset + extent.length <= len(data)
    return contents


def test_pickles_that_run_code_run_nothing(tmp_path):
    canary = tmp_path / "canary"
    runners = hostile.code_runners(canary)
    assert len(runners) >= 20
    for name, pickled in runners.items():
        for data, reader in (
            (hostile.archive(pickled), read_torch_zip),
            (pickled, read_torch_legacy),
            (legacy(pickled), read_torch_legacy),
        ):
            try:
                contents = read_all(data, reader)
            except CheckpointError:
                continue
            finally:
                assert not canary.exists(), name
            assert list(contents.tensors) == ["a"], name


def legacy(pickled: bytes) -> bytes:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps([], 2)


def test_the_canary_sings(tmp_path):
    """The corpus is real: pickle.load runs it."""
    canary = tmp_path / "canary"
    pickle.loads(hostile.code_runners(canary)["reduce"])
    assert canary.exists()


@pytest.mark.parametrize("name", list(hostile.liars()))
def test_lies_are_refused(name):
    with pytest.raises(CheckpointError):
        read_all(hostile.liars()[name])


@cache
def bombs() -> dict[str, bytes]:
    return hostile.bombs()


BOMBS = list(bombs())


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_use_little_memory_and_time(tmp_path, name):
    path = tmp_path / "bomb.pt"
    path.write_bytes(bombs()[name])
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    outcome, peak, seconds = json.loads(done.stdout)
    print(f"{name}: {peak} MiB, {seconds:.1f} s, {outcome}")
    assert peak < 200, outcome
    # Generous: the machine may be busy. What is not bounded runs for hours.
    assert seconds < 60, outcome


# -- random damage ------------------------------------------------------------------------------------------------


@cache
def real_files() -> dict[str, bytes]:
    base = torch.arange(24.0).reshape(4, 6)
    value = {
        "state_dict": {"a": base, "b": base.t(), "c": torch.nn.Parameter(base[1:]), "d": torch.ones(3).bfloat16()},
        "optimizer": {"state": {0: {"step": 3}}},
        "more": {"text": "x" * 20, "set": {1, 2}, "float": 0.5},
    }
    archive, old = BytesIO(), BytesIO()
    torch.save(value, archive)
    torch.save(value, old, _use_new_zipfile_serialization=False)
    module = BytesIO()
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)), module)
    return {"zip": archive.getvalue(), "legacy": old.getvalue(), "module": module.getvalue()}


def damaged(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed)


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8)
FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(st.sampled_from(["zip", "module"]), CHANGES)
def test_damaged_archives(kind, changes):
    try:
        read_all(damaged(real_files()[kind], changes))
    except CheckpointError as error:
        assert str(error)


@FUZZ
@given(CHANGES)
def test_damaged_legacy_files(changes):
    data = real_files()["legacy"]
    try:
        read_all(damaged(data, [(place % 1200, value) for place, value in changes]), read_torch_legacy)
    except CheckpointError as error:
        assert str(error)


@cache
def module_parts() -> tuple[bytes, dict[str, bytes]]:
    """The pickle and the storages of a saved module."""
    with zipfile.ZipFile(BytesIO(real_files()["module"])) as archive:
        storages = {name.rpartition("/")[2]: archive.read(name) for name in archive.namelist() if "/data/" in name}
        return archive.read("archive/data.pkl"), storages


@FUZZ
@given(CHANGES, st.binary(max_size=6), st.integers(0, 1 << 16))
def test_damaged_pickles_inside_good_archives(changes, inserted, place):
    pickled, storages = module_parts()
    data = damaged(pickled, changes)
    place %= len(data)
    data = data[:place] + inserted + data[place:]
    try:
        read_all(hostile.archive(data, storages=storages))
    except CheckpointError as error:
        assert str(error)


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes_as_a_pickle(data):
    try:
        unpickle(data, known=KNOWN, source="file")
    except CheckpointError as error:
        assert str(error)


@FUZZ
@given(st.binary(max_size=1500))
def test_any_bytes_as_a_file(data):
    for reader, head in ((read_torch_zip, b"PK\x03\x04"), (read_torch_legacy, b"\x80\x02"), (read_torch_tar, b"")):
        with pytest.raises(CheckpointError):
            read_all(head + data, reader)
