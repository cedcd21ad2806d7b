"""What is left out is listed; what is given in memory may be NumPy's; a plan is checked to fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ckptmap.__main__ import main
from ckptmap.conversion.convert import Conversion, convert
from ckptmap.errors import ConvertError, PlanError
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import Rules
from tests.convert.plans import read, save

RULES = "a <-> b : x y <-> y x\nq, k <-> qk : m, m <-> [m + m]\nl.{e} <-> s : m <-> e m"
STATE = {"a": torch.arange(6.0).reshape(2, 3), "q": torch.ones(2), "extra": torch.ones(1), "l.0": torch.ones(2)}


def test_partial_leaves_out_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.ckptmap").write_text(RULES)
    source = str(save(tmp_path / "a.safetensors", STATE))
    argv = ["convert", str(tmp_path / "r.ckptmap"), source, str(tmp_path / "b.safetensors")]
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert "no rule covers left tensor extra [1]" in err
    assert "there is no left tensor k, which goes with q" in err
    assert not (tmp_path / "b.safetensors").exists()
    assert main([*argv, "--partial"]) == 0
    assert "left out: extra, q\n" in capsys.readouterr().out
    made = read(tmp_path / "b.safetensors")
    assert made.keys() == {"b", "s"}
    assert torch.equal(made["b"], STATE["a"].T)


def test_partial_does_not_hide_what_would_be_wrong(tmp_path: Path) -> None:
    holes = {"l.0": torch.ones(2), "l.2": torch.ones(2)}
    made = convert(Rules.parse(RULES), holes, tmp_path / "b.safetensors", partial=True)
    assert isinstance(made, Conversion)
    assert set(made.left_out) == set(holes)
    with pytest.raises(ConvertError, match="b differs from a"):
        convert(Rules.parse("tie left a = b\na <-> c"), {"a": torch.ones(1), "b": torch.zeros(1)}, partial=True)


@pytest.mark.parametrize("kind", ["torch", "numpy", "read-only", "backwards"])
def test_arrays_and_tensors_of_a_state_dict(kind: str) -> None:
    value = np.arange(6, dtype=np.float64).reshape(2, 3) / 3
    given = {"torch": torch.from_numpy(value), "backwards": value[::-1, ::-1]}.get(kind, value)
    if kind == "read-only":
        value.flags.writeable = False
    made = convert(Rules.parse(RULES), {"a": given, "n": np.float64(1), "t": torch.ones(1)}, partial=True)  # type: ignore[dict-item]
    assert isinstance(made, dict)
    assert list(made) == ["b"]
    assert made["b"].dtype == torch.float64
    assert made["b"].tolist() == np.asarray(given).T.tolist()


def test_arrays_that_torch_cannot_hold() -> None:
    swapped = np.ones((2, 3), dtype=np.dtype(np.float64).newbyteorder())
    with pytest.raises(ConvertError, match=r"a: is an array that torch cannot hold \(.*\); convert it first"):
        convert(Rules.parse("a <-> b"), {"a": swapped})  # type: ignore[dict-item]


def test_a_plan_is_not_run_twice(tmp_path: Path) -> None:
    """A square transpose done twice would be undone without a word."""
    plan = bind(Rules.parse("w <-> w : a b <-> b a"), {"w": (2, 2)})
    source = save(tmp_path / "a.safetensors", {"w": torch.arange(4.0).reshape(2, 2)})
    convert(plan, source, tmp_path / "b.safetensors")
    for again in (plan, plan.rules):
        with pytest.raises(ConvertError, match="is the right side of these rules already"):
            convert(again, tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    for home in (plan, None):
        convert(home, tmp_path / "b.safetensors", tmp_path / "c.safetensors", back=True, force=True)
        assert torch.equal(read(tmp_path / "c.safetensors")["w"], read(source)["w"])
    with pytest.raises(ConvertError, match="is the left side of these rules already"):
        convert(plan, tmp_path / "c.safetensors", tmp_path / "d.safetensors", back=True)


def test_a_plan_leads_home_with_the_sizes_it_was_told(tmp_path: Path) -> None:
    plan = bind(Rules.parse("w <-> v : (h r) <-> (r h)"), {"w": (6,)}, sizes={"h": 2})
    source = save(tmp_path / "a.safetensors", {"w": torch.arange(6.0)})
    convert(plan, source, tmp_path / "b.safetensors")
    back = convert(None, tmp_path / "b.safetensors", back=True)
    assert isinstance(back, dict)
    assert torch.equal(back["w"], torch.arange(6.0))


def test_a_plan_of_another_checkpoint_is_refused() -> None:
    plan = bind(Rules.parse("a <-> b"), {"a": (2,)})
    with pytest.raises(PlanError, match=r"a: is \[3\], and the plan is for \[2\]; bind the rules to this checkpoint"):
        convert(plan, {"a": torch.zeros(3)})
    with pytest.raises(
        PlanError, match="a: the plan needs it, and state dict has no such tensor\nx: the plan does not"
    ):
        convert(plan, {"x": torch.zeros(2)})
