"""From what a person typed to a store and the one file to read in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptmap.errors import CheckpointError
from ckptmap.formats import is_index
from ckptmap.stores import Store
from ckptmap.stores.local import LocalStore

if TYPE_CHECKING:
    from ckptmap.stores.hub import HubStore

CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".pkl")

STANDARD_NAMES = (
    "model{}.safetensors",
    "model.safetensors.index{}.json",
    "pytorch_model{}.bin",
    "pytorch_model.bin.index{}.json",
    "adapter_model{}.safetensors",
    "adapter_model{}.bin",
    "diffusion_pytorch_model{}.safetensors",
    "diffusion_pytorch_model.safetensors.index{}.json",
    "diffusion_pytorch_model{}.bin",
)
"""File names by precedence; `{}` is where a variant goes.

Source: transformers 5.23.0 `modeling_utils.py` (safetensors before pickle, single before sharded), peft and diffusers
for the last ones.
"""

BESIDE_THE_MODEL = ("optimizer", "scheduler", "rng_state", "scaler", "training_args", "random_states", "tokenizer")
"""How the names start of what trainers keep beside a model under a checkpoint's suffix."""

_SHARD = re.compile(r".+-0*(\d{1,9})-of-0*(\d{1,9})\.\w+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """A store, the file to read in it, and whether the person named the file or only its folder."""

    store: Store
    file: str
    whole_folder: bool
    warnings: tuple[str, ...] = ()

    @property
    def has_config(self) -> bool:
        """Whether a config.json beside the file tells of it: not of an optimizer's state, or of any other pickle."""
        is_weights = is_index(self.file) or self.file.endswith((".safetensors", ".bin"))
        return self.whole_folder or (is_weights and not self.file.startswith(BESIDE_THE_MODEL))


def locate_source(
    source: str | os.PathLike[str], *, revision: str | None, subfolder: str | None, variant: str | None
) -> Place:
    """Find what a source names: a local path if it exists, else a Hub repo.

    Raises:
        CheckpointError: Nothing is there, or several files could be meant.
    """
    text = os.fspath(source)
    if not text.strip():
        raise CheckpointError("the source is empty; name a file, a folder or a Hub repo", source=repr(text))
    try:
        path = Path(text).expanduser()
        if not text.startswith("hf://") and (path.exists() or path.is_symlink()):
            if revision is not None:
                raise CheckpointError("a local path has no revisions; leave --revision out", source=text)
            return _local(path, subfolder, variant)
    except CheckpointError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no permission, no such user, a NUL
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise CheckpointError(f"cannot be opened: {problem}", source=text[:200]) from None
    return _hub(text, revision, subfolder, variant)


def locate_store(source: str, *, revision: str | None, subfolder: str | None) -> Store:
    """The folder or repo that a source names, whatever is in it.

    Raises:
        CheckpointError: Nothing is there.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return LocalStore(path / subfolder if subfolder else path)
    return _hub_store(source, revision, subfolder)[0]


def _local(path: Path, subfolder: str | None, variant: str | None) -> Place:
    if path.is_file():
        if subfolder is not None or variant is not None:
            raise CheckpointError("is a file; --subfolder and --variant choose within a folder", source=str(path))
        return _place(LocalStore(path.parent), path.name, whole_folder=False)
    folder = path / subfolder if subfolder else path
    if not folder.is_dir():
        raise CheckpointError("is not a file or folder that can be read", source=str(folder))
    store = LocalStore(folder)
    return _choose(store, store.files(), variant, hint=_checkpoint_folders(folder))


def _checkpoint_folders(folder: Path) -> str:
    """Trainers write `checkpoint-500/` folders; naming the run's folder is a common slip."""
    found = sorted(
        (entry.name for entry in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", entry.name)),
        key=lambda name: int(name.split("-")[1]),
    )
    return f"; it has {', '.join(found)}: name one of those" if found else ""


def _hub(text: str, revision: str | None, subfolder: str | None, variant: str | None) -> Place:
    store, file = _hub_store(text, revision, subfolder)
    try:
        files = store.files()
    except CheckpointError as error:
        if "://" in text:
            raise
        problem = f"there is no such local file or folder, so it was looked up on the Hub: {error.problem}"
        raise CheckpointError(problem, source=error.source, where=error.where) from None
    if file is not None:
        return _place(store, file, whole_folder=False)
    folders = store.folders()
    return _choose(store, files, variant, hint=f"; it has the folders {_listed(folders)}: name one" if folders else "")


def _hub_store(text: str, revision: str | None, subfolder: str | None) -> tuple[HubStore, str | None]:
    """The repo that a text names, and the one file in it when it goes on to name that."""
    from ckptmap.stores.hub import HubStore, parse_hub_source

    parsed = parse_hub_source(text)
    is_file_name = _is_checkpoint_file(text)
    if parsed is None or text.startswith((".", "/", "~")) or (is_file_name and text.count("/") < 2):
        raise CheckpointError(
            "there is no such file or folder here, and it is not the name of a Hub repo (org/name)", source=text[:200]
        )
    first, slash, _ = text.partition("/")
    if slash and "://" not in text and Path(first).is_dir():
        problem = f"there is no such file or folder in {first}/ here; for a Hub repo of this name, write hf://{text}"
        raise CheckpointError(problem, source=text)
    repo_id, given_revision, folder = parsed
    if revision is not None and given_revision is not None and revision != given_revision:
        raise CheckpointError(f"names revision {given_revision} and --revision says {revision}; give one", source=text)
    folder = "/".join(part for part in (folder, subfolder) if part) or None
    file = None
    if folder is not None and _is_checkpoint_file(folder):
        folder, _, file = folder.rpartition("/")
    return HubStore(repo_id, revision=revision or given_revision, subfolder=folder or None), file


def _choose(store: Store, files: Iterable[str], variant: str | None, hint: str = "") -> Place:
    """The file that transformers would load; without one of its names, the only checkpoint file there is."""
    there = set(files)
    infix = f".{variant}" if variant else ""
    standard = [name for pattern in STANDARD_NAMES if (name := pattern.format(infix)) in there]
    if standard:
        return _place(store, standard[0], whole_folder=True, warnings=_also_there(standard))
    if variant is not None:
        others = _listed(_candidates(there))
        raise CheckpointError(f"has no weights of variant {variant!r}; it has {others}", source=store.label)
    candidates = _candidates(there)
    if len(candidates) == 1:
        return _place(store, candidates[0], whole_folder=True)
    if candidates:
        raise CheckpointError(f"holds several checkpoint files, name one: {_listed(candidates)}", source=store.label)
    raise CheckpointError(f"holds no checkpoint file ({', '.join(CHECKPOINT_SUFFIXES)}){hint}", source=store.label)


def _place(store: Store, file: str, *, whole_folder: bool, warnings: tuple[str, ...] = ()) -> Place:
    shard = _SHARD.fullmatch(file)
    if shard and int(shard[2]) > 1:
        text = f"{file} is shard {shard[1]} of {shard[2]}; the index and other shards were not read"
        warnings = (*warnings, text)
    return Place(store, file, whole_folder, warnings)


def _candidates(files: Iterable[str]) -> list[str]:
    return sorted(name for name in files if _is_checkpoint_file(name) and not name.startswith(BESIDE_THE_MODEL))


def _is_checkpoint_file(name: str) -> bool:
    return name.endswith(CHECKPOINT_SUFFIXES) or is_index(name)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _also_there(standard: list[str]) -> tuple[str, ...]:
    first, *others = standard
    if not others:
        return ()
    return (f"{first} was read; {', '.join(others)} is there too and was not (transformers prefers the same one)",)
