"""Rules made at random, on tensors of random bits: every element stands where the line says, and comes home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptmap.conversion.convert import convert
from ckptmap.errors import PlanError
from ckptmap.rules.rules import Rules
from tests.convert.plans import State, read, same_bits, save
from tests.convert.test_state_dicts import DTYPES, any_bits

Factor = str | tuple[tuple[str, ...], ...]
"""An axis (`*h` for a repeated one), or a sum of blocks."""


@dataclass(frozen=True)
class Term:
    """A name (or `0`, `_`), and its dimensions; which blocks it holds, counted through the side."""

    name: str
    dims: tuple[tuple[Factor, ...], ...]
    blocks: tuple[int, ...]

    def text(self) -> str:
        def factor(one: Factor) -> str:
            return one if isinstance(one, str) else f"[{' + '.join(' '.join(block) or '1' for block in one)}]"

        dims = [
            f"({' '.join(map(factor, dim))})" if len(dim) > 1 else factor(dim[0]) if dim else "1" for dim in self.dims
        ]
        return " ".join(dims) or "scalar"

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        return tuple(prod(_length(factor, sizes) for factor in dim) for dim in self.dims)

    def position(self, block: int, at: dict[str, int], sizes: dict[str, int]) -> tuple[int, ...]:
        """Where the element of a block stands: mixed radix, block after block. The plainest reading of a shape."""
        found = []
        for dim in self.dims:
            index = 0
            for factor in dim:
                if isinstance(factor, str):
                    inner = at[factor.removeprefix("*")]
                else:
                    inner = 0
                    for axis in factor[block]:
                        inner = inner * sizes[axis] + at[axis]
                    inner += sum(prod(sizes[axis] for axis in one) for one in factor[:block])
                index = index * _length(factor, sizes) + inner
            found.append(index)
        return tuple(found)


def _length(factor: Factor, sizes: dict[str, int]) -> int:
    if isinstance(factor, str):
        return sizes[factor.removeprefix("*")]
    return sum(prod(sizes[axis] for axis in block) for block in factor)


@dataclass(frozen=True)
class Case:
    """A rule, and what stands on its sides."""

    sides: tuple[tuple[Term, ...], tuple[Term, ...]]
    sizes: dict[str, int]
    layers: int
    own: tuple[tuple[str, ...], ...]
    shared: tuple[str, ...]
    stacked: int | None

    @property
    def text(self) -> str:
        names, shapes = (
            [", ".join(map(read_of, side)) for side in self.sides] for read_of in (lambda t: t.name, Term.text)
        )
        return f"{names[0]} <-> {names[1]} : {shapes[0]} <-> {shapes[1]}"

    def tensors(self, side: int, dtype: torch.dtype) -> State:
        return {
            self.name(side, term, {"i": i, "e": e}): any_bits(term.shape(self.sizes), dtype)
            for term in self.sides[side]
            if term.name not in "0_"
            for i in range(self.layers)
            for e in range(self.sizes["e"] if self.stacked == side else 1)
        }

    def name(self, side: int, term: Term, at: dict[str, int]) -> str:
        return term.name.format(**at)

    def elements(self) -> Iterator[tuple[tuple[str, tuple[int, ...]] | str, ...]]:
        """Each element as it is called on the left and on the right; `0` or `_` where it has no tensor."""
        for block, axes in enumerate(self.own):
            every = sorted({*axes, *self.shared, "i", "e", "h"})
            for numbers in product(*(range(self.layers if axis == "i" else self.sizes[axis]) for axis in every)):
                at = dict(zip(every, numbers, strict=True))
                ends: list[tuple[str, tuple[int, ...]] | str] = []
                for side, terms in enumerate(self.sides):
                    term = next(term for term in terms if block in term.blocks)
                    if term.name in "0_":
                        ends.append(term.name)
                    else:
                        place = term.position(term.blocks.index(block), at, self.sizes)
                        ends.append((self.name(side, term, at), place))
                yield tuple(ends)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    count = draw(st.integers(1, 3))
    own = [tuple(f"{axis}{number}" for axis in draw(st.sampled_from(["", "x", "xy"]))) for number in range(count)]
    shared = draw(st.sampled_from([(), ("g",), ("g", "m")]))
    stacked = draw(st.sampled_from([None, 0, 1]))
    repeated = draw(st.booleans())
    lost = draw(st.sampled_from(["", "", "0", "_"]))
    if lost:
        own.append(("z",))
    layers = draw(st.sampled_from([1, 2]))
    sizes = {axis: draw(st.integers(1, 3)) for axis in sorted({"e", "g", "h", "m", "z", *(a for o in own for a in o)})}
    if stacked is not None:
        sizes["e"] = draw(st.sampled_from([1, 3, 11]))

    def terms(side: int) -> tuple[Term, ...]:
        cuts = sorted(draw(st.sets(st.integers(1, count - 1), max_size=count - 1))) if count > 1 else []
        groups = [tuple(range(a, b)) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
        # Padding is part of a tensor that has something else in it; what has no home on the right is a term there.
        if lost and (lost == "0") == (side == 1):
            groups[-1] = (*groups[-1], count)
        elif lost:
            groups.append((count,))
        made = []
        for number, group in enumerate(groups):
            bare = bool(lost) and group == (count,)
            factors: list[Factor] = list(shared)
            factors += ["e"] if stacked == 1 - side or (bare and stacked is not None) else []
            factors += ["*h"] if repeated and side == 1 and not bare else []
            factors += [tuple(own[block] for block in group)] if len(group) > 1 else list(own[group[0]])
            factors = draw(st.permutations(factors))
            dims: list[tuple[Factor, ...]] = []
            for factor in factors:
                if dims and draw(st.booleans()):
                    dims[-1] = (*dims[-1], factor)
                else:
                    dims.append((factor,))
            if draw(st.booleans()):
                dims.insert(draw(st.integers(0, len(dims))), ())
            name = f"{'ab'[side]}{number}" + (".{i}" if layers > 1 else "") + (".{e}" if stacked == side else "")
            made.append(Term(lost if bare else name, tuple(dims), group))
        return tuple(made)

    return Case((terms(0), terms(1)), sizes, layers, tuple(own), shared, stacked)


@settings(deadline=None, max_examples=250)
@given(cases(), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_every_element_is_where_the_rule_says_and_comes_home(case: Case, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    rules, state, kept = Rules.parse(case.text), case.tensors(0, dtype), {}
    there = convert(rules, state, sizes=case.sizes, residue=kept)
    assert isinstance(there, dict)
    raw = {side: _raw(tensors) for side, tensors in (("left", state), ("right", there))}
    for left, right in case.elements():
        if isinstance(left, str):
            assert not isinstance(right, str)
            assert raw["right"][right[0]][right[1]] == bytes(dtype.itemsize)
        elif not isinstance(right, str):
            assert raw["left"][left[0]][left[1]] == raw["right"][right[0]][right[1]], (left, right)
    again = convert(rules, there, back=True, sizes=case.sizes, residue=kept)
    assert same_bits(again, state)  # type: ignore[arg-type]
    inverse = convert(rules.inverse(), there, sizes=case.sizes, residue=kept)
    assert same_bits(inverse, state)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=100)
@given(cases())
def test_sizes_that_shapes_tell_are_the_right_ones(case: Case) -> None:
    """Without sizes it is refused, or the same."""
    rules, state = Rules.parse(case.text), case.tensors(0, torch.float32)
    wanted = convert(rules, state, sizes=case.sizes)
    for told in ({}, {"e": case.sizes["e"], "h": case.sizes["h"], "z": case.sizes["z"]}):
        with suppress(PlanError):
            assert same_bits(convert(rules, state, sizes=told), wanted)  # type: ignore[arg-type]


def _raw(tensors: State) -> dict[str, dict[tuple[int, ...], bytes]]:
    """The bytes of every element by its place."""
    found = {}
    for name, tensor in tensors.items():
        size = tensor.element_size()
        data = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
        places = product(*map(range, tensor.shape))
        found[name] = {place: data[at * size : (at + 1) * size] for at, place in enumerate(places)}
    return found


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from([dtype for dtype in DTYPES if dtype != torch.complex128]), st.integers(0, 2**31))
def test_files_hold_the_same_and_lead_home_by_themselves(case: Case, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    rules, state = Rules.parse(case.text), case.tensors(0, dtype)
    with TemporaryDirectory() as folder:
        source, file, home = (Path(folder) / f"{name}.safetensors" for name in "abc")
        convert(rules, save(source, state), file, sizes=case.sizes, residue=Path(folder) / "kept.safetensors")
        assert same_bits(read(file), convert(rules, state, sizes=case.sizes))  # type: ignore[arg-type]
        convert(None, file, home, back=True, residue=Path(folder) / "kept.safetensors")
        assert same_bits(read(home), state)
