"""What moved, in one sentence and as a heat column."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptmap
from ckptmap.__main__ import main
from ckptmap.values.moved import Cell, cells

State = dict[str, torch.Tensor]


def bert(layers: int = 12) -> State:
    """A classifier with embeddings, layers of attention and a head."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (20, 8),
        "embeddings.LayerNorm.bias": (8,),
    }
    for layer in range(layers):
        for module in ("query", "key", "value", "output.dense"):
            shapes[f"encoder.layer.{layer}.attention.{module}.weight"] = (8, 8)
            shapes[f"encoder.layer.{layer}.attention.{module}.bias"] = (8,)
    shapes |= {"pooler.dense.weight": (8, 8), "classifier.dense.weight": (8, 8), "classifier.out_proj.bias": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def moved(change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> tuple[State, State]:
    left = bert()
    right = {name: tensor.clone() if (new := change(name, tensor)) is None else new for name, tensor in left.items()}
    return left, right


def sentence(change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> str:
    return str(ckptmap.diff(*moved(change), values=True).values)


def some(part: str, by: float = 1.01) -> Callable[[str, torch.Tensor], torch.Tensor | None]:
    return lambda name, tensor: tensor * by if part in name else None


def test_nothing() -> None:
    assert sentence(lambda name, tensor: None) == "same weights: all 101 tensors are equal bit for bit"


def test_a_head_alone() -> None:
    assert sentence(some("classifier")) == "values: only classifier.* differs (2 of 101 tensors)"


def test_one_tensor_alone() -> None:
    assert sentence(some("out_proj")) == "values: only classifier.out_proj.bias differs (1 of 101 tensors)"
    assert sentence(some("word_emb")) == "values: only embeddings.word_embeddings.weight differs (1 of 101 tensors)"


def test_a_head_and_a_pooler() -> None:
    said = sentence(lambda name, x: x + 1 if name.startswith(("classifier", "pooler")) else None)
    assert said == "values: only pooler.* and classifier.* differ (3 of 101 tensors)"


def test_matrices_of_every_layer_as_a_merged_lora_leaves_them() -> None:
    def merged(name: str, x: torch.Tensor) -> torch.Tensor | None:
        return x + 0.01 if "query.weight" in name or "value.weight" in name else None

    assert sentence(merged) == (
        "values: only encoder.layer.{0..11}.attention.{query,value}.weight differ, "
        "as merging a LoRA leaves it (24 of 101 tensors)"
    )
    # Biases too, or some layers alone: no LoRA leaves that.
    assert "LoRA" not in sentence(some("query"))
    assert "LoRA" not in sentence(some("layer.3.attention.query.weight"))


def test_all_layers_and_frozen_embeddings() -> None:
    def change(name: str, x: torch.Tensor) -> torch.Tensor | None:
        layer = int(name.split(".")[2]) if name.startswith("encoder") else None
        return None if name.startswith("embeddings") else x * (1.001 + 0.001 * (layer or 0))

    assert sentence(change) == (
        "values: all 12 layers moved, the most in layer 11 (relative L2 0.012); pooler.* and classifier.* too; "
        "embeddings frozen (99 of 101 tensors)"
    )


def test_some_layers() -> None:
    def last(name: str, x: torch.Tensor) -> torch.Tensor | None:
        by = {"encoder.layer.3": 1.5, "encoder.layer.10": 1.25, "encoder.layer.11": 1.1}
        return x * found if (found := by.get(".".join(name.split(".")[:3]))) else None

    assert sentence(last) == (
        "values: layers 3, 10–11 of 12 moved, the most in layer 3 (relative L2 0.5); embeddings frozen "
        "(24 of 101 tensors)"
    )


def test_everything() -> None:
    assert sentence(lambda name, x: x * 2) == (
        "values: all 12 layers moved, the most in layer 0 (relative L2 1); "
        "5 tensors outside of layers too (all 101 tensors)"
    )


def test_within_a_tolerance() -> None:
    left, right = moved(some("query", by=1.0001))
    said = str(ckptmap.diff(left, right, values=True, rtol=1e-3).values)
    assert said.startswith(
        "same weights within the tolerance: 77 of 101 tensors are equal bit for bit, the others by less"
    )


def test_cells_are_plain_data_of_layer_and_module() -> None:
    left, right = moved(some("layer.3.attention.query.weight", by=2.0))
    values = ckptmap.diff(left, right, values=True).values
    assert values is not None
    found = {(cell.stack, cell.layer, cell.module): cell for cell in cells(values)}
    assert len(found) == 12 * 4 + 5
    query = found["encoder.layer", 3, "attention.query"]
    assert (query.tensors, query.differing) == (2, 1)
    assert query.statistics is not None
    assert query.statistics.relative_l2 == pytest.approx(1.0)
    assert found["encoder.layer", 4, "attention.query"] == Cell("encoder.layer", 4, "attention.query", 2, 0, None)
    assert found["", None, "pooler.dense"].differing == 0


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    left, right = moved(lambda name, x: x * (1 + 2.0 ** -int(name.split(".")[2])) if "query.w" in name else None)
    paths = [str(tmp_path / f"{side}.safetensors") for side in ("left", "right")]
    for path, state in zip(paths, (left, right), strict=True):
        save_file(state, path)
    return paths


def test_the_table_has_a_line_for_a_pattern_and_a_place_for_a_layer(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *files, "--values"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert (
        "values differ: 12 tensors, 768 of their 768 elements\n~ encoder.layer.{0..11}.attention.query.weight  max"
        in out
    )
    assert "layers 0 to 11 of encoder.layer: █ is a relative L2 of 1, a step down half of it, · equal\n" in out
    assert "  attention.query         █▇▆▅▄▃▂▁▁▁▁▁\n" in out
    assert "  attention.output.dense  ············\n" in out


def test_names_of_what_moved(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *files, "--values", "-q"]) == 1
    names = {f"~ encoder.layer.{n}.attention.query.weight" for n in range(12)}
    assert set(capsys.readouterr().out.splitlines()) == names


def test_json_of_values(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *files, "--values", "--format", "json"]) == 1
    values = json.loads(capsys.readouterr().out)["values"]
    assert (values["differ"], values["compared"], values["same_bits"], values["fetched"]) == (True, 101, 89, 0)
    assert {one["name"] for one in values["tensors"]} == {
        f"encoder.layer.{n}.attention.query.weight" for n in range(12)
    }
    first = values["tensors"][0]["statistics"]
    assert first["relative_l2"] == pytest.approx(1.0)
    assert first["cosine"] == pytest.approx(1.0)
    (cell,) = [one for one in values["layers"] if (one["layer"], one["module"]) == (2, "attention.query")]
    assert (cell["stack"], cell["tensors"], cell["differing"]) == ("encoder.layer", 2, 1)
    assert cell["statistics"]["relative_l2"] == pytest.approx(0.25)
    assert main(["diff", *files, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] is None


def test_json_has_no_infinity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = torch.tensor([1e308], dtype=torch.float64)
    for side, x in (("l", large), ("r", -large)):
        save_file(
            {"x": x, "y": torch.tensor([torch.nan, 1.0 if side == "l" else 2.0])}, tmp_path / f"{side}.safetensors"
        )
    assert (
        main(["diff", *(str(tmp_path / f"{side}.safetensors") for side in "lr"), "--values", "--format", "json"]) == 1
    )
    tensors = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["values"]["tensors"]
    assert [one["statistics"]["max_abs"] for one in tensors] == [None, 1.0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rules", "x.ckptmap"], "--rules: compares values; add --values"),
        (["--atol", "1"], "--atol: compares values; add --values"),
        (["--values", "--size", "a=1"], "--size: is an axis of rules; name them with --rules"),
        (["--prefix", "bert."], "--prefix bert.: must be OLD=NEW; either may be empty"),
        (["--values", "--rules", "x", "--prefix", "a=b"], "--prefix, --rules: names are paired by rules already"),
    ],
)
def test_flags_that_say_nothing(
    files: list[str], flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *files, *flags]) == 2
    assert capsys.readouterr().err.startswith(f"ckptmap: {said}")


@pytest.mark.parametrize("text", ["-1", "x", "inf", "nan"])
def test_a_tolerance_is_a_number(files: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *files, "--values", f"--atol={text}"]) == 2
    assert "--atol" in capsys.readouterr().err


def test_rules_by_command(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "r.ckptmap"
    rules.write_text("encoder.layer.{i}.** <-> blocks.{i}.**\n{part:embeddings|pooler|classifier}.** <-> {part}.**\n")
    left = bert()
    right = {name.replace("encoder.layer", "blocks"): tensor for name, tensor in left.items()}
    save_file(left, tmp_path / "l.safetensors")
    save_file(right, tmp_path / "r.safetensors")
    argv = ["diff", str(tmp_path / "l.safetensors"), str(tmp_path / "r.safetensors"), "--values", "--rules"]
    assert main([*argv, str(rules)]) == 0
    assert capsys.readouterr().out.endswith("same weights: all 101 tensors are equal bit for bit\n")
    rules.write_text("encoder.layer.{i}.** <-> blocks.{i}.**\n")
    assert main([*argv, str(rules)]) == 1
    assert "only left: 5 tensors" in capsys.readouterr().out
    rules.write_text("encoder <->\n")
    assert main([*argv, str(rules)]) == 2
    assert "r.ckptmap:1" in capsys.readouterr().err
