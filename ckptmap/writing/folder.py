"""Checkpoints as folders: shards and their index, and what stands beside them in a transformers folder."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptmap.checkpoint import open_checkpoint, read_config
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.files import trouble
from ckptmap.formats.sharded import is_index, lies_within
from ckptmap.renames import Identity, identity
from ckptmap.sources import locate_store
from ckptmap.spec import TensorSpec

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
_WEIGHTS = re.compile(
    r"(model|pytorch_model)(-\d+-of-\d+)?(\.\w+)?\.(safetensors|bin)|(model|pytorch_model)\.\w+\.index(\.\w+)?\.json"
)
_SHARD = re.compile(r"model-(\w+-)?\d{5}-of-\d{5}\.safetensors")
COPIED = re.compile(
    r"generation_config\.json|tokenizer.*\.(json|model)|vocab\.(json|txt|bpe)|merges\.txt|special_tokens_map\.json"
    r"|added_tokens\.json|preprocessor_config\.json|processor_config\.json|chat_template\.(json|jinja)"
    r"|.*\.(spm|tiktoken)|spiece\.model|sentencepiece.*\.model|bpe\.codes|dict\.txt"
)
"""What a transformers folder has beside config and weights; code is not among it."""
MOST_BESIDE = 200_000_000


def parse_size(text: str | int) -> int:
    """Bytes of `5GB`, `500MB`, `4GiB`; GB are powers of ten, as in transformers.

    Raises:
        ConvertError: It is no size.
    """
    if isinstance(text, int):
        found = text
    elif match := _SIZE.fullmatch(text.strip()):
        base = 1024 if match[3] else 1000
        found = int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))
    else:
        found = 0
    if found <= 0:
        raise ConvertError(f"--max-shard-size {text}: is no size; write 5GB, 500MB or a number of bytes")
    return found


def into_shards(tensors: Sequence[TensorSpec], largest: int | None) -> list[tuple[str, list[TensorSpec]]]:
    """File names with their tensors; one file when all fit, and a tensor larger than a shard has one to itself."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in tensors:
        if largest is not None and shards[-1] and size + spec.nbytes > largest:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    if len(shards) == 1:
        return [(SINGLE, shards[0])]
    return [(f"model-{number:05}-of-{len(shards):05}.safetensors", shard) for number, shard in enumerate(shards, 1)]


def index_of(shards: Sequence[tuple[str, Sequence[TensorSpec]]], metadata: Mapping[str, str]) -> bytes:
    """The index of these shards, as transformers writes it, with the stamp of the conversion."""
    total = sum(spec.nbytes for _, specs in shards for spec in specs)
    weight_map = {spec.name: file for file, specs in shards for spec in specs}
    fields = {"metadata": {"total_size": total, **metadata}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"


def companions(like: str | os.PathLike[str], architecture: str | None) -> dict[str, bytes]:
    """Config, tokenizer and generation files of a folder or repo; the config names the architecture if one is told.

    Raises:
        CheckpointError: It cannot be read, or has no config.json.
    """
    store = locate_store(os.fspath(like), revision=None, subfolder=None)
    config = read_config(os.fspath(like))
    if config is None:
        raise CheckpointError("has no config.json; --like takes a transformers folder or repo", source=os.fspath(like))
    if architecture is not None:
        config = {**config, "architectures": [architecture]}
    found = {"config.json": json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"}
    for file, stored in store.files().items():
        if COPIED.fullmatch(file) and stored.size <= MOST_BESIDE:
            path = store.local_path(file)
            if path is not None and not lies_within(path, path.parent):
                raise CheckpointError(
                    "is a symbolic link out of its folder, so it may be private; refused. Copy the file there",
                    source=str(path),
                )
            found[file] = store.read(file, 0, stored.size)
    return found


def free_names(folder: Path, shards: list[tuple[str, list[TensorSpec]]]) -> list[tuple[str, list[TensorSpec]]]:
    """Shards under names that the folder does not have, so that an old index stays true until the new one is there."""
    if len(shards) == 1 or not any(os.path.lexists(folder / name) for name, _ in shards):
        return shards
    tag = secrets.token_hex(3)
    return [(name.replace("model-", f"model-{tag}-", 1), specs) for name, specs in shards]


def old_shards(folder: Path, names: Collection[str]) -> dict[Path, Identity | None]:
    """Shards of an old checkpoint in a folder, which go once another has come, and which files they are now.

    Args:
        folder: The folder.
        names: Files of the new one. Only shards that the old index names and that have names as we and transformers
            give them are meant; all else in the folder is somebody's own.
    """
    files: set[str] = set()
    with suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
        files = set(map(str, json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    paths = [folder / file for file in sorted(files) if _SHARD.fullmatch(file) and file not in names]
    return {path: identity(path) for path in paths if path.is_file() or path.is_symlink()}


def stray_shards(folder: Path, but: Collection[str]) -> dict[Path, Identity | None]:
    """Shards with our stamp that no index names, as a run that was killed while it renamed leaves them."""
    if not folder.is_dir():
        return {}
    names = [entry.name for entry in folder.iterdir()]
    found = [name for name in names if is_shard(name) and name not in but]
    if found:
        for index in filter(is_index, names):
            with suppress(OSError):
                text = (folder / index).read_text(errors="replace")
                found = [name for name in found if name not in text]
    return {folder / name: identity(folder / name) for name in sorted(found) if _has_our_stamp(folder / name)}


def _has_our_stamp(path: Path) -> bool:
    with suppress(CheckpointError), open_checkpoint(path) as shard:
        return path.is_file() and not path.is_symlink() and any(key.startswith("ckptmap.") for key in shard.metadata)
    return False


def gone_with(folder: Path, names: Collection[str]) -> list[Path]:
    """The single file that readers would take before the new index, or the old index beside a new single file."""
    places = [folder / name for name in (SINGLE, INDEX) if name not in names]
    return [path for path in places if path.is_file() or path.is_symlink()]


def differs(path: Path, data: bytes) -> bool:
    """Whether a small file does not hold just this data already."""
    try:
        return not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data
    except OSError:
        return True


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """A folder that is there, with those above it; made here and still empty at an error, they go again."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    with trouble(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):
                place.rmdir()
        raise


def is_shard(name: str) -> bool:
    """Whether a file has the name of a shard."""
    return _SHARD.fullmatch(name) is not None


def is_taken(folder: Path, names: Sequence[str]) -> list[str]:
    """Which of these, or of any weights, a folder holds."""
    if not folder.is_dir():
        return []
    there = (entry.name for entry in folder.iterdir())
    return sorted(name for name in there if name in names or _WEIGHTS.fullmatch(name) or is_shard(name))
