"""What is known of a tensor without its values: name, shape, dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
    "C128": 128,
}
"""Bits of one element, by the dtype's name in a safetensors header.

Source: safetensors 0.8.0, `safetensors/src/tensor.rs`, enum `Dtype`. C128 is not in that enum: it is our
name, in the same spelling, for the complex128 tensors that torch archives may hold.
"""

TORCH_NAMES: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F4": "float4_e2m1fn_x2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "C128": "complex128",
}
"""What torch calls these dtypes, those that it has.

Source: safetensors 0.8.0, `bindings/python/py_src/safetensors/torch.py`, `_TYPES`; C128 is ours.
"""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of one tensor; dtype spelled as in a safetensors header (`F32`, `BF16`, …)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes, packed: 4- and 6-bit types round up to a whole byte at the end."""
        return (prod(self.shape) * DTYPE_BITS[self.dtype] + 7) // 8


Inventory = Mapping[str, TensorSpec]
"""Tensor names in file order, each with its spec."""
