"""What bytes mean: one file a format, one row in `FORMATS`.

A reader takes a store and the name of a file in it and returns `Contents`. Nothing it reads is trusted: a
reader checks all that a hostile file could lie about, and raises `CheckpointError` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ckptmap.errors import CheckpointError
from ckptmap.formats.base import ZIP_MAGIC, Contents, Extent
from ckptmap.formats.safetensors import FIRST_READ, read_safetensors
from ckptmap.formats.sharded import is_index, read_sharded
from ckptmap.stores.base import Store

__all__ = ["FORMATS", "Contents", "Extent", "Format", "is_index", "read_file"]

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9c"
SNIFFED = 512
"""Bytes that tell a format: a tar header has this size, everything else shows itself sooner."""


@dataclass(frozen=True, slots=True)
class Format:
    """A file format: how its first bytes look, and its reader, a function of a module beside this one.

    The module is imported when a file needs it: most never do, and start-up is felt at every call.
    """

    matches: Callable[[bytes], bool]
    module: str
    reader: str

    def read(self, store: Store, file: str, *, at: str | None) -> Contents:
        """Read a file of this format."""
        reader = getattr(import_module(f"ckptmap.formats.{self.module}"), self.reader)
        contents: Contents = reader(store, file, at=at)
        return contents


FORMATS = (
    Format(lambda head: head.startswith(ZIP_MAGIC), "torch_zip", "read_torch_zip"),
    Format(lambda head: head[257:262] == b"ustar", "torch_legacy", "read_torch_tar"),
    Format(lambda head: head.startswith(b"\x80"), "torch_legacy", "read_torch_legacy"),
)
"""Formats told by their first bytes. Safetensors is told by its suffix or, failing all of these, by its header."""

NOT_CHECKPOINTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull` in the clone"),
    (b"GGUF", "is a GGUF file, which ckptmap does not read yet; use the safetensors files it was made from"),
    (b"\x89HDF", "is an HDF5 file (Keras or TensorFlow); ckptmap reads PyTorch checkpoints"),
    (b"<", "is a web page, not a checkpoint; a login or error page was saved in its place"),
)


def read_file(store: Store, file: str, *, at: str | None = None, first_read: int = FIRST_READ) -> Contents:
    """Read the header of one checkpoint file of any format, or of all shards that an index file names.

    Args:
        store: Where the file is.
        file: Its name there.
        at: Which part of a pickle to take, as a dotted path of keys; by default the part that is a state dict.
        first_read: Bytes to ask for at first where the header stands in front.

    Raises:
        CheckpointError: The file cannot be read, is damaged, or is no checkpoint.
    """
    if is_index(file):
        return read_sharded(store, file, lambda shard, guess: read_file(store, shard, at=at, first_read=guess))
    if file.endswith(SAFETENSORS_SUFFIX):
        return _read_safetensors(store, file, at, first_read)
    size = store.size(file)
    head = store.read(file, 0, min(SNIFFED, size))
    for format in FORMATS:
        if format.matches(head):
            return format.read(store, file, at=at)
    if head[8:9] == b"{":
        return _read_safetensors(store, file, at, first_read)
    problem = _something_else(head)
    if problem is None:
        problem = "is empty" if not size else "is neither a safetensors file nor a file that torch.save wrote"
    raise CheckpointError(problem, source=f"{store.label}/{file}")


def _read_safetensors(store: Store, file: str, at: str | None, first_read: int) -> Contents:
    if at is not None:
        raise CheckpointError(
            f"has no parts to choose from with --at {at}; leave it out", source=f"{store.label}/{file}"
        )
    try:
        return read_safetensors(store, file, first_read=first_read)
    except CheckpointError:
        # Only now, as on a Hub this costs a request: is it another kind of file under this name?
        head = store.read(file, 0, min(SNIFFED, store.size(file)))
        problem = None if head[8:9] == b"{" else _something_else(head)
        if head.startswith((ZIP_MAGIC, TORCH_LEGACY_MAGIC)):
            problem = "is no safetensors file but looks like one of torch.save; rename it to end in .bin or .pt"
        if problem is None:
            raise
        raise CheckpointError(problem, source=f"{store.label}/{file}") from None


def _something_else(head: bytes) -> str | None:
    return next((text for magic, text in NOT_CHECKPOINTS if head.startswith(magic)), None)
