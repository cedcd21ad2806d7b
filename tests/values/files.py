"""Files of any dtype, byte by byte: safetensors' own writer knows not all of them, and torch has no packed ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ckptmap.spec import TensorSpec

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]
"""Dtype, shape and bytes by name."""


def write(path: Path, tensors: Tensors) -> Path:
    """Write a safetensors file."""
    header: dict[str, object] = {}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        assert len(data) == TensorSpec(name, shape, dtype).nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values()))
    return path
