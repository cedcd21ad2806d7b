"""Writes safetensors files front to back: the header first, then data from memory or by ranges of other files.

Source: the format of safetensors 0.8.0 (`README.md`): 8 bytes of length, JSON, data without holes. Blanks may follow
the JSON; some KiB of them let a later rename happen in place.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping

from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.files import write_all
from ckptmap.formats.safetensors import MAX_HEADER
from ckptmap.spec import TensorSpec

BLANKS = 4096
ALIGNED = 8
COPIED_AT_ONCE = 1 << 26
READ_AT_ONCE = 1 << 22

# Filesystems that cannot copy a range say one of these.
CANNOT = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EPERM}


def header_bytes(tensors: Iterable[TensorSpec], metadata: Mapping[str, str], *, blanks: int = BLANKS) -> bytes:
    """Length and JSON of a header for tensors that lie one after another in this order.

    Raises:
        ConvertError: A dtype has no name in the format, or the header is longer than the format allows.
    """
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for spec in tensors:
        if spec.dtype == "C128":
            raise ConvertError(f"{spec.name}: safetensors has no complex128; write a torch file with --to-bin")
        end = position + spec.nbytes
        fields[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [position, end]}
        position = end
    return pack_header(fields, blanks=blanks)


def pack_header(fields: Mapping[str, object], *, blanks: int = 0) -> bytes:
    """A header with its length before it and blanks after it, a multiple of 8 bytes."""
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    length = len(text) + blanks
    length += -length % ALIGNED
    if length > MAX_HEADER:
        raise ConvertError(f"the header would take {length:,} bytes and the format allows {MAX_HEADER:,}; write shards")
    return length.to_bytes(8, "little") + text.ljust(length)


class Writer:
    """Appends to a file, from memory and from other files; ranges that touch are copied as one.

    Args:
        descriptor: The file, open for writing, at its start.
        source: Gives a descriptor of a file to copy from.
        report: Told how many bytes were written since it was last told.
    """

    def __init__(
        self, descriptor: int, source: Callable[[str], int], report: Callable[[int], None] | None = None
    ) -> None:
        self._descriptor = descriptor
        self._source = source
        self._report = report or (lambda nbytes: None)
        self._waiting: tuple[str, int, int] | None = None
        self._can_copy = True

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self.flush()
        view = memoryview(data)
        for start in range(0, len(view), COPIED_AT_ONCE):
            part = view[start : start + COPIED_AT_ONCE]
            write_all(self._descriptor, part)
            self._report(len(part))

    def zeros(self, length: int) -> None:
        """Append zero bytes."""
        block = bytes(min(length, READ_AT_ONCE))
        while length:
            self.write(memoryview(block)[:length])
            length -= min(length, len(block))

    def copy(self, path: str, offset: int, length: int) -> None:
        """Append a range of another file."""
        if self._waiting is not None:
            before, start, size = self._waiting
            if before == path and start + size == offset:
                self._waiting = (path, start, size + length)
                return
            self.flush()
        self._waiting = (path, offset, length)

    def flush(self) -> None:
        """Write what waits to be copied."""
        if self._waiting is None:
            return
        path, offset, length = self._waiting
        self._waiting = None
        source = self._source(path)
        while length:
            done = self._copy_some(source, offset, min(length, COPIED_AT_ONCE))
            if not done:
                raise CheckpointError("ends early; it was changed while it was read", source=path)
            self._report(done)
            offset, length = offset + done, length - done

    def _copy_some(self, source: int, offset: int, length: int) -> int:
        if self._can_copy:
            try:
                return os.copy_file_range(source, self._descriptor, length, offset)
            except OSError as error:
                if error.errno not in CANNOT:
                    raise
            except AttributeError:  # only Linux has it
                pass
            self._can_copy = False
        data = os.pread(source, min(length, READ_AT_ONCE), offset)
        write_all(self._descriptor, memoryview(data))
        return len(data)
