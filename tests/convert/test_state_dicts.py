"""Plans run on state dicts: every bit survives, and what the data refuse is said."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptmap.conversion.convert import convert
from ckptmap.errors import ConvertError
from ckptmap.rules.plan import BoundBlock, Equation, Piece, Plan
from tests.convert.plans import (
    State,
    bits,
    equation,
    fused,
    fused_state,
    plan,
    rename,
    rows,
    same_bits,
    whole,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.complex128, torch.int8, torch.bool]
DTYPES += [torch.float8_e4m3fn]


def any_bits(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    count = prod(shape) * torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, dict[str, tuple[int, ...]]]:
    """Blocks of `g x y`, one tensor each on the left and laid end to end along x on the right, axes in any order."""
    equations, shapes, left, right = [], {}, {}, {}
    for number in range(draw(st.integers(1, 3))):
        groups, last = draw(st.integers(1, 3)), draw(st.integers(0, 4))
        lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        total, start, blocks, names = sum(lengths), 0, [], []
        target = f"t{number}"
        for place, length in enumerate(lengths):
            name = f"s{number}.{place}"
            order = tuple(draw(st.permutations(range(3))))
            shared = (groups, length, last)
            split: list[int] = [0, 0, 0]
            for axis, stands in enumerate(order):
                split[stands] = shared[axis]
            merged = draw(st.booleans())
            shapes[name] = (split[0] * split[1], split[2]) if merged else tuple(split)
            left[name] = shapes[name]
            there = Piece(target, (groups, total, last), ((1, start, length),), shared, (0, 1, 2))
            blocks.append(BoundBlock(shared, Piece(name, tuple(split), (), tuple(split), order), there))
            names.append(name)
            start += length
        right[target] = (groups * total, last)
        equations.append(Equation(number + 1, tuple(names), (target,), tuple(blocks), False))
    return Plan(tuple(equations), left, right), shapes


@settings(deadline=None, max_examples=60)
@given(plans(), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_there_and_back_is_the_identity_on_bits(
    made: tuple[Plan, dict[str, tuple[int, ...]]], dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    state = {name: any_bits(shape, dtype) for name, shape in made[1].items()}
    there = convert(made[0], state)
    assert isinstance(there, dict)
    assert {name: tuple(tensor.shape) for name, tensor in there.items()} == made[0].right
    assert same_bits(convert(made[0], there, back=True), state)  # type: ignore[arg-type]
    assert same_bits(convert(made[0].inverse(), there), state)  # type: ignore[arg-type]


def test_values_are_where_the_rules_say() -> None:
    state = fused_state()
    made = convert(fused(), state)
    assert isinstance(made, dict)
    assert torch.equal(made["qk"], torch.cat([state["q"], state["k"]]))
    assert torch.equal(made["b"], state["a"].T)
    assert made["m"] is not state["n"]
    assert made["m"].data_ptr() == state["n"].data_ptr()


def test_nan_payloads_and_negative_zero_survive() -> None:
    state = fused_state()
    state["a"] = torch.tensor([0x7FC00001, 0x7F800001, -0x80000000] * 5, dtype=torch.int32).view(torch.float32)
    state["a"] = state["a"].reshape(3, 5)
    there = convert(fused(), state)
    assert bits(there["b"]) == bits(state["a"].T)  # type: ignore[index]


def test_tensors_that_are_conjugated_or_strided() -> None:
    state = {"a": torch.randn(5, 3, dtype=torch.complex128).conj().T}
    there = convert(plan(fused().equations[1]), state)
    assert torch.equal(there["b"], state["a"].T)  # type: ignore[index]


def padded() -> Plan:
    return plan(
        equation(
            ["w"],
            ["v"],
            (whole("w", 3, 2), rows("v", 0, 3, 5, 2), (3, 2)),
            ("zeros", rows("v", 3, 2, 5, 2), (2, 2)),
            line=7,
        )
    )


def test_zeros_are_written_and_checked() -> None:
    state = {"w": torch.randn(3, 2)}
    there = convert(padded(), state)
    assert isinstance(there, dict)
    assert not there["v"][3:].any()
    assert same_bits(convert(padded(), there, back=True), state)  # type: ignore[arg-type]
    there["v"][4, 1] = -0.0
    with pytest.raises(ConvertError, match=r"v: 1 of 4 padding elements are not zero, as the rule in line 7 says"):
        convert(padded(), there, back=True)


def repeated() -> Plan:
    """`m <-> *h m`."""
    there = Piece("v", (4, 3), (), (4, 3), (0, 1), (0,))
    return plan(equation(["w"], ["v"], (Piece("w", (3,), (), (1, 3), (0, 1)), there, (1, 3)), line=4))


def test_repeated_axes_are_written_everywhere_and_checked() -> None:
    state = {"w": torch.randn(3)}
    there = convert(repeated(), state)
    assert isinstance(there, dict)
    assert torch.equal(there["v"], state["w"].expand(4, 3))
    assert same_bits(convert(repeated(), there, back=True), state)  # type: ignore[arg-type]
    there["v"][2, 1] += 1
    with pytest.raises(ConvertError, match=r"v: the values along an axis that the rule in line 4 repeats \(`\*`\)"):
        convert(repeated(), there, back=True)


def test_a_name_twice_is_the_same_tensor_twice() -> None:
    twice = plan(
        equation(["x", "x"], ["a", "b"], (whole("x", 2), whole("a", 2), (2,)), (whole("x", 2), whole("b", 2), (2,)))
    )
    there = convert(twice, {"x": torch.randn(2)})
    assert isinstance(there, dict)
    assert torch.equal(there["a"], there["b"])
    assert list(convert(twice, there, back=True)) == ["x"]  # type: ignore[arg-type]
    with pytest.raises(ConvertError, match=r"x: the rule in line 1 reads it from a and b, which are not equal"):
        convert(twice, {"a": torch.zeros(2), "b": torch.ones(2)}, back=True)


def tied() -> Plan:
    return plan(rename("a", "c", 2), left_ties=(("b", "a"),), right_ties=(("d", "c"),))


def test_ties() -> None:
    value = torch.randn(2)
    for state in ({"a": value}, {"a": value, "b": value}, {"a": value, "b": value.clone()}):
        made = convert(tied(), state)
        assert isinstance(made, dict)
        assert made["c"] is made["d"]
    with pytest.raises(ConvertError, match="b differs from a, and the rules say that they are tied"):
        convert(tied(), {"a": value, "b": value + 1})


def homeless() -> Plan:
    """`[k + p] <-> _, p` and a buffer, and a head the left side does not have."""
    return plan(
        equation(
            ["w"],
            ["v"],
            (rows("w", 0, 2, 5, 3), "none", (2, 3)),
            (rows("w", 2, 3, 5, 3), whole("v", 3, 3), (3, 3)),
            line=3,
        ),
        equation(["buffer"], [], (whole("buffer", 4), "none", (4,)), line=4),
        equation([], ["head"], ("none", whole("head", 2, 3), (2, 3)), line=5),
    )


def test_a_residue_in_memory_makes_it_whole() -> None:
    state = {"w": torch.randn(5, 3), "buffer": torch.randn(4)}
    kept: State = {}
    there = convert(homeless(), state, residue=kept)
    assert isinstance(there, dict)
    assert list(there) == ["v"]
    assert set(kept) == {"w[0:0:2]", "buffer"}
    assert same_bits(convert(homeless(), there, back=True, residue=kept) | {}, state)  # type: ignore[arg-type, operator]


def test_a_part_without_a_source_is_refused() -> None:
    with pytest.raises(ConvertError, match=r"w: a part of it, \[0:0:2\], has no source \(`_` in line 3\); give"):
        convert(homeless(), {"v": torch.zeros(3, 3), "head": torch.zeros(2, 3)}, back=True)


def test_a_base_gives_what_has_no_source() -> None:
    base = {"w": torch.randn(5, 3), "buffer": torch.randn(4)}
    there = {"v": torch.zeros(3, 3), "head": torch.zeros(2, 3)}
    made = convert(homeless(), there, back=True, base=base)
    assert isinstance(made, dict)
    assert torch.equal(made["w"][:2], base["w"][:2])
    assert not made["w"][2:].any()
    assert torch.equal(made["buffer"], base["buffer"])
    with pytest.raises(ConvertError, match=r"w: is \[6, 3\] in the base and would be \[5, 3\]"):
        convert(homeless(), there, back=True, base={"w": torch.zeros(6, 3)})


def test_parts_of_different_dtypes() -> None:
    state = fused_state()
    state["k"] = state["k"].bfloat16()
    with pytest.raises(ConvertError, match=r"qk: its parts have different dtypes \(q is F32, k is BF16\)"):
        convert(fused(), state)
    made = convert(fused(), state, dtype="bf16")
    assert {tensor.dtype for tensor in made.values()} == {torch.bfloat16}  # type: ignore[union-attr]


def test_a_dtype_that_is_none() -> None:
    with pytest.raises(ConvertError, match="--dtype int8: no floating-point dtype of this name"):
        convert(fused(), fused_state(), dtype="int8")


def test_two_rules_onto_one_name() -> None:
    twice = plan(rename("a", "x", 2, line=1), rename("b", "x", 2, line=2))
    with pytest.raises(ConvertError, match="x: written by the rule in line 2 and by the rule in line 1"):
        convert(twice, {"a": torch.zeros(2), "b": torch.zeros(2)})
