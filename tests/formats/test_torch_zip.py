from __future__ import annotations

import argparse
import collections
import io
import json
import pathlib
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ckptmap.errors import CheckpointError
from ckptmap.formats.torch_zip import read_torch_zip
from tests.formats.torch_values import TORCH_NAMES, assert_same, store_of


class Tagged(torch.Tensor):
    """A subclass, pickled through _rebuild_from_type_v2."""


class Config(dict):
    """What omegaconf and others are to us: a dict of an unknown class."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norms = nn.ModuleList([nn.BatchNorm1d(2), nn.LayerNorm(2)])
        self.register_buffer("kept", torch.arange(4))
        self.register_buffer("passing", torch.ones(3), persistent=False)
        self.nothing = nn.Linear(2, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norms[0](self.linear(x))


def read(path: Path, at: str | None = None):
    return read_torch_zip(store_of(path), path.name, at=at)


def saved(tmp_path: Path, value: object, **options: object) -> Path:
    path = tmp_path / "model.pt"
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("dtype", TORCH_NAMES, ids=str)
def test_every_dtype(tmp_path, dtype):
    values = torch.arange(0, 48, dtype=torch.uint8).view(torch.bool if dtype == torch.bool else torch.uint8)
    tensor = (values > 20) if dtype == torch.bool else values.view(dtype)
    path = saved(tmp_path, {"a": tensor, "scalar": tensor[:1].reshape(())})
    contents = read(path)
    assert_same(path, contents, torch.load(path))


def test_four_bit_pairs_count_as_two(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(2, 8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)})
    contents = read(path)
    assert contents.tensors["a"].shape == (2, 16) and contents.tensors["a"].dtype == "F4"
    assert contents.locate("a").length == contents.tensors["a"].nbytes == 16


def test_views_keep_their_strides(tmp_path):
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    state = {
        "transposed": base.transpose(0, 2),
        "slice": base[1:, ::2, 1:4],
        "row": base[2],
        "column": base[:, :, 3],
        "expanded": torch.arange(3.0).reshape(3, 1).expand(3, 7),
        "empty": base[:, :0],
        "nothing": torch.empty(0, 5),
        "scalar": base[1, 2, 3],
        "one": base[:1, :1, 2:3],
    }
    path = saved(tmp_path, state)
    contents = read(path)
    assert_same(path, contents, torch.load(path))
    assert contents.locate("row").strides is None
    assert contents.locate("transposed").strides == (1, 5, 20)
    assert contents.locate("empty").length == contents.locate("nothing").length == 0
    assert any("lie across each other" in warning for warning in contents.warnings)


def test_ties_are_found_and_a_tie_is_no_overlap(tmp_path):
    weight = torch.randn(4, 3)
    flat = torch.randn(20)
    state = {"head": weight, "embed": nn.Parameter(weight), "part": flat[:10], "other": flat[10:], "alone": weight + 1}
    contents = read(saved(tmp_path, state))
    assert contents.ties == (("head", "embed"),)
    assert contents.warnings == ()


def test_parameters_and_subclasses(tmp_path):
    parameter = nn.Parameter(torch.randn(2, 3))
    marked = nn.Parameter(torch.randn(2))
    marked.custom = "state"
    state = collections.OrderedDict(a=parameter, b=torch.randn(3).as_subclass(Tagged), c=marked)
    path = saved(tmp_path, state)
    expected = {name: tensor.detach().as_subclass(torch.Tensor) for name, tensor in state.items()}
    assert_same(path, read(path), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, protocol):
    state = {"a": torch.randn(3), "ü": torch.ones(2), "b" * 300: torch.zeros(1)}
    path = saved(tmp_path, state, pickle_protocol=protocol)
    assert_same(path, read(path), state)


def test_a_lightning_checkpoint(tmp_path):
    state = {"model.weight": torch.randn(2, 2), "model.bias": torch.randn(2)}
    path = saved(
        tmp_path,
        {
            "epoch": 3,
            "global_step": np.int64(7),
            "score": np.float64(0.5),
            "array": np.arange(4),
            "state_dict": collections.OrderedDict(state),
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"params": [0]}]}],
            "hyper_parameters": Config(lr=1e-3, path=pathlib.PurePosixPath("/data"), args=argparse.Namespace(a={1, 2})),
            "defaults": collections.defaultdict(list, a=[1]),
        },
    )
    contents = read(path)
    assert_same(path, contents, state)
    assert any("optimizer_states" in warning for warning in contents.warnings)
    moments = read(path, at="optimizer_states.0")
    assert list(moments.tensors) == ["0.exp_avg"]


def test_a_pickled_module_is_named_as_its_state_dict(tmp_path):
    module = Block()
    path = saved(tmp_path, module)
    contents = read(path)
    assert list(contents.tensors) == list(module.state_dict())
    assert_same(path, contents, module.state_dict())


def test_torchscript(tmp_path):
    module = torch.jit.script(Block())
    path = tmp_path / "script.pt"
    torch.jit.save(module, path)
    contents = read(path)
    assert_same(path, contents, module.state_dict())
    assert any("TorchScript" in warning for warning in contents.warnings)


def test_what_torch_keeps_no_plain_bytes_of_is_left_out(tmp_path):
    state = {
        "a": torch.ones(2),
        "sparse": torch.eye(3).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
    }
    contents = read(saved(tmp_path, state))
    assert list(contents.tensors) == ["a"]
    assert "sparse" in str(contents.warnings) and "quantized" in str(contents.warnings)
    assert set(contents.left_out) == set(state) - {"a"}


def test_meta_tensors_have_no_values(tmp_path):
    contents = read(saved(tmp_path, {"a": torch.empty(3, 4, device="meta")}))
    assert contents.tensors["a"].shape == (3, 4)
    with pytest.raises(CheckpointError, match="meta device"):
        contents.locate("a")


def rewritten(path: Path, change, **options) -> Path:
    """The archive again with the standard library's writer, its members changed on the way."""
    target = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", **options) as new:
        for info in old.infolist():
            if (data := change(info.filename, old.read(info))) is not None:
                new.writestr(info.filename, data)
    return target


def test_big_endian_is_listed_but_not_loaded(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(3)})
    big = rewritten(path, lambda name, data: b"big" if name.endswith("byteorder") else data)
    contents = read(big)
    assert contents.tensors["a"].shape == (3,)
    with pytest.raises(CheckpointError, match="big-endian"):
        contents.locate("a")


def test_a_compressed_archive_is_listed_but_not_loaded(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(3)})
    packed = rewritten(path, lambda name, data: data, compression=zipfile.ZIP_DEFLATED)
    contents = read(packed)
    assert contents.tensors["a"].shape == (3,)
    with pytest.raises(CheckpointError, match=r"compressed.*torch\.save once"):
        contents.locate("a")


def test_a_rewritten_archive_is_read_from_its_real_offsets(tmp_path):
    state = {"a": torch.randn(3), "b": torch.randn(70)}
    path = rewritten(saved(tmp_path, state), lambda name, data: data)
    assert_same(path, read(path), state)


@pytest.mark.parametrize("extra", [-1, 1, 64])
def test_a_storage_of_another_size_is_refused(tmp_path, extra):
    path = saved(tmp_path, {"a": torch.zeros(8, dtype=torch.uint8)})
    lying = rewritten(path, lambda name, data: bytes(8 + extra) if name.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match=r"a: its storage '0' should be 8 bytes"):
        read(lying)


def test_a_missing_storage_is_refused(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(3)})
    without = rewritten(path, lambda name, data: None if name.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match="has 0 for it"):
        read(without)


def test_other_zip_files_are_told_apart(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(CheckpointError, match="numpy archive"):
        read(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"none that torch\.save .*readme\.txt"):
        read(tmp_path / "other.zip")


@pytest.mark.parametrize("kind", ["end", "entry"])
def test_zip64(tmp_path, kind):
    state = {"a": torch.arange(5.0)}
    path = saved(tmp_path, state)
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    if kind == "end":  # everything in the 64-bit record only
        data[end + 8 : end + 20] = b"\xff" * 12
    else:
        archive = zipfile.ZipFile(path)
        with zipfile.ZipFile(tmp_path / "z64.pt", "w") as new:
            for info in archive.infolist():
                with new.open(info.filename, "w", force_zip64=True) as member:
                    member.write(archive.read(info))
        data = bytearray((tmp_path / "z64.pt").read_bytes())
    path.write_bytes(data)
    assert_same(path, read(path), state)


def test_sizes_beyond_32_bits_in_the_directory(tmp_path):
    """A sparse file of 5 GB: the header offsets of the last members need the 64-bit field."""
    path = tmp_path / "large.pt"
    with torch.serialization.skip_data():
        torch.save({"a": torch.empty(5 << 30, dtype=torch.uint8), "b": torch.empty(3)}, path)
    contents = read(path)
    assert contents.locate("a").length == 5 << 30
    assert contents.locate("b").offset > 5 << 30
    reader = torch.load(path, map_location="meta", mmap=True)
    assert contents.locate("b").offset == reader["b"].untyped_storage()._checkpoint_offset


class CountingStore:
    """A store as if far away: counts requests and bytes."""

    def __init__(self, path: Path) -> None:
        self.inner = store_of(path)
        self.label, self.parallel = "far", 4
        self.requests: list[int] = []

    def files(self):
        return self.inner.files()

    def size(self, file):
        return self.inner.size(file)

    def read(self, file, offset, length):
        self.requests.append(length)
        return self.inner.read(file, offset, length)

    def local_path(self, file):
        return None


def test_few_requests_and_no_weights(tmp_path):
    path = saved(tmp_path, {f"layer.{index}.weight": torch.zeros(100_000) for index in range(50)})
    store = CountingStore(path)
    contents = read_torch_zip(store, path.name)
    assert len(contents.tensors) == 50
    assert len(store.requests) <= 2 and sum(store.requests) < 200_000
    contents.locate("layer.7.weight")
    assert len(store.requests) == 3 and store.requests[-1] < 100


def test_few_requests_for_a_large_directory(tmp_path):
    path = saved(tmp_path, {f"layer.{index}.weight": torch.zeros(10) for index in range(3000)})
    store = CountingStore(path)
    read_torch_zip(store, path.name)
    assert len(store.requests) == 3  # the tail, the directory, data.pkl


def test_an_archive_without_checksums_or_with_wide_alignment(tmp_path):
    state = {"a": torch.randn(3), "b": torch.randn(5)}
    config = torch.utils.serialization.config
    with config.patch({"save.storage_alignment": 4096}):
        path = saved(tmp_path, state)
    assert_same(path, read(path), state)
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, state)
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(path, read(path), state)
    assert read(path).warnings == ()


def test_a_changed_pickle_is_told_by_its_checksum(tmp_path):
    path = saved(tmp_path, {"weight": torch.ones(3)})
    path.write_bytes(path.read_bytes().replace(b"weight", b"wright"))
    with pytest.raises(CheckpointError, match=r"data\.pkl: its checksum does not match: the file is damaged, or was"):
        read(path)


def test_reading_loads_neither_torch_nor_numpy(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(3)})
    code = f"""
import json, sys
from pathlib import Path
from ckptmap.formats.torch_zip import read_torch_zip
from ckptmap.stores.local import LocalStore
contents = read_torch_zip(LocalStore(Path({str(tmp_path)!r})), {path.name!r})
contents.locate("a")
print(json.dumps([sorted(contents.tensors), [name for name in ("torch", "numpy") if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["a"], []]


def test_truncated_anywhere(tmp_path):
    data = saved(tmp_path, {"a": torch.ones(3), "b": torch.zeros(2, 2)}).read_bytes()
    cut = tmp_path / "cut.pt"
    for length in range(0, len(data), 37):
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read(cut)


def test_two_entries_of_one_name(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(3)})
    buffer = io.BytesIO(path.read_bytes())
    with pytest.warns(UserWarning), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}.")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="two entries"):
        read(path)


def test_a_bad_local_header_is_seen_by_locate(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(3)})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("model/data/0").header_offset
    struct.pack_into("<H", data, start + 28, 0xFFFF)
    path.write_bytes(data)
    contents = read(path)
    with pytest.raises(CheckpointError, match="outside of the file"):
        contents.locate("a")
