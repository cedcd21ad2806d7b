"""One digest of what a checkpoint holds: the same for every format, sharding and order of tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.checkpoint import Checkpoint, Source, open_checkpoint
from ckptmap.errors import CheckpointError
from ckptmap.values.compare import FETCHED_PIECE
from ckptmap.values.sources import OpenFiles, Side, unchanged
from ckptmap.values.workers import FETCHES, Meter, Progress, Scratch, run_all

if TYPE_CHECKING:
    from ckptmap.values.values import BeforeFetch

Look: TypeAlias = Callable[[bytearray], None]
"""Is shown one block of a tensor after the other."""

BLOCK = 1 << 19
"""Bytes hashed at once."""


def digest(
    source: Source | Checkpoint, *, progress: Progress | None = None, before_fetch: BeforeFetch | None = None
) -> str:
    """The sha256 of a checkpoint's content: names, dtypes, shapes and bits, and nothing else.

    It is that of a line for each tensor, in the order of names: the JSON array of name, dtype, shape and the sha256 of
    its bytes (little-endian, row-major), as `json.dumps` writes it, and a newline.

    Args:
        source: A checkpoint, or anything that `open_checkpoint` opens.
        progress: Told of the bytes read and to read.
        before_fetch: Told of the bytes of values that will come over a network; it may raise.

    Returns:
        `sha256:` and 64 hexadecimal digits.

    Raises:
        CheckpointError: It cannot be read, as a whole or some of its tensors, or a file changed meanwhile.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    checkpoint.check_filter()
    if checkpoint.left_out:
        raise CheckpointError(
            f"{checkpoint.left_out:,} of its tensors cannot be read, so that there is no digest of all of it; "
            "--exclude them",
            source=checkpoint.source,
        )
    hashes: dict[str, str] = {}

    def looks(name: str) -> tuple[Look, Callable[[], None]]:
        hasher = hashlib.sha256()
        return hasher.update, lambda: hashes.update({name: hasher.hexdigest()})

    read_all(checkpoint, checkpoint, looks, Meter(progress), before_fetch=before_fetch)
    return digest_of(checkpoint, hashes)


def digest_of(checkpoint: Checkpoint, hashes: dict[str, str]) -> str:
    """The digest of a checkpoint, from the sha256 of each tensor."""
    whole = hashlib.sha256()
    for name in sorted(checkpoint):
        spec = checkpoint[name]
        whole.update(json.dumps([name, spec.dtype, spec.shape, hashes[name]]).encode() + b"\n")
    return f"sha256:{whole.hexdigest()}"


def read_all(
    checkpoint: Checkpoint,
    names: Iterable[str],
    looks: Callable[[str], tuple[Look, Callable[[], None]]],
    meter: Meter,
    *,
    before_fetch: BeforeFetch | None = None,
) -> None:
    """Show the bytes of tensors, each to a look of its own, several tensors at once.

    Args:
        checkpoint: What is read.
        names: Tensors of it.
        looks: For a name, what is shown its blocks, and what is called at its end.
        meter: Where bytes are counted.
        before_fetch: Told of the bytes of values that will come over a network; it may raise.

    Raises:
        CheckpointError: Something cannot be read, or a file changed meanwhile.
    """

    def look_at(name: str, scratch: Scratch) -> None:
        look, done = looks(name)
        data, nbytes = side.bytes_of(name), checkpoint[name].nbytes
        most = nbytes if data.in_one_go else FETCHED_PIECE if data.fetched else BLOCK
        for start in range(0, nbytes, most or 1):
            block = scratch.take(0, min(most, nbytes - start))
            data.read_into(memoryview(block), start)
            look(block)
            meter.add(len(block))
        done()

    with OpenFiles() as files, unchanged([checkpoint]):
        side = Side(checkpoint, files)
        side.locate_fetched(meter)
        # The largest first: the last one to end is then a small one.
        ordered = sorted(names, key=lambda name: -checkpoint[name].nbytes)
        fetched = sum(map(side.nbytes_fetched, ordered))
        if fetched and before_fetch is not None:
            before_fetch(fetched)
        meter.expect(sum(checkpoint[name].nbytes for name in ordered))
        run_all(look_at, ordered, meter, workers=FETCHES if fetched else 0)
