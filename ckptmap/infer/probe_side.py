"""A model's parameters as one long vector of elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch

    from ckptmap.infer.probe_runs import Run, Subject


@dataclass
class Side:
    """One model's parameters as one long vector."""

    subject: Subject
    start: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        import numpy

        for name in self.subject.parameters:
            self.start[name] = self.size
            self.size += prod(self.sizes(name))
        self.names = tuple(self.start)
        self.starts = numpy.array([*self.start.values()], dtype=numpy.int64)

    def sizes(self, name: str) -> tuple[int, ...]:
        """Shape in which the elements of a tensor that are told apart stand."""
        return self.subject.shapes[name]

    def part(self, vector: numpy.ndarray, name: str) -> numpy.ndarray:
        """The tensor's own elements in a vector; a view."""
        shape = self.sizes(name)
        start = self.start[name]
        return vector[..., start : start + prod(shape)].reshape((*vector.shape[:-1], *shape))

    def put(self, vector: numpy.ndarray, name: str, values: numpy.ndarray) -> None:
        """Give a tensor these values, an array of its shape."""
        self.part(vector, name)[...] = values

    def positions(self, number: int, members: numpy.ndarray) -> numpy.ndarray:
        """Places in the flat tensor of that number in `names` at which these elements stand."""
        inside: numpy.ndarray = members - self.starts[number]
        return inside

    def is_enough(self, lost: numpy.ndarray, silent: numpy.ndarray, unused: numpy.ndarray) -> bool:
        """Whether filling all anew can tell no more: what has no partner was silent, or is in tensors that all were."""
        return not bool((lost & ~unused).any())

    def calm(self, vector: numpy.ndarray) -> None:
        """Before all is filled anew: have what is filled alike drown less of the rest."""

    def run(self, vector: numpy.ndarray) -> Run:
        return self.subject.run({name: self.part(vector, name) for name in self.names})

    def gradients(self, run: Run, functionals: Sequence[torch.Tensor]) -> numpy.ndarray:
        """Derivatives of the functionals by all elements: functionals × elements."""
        import numpy

        found = run.gradients(functionals)
        return numpy.concatenate([found[name].reshape(len(functionals), -1) for name in self.names], axis=1)

    def owners(self, members: numpy.ndarray) -> list[int]:
        """For each element the number of its tensor in `names`."""
        import numpy

        found: list[int] = (numpy.searchsorted(self.starts, members, side="right") - 1).tolist()
        return found
