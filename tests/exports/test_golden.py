"""What each target is given, letter by letter: a change of an export is a change of these files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptmap.exporting import TARGETS, export
from ckptmap.rules.rules import Rules

GOLDEN = Path(__file__).parent / "golden"
NAMES = """\
tok.weight <-> embed.weight
[h.{i} <-> layers.{i}]
ln.{n:gamma|beta} <-> norm.{n:weight|bias}
"""
LAYERS = """\
{q,k,v}_proj.weight <-> qkv_proj.weight : q m, k m, k m <-> [q + k + k] m
"""
LAYOUTS = """\
out.weight <-> out.weight : (h r d) m <-> (h d r) m
experts.{e}.{w1,w3}.weight <-> experts.gate_up : f m <-> e [f + f] m
"""
SAID = {
    "key-mapping": NAMES,
    "torchtune": NAMES,
    "vllm": NAMES + LAYERS,
    "transformers": NAMES + LAYERS + LAYOUTS,
    "python": NAMES + LAYERS + LAYOUTS,
    "json": NAMES + LAYERS + LAYOUTS,
}


def shapes(text: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"tok.weight": (5, 4)}
    for i in range(2):
        found |= {f"h.{i}.ln.gamma": (4,), f"h.{i}.ln.beta": (4,)}
        if LAYERS in text:
            found |= {f"h.{i}.{word}_proj.weight": (rows, 4) for word, rows in (("q", 8), ("k", 4), ("v", 4))}
        if LAYOUTS in text:
            found |= {f"h.{i}.out.weight": (8, 4)}
            found |= {f"h.{i}.experts.{e}.{word}.weight": (6, 4) for e in range(3) for word in ("w1", "w3")}
    return found


def test_every_target_has_one() -> None:
    assert set(SAID) == set(TARGETS) == {path.stem for path in GOLDEN.iterdir()}


@pytest.mark.parametrize("target", SAID)
def test_golden(target: str) -> None:
    made = export(Rules.parse(SAID[target]), target, shapes(SAID[target]), sizes={"h": 2, "r": 2})
    assert made == (GOLDEN / f"{target}.txt").read_text()
