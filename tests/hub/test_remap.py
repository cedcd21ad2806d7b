"""Values of a Hub repo are downloads: `remap` compares them when it is asked to."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

import ckptmap
from tests.hub.loopback import LoopbackHub


def test_values_on_the_hub_are_compared_only_when_asked_for(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    state = {"up.weight": torch.randn(1500, 1000), "down.weight": torch.randn(1000, 1500)}
    save_file(state, folder / "model.safetensors")
    hub.add_repo("acme/model", folder)
    save_file({"a": state["up.weight"], "b": state["down.weight"].T.contiguous()}, tmp_path / "mine.safetensors")

    found = ckptmap.remap("acme/model", tmp_path / "mine.safetensors")
    assert not found.rules.rules
    assert sum(logged.sent for logged in hub.log) < 1_000_000

    found = ckptmap.remap("acme/model", tmp_path / "mine.safetensors", values=True)
    assert found.verification is not None
    assert set(found.verification.compared) == {("up.weight", "a"), ("down.weight", "b")}
