"""What the values of one checkpoint tell: equal tensors, constants, NaN and infinity. NumPy is imported here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptmap.checkpoint import Checkpoint, Source, open_checkpoint
from ckptmap.heads.untouched import Evidence, untouched
from ckptmap.spec import DTYPE_BITS, TensorSpec
from ckptmap.values.digest import Look, digest_of, read_all
from ckptmap.values.dtypes import COMPLEX, PACKED, as_stored, values_of
from ckptmap.values.workers import Meter

if TYPE_CHECKING:
    import numpy

    from ckptmap.values.values import BeforeFetch
    from ckptmap.values.workers import Progress


@dataclass(frozen=True)
class NotFinite:
    """How many NaNs and infinities a tensor holds, parts of complex numbers counted each."""

    nan: int
    infinite: int


@dataclass(frozen=True)
class Examination:
    """What is noteworthy about the values of a checkpoint.

    Attributes:
        equal: Groups of names whose tensors have the same dtype, shape and bits, constants left out.
        constant: Tensors of two elements or more that are one value throughout, with that value.
        not_finite: Tensors that hold NaN or infinity.
        evidence: Whether tensors look untouched since initialisation; empty if that was not asked for.
        digest: The checkpoint's digest, as `ckptmap.digest` gives it; None if some tensors could not be read.
    """

    equal: tuple[tuple[str, ...], ...]
    constant: Mapping[str, complex]
    not_finite: Mapping[str, NotFinite]
    evidence: Mapping[str, Evidence]
    digest: str | None


def examine(
    source: Source | Checkpoint,
    *,
    evidence: bool = True,
    progress: Progress | None = None,
    before_fetch: BeforeFetch | None = None,
) -> Examination:
    """Read every value of a checkpoint once, and tell what stands out.

    Args:
        source: A checkpoint, or anything that `open_checkpoint` opens.
        evidence: Look for tensors untouched since initialisation too, which takes torch and several times as long.
        progress: Told of the bytes read and to read.
        before_fetch: Told of the bytes of values that a network will bring, for evidence a second time; it may raise.

    Raises:
        CheckpointError: It cannot be read, or a file changed meanwhile.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    checkpoint.check_filter()
    seen: dict[str, _Scan] = {}

    def looks(name: str) -> tuple[Look, Callable[[], None]]:
        scan = seen[name] = _Scan(checkpoint[name])
        return scan.look, lambda: None

    meter = Meter(progress)
    if evidence:
        meter.expect(checkpoint.nbytes)

    def tell(nbytes: int) -> None:
        if before_fetch is not None:
            before_fetch(2 * nbytes if evidence else nbytes)

    read_all(checkpoint, checkpoint, looks, meter, before_fetch=tell)
    constant = {name: seen[name].value for name in checkpoint if seen[name].is_constant}
    groups: dict[object, list[str]] = {}
    for name, spec in checkpoint.items():
        if spec.parameters and name not in constant:
            groups.setdefault((spec.dtype, spec.shape, seen[name].hexdigest), []).append(name)
    hashes = {name: scan.hexdigest for name, scan in seen.items()}
    return Examination(
        tuple(tuple(names) for names in groups.values() if len(names) > 1),
        constant,
        {name: NotFinite(scan.nan, scan.infinite) for name in checkpoint if (scan := seen[name]).nan + scan.infinite},
        _evidence(checkpoint, [name for name in checkpoint if name not in constant], meter) if evidence else {},
        None if checkpoint.left_out else digest_of(checkpoint, hashes),
    )


def _evidence(checkpoint: Checkpoint, names: Iterable[str], meter: Meter) -> dict[str, Evidence]:
    """Evidence that tensors look fresh, a module after the other, since weights and biases are judged together."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    found: dict[str, Evidence] = {}
    for members in modules.values():
        found |= untouched(checkpoint, members)
        meter.add(sum(checkpoint[name].nbytes for name in members))
    return {name: found[name] for name in checkpoint if name in found}


def _floats(stored: numpy.ndarray, dtype: str) -> numpy.ndarray:
    """Floats that NumPy can tell NaN and infinity of."""
    if dtype == "BF16":
        wide: numpy.ndarray = (stored.astype("<u4") << 16).view("<f4")
        return wide
    return values_of(dtype)[stored] if dtype.startswith("F8") else stored


class _Scan:
    """Looks at the blocks of one tensor."""

    def __init__(self, spec: TensorSpec) -> None:
        self._dtype, self._hasher = spec.dtype, hashlib.sha256()
        self._packed = spec.dtype in PACKED
        self._size = max(1, DTYPE_BITS[spec.dtype] // 8)
        self._first: bytes | None = b"\0" if self._packed else None
        self._alike = spec.parameters > 1
        self.nan = self.infinite = 0

    @property
    def hexdigest(self) -> str:
        """The sha256 of the tensor."""
        return self._hasher.hexdigest()

    @property
    def is_constant(self) -> bool:
        """Whether all elements have the same bits; of a packed tensor only zeros are seen to."""
        return self._alike

    @property
    def value(self) -> complex:
        """What a constant tensor is of."""
        assert self._first is not None
        if self._packed:
            return 0
        found = as_stored(self._first, self._dtype)
        if self._dtype in COMPLEX:
            return complex(*found.tolist())
        number = float(_floats(found, self._dtype)[0]) if self._is_float else found.tolist()[0]
        return bool(number) if self._dtype == "BOOL" else number

    @property
    def _is_float(self) -> bool:
        return self._dtype.startswith(("F", "BF", "C")) and not self._packed

    def look(self, block: bytearray) -> None:
        """Look at the next block, which holds whole elements."""
        import numpy

        self._hasher.update(block)
        if self._first is None:
            self._first = bytes(block[: self._size])
        self._alike = self._alike and block == self._first * (len(block) // self._size)
        if self._is_float:
            values = _floats(as_stored(block, self._dtype), self._dtype)
            if not numpy.isfinite(values).all():
                self.nan += int(numpy.count_nonzero(numpy.isnan(values)))
                self.infinite += int(numpy.count_nonzero(numpy.isinf(values)))
