"""The digest is of the content alone; and what stands out in the values of one checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptmap
from ckptmap.__main__ import main
from ckptmap.errors import CheckpointError
from ckptmap.spec import DTYPE_BITS, TensorSpec
from tests.values.files import Tensors, write


def by_hand(tensors: Tensors) -> str:
    lines = [
        json.dumps([name, dtype, list(shape), hashlib.sha256(data).hexdigest()]) + "\n"
        for name, (dtype, shape, data) in sorted(tensors.items())
    ]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def test_it_is_what_the_docs_say_for_every_dtype_and_any_name(tmp_path: Path) -> None:
    tensors: Tensors = {
        f'{n}\n→"{dtype}': (dtype, (4, 8), bytes(range(n, n + TensorSpec("", (4, 8), dtype).nbytes % 200)))
        for n, dtype in enumerate(DTYPE_BITS)
        if dtype not in ("C128", "I64", "U64", "F64", "C64")
    }
    tensors |= {"long": ("I64", (3, 8), bytes(192)), "scalar": ("F64", (), bytes(8)), "none": ("C64", (0, 5), b"")}
    path = write(tmp_path / "m.safetensors", tensors)
    assert ckptmap.digest(path) == by_hand(tensors)
    backwards = write(tmp_path / "b.safetensors", dict(reversed(tensors.items())))
    assert ckptmap.digest(backwards) == by_hand(tensors)


def test_name_dtype_shape_and_every_bit_count() -> None:
    base = {"a": torch.arange(6, dtype=torch.float32)}
    flipped = base["a"].clone()
    flipped.view(torch.int32)[3] ^= 1
    others = [
        {"b": base["a"]},
        {"a": base["a"].view(torch.int32)},
        {"a": base["a"].reshape(2, 3)},
        {"a": flipped},
        {"a": base["a"], "b": base["a"]},
        {},
    ]
    digests = {ckptmap.digest(state) for state in (base, *others)}
    assert len(digests) == 1 + len(others)


def test_views_and_live_modules(tmp_path: Path) -> None:
    base = torch.randn(5, 4)
    torch.save({"t": base.T, "w": base}, tmp_path / "m.bin")
    assert ckptmap.digest(tmp_path / "m.bin") == ckptmap.digest({"w": base, "t": base.T.contiguous()})
    linear = torch.nn.Linear(3, 4)
    assert ckptmap.digest(linear) == ckptmap.digest(linear.state_dict())


def test_there_is_none_of_what_cannot_be_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "s": torch.ones(2, 2).to_sparse()}, tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match="no digest of all of it; --exclude them"):
        ckptmap.digest(tmp_path / "m.bin")
    assert ckptmap.digest(ckptmap.open_checkpoint(tmp_path / "m.bin", exclude="s")) == ckptmap.digest(
        {"a": torch.ones(2)}
    )
    assert ckptmap.examine(tmp_path / "m.bin").digest is None


def test_the_command_prints_it(fixtures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(fixtures / "roberta-cls")
    assert main(["inspect", folder, "--digest", "-q"]) == 0
    alone = capsys.readouterr().out.strip()
    assert re.fullmatch("sha256:[0-9a-f]{64}", alone)
    assert main(["inspect", folder, "--digest"]) == 0
    assert re.search(rf"^digest +{alone}$", capsys.readouterr().out, re.MULTILINE)
    for flags in (["--digest"], ["--digest", "--values"]):
        assert main(["inspect", folder, "--format", "json", *flags]) == 0
        assert json.loads(capsys.readouterr().out)["digest"] == alone
    assert main(["inspect", folder, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] is None


def test_what_stands_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.randn(6, 5)
    broken = torch.randn(2, 50).bfloat16()
    broken[0, 3], broken[1, 1], broken[1, 2] = torch.nan, torch.inf, -torch.inf
    save_file(
        {
            "wte.weight": weight,
            "lm_head.weight": weight.clone(),
            "other": weight.reshape(5, 6).clone(),
            "norm.weight": torch.ones(7).half(),
            "zeros": torch.zeros(300_000),
            "zeros2": torch.zeros(300_000),
            "minus": torch.full((4,), -0.0),
            "flags": torch.tensor([True, True]),
            "one": torch.ones(1),
            "broken": broken,
            "eight": torch.tensor([1.0, torch.nan]).to(torch.float8_e5m2),
        },
        tmp_path / "m.safetensors",
    )
    found = ckptmap.examine(tmp_path / "m.safetensors", evidence=False)
    assert set(map(frozenset, found.equal)) == {frozenset({"wte.weight", "lm_head.weight"})}
    assert found.constant == {"norm.weight": 1.0, "zeros": 0.0, "zeros2": 0.0, "minus": -0.0, "flags": True}
    assert {name: (one.nan, one.infinite) for name, one in found.not_finite.items()} == {
        "broken": (1, 2),
        "eight": (1, 0),
    }
    assert found.evidence == {}
    assert main(["inspect", str(tmp_path / "m.safetensors"), "--values"]) == 0
    out = capsys.readouterr().out
    assert "not finite: 2 tensors\n- broken  1 NaN, 2 infinite  of 100\n- eight   1 NaN, 0 infinite  of 2" in out
    assert "equal bits: 1 group\n  lm_head.weight = wte.weight  [6, 5]  F32" in out
    assert "one value throughout: 5 tensors" in out


def test_a_last_element_that_differs_is_no_constant() -> None:
    state = {"x": torch.zeros(200_001), "y": torch.zeros(3, dtype=torch.complex64)}
    state["x"][-1] = 1.0
    assert ckptmap.examine(state, evidence=False).constant == {"y": 0j}


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3"])
def test_zeros_of_packed_dtypes(tmp_path: Path, dtype: str) -> None:
    size = 16 * DTYPE_BITS[dtype] // 8
    path = write(tmp_path / "m.safetensors", {"z": (dtype, (16,), bytes(size)), "o": (dtype, (16,), b"\1" * size)})
    assert ckptmap.examine(path).constant == {"z": 0}


def test_stored_ties_and_fresh_tensors(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = torch.randn(8, 8)
    torch.save({"a": shared, "b": shared, "c": shared.clone()}, tmp_path / "m.bin")
    assert ckptmap.examine(tmp_path / "m.bin").equal == (("a", "b", "c"),)
    found = ckptmap.examine(fixtures / "gpt2-tied")
    assert found.evidence["transformer.wte.weight"].says == "untouched"
    trained = load_file(fixtures / "gpt2-tied" / "model.safetensors")
    assert (
        ckptmap.examine({name: x * 1.2 + 0.1 for name, x in trained.items()}).evidence["transformer.wte.weight"].says
        == "trained"
    )
    assert main(["inspect", str(fixtures / "gpt2-tied"), "--values", "--format", "json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert {one["name"] for one in values["untouched"] if one["says"] == "untouched"} >= {"transformer.wte.weight"}
    assert {"name": "transformer.ln_f.weight", "value": 1.0} in values["constant"]


def test_nothing_stands_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_file({"ids": torch.arange(9)}, tmp_path / "m.safetensors")
    assert main(["inspect", str(tmp_path / "m.safetensors"), "--values"]) == 0
    assert capsys.readouterr().out.endswith("values\n  nothing stands out\n")
