"""Statistics against a reference in exact arithmetic, for every dtype and the cases in which they could go astray."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import fsum, inf, isfinite, isnan, nan, sqrt
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptmap
from ckptmap.spec import DTYPE_BITS, TORCH_NAMES
from ckptmap.values.compare import TensorValues
from ckptmap.values.measure import ELEMENTS, IN_DOUBLE
from ckptmap.values.statistics import Statistics
from tests.values.files import write

NUMBERS = [dtype for dtype in TORCH_NAMES if dtype not in ("F4", "C128")]
PACKED = [dtype for dtype, bits in DTYPE_BITS.items() if bits < 8]
LARGEST = torch.finfo(torch.float64).max
# Numbers so small that a norm of two of them is rounded away are left out: no float64 could tell it.
DOUBLES = st.floats(allow_subnormal=False) | st.sampled_from([0.0, -0.0, 1e-300, 1e308, -1e308])


def random(dtype: str, count: int, seed: int) -> torch.Tensor:
    """Random bits of any dtype: every NaN, infinity, subnormal number and negative zero that it has."""
    size = count * DTYPE_BITS[dtype] // 8
    made = torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    if dtype == "BOOL":
        made = made % 2
    return made.view(getattr(torch, TORCH_NAMES[dtype]))


def stored(tensor: torch.Tensor, dtype: str) -> tuple[str, tuple[int, ...], bytes]:
    return dtype, tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes()


def compared(left: torch.Tensor, right: torch.Tensor, **how: float) -> TensorValues:
    found = ckptmap.diff({"x": left}, {"x": right}, values=True, **how)
    assert found.values is not None
    (one,) = found.values.tensors
    return one


def statistics(left: torch.Tensor, right: torch.Tensor, **how: float) -> Statistics:
    found = compared(left, right, **how).statistics
    assert found is not None
    return found


def numbers(tensor: torch.Tensor) -> list[complex]:
    """Elements as Python has them: whole numbers and floats exactly."""
    if tensor.dtype.is_floating_point:
        tensor = tensor.double()
    return tensor.flatten().tolist()


def same(one: complex, other: complex) -> bool:
    if isinstance(one, complex) or isinstance(other, complex):
        one, other = complex(one), complex(other)
        return same(one.real, other.real) and same(one.imag, other.imag)
    return one == other or (one != one and other != other)


def parts(value: complex) -> tuple[float, float]:
    return (value.real, value.imag) if isinstance(value, complex) else (value, 0)


def check(found: Statistics, left: list[complex], right: list[complex]) -> None:
    """Compare statistics with sums over fractions, in which nothing is rounded."""
    pairs = list(zip(left, right, strict=True))
    finite = [(a, b) for a, b in pairs if all(isfinite(part) for one in (a, b) for part in parts(one))]
    assert (found.elements, found.finite) == (len(pairs), len(finite))
    assert found.changed == sum(not same(a, b) for a, b in pairs)
    exact = [[Fraction(part) for one in pair for part in parts(one)] for pair in finite]
    squares = [(c - a) ** 2 + (d - b) ** 2 for a, b, c, d in exact]
    lefts = sum((a**2 + b**2 for a, b, _, _ in exact), Fraction())
    rights = sum((c**2 + d**2 for _, _, c, d in exact), Fraction())
    products = sum((a * c + b * d for a, b, c, d in exact), Fraction())
    if not finite:
        assert found.mean_abs is found.relative_l2 is found.cosine is None
        return
    largest, norms = root(max(squares)), [root(one) for one in (sum(squares), lefts, rights)]
    if max(largest, *norms) > LARGEST / 4:
        return  # about the end of float64, where sums are infinite; what is told then is tested by itself
    assert found.max_abs == pytest.approx(largest, rel=1e-12)
    assert found.mean_abs == pytest.approx(fsum(root(square) / len(finite) for square in squares), rel=1e-12)
    if lefts:
        assert found.relative_l2 == pytest.approx(root(sum(squares) / lefts), rel=1e-12)
    if lefts and rights:
        sign = 1 if products >= 0 else -1
        assert found.cosine == pytest.approx(sign * root(products**2 / (lefts * rights)), abs=1e-12)


def root(square: Fraction) -> float:
    """The square root of a fraction that no float may be large or small enough for."""
    shift = (square.numerator.bit_length() - square.denominator.bit_length()) // 2 if square else 0
    scaled = sqrt(square / Fraction(4) ** shift)
    try:
        return scaled * 2.0**shift if abs(shift) < 1000 else scaled * 2.0 ** (shift // 2) * 2.0 ** (shift - shift // 2)
    except OverflowError:
        return inf


@pytest.mark.parametrize("dtype", [*NUMBERS, "C128"])
def test_random_bits_of_every_dtype(dtype: str) -> None:
    left, right = random(dtype, 1501, 1), random(dtype, 1501, 2)
    if dtype in ("F64", "C128"):  # the highest exponents are left to a test of their own
        for one in (left, right):
            one.view(torch.int16)[3::4] &= ~0x4000
    right[::3] = left[::3]
    check(statistics(left, right), numbers(left), numbers(right))


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F8_E4M3"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_weights_that_all_differ_are_summed_to_1e_6_and_counted_exactly(dtype: str, scale: float) -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.randn(3 * 2048 + 77, generator=torch.Generator().manual_seed(seed)).mul(scale)

    left, right = (
        one.to(getattr(torch, TORCH_NAMES[dtype])) for one in (weights(1), weights(1) * 1.01 + weights(2) / 99)
    )
    found, exact = statistics(left, right), statistics(left.double(), right.double())
    assert (found.changed, found.max_abs) == (exact.changed, exact.max_abs)
    for one, other in (
        (found.mean_abs, exact.mean_abs),
        (found.relative_l2, exact.relative_l2),
        (found.left, exact.left),
    ):
        assert one == pytest.approx(other, rel=1e-6)
    assert found.cosine == pytest.approx(exact.cosine, abs=1e-6)


@pytest.mark.parametrize("value", [1e-30, 1e25, 3e38, inf, nan])
def test_single_precision_leaves_to_double_what_it_cannot_hold(value: float) -> None:
    left, right = torch.full((5000,), value), torch.full((5000,), value / 2)
    right[7] = 1e-20
    found, exact = statistics(left, right), statistics(left.double(), right.double())
    assert repr(replace(found, unrounded=0)) == repr(replace(exact, unrounded=0))


def test_the_largest_difference_is_exact_where_float32_would_round_it() -> None:
    left, right = torch.tensor([1.0, 1.0]), torch.tensor([1e-9, 1.1e-9])  # in float32 both differ by 1
    assert statistics(left, right).max_abs == 1.0 - float(right[0])


@pytest.mark.parametrize("dtype", ["F32", "BF16", "I64"])
def test_sums_of_many_blocks(dtype: str) -> None:
    count = 2 * IN_DOUBLE + 77
    left, right = random(dtype, count, 3), random(dtype, count, 4)
    right[: count // 2] = left[: count // 2]
    check(statistics(left, right), numbers(left), numbers(right))


@pytest.mark.parametrize("right", NUMBERS)
@pytest.mark.parametrize("left", ["F32", "BF16", "F8_E4M3", "I64", "U64", "U8", "C64"])
def test_dtypes_that_differ_are_widened(left: str, right: str) -> None:
    if left == right:
        return
    one, other = random(left, 200, 5), random(right, 200, 6)
    check(statistics(one, other), numbers(one), numbers(other))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_a_file_has_the_numbers_that_memory_has(tmp_path: Path, dtype: str) -> None:
    left, right = random(dtype, 700, 7).reshape(7, 100), random(dtype, 700, 8).reshape(7, 100)
    files = [
        write(tmp_path / f"{name}.safetensors", {"x": stored(x, dtype)}) for name, x in (("l", left), ("r", right))
    ]
    found = ckptmap.diff(*files, values=True).values
    assert found is not None
    assert found.tensors == (compared(left, right),)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(DOUBLES, DOUBLES), max_size=9))
def test_any_float64_however_large_or_small(pairs: list[tuple[float, float]]) -> None:
    left, right = (torch.tensor([pair[side] for pair in pairs], dtype=torch.float64) for side in (0, 1))
    found = compared(left, right)
    if found.statistics is None:
        assert left.view(torch.int64).equal(right.view(torch.int64))
    else:
        check(found.statistics, left.tolist(), right.tolist())


@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2), min_size=1, max_size=9))
def test_whole_numbers_are_not_rounded_before_they_are_compared(pairs: list[tuple[int, int]]) -> None:
    left, right = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    found = compared(left, right)
    if found.statistics is not None:
        check(found.statistics, left.tolist(), right.tolist())
    beside = compared(left, right.double())
    assert beside.statistics is not None
    assert beside.statistics.changed == sum(a != b for a, b in zip(left.tolist(), right.double().tolist(), strict=True))


@pytest.mark.parametrize("dtype", PACKED)
def test_packed_dtypes_are_compared_as_bytes(tmp_path: Path, dtype: str) -> None:
    shape = (4, 64)
    size = 4 * 64 * DTYPE_BITS[dtype] // 8
    data = bytearray(i % 251 for i in range(size))
    left = write(tmp_path / "l.safetensors", {"x": (dtype, shape, bytes(data))})
    data[5] ^= 1
    right = write(tmp_path / "r.safetensors", {"x": (dtype, shape, bytes(data))})
    values = ckptmap.diff(left, right, values=True).values
    assert values is not None
    (one,) = values.tensors
    assert one.statistics is not None
    assert (one.same_bits, one.statistics.elements, one.statistics.changed) == (False, size, 1)
    assert one.statistics.mean_abs is one.statistics.cosine is None
    assert not ckptmap.diff(left, left, values=True)


def test_a_packed_dtype_beside_another_differs_and_says_why(tmp_path: Path) -> None:
    left = write(tmp_path / "l.safetensors", {"x": ("F4", (2, 4), bytes(4))})
    right = write(tmp_path / "r.safetensors", {"x": ("F32", (2, 4), bytes(32))})
    found = ckptmap.diff(left, right, values=True, atol=1.0)
    assert found
    assert found.values is not None
    assert [(one.same_bits, one.same_numbers, one.statistics) for one in found.values.differing] == [
        (False, False, None)
    ]


@pytest.mark.parametrize(
    ("left", "right", "changed", "finite"),
    [
        ([0.0], [-0.0], 0, 1),
        ([nan], [nan], 0, 0),
        ([inf], [inf], 0, 0),
        ([inf], [-inf], 1, 0),
        ([nan], [1.0], 1, 0),
        ([1.0], [inf], 1, 0),
        ([1.0, 2.0], [1.0, nan], 1, 1),
    ],
)
def test_zeros_and_what_is_not_finite(left: list[float], right: list[float], changed: int, finite: int) -> None:
    # A NaN of other bits, so that there is something to tell.
    one, other = torch.tensor(left), torch.tensor(right)
    other[other.isnan()] = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    if torch.equal(one.view(torch.int32), other.view(torch.int32)):
        other[:] = -other  # the same number of other bits is what `changed` counts
        changed = changed if isnan(left[0]) else 1
    found = compared(one, other)
    assert not found.same_bits
    assert found.statistics is not None
    assert (found.statistics.changed, found.statistics.finite) == (changed, finite)
    assert found.same_numbers is (changed == 0)


def test_norms_that_float64_cannot_hold() -> None:
    large = torch.full((8,), 1e308, dtype=torch.float64)
    found = statistics(large, -large)
    assert (found.changed, found.finite, found.max_abs) == (8, 8, inf)
    assert (found.relative_l2, found.cosine) == (None, None)
    beside = statistics(large[:1], large[:1] * (1 + 1e-15))
    assert beside.relative_l2 == pytest.approx(1e-15, rel=0.2)
    small = torch.full((8,), 1e-200, dtype=torch.float64)
    assert statistics(small, 3 * small).relative_l2 == pytest.approx(2, rel=1e-12)
    assert statistics(torch.ones(1).double(), large[:1]).relative_l2 == pytest.approx(1e308, rel=1e-12)


def test_zero_norms() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    from_zero, to_zero, both = statistics(zero, one), statistics(one, zero), statistics(zero, -zero)
    assert (from_zero.relative_l2, from_zero.cosine) == (None, None)
    assert (to_zero.relative_l2, to_zero.cosine) == (1.0, None)
    assert (both.relative_l2, both.cosine, both.max_abs) == (0.0, 1.0, 0.0)
    empty = statistics(torch.zeros(0), torch.zeros(0).double())
    assert (empty.changed, empty.mean_abs, empty.relative_l2, empty.cosine) == (0, None, None, None)


def test_tolerance_is_of_the_left_side_and_holds_for_each_element() -> None:
    left, right = torch.tensor([1.0, 100.0, nan, inf]), torch.tensor([1.01, 101.0, nan, inf])
    assert not ckptmap.diff({"x": left}, {"x": right}, values=True, rtol=0.0101)
    assert not ckptmap.diff({"x": left}, {"x": right}, values=True, atol=1.0)
    assert statistics(left, right, atol=0.5).beyond == 1
    assert statistics(left, right, rtol=0.001).beyond == 2
    assert statistics(left, torch.tensor([1.0, 100.0, 0.0, -inf]), atol=1e9).beyond == 2
    # Within a tolerance the dtype alone is no difference; without one it is, and is said.
    assert not ckptmap.diff({"x": left}, {"x": left.double()}, values=True, atol=0.0)
    assert ckptmap.diff({"x": left}, {"x": left.double()}, values=True)


@pytest.mark.parametrize("narrow", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("wide", ["F64", "F32"])
def test_a_rounded_copy_is_told(wide: str, narrow: str) -> None:
    if wide == narrow:
        return
    left = random(wide, 5000, 9)
    left[:4000] = torch.randn(4000, generator=torch.Generator().manual_seed(10), dtype=left.dtype)
    right = left.to(getattr(torch, TORCH_NAMES[narrow]))
    for one, other in ((left, right), (right, left)):
        found = statistics(one, other)
        assert found.changed > 0
        assert found.unrounded == 0
    right[17] = right[17] * 2
    assert statistics(left, right).unrounded == 1


def test_a_second_run_gives_the_same_numbers_to_the_last_bit() -> None:
    left = torch.randn(2 * ELEMENTS + 99, generator=torch.Generator().manual_seed(1))
    assert len({repr(statistics(left, left * 1.1)) for _ in range(3)}) == 1
