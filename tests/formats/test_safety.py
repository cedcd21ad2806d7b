"""What pickles would do is said with the call and its arguments; what only holds data raises no alarm."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import json
import pathlib
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy
import pytest
import torch

import ckptmap
from ckptmap.__main__ import main
from ckptmap.errors import CheckpointError
from ckptmap.formats.scan import scan_file
from ckptmap.stores.local import LocalStore
from tests.formats.test_hostile_pickles import hostile, legacy

CANARY = Path("/nonexistent/canary")
RUNNERS = hostile.code_runners(CANARY)
CALL = b"cos\nsystem\n" + hostile.text("id") + b"\x85R"
MANY_HARMLESS = b"".join(b"cmine\nThing\n)R0" for _ in range(3000))


class Colour(torch.nn.Module):
    pass


def in_tar(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as new:
        member = tarfile.TarInfo("weights/model.pkl")
        member.size = len(pickled)
        new.addfile(member, io.BytesIO(pickled))
    return buffer.getvalue()


def array_of_objects(pickled: bytes) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickled


def in_zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, data in members.items():
            new.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


PLAIN = hostile.state(CALL)
PLACES = {
    "archive": hostile.archive(PLAIN),
    "compressed archive": hostile.archive(PLAIN, compress=True),
    "legacy": legacy(PLAIN),
    "plain": PLAIN,
    "protocol 0": b"cos\nsystem\n(S'id'\ntR.",
    "tar": in_tar(PLAIN),
    "array": array_of_objects(PLAIN),
    "arrays": in_zip(a_dot_npy=array_of_objects(PLAIN)),
    "behind the end": hostile.archive(hostile.state() + PLAIN),
    "second pickle": pickle.dumps({"a": 1}, 2) + PLAIN,
    "constants.pkl": hostile.archive(hostile.state(), **{"constants.pkl": PLAIN}),
    "another data.pkl": hostile.archive(hostile.state(), **{"sub/data.pkl": PLAIN}),
    "no suffix": in_zip(a__data_dot_pkl=hostile.state(), a__extra=PLAIN),
    "behind many calls": hostile.state(MANY_HARMLESS + b"N", CALL),
    "memo overwritten": hostile.state(
        b"cbuiltins\nlist\nq\x05" + b"0cos\nsystem\nq\x050h\x05" + hostile.text("id") + b"\x85R"
    ),
    "cut off": PLAIN[:-1],
    "tensor pickled by itself": pickle.dumps({"a": torch.ones(1)}, 2).replace(b"X\x00", b"X\x00")[:-1]
    + b"0"
    + PLAIN[2:],
    "within a pickle": b"ctorch.storage\n_load_from_bytes\nB"
    + len(legacy(PLAIN)).to_bytes(4, "little")
    + legacy(PLAIN)
    + b"\x85R.",
    "damaged later": PLAIN[:-3] + b"\xff\xff\xff",
}


@pytest.mark.parametrize("name", RUNNERS)
def test_every_kind_is_named_with_its_call(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.bin").write_bytes(hostile.archive(RUNNERS[name]))
    found = ckptmap.scan(tmp_path / "model.bin")
    shown = " ".join(finding.what for finding in found.dangers)
    expected = {
        "nested_pickle": "_pickle.loads(",
        "torch_load": "torch.load(",
        "eval": "builtins.eval(",
        "exec": "__builtin__.exec(",
        "newobj": "subprocess.Popen(['touch'",
        "newobj_ex": "subprocess.Popen(",
    }
    assert expected.get(name, "system") in shown
    if name not in ("build_setstate", "defaultdict_factory", "torch_load"):
        assert str(CANARY) in shown


@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_pickle_stands(tmp_path: Path, place: str) -> None:
    (tmp_path / "model.bin").write_bytes(PLACES[place])
    assert "os.system('id')" in [finding.what for finding in ckptmap.scan(tmp_path).dangers]


@pytest.mark.parametrize("place", ["archive", "legacy", "plain", "behind the end", "constants.pkl", "cut off"])
def test_opening_such_a_file_says_so_first(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    (tmp_path / "model.bin").write_bytes(PLACES[place])
    main(["inspect", str(tmp_path / "model.bin")])
    said = capsys.readouterr().err.splitlines()[0]
    assert "would run code if loaded with torch.load(weights_only=False) or pickle: os.system('id')" in said


@pytest.mark.parametrize("verb", ["diff", "heads", "remap", "convert"])
def test_every_verb_that_opens_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    path, rules = tmp_path / "model.bin", tmp_path / "r.ckptmap"
    path.write_bytes(PLACES["archive"])
    rules.write_text("a <-> b\n")
    words = {"diff": [path, path], "heads": [path], "remap": [path, path], "convert": [rules, path, tmp_path / "out"]}
    main([verb, *map(str, words[verb])])
    assert "would run code if loaded with" in capsys.readouterr().err


HARMLESS = {
    "namespace": argparse.Namespace(lr=0.1),
    "scalar": numpy.float64(1.5),
    "array": numpy.arange(3),
    "random state": numpy.random.get_state(),
    "dates": [datetime.datetime(2026, 1, 1), datetime.timedelta(3)],
    "collections": [collections.OrderedDict(a=1), collections.defaultdict(list), collections.deque([1]), {1, 2}],
    "paths": [pathlib.PurePosixPath("a")],
    "numbers": [1 + 2j, slice(1, 2), b"bytes", range(3), frozenset((1,)), bytearray(b"x")],
    "torch": [torch.device("cpu"), torch.Size([1]), torch.float32],
    "module": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.LayerNorm(2)),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_holds_data_raises_no_alarm(tmp_path: Path, name: str, protocol: int) -> None:
    with open(tmp_path / "a.pkl", "wb") as file:
        pickle.dump(HARMLESS[name], file, protocol)
    torch.save(HARMLESS[name], tmp_path / "b.pt")
    found = ckptmap.scan(tmp_path)
    assert not found
    assert not found.unread
    assert {finding.level for scan in found.files for finding in scan.findings} <= {"harmless"}


def test_a_class_of_somebody_s_own_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Colour(), "args": argparse.Namespace(a=1)}, tmp_path / "model.pt")
    (scan,) = ckptmap.scan(tmp_path).files
    assert {finding.level for finding in scan.findings} == {"unknown", "harmless"}
    assert main(["inspect", str(tmp_path), "--safety"]) == 0
    assert "imports what is not known here" in capsys.readouterr().out


def test_good_files_of_the_fixtures_raise_none(fixtures: Path) -> None:
    for folder in (path for path in fixtures.iterdir() if path.is_dir()):
        found = ckptmap.scan(folder)
        assert (found.dangers, found.unread) == ((), ()), folder


def test_exit_codes_and_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, odd = (tmp_path / name for name in ("good", "bad", "odd"))
    for folder in (good, bad, odd):
        folder.mkdir()
    torch.save({"a": torch.ones(2)}, good / "pytorch_model.bin")
    (bad / "optimizer.pt").write_bytes(PLACES["legacy"])
    (odd / "model.pt").write_bytes(b"\x80\x02\xff")
    assert main(["inspect", str(good), "--safety"]) == 0
    assert "1 pickle in 1 file looked at: nothing in them runs code" in capsys.readouterr().out
    assert main(["inspect", str(odd), "--safety"]) == 2
    assert "not all could be read" in capsys.readouterr().out
    assert main(["inspect", str(bad), "--safety", "--format", "json"]) == 1
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["findings"][0] == {"level": "dangerous", "what": "os.system('id')", "where": ""}
    assert main(["inspect", str(bad), "--safety", "--format", "markdown"]) == 1
    assert capsys.readouterr().out.startswith("**5 pickles in 1 file")
    assert main(["inspect", str(good), str(bad), "--safety", "-q"]) == 1
    assert capsys.readouterr().out == f"{bad}/optimizer.pt\n"
    assert main(["inspect", str(good), str(bad)]) == 2
    assert "one checkpoint at a time" in capsys.readouterr().err


def test_two_pickles_of_one_name_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(hostile.archive(hostile.state(), **{"sub/data.pkl": hostile.state()}))
    with ckptmap.open_checkpoint(path) as opened:
        assert opened.warnings == (
            "it holds two pickles of this name, and torch reads archive/data.pkl; archive/sub/data.pkl is not read",
        )


def test_a_file_that_cannot_be_read_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        scan_file(LocalStore(tmp_path), "nothing.pt")


def nested(times: int) -> bytes:
    """A call, within so many pickles that torch.storage._load_from_bytes would load one after the other."""
    data = PLAIN
    for _ in range(times):
        data = b"\x80\x02ctorch.storage\n_load_from_bytes\nB" + len(data).to_bytes(4, "little") + data + b"\x85R."
    return data


@pytest.mark.parametrize("times", [1, 4, 5, 9])
def test_no_depth_hides_a_call(tmp_path: Path, times: int) -> None:
    (tmp_path / "model.bin").write_bytes(nested(times))
    found = " ".join(finding.what for finding in ckptmap.scan(tmp_path).dangers)
    assert "os.system('id')" in found if times < 5 else "more than 4 deep" in found


def test_what_cannot_be_read_is_never_called_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = pickle.dumps({"a": 1}, 2)[:-4]
    odd = {
        "a legacy file whose object is damaged": legacy(b"\x80\x02\xff" + PLAIN[2:]),
        "a second pickle that is damaged": pickle.dumps(1, 2) + b"\x80\x02\xff.",
        "a damaged pickle within one": b"\x80\x02ctorch.storage\n_load_from_bytes\nB"
        + len(cut).to_bytes(4, "little") + cut + b"\x85R.",
        "an archive in a tar file": in_tar(hostile.archive(hostile.state())),
        "a tar file that is cut off": in_tar(bytes(4000))[:2000],
        "too many": pickle.dumps(1, 2) * 1001,
    }  # fmt: skip
    for what, data in odd.items():
        (tmp_path / "model.bin").write_bytes(data)
        assert main(["inspect", str(tmp_path / "model.bin"), "--safety"]) == 2, what
        capsys.readouterr()


def test_raw_storages_that_look_like_a_pickle_are_none(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(128)}, tmp_path / "model.bin", _use_new_zipfile_serialization=False)
    with open(tmp_path / "tensor.pkl", "wb") as file:
        pickle.dump({"a": torch.ones(128)}, file)
    found = ckptmap.scan(tmp_path)
    assert (found.dangers, found.unread) == ((), ())
