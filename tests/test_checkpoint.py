"""Opening what people have, and reading values one tensor at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

import ckptmap
from ckptmap.errors import CheckpointError


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.numpy().tobytes() == right.numpy().tobytes()


@pytest.mark.parametrize("name", ["roberta-cls", "roberta-cls-sharded", "roberta-cls-bin"])
def test_one_model_in_three_forms_is_one_inventory_with_the_same_values(fixtures: Path, name: str) -> None:
    truth = AutoModelForSequenceClassification.from_pretrained(fixtures / "roberta-cls").state_dict()
    with ckptmap.open_checkpoint(fixtures / name) as checkpoint:
        assert {n: (tuple(t.shape), "F32") for n, t in truth.items()} == {
            n: (spec.shape, spec.dtype) for n, spec in checkpoint.items()
        }
        assert checkpoint.names == "on disk"
        assert checkpoint.config is not None
        assert checkpoint.config["architectures"] == ["RobertaForSequenceClassification"]
        for tensor_name, tensor in truth.items():
            assert same_bits(checkpoint.load(tensor_name), tensor)
            assert checkpoint.read(tensor_name) == tensor.numpy().tobytes()


def test_totals(fixtures: Path) -> None:
    checkpoint = ckptmap.open_checkpoint(fixtures / "roberta-cls-sharded")
    truth = load_file(fixtures / "roberta-cls" / "model.safetensors")
    assert checkpoint.parameters == sum(tensor.numel() for tensor in truth.values())
    assert checkpoint.nbytes == checkpoint.parameters * 4
    assert checkpoint.dtypes == {"F32": len(truth)}
    assert dict(checkpoint.files) == {
        path.name: path.stat().st_size for path in (fixtures / "roberta-cls-sharded").glob("*.safetensors")
    }
    assert checkpoint.file_of("classifier.dense.weight") in checkpoint.files


def test_a_module_and_its_ties() -> None:
    module = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    module["head"].weight = module["embed"].weight
    checkpoint = ckptmap.open_checkpoint(module)
    assert list(checkpoint) == ["embed.weight", "head.weight"]
    assert checkpoint.ties == (("embed.weight", "head.weight"),)
    assert checkpoint.parameters == 15
    assert checkpoint.names == "in memory"
    assert checkpoint.load("head.weight").data_ptr() == module["embed"].weight.data_ptr()
    assert checkpoint.read("head.weight") == module["head"].weight.detach().numpy().tobytes()


def test_a_module_on_meta_has_names_and_ties_only_where_they_are() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    checkpoint = ckptmap.open_checkpoint(module)
    assert len(checkpoint) == 4
    assert checkpoint.ties == ()


def test_a_state_dict_in_memory() -> None:
    state = {"a": torch.arange(6).reshape(2, 3).t(), "_extra_state": {"x": 1}}
    checkpoint = ckptmap.open_checkpoint(state)
    assert checkpoint["a"] == ckptmap.TensorSpec("a", (3, 2), "I64")
    assert checkpoint.read("a") == state["a"].contiguous().numpy().tobytes()


def test_a_mapping_without_tensors_says_what_to_pass() -> None:
    with pytest.raises(CheckpointError, match="pass the state dict itself, one of the values of"):
        ckptmap.open_checkpoint({"model": {"a": torch.zeros(1)}})


def test_something_else_says_what_can_be_opened() -> None:
    with pytest.raises(CheckpointError, match="list: is neither a path"):
        ckptmap.open_checkpoint([torch.zeros(1)])  # type: ignore[arg-type]


def test_include_and_exclude(fixtures: Path) -> None:
    checkpoint = ckptmap.open_checkpoint(fixtures / "roberta-cls", include=["classifier.*"], exclude=["*.bias"])
    assert list(checkpoint) == ["classifier.dense.weight", "classifier.out_proj.weight"]
    assert checkpoint.parameters == 24 * 24 + 3 * 24


def test_a_closed_checkpoint_keeps_names_and_refuses_values(fixtures: Path) -> None:
    with ckptmap.open_checkpoint(fixtures / "roberta-cls") as checkpoint:
        pass
    assert "classifier.dense.bias" in checkpoint
    with pytest.raises(CheckpointError, match="closed; open it again"):
        checkpoint.load("classifier.dense.bias")
    module = ckptmap.open_checkpoint(nn.Linear(1, 1))
    module.close()
    with pytest.raises(CheckpointError, match="closed; open it again"):
        module.load("weight")


def test_an_unknown_name_is_a_key_error(fixtures: Path) -> None:
    with ckptmap.open_checkpoint(fixtures / "roberta-cls") as checkpoint, pytest.raises(KeyError):
        checkpoint.load("nope")


def test_a_file_that_shrinks_while_it_is_read(fixtures: Path, tmp_path: Path) -> None:
    path = shutil.copy(fixtures / "roberta-cls" / "model.safetensors", tmp_path)
    checkpoint = ckptmap.open_checkpoint(path)
    with Path(path).open("r+b") as file:
        file.truncate(Path(path).stat().st_size - 8)
    last = max(checkpoint, key=lambda name: checkpoint.locate(name).offset)
    with pytest.raises(CheckpointError, match="was changed or replaced since its header was read"):
        checkpoint.load(last)


def test_wrapper_prefixes_are_reported_and_kept(tmp_path: Path) -> None:
    save_file({"module.a": torch.zeros(1), "module._orig_mod.b": torch.zeros(1)}, tmp_path / "model.safetensors")
    checkpoint = ckptmap.open_checkpoint(tmp_path)
    assert list(checkpoint) == ["module.a", "module._orig_mod.b"] or set(checkpoint) == {
        "module.a",
        "module._orig_mod.b",
    }
    assert any("2 names carry `module.`" in text and "DistributedDataParallel" in text for text in checkpoint.warnings)
    assert any("1 name carries `_orig_mod.`, as torch.compile does" in text for text in checkpoint.warnings)
    assert ckptmap.open_checkpoint(tmp_path, exclude="*_orig_mod*").warnings == (
        "1 name carries `module.`, as DistributedDataParallel does; they are shown as they are stored",
    )


class TestWhichFile:
    def test_safetensors_before_pickle_with_a_note(self, fixtures: Path, tmp_path: Path) -> None:
        shutil.copy(fixtures / "roberta-cls" / "model.safetensors", tmp_path)
        shutil.copy(fixtures / "roberta-cls-bin" / "pytorch_model.bin", tmp_path)
        checkpoint = ckptmap.open_checkpoint(tmp_path)
        assert list(checkpoint.files) == ["model.safetensors"]
        assert any("pytorch_model.bin is there too and was not" in text for text in checkpoint.warnings)

    def test_a_variant(self, fixtures: Path, tmp_path: Path) -> None:
        shutil.copy(fixtures / "roberta-mlm" / "model.safetensors", tmp_path / "model.safetensors")
        shutil.copy(fixtures / "roberta-cls" / "model.safetensors", tmp_path / "model.fp16.safetensors")
        assert "classifier.dense.bias" in ckptmap.open_checkpoint(tmp_path, variant="fp16")
        with pytest.raises(CheckpointError, match=r"no weights of variant 'bf16'; it has model\.fp16\.safetensors"):
            ckptmap.open_checkpoint(tmp_path, variant="bf16")

    def test_a_trainer_folder_keeps_its_model_apart_from_the_optimizer(self, fixtures: Path, tmp_path: Path) -> None:
        folder = tmp_path / "checkpoint-500"
        shutil.copytree(fixtures / "roberta-cls", folder)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            (folder / name).write_bytes(b"not read")
        assert len(ckptmap.open_checkpoint(folder)) == 41
        with pytest.raises(CheckpointError, match="it has checkpoint-500: name one of those"):
            ckptmap.open_checkpoint(tmp_path)

    def test_the_only_checkpoint_file_of_a_folder(self, fixtures: Path, tmp_path: Path) -> None:
        shutil.copy(fixtures / "roberta-cls-bin" / "pytorch_model.bin", tmp_path / "epoch=3.ckpt")
        assert len(ckptmap.open_checkpoint(tmp_path)) == 41

    def test_several_candidates_are_never_chosen_from(self, tmp_path: Path) -> None:
        for name in ("consolidated.00.pth", "consolidated.01.pth"):
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"several checkpoint files, name one: consolidated\.00\.pth"):
            ckptmap.open_checkpoint(tmp_path)

    def test_an_index_file_and_a_subfolder(self, fixtures: Path) -> None:
        index = fixtures / "roberta-cls-sharded" / "model.safetensors.index.json"
        assert len(ckptmap.open_checkpoint(index)) == 41
        assert len(ckptmap.open_checkpoint(fixtures, subfolder="roberta-cls")) == 41

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("./no/such/folder", "no such file or folder here"),
            ("nowhere.safetensors", "no such file or folder here"),
            ("a b", "not the name of a Hub repo"),
            ("", "the source is empty"),
            (" ", "the source is empty"),
            ("~no-such-user-here/x.pt", "cannot be opened"),
            ("x" * 5000, "cannot be opened"),
            ("https://example.org/org/name", "not an address of"),
        ],
    )
    def test_nothing_there(self, source: str, words: str) -> None:
        with pytest.raises(CheckpointError, match=words):
            ckptmap.open_checkpoint(source)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="holds no checkpoint file"):
            ckptmap.open_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"GGUF" + bytes(100), "GGUF file"),
            (b"<!doctype html>", "web page"),
            (b"", "is empty"),
            (b"hello, world", "neither a safetensors file nor"),
        ],
    )
    def test_files_that_are_something_else(self, tmp_path: Path, data: bytes, words: str) -> None:
        path = tmp_path / "weights.pt"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=words):
            ckptmap.open_checkpoint(path)

    @pytest.mark.parametrize(
        ("config", "words"), [(b"{", "is not JSON"), (b"[]", "not a JSON object"), (b"[" * 100_000, "is not JSON")]
    )
    def test_a_broken_config(self, fixtures: Path, tmp_path: Path, config: bytes, words: str) -> None:
        shutil.copy(fixtures / "roberta-cls" / "model.safetensors", tmp_path)
        (tmp_path / "config.json").write_bytes(config)
        with pytest.raises(CheckpointError, match=words):
            _ = ckptmap.open_checkpoint(tmp_path).config


def test_a_config_as_transformers_may_write_it(fixtures: Path, tmp_path: Path) -> None:
    shutil.copy(fixtures / "roberta-cls" / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"limit": Infinity}')
    assert ckptmap.open_checkpoint(tmp_path).config == {"limit": float("inf")}


def test_a_config_belongs_to_the_weights_and_to_no_other_file_beside_it(fixtures: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(fixtures / "roberta-cls", tmp_path / "run")
    shutil.copy(folder / "model.safetensors", folder / "mine.safetensors")
    torch.save({"a": torch.zeros(1)}, folder / "optimizer.bin")
    torch.save({"a": torch.zeros(1)}, folder / "optimizer.pt")
    for name in ("", "model.safetensors", "mine.safetensors"):
        assert ckptmap.open_checkpoint(folder / name).config is not None
    for name in ("optimizer.bin", "optimizer.pt"):
        assert ckptmap.open_checkpoint(folder / name).config is None


def test_a_filter_may_be_one_text_and_tells_how_many_there_were(fixtures: Path) -> None:
    checkpoint = ckptmap.open_checkpoint(fixtures / "roberta-cls", include="classifier.*", exclude="*.bias")
    assert (len(checkpoint), checkpoint.unfiltered) == (2, 41)
    nothing = ckptmap.open_checkpoint(fixtures / "roberta-cls", include="nope", exclude=["a", "b"])
    with pytest.raises(CheckpointError, match="--include 'nope' --exclude 'a' --exclude 'b'; the first name is 'class"):
        nothing.check_filter()


def test_a_live_source_has_no_files_to_choose_from() -> None:
    for flag in ("revision", "subfolder", "variant", "at"):
        with pytest.raises(CheckpointError, match=f"{flag}: chooses what is read of files"):
            ckptmap.open_checkpoint({"a": torch.zeros(1)}, **{flag: "x"})


def test_live_tensors_without_plain_bytes_are_left_out_and_told() -> None:
    state = {
        "plain": torch.zeros(1),
        "sparse": torch.eye(3).to_sparse(),
        "half": torch.zeros(2, dtype=torch.complex32),
        "lazy": nn.parameter.UninitializedParameter(),
        "fp4": torch.zeros(2, 8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    }
    checkpoint = ckptmap.open_checkpoint(state)
    assert list(checkpoint) == ["plain", "fp4"]
    assert checkpoint["fp4"] == ckptmap.TensorSpec("fp4", (2, 16), "F4")
    assert checkpoint.left_out == 3
    assert checkpoint.read("fp4") == bytes(16)
    assert "left out, of dtype torch.complex32: half" in checkpoint.warnings
    assert len(ckptmap.open_checkpoint(nn.Sequential(nn.LazyLinear(3), nn.Linear(1, 1)))) == 2


def test_the_part_of_a_pickle_is_in_its_label(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}}, tmp_path / "x.pt")
    checkpoint = ckptmap.open_checkpoint(tmp_path / "x.pt", at="ema")
    assert (checkpoint.part, checkpoint.source) == ("ema", f"{tmp_path}/x.pt (part 'ema')")
    assert ckptmap.open_checkpoint(tmp_path / "x.pt").part == "model"
    assert ckptmap.open_checkpoint(tmp_path / "x.pt", at=".").part is None


@pytest.mark.parametrize("named", [True, False])
def test_a_shard_alone_is_told(fixtures: Path, tmp_path: Path, named: bool) -> None:
    shard = "model-00002-of-00003.safetensors"
    shutil.copy(fixtures / "roberta-cls-sharded" / shard, tmp_path)
    checkpoint = ckptmap.open_checkpoint(tmp_path / shard if named else tmp_path)
    assert checkpoint.warnings == (f"{shard} is shard 2 of 3; the index and other shards were not read",)


def test_a_name_below_a_folder_that_is_here_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such file or folder in runs/ here; .* write hf://runs/checkpoint-5"):
        ckptmap.open_checkpoint("runs/checkpoint-5")


def test_a_view_that_repeats_a_few_bytes_without_end_is_listed_and_not_loaded(tmp_path: Path) -> None:
    torch.save({"small": torch.zeros(1).expand(3, 5), "endless": torch.zeros(1).expand(2**40)}, tmp_path / "views.pt")
    checkpoint = ckptmap.open_checkpoint(tmp_path / "views.pt")
    assert checkpoint["endless"].shape == (2**40,)
    assert torch.equal(checkpoint.load("small"), torch.zeros(3, 5))
    with pytest.raises(CheckpointError, match="endless: it is a view that repeats 4 stored bytes"):
        checkpoint.load("endless")
