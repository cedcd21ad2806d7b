"""Checkpoints: names, shapes and dtypes at once, values one tensor at a time."""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from ckptmap.errors import CheckpointError
from ckptmap.formats import Contents, Extent, live, read_file
from ckptmap.sources import locate_source, locate_store
from ckptmap.spec import TensorSpec
from ckptmap.stores import Store
from ckptmap.stores.local import LocalStore

if TYPE_CHECKING:
    import torch

Source: TypeAlias = "str | os.PathLike[str] | torch.nn.Module | Mapping[str, torch.Tensor]"
"""What `open_checkpoint` opens."""

CONFIG = "config.json"
MAX_CONFIG = 16_000_000
MAX_REPEATED = 1 << 30
"""Bytes that a stored view may take in memory when it repeats fewer bytes of its file."""

# Attributes under which wrappers keep the module they wrap, and so segments of its names.
WRAPPERS = {
    "module": "DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
}


class Checkpoint(Mapping[str, TensorSpec]):
    """A read-only mapping of tensor names to specs, whose values are read only when asked for.

    Made by `open_checkpoint`. Use it as a context manager, or `close` it, to let go of what it read from.

    Attributes:
        source: What was read, as told to people: a path, `org/name@commit`, `nn.Module`.
        names: Whether the names are those `on disk` or `in memory`; for one model the two may differ.
        files: Files that hold the tensors, with their sizes in bytes.
        metadata: Free text that the files carry.
        ties: Groups of names that are one stored tensor.
        warnings: What a person should know of how it was read.
        findings: What loading its pickles with pickle itself would do, the worst first.
        unfiltered: How many tensors there were before `include` and `exclude`.
        left_out: How many tensors could not be read (sparse, quantized, …) and so are not in the mapping.
        part: Which part of a pickle was taken, as dotted keys; None for all of it.
        commit: The full commit of a Hub repo, once known; None for anything else.
    """

    def __init__(
        self,
        contents: Contents,
        *,
        source: str,
        names: Literal["on disk", "in memory"],
        store: Store | None = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
        has_config: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        warnings: Sequence[str] = (),
    ) -> None:
        self._contents = contents
        self._store = store
        self._live = tensors
        self._closed = False
        self._has_config = has_config
        self._filter = [*(f"--include {text!r}" for text in include), *(f"--exclude {text!r}" for text in exclude)]
        specs, select = contents.tensors, _selection(include, exclude)
        self._tensors = {name: spec for name, spec in specs.items() if select(name)} if self._filter else specs
        self.unfiltered = len(specs)
        self.left_out = sum(map(select, contents.left_out))
        self.part = contents.part
        self.commit = store.commit if store else None
        self.source = source
        self.names = names
        self.metadata = dict(contents.metadata)
        self.ties = tuple(
            kept for group in contents.ties if len(kept := tuple(name for name in group if name in self._tensors)) > 1
        )
        # A danger comes first, whatever else there is to say.
        self.warnings = (*contents.warnings, *warnings, *_wrapper_warnings(self._tensors))
        self.findings = contents.findings

    def __getitem__(self, name: str) -> TensorSpec:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    # A Mapping's own views ask for every item anew, which is felt with 100,000 of them.

    def items(self) -> ItemsView[str, TensorSpec]:
        return self._tensors.items()

    def values(self) -> ValuesView[TensorSpec]:
        return self._tensors.values()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.source}: {len(self)} tensors, {self.parameters:,} parameters>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def with_prefix(self, old: str, new: str) -> Checkpoint:
        """The same checkpoint, its names that start with `old` starting with `new` instead; other names stay.

        Raises:
            CheckpointError: No name starts so, or two names would become one.
        """
        names = {name: new + name[len(old) :] if name.startswith(old) else name for name in self}
        if self and not any(name.startswith(old) for name in self):
            raise CheckpointError(f"no name starts with {old!r}; the first is {next(iter(self))!r}", source=self.source)
        if len(set(names.values())) < len(names):
            raise CheckpointError(f"with {new!r} in place of {old!r}, two names would be one", source=self.source)
        before, own = {after: name for name, after in names.items()}, self._contents
        made = copy(self)
        made._tensors = {after: replace(self._tensors[name], name=after) for name, after in names.items()}
        made._live = None if self._live is None else {after: self._live[name] for name, after in names.items()}
        made._contents = replace(
            own,
            tensors=made._tensors,
            files={after: own.files[name] for name, after in names.items() if name in own.files},
            locate=lambda name: own.locate(before[name]),
        )
        made.ties = tuple(tuple(names[name] for name in group) for group in self.ties)
        made.source = f"{self.source} ({new!r} in place of {old!r})"
        return made

    def check_filter(self) -> None:
        """Refuse to go on with nothing.

        Raises:
            CheckpointError: `include` and `exclude` left none of the tensors that there are.
        """
        if self.unfiltered and not self:
            first = next(iter(self._contents.tensors))
            raise CheckpointError(
                f"no name is left by {' '.join(self._filter)}; the first name is {first[:200]!r}", source=self.source
            )

    def close(self) -> None:
        """Let go of what was read from; names stay, reading values afterwards is an error."""
        self._closed = True
        self._live = None

    @cached_property
    def files(self) -> Mapping[str, int]:
        """Sizes in bytes of the files that hold the tensors; empty for a live module."""
        if self._store is None:
            return {}
        names = dict.fromkeys(self._contents.files[name] for name in self._tensors)
        return {file: self._store.size(file) for file in names}

    @cached_property
    def parameters(self) -> int:
        """Number of elements, tied tensors counted once."""
        return sum(self[name].parameters for name in self._untied())

    @cached_property
    def nbytes(self) -> int:
        """Size of the values in bytes, tied tensors counted once."""
        return sum(self[name].nbytes for name in self._untied())

    @cached_property
    def dtypes(self) -> Mapping[str, int]:
        """Number of tensors by dtype, the most frequent first."""
        return dict(Counter(spec.dtype for spec in self.values()).most_common())

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """What `config.json` beside the files says; None where there is none, or where it tells of other files.

        Raises:
            CheckpointError: The file is there but is not a JSON object.
        """
        return _config_in(self._store) if self._store is not None and self._has_config else None

    def file_of(self, name: str) -> str | None:
        """The file that holds one tensor; None for a live module."""
        return self._contents.files[name] if self._live is None and self._contents.files else None

    def locate(self, name: str) -> Extent:
        """Where the bytes of one tensor lie in its file.

        Raises:
            CheckpointError: The checkpoint is live, or its file does not let a tensor be read by range.
        """
        if name not in self:
            raise KeyError(name)
        return self._contents.locate(name)

    def read(self, name: str) -> bytes:
        """One tensor's bytes, in row-major order.

        Raises:
            KeyError: There is no such tensor.
            CheckpointError: It cannot be read.
        """
        self._check_open()
        if self._live is None and (extent := self.locate(name)).strides is None:
            return self._bytes(extent)
        return live.bytes_of(self.load(name))

    def load(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU for a stored one and as it is for a live one.

        Raises:
            KeyError: There is no such tensor.
            CheckpointError: It cannot be read, or torch has no such dtype.
        """
        spec = self[name]
        self._check_open()
        if self._live is not None:
            return self._live[name]
        extent = self.locate(name)
        if extent.strides is not None and spec.nbytes > max(extent.length, MAX_REPEATED):
            raise CheckpointError(
                f"it is a view that repeats {extent.length} stored bytes to {spec.nbytes}; refused",
                source=self.source,
                where=name,
            )
        return live.tensor_from_bytes(bytearray(self._bytes(extent)), spec, extent.strides)

    def _check_open(self) -> None:
        if self._closed:
            raise CheckpointError("the checkpoint is closed; open it again", source=self.source)

    def _bytes(self, extent: Extent) -> bytes:
        assert self._store is not None  # only a stored checkpoint locates extents
        return self._store.read(extent.file, extent.offset, extent.length)

    def _untied(self) -> Iterator[str]:
        again = {name for group in self.ties for name in group[1:]}
        return (name for name in self if name not in again)


def read_config(source: str, *, revision: str | None = None, subfolder: str | None = None) -> Mapping[str, Any] | None:
    """What the config.json of a folder or repo says, weights or not; None where there is none.

    Args:
        source: A config file, a file beside it, a folder, or a Hub repo, as `open_checkpoint` takes them.
        revision: Branch, tag or commit of a Hub repo.
        subfolder: Folder in the repo or folder.

    Raises:
        CheckpointError: The source cannot be found, or its config is not a JSON object.
    """
    path = Path(source)
    if path.is_file():
        return _config_in(LocalStore(path.parent), path.name if path.suffix == ".json" else CONFIG)
    return _config_in(locate_store(source, revision=revision, subfolder=subfolder))


def _config_in(store: Store, file: str = CONFIG) -> Mapping[str, Any] | None:
    if file not in store.files():
        return None
    source = f"{store.label}/{file}"
    size = store.size(file)
    if size > MAX_CONFIG:
        raise CheckpointError(f"a config of {size} bytes is larger than any real one; refused", source=source)
    try:
        # Not strict: transformers itself writes Infinity.
        config = json.loads(store.read(file, 0, size).decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not JSON: {error}", source=source) from None
    if not isinstance(config, dict):
        raise CheckpointError("is not a JSON object", source=source)
    return config


@contextmanager
def _without_collection() -> Iterator[None]:
    """Nothing becomes garbage while headers are read; Python looking for it again and again takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_collection()
def open_checkpoint(
    source: Source,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    variant: str | None = None,
    at: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
) -> Checkpoint:
    """Open a checkpoint by its headers; no values are read and no code from it runs.

    Args:
        source: A local file, folder or index file; a Hub repo `org/name[@revision][/subfolder]` or `hf://…` URL; an
            `nn.Module`; a state dict. What exists on this machine wins over a Hub repo of the same name.
        revision: Branch, tag or commit of a Hub repo.
        subfolder: Folder in the repo or folder.
        variant: As in transformers: `fp16` reads `model.fp16.safetensors`.
        at: Which part of a pickle to take, as a dotted path of keys (`model`, `ema.state_dict`).
        include: Keep only names that match this pattern, or one of these (`*` any text, dots too; `?` any one
            character; `[ab]` one of these).
        exclude: Leave out names that match this pattern, or one of these.

    Raises:
        CheckpointError: The source cannot be found or read, or is not a checkpoint.
    """
    include = (include,) if isinstance(include, str) else include
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    if not isinstance(source, str | os.PathLike):
        label = "state dict" if isinstance(source, Mapping) else f"nn.Module {type(source).__name__}"
        chosen = {"revision": revision, "subfolder": subfolder, "variant": variant, "at": at}
        if given := [name for name, value in chosen.items() if value is not None]:
            raise CheckpointError(f"{', '.join(given)}: chooses what is read of files; leave it out", source=label)
        contents, tensors = live.read_live(source)
        return Checkpoint(contents, source=label, names="in memory", tensors=tensors, include=include, exclude=exclude)

    place = locate_source(source, revision=revision, subfolder=subfolder, variant=variant)
    contents = read_file(place.store, place.file, at=at)
    label = place.store.label if place.whole_folder else f"{place.store.label}/{place.file}"
    return Checkpoint(
        contents,
        source=label if contents.part is None else f"{label} (part {contents.part[:200]!r})",
        names="on disk",
        store=place.store,
        has_config=place.has_config,
        include=include,
        exclude=exclude,
        warnings=place.warnings,
    )


def _selection(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    def select(name: str) -> bool:
        kept = not include or any(fnmatchcase(name, pattern) for pattern in include)
        return kept and not any(fnmatchcase(name, pattern) for pattern in exclude)

    return select


def _wrapper_warnings(names: Iterable[str]) -> Iterator[str]:
    text = "\n".join(names)  # one search instead of one a name: most checkpoints carry no wrapper at all
    for segment, wrapper in WRAPPERS.items():
        if f"{segment}." in text and (count := sum(segment in name.split(".")[:-1] for name in names)):
            names_carry = "name carries" if count == 1 else "names carry"
            yield f"{count:,} {names_carry} `{segment}.`, as {wrapper} does; they are shown as they are stored"
