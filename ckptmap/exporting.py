"""Rules in the form of other tools; each export is run before it is handed over.

A target is one file in `exports/` with `export(plan) -> str`, and one row in `TARGETS`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias, cast

from ckptmap.checkpoint import Checkpoint, Source, open_checkpoint
from ckptmap.errors import ExportError, PlanError
from ckptmap.exports.cases import numbered
from ckptmap.rules.plan import Sizes, bind
from ckptmap.rules.rules import Rules

Side: TypeAlias = "Checkpoint | Source | Mapping[str, Sizes]"


@dataclass(frozen=True)
class Target:
    """A form that rules can be exported in.

    Attributes:
        module: The file in `exports/`.
        says: What it is.
        both_ways: Whether one export holds for both ways.
        bound: Whether it needs names and shapes of a checkpoint.
    """

    module: str
    says: str
    both_ways: bool = False
    bound: bool = True


TARGETS = {
    "transformers": Target("transformers", "Python: weight conversions for from_pretrained and save_pretrained", True),
    "key-mapping": Target("key_mapping", "JSON: a dict for from_pretrained(key_mapping=…)", True),
    "vllm": Target("vllm", "Python: a WeightsMapper"),
    "torchtune": Target("torchtune", "Python: a dict of names, read either way", True),
    "python": Target("python", "Python: two functions on state dicts, torch alone", True),
    "json": Target("json", "JSON: the rule file for programs", True, bound=False),
}


def export(
    rules: Rules | str | os.PathLike[str],
    target: str,
    left: Side | None = None,
    right: Side | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
    back: bool = False,
) -> str:
    """Write rules in the form of another tool, run it, and hand it over if it does what the rules do.

    Args:
        rules: Rules, or a rule file.
        target: `transformers`, `key-mapping`, `vllm`, `torchtune`, `python` or `json`.
        left: The left checkpoint, a model, a state dict, or shapes by names; all but `json` need a side.
        right: The right one, likewise.
        sizes: Lengths of axes that shapes do not tell.
        config: What `config.KEY` is looked up in; by default the config beside the left, then the right.
        back: Export the rules with their sides exchanged.

    Returns:
        The text of a file.

    Raises:
        ExportError: The target cannot say these rules, all of which are named.
        PlanError: The rules do not fit the checkpoints.
        RuleError: The rule file is wrong.
    """
    if target not in TARGETS:
        raise ExportError(f"{target}: no such target. Give one of {', '.join(TARGETS)}.")
    rules = rules if isinstance(rules, Rules) else Rules.read(rules)
    module: Any = import_module(f"ckptmap.exports.{TARGETS[target].module}")
    if not TARGETS[target].bound:
        return cast(str, module.export(rules.inverse() if back else rules))
    if left is None and right is None:
        raise PlanError(
            (
                f"{target}: an export is run before it is handed over, which needs names and shapes. Give a checkpoint "
                "of the left side, of the right one, or both.",
            )
        )
    (ours, our_config), (theirs, their_config) = _read(left), _read(right)
    found = {**their_config, **our_config} if config is None else config
    plan = bind(numbered(rules), ours, theirs, sizes=sizes, config=found)
    return cast(str, module.export(plan.inverse() if back else plan))


def _read(side: Side | None) -> tuple[dict[str, Sizes] | None, Mapping[str, Any]]:
    """Shapes of a side by their names, and the config beside it."""
    if side is None:
        return None, {}
    if isinstance(side, Mapping):
        inventory: Mapping[str, Any] = side
        shapes = {name: tuple(getattr(one, "shape", one)) for name, one in inventory.items()}
        return shapes, getattr(side, "config", None) or {}
    with open_checkpoint(side) as checkpoint:
        return {name: spec.shape for name, spec in checkpoint.items()}, checkpoint.config or {}
