"""What people are told when heads cannot be predicted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckptmap.errors import ArchitectureError, CheckpointError
from ckptmap.heads import heads

ROOT = Path(__file__).parents[2]
BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
}
CUSTOM: dict[str, Any] = {
    "model_type": "songbird",
    "architectures": ["SongbirdModel"],
    "auto_map": {"AutoConfig": "configuration_songbird.SongbirdConfig", "AutoModel": "modeling_songbird.SongbirdModel"},
}
CANARY = """
import pathlib
pathlib.Path(__file__).with_name("sang").touch()
class SongbirdModel: pass
SongbirdConfig = SongbirdModel
"""

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTMAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(config: Any = None, **changes: Any) -> Path:
        """A checkpoint folder with one tensor, a config.json if one is given, and a canary."""
        made = tmp_path / "checkpoint"
        made.mkdir()
        save_file({"embeddings.word_embeddings.weight": torch.zeros(12, 8)}, made / "model.safetensors")
        if config is not None:
            (made / "config.json").write_text(json.dumps({**config, **changes}))
        for name in ("modeling_songbird.py", "configuration_songbird.py", "__init__.py"):
            (made / name).write_text(CANARY)
        return made

    return make


def problem(error: type[Exception], *arguments: Any, **options: Any) -> str:
    with pytest.raises(error) as caught:
        heads(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("classes", [None, ["SongbirdModel"], ["modeling_songbird.SongbirdModel"]])
def test_custom_code_is_not_run(classes: list[str] | None, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(CUSTOM)
    monkeypatch.chdir(path)
    monkeypatch.syspath_prepend(str(path))
    message = problem(ArchitectureError, path, classes, use_cache=False)
    assert "songbird" in message
    if classes is None:
        assert message.startswith("model_type 'songbird' is unknown to transformers 5.")
        assert message.endswith("custom code, which is never run here")
    assert not (path / "sang").exists()
    assert not list(path.glob("__pycache__"))


def test_custom_code_of_a_known_family_is_not_run_either(folder: Folder) -> None:
    path = folder(BERT, auto_map=CUSTOM["auto_map"], architectures=["SongbirdModel"])
    report = heads(path, config_overrides={"num_labels": 3})
    assert "BertModel" in report
    assert "SongbirdModel" not in report
    assert not (path / "sang").exists()


def test_trust_in_remote_code_is_not_to_be_had(folder: Folder) -> None:
    path = folder(CUSTOM)
    problem(ArchitectureError, path, config_overrides={"trust_remote_code": True})
    assert not (path / "sang").exists()


def test_a_missing_config(folder: Folder) -> None:
    path = folder()
    message = problem(CheckpointError, path)
    assert (
        message == f"{path}: has no config.json to tell its family; give one with --config FILE, or --model-type TYPE"
    )
    assert "BertModel" in heads(path, ["BertModel"], config=BERT)


def test_a_state_dict_has_no_config() -> None:
    state = {"embeddings.word_embeddings.weight": torch.zeros(12, 8)}
    assert (
        problem(CheckpointError, state)
        == "state dict: has no config.json to tell its family; give one with --config FILE, or --model-type TYPE"
    )
    assert heads(state, ["BertModel"], config=BERT)["BertModel"].backbone.loaded_tensors == 1


@pytest.mark.parametrize("named", [{}, {"model_type": None}, {"model_type": ""}, {"model_type": ["bert"]}])
def test_a_config_without_a_model_type(named: dict[str, Any], folder: Folder) -> None:
    path = folder({"architectures": ["BertModel"], **named})
    assert (
        problem(CheckpointError, path) == f"{path}: its config.json names no model_type; give it with --model-type TYPE"
    )


@pytest.mark.parametrize("model_type", ["nonesuch", "BERT", "../bert", "bert*", "no\nsuch"])
def test_an_unknown_model_type(model_type: str, folder: Folder) -> None:
    message = problem(ArchitectureError, folder({**BERT, "model_type": model_type}))
    assert message.startswith(f"model_type {model_type!r} is unknown to transformers 5.")
    assert "update it, or the model needs custom code" in message


@pytest.mark.parametrize("name", ["BertForNothing", "Bert.*", "bertmodel", "BertConfig", "os.system"])
def test_a_class_that_does_not_exist(name: str, folder: Folder) -> None:
    message = problem(ArchitectureError, folder(BERT), [name])
    assert message.startswith(f"{name}: transformers 5.")
    assert "has no such class for model_type 'bert'; it has BertModel, BertForPreTraining, " in message
    assert "BertForSequenceClassification" in message
    assert "BertPreTrainedModel" not in message


@pytest.mark.parametrize("name", ["BertLayer", "BertEmbeddings"])
def test_a_class_that_is_no_model(name: str, folder: Folder) -> None:
    message = problem(ArchitectureError, folder(BERT), [name])
    assert message.startswith(f"{name}: ")
    assert "BertForMaskedLM" in message


def test_one_class_of_several_does_not_exist(folder: Folder) -> None:
    assert problem(ArchitectureError, folder(BERT), ["BertModel", "BertForNothing"]).startswith("BertForNothing: ")


def test_no_classes_are_no_reports(folder: Folder) -> None:
    assert not heads(folder(BERT), [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 7}, "cannot be built from this config (The hidden size (7) is not a multiple of"),
        ({"hidden_size": -8}, "cannot be built from this config (Trying to create tensor with negative dimension"),
        (
            {"hidden_size": "wide"},
            "its config cannot be made from config.json (Validation error for field 'hidden_size'",
        ),
        ({"hidden_act": "nonesuch"}, "cannot be built from this config"),
    ],
)
def test_a_config_that_cannot_be_built(changes: dict[str, Any], reason: str, folder: Folder) -> None:
    path = folder(BERT, **changes)
    message = problem(ArchitectureError, path, ["BertForMaskedLM"])
    assert message.startswith(f"BertForMaskedLM: {reason}")
    assert "\n" not in message
    family = problem(ArchitectureError, path)
    assert family.startswith(f"no class of the family can be built: BertModel: {reason}")
    # The same by an override of a config that is fine.
    assert problem(ArchitectureError, path, ["BertForMaskedLM"], changes, config=BERT) == message


def test_a_class_that_cannot_be_built_is_skipped_with_the_reason() -> None:
    state = {"embeddings.word_embeddings.weight": torch.zeros(12, 8)}
    sizes = {"vocab_size": 12, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 12, "max_position_embeddings": 8}
    report = heads(state, config={"model_type": "distilbert", **sizes}, config_overrides={"num_labels": 3})
    assert "DistilBertForTokenClassification" in report
    assert "DistilBertForQuestionAnswering" not in report
    assert list(report.skipped) == ["DistilBertForQuestionAnswering"]
    reason = report.skipped["DistilBertForQuestionAnswering"]
    assert reason.startswith(
        "DistilBertForQuestionAnswering: cannot be built from this config (config.num_labels should"
    )


@pytest.mark.parametrize("overrides", [{"num_lables": 5}, {"nonsense": None}])
def test_an_override_that_the_config_does_not_have(overrides: dict[str, Any], folder: Folder) -> None:
    # Transformers hands it to the class, which does not take it.
    message = problem(ArchitectureError, folder(BERT), ["BertForMaskedLM"], overrides)
    assert next(iter(overrides)) in message


@pytest.mark.parametrize(
    "overrides", [{"return_unused_kwargs": True}, {"subfolder": "elsewhere"}, {"dtype": "nonesuch"}, {"vocab_size": {}}]
)
def test_overrides_that_are_nonsense(overrides: dict[str, Any], folder: Folder) -> None:
    message = problem(ArchitectureError, folder(BERT), ["BertForMaskedLM"], overrides)
    assert message.startswith("BertForMaskedLM: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(bert", "missing ), unterminated subpattern"),
        ("[", "unterminated character set"),
        ("*", "nothing to repeat"),
        (r"bert\1", "invalid group reference"),
        # Fine alone, but not as a part of what the loader makes of it.
        ("(?P<g0>bert)", "redefinition of group name"),
        ("(?i)BERT", "global flags not at the start"),
    ],
)
@pytest.mark.parametrize("classes", [None, ["BertModel"]])
def test_a_key_mapping_that_is_no_regular_expression(
    pattern: str, says: str, classes: list[str] | None, folder: Folder
) -> None:
    message = problem(ArchitectureError, folder(BERT), classes, key_mapping={"^fine": "x", pattern: "y"})
    assert message.startswith(f"key mapping: {pattern!r} is not a regular expression ({says}")


@pytest.mark.parametrize("mapping", [{"embeddings": r"\1x"}, {"embeddings": "(a)x"}, {"embeddings": 3}])
def test_a_key_mapping_whose_target_makes_no_sense(mapping: dict[str, Any], folder: Folder) -> None:
    message = problem(ArchitectureError, folder(BERT), ["BertModel"], key_mapping=mapping)
    assert message.startswith("key mapping: ")
    assert "'embeddings'" in message


def test_messages_need_no_import_of_transformers(folder: Folder) -> None:
    program = (
        "import sys\n"
        "from ckptmap.errors import CkptmapError\n"
        "from ckptmap.heads import heads\n"
        "for classes in (None, ['Nope']):\n"
        "    try: heads(sys.argv[1], classes)\n"
        "    except CkptmapError as error: print(error)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    path = folder(CUSTOM)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
