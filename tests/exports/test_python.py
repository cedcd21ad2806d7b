"""The exported Python does what convert does, bit for bit, both ways."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ckptmap.conversion.convert import convert
from ckptmap.exporting import export
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import Rules
from tests.convert.plans import State, same_bits
from tests.convert.test_random_rules import Case, cases
from tests.convert.test_state_dicts import DTYPES
from tests.convert.test_worked_examples import CASES, EXAMPLES, Example, shaken


def run(text: str) -> dict[str, Any]:
    """What an exported file has in it."""
    names: dict[str, Any] = {"__name__": "exported"}
    exec(compile(text, "exported.py", "exec"), names)
    return names


@settings(deadline=None, max_examples=150)
@given(cases(), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_random_rules(case: Case, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    rules, state = Rules.parse(case.text), case.tensors(0, dtype)
    there = convert(rules, state, sizes=case.sizes, residue={})
    assert isinstance(there, dict)
    functions = run(export(rules, "python", state, sizes=case.sizes))
    assert same_bits(functions["left_to_right"](state), there)
    assert same_bits(functions["right_to_left"](there, base=state), state)


HOSTILE = ["a'+exit()+'", 'b"""\nexit()', "c{exit()}", "d{{0}}", "e\\", "f\r\nexit()", "g%s", "h.0.{i}"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_never_code(name: str) -> None:
    """A checkpoint may call its tensors anything; the export is run, and runs none of it."""
    state = {f"x.{name}": torch.zeros(2), f"l.0.{name}": torch.zeros(3), f"l.1.{name}": torch.ones(3)}
    functions = run(export(Rules.parse("x.** <-> y.**\nl.{i}.** <-> m.{i}.**"), "python", state))
    right = functions["left_to_right"](state)
    assert list(right) == [f"y.{name}", f"m.0.{name}", f"m.1.{name}"]
    assert same_bits(functions["right_to_left"](right), state)


def test_titles_are_never_code(tmp_path: Path) -> None:
    path = tmp_path / 'a"""\nexit()\n"""\\.ckptmap'
    path.write_text("a <-> b : x y <-> y x")
    for target in ("python", "transformers"):
        run(export(path, target, {"a": (2, 3)}))
    path.write_text("a <-> b")
    for target in ("vllm", "torchtune"):
        export(path, target, {"a": (2, 3)})


@pytest.mark.parametrize("variable", ["for", "x0", "left", "torch", "_", "range"])
def test_an_index_may_have_any_name(variable: str) -> None:
    rules = Rules.parse(f"a.{{{variable}}} <-> b.{{{variable}+1}} : x y <-> y x")
    assert list(
        run(export(rules, "python", {"a.0": (2, 3), "a.1": (2, 3)}))["left_to_right"](
            {"a.0": torch.zeros(2, 3), "a.1": torch.zeros(2, 3)}
        )
    ) == ["b.1", "b.2"]
    assert f"for {variable}_ in range(2)" in export(rules, "transformers", {"a.0": (2, 3), "a.1": (2, 3)})


REFUSED = [
    ("a <-> b", {"a": torch.zeros(2), "z": torch.zeros(1)}, "left_to_right", "no rule covers z"),
    ("a <-> b", {}, "left_to_right", "a is missing"),
    ("a <-> b", {"a": torch.zeros(3)}, "left_to_right", r"a is \[3\], expected \[2\]"),
    (
        "a, 0 <-> b : x, y <-> [x + y]",
        {"b": torch.tensor([1.0, 2.0, -0.0])},
        "right_to_left",
        "b: its padding is not zero",
    ),
    ("a <-> b : x <-> x *y", {"b": torch.tensor([[1.0, 1.0], [2.0, 3.0]])}, "right_to_left", "b: its repeated values"),
    ("a, a <-> b, c", {"b": torch.zeros(2), "c": torch.ones(2)}, "right_to_left", "a: two tensors that must be equal"),
    ("tie left a = s\na <-> b", {"a": torch.zeros(2), "s": torch.ones(2)}, "left_to_right", "a: two tensors that must"),
    (
        "a, s <-> b : x, y <-> [x + y]",
        {"a": torch.zeros(2), "s": torch.ones(1).half()},
        "left_to_right",
        "different dtypes",
    ),
    ("a, _ <-> b : x, y <-> [x + y]", {"a": torch.zeros(2)}, "left_to_right", "nothing gives all of b"),
]


@pytest.mark.parametrize(("text", "state", "way", "told"), REFUSED)
def test_what_convert_refuses_the_file_refuses(text: str, state: State, way: str, told: str) -> None:
    shapes = {"a": (2,)} | {name: tuple(state[name].shape) for name in ("s",) if name in state}
    functions = run(export(Rules.parse(text), "python", shapes, sizes={"y": 2 if "*" in text else 1}))
    with pytest.raises((ValueError, KeyError), match=told):
        functions[way](state)


@pytest.mark.parametrize("example", CASES, ids=lambda example: example.rules)
def test_worked_examples_without_ckptmap(example: Example, tmp_path: Path) -> None:
    """The file in a process of its own, where no ckptmap can be imported."""
    theirs = shaken(getattr(transformers, example.theirs)(example.config))
    theirs.save_pretrained(tmp_path / "hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    rules = Rules.read(EXAMPLES / f"{example.rules}.ckptmap")
    rules = rules.inverse() if "--back" in example.there else rules
    mine, config = example.mine().state_dict(), example.config.to_dict()
    (tmp_path / "made.py").write_text(export(rules, "python", state, mine, config=config))
    code = (
        "import sys; sys.modules['ckptmap'] = None\n"
        "import made, torch\n"
        "from safetensors.torch import load_file\n"
        "state = load_file('hf/model.safetensors')\n"
        "there = made.left_to_right(state)\n"
        "torch.save((there, made.right_to_left(there, base=state)), 'both.pt')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there, home = torch.load(tmp_path / "both.pt", weights_only=True)
    plan = bind(
        rules,
        {n: tuple(t.shape) for n, t in state.items()},
        {n: tuple(t.shape) for n, t in mine.items()},
        config=config,
    )
    assert same_bits(there, convert(plan, state))
    assert same_bits(home, state)
