"""From bytes to float64 numbers, for every dtype that a file holds. NumPy is imported here."""

from __future__ import annotations

from functools import cache
from math import inf, nan
from typing import TYPE_CHECKING

from ckptmap.spec import DTYPE_BITS

if TYPE_CHECKING:
    import numpy

PACKED = frozenset(dtype for dtype, bits in DTYPE_BITS.items() if bits < 8)
"""Dtypes with several elements in a byte. How a file orders them is not laid down, so they are compared as bytes."""

NUMPY = {
    "BOOL": "u1", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<f4", "C128": "<f8", "BF16": "<u2",
}  # fmt: skip
"""How NumPy reads them: complex numbers as pairs, bfloat16 as the integers it is made of, bytes for all others."""

COMPLEX = ("C64", "C128")
WIDE = ("F64", "C128")
"""Dtypes whose squares float64 may be too small for."""
LONG = ("I64", "U64")
"""Dtypes with numbers that float64 does not have."""

ROUNDED = {"F64": ("F32", "F16", "BF16"), "F32": ("F16", "BF16")}
"""What floats are commonly rounded to."""

# Bits of exponent and mantissa, the bias, and what the largest codes mean: `ieee` as in float32; `fn` has NaN alone, as
# the code of all ones; `fnuz` has NaN in place of −0.
# Source: torch 2.13.0, torch/headeronly/util/Float8_e4m3fn.h, _e4m3fnuz.h, _e5m2.h, _e5m2fnuz.h, _e8m0fnu.h.
_EIGHT_BITS = {
    "F8_E4M3": (4, 3, 7, "fn"), "F8_E4M3FNUZ": (4, 3, 8, "fnuz"),
    "F8_E5M2": (5, 2, 15, "ieee"), "F8_E5M2FNUZ": (5, 2, 16, "fnuz"),
}  # fmt: skip


def as_stored(data: bytearray | memoryview | bytes, dtype: str) -> numpy.ndarray:
    """The elements of a block as NumPy has them, without a copy; those of a float of 8 bits are its codes."""
    import numpy

    return numpy.frombuffer(data, NUMPY.get(dtype, "u1"))


def widened(stored: numpy.ndarray, dtype: str, out: numpy.ndarray) -> numpy.ndarray:
    """The elements of a block as numbers of `out`, float64 or a float32 that holds them; complex numbers as pairs."""
    import numpy

    result = out[: len(stored)]
    if dtype == "BF16":
        bits = result.view("<u4") if result.dtype == "<f4" else numpy.empty(len(stored), "<u4")
        numpy.copyto(bits, stored)
        numpy.left_shift(bits, 16, out=bits)
        if result.dtype != "<f4":
            numpy.copyto(result, bits.view("<f4"))
    elif dtype == "BOOL":
        numpy.not_equal(stored, 0, out=result)
    elif dtype.startswith("F8"):
        numpy.take(values_of(dtype).astype(result.dtype), stored, out=result, mode="clip")
    else:
        numpy.copyto(result, stored)
    return result


def rounded(stored: numpy.ndarray, dtype: str) -> numpy.ndarray:
    """What F32 or F64 elements become in a narrower dtype, to the nearest and of two such to the even one.

    **Source**: torch 2.13.0, torch/headeronly/util/BFloat16.h, round_to_nearest_even; F64 goes by way of F32, as there.
    """
    import numpy

    single: numpy.ndarray = stored.astype("<f4")
    if dtype == "F32":
        return single
    if dtype == "F16":
        return numpy.asarray(single.astype("<f2"))
    bits = single.view("<u4")
    half = bits + (((bits >> 16) & 1) + 0x7FFF).astype("<u4")
    half[single != single] = 0x7FC00000
    return numpy.asarray((half & 0xFFFF0000).astype("<u4").view("<f4"))


@cache
def values_of(dtype: str) -> numpy.ndarray:
    """What each of the 256 codes of a float of 8 bits means."""
    import numpy

    return numpy.array([_value(code, dtype) for code in range(256)], "f8")


def _value(code: int, dtype: str) -> float:
    if dtype == "F8_E8M0":  # a power of two and nothing else
        return nan if code == 255 else 2.0 ** (code - 127)
    exponent_bits, mantissa_bits, bias, kind = _EIGHT_BITS[dtype]
    sign = -1.0 if code >> 7 else 1.0
    exponent, mantissa = (code & 0x7F) >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    if kind == "fnuz" and code == 0x80:
        return nan
    if kind == "fn" and code & 0x7F == 0x7F:
        return nan
    if kind == "ieee" and exponent == (1 << exponent_bits) - 1:
        return nan if mantissa else sign * inf
    if exponent == 0:
        return float(sign * mantissa * 2.0 ** (1 - bias - mantissa_bits))
    return float(sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias))
