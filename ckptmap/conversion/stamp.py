"""What a written file says of how it was made: the rules, which side it is, and what the way back must know."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptmap.errors import ConvertError
from ckptmap.rules.plan import Plan, Sizes

if TYPE_CHECKING:
    import os

    from ckptmap.checkpoint import Checkpoint
    from ckptmap.rules.rules import Rules

RulesLike: TypeAlias = "Rules | Plan | str | os.PathLike[str] | None"

RULES, SIDE, KNOWN = "ckptmap.rules", "ckptmap.side", "ckptmap.known"
_CONFIG_KEY = re.compile(r"config\.([\w.]+)")


@dataclass(frozen=True)
class Task:
    """What to run: a plan that reads from left to right, and what is known of the file that holds the result."""

    plan: Plan
    reads: str
    writes: str
    side_text: str
    stamp: Mapping[str, str]


def make_task(
    rules: RulesLike,
    source: Checkpoint,
    *,
    back: bool,
    sizes: Mapping[str, int] | None,
    config: Mapping[str, Any] | None,
    partial: bool,
    known_shapes: Mapping[str, Sizes],
) -> Task:
    """Bind rules to a checkpoint.

    Raises:
        ConvertError: The checkpoint is what these rules would make already, or carries no rules and none are given.
        PlanError: The rules do not fit.
        RuleError: The rule file is wrong.
    """
    reads, writes = ("right", "left") if back else ("left", "right")
    text = source.metadata.get(RULES)
    if isinstance(rules, Plan):
        return Task(rules.inverse() if back else rules, reads, writes, "", {SIDE: writes})
    from ckptmap.rules.rules import Rules

    if rules is None and text is None:
        raise ConvertError(f"{source.source}: carries no rules in its header; name the rule file")
    if rules is None:
        assert text is not None
        opened = Rules.parse(text, source.source)
    else:
        opened = rules if isinstance(rules, Rules) else Rules.read(rules)
    rule_text = str(opened)
    known: dict[str, Any] = {}
    if text is not None and text.strip() == rule_text.strip():
        check_side(source, writes)
        if source.metadata.get(SIDE) == reads:
            known = _known(source)
    sizes = {**known.get("sizes", {}), **(sizes or {})}
    config = {**known.get("config", {}), **((source.config if config is None else config) or {})}
    shapes = known_shapes or {name: tuple(shape) for name, shape in known.get("shapes", {}).items()}
    plan = bind_rules(opened.inverse() if back else opened, source, shapes, config=config, sizes=sizes, partial=partial)
    from ckptmap.conversion.schedule import shapes_of

    used = {key: value for key in _CONFIG_KEY.findall(rule_text) if (value := _lookup(config, key)) is not None}
    told = {"sizes": sizes, "config": used, "shapes": {**shapes_of(plan)}}
    told = {key: value for key, value in told.items() if value}
    stamp = {RULES: rule_text, SIDE: writes} | ({KNOWN: json.dumps(told)} if told else {})
    return Task(plan, reads, writes, opened.left if back else opened.right, stamp)


def check_side(source: Checkpoint, writes: str) -> None:
    """Refuse to convert a second time.

    Raises:
        ConvertError: The checkpoint says it is on the side that would be written.
    """
    if source.metadata.get(SIDE) == writes:
        way = "it came back from a conversion; leave --back out" if writes == "left" else "--back converts it back"
        raise ConvertError(
            f"{source.source}: is the {writes} side of these rules already, as its header says, and cannot be "
            f"converted to it a second time; {way}"
        )


def _known(source: Checkpoint) -> dict[str, Any]:
    try:
        known = json.loads(source.metadata.get(KNOWN, "{}"))
    except ValueError:
        known = None
    if not isinstance(known, dict) or not all(isinstance(part, dict) for part in known.values()):
        raise ConvertError(f"{source.source}: {KNOWN} in its header is damaged; give the rule file and --size")
    return known


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    if key in config:
        return config[key]
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def bind_rules(
    rules: Rules,
    source: Checkpoint,
    target_shapes: Mapping[str, Sizes] | None,
    *,
    config: Mapping[str, Any] | None,
    sizes: Mapping[str, int] | None,
    partial: bool,
) -> Plan:
    """Bind rules that read from left to right; of the written side all shapes may be known, or some."""
    from ckptmap.rules.plan import bind

    return bind(
        rules,
        {name: spec.shape for name, spec in source.items()},
        target_shapes or None,
        config=config,
        sizes=sizes,
        partial=partial,
    )


def architecture_in(side_text: str) -> str | None:
    """The class that a side's text names last, as in `left: FacebookAI/roberta-base, RobertaForMaskedLM`."""
    last = side_text.rpartition(",")[2].strip()
    return last if re.fullmatch(r"[A-Z]\w*(For[A-Z]\w*|Model|LMHeadModel)", last) else None


def rule_file_path(rules: RulesLike) -> Path | None:
    """The file that rules come from, which must not be written onto."""
    return None if rules is None or isinstance(rules, Plan) or hasattr(rules, "statements") else Path(str(rules))
