"""What torch's pickles say of tensors: storage types, dtypes, views of storages, and where their bytes must lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptmap.errors import CheckpointError
from ckptmap.formats.base import Contents, Extent
from ckptmap.spec import DTYPE_BITS, TORCH_NAMES, TensorSpec

if TYPE_CHECKING:
    from ckptmap.formats.found import StateDict

_MAX_DIMENSIONS = 64
_MAX_COUNT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype by torch's name and, where ckptmap has it, by the name in `DTYPE_BITS`."""

    torch_name: str
    name: str | None
    itemsize: int


# Source: torch 2.13, c10/core/ScalarType.h, for those that have no name in a safetensors header.
_NAMELESS = {"complex32": 4, "qint32": 4, "bits16": 2} | dict.fromkeys(
    (
        *("qint8", "quint8", "quint4x2", "quint2x4", "bits8", "bits1x8", "bits2x4", "bits4x2"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
    ),
    1,
)

DTYPES: Mapping[str, Dtype] = {
    # A pair of 4-bit numbers is one element of a byte to torch.
    torch_name: Dtype(torch_name, name, max(1, DTYPE_BITS[name] // 8))
    for name, torch_name in TORCH_NAMES.items()
} | {torch_name: Dtype(torch_name, None, itemsize) for torch_name, itemsize in _NAMELESS.items()}


@dataclass(frozen=True, slots=True)
class StorageType:
    """The type of a storage, which gives its tensors their dtype."""

    dtype: Dtype


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A run of bytes of the file, as the pickle tells of it: `nbytes` from byte `start` of what `key` names."""

    key: str
    dtype: Dtype
    nbytes: int
    start: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A view of a storage: `offset` and `strides` in elements. A tensor on the meta device has no storage."""

    storage: Storage | None
    dtype: Dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def contiguous_strides(self) -> bool:
        """Whether its elements lie one after the other in row-major order."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return 0 in self.shape
            expected *= size
        return True

    @property
    def extent(self) -> tuple[int, int]:
        """First byte within the storage's key, and bytes from the first to the last element."""
        itemsize = self.dtype.itemsize
        base = self.storage.start if self.storage else 0
        elements = 0
        if 0 not in self.shape:
            elements = 1
            for size, stride in zip(self.shape, self.strides, strict=True):
                elements += (size - 1) * stride
        return base + self.offset * itemsize, elements * itemsize

    def spec(self, name: str) -> TensorSpec | None:
        """Its spec, or None for a dtype that ckptmap has no name for."""
        if self.dtype.name is None:
            return None
        shape = self.shape
        if DTYPE_BITS[self.dtype.name] == 4:
            # torch counts pairs of 4-bit numbers. Source: safetensors 0.8.0, torch.py, the float4_e2m1fn_x2 branches.
            if not shape or not self.contiguous_strides:
                return None
            shape = (*shape[:-1], 2 * shape[-1])
        return TensorSpec(name, shape, self.dtype.name)


def natural(value: object, what: str) -> int:
    """The value as a count that fits 63 bits."""
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise ValueError(f"{what} is {value if type(value) is int and abs(value) < 1 << 80 else 'no such number'}")
    return value


def _naturals(values: object, what: str) -> tuple[int, ...]:
    if type(values) is list:
        values = tuple(values)
    if type(values) is not tuple or len(values) > _MAX_DIMENSIONS:
        raise ValueError(f"{what} is no tuple of at most {_MAX_DIMENSIONS} numbers")
    for value in values:
        if type(value) is not int or value < 0 or value > _MAX_COUNT:
            raise ValueError(f"{what} holds something that is no number from 0 to 2**63 - 1")
    return values


def make_tensor(storage: Storage | None, dtype: object, offset: object, size: object, stride: object) -> Tensor:
    """A tensor from what a pickle says of it.

    Raises:
        ValueError: It says something impossible.
    """
    if type(dtype) is not Dtype:
        raise ValueError("a tensor's dtype is none that torch has")
    shape, strides = _naturals(size, "a tensor's shape"), _naturals(stride, "a tensor's strides")
    if len(shape) != len(strides):
        raise ValueError(f"a tensor has {len(shape)} dimensions but {len(strides)} strides")
    elements: int = prod(shape)
    if elements > _MAX_COUNT:
        raise ValueError("a tensor has more elements than 63 bits can count")
    return Tensor(storage, dtype, natural(offset, "a tensor's offset"), shape, strides)


def make_storage(storage_type: object, key: object, numel: object) -> Storage:
    """A storage from what a persistent id says of it."""
    if type(storage_type) is Dtype:
        dtype = storage_type
    elif type(storage_type) is StorageType:
        dtype = storage_type.dtype
    else:
        raise ValueError("a storage is of a type that torch does not have")
    if type(key) is int:
        key = str(key)
    if type(key) is not str or not 0 < len(key) <= 256:
        raise ValueError("a storage's key is no short text")
    return Storage(key, dtype, natural(numel, "a storage's number of elements") * dtype.itemsize)


def tied(tensors: Mapping[str, Tensor]) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Groups of names that are one stored tensor, and a note where others overlap in part."""
    by_storage: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.storage is not None and 0 not in tensor.shape:
            by_storage.setdefault(tensor.storage.key, []).append(name)
    groups: list[tuple[str, ...]] = []
    overlaps: list[tuple[str, str]] = []
    for names in by_storage.values():
        if len(names) == 1:
            continue
        same: dict[object, list[str]] = {}
        for name in names:
            tensor = tensors[name]
            strides = None if tensor.contiguous_strides else tensor.strides
            same.setdefault((tensor.extent, tensor.shape, strides, tensor.dtype), []).append(name)
        groups += [tuple(group) for group in same.values() if len(group) > 1]
        overlaps += _overlaps([(tensors[group[0]].extent, group[0]) for group in same.values()])
    if not overlaps:
        return tuple(groups), ()
    first, second = overlaps[0]
    others = f", and {len(overlaps) - 1} more such pairs" if len(overlaps) > 1 else ""
    note = f"{first!r} and {second!r} are different views that lie across each other in one storage{others}; "
    note += "they are read as separate tensors"
    return tuple(groups), (note,)


def _overlaps(views: Sequence[tuple[tuple[int, int], str]]) -> list[tuple[str, str]]:
    """Neighbours, in order of their first byte, that begin before an earlier one ends."""
    found = []
    reach, holder = 0, ""
    for (start, length), name in sorted(views):
        if holder and start < reach:
            found.append((holder, name))
        if start + length > reach:
            reach, holder = start + length, name
    return found


def check_bounds(name: str, tensor: Tensor, source: str) -> None:
    """Refuses a view that leaves its storage."""
    if tensor.storage is None:
        return
    start, length = tensor.extent
    if length and start + length > tensor.storage.start + tensor.storage.nbytes:
        raise CheckpointError(
            f"its elements end at byte {start + length - tensor.storage.start:,} of a storage of "
            f"{tensor.storage.nbytes:,} bytes; the file is damaged or was made to mislead",
            source=source,
            where=name,
        )


def listing(
    chosen: StateDict, *, file: str, source: str, start_of: Callable[[Tensor, str], int], notes: Sequence[str] = ()
) -> Contents:
    """What a file holds, from the state dict that was chosen in it.

    Args:
        chosen: The state dict.
        file: The file's name in its store.
        source: The file, for messages.
        start_of: Where in the file the storage (by key) of a tensor of this name starts; asked for by `locate` only.
        notes: What else is known of the file.
    """
    tensors = chosen.tensors
    specs: dict[str, TensorSpec] = {}
    unknown: dict[str, list[str]] = {}
    on_meta = 0
    for name, tensor in tensors.items():
        spec = tensor.spec(name)
        if spec is None:
            unknown.setdefault(tensor.dtype.torch_name, []).append(name)
            continue
        check_bounds(name, tensor, source)
        on_meta += tensor.storage is None
        specs[name] = spec
    notes = [*chosen.all_notes(), *notes]
    for torch_name, names in unknown.items():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        notes.append(f"left out, of dtype torch.{torch_name}: {', '.join(names[:5])}{more}")
    if on_meta:
        were = "tensor was" if on_meta == 1 else "tensors were"
        notes.append(f"{on_meta} {were} saved from the meta device and have no values")
    ties, overlap_notes = tied({name: tensors[name] for name in specs})

    def locate(name: str) -> Extent:
        if name not in specs:
            raise CheckpointError("there is no such tensor", source=source, where=name)
        tensor = tensors[name]
        if tensor.storage is None:
            raise CheckpointError("it was saved from the meta device and has no values", source=source, where=name)
        strides = None if tensor.contiguous_strides else tensor.strides
        start, length = tensor.extent
        base = start_of(tensor, name)
        return Extent(file, base + start if length else base, length, strides)

    return Contents(
        tensors=specs,
        files=dict.fromkeys(specs, file),
        locate=locate,
        ties=ties,
        warnings=(*notes, *overlap_notes),
        left_out=(*chosen.left_out_tensors, *(name for names in unknown.values() for name in names)),
        part=chosen.part,
    )
