"""`ckptmap verify` proves right rules and refutes wrong ones, whatever is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import ckptmap
from ckptmap.__main__ import main
from ckptmap.errors import ArchitectureError, PlanError

HAND_BUILT = "tests/convert/test_handbuilt.py:Classifier"

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


class Rotary(nn.Module):
    """One layer: attention with rotary positions, a square feed-forward matrix, two norms."""

    def __init__(self, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.table = nn.Embedding(11, 8)
        self.q, self.k, self.v, self.o, self.up = (nn.Linear(8, 8, bias=False) for _ in range(5))
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.unused = nn.Linear(8, 3)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1])
        a, b = x.chunk(2, -1) if self.halves else (x[..., 0::2], x[..., 1::2])
        a, b = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return torch.cat([a, b], -1) if self.halves else torch.stack([a, b], -1).flatten(-2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        h = self.first(x)
        q, k, v = (one(h).unflatten(-1, (2, 4)).transpose(1, 2) for one in (self.q, self.k, self.v))
        x = x + self.o((torch.softmax(self.turned(q) @ self.turned(k).mT, -1) @ v).transpose(1, 2).flatten(-2))
        return x + torch.relu(self.up(self.second(x)))


GOOD = """
size r = 2
size d = 2
{n:table|v|o|up}.weight <-> {n}.weight
{n:first|second}.* <-> {n}.*
{n:q|k}.weight <-> {n}.weight : (h r d) m <-> (h d r) m
"""

WRONG = {
    "rotary rows as they stand": (GOOD.replace(" : (h r d) m <-> (h d r) m", ""), "o"),
    "query and key crossed": (
        GOOD.replace(
            "{n:q|k}.weight <-> {n}.weight : (h r d) m <-> (h d r) m",
            "q.weight <-> k.weight : (h r d) m <-> (h d r) m\nk.weight <-> q.weight : (h r d) m <-> (h d r) m",
        ),
        "o",
    ),
    "norms crossed": (
        GOOD.replace("{n:first|second}.* <-> {n}.*", "first.* <-> second.*\nsecond.* <-> first.*"),
        "first",
    ),
    "a square matrix turned": (GOOD.replace("|up}", "}") + "up.weight <-> up.weight : a b <-> b a\n", "up"),
}
"""Rules with a fault, and the module at whose output it first shows."""


def rules(text: str) -> ckptmap.Rules:
    return ckptmap.Rules.parse(text.lstrip())


def test_right_rules_are_proven() -> None:
    proof = ckptmap.verify(rules(GOOD), Rotary(halves=True), Rotary(halves=False), inputs=((IDS,), (IDS,)))
    assert proof.passed
    assert proof.compared


def test_real_weights_are_converted_on_request() -> None:
    left = Rotary(halves=True)
    proof = ckptmap.verify(rules(GOOD), left, Rotary(halves=False), inputs=((IDS,), (IDS,)), values=True)
    assert proof.passed


@pytest.mark.parametrize(("text", "place"), [pytest.param(*case, id=name) for name, case in WRONG.items()])
def test_wrong_rules_are_refuted_with_the_place_where_the_two_part(text: str, place: str) -> None:
    proof = ckptmap.verify(rules(text), Rotary(halves=True), Rotary(halves=False), inputs=((IDS,), (IDS,)))
    assert not proof.passed
    assert proof.difference > 1e-3
    assert proof.until is not None
    assert proof.apart == (place, place)


def test_rules_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlanError):
        ckptmap.verify(rules("table.weight <-> table.weight : a b <-> b a"), Rotary(halves=True), Rotary(halves=False))


def test_a_size_that_nothing_tells_is_asked_for_and_may_be_given() -> None:
    models, inputs = (Rotary(halves=True), Rotary(halves=False)), ((IDS,), (IDS,))
    open_size = rules(GOOD.replace("size d = 2\n", "size d\n").replace("size r = 2\n", ""))
    with pytest.raises(PlanError, match="give --size"):
        ckptmap.verify(open_size, *models, inputs=inputs)
    assert ckptmap.verify(open_size, *models, inputs=inputs, sizes={"d": 2, "r": 2}).passed


def test_a_checkpoint_cannot_be_run(fixtures: Path) -> None:
    with pytest.raises(ArchitectureError, match="names and shapes only"):
        ckptmap.verify(rules(GOOD), fixtures / "roberta-cls", Rotary(halves=True))


def test_the_rules_that_remap_writes_pass_and_a_changed_one_does_not(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, file = f"{fixtures / 'roberta-cls'}#RobertaForSequenceClassification", tmp_path / "roberta.ckptmap"
    assert main(["remap", left, HAND_BUILT, "-o", str(file)]) == 0
    assert main(["verify", str(file), left, HAND_BUILT]) == 0
    assert "proven" in capsys.readouterr().out
    assert main(["verify", str(file), left, HAND_BUILT, "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("**proven: ")
    assert lines[-3:-1] == ["| left | right |", "| --- | --- |"]
    text = file.read_text()
    assert "{query,key,value}" in text
    file.write_text(text.replace("{query,key,value}", "{key,query,value}"))
    assert main(["verify", str(file), left, HAND_BUILT, "--format", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["passed"] is False
    assert answer["bits"] is True
    assert answer["until"]
    assert answer["apart"]
    assert main(["verify", str(file), str(fixtures / "roberta-cls"), HAND_BUILT]) == 2
    assert main(["verify", str(tmp_path / "none.ckptmap"), left, HAND_BUILT]) == 2
    assert "Traceback" not in capsys.readouterr().err
