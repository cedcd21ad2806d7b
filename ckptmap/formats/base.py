"""What a reader makes of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ckptmap.formats.findings import Finding
from ckptmap.spec import TensorSpec

ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor's bytes lie: `length` bytes of `file` from byte `offset`.

    `strides` (in elements) is None when the bytes are the tensor in row-major order, as they always are in
    safetensors. A torch archive may store a view: then the bytes span all its elements and strides pick them.
    """

    file: str
    offset: int
    length: int
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint, or one shard of it, holds.

    Args:
        tensors: Specs by name, in file order.
        files: The file each tensor lies in, by name.
        locate: Where the bytes of one tensor lie; may read the store, so it is asked only for tensors that are loaded.
        metadata: The file's own free-text metadata.
        ties: Groups of names that are one stored tensor.
        warnings: What a person should know of how it was read: which part was taken, what was left out.
        left_out: Names of tensors that could not be read; entries that are no tensors are not among them.
        part: Which part of a pickle was taken, as dotted keys; None for all of it.
        findings: What loading its pickles with pickle itself would do; of safetensors there is nothing.
    """

    tensors: Mapping[str, TensorSpec]
    files: Mapping[str, str]
    locate: Callable[[str], Extent]
    metadata: Mapping[str, str] = field(default_factory=dict)
    ties: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    part: str | None = None
    findings: tuple[Finding, ...] = ()
