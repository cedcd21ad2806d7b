"""What one class expects of a checkpoint: all that the prediction needs, as plain data that can be kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ckptmap.heads.rules import Rule, Shape


@dataclass(frozen=True)
class ClassInventory:
    """A model class built from one config, without its values.

    Args:
        class_name: Name of the class in transformers.
        base_prefix: The attribute that holds the base model; empty when there is none.
        is_base: Whether the class is a base model itself.
        shapes: Shape of every name of `state_dict()`, in its order: parameters and persistent buffers.
        buffers: Which of them are buffers.
        backbone: Which of them belong to the pretrained backbone.
        places: For each name, the place it is written to; names of a module that is shared have one place.
        values: For each name, the parameter that stands there before loading; a shared one stands in several places.
        ties: Name and the name it is tied to, in the loader's order.
        ignore_missing: Patterns of names whose absence is not reported.
        ignore_unexpected: Patterns of names whose presence is not reported.
        silent_buffers: Non-persistent buffers, which checkpoints of older releases may still hold.
        rules: Rename rules and conversions, in order.
    """

    class_name: str
    base_prefix: str
    is_base: bool
    shapes: Mapping[str, Shape]
    buffers: frozenset[str]
    backbone: frozenset[str]
    places: Mapping[str, int]
    values: Mapping[str, int]
    ties: tuple[tuple[str, str], ...]
    ignore_missing: tuple[str, ...]
    ignore_unexpected: tuple[str, ...]
    silent_buffers: frozenset[str]
    rules: tuple[Rule, ...]

    @cached_property
    def head(self) -> frozenset[str]:
        """Names outside the backbone."""
        return frozenset(self.shapes) - self.backbone

    def to_json(self) -> dict[str, Any]:
        """The inventory as JSON values; `from_json` reads it back."""
        return {
            "class_name": self.class_name,
            "base_prefix": self.base_prefix,
            "is_base": self.is_base,
            "tensors": [
                [name, list(shape), name in self.buffers, name in self.backbone, self.places[name], self.values[name]]
                for name, shape in self.shapes.items()
            ],
            "ties": [list(pair) for pair in self.ties],
            "ignore_missing": list(self.ignore_missing),
            "ignore_unexpected": list(self.ignore_unexpected),
            "silent_buffers": sorted(self.silent_buffers),
            "rules": [
                [
                    rule.kind,
                    list(rule.sources),
                    list(rule.targets),
                    rule.pattern,
                    rule.scope,
                    rule.base,
                    rule.offset,
                    [list(operation) for operation in rule.operations],
                ]
                for rule in self.rules
            ],
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ClassInventory:
        """Read what `to_json` made.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        tensors = fields["tensors"]
        return cls(
            class_name=fields["class_name"],
            base_prefix=fields["base_prefix"],
            is_base=fields["is_base"],
            shapes={name: tuple(shape) for name, shape, *_ in tensors},
            buffers=frozenset(row[0] for row in tensors if row[2]),
            backbone=frozenset(row[0] for row in tensors if row[3]),
            places={row[0]: row[4] for row in tensors},
            values={row[0]: row[5] for row in tensors},
            ties=tuple((target, source) for target, source in fields["ties"]),
            ignore_missing=tuple(fields["ignore_missing"]),
            ignore_unexpected=tuple(fields["ignore_unexpected"]),
            silent_buffers=frozenset(fields["silent_buffers"]),
            rules=tuple(
                Rule(
                    kind,
                    tuple(sources),
                    tuple(targets),
                    pattern,
                    scope,
                    base,
                    offset,
                    tuple((name, arguments) for name, arguments in operations),
                )
                for kind, sources, targets, pattern, scope, base, offset, operations in fields["rules"]
            ),
        )
