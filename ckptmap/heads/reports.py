"""What is said of each head class: a verdict, what would be loaded, and what would not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from ckptmap.heads.inventory import ClassInventory
from ckptmap.heads.prediction import Mismatch, Prediction
from ckptmap.heads.rules import Shape
from ckptmap.heads.unwritten import known_unwritten

Verdict = Literal["ready", "train the head", "train more than the head", "backbone not loaded", "will raise"]

MOSTLY = 0.5
"""Share of the backbone's parameters that must come from the checkpoint for it to count as loaded."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a part of the model comes from the checkpoint; tied tensors count once, buffers not at all."""

    loaded_tensors: int
    tensors: int
    loaded_parameters: int
    parameters: int


@dataclass(frozen=True, slots=True)
class HeadReport:
    """What `from_pretrained` would do for one class.

    Attributes:
        class_name: The class.
        verdict: What follows for a person who wants to use it.
        missing_keys: As transformers would report them.
        unexpected_keys: As transformers would report them: names as renamed.
        mismatched_keys: Name, shape in the checkpoint and shape in the model; the load raises without
            `ignore_mismatched_sizes=True`.
        newly_initialized: Names of the model whose values would not come from the checkpoint.
        unreported: Those of `newly_initialized` that transformers names nowhere.
        unwritten: Those of `newly_initialized` that nothing ever writes, so that they hold whatever was in memory;
            known for the classes of the table that `benchmarks/unwritten.py` makes.
        backbone: How much of the pretrained part is loaded.
        head: How much of the rest is.
        errors: Conversions that fail, by target.
        spellings: For each unexpected name, the names it has in the file.
        owners: For each unexpected name, the class of the family that it belongs to, if one is known.
        dropped: Names of the file that are used for nothing and reported nowhere.
        ties: Groups of names that the config ties to one tensor.
        notes: What else a person should know.
        shapes: Shape of every name the class expects.
    """

    class_name: str
    verdict: Verdict
    missing_keys: frozenset[str]
    unexpected_keys: frozenset[str]
    mismatched_keys: frozenset[Mismatch]
    newly_initialized: frozenset[str]
    unreported: frozenset[str]
    unwritten: frozenset[str]
    backbone: Coverage
    head: Coverage
    errors: Mapping[str, str] = field(hash=False)
    spellings: Mapping[str, tuple[str, ...]] = field(hash=False, repr=False)
    owners: Mapping[str, str] = field(hash=False, repr=False)
    dropped: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    shapes: Mapping[str, Shape] = field(hash=False, repr=False)

    @property
    def new_parameters(self) -> int:
        """Number of parameters that would be newly initialized, tied ones once."""
        return self.backbone.parameters + self.head.parameters - self.loaded_parameters

    @property
    def loaded_parameters(self) -> int:
        """Number of parameters that would come from the checkpoint, tied ones once."""
        return self.backbone.loaded_parameters + self.head.loaded_parameters

    @property
    def parameters(self) -> int:
        """Number of parameters of the class, tied ones once."""
        return self.backbone.parameters + self.head.parameters


@dataclass(frozen=True)
class HeadsReport(Mapping[str, HeadReport]):
    """The reports of a checkpoint's head classes, by class name.

    Attributes:
        source: The checkpoint.
        model_type: The family that its config names.
        library: The release of transformers that was asked.
        reports: The reports.
        skipped: Classes that nothing can be said of, with the reason.
        notes: What holds for all of them.
    """

    source: str
    model_type: str
    library: str
    reports: Mapping[str, HeadReport] = field(repr=False)
    skipped: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def __getitem__(self, class_name: str) -> HeadReport:
        return self.reports[class_name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    def _repr_html_(self) -> str:
        from ckptmap.report.html.notebook import heads_html

        return heads_html(self)


def head_report(
    inventory: ClassInventory, prediction: Prediction, owners: Mapping[str, str], notes: Collection[str] = ()
) -> HeadReport:
    """Put a prediction into words."""
    backbone = _coverage(inventory, prediction, inventory.backbone)
    head = _coverage(inventory, prediction, inventory.head)
    mismatched = {name for name, _, _ in prediction.mismatched}
    both = [f"{target} = {source}" for target, source in prediction.stored_ties]
    said = list(notes)
    if both:
        said.append(f"the config ties, and the file holds both ends of: {', '.join(both)}; unequal values stay untied")
    return HeadReport(
        class_name=inventory.class_name,
        verdict=_verdict(inventory, prediction, backbone),
        missing_keys=prediction.missing,
        unexpected_keys=prediction.unexpected,
        mismatched_keys=prediction.mismatched,
        newly_initialized=prediction.new,
        unreported=prediction.new - prediction.missing - mismatched,
        unwritten=prediction.new & known_unwritten(inventory.class_name),
        backbone=backbone,
        head=head,
        errors=prediction.errors,
        spellings=prediction.spellings,
        owners={name: owners[name] for name in prediction.unexpected if name in owners},
        dropped=prediction.dropped,
        ties=_tie_groups(inventory),
        notes=tuple(said),
        shapes=inventory.shapes,
    )


def _coverage(inventory: ClassInventory, prediction: Prediction, part: frozenset[str]) -> Coverage:
    again = {target for target, _ in inventory.ties}
    counted = [name for name in inventory.shapes if name in part and name not in again | inventory.buffers]
    loaded = [name for name in counted if name not in prediction.new]
    sizes = {name: prod(inventory.shapes[name]) for name in counted}
    return Coverage(len(loaded), len(counted), sum(sizes[name] for name in loaded), sum(sizes.values()))


def _verdict(inventory: ClassInventory, prediction: Prediction, backbone: Coverage) -> Verdict:
    if prediction.errors or prediction.mismatched:
        return "will raise"
    if backbone.parameters and backbone.loaded_parameters < MOSTLY * backbone.parameters:
        return "backbone not loaded"
    if not prediction.new:
        return "ready"
    return "train the head" if prediction.new <= inventory.head else "train more than the head"


def _tie_groups(inventory: ClassInventory) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for target, source in inventory.ties:
        groups.setdefault(source, [source]).append(target)
    return tuple(tuple(group) for group in groups.values())
