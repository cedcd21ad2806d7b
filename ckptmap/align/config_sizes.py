"""Sizes in rule files as what a config calls them: rules found with four heads hold for a model of sixteen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptmap.rules.names import NamePattern
from ckptmap.rules.rules import NOWHERE, ZEROS, Rule, Rules, Size

if TYPE_CHECKING:
    from ckptmap.infer.operands import Operand

COUNTED = ("head", "group")
"""What keys of configs count that no shape tells; the three parts of a fused projection are in no config."""


def with_config_sizes(rules: Rules, sides: tuple[Operand, Operand]) -> Rules:
    """The rules with `size h = config.num_heads` in place of `size h = 4`, where one key alone has that value.

    Args:
        rules: Rules whose sizes are numbers.
        sides: The left and the right; of configs the left's comes first.
    """
    configs = [config for config in map(_config_of, sides) if config]
    told: dict[str, int] = {}
    statements = []
    for one in rules.statements:
        if isinstance(one, Size) and isinstance(one.value, int):
            key = next((key for key in (_key_of(one.value, config) for config in configs) if key), "")
            if key:
                told[one.axis] = one.value
                one = replace(one, value=f"config.{key}")
        statements.append(one)
    return Rules(tuple(statements), rules.path, {**rules.found_with, **told}) if told else rules


def _config_of(side: Operand) -> Mapping[str, Any]:
    config: Any = getattr(side.module, "config", None)
    return dict(config.to_dict()) if hasattr(config, "to_dict") else {}


def _key_of(size: int, config: Mapping[str, Any]) -> str:
    """The key that has this value, if only one has that counts heads or groups."""
    keys = [
        key
        for key, value in config.items()
        if type(value) is int and value == size and any(word in key for word in COUNTED)
    ]
    return keys[0] if len(keys) == 1 and keys[0].isidentifier() else ""


def padded_with_zeros(rules: Rules) -> Rules:
    """The rules with zeros for the rows of a right table that the left's table lacks: no input looks them up."""
    statements = []
    for one in rules.statements:
        if isinstance(one, Rule) and NOWHERE in one.left and any(isinstance(term, NamePattern) for term in one.left):
            one = replace(one, left=tuple(ZEROS if term == NOWHERE else term for term in one.left))
        statements.append(one)
    return Rules(tuple(statements), rules.path, rules.found_with)
