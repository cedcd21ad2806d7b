"""Safetensors headers: what the library writes is read, what is broken is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import ckptmap
from ckptmap.errors import CheckpointError
from fixtures.broken_safetensors import broken, broken_indices, from_header, whole


def write(folder: Path, data: bytes, name: str = "model.safetensors") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    checkpoint = ckptmap.open_checkpoint(write(tmp_path, whole()))
    assert list(checkpoint.values()) == [
        ckptmap.TensorSpec("a.weight", (2, 3), "F32"),
        ckptmap.TensorSpec("a.bias", (4,), "BF16"),
        ckptmap.TensorSpec("empty", (0, 7), "I64"),
    ]
    assert checkpoint.metadata == {"format": "pt"}
    assert (checkpoint.parameters, checkpoint.nbytes) == (10, 32)


@pytest.mark.parametrize("metadata", [b"null", b"{}"])
def test_empty_metadata_is_fine(tmp_path: Path, metadata: bytes) -> None:
    assert len(ckptmap.open_checkpoint(write(tmp_path, from_header(b'{"__metadata__": ' + metadata + b"}", 0)))) == 0


def test_packed_dtypes_count_bits(tmp_path: Path) -> None:
    header = {
        "f4": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]},
        "f6": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [2, 5]},
    }
    checkpoint = ckptmap.open_checkpoint(write(tmp_path, from_header(header, 5)))
    assert [spec.nbytes for spec in checkpoint.values()] == [2, 3]
    assert checkpoint.read("f6") == bytes(3)
    with pytest.raises(
        CheckpointError, match=r"f6: torch has no tensor of this shape for F6_E2M3; Checkpoint\.read gives"
    ):
        checkpoint.load("f6")


@pytest.mark.parametrize(("data", "words"), [pytest.param(d, w, id=n) for n, d, w in broken()])
def test_a_broken_file_is_refused_with_its_reason(tmp_path: Path, data: bytes, words: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(CheckpointError) as caught:
        ckptmap.open_checkpoint(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("index", "words"), [pytest.param(i, w, id=n) for n, i, w in broken_indices()])
def test_a_broken_index_is_refused_with_its_reason(tmp_path: Path, index: object, words: str) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write(folder, whole(), "s.safetensors")
    write(folder, whole(), "copy.safetensors")
    (folder / "link.safetensors").symlink_to(write(tmp_path, whole(), "outside.safetensors"))
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    write(folder, text, "model.safetensors.index.json")
    with pytest.raises(CheckpointError) as caught:
        ckptmap.open_checkpoint(folder)
    assert words in str(caught.value)


def test_tensors_that_the_index_forgot_count_and_are_told(tmp_path: Path) -> None:
    write(tmp_path, whole(), "s.safetensors")
    write(tmp_path, json.dumps({"weight_map": {"a.weight": "s.safetensors"}}).encode(), "model.safetensors.index.json")
    checkpoint = ckptmap.open_checkpoint(tmp_path)
    assert list(checkpoint) == ["a.weight", "a.bias", "empty"]
    assert "2 tensors are in the shards but not in the index" in checkpoint.warnings[0]


def test_an_index_of_a_variant(tmp_path: Path) -> None:
    write(tmp_path, whole(), "s.safetensors")
    index = json.dumps({"weight_map": dict.fromkeys(("a.weight", "a.bias", "empty"), "s.safetensors")}).encode()
    path = write(tmp_path, index, "model.safetensors.index.fp16.json")
    assert len(ckptmap.open_checkpoint(path)) == len(ckptmap.open_checkpoint(tmp_path, variant="fp16")) == 3


def test_a_torch_file_under_the_name_of_safetensors_is_called_one(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"a": torch.zeros(1)}, tmp_path / "model.safetensors", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"torch\.save; rename it to end in \.bin or \.pt"):
            ckptmap.open_checkpoint(tmp_path)


def test_a_hostile_header_takes_little_memory_and_a_large_one_is_read(tmp_path: Path) -> None:
    names = b",".join(b'"%d":{"":1.5}' % number for number in range(1_000_000))
    hostile = write(tmp_path, from_header(b"{" + names + b"}", 0), "hostile.safetensors")
    code = (
        "import re, sys, ckptmap\n"
        "try: ckptmap.open_checkpoint(sys.argv[1])\n"
        "except ckptmap.CheckpointError: print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(hostile)], capture_output=True, text=True)
    assert int(done.stdout) < 200 * 1024, done.stderr
    entries = b",".join(
        b'"%x":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}' % (number, number, number + 1)
        for number in range(100_000)
    )
    assert len(ckptmap.open_checkpoint(write(tmp_path, from_header(b"{" + entries + b"}", 100_000)))) == 100_000


def test_a_hub_cache_snapshot_may_link_to_its_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--o--n" / "blobs", tmp_path / "models--o--n" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (snapshot / "s.safetensors").symlink_to(write(blobs, whole(), "abc"))
    index = json.dumps({"weight_map": dict.fromkeys(("a.weight", "a.bias", "empty"), "s.safetensors")}).encode()
    (snapshot / "model.safetensors.index.json").symlink_to(write(blobs, index, "def"))
    assert len(ckptmap.open_checkpoint(snapshot)) == 3


DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_what_the_library_writes_comes_back(tmp_path: Path, wanted: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    tensors = {
        name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in wanted.items() if name != "__metadata__"
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with ckptmap.open_checkpoint(path) as checkpoint:
        assert set(checkpoint) == set(tensors)
        for name, tensor in tensors.items():
            loaded = checkpoint.load(name)
            assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(
                loaded.view(torch.uint8) if loaded.dim() else loaded,
                tensor.view(torch.uint8) if tensor.dim() else tensor,
            )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
@given(st.data())
def test_no_mutation_gets_past_the_error(tmp_path: Path, data: st.DataObject) -> None:
    mutated = bytearray(whole())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated)))
        action = data.draw(st.sampled_from(["set", "delete", "insert", "cut"]))
        if action == "set":
            mutated[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
        elif action == "delete":
            del mutated[place : place + 1]
        elif action == "insert":
            mutated[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del mutated[place:]
    path = write(tmp_path, bytes(mutated))
    try:
        checkpoint = ckptmap.open_checkpoint(path)
    except CheckpointError:
        return
    assert sum(spec.nbytes for spec in checkpoint.values()) <= len(mutated)
