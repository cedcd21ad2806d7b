"""Checkpoints that are not on disk: modules and state dicts; and bytes made into tensors. Torch is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ckptmap.errors import CheckpointError
from ckptmap.formats.base import Contents, Extent
from ckptmap.spec import DTYPE_BITS, TORCH_NAMES, TensorSpec

if TYPE_CHECKING:
    import torch

SPEC_NAMES = {torch_name: name for name, torch_name in TORCH_NAMES.items()}


def read_live(source: torch.nn.Module | Mapping[str, object]) -> tuple[Contents, dict[str, torch.Tensor]]:
    """What a module or a plain state dict holds, and its tensors; what is no tensor (extra state) is left out unsaid.

    Raises:
        CheckpointError: It is neither, or a mapping without any tensor, or with names that are not strings.
    """
    import torch

    entries = source.state_dict(keep_vars=True) if isinstance(source, torch.nn.Module) else source
    if not isinstance(entries, Mapping):
        raise CheckpointError("is neither a path, nor an nn.Module, nor a state dict", source=type(source).__name__)
    if any(not isinstance(name, str) for name in entries):
        raise CheckpointError("names of a state dict must be strings", source="state dict")
    found = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    if entries and not found:
        raise CheckpointError(
            f"no value is a tensor; pass the state dict itself, one of the values of {str(sorted(entries)[:5])[:200]}",
            source="state dict",
        )
    tensors: dict[str, torch.Tensor] = {}
    specs: dict[str, TensorSpec] = {}
    left_out: dict[str, list[str]] = {}
    for name, tensor in found.items():
        spec = _spec(name, tensor)
        if isinstance(spec, str):
            left_out.setdefault(spec, []).append(name)
        else:
            specs[name], tensors[name] = spec, tensor.detach()
    contents = Contents(
        specs,
        {},
        _no_extent,
        ties=ties_of(tensors),
        warnings=tuple(f"left out, {why}: {', '.join(names)[:200]}" for why, names in left_out.items()),
        left_out=tuple(name for names in left_out.values() for name in names),
    )
    return contents, tensors


def _no_extent(name: str) -> Extent:
    raise CheckpointError("lies in memory, not in a file", where=name)


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec | str:
    """The spec of a live tensor, or why it has none."""
    import torch

    if torch.nn.parameter.is_lazy(tensor):
        return "lazy and without a shape yet"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return f"of layout {tensor.layout}"
    dtype = SPEC_NAMES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None:
        return f"of dtype {tensor.dtype}"
    shape = tuple(tensor.shape)
    if DTYPE_BITS[dtype] == 4:
        # As in torch files: torch counts pairs of 4-bit numbers.
        if not shape or not tensor.is_contiguous():
            return f"of dtype {tensor.dtype} and not packed in rows"
        shape = (*shape[:-1], 2 * shape[-1])
    return TensorSpec(name, shape, dtype)


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

    if DTYPE_BITS[spec.dtype] < 8:
        raise CheckpointError(
            f"torch has no tensor of this shape for {spec.dtype}; Checkpoint.read gives its {spec.nbytes} packed bytes",
            where=spec.name,
        )
    dtype = getattr(torch, TORCH_NAMES[spec.dtype])
    if not data:
        return torch.empty(spec.shape, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype)
    return flat.reshape(spec.shape) if strides is None else flat.as_strided(spec.shape, tuple(strides)).contiguous()


def bytes_of(tensor: torch.Tensor) -> bytes:
    """A tensor's elements as bytes, in row-major order."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
