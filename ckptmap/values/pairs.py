"""Which tensors are to be compared: here those of one name; `correspondence` pairs them by rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ckptmap.conversion.reading import local_path
from ckptmap.errors import CheckpointError
from ckptmap.spec import TensorSpec
from ckptmap.stores.local import state_of
from ckptmap.values.sources import Bytes, HeldBytes, Side
from ckptmap.values.workers import Meter

HASHED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tensors of one shape that are read a part at a time, under the name of the right one.

    Args:
        left: Name, shape and dtype of the left one, as rules would make it.
        right: The same of the right one.
        left_bytes: Where the left values are.
        right_bytes: Where the right ones are.
    """

    left: TensorSpec
    right: TensorSpec
    left_bytes: Bytes
    right_bytes: Bytes

    @property
    def specs(self) -> tuple[tuple[TensorSpec, TensorSpec], ...]:
        """Left and right spec of each tensor that is compared."""
        return ((self.left, self.right),)

    @property
    def fetched(self) -> int:
        """Bytes that come over a network."""
        sides = ((self.left, self.left_bytes), (self.right, self.right_bytes))
        return 0 if self.surely_equal else sum(spec.nbytes for spec, data in sides if data.fetched)

    @property
    def in_one_go(self) -> bool:
        """Whether a side can only be read as a whole, and must be."""
        return not self.surely_equal and (self.left_bytes.in_one_go or self.right_bytes.in_one_go)

    @property
    def surely_equal(self) -> bool:
        """Whether both have equal bits by where they come from."""
        content = self.left_bytes.content
        same = content is not None and content == self.right_bytes.content
        return self.left.dtype == self.right.dtype and (same or not self.left.nbytes)


@dataclass(frozen=True, slots=True)
class Whole:
    """Tensors whose left side must be made in memory before they can be compared.

    Args:
        specs: Left and right spec of each.
        make: Makes the pairs.
        fetched: Bytes that come over a network.
    """

    specs: tuple[tuple[TensorSpec, TensorSpec], ...]
    make: Callable[[], Iterable[Pair]]
    fetched: int


Work: TypeAlias = "Pair | Whole"


def pairs_by_name(left: Side, right: Side) -> Iterator[Work]:
    """Tensors of equal name and shape; those of surely equal files without a look at where in the file they are."""
    same_part = left.checkpoint.part == right.checkpoint.part
    alike: dict[tuple[str, str], bool] = {}
    for name, spec in left.checkpoint.items():
        other = right.checkpoint.get(name)
        if other is None or other.shape != spec.shape:
            continue
        one, two = left.checkpoint.file_of(name), right.checkpoint.file_of(name)
        if same_part and spec == other and one is not None and two is not None:
            if (one, two) not in alike:
                content = left.content_of_file(one)
                alike[one, two] = content is not None and content == right.content_of_file(two)
            if alike[one, two]:
                unread = HeldBytes(b"", content=(one, two))
                yield Pair(spec, other, unread, unread)
                continue
        yield Pair(spec, other, left.bytes_of(name), right.bytes_of(name))


def find_equal_files(left: Side, right: Side, meter: Meter) -> None:
    """Hash files of this machine that stand against files of a repo: reading a disk costs less than a network."""
    for here, there in ((left, right), (right, left)):
        hashes: dict[int, list[tuple[str, str]]] = {}
        for file, size in there.checkpoint.files.items():
            if local_path(there.checkpoint, file) is None and (listed := there.listed_hash(file)):
                hashes.setdefault(size, []).append((file, listed))
        for file, size in here.checkpoint.files.items():
            path = local_path(here.checkpoint, file)
            if path is None or size not in hashes:
                continue
            kinds = {listed.partition(":")[0] for _, listed in hashes[size]}
            found = {hash_of(path, size, kind, meter) for kind in kinds}
            for other, listed in hashes[size]:
                if listed in found:
                    there.knows(other, state_of(str(path)))


def hash_of(path: Path, size: int, kind: str, meter: Meter) -> str | None:
    """What a Hub would list as the hash of a file of this machine: sha256 of a large one, git's own of a small one."""
    if kind not in ("sha256", "git"):
        return None
    hasher = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    meter.expect(size)
    memory = bytearray(HASHED_AT_ONCE)
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(memory):
                hasher.update(memoryview(memory)[:count])
                meter.add(count)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", source=str(path)) from None
    return f"{kind}:{hasher.hexdigest()}"
