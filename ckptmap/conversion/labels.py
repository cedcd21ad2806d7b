"""The number of labels in a config, made to fit a head that was trained for another number."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ckptmap.checkpoint import Checkpoint, open_checkpoint
from ckptmap.errors import ArchitectureError, CheckpointError
from ckptmap.formats import Contents, Extent
from ckptmap.heads import heads
from ckptmap.heads.rules import Shape
from ckptmap.spec import TensorSpec

DEFAULT = 2
"""Labels where a config says nothing. Source: transformers 5.23, configuration_utils.py."""


def with_labels_of(
    config: Mapping[str, Any], like: str | os.PathLike[str], tensors: Sequence[TensorSpec]
) -> Mapping[str, Any]:
    """The config with as many labels as the written head has, if its class then takes tensors that it would refuse now.

    The class itself is asked, since only it knows which sizes are numbers of labels; it is not where the tensors are
    those of the weights that stand beside the config.

    Args:
        config: What config.json says, with one architecture.
        like: Where it is from.
        tensors: What is written.
    """
    named = list(config.get("architectures") or [])
    if len(named) != 1 or _stands_beside(like, tensors):
        return config
    with suppress(ArchitectureError, CheckpointError):  # of a class that cannot be asked nothing is known
        refused = _refused(config, named[0], tensors)
        differ = {pair for _, new, old in refused for pair in zip(new, old, strict=False) if pair[0] != pair[1]}
        if len(differ) == 1 and (counts := differ.pop())[1] == _count(config):
            changed = _renumbered(config, counts[0])
            if not _refused(changed, named[0], tensors):
                return changed
    return config


def _stands_beside(like: str | os.PathLike[str], tensors: Sequence[TensorSpec]) -> bool:
    try:
        with open_checkpoint(like) as there:
            return all(spec.name in there and there[spec.name].shape == spec.shape for spec in tensors)
    except CheckpointError:
        return False  # a config without weights


def _refused(config: Mapping[str, Any], name: str, tensors: Sequence[TensorSpec]) -> set[tuple[str, Shape, Shape]]:
    """Tensors whose shape the class would not take: name, the shape written, the shape wanted."""

    def locate(tensor: str) -> Extent:
        raise CheckpointError("is about to be written", where=tensor)

    contents = Contents({spec.name: spec for spec in tensors}, {}, locate)
    with Checkpoint(contents, source="what is written", names="on disk") as written:
        report = heads(written, [name], config=config, in_child=True)
    return set(report[name].mismatched_keys)


def _count(config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else int(config.get("num_labels", DEFAULT))


def _renumbered(config: Mapping[str, Any], count: int) -> dict[str, Any]:
    names = [f"LABEL_{number}" for number in range(count)]
    changed = {key: value for key, value in config.items() if key != "num_labels"}
    return changed | {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
