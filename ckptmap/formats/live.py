"""Checkpoints that are not on disk: modules and state dicts; and bytes made into tensors. Torch is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ckptmap.errors import CheckpointError
from ckptmap.spec import TensorSpec

if TYPE_CHECKING:
    import torch

TORCH_DTYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
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
"""Names of torch dtypes by their safetensors names.

Source: safetensors 0.8.0, `safetensors/torch.py`, `_TYPES`; C128 is ours.
"""


def state_dict_of(source: torch.nn.Module | Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The tensors of a module's or a plain state dict, by name; what is not a tensor (extra state) is left out.

    Raises:
        CheckpointError: It is neither, or a mapping without any tensor, or with names that are not strings.
    """
    import torch

    entries = source.state_dict(keep_vars=True) if isinstance(source, torch.nn.Module) else source
    if not isinstance(entries, Mapping):
        raise CheckpointError("is neither a path, nor an nn.Module, nor a state dict", source=type(source).__name__)
    if any(not isinstance(name, str) for name in entries):
        raise CheckpointError("names of a state dict must be strings", source="state dict")
    tensors = {name: value.detach() for name, value in entries.items() if isinstance(value, torch.Tensor)}
    if entries and not tensors:
        raise CheckpointError(
            f"no value is a tensor; pass the state dict itself, one of the values of {sorted(entries)[:5]}",
            source="state dict",
        )
    return tensors


def spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    """The spec of a live tensor."""
    short = str(tensor.dtype).removeprefix("torch.")
    dtype = next((key for key, torch_name in TORCH_DTYPES.items() if torch_name == short), None)
    if dtype is None:
        raise CheckpointError(f"dtype {tensor.dtype} has no name in a checkpoint file", source="state dict", where=name)
    return TensorSpec(name, tuple(tensor.shape), dtype)


def ties_of(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[str, ...], ...]:
    """Groups of names that are the same elements of the same storage."""
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        # A meta tensor has no address; its storage object is what a tie shares.
        place = storage.data_ptr() or storage._cdata
        if tensor.numel():
            key = (tensor.device, place, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
            groups.setdefault(key, []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def tensor_from_bytes(data: bytearray, spec: TensorSpec, strides: Iterable[int] | None = None) -> torch.Tensor:
    """A tensor over these bytes, without a copy unless strides ask for one.

    Args:
        data: The tensor's bytes, in row-major order or spanning a view that `strides` (in elements) describe.
        spec: Its shape and dtype.
        strides: None for row-major order.

    Raises:
        CheckpointError: The dtype is packed (4- or 6-bit) and torch has no tensor of that shape for it.
    """
    import torch

    if spec.dtype not in TORCH_DTYPES:
        raise CheckpointError(
            f"torch has no dtype for {spec.dtype}; Checkpoint.read gives its {spec.nbytes} packed bytes",
            where=spec.name,
        )
    dtype = getattr(torch, TORCH_DTYPES[spec.dtype])
    if not data:
        return torch.empty(spec.shape, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype)
    return flat.reshape(spec.shape) if strides is None else flat.as_strided(spec.shape, tuple(strides)).contiguous()


def bytes_of(tensor: torch.Tensor) -> bytes:
    """A tensor's elements as bytes, in row-major order."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
