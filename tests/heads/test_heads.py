"""The question that started it: which part of a head class is pretrained?"""

from __future__ import annotations

import json
import struct
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ckptmap
from ckptmap.errors import ArchitectureError
from ckptmap.heads import classes as class_tables
from ckptmap.heads import heads


def stand_in(folder: Path, listing: dict[str, object]) -> Path:
    """A checkpoint of these names and shapes whose data are a hole in the file."""
    header, offset = {}, 0
    for name, shape in listing["tensors"].items():  # type: ignore[attr-defined]
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    (folder / "config.json").write_text(json.dumps(listing["config"]))
    return folder


def test_roberta_base_for_sequence_classification(fixtures: Path, tmp_path: Path) -> None:
    folder = stand_in(tmp_path, json.loads((fixtures / "roberta-base.json").read_text()))
    report = heads(folder)
    head = report["RobertaForSequenceClassification"]
    assert head.verdict == "train the head"
    assert head.newly_initialized == {
        f"classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")
    }
    assert (head.new_parameters, head.parameters) == (592_130, 124_647_170)
    assert head.backbone.loaded_tensors == head.backbone.tensors
    assert {name for name in head.unexpected_keys if name.startswith("lm_head.")} == {
        "lm_head.bias",
        "lm_head.dense.weight",
        "lm_head.dense.bias",
        "lm_head.layer_norm.weight",
        "lm_head.layer_norm.bias",
    }
    assert {head.owners[name] for name in head.unexpected_keys if name.startswith("lm_head.")} == {"RobertaForMaskedLM"}


def test_a_bert_checkpoint_brings_its_pooler(fixtures: Path) -> None:
    head = heads(fixtures / "bert-cls", config_overrides={"num_labels": 7})["BertForNextSentencePrediction"]
    assert head.newly_initialized == {"cls.seq_relationship.weight", "cls.seq_relationship.bias"}
    assert head.verdict == "train the head"


def test_other_labels_make_the_load_raise(fixtures: Path) -> None:
    head = heads(fixtures / "bert-cls", config_overrides={"num_labels": 7})["BertForSequenceClassification"]
    assert head.verdict == "will raise"
    assert head.mismatched_keys == {("classifier.weight", (3, 24), (7, 24)), ("classifier.bias", (3,), (7,))}


def test_a_class_of_another_base_prefix_loads_nothing(fixtures: Path) -> None:
    head = heads(fixtures / "llama-causal")["LlamaForQuestionAnswering"]
    assert head.verdict == "backbone not loaded"
    assert head.backbone.loaded_tensors == 0


def test_a_tied_head_is_ready_although_the_file_lacks_it(fixtures: Path) -> None:
    head = heads(fixtures / "gpt2-tied")["GPT2LMHeadModel"]
    assert head.verdict == "ready"
    assert head.ties == (("transformer.wte.weight", "lm_head.weight"),)


def test_what_transformers_does_not_report(fixtures: Path) -> None:
    tied = heads(fixtures / "gpt2-tied", config_overrides={"vocab_size": 130})["GPT2LMHeadModel"]
    assert tied.unreported == {"lm_head.weight"}


def test_memory_that_nobody_writes_is_told(tmp_path: Path) -> None:
    from transformers import LongformerConfig, LongformerModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = LongformerConfig(vocab_size=40, attention_window=4, max_position_embeddings=32, **sizes)
    LongformerModel(config).save_pretrained(tmp_path)
    assert heads(tmp_path)["LongformerForMaskedLM"].unwritten == {"lm_head.bias", "lm_head.decoder.bias"}


def test_a_key_mapping_brings_foreign_names_home(fixtures: Path, tmp_path: Path) -> None:
    with ckptmap.open_checkpoint(fixtures / "roberta-cls") as checkpoint:
        tensors = {name.replace("roberta.", "model.", 1): checkpoint.load(name) for name in checkpoint}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((fixtures / "roberta-cls" / "config.json").read_text())
    name = "RobertaForSequenceClassification"
    assert heads(tmp_path, [name])[name].verdict == "backbone not loaded"
    assert heads(tmp_path, [name], key_mapping={"^model": "roberta"})[name].verdict == "ready"


def test_quantized_weights_are_folded_and_their_shapes_not_checked(fixtures: Path, tmp_path: Path) -> None:
    with ckptmap.open_checkpoint(fixtures / "llama-causal") as checkpoint:
        tensors = {name: checkpoint.load(name) for name in checkpoint}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        owner = name.removesuffix(".weight")
        tensors[f"{owner}.qweight"] = torch.zeros(3, 24, dtype=torch.int32)
        tensors[f"{owner}.scales"] = torch.zeros(1, 24)
        del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((fixtures / "llama-causal" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    report = heads(tmp_path)
    assert report["LlamaForCausalLM"].verdict == "ready"
    assert "quantized (gptq): 28 companion tensors were folded" in report.notes[0]
    assert "not checked" in report.notes[0]


def test_a_part_of_a_composite_model_reads_its_own_section_of_the_config(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**part, "vocab_size": 40, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**part, "image_size": 8, "patch_size": 4}, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path)
    report = heads(tmp_path, all_classes=True)
    assert report["CLIPVisionModel"].verdict == "ready"
    assert report["CLIPTextModel"].verdict == "ready"


def test_a_release_with_other_internals_is_asked_in_public(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = heads(fixtures / "roberta-mlm", use_cache=False)

    def changed(*args: object, **flags: object) -> None:
        raise class_tables.InternalsChangedError("a rule of kind NewRule is not known here")

    monkeypatch.setattr(import_module("ckptmap.heads.library"), "inventory_of", changed)
    public = heads(fixtures / "roberta-mlm", use_cache=False)
    for name, head in plain.items():
        other = public[name]
        assert (head.missing_keys, head.unexpected_keys) == (other.missing_keys, other.unexpected_keys)
        assert (head.newly_initialized, head.verdict) == (other.newly_initialized, other.verdict)
    assert "NewRule is not known here" in public.notes[0]
    monkeypatch.setattr(import_module("ckptmap.heads.public_road"), "MAX_PARAMETERS", 10)
    with pytest.raises(ArchitectureError, match="parameters are too many"):
        heads(fixtures / "roberta-mlm", ["RobertaModel"], use_cache=False)


def test_an_untested_release_is_named(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("ckptmap.heads"), "library_version", lambda: "5.99.0")
    assert heads(fixtures / "roberta-mlm").notes == ("compared with transformers 5.23; 5.99.0 may load otherwise",)


def test_a_child_process_gives_the_same_answer(fixtures: Path) -> None:
    here = heads(fixtures / "roberta-mlm", use_cache=False)
    assert heads(fixtures / "roberta-mlm", use_cache=False, in_child=True) == here
