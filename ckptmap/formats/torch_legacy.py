"""Reads what torch.save wrote before 1.6: pickles followed by raw storages, and tar files before that."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ckptmap.errors import CheckpointError
from ckptmap.formats.base import Contents
from ckptmap.formats.safety import Watch, watched
from ckptmap.formats.state_dict import find_state_dict
from ckptmap.formats.torch_globals import KNOWN
from ckptmap.formats.torch_tensors import Storage, StorageType, Tensor, listing, make_storage, make_tensor, natural
from ckptmap.formats.unpickle import (
    LEGACY_MAGIC,
    MAX_PICKLE_BYTES,
    TruncatedPickleError,
    refuse_persistent_id,
    unpickle,
)
from ckptmap.stores.base import Store
from ckptmap.stores.window import WindowedFile

# Source: torch 2.13, torch/serialization.py, PROTOCOL_VERSION.
_PROTOCOL = 1001
_WINDOW = 256 * 1024
_PICKLE_READS = (64 * 1024, 1024 * 1024, 8 * 1024 * 1024, MAX_PICKLE_BYTES)
_COUNT = struct.Struct("<q")
_MAX_RECORDS = 100_000
_MAX_TAR_DIMENSIONS = 64
_TAR_BLOCK = 512
_MAX_TAR_MEMBERS = 1000

Persistent = Callable[[object], object]


class _Watched(WindowedFile):
    """The file, and what gathers what its pickles would do."""

    def __init__(self, store: Store, file: str, watch: Watch) -> None:
        super().__init__(store, file, window=_WINDOW)
        self.watch = watch


def read_torch_legacy(store: Store, file: str, *, at: str | None = None) -> Contents:
    """Lists the tensors of a file that torch.save wrote before torch 1.6, or without its zip format.

    Args:
        store: Where the file is.
        file: Its name in the store.
        at: The part of the pickled object to take, as dotted keys; `.` is all of it.

    Raises:
        CheckpointError: It is no such file, it is damaged, or it holds no state dict.
    """
    return watched(lambda watch: _read_legacy(store, file, at, watch))


def _read_legacy(store: Store, file: str, at: str | None, watch: Watch) -> Contents:
    source = f"{store.label}/{file}"
    window = _Watched(store, file, watch)
    position = _after_magic(window, source)
    system, position = _pickle_at(window, position, source)
    _check_byte_order(system, source)
    # Source: torch 2.13, torch/serialization.py, _legacy_save: object, keys, then the storages in the keys' order.
    roots: dict[str, Storage] = {}

    def fresh_ids() -> Persistent:
        roots.clear()
        return lambda saved_id: _legacy_id(saved_id, roots)

    tree, position = _pickle_at(window, position, source, fresh_ids)
    keys, position = _pickle_at(window, position, source)
    starts = _storage_starts(keys, roots, position, window.size, source)
    chosen = find_state_dict(tree, at=at, source=source)
    for name, tensor in chosen.tensors.items():
        if tensor.storage is not None and tensor.storage.key not in starts:
            raise CheckpointError("its storage is missing from the file", source=source, where=name)
    checked: set[str] = set()

    def start_of(tensor: Tensor, name: str) -> int:
        assert tensor.storage is not None
        root = roots[tensor.storage.key]
        start = starts[root.key]
        if root.key not in checked:
            (numel,) = _COUNT.unpack(store.read(file, start - _COUNT.size, _COUNT.size))
            if numel * root.dtype.itemsize != root.nbytes:
                raise CheckpointError("its storage does not have the size stated for it", source=source, where=name)
            checked.add(root.key)
        return start

    return listing(chosen, file=file, source=source, start_of=start_of)


def _after_magic(window: _Watched, source: str) -> int:
    """The byte after the magic number and the protocol version."""
    try:
        magic, position = _pickle_at(window, 0, source, reads=_PICKLE_READS[:1])
    except CheckpointError:
        magic, position = None, 0
    if magic != LEGACY_MAGIC:
        arrays = " of numpy arrays" if b"numpy" in window.read_at(0, _WINDOW) else ""
        what = f"is a plain pickle{arrays}, not a checkpoint of torch.save"
        raise CheckpointError(f"{what}; load it with what wrote it and save its tensors with torch.save", source=source)
    protocol, position = _pickle_at(window, position, source)
    if protocol != _PROTOCOL:
        raise CheckpointError(f"its protocol version is not {_PROTOCOL}, the only one there is", source=source)
    return position


def _pickle_at(
    window: _Watched,
    position: int,
    source: str,
    persistent: Callable[[], Persistent] = lambda: refuse_persistent_id,
    reads: tuple[int, ...] = _PICKLE_READS,
) -> tuple[object, int]:
    """The pickle that starts at a position, and the position after it. How long it is, only reading it tells."""
    for length in reads:
        data = window.read_at(position, length)
        try:
            value, used = unpickle(data, known=KNOWN, persistent=persistent(), source=source, watch=window.watch)
            return value, position + used
        except TruncatedPickleError:
            if len(data) < length:
                raise
    raise CheckpointError(f"a pickle in it is longer than {reads[-1]:,} bytes", source=source)


def _check_byte_order(system: object, source: str) -> None:
    if type(system) is not dict or system.get("little_endian") is not True:
        raise CheckpointError(
            "was saved on a big-endian machine, which is not read; load and save it with torch once", source=source
        )


def _legacy_id(saved_id: object, roots: dict[str, Storage]) -> object:
    """Source: torch 2.13, torch/serialization.py, persistent_load in _legacy_load."""
    if type(saved_id) is not tuple or not saved_id:
        raise ValueError("it refers to data outside of itself that is no storage")
    if saved_id[0] == "module" and len(saved_id) == 4:
        return saved_id[1]
    if saved_id[0] != "storage" or len(saved_id) != 6:
        raise ValueError("it refers to data outside of itself that is no storage")
    root = make_storage(saved_id[1], saved_id[2], saved_id[4])
    known = roots.setdefault(root.key, root)
    if known.nbytes != root.nbytes:
        raise ValueError(f"storage {root.key!r} has two sizes")
    if known.dtype == root.dtype:
        root = known
    if saved_id[5] is None:
        return root
    view = saved_id[5]
    if type(view) is not tuple or len(view) != 3:
        raise ValueError("a view of a storage is described by something else than three values")
    return _view(root, view[1], view[2])


def _view(root: Storage, offset: object, numel: object) -> Storage:
    start = natural(offset, "a view's offset") * root.dtype.itemsize
    length = natural(numel, "a view's size") * root.dtype.itemsize
    if start + length > root.nbytes:
        raise ValueError(f"a view leaves its storage {root.key!r}")
    return Storage(root.key, root.dtype, length, root.start + start)


def _storage_starts(keys: object, roots: dict[str, Storage], position: int, size: int, source: str) -> dict[str, int]:
    """Where each storage's bytes start: each follows its number of elements, an int64."""
    if type(keys) is not list:
        raise CheckpointError("its list of storages is no list", source=source)
    starts: dict[str, int] = {}
    for given in keys:
        key = str(given) if type(given) is int else given
        if type(key) is not str or key not in roots or key in starts:
            raise CheckpointError("its list of storages names one twice, or one that is not used", source=source)
        position += _COUNT.size
        starts[key] = position
        position += roots[key].nbytes
    if position > size:
        raise CheckpointError(
            f"the file ends {position - size:,} bytes too early; it was not downloaded or saved in full", source=source
        )
    return starts


# -- tar ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A member of the tar file: where its bytes are."""

    start: int
    end: int


def read_torch_tar(store: Store, file: str, *, at: str | None = None) -> Contents:
    """Lists the tensors of a tar file, as torch.save wrote them before torch 0.2.

    Args and Raises are those of `read_torch_legacy`.
    """
    return watched(lambda watch: _read_tar(store, file, at, watch))


def _read_tar(store: Store, file: str, at: str | None, watch: Watch) -> Contents:
    source = f"{store.label}/{file}"
    window = _Watched(store, file, watch)
    parts = dict(_tar_members(window, source))
    missing = [name for name in ("storages", "tensors", "pickle") if name not in parts]
    if missing:
        there = ", ".join(name[:80] for name in list(parts)[:5])
        what = f"is a tar file but no checkpoint: there is no member {', '.join(missing)} (it holds {there})"
        raise CheckpointError(f"{what}; unpack it and open the files in it", source=source)
    if "sys_info" in parts:
        _check_byte_order(_pickle_in(window, parts["sys_info"], parts["sys_info"].start, source)[0], source)
    try:
        storages, starts = _tar_storages(window, parts["storages"], source)
        tensors = _tar_tensors(window, parts["tensors"], storages, source)
    except (ValueError, TypeError, struct.error) as error:
        raise CheckpointError(f"the tar file is damaged: {str(error)[:200]}", source=source) from None

    def persistent(saved_id: object) -> object:
        # A class comes as (class, file, source); everything else is the number of a tensor or a storage.
        if type(saved_id) is tuple and saved_id:
            return saved_id[0]
        return tensors.get(str(saved_id)) or storages[str(saved_id)]

    tree, _ = _pickle_in(window, parts["pickle"], parts["pickle"].start, source, lambda: persistent)
    chosen = find_state_dict(tree, at=at, source=source)

    def start_of(tensor: Tensor, name: str) -> int:
        assert tensor.storage is not None
        return starts[tensor.storage.key]

    return listing(chosen, file=file, source=source, start_of=start_of)


def _pickle_in(
    window: _Watched,
    part: _Part,
    position: int,
    source: str,
    persistent: Callable[[], Persistent] = lambda: refuse_persistent_id,
    reads: tuple[int, ...] = _PICKLE_READS,
) -> tuple[object, int]:
    value, position = _pickle_at(window, position, source, persistent, reads)
    if position > part.end:
        raise CheckpointError("a pickle goes on after the end of its tar member", source=source)
    return value, position


def _tar_storages(window: _Watched, part: _Part, source: str) -> tuple[dict[str, Storage], dict[str, int]]:
    """The storages by number, and where the bytes of each start. Source: torch 2.13, legacy_load."""
    count, position = _pickle_in(window, part, part.start, source)
    storages: dict[str, Storage] = {}
    starts: dict[str, int] = {}
    for _ in range(_records(count)):
        described, position = _pickle_in(window, part, position, source, reads=_PICKLE_READS[:1])
        if type(described) is not tuple or len(described) != 3 or type(described[2]) is not StorageType:
            raise ValueError("a storage is described by something else than three values")
        (numel,) = _COUNT.unpack(window.read_at(position, _COUNT.size))
        position += _COUNT.size
        storage = make_storage(described[2], described[0], numel)
        if storage.key in storages or position + storage.nbytes > part.end:
            raise ValueError(f"storage {storage.key!r} is there twice or leaves the file")
        storages[storage.key] = storage
        starts[storage.key] = position
        position += storage.nbytes
    views, _ = _pickle_in(window, part, position, source)
    if type(views) is not list:
        raise ValueError("its list of views is no list")
    for target, root, offset, numel in views:
        storages[str(natural(target, "a view's number"))] = _view(storages[_number(root, storages)], offset, numel)
    return storages, starts


def _number(value: object, known: dict[str, Storage]) -> str:
    key = str(value) if type(value) in (int, str) else ""
    if key not in known:
        raise ValueError("a storage is referred to that is not there")
    return key


def _records(count: object) -> int:
    if type(count) is not int or not 0 <= count <= _MAX_RECORDS:
        raise ValueError(f"a count is no number up to {_MAX_RECORDS:,}")
    return count


def _tar_tensors(window: _Watched, part: _Part, storages: dict[str, Storage], source: str) -> dict[str, Tensor]:
    count, position = _pickle_in(window, part, part.start, source)
    tensors: dict[str, Tensor] = {}
    for _ in range(_records(count)):
        described, position = _pickle_in(window, part, position, source, reads=_PICKLE_READS[:1])
        if type(described) is not tuple or len(described) != 3:
            raise ValueError("a tensor is described by something else than three values")
        key, storage_key, _ = described
        dimensions, _ = struct.unpack("<ii", window.read_at(position, 8))
        if not 0 <= dimensions <= _MAX_TAR_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        layout = struct.Struct(f"<{2 * dimensions + 1}q")
        *sizes_strides, offset = layout.unpack(window.read_at(position + 8, layout.size))
        position += 8 + layout.size
        storage = storages[_number(storage_key, storages)]
        shape, strides = tuple(sizes_strides[:dimensions]), tuple(sizes_strides[dimensions:])
        tensors[str(natural(key, "a tensor's number"))] = make_tensor(storage, storage.dtype, offset, shape, strides)
    return tensors


def _tar_members(window: _Watched, source: str) -> Iterator[tuple[str, _Part]]:
    """The members of a tar file, names and places only. Source: POSIX.1-2017, pax, ustar interchange format."""
    position = 0
    for _ in range(_MAX_TAR_MEMBERS):
        header = window.read_at(position, _TAR_BLOCK)
        if len(header) < _TAR_BLOCK or header == bytes(_TAR_BLOCK):
            return
        try:
            if int(header[148:156].strip(b"\0 ") or b"0", 8) != sum(header[:148]) + 256 + sum(header[156:]):
                raise ValueError
            # More than 8 GiB do not fit the octal digits: then the size is binary.
            size = int.from_bytes(header[125:136]) if header[124] == 0x80 else int(header[124:136].strip(b"\0 "), 8)
        except ValueError:
            raise CheckpointError(
                "a header of the tar file is damaged", source=source, where=f"byte {position}"
            ) from None
        start = position + _TAR_BLOCK
        if size < 0 or start + size > window.size:
            raise CheckpointError("the tar file ends too early; it was not saved in full", source=source)
        if header[156:157] in (b"0", b"\0"):
            yield (
                header[:100].split(b"\0", 1)[0].decode("utf-8", "replace").removeprefix("./"),
                _Part(start, start + size),
            )
        position = start + (size + _TAR_BLOCK - 1) // _TAR_BLOCK * _TAR_BLOCK
