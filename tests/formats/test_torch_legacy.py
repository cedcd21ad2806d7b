from __future__ import annotations

import collections
import io
import pickle
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ckptmap.errors import CheckpointError
from ckptmap.formats.torch_legacy import read_torch_legacy, read_torch_tar
from tests.formats.torch_values import TORCH_NAMES, assert_same, store_of


def read(path: Path, at: str | None = None):
    return read_torch_legacy(store_of(path), path.name, at=at)


def saved(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "model.bin"
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("dtype", TORCH_NAMES, ids=str)
def test_every_dtype(tmp_path, dtype):
    values = torch.arange(0, 48, dtype=torch.uint8)
    tensor = (values > 20) if dtype == torch.bool else values.view(dtype)
    state = {"a": tensor, "b": torch.ones(3), "scalar": tensor[:1].reshape(())}
    # Compared with what was saved: torch 2.13 does not load the newer dtypes from its own legacy files.
    path = saved(tmp_path, state)
    assert_same(path, read(path), state)


def test_views_and_ties(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {"a": base, "b": base, "t": base.t(), "part": base[1:3, ::2], "empty": torch.empty(0, 3)}
    path = saved(tmp_path, state)
    contents = read(path)
    assert_same(path, contents, state)
    assert contents.ties == (("a", "b"),)


def test_a_whole_module_and_wrappers(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    path = saved(tmp_path, module)
    assert_same(path, read(path), module.state_dict())
    path = saved(tmp_path, {"model": module.state_dict(), "optimizer": {"state": {}}, "epoch": 3})
    assert_same(path, read(path), module.state_dict())


def test_a_pickle_longer_than_the_first_reads(tmp_path):
    state = {f"a.rather.long.name.of.a.tensor.{index}": torch.full((1,), float(index)) for index in range(12_000)}
    path = saved(tmp_path, state)
    contents = read(path)
    assert list(contents.tensors) == list(state)
    name = "a.rather.long.name.of.a.tensor.11999"
    extent = contents.locate(name)
    assert struct.unpack("<f", store_of(path).read(path.name, extent.offset, extent.length)) == (11999.0,)


def legacy_bytes(system: object, tree: bytes, keys: list[str], storages: bytes) -> bytes:
    parts = [0x1950A86A20F9469CFC6C, 1001, system]
    return b"".join(pickle.dumps(part, 2) for part in parts) + tree + pickle.dumps(keys, 2) + storages


class Reference:
    """A stand-in that pickles as a persistent id."""

    def __init__(self, *saved_id: object) -> None:
        self.saved_id = saved_id


class Pickler(pickle._Pickler):
    def persistent_id(self, obj: object) -> object:
        return obj.saved_id if isinstance(obj, Reference) else None


class Rebuilt:
    def __init__(self, storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.args = (storage, offset, size, stride)

    def __reduce__(self) -> object:
        return torch._utils._rebuild_tensor, self.args


def pickled(tree: object) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(tree)
    return buffer.getvalue()


def viewed(path: Path, *, little: bool = True, view: object = ("v", 2, 4), numel: int = 8) -> Path:
    storage = Reference("storage", torch.FloatStorage, "k", "cpu", 8, view)
    data = struct.pack("<q8f", numel, *range(8))
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}
    path.write_bytes(legacy_bytes(system, pickled({"a": Rebuilt(storage, 1, (3,), (1,))}), ["k"], data))
    return path


def test_views_of_storages(tmp_path):
    path = viewed(tmp_path / "views.pt")
    assert torch.load(path, weights_only=False)["a"].tolist() == [3.0, 4.0, 5.0]
    assert_same(path, read(path), {"a": torch.tensor([3.0, 4.0, 5.0])})
    with pytest.raises(CheckpointError, match="a view leaves its storage 'k'"):
        read(viewed(path, view=("v", 6, 4)))
    with pytest.raises(CheckpointError, match=r"a: its elements end at byte 16 of a storage of 8 bytes"):
        read(viewed(path, view=("v", 2, 2)))


def test_big_endian_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="big-endian"):
        read(viewed(tmp_path / "big.pt", little=False))


def test_a_storage_of_another_size_is_seen_by_locate(tmp_path):
    contents = read(viewed(tmp_path / "lying.pt", numel=7))
    with pytest.raises(CheckpointError, match="size stated for it"):
        contents.locate("a")


def test_other_pickles_are_told_apart(tmp_path):
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps({"a": [1, 2]}))
    with pytest.raises(CheckpointError, match=r"plain pickle, not a checkpoint of torch\.save"):
        read(path)
    path.write_bytes(pickle.dumps({"a": np.zeros(3)}))
    with pytest.raises(CheckpointError, match="plain pickle of numpy arrays"):
        read(path)


def test_truncated_anywhere(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(3), "b": torch.zeros(2, 2)})
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read(path)


# -- tar ----------------------------------------------------------------------------------------------------------


def tar_checkpoint(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_members() -> dict[str, bytes]:
    storages = pickle.dumps(2, 2)
    storages += pickle.dumps((11, "cpu", torch.FloatStorage), 2) + struct.pack("<q6f", 6, *range(6))
    storages += pickle.dumps((12, "cpu", torch.LongStorage), 2) + struct.pack("<q2q", 2, 7, 8)
    storages += pickle.dumps([(13, 11, 2, 4)], 2)
    tensors = pickle.dumps(3, 2)
    for key, storage, sizes, strides, offset in (
        (21, 11, (2, 3), (3, 1), 0),
        (22, 12, (2,), (1,), 0),
        (23, 13, (2,), (2,), 1),
    ):
        tensors += pickle.dumps((key, storage, torch.FloatTensor), 2)
        tensors += struct.pack(f"<ii{2 * len(sizes) + 1}q", len(sizes), 0, *sizes, *strides, offset)
    tree = Pickled(collections.OrderedDict(a=TarReference(21), b=TarReference(22), c=TarReference(23)))
    system = pickle.dumps({"protocol_version": 1000, "little_endian": sys.byteorder == "little"}, 2)
    return {"sys_info": system, "pickle": tree, "tensors": tensors, "storages": storages}


class TarReference:
    def __init__(self, number: int) -> None:
        self.number = number


def Pickled(tree: object) -> bytes:  # noqa: N802
    class TarPickler(pickle._Pickler):
        def persistent_id(self, obj: object) -> object:
            return str(obj.number) if isinstance(obj, TarReference) else None

    buffer = io.BytesIO()
    TarPickler(buffer, 2).dump(tree)
    return buffer.getvalue()


def test_tar(tmp_path):
    path = tar_checkpoint(tmp_path / "ancient.pt", tar_members())
    expected = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor([7, 8]),
        "c": torch.tensor([3.0, 5.0]),
    }
    assert_same(path, read_torch_tar(store_of(path), path.name), expected)


def test_tar_as_torch_reads_it(tmp_path):
    members = tar_members()
    path = tar_checkpoint(tmp_path / "ancient.pt", members)
    try:
        # torch keys its own objects by the numbers as they stand, so ids are numbers there.
        loaded = torch.load(path, weights_only=False)
    except Exception as error:
        pytest.skip(f"this torch no longer reads the format: {error}")
    assert_same(path, read_torch_tar(store_of(path), path.name), loaded)


@pytest.mark.parametrize("missing", ["pickle", "tensors", "storages"])
def test_other_tar_files(tmp_path, missing):
    members = tar_members()
    del members[missing]
    path = tar_checkpoint(tmp_path / "other.tar", members)
    with pytest.raises(CheckpointError, match=f"there is no member {missing}"):
        read_torch_tar(store_of(path), path.name)


def test_truncated_tar(tmp_path):
    path = tar_checkpoint(tmp_path / "ancient.pt", tar_members())
    data = path.read_bytes()
    whole = data.rstrip(b"\0")
    for length in range(0, len(whole), 101):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_torch_tar(store_of(path), path.name)
