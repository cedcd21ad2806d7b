"""What stands in order because its neighbours do, and what only names propose: kept where outputs bear it out."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

import ckptmap
from ckptmap.infer.extend import Partial
from ckptmap.infer.siblings import REACHED, complete_siblings, straightened

EXPERTS, ROWS, COLUMNS = 4, 3, 2

LEFT = {"experts.up": (EXPERTS, ROWS, COLUMNS)}


def arange(first: int) -> numpy.ndarray:
    return first + numpy.arange(ROWS * COLUMNS, dtype=numpy.int64).reshape(ROWS, COLUMNS)


def known(missing: int) -> Partial:
    elements = {f"experts.{n}.up": arange(n * ROWS * COLUMNS) for n in range(EXPERTS)}
    elements[f"experts.{missing}.up"] = numpy.full((ROWS, COLUMNS), -1, dtype=numpy.int64)
    return Partial(elements, LEFT, dict.fromkeys(elements, (ROWS, COLUMNS)))


@pytest.mark.parametrize("missing", range(EXPERTS))
def test_an_expert_that_no_input_reached_goes_on_as_its_siblings(missing: int) -> None:
    found = known(missing)
    complete_siblings(found)
    assert (found.elements[f"experts.{missing}.up"] == arange(missing * ROWS * COLUMNS)).all()
    assert found.evidence == {f"experts.{missing}.up": REACHED}


def test_an_expert_whose_siblings_are_shuffled_stays_open() -> None:
    found = known(3)
    found.elements["experts.0.up"], found.elements["experts.1.up"] = arange(ROWS * COLUMNS), arange(0)
    complete_siblings(found)
    assert (found.elements["experts.3.up"] < 0).all()


def test_an_expert_whose_place_is_taken_stays_open() -> None:
    found = known(3)
    found.elements["other"] = arange(3 * ROWS * COLUMNS)
    complete_siblings(Partial(found.elements, LEFT, found.right))
    assert (found.elements["experts.3.up"] < 0).all()


def test_few_units_out_of_order_are_put_in_order_and_many_are_not() -> None:
    regular = numpy.arange(60, dtype=numpy.int64).reshape(20, 3)
    two, half = regular.copy(), regular.copy()
    two[[4, 9]] = regular[[9, 4]]
    half[:10] = regular[:10][::-1]
    made = straightened({"two": two, "half": half, "turned": regular.T.copy()}, {"w": (20, 3)})
    assert (made["two"] == regular).all()
    assert (made["half"] == half).all()
    assert (made["turned"] == regular.T).all()


class Tower(nn.Module):
    """Its output is of length one: while all weights are alike, nothing can be read off it."""

    def __init__(self, *, turned: bool) -> None:
        super().__init__()
        self.turned = turned
        self.token_embedding = nn.Embedding(11, 6)
        self.ln_final = nn.LayerNorm(6)
        projection = torch.empty((6, 4) if turned else (4, 6))
        self.text_projection = nn.Parameter(nn.init.normal_(projection))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.ln_final(self.token_embedding(ids)).mean(1)
        return functional.normalize(x @ (self.text_projection if self.turned else self.text_projection.T), dim=-1)


def test_what_a_normalised_output_hides_is_proposed_by_names_and_proven() -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    left, right = Tower(turned=False), Tower(turned=True)
    found = ckptmap.remap(left, right, inputs=((ids,), (ids,)))
    assert found.verification is not None
    assert found.verification.passed
    assert not found.undecided
    made = ckptmap.convert(found.rules, left.state_dict())
    right.load_state_dict(made)
    assert torch.allclose(left(ids), right(ids), atol=1e-6)


def test_what_names_propose_is_not_kept_if_outputs_differ() -> None:
    class Other(Tower):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) + functional.normalize(self.token_embedding(ids).sum(1)[:, :4], dim=-1)

    ids = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    found = ckptmap.remap(Tower(turned=False), Other(turned=True), inputs=((ids,), (ids,)))
    assert "text_projection" not in found.evidence
    assert "text_projection" in {name for one in found.undecided for name in one.right}


class Spans(nn.Module):
    """Start and end of an answer, which are one and the same while all weights are alike."""

    def __init__(self, *, as_tuple: bool) -> None:
        super().__init__()
        self.table, self.spans = nn.Embedding(11, 6), nn.Linear(6, 2)
        self.as_tuple = as_tuple

    def forward(self, ids: torch.Tensor) -> object:
        start, end = self.spans(torch.tanh(self.table(ids))).unbind(-1)
        return (start, end) if self.as_tuple else {"start_logits": start, "end_logits": end}


def test_outputs_that_are_alike_at_first_go_together_in_their_order() -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    left, right = Spans(as_tuple=False), Spans(as_tuple=True)
    found = ckptmap.remap(left, right, inputs=((ids,), (ids,)))
    assert found.verification is not None
    assert found.verification.passed
    right.load_state_dict(ckptmap.convert(found.rules, left.state_dict()))
    assert torch.equal(left(ids)["start_logits"], right(ids)[0])
