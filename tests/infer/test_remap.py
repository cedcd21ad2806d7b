"""`ckptmap.remap` writes the rules a person would have written, proves them, and asks instead of guessing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import ckptmap
from ckptmap.__main__ import main
from ckptmap.errors import ArchitectureError, PlanError

HAND_BUILT = "tests/convert/test_handbuilt.py:Classifier"

X = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(2))


class Split(nn.Module):
    """Attention with grouped queries, one layer for each projection."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(12, 6), nn.Linear(12, 6)
        self.o, self.q = nn.Linear(12, 12), nn.Linear(12, 12)

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q(x), self.k(x), self.v(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (p.unflatten(-1, (-1, 3)).transpose(1, 2) for p in self.parts(x))
        k, v = (one.repeat_interleave(2, dim=1) for one in (k, v))
        return self.o((torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).flatten(-2))


class ByGroup(Split):
    """The same, fused: for each of two groups two query heads, a key head and a value head."""

    def __init__(self) -> None:
        super().__init__()
        del self.q, self.k, self.v
        self.qkv = nn.Linear(12, 24)

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = self.qkv(x).unflatten(-1, (2, 12)).split([6, 3, 3], dim=-1)
        return q.flatten(-2), k.flatten(-2), v.flatten(-2)


class Stacked(nn.Module):
    """Experts in one tensor, gate and up side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(12, 3, bias=False)
        self.gate_up = nn.Parameter(torch.randn(3, 12, 16))
        self.down = nn.Parameter(torch.randn(3, 8, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = torch.einsum("btm,emf->betf", x, self.gate_up).chunk(2, -1)
        made = torch.einsum("betf,efm->betm", nn.functional.silu(gate) * up, self.down)
        return (made * self.router(x).softmax(-1).mT[..., None]).sum(1)


class Experts(nn.Module):
    """The same with a module for each expert."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(12, 3, bias=False)
        self.experts = nn.ModuleList(
            nn.ModuleDict(
                {
                    "w1": nn.Linear(12, 8, bias=False),
                    "w2": nn.Linear(8, 12, bias=False),
                    "w3": nn.Linear(12, 8, bias=False),
                }
            )
            for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.gates(x).softmax(-1)
        made = [one["w2"](nn.functional.silu(one["w1"](x)) * one["w3"](x)) for one in self.experts]
        return sum(weights[..., number, None] * part for number, part in enumerate(made))


class WithDeadWeight(Split):
    """A square layer that is never run, which the other side has too under another name."""

    def __init__(self, name: str, more: tuple[str, ...] = ()) -> None:
        super().__init__()
        for one in (name, *more):
            self.register_module(one, nn.Linear(12, 12, bias=False))


def carried(left: nn.Module, right: nn.Module, found: ckptmap.Remap) -> None:
    """The left's weights make the right compute what the left computes, and come back with equal bits."""
    state = left.state_dict()
    made = ckptmap.convert(found.rules, state)
    right.load_state_dict(made, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(right(X), left(X), rtol=1e-5, atol=1e-5)
    back = ckptmap.convert(found.rules, made, back=True)
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("left", "right"), [(Split, ByGroup), (ByGroup, Split), (Stacked, Experts), (Experts, Stacked)], ids=str
)
def test_fused_grouped_and_stacked_weights_are_carried_there_and_back(
    left: type[nn.Module], right: type[nn.Module]
) -> None:
    ours, theirs = left(), right()
    found = ckptmap.remap(ours, theirs, inputs=((X,), (X,)))
    assert found.verification is not None
    assert found.verification.passed
    assert not found.undecided
    carried(ours, theirs, found)


def test_groups_of_queries_are_written_as_where_the_axes_sit() -> None:
    found = ckptmap.remap(ByGroup(), Split(), inputs=((X,), (X,)))
    (line,) = (line for line in str(found.rules).splitlines() if "qkv" in line)
    assert "[" in line
    assert line.count("+") == 2


def test_experts_become_an_axis() -> None:
    found = ckptmap.remap(Stacked(), Experts(), inputs=((X,), (X,)))
    text = str(found.rules)
    assert "experts.{i}.{w1,w3}.weight" in text
    assert len(found.rules.rules) == 3


def test_the_rules_of_a_real_classifier_are_as_short_as_a_persons(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, out = f"{fixtures / 'roberta-cls'}#RobertaForSequenceClassification", tmp_path / "roberta.ckptmap"
    assert main(["remap", left, HAND_BUILT, "-o", str(out), "--why"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("proven: ")
    assert "blocks.0.norm1.weight: equal outputs and derivatives" in shown
    lines = out.read_text().splitlines()
    assert len(lines) <= 20
    assert any(line.split() == ["output.LayerNorm.*", "<->", "norm2.*"] for line in lines)
    assert any("{query,key,value}.weight" in line and "[o + o + o] m" in line for line in lines)
    residue = str(tmp_path / "residue.safetensors")
    made, back = str(tmp_path / "mine.safetensors"), str(tmp_path / "back.safetensors")
    assert main(["convert", str(out), str(fixtures / "roberta-cls"), made, "--residue", residue]) == 0
    assert main(["convert", str(out), made, back, "--back", "--residue", residue]) == 0
    with ckptmap.open_checkpoint(fixtures / "roberta-cls") as before, ckptmap.open_checkpoint(back) as after:
        assert {name: before.read(name) for name in before} == {name: after.read(name) for name in after}


def test_tensors_that_change_no_output_are_asked_about_and_a_pin_answers() -> None:
    left, right = WithDeadWeight("old", ("older",)), WithDeadWeight("new")
    found = ckptmap.remap(left, right, inputs=((X,), (X,)))
    (asked,) = found.undecided
    assert asked.right == ("new.weight",)
    assert set(asked.left) == {"old.weight", "older.weight"}
    assert "--pin 'old.weight <-> new.weight'" in asked.question
    again = ckptmap.remap(left, right, inputs=((X,), (X,)), hints=["older.weight <-> new.weight"])
    assert not again.undecided
    assert again.evidence["new.weight"] == "told by a pin"
    assert [one.name for one in again.left_only] == ["old.weight"]


def test_a_pin_against_the_evidence_is_refused() -> None:
    with pytest.raises(PlanError, match=r"q\.weight contradicts"):
        ckptmap.remap(Split(), Split(), inputs=((X,), (X,)), hints=["o.weight <-> q.weight"])


def test_tied_tensors_are_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(30, 8), nn.Linear(8, 30, bias=False)
            self.mix = nn.Linear(8, 8)
            self.out.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.mix(self.table(ids))))

    ids = torch.arange(10, 24).reshape(2, 7)
    found = ckptmap.remap(Tied(), Tied(), inputs=((ids,), (ids,)))
    assert "tie right table.weight = out.weight" in str(found.rules)
    assert not found.undecided


def test_models_that_compute_other_functions_are_refused() -> None:
    class Other(Split):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.o(torch.tanh(self.q(x)) + self.k(x).mean() * self.v(x).sum())

    with pytest.raises(ArchitectureError, match=r"Split and Other"):
        ckptmap.remap(Split(), Other(), inputs=((X,), (X,)))


def test_without_inputs_usual_ones_are_tried_and_named_when_none_runs() -> None:
    class Odd(Split):
        def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
            return scale * super().forward(x)

    with pytest.raises(ArchitectureError, match=r"Odd\(.*scale"):
        ckptmap.remap(Odd(), Odd())


def test_from_names_alone_what_no_name_tells_stays_open(fixtures: Path) -> None:
    found = ckptmap.remap(fixtures / "roberta-mlm", fixtures / "roberta-cls", values=False)
    assert found.verification is None
    assert "classifier.out_proj.weight" in {one.name for one in found.right_only}
    assert "classifier.dense.weight" in {name for one in found.undecided for name in one.right}
    assert found.evidence["roberta.embeddings.LayerNorm.weight"] == "both are the norm of the embeddings by name"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["{roberta}#RobertaForSequenceClassification", "tests/convert/test_handbuilt.py:Missing"], "no attribute"),
        (["{roberta}#RobertaForSequenceClassification", "nowhere_at_all:build"], "nowhere_at_all"),
        (["{roberta}#Roberta", HAND_BUILT], "RobertaForSequenceClassification"),
        (["{roberta}#RobertaForSequenceClassification", HAND_BUILT, "--right-arg", "depth"], "NAME=VALUE"),
        (["{roberta}#RobertaForSequenceClassification", HAND_BUILT, "--right-arg", "depth=2"], "depth"),
        (["{roberta}", "{roberta}", "--left-arg", "layers=2"], "takes no arguments"),
    ],
)
def test_wrong_operands_are_named(
    argv: list[str], said: str, fixtures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["remap", *(word.format(roberta=fixtures / "roberta-cls") for word in argv)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


MIXTRAL = {
    "vocab_size": 51,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "num_local_experts": 4,
    "max_position_embeddings": 32,
}


def test_rules_of_a_transformers_class_are_for_its_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file
    from transformers import MixtralConfig, MixtralForCausalLM

    model = MixtralForCausalLM(MixtralConfig(**MIXTRAL))
    model.save_pretrained(tmp_path / "hub")
    made_of = "t.MixtralForCausalLM(t.MixtralConfig.from_pretrained('hub'))"
    (tmp_path / "mine.py").write_text(f"import transformers as t\ndef build():\n    return {made_of}\n")
    monkeypatch.chdir(tmp_path)
    argv = ["remap", "hub#MixtralForCausalLM", "mine.py:build", "-o", "mixtral.ckptmap"]
    assert main([*argv, "--save", "out.safetensors"]) == 0
    line = "experts.{j}.{w1,w3}.weight <-> mlp.experts.gate_up_proj : o m <-> j [o + o] m"
    assert line in (tmp_path / "mixtral.ckptmap").read_text()
    made, want = load_file(tmp_path / "out.safetensors"), model.state_dict()
    assert made.keys() == want.keys()
    assert all(torch.equal(made[name], want[name]) for name in want)
    capsys.readouterr()
    assert main([*argv, "--save", "again.safetensors", "--memory-names"]) == 2
    assert "--memory-names" in capsys.readouterr().err
    assert not (tmp_path / "again.safetensors").exists()


def test_guesses_are_written_as_such_and_questions_asked_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    layer = ("attn.{q}.weight", "attn.{k}.weight", "attn.{v}.weight", "attn.o.weight", "norm.weight")
    names = ("embed.weight", *(f"layers.{n}.{name}" for n in (0, 1) for name in layer))
    for file, words in (("a", {"q": "wq", "k": "wk", "v": "wv"}), ("b", {"q": "query", "k": "key", "v": "value"})):
        shapes = ((11, 8), *((8, 8), (4, 8), (4, 8), (8, 8), (8,)) * 2)
        tensors = {name.format(**words): torch.zeros(shape) for name, shape in zip(names, shapes, strict=True)}
        save_file(tensors, tmp_path / f"{file}.safetensors")
    a, b, out = (str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "rules.ckptmap"))
    assert main(["remap", a, b, "-o", out]) == 1
    assert "guess attn.wq.weight" in Path(out).read_text()
    shown = capsys.readouterr().out
    assert "2 more are guesses" in shown
    assert "--pin 'layers.{i}.attn.wk.weight <-> layers.{i}.attn.key.weight'" in shown
    assert main(["check", out]) == 1
    capsys.readouterr()
    assert main(["remap", a, b, "--format", "markdown"]) == 1
    comment = capsys.readouterr().out
    assert comment.startswith("**not proven: ")
    assert "### undecided\n\n| what would decide it |" in comment
    assert "\n```\nckptmap 1\n" in comment
    answers = iter(["no rule at all", "layers.{i}.attn.wq.weight <-> layers.{i}.attn.query.weight"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert main(["remap", a, b, "-o", out, "--ask", "--no-verify"]) == 0
    assert main(["check", out]) == 0


BARE = """
import torch
from tests.convert.test_handbuilt import Classifier

class Bare(Classifier):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Sequential(torch.nn.Linear(24, 7))  # new, and not used yet

    def forward(self, ids):
        x = self.norm(self.tok(ids) + self.pos(torch.arange(ids.shape[1])) + self.seg(torch.zeros_like(ids)))
        for block in self.blocks:
            x = block(x)
        return x
"""


def test_what_has_no_counterpart_has_a_line_so_that_the_file_converts(fixtures: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(BARE)
    rules, out, left = tmp_path / "bare.ckptmap", tmp_path / "bare.safetensors", fixtures / "roberta-cls"
    model = f"{tmp_path / 'bare.py'}:Bare"
    assert main(["remap", f"{left}#RobertaForSequenceClassification", model, "-o", str(rules)]) == 0
    lines = {" ".join(line.split("#")[0].split()) for line in rules.read_text().splitlines()}
    assert {"_ <-> head.0.weight", "classifier.dense.weight <-> _"} <= lines
    assert main(["check", str(rules), str(left)]) == 0
    assert main(["convert", str(rules), str(left), str(out)]) == 0
