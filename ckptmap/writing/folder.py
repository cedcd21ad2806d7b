"""Checkpoints as folders: shards and their index, and what stands beside them in a transformers folder."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ckptmap.checkpoint import read_config
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.sources import locate_store
from ckptmap.spec import TensorSpec
from ckptmap.writing.atomic import sync_folder, temporary_beside, trouble, write_text

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
RENAME_EXCHANGE = 2
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
_WEIGHTS = re.compile(
    r"(model|pytorch_model)(-\d+-of-\d+)?(\.\w+)?\.(safetensors|bin)|(model|pytorch_model)\.\w+\.index(\.\w+)?\.json"
)
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
            found[file] = store.read(file, 0, stored.size)
    return found


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, which takes its place when all went well.

    What else an old folder held is carried over; its weights and index are not.
    """
    temporary = temporary_beside(target)
    with trouble(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            if target.is_dir():
                _carry_over(target, temporary)
                shutil.copymode(target, temporary)
                sync_folder(temporary)
                _exchange(temporary, target)
            else:
                sync_folder(temporary)
                os.rename(temporary, target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def is_taken(folder: Path, names: Sequence[str]) -> list[str]:
    """Which of these, or of any weights, a folder holds."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.name in names or _WEIGHTS.fullmatch(entry.name))


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write small files."""
    for name, data in files.items():
        write_text(folder / name, data)


def _carry_over(old: Path, new: Path) -> None:
    for entry in old.iterdir():
        there = new / entry.name
        if os.path.lexists(there) or _WEIGHTS.fullmatch(entry.name):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, there, symlinks=True, copy_function=_link)
        else:
            _link(entry, there)


def _link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders, at once where the system can."""
    call: Callable[..., int] | None = getattr(ctypes.CDLL(None), "renameat2", None)
    here = -100  # AT_FDCWD
    if call is not None and call(here, os.fsencode(new), here, os.fsencode(old), RENAME_EXCHANGE) == 0:
        return
    aside = temporary_beside(old)
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
