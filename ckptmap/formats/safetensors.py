"""Safetensors headers, validated in full and without the library.

Source: the format section of the safetensors 0.8.0 README and `safetensors/src/tensor.rs`, whose checks
(header of at most 100 MB, contiguous offsets that cover the file) are made here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ckptmap.errors import CheckpointError
from ckptmap.formats import strict_json
from ckptmap.formats.base import Contents, Extent
from ckptmap.spec import DTYPE_BITS, TensorSpec
from ckptmap.stores.base import Store

MAX_HEADER = 100_000_000
FIRST_READ = 64 * 1024
"""Bytes of the first read: enough for the whole header of most files, so that a remote one costs one request."""

LENGTH_FIELD = 8
LARGEST_DIMENSION = 2**63 - 1


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
    header = _parse(text, source)
    metadata = _metadata(header.pop("__metadata__", None), source)
    data_start = LENGTH_FIELD + length
    tensors, offsets = _tensors(header, size - data_start, source)

    def locate(name: str) -> Extent:
        begin, end = offsets[name]
        return Extent(file, data_start + begin, end - begin)

    return Contents(tensors, dict.fromkeys(tensors, file), locate, metadata)


def _parse(text: bytes, source: str) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise CheckpointError("the header does not start with '{'; this is not a safetensors file", source=source)
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


def _tensors(
    header: dict[str, Any], data_size: int, source: str
) -> tuple[dict[str, TensorSpec], dict[str, tuple[int, int]]]:
    tensors: dict[str, TensorSpec] = {}
    offsets: dict[str, tuple[int, int]] = {}
    for name, entry in header.items():
        tensors[name], offsets[name] = _tensor(name, entry, source)
    position, previous = 0, ""
    for name, (begin, end) in sorted(offsets.items(), key=lambda item: item[1]):
        if begin != position:
            problem = "overlaps" if begin < position else f"leaves a hole of {begin - position} bytes after"
            neighbour = repr(previous) if previous else "the header"
            raise CheckpointError(
                f"its data starts at byte {begin} and {problem} {neighbour}, which ends at {position}; it is damaged",
                source=source,
                where=name,
            )
        position, previous = end, name
    if position != data_size:
        what = "truncated, download it again" if position > data_size else "damaged, or data was appended to it"
        raise CheckpointError(
            f"the tensors take {position} bytes but {data_size} follow the header; the file is {what}", source=source
        )
    return tensors, offsets


def _tensor(name: str, entry: object, source: str) -> tuple[TensorSpec, tuple[int, int]]:
    def refuse(problem: str) -> NoReturn:
        raise CheckpointError(problem, source=source, where=name)

    if not isinstance(entry, dict):
        refuse("its header entry is not an object with dtype, shape and data_offsets")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS or dtype == "C128":
        refuse(f"dtype {dtype!r} is not one that safetensors 0.8 defines")
    # A boolean is an int to isinstance, and no integer here.
    if type(shape) is not list or any(type(n) is not int or not 0 <= n <= LARGEST_DIMENSION for n in shape):
        refuse(f"shape {shape!r} is not a list of integers from 0")
    if type(offsets) is not list or len(offsets) != 2 or any(type(n) is not int or n < 0 for n in offsets):
        refuse(f"data_offsets {offsets!r} is not a pair of integers from 0")
    spec = TensorSpec(name, tuple(shape), dtype)
    begin, end = offsets
    if spec.parameters * DTYPE_BITS[dtype] != (end - begin) * 8:
        refuse(
            f"{list(spec.shape)} of {dtype} takes {spec.nbytes} bytes but data_offsets give {end - begin}; "
            "the header is damaged"
        )
    return spec, (begin, end)
