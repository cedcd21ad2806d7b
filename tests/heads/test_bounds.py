"""A number in a config that would fill the machine is refused by its name, before anything is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ckptmap
from ckptmap.__main__ import main
from ckptmap.errors import ArchitectureError
from ckptmap.heads.bounds import check_counts


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10,000,000 in its config"),
        ({"text_config": {"n_layer": 5000}}, "text_config.n_layer is 5,000"),
        ({"parts": [{"num_local_experts": 1e9}]}, "parts.num_local_experts is 1,000,000,000.0"),
        ({"num_labels": 10**8}, "num_labels is 100,000,000 in its config, and .* may have 1,000,000 at most"),
        ({"depths": [2, 2, 10**6]}, "depths is 1,000,000"),
        ({"layers_block_type": ["mamba"] * 9999}, "layers_block_type is a list of 9,999"),
        ({"encoder_layers": 10**30}, "encoder_layers is 1,000,000"),
    ],
)
def test_what_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ArchitectureError, match=said):
        check_counts(config, "Model")


def test_what_real_models_have_is_not() -> None:
    check_counts(
        {
            "num_hidden_layers": 126,
            "n_routed_experts": 384,
            "num_labels": 21_843,
            "vocab_size": 10**6,
            "layer_norm_eps": 1e-12,
            "expert_layer_period": 2,
            "layer_size": 10**5,
            "moe_layer_freq": [1] * 61,
            "max_position_embeddings": 10_485_760,
            "model_max_length": 1e30,
            "depths": [2, 2, 18, 2],
        },
        "Model",
    )


@pytest.mark.parametrize("field", ["num_hidden_layers", "num_labels"])
def test_heads_says_so_and_goes_no_further(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    folder = tmp_path / "large"
    shutil.copytree(fixtures / "roberta-cls", folder)
    config = json.loads((folder / "config.json").read_text()) | {field: 10**8}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArchitectureError, match=f"{field} is 100,000,000 in its config"):
        ckptmap.heads(folder, ["RobertaForMaskedLM"], use_cache=False)
    assert main(["heads", str(folder), "--no-cache"]) == 2
    assert field in capsys.readouterr().err
