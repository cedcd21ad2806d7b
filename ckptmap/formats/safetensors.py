"""Safetensors headers, validated in full and without the library.

Source: the format section of the safetensors 0.8.0 README and `safetensors/src/tensor.rs`, whose checks
(header of at most 100 MB, contiguous offsets that cover the file) are made here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as short_repr
from typing import Any

from ckptmap.errors import CheckpointError
from ckptmap.formats import strict_json
from ckptmap.formats.base import Contents, Extent
from ckptmap.spec import DTYPE_BITS, TensorSpec
from ckptmap.stores.base import Store

MAX_HEADER = 100_000_000
FIRST_READ = 64 * 1024
"""Bytes of the first read: enough for the whole header of most files, so that a remote one costs one request."""

UNDO_SUFFIX = ".ckptmap-undo"
"""Ends the name of the journal beside a file whose header is being replaced."""

LENGTH_FIELD = 8
LARGEST_INTEGER = 2**63 - 1
MOST_DIMENSIONS = 64  # as in torch

# Parsed names take far more memory than their text. An entry has 4 colons, a few more when its name has some.
NAMES_PER_TENSOR = 6
MOST_FREE_NAMES = 200_000


def read_safetensors(store: Store, file: str, *, first_read: int = FIRST_READ) -> Contents:
    """Read and validate the header of one safetensors file; tensor data is not touched.

    Args:
        store: Where the file is.
        file: Its name there.
        first_read: How many bytes to ask for at first; a longer header costs a second read.

    Raises:
        CheckpointError: The file cannot be read or its header breaks a rule of the format.
    """
    source = f"{store.label}/{file}"
    size = store.size(file)
    path = store.local_path(file)
    if path is not None and path.with_name(path.name + UNDO_SUFFIX).is_file():
        raise CheckpointError(
            "a conversion --in-place of this file is under way or was cut short, so its header cannot be trusted; wait "
            f"for it, or put the old header back with `ckptmap convert --undo {path}`",
            source=source,
        )
    if size < LENGTH_FIELD:
        raise CheckpointError(
            f"the file has {size} bytes, too few for a safetensors header; download it again", source=source
        )
    first = store.read(file, 0, min(size, max(first_read, LENGTH_FIELD)))
    length = int.from_bytes(first[:LENGTH_FIELD], "little")
    if length > MAX_HEADER:
        raise CheckpointError(
            f"the first 8 bytes give a header of {length} bytes, and the format allows {MAX_HEADER}; "
            "this is not a safetensors file, or it is damaged",
            source=source,
        )
    if LENGTH_FIELD + length > size:
        raise CheckpointError(
            f"the header should be {length} bytes long but the file ends after {size}; download it again",
            source=source,
        )
    text = first[LENGTH_FIELD : LENGTH_FIELD + length]
    if len(text) < length:
        text += store.read(file, len(first), length - len(text))
    data_start = LENGTH_FIELD + length
    tensors, begins, metadata = _validated(text, size - data_start, source)

    def locate(name: str) -> Extent:
        return Extent(file, data_start + begins[name], tensors[name].nbytes)

    return Contents(tensors, dict.fromkeys(tensors, file), locate, metadata)


def _validated(
    text: bytes, data_size: int, source: str
) -> tuple[dict[str, TensorSpec], dict[str, int], Mapping[str, str]]:
    """Specs, first data bytes and metadata of a header."""
    header = _parse(text, source)
    metadata = _metadata(header.pop("__metadata__", None), source)
    tensors: dict[str, TensorSpec] = {}
    begins: dict[str, int] = {}
    position, in_order = 0, True
    for name, entry in header.items():
        tensors[name], begin, end = _tensor(name, entry, source)
        begins[name] = begin
        in_order = in_order and begin == position
        position = end
    if not in_order:
        position = _end_in_order_of_data(tensors, begins, source)
    if position != data_size:
        if position > data_size:
            what = "the file is truncated, download it again"
        else:
            what = f"{data_size - position} bytes too many: data was appended to the file, or it is damaged; "
            what += "download or save it again"
        raise CheckpointError(
            f"the tensors take {position} bytes but {data_size} follow the header; {what}", source=source
        )
    return tensors, begins, metadata


def _end_in_order_of_data(tensors: Mapping[str, TensorSpec], begins: Mapping[str, int], source: str) -> int:
    """Where the data ends, once it is known to lie without holes or overlap in some order."""
    position, previous = 0, "the header"
    for name in sorted(tensors, key=lambda name: (begins[name], tensors[name].nbytes)):
        begin = begins[name]
        if begin != position:
            problem = "overlaps" if begin < position else f"leaves a hole of {begin - position} bytes after"
            raise CheckpointError(
                f"its data starts at byte {begin} and {problem} {previous}, which ends at {position}; it is damaged",
                source=source,
                where=name,
            )
        position, previous = begin + tensors[name].nbytes, repr(name)
    return position


def _parse(text: bytes, source: str) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise CheckpointError("the header does not start with '{'; this is not a safetensors file", source=source)
    if text.count(b":") > MOST_FREE_NAMES + NAMES_PER_TENSOR * text.count(b"data_offsets"):
        raise CheckpointError("the header names far more than tensors; the file is damaged", source=source)
    try:
        header = strict_json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"the header is not strict JSON: {error}; the file is damaged", source=source, where="header"
        ) from None
    assert isinstance(header, dict)  # it starts with '{'
    return header


def _metadata(value: object, source: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError("must map names to strings", source=source, where="__metadata__")
    return value


def _tensor(name: str, entry: object, source: str) -> tuple[TensorSpec, int, int]:
    """Spec, first data byte and the byte after the last."""
    if type(entry) is not dict:
        raise _refusal("its header entry is not an object with dtype, shape and data_offsets", name, source)
    dtype, offsets = entry.get("dtype"), entry.get("data_offsets")
    shape: Any = entry.get("shape")
    if type(dtype) is not str or dtype not in DTYPE_BITS or dtype == "C128":
        raise _refusal(f"dtype {short_repr(dtype)} is not one that safetensors 0.8 defines", name, source)
    elements = _product(shape) if type(shape) is list else None
    if elements is None:
        raise _refusal(f"shape {short_repr(shape)} is not a list of integers from 0", name, source)
    if len(shape) > MOST_DIMENSIONS:
        raise _refusal(f"has {len(shape)} dimensions, and torch at most {MOST_DIMENSIONS}", name, source)
    begin, end = offsets if type(offsets) is list and len(offsets) == 2 else (None, None)
    if type(begin) is not int or type(end) is not int or min(begin, end) < 0 or begin > LARGEST_INTEGER:
        raise _refusal(f"data_offsets {short_repr(offsets)} is not a pair of integers from 0", name, source)
    if elements > LARGEST_INTEGER:
        raise _refusal("has more elements than 63 bits can count; the header is damaged", name, source)
    bits = elements * DTYPE_BITS[dtype]
    if bits != (end - begin) * 8:
        problem = f"{short_repr(shape)} of {dtype} takes {(bits + 7) // 8} bytes but data_offsets give {end - begin}"
        raise _refusal(f"{problem}; the header is damaged", name, source)
    return TensorSpec(name, tuple(shape), dtype), begin, end


def _product(values: list[Any]) -> int | None:
    """The product of integers from 0; None if one is anything else."""
    product = 1
    for value in values:
        # A boolean is an int to isinstance, and no integer here.
        if type(value) is not int or not 0 <= value <= LARGEST_INTEGER:
            return None
        product *= value
    return product


def _refusal(problem: str, name: str, source: str) -> CheckpointError:
    return CheckpointError(problem, source=source, where=name[:200])
