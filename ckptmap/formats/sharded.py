"""Checkpoints in several files: an index that names the shard of each tensor.

Source: `model.safetensors.index.json` and `pytorch_model.bin.index.json` as transformers 5.23.0 writes them:
`{"metadata": {…}, "weight_map": {tensor: shard}}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from ckptmap.errors import CheckpointError
from ckptmap.formats import strict_json
from ckptmap.formats.base import Contents, Extent
from ckptmap.spec import TensorSpec
from ckptmap.stages import tell
from ckptmap.stores.base import Store
from ckptmap.threads import mapped

MAX_INDEX = 100_000_000
_INDEX_NAME = re.compile(r".+\.index(\.[^.]+)?\.json", re.DOTALL)
BYTES_PER_ENTRY = 110
"""A safetensors header entry beside its name, rounded up: `"":{"dtype":"BF16","shape":[…],"data_offsets":[…,…]},`."""

ReadShard = Callable[[str, int], Contents]
"""Reads one shard, given its file name and a guess of its header's size in bytes."""


def is_index(file: str) -> bool:
    """Whether a file is an index by its name: `….index.json`, or `….index.VARIANT.json`."""
    return _INDEX_NAME.fullmatch(file) is not None


def read_sharded(store: Store, index_file: str, read_shard: ReadShard) -> Contents:
    """Read an index and the headers of all its shards, as many at once as the store can serve.

    Raises:
        CheckpointError: The index is broken, leaves the folder, or does not agree with its shards.
    """
    source = f"{store.label}/{index_file}"
    weight_map = _weight_map(store, index_file, source)
    names_of: dict[str, list[str]] = {}
    for name, shard in weight_map.items():
        names_of.setdefault(shard, []).append(name)
    for shard in names_of:
        _stays_inside(store, index_file, shard, source)
        if is_index(shard):
            raise CheckpointError(f"names another index as a shard, {shard!r}; refused", source=source)
    _all_there(store, names_of, source)

    done: list[str] = []

    def read(shard: str) -> Contents:
        contents = read_shard(shard, 512 + sum(len(name) + BYTES_PER_ENTRY for name in names_of[shard]))
        done.append(shard)
        tell("headers of shards", len(done), len(names_of))
        return contents

    shards = dict(zip(names_of, _in_parallel(read, list(names_of), store.parallel), strict=True))
    return _join(shards, weight_map, source)


def _weight_map(store: Store, index_file: str, source: str) -> dict[str, str]:
    size = store.size(index_file)
    if size > MAX_INDEX:
        raise CheckpointError(f"an index of {size} bytes is larger than any real one; refused", source=source)
    try:
        index = strict_json.loads(store.read(index_file, 0, size))
    except ValueError as error:
        raise CheckpointError(f"is not a JSON index: {error}", source=source) from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(
            'has no "weight_map" that gives a shard file for each tensor; it is not a checkpoint index', source=source
        )
    if not weight_map:
        raise CheckpointError("lists no tensors", source=source, where="weight_map")
    return weight_map


def _stays_inside(store: Store, index_file: str, shard: str, source: str) -> None:
    windows = PureWindowsPath(shard)
    leaves = windows.drive or windows.root or ".." in windows.parts or PurePosixPath(shard).is_absolute()
    if leaves or not shard or "\0" in shard:
        raise CheckpointError(
            f"shard {shard!r} is outside the checkpoint's folder; refused. Correct the index if you trust it",
            source=source,
            where="weight_map",
        )
    path, index = store.local_path(shard), store.local_path(index_file)
    if path is not None and index is not None and not lies_within(path, index.parent):
        raise CheckpointError(
            f"shard {shard!r} is a symbolic link out of the checkpoint's folder; refused. Copy the file there",
            source=source,
            where="weight_map",
        )


def lies_within(path: Path, folder: Path) -> bool:
    """Whether a path is below the folder with links followed, or a Hub cache's snapshots/<commit>/x -> blobs/…."""
    target, folder = path.resolve(), folder.resolve()
    snapshots = next((parent for parent in folder.parents if parent.name == "snapshots"), None)
    return target.is_relative_to(folder) or (snapshots is not None and target.parent == snapshots.parent / "blobs")


def _all_there(store: Store, shards: Iterable[str], source: str) -> None:
    listed = store.files()
    missing = [shard for shard in shards if shard not in listed and not _exists(store, shard)]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CheckpointError(
            f"the index names files that are not there: {shown}. Download them, or the whole checkpoint again",
            source=source,
        )


def _exists(store: Store, file: str) -> bool:
    path = store.local_path(file)
    try:
        return path is not None and path.is_file()
    except OSError:  # a name too long for any file, or a folder that may not be looked into
        return False


def _in_parallel(read: Callable[[str], Contents], shards: list[str], workers: int) -> list[Contents]:
    if workers == 1 or len(shards) == 1:
        return [read(shard) for shard in shards]
    return mapped(read, shards, workers=workers)


def _join(shards: Mapping[str, Contents], weight_map: Mapping[str, str], source: str) -> Contents:
    tensors: dict[str, TensorSpec] = {}
    files: dict[str, str] = {}
    warnings: list[str] = []
    metadata: dict[str, str] = {}
    for shard, contents in shards.items():
        for name, spec in contents.tensors.items():
            if name in files:
                raise CheckpointError(f"is stored in both {files[name]} and {shard}", source=source, where=name)
            tensors[name], files[name] = spec, shard
        warnings += (f"{shard}: {warning}" for warning in contents.warnings)
        metadata |= contents.metadata
    for name, shard in weight_map.items():
        if files.get(name) != shard:
            found = f"it is in {files[name]}" if name in files else "no shard holds it"
            raise CheckpointError(
                f"the index says it is in {shard}, but {found}; the checkpoint is damaged, download it again",
                source=source,
                where=name,
            )
    unlisted = [name for name in tensors if name not in weight_map]
    if unlisted:
        warnings.append(
            f"{len(unlisted)} tensors are in the shards but not in the index (the first is {unlisted[0]}); "
            "transformers loads them all the same, and they are counted here"
        )

    def locate(name: str) -> Extent:
        return shards[files[name]].locate(name)

    # The index's order (by name, as transformers writes it) does not hang on which shard a tensor is in.
    order = [*weight_map, *unlisted]
    in_order = {name: tensors[name] for name in order}
    ties = tuple(group for contents in shards.values() for group in contents.ties)
    left_out = tuple(name for contents in shards.values() for name in contents.left_out)
    part = next((contents.part for contents in shards.values()), None)
    findings = tuple(dict.fromkeys(finding for contents in shards.values() for finding in contents.findings))
    return Contents(in_order, files, locate, metadata, ties, tuple(warnings), left_out, part, findings)
