"""What a written file says of how it was made: the rules, which side it is, and what the way back must know."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptmap.errors import ConvertError, PlanError
from ckptmap.rules.plan import Piece, Plan, Sizes, bind
from ckptmap.rules.rules import Rules, Side

if TYPE_CHECKING:
    import os

    from ckptmap.checkpoint import Checkpoint

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
    target: Mapping[str, Sizes] | None = None,
    hints: Mapping[str, Sizes] | None = None,
    residue: Checkpoint | None = None,
) -> Task:
    """Bind rules to a checkpoint.

    Args:
        rules: What to bind; a plan is bound already, and only checked to fit.
        source: What is read.
        back: Whether to read from right to left.
        sizes: Lengths of axes.
        config: Where `config.KEY` is looked up.
        partial: Leave out what no rule covers.
        target: Shapes of the written side, when all of them are known.
        hints: Shapes of some tensors of the written side.
        residue: What the way there left; it says the sizes of that way.

    Raises:
        ConvertError: The checkpoint is what these rules would make already, or carries no rules and none are given.
        PlanError: The rules do not fit.
        RuleError: The rule file is wrong.
    """
    if isinstance(rules, Plan):
        return _bound_task(rules.inverse() if back else rules, source, back=back, partial=partial)
    opened = _opened_rules(rules, source)
    rule_text = str(opened)
    known = _known_of(source, rule_text, _writes(back))
    if not known and residue is not None and _is_of(residue, rule_text):
        known = _known(residue)
    sizes = {**known.get("sizes", {}), **(sizes or {})}
    config = {**known.get("config", {}), **(config or {})}
    hints = {**(hints or {}), **{name: tuple(shape) for name, shape in known.get("shapes", {}).items()}}
    plan = bind(
        opened.inverse() if back else opened,
        {name: spec.shape for name, spec in source.items()},
        target,
        config=config,
        sizes=sizes,
        partial=partial,
        hints=hints,
    )
    used = {key: value for key in _CONFIG_KEY.findall(rule_text) if (value := _lookup(config, key)) is not None}
    return _task(plan, rule_text, back, {"sizes": sizes, "config": used})


def _bound_task(plan: Plan, source: Checkpoint, *, back: bool, partial: bool) -> Task:
    """A plan is bound to names and shapes, which must be those of the checkpoint."""
    ties = {second for second, _ in plan.left_ties}
    needed = {
        block.left.name
        for equation in plan.equations
        for block in equation.blocks
        if isinstance(block.left, Piece) and block.right != "none"
    }
    covered = {name for equation in plan.equations for name in equation.left} | ties | set(plan.uncovered_left)
    problems = [f"{name}: the plan needs it, and {source.source} has no such tensor" for name in needed - source.keys()]
    problems += [
        f"{name}: is {list(source[name].shape)}, and the plan is for {list(shape)}; bind the rules to this checkpoint"
        for name, shape in plan.left.items()
        if name in source and source[name].shape != tuple(shape)
    ]
    if not partial:
        problems += [f"{name}: the plan does not cover it; bind the rules anew" for name in source.keys() - covered]
    if problems:
        raise PlanError(tuple(sorted(problems)))
    if plan.rules is None:
        return Task(plan, _writes(not back), _writes(back), "", {SIDE: _writes(back)})
    rule_text = str(plan.rules.inverse() if back else plan.rules)
    _known_of(source, rule_text, _writes(back))
    return _task(plan, rule_text, back, {"sizes": dict(plan.sizes)})


def _task(plan: Plan, rule_text: str, back: bool, told: Mapping[str, Any]) -> Task:
    from ckptmap.conversion.schedule import shapes_of

    told = {key: value for key, value in {**told, "shapes": shapes_of(plan)}.items() if value}
    stamp = {RULES: rule_text, SIDE: _writes(back)} | ({KNOWN: json.dumps(told)} if told else {})
    assert plan.rules is not None  # of the way that is gone: what is written is its right side
    return Task(plan, _writes(not back), _writes(back), plan.rules.right, stamp)


def _writes(back: bool) -> Side:
    return "left" if back else "right"


def names_covered(rules: RulesLike, source: Checkpoint, names: Iterable[str], *, back: bool) -> set[str]:
    """Those names of the written side that rules name, ties too."""
    if isinstance(rules, Plan):
        ties = rules.left_ties if back else rules.right_ties
        covered = {*(rules.left if back else rules.right), *(second for second, _ in ties)}
        return {name for name in names if name in covered}
    opened = _opened_rules(rules, source)
    return opened.names_in(_writes(back), names)


def _opened_rules(rules: Rules | str | os.PathLike[str] | None, source: Checkpoint) -> Rules:
    if rules is not None:
        return rules if isinstance(rules, Rules) else Rules.read(rules)
    text = source.metadata.get(RULES)
    if text is None:
        raise ConvertError(f"{source.source}: carries no rules in its header; name the rule file")
    return Rules.parse(text, source.source)


def _known_of(source: Checkpoint, rule_text: str, writes: str) -> dict[str, Any]:
    """What the source says of how these rules made it; nothing where other rules did.

    Raises:
        ConvertError: They made the side that would be written.
    """
    if not _is_of(source, rule_text):
        return {}
    check_side(source, writes)
    return _known(source) if SIDE in source.metadata else {}


def _is_of(made: Checkpoint, rule_text: str) -> bool:
    """Whether a header says that these rules made it."""
    return made.metadata.get(RULES, "").strip() == rule_text.strip()


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


def architecture_in(side_text: str) -> str | None:
    """The class that a side's text names last, as in `left: FacebookAI/roberta-base, RobertaForMaskedLM`."""
    last = side_text.rpartition(",")[2].strip()
    return last if re.fullmatch(r"[A-Z]\w*(For[A-Z]\w*|Model|LMHeadModel)", last) else None


def rule_file_path(rules: RulesLike) -> Path | None:
    """The file that rules come from, which must not be written onto."""
    return None if rules is None or isinstance(rules, Plan) or hasattr(rules, "statements") else Path(str(rules))
