"""Same weights under another format, sharding, order, name or layout; and one flipped bit, wherever it is."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ckptmap
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.values.compare import BLOCK
from ckptmap.values.values import Values
from tests.convert.test_handbuilt import RULES

PADDED = """\
tie right wte = head
size p = 2
size b = 3
wte, 0 <-> wte : v m, p m <-> [v + p] m
q, _ <-> qk    : a, b <-> [a + b]
"""
FORMS = ("roberta-cls", "roberta-cls-sharded", "roberta-cls-bin")


def values(left: object, right: object, **how: object) -> Values:
    found = ckptmap.diff(left, right, values=True, **how).values  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.ckptmap"
    path.write_text(RULES)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_one_model(fixtures: Path, form: str) -> None:
    found = ckptmap.diff(fixtures / "roberta-cls", fixtures / form, values=True)
    assert not found
    assert str(found.values) == "same weights: all 41 tensors are equal bit for bit"
    assert ckptmap.digest(fixtures / form) == ckptmap.digest(fixtures / "roberta-cls")


@pytest.mark.parametrize("form", FORMS)
def test_a_hand_built_model_through_its_rules(fixtures: Path, tmp_path: Path, rules: Path, form: str) -> None:
    mine = tmp_path / "mine.safetensors"
    ckptmap.convert(rules, fixtures / "roberta-cls", mine)
    found = ckptmap.diff(fixtures / form, mine, values=True, rules=rules)
    assert not found
    assert found.values is not None
    assert found.values.set_aside == (("left", "roberta.embeddings.position_embeddings.weight[0:0:2]"),)
    assert str(found.values).startswith(f"same weights: all {len(load_file(mine))} tensors are equal bit for bit; ")


def test_every_bit_counts_through_rules(fixtures: Path, tmp_path: Path, rules: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    ckptmap.convert(rules, fixtures / "roberta-cls", mine)
    whole = load_file(mine)
    for name, tensor in whole.items():
        flipped = tensor.clone()
        flipped.view(torch.int32).flatten()[random.Random(name).randrange(tensor.numel())] ^= 1
        save_file(whole | {name: flipped}, tmp_path / "flipped.safetensors")
        found = ckptmap.diff(fixtures / "roberta-cls", tmp_path / "flipped.safetensors", values=True, rules=rules)
        assert found
        assert found.values is not None
        assert [one.name for one in found.values.differing] == [name]
        assert found.values.differing[0].statistics is not None
        assert found.values.differing[0].statistics.changed == 1


def test_what_no_rule_covers_is_a_difference(fixtures: Path, tmp_path: Path, rules: Path) -> None:
    state = ckptmap.convert(rules, fixtures / "roberta-cls")
    found = ckptmap.diff(fixtures / "roberta-cls", {**state, "new": torch.ones(2)}, values=True, rules=rules)
    assert found.only_right == ("new",)
    assert found
    left = load_file(fixtures / "roberta-cls" / "model.safetensors") | {"old": torch.ones(2)}
    assert ckptmap.diff(left, state, values=True, rules=rules).only_left == ("old",)


def test_rules_with_ties_zeros_and_parts_of_the_right_alone() -> None:
    rules = ckptmap.Rules.parse(PADDED)
    left = {"wte": torch.randn(3, 4), "q": torch.randn(2)}
    padded = torch.cat([left["wte"], torch.zeros(2, 4)])
    right = {"wte": padded, "head": padded.clone(), "qk": torch.cat([left["q"], torch.randn(3)])}
    found = values(left, right, rules=rules)
    assert not found
    assert [one.name for one in found.tensors] == ["wte", "head", "qk"]
    assert found.set_aside == (("right", "qk[0:2:3]"),)
    right["head"][0, 0] += 1
    right["wte"][4, 0] = 1e-9
    right["qk"][0] += 1
    assert [one.name for one in values(left, right, rules=rules).differing] == ["wte", "head", "qk"]
    with pytest.raises(ConvertError, match="padding elements are not zero"):
        values(right | {"head": right["wte"]}, left, rules=rules.inverse())


def test_rules_across_dtypes(fixtures: Path, tmp_path: Path, rules: Path) -> None:
    ckptmap.convert(rules, fixtures / "roberta-cls", tmp_path / "half.safetensors", dtype="bf16")
    found = ckptmap.diff(fixtures / "roberta-cls", tmp_path / "half.safetensors", values=True, rules=rules)
    assert len(found.dtype_differs) == len(load_file(tmp_path / "half.safetensors"))
    assert "RIGHT is LEFT rounded to BF16" in str(found.values)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_is_found_and_named(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("bits")
    sizes = data.draw(
        st.lists(st.sampled_from([1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]), min_size=1, max_size=4)
    )
    tensors = {f"x{n}": torch.full((size,), n, dtype=torch.uint8) for n, size in enumerate(sizes)}
    save_file(tensors, folder / "left.safetensors")
    name = data.draw(st.sampled_from(sorted(tensors)))
    place, bit = data.draw(st.integers(0, tensors[name].numel() - 1)), data.draw(st.integers(0, 7))
    tensors[name][place] ^= 1 << bit
    save_file(tensors, folder / "right.safetensors")
    found = values(folder / "left.safetensors", folder / "right.safetensors")
    assert [one.name for one in found.differing] == [name]
    assert found.differing[0].statistics is not None
    assert found.differing[0].statistics.max_abs == 1 << bit


def test_a_bit_of_a_tensor_that_several_workers_share(tmp_path: Path) -> None:
    left = torch.zeros(20_000_000, dtype=torch.bfloat16)
    right = left.clone()
    right[19_999_999] = 3.0
    save_file({"x": left, "y": left.clone()}, tmp_path / "l.safetensors")
    save_file({"y": left.clone(), "x": right}, tmp_path / "r.safetensors")
    (one,) = values(tmp_path / "l.safetensors", tmp_path / "r.safetensors").differing
    assert one.statistics is not None
    assert (one.name, one.statistics.elements, one.statistics.changed, one.statistics.max_abs) == (
        "x",
        20_000_000,
        1,
        3,
    )


def test_signs_of_zero_and_bits_of_nan_are_other_bits_and_the_same_number() -> None:
    zero, nan = torch.zeros(3), torch.full((3,), torch.nan)
    other = nan.clone()
    other.view(torch.int32)[1] ^= 1
    found = values({"a": zero, "b": nan}, {"a": -zero, "b": other})
    assert found
    assert [one.same_numbers for one in found.differing] == [True, True]
    assert "equal as numbers (−0.0 against 0.0, or NaNs of other bits)" in str(found)
    assert not values({"a": zero, "b": nan}, {"a": -zero, "b": other}, atol=0.0)
    assert not values({"b": nan}, {"b": nan.clone()})


def test_strides_and_shared_storages_of_torch_files(tmp_path: Path) -> None:
    base = torch.randn(40, 30)
    state = {"t": base.T, "row": base[3], "all": base, "again": base}
    torch.save(state, tmp_path / "views.bin")
    plain = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(plain, tmp_path / "plain.safetensors")
    assert not ckptmap.diff(tmp_path / "views.bin", tmp_path / "plain.safetensors", values=True)
    assert not ckptmap.diff(state, tmp_path / "views.bin", values=True)
    conjugated = torch.randn(4, dtype=torch.cfloat).conj()
    assert not ckptmap.diff({"c": conjugated}, {"c": conjugated.resolve_conj()}, values=True)
    plain["t"][0, 1] += 1
    assert [one.name for one in values(tmp_path / "views.bin", plain).differing] == ["t"]
    assert [one.name for one in values(plain, state).differing] == ["t"]


def test_a_prefix(fixtures: Path, tmp_path: Path) -> None:
    state = load_file(fixtures / "roberta-cls" / "model.safetensors")
    bare = {name.removeprefix("roberta."): tensor for name, tensor in state.items()}
    found = ckptmap.diff(fixtures / "roberta-cls", bare, values=True, prefix=("roberta.", ""))
    assert not found
    assert len(found.same) == 41
    assert not ckptmap.diff(bare, {f"module.{name}": tensor for name, tensor in bare.items()}, prefix=("", "module."))
    with pytest.raises(CheckpointError, match=r"no name starts with 'bert.'"):
        ckptmap.diff(state, bare, prefix=("bert.", ""))
    with pytest.raises(CheckpointError, match="two names would be one"):
        ckptmap.diff({"a.x": torch.ones(1), "x": torch.ones(1)}, bare, prefix=("a.", ""))


def test_a_prefix_finds_the_bytes_of_the_old_name(tmp_path: Path) -> None:
    torch.save({"a.x": torch.ones(3), "a.y": torch.zeros(3)}, tmp_path / "m.bin")
    left = ckptmap.open_checkpoint(tmp_path / "m.bin").with_prefix("a.", "b.")
    assert {name: left.load(name).tolist() for name in left} == {"b.x": [1, 1, 1], "b.y": [0, 0, 0]}
    assert left["b.x"].name == "b.x"


def test_a_class_has_no_values(fixtures: Path) -> None:
    with torch.device("meta"):
        module = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="no values"):
        ckptmap.diff(module, torch.nn.Linear(2, 2), values=True)


def test_no_bytes_are_read_of_what_is_one_file(fixtures: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    link = tmp_path / "link.safetensors"
    link.symlink_to(fixtures / "roberta-cls" / "model.safetensors")
    assert not ckptmap.diff(fixtures / "roberta-cls", link, values=True, progress=lambda *done: seen.append(done))
    assert seen == []


def test_one_index_and_another_order(fixtures: Path, tmp_path: Path) -> None:
    state = load_file(fixtures / "roberta-cls" / "model.safetensors")
    names = sorted(state, key=lambda name: random.Random(name).random())
    shards = {f"model-0000{n + 1}-of-00004.safetensors": names[n::4] for n in range(4)}
    for shard, held in shards.items():
        save_file({name: state[name] for name in held}, tmp_path / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not ckptmap.diff(tmp_path, fixtures / "roberta-cls-sharded", values=True)
    assert ckptmap.digest(tmp_path) == ckptmap.digest(fixtures / "roberta-cls-bin")
