"""Compares what a reader says of a file with what torch itself loads from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ckptmap.formats.base import Contents
from ckptmap.stores.local import LocalStore

TORCH_NAMES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.uint16: "U16",
    torch.uint32: "U32", torch.uint64: "U64", torch.bool: "BOOL", torch.complex64: "C64", torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip


def store_of(path: Path) -> LocalStore:
    return LocalStore(path.parent)


def raw(tensor: torch.Tensor) -> bytes:
    # Element by element through views of bytes, so that no conversion comes between.
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def read_back(path: Path, contents: Contents, name: str) -> bytes:
    """The tensor's bytes in row-major order, from locate and the file alone."""
    extent, spec = contents.locate(name), contents.tensors[name]
    data = store_of(path).read(extent.file, extent.offset, extent.length)
    if extent.strides is None:
        return data
    itemsize = spec.nbytes // spec.parameters
    places = [0]
    for size, stride in zip(spec.shape, extent.strides, strict=True):
        places = [place + index * stride for place in places for index in range(size)]
    return b"".join(data[place * itemsize : (place + 1) * itemsize] for place in places)


def assert_same(path: Path, contents: Contents, expected: Mapping[str, torch.Tensor]) -> None:
    """The names, shapes, dtypes and bytes are those of torch's tensors."""
    assert set(contents.tensors) == set(expected)
    for name, tensor in expected.items():
        spec = contents.tensors[name]
        assert (spec.name, spec.shape, spec.dtype) == (name, tuple(tensor.shape), TORCH_NAMES[tensor.dtype])
        assert contents.files[name] == path.name
        assert read_back(path, contents, name) == raw(tensor), name
