"""Reads torch.save's zip archives and TorchScript archives: the directory and `data.pkl`, never a weight."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ckptmap.errors import CheckpointError
from ckptmap.formats.base import ZIP_MAGIC, Contents
from ckptmap.formats.safety import Watch, watched
from ckptmap.formats.state_dict import find_state_dict
from ckptmap.formats.torch_globals import KNOWN
from ckptmap.formats.torch_tensors import Storage, Tensor, listing, make_storage
from ckptmap.formats.unpickle import MAX_PICKLE_BYTES, unpickle, watch_all
from ckptmap.stores.base import Store
from ckptmap.stores.window import WindowedFile

# Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 and 4.3.12 to 4.3.16.
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_NO_CHECKSUM = 0  # as torch.serialization.set_crc32_options(False) leaves it
_TAIL = 64 * 1024 + _END.size
_MAX_DIRECTORY = 48 * 1024 * 1024
_MAX_ENTRIES = 300_000
# More than the local header and alignment padding that torch writes before a member's data by default.
_HEADER_SLACK = 512
# Reaches to `byteorder`, which torch writes just behind data.pkl.
_PICKLE_SLACK = 4 * 1024
_READ_WITH_HEADER = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of the archive's directory; `header` is the position of its local header."""

    name: str
    method: int
    flags: int
    checksum: int
    packed: int
    size: int
    header: int


def read_torch_zip(store: Store, file: str, *, at: str | None = None) -> Contents:
    """Lists the tensors of a zip archive made by torch.save or torch.jit.save.

    Args:
        store: Where the file is.
        file: Its name in the store.
        at: The part of the pickled object to take, as dotted keys; `.` is all of it.

    Raises:
        CheckpointError: It is no such archive, it is damaged, or it holds no state dict.
    """
    return watched(lambda watch: _read(store, file, at, watch))


def _read(store: Store, file: str, at: str | None, watch: Watch) -> Contents:
    source = f"{store.label}/{file}"
    window = WindowedFile(store, file)
    members, directory_start = read_directory(window, source)
    prefix = _archive_prefix(members, source)
    pickled = members[prefix + "data.pkl"]
    if pickled.size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"is {pickled.size:,} bytes; at most {MAX_PICKLE_BYTES:,} are read", source=source,
                              where=pickled.name)  # fmt: skip
    data = read_member(window, pickled, directory_start, source, slack=_PICKLE_SLACK)
    big_endian = False
    if marker := members.get(prefix + "byteorder"):
        order = read_member(window, marker, directory_start, source) if marker.size <= 16 else b""
        if order not in (b"little", b"big"):
            raise CheckpointError("is neither 'little' nor 'big'", source=source, where=marker.name)
        big_endian = order == b"big"

    storages: dict[str, Storage] = {}
    tree, end = unpickle(
        data, known=KNOWN, persistent=lambda saved_id: _storage_of(saved_id, storages), source=f"{source}/data.pkl",
        watch=watch, where="data.pkl",
    )  # fmt: skip
    if pickled.checksum not in (_NO_CHECKSUM, zlib.crc32(data)):
        raise CheckpointError(
            "its checksum does not match: the file is damaged, or was edited by hand; download it again",
            source=source, where=pickled.name,
        )  # fmt: skip
    notes = []
    if end < len(data):
        notes.append(f"{len(data) - end:,} bytes follow the pickle in data.pkl; torch reads the first pickle alone")
        with suppress(CheckpointError):
            watch_all(data[end:], watch=watch, where="data.pkl, behind its end")
    del data
    notes += _look_at_others(window, members, pickled, directory_start, source, watch)
    chosen = find_state_dict(tree, at=at, source=source)
    if big_endian:
        notes.append("values are big-endian: names and shapes are read, values are not; save it on this machine first")

    for name, tensor in chosen.tensors.items():
        if tensor.storage is not None:
            _check_storage(tensor.storage, members.get(f"{prefix}data/{tensor.storage.key}"), name, source)

    starts: dict[str, int] = {}

    def start_of(tensor: Tensor, name: str) -> int:
        assert tensor.storage is not None
        if big_endian:
            raise CheckpointError(
                "its values are big-endian, which is not read; load and save it with torch once", source=source,
                where=name,
            )  # fmt: skip
        key = tensor.storage.key
        member = members.get(f"{prefix}data/{key}")
        if member is None:
            return 0
        if key not in starts:
            if member.method != _STORED:
                raise CheckpointError(
                    "its data are compressed in the archive; load and save it with torch.save once", source=source,
                    where=name,
                )  # fmt: skip
            header = store.read(file, member.header, _LOCAL.size + len(member.name.encode()))
            starts[key] = _data_start(header, member, directory_start, source)
        return starts[key]

    return listing(chosen, file=file, source=source, start_of=start_of, notes=notes)


def _look_at_others(
    window: WindowedFile, members: Mapping[str, Member], read: Member, directory_start: int, source: str, watch: Watch
) -> Iterator[str]:
    """What to say of pickles beside the one that torch.load reads; they are watched, too."""
    for member in members.values():
        if member is read or not member.name.endswith(".pkl") or member.size > MAX_PICKLE_BYTES:
            continue
        with suppress(CheckpointError):
            data = read_member(window, member, directory_start, source)
            watch_all(data, watch=watch, where=member.name)
        if member.name.rpartition("/")[2] == "data.pkl":
            yield f"it holds two pickles of this name, and torch reads {read.name}; {member.name} is not read"


def _storage_of(saved_id: object, storages: dict[str, Storage]) -> Storage:
    """Source: torch 2.13, torch/serialization.py, persistent_id in _save."""
    if type(saved_id) is not tuple or len(saved_id) != 5 or saved_id[0] != "storage":
        raise ValueError("it refers to data outside of itself that is no storage")
    storage = make_storage(saved_id[1], saved_id[2], saved_id[4])
    known = storages.setdefault(storage.key, storage)
    if known.nbytes == storage.nbytes and known.dtype == storage.dtype:
        return known
    if known.nbytes != storage.nbytes:
        raise ValueError(f"storage {storage.key!r} has two sizes")
    return storage


def _check_storage(storage: Storage, member: Member | None, name: str, source: str) -> None:
    size = member.size if member else 0
    # A storage of odd size is told rounded down to whole elements.
    if not 0 <= size - storage.nbytes < storage.dtype.itemsize:
        what = f"its storage {storage.key!r} should be {storage.nbytes:,} bytes but the archive has {size:,} for it"
        raise CheckpointError(f"{what}; the file is damaged or was made to mislead", source=source, where=name)
    if member and member.method == _STORED and member.packed != member.size:
        raise CheckpointError("its stored and its real size differ", source=source, where=member.name)


def _archive_prefix(members: Mapping[str, Member], source: str) -> str:
    """The folder that all records are in. Source: torch 2.13, caffe2/serialize/inline_container.cc, init."""
    first = next(iter(members), "")
    prefix = first.partition("/")[0] + "/" if "/" in first else ""
    if prefix + "data.pkl" in members:
        return prefix
    names = ", ".join(name[:80] for name in list(members)[:3])
    kind = (
        "a numpy archive" if first.endswith(".npy") else "a zip archive but none that torch.save or torch.jit.save made"
    )
    if prefix + "model.json" in members:
        kind = "a TorchScript archive of torch before 1.4"
    raise CheckpointError(f"is {kind} (it holds {names or 'nothing'}); there is no data.pkl", source=source)


# -- zip ----------------------------------------------------------------------------------------------------------


def read_directory(window: WindowedFile, source: str) -> tuple[dict[str, Member], int]:
    """The members of a zip archive by name, and where its directory starts."""
    count, size, start = _find_directory(window, source)
    if size > _MAX_DIRECTORY or count > _MAX_ENTRIES:
        raise CheckpointError(f"its directory says {count:,} entries, {size:,} bytes: too many", source=source)
    data = window.read_at(start, size)
    members: dict[str, Member] = {}
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > size:
            raise CheckpointError(f"the zip directory ends after {len(members):,} of {count:,} entries", source=source)
        (signature, _, _, flags, method, _, _, checksum, packed, length, name_length, extra_length, comment_length,
         disk, _, _, header) = _ENTRY.unpack_from(data, position)  # fmt: skip
        extra_start = position + _ENTRY.size + name_length
        following = extra_start + extra_length + comment_length
        if signature != b"PK\x01\x02" or following > size:
            raise CheckpointError(f"the zip directory is damaged at entry {len(members):,}", source=source)
        try:
            name = data[position + _ENTRY.size : extra_start].decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"the name of zip entry {len(members):,} is no UTF-8", source=source) from None
        if 0xFFFFFFFF in (packed, length, header):
            extra = data[extra_start : extra_start + extra_length]
            length, packed, header = _wide(extra, length, packed, header, name, source)
        if name in members:
            raise CheckpointError("the zip archive has two entries of this name", source=source, where=name)
        if disk not in (0, 0xFFFF) or header + _LOCAL.size + packed > start:
            raise CheckpointError("its zip entry lies outside of the file", source=source, where=name)
        members[name] = Member(name, method, flags, checksum, packed, length, header)
        position = following
    if position != size:
        raise CheckpointError("the zip directory goes on after its last entry", source=source)
    return members, start


def _find_directory(window: WindowedFile, source: str) -> tuple[int, int, int]:
    """Number of entries, size and start of the central directory."""
    tail_start = max(0, window.size - _TAIL)
    tail = window.read_at(tail_start, _TAIL)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0 and (at + _END.size > len(tail) or at + _END.size + _END.unpack_from(tail, at)[7] != len(tail)):
        at = tail.rfind(b"PK\x05\x06", 0, at)
    if at < 0:
        raise CheckpointError("the zip archive has no end; it was not downloaded or saved in full", source=source)
    _, disk, first_disk, _, count, size, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    # torch always writes the 64-bit records, also where the values would fit.
    locator = window.read_at(max(0, end - _END64_LOCATOR.size), _END64_LOCATOR.size)
    if locator[:4] == b"PK\x06\x07" and len(locator) == _END64_LOCATOR.size:
        end = _END64_LOCATOR.unpack(locator)[2]
        record = window.read_at(end, _END64.size)
        if len(record) < _END64.size or record[:4] != b"PK\x06\x06":
            raise CheckpointError("the zip archive's 64-bit end record is damaged", source=source)
        _, _, _, _, disk, first_disk, _, wide_count, wide_size, wide_start = _END64.unpack(record)
        narrow = ((count, wide_count, 0xFFFF), (size, wide_size, 0xFFFFFFFF), (start, wide_start, 0xFFFFFFFF))
        if any(value not in (wide, most) for value, wide, most in narrow):
            raise CheckpointError("the two end records of the zip archive disagree; the file is damaged", source=source)
        count, size, start = wide_count, wide_size, wide_start
    if disk or first_disk:
        raise CheckpointError("is one of several volumes of a zip archive", source=source)
    if start + size != end:
        raise CheckpointError("the zip directory is not where the archive says; the file is damaged", source=source)
    return count, size, start


def _wide(extra: bytes, length: int, packed: int, header: int, name: str, source: str) -> tuple[int, int, int]:
    """The 64-bit values that stand in the extra field for those that did not fit."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + size]
            values = [value for (value,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
            wanted = [value == 0xFFFFFFFF for value in (length, packed, header)]
            if len(values) >= sum(wanted):
                length, packed, header = (
                    values.pop(0) if wide else value
                    for value, wide in zip((length, packed, header), wanted, strict=True)
                )
                return length, packed, header
        position += 4 + size
    raise CheckpointError("its 64-bit sizes are missing from the zip directory", source=source, where=name)


def _data_start(header: bytes, member: Member, directory_start: int, source: str) -> int:
    """Where a member's data begin, from its local header."""
    if len(header) < _LOCAL.size or header[:4] != ZIP_MAGIC:
        raise CheckpointError("its zip header is damaged", source=source, where=member.name)
    *_, name_length, extra_length = _LOCAL.unpack_from(header)
    name = member.name.encode()
    if name_length != len(name) or header[_LOCAL.size : _LOCAL.size + name_length] != name:
        raise CheckpointError("its zip header bears another name", source=source, where=member.name)
    start = member.header + _LOCAL.size + int(name_length) + int(extra_length)
    if start + member.packed > directory_start:
        raise CheckpointError("its zip entry lies outside of the file", source=source, where=member.name)
    return start


def read_member(
    window: WindowedFile, member: Member, directory_start: int, source: str, *, slack: int = _HEADER_SLACK
) -> bytes:
    """A small member's content, decompressed within the bounds of its stated size.

    Args:
        window: The archive.
        member: The entry to read.
        directory_start: Where the entries end.
        source: The file, for messages.
        slack: How many bytes more than the data to ask for, for its header and for small members behind it.
    """
    if member.flags & _ENCRYPTED or member.method not in (_STORED, _DEFLATED):
        raise CheckpointError("is encrypted or packed in a way that torch does not read", source=source,
                              where=member.name)  # fmt: skip
    if member.packed > MAX_PICKLE_BYTES or (member.method == _STORED and member.packed != member.size):
        raise CheckpointError("its stored size cannot be right", source=source, where=member.name)
    # Header and data in one request, unless the data are so large that the window should not keep them too.
    at_once = member.packed if member.packed <= _READ_WITH_HEADER else 0
    region = window.read_at(member.header, slack + at_once)
    start = _data_start(region, member, directory_start, source) - member.header
    packed = region[start : start + member.packed]
    if len(packed) < member.packed:
        packed = window.store.read(window.file, member.header + start, member.packed)
    if member.method == _STORED:
        return packed
    try:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        data = inflate.decompress(packed, member.size + 1)
    except zlib.error as error:
        raise CheckpointError(f"cannot be decompressed: {error}", source=source, where=member.name) from None
    if len(data) != member.size:
        raise CheckpointError("does not decompress to the size it states", source=source, where=member.name)
    return data
