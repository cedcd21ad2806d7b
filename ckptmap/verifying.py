"""Whether a rule file is right: weights through it and back, and both models run on them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptmap.errors import ArchitectureError, PlanError
from ckptmap.infer.compile import compile_rules, elements_of
from ckptmap.infer.operands import Operand, operand
from ckptmap.rules.names import NamePattern
from ckptmap.rules.plan import bind
from ckptmap.rules.rules import NOWHERE, Rules, read_text

if TYPE_CHECKING:
    from ckptmap.infer.findings import Elements
    from ckptmap.infer.inputs import Inputs
    from ckptmap.infer.proof import Verification
    from ckptmap.remapping import Side
    from ckptmap.rules.plan import Plan

RulesLike: TypeAlias = "Rules | str | os.PathLike[str]"


def verify(
    rules: RulesLike,
    left: Side,
    right: Side,
    *,
    inputs: tuple[Inputs, Inputs] | None = None,
    values: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> Verification:
    """Convert weights by rules, run both models on them, compare their outputs, and convert the weights back.

    Every element of both sides gets a value of its own, those without a rule included; all outputs are compared.

    Args:
        rules: A rule file, or the path of one.
        left: A model, `module:callable` that builds one, or `org/name#Class`.
        right: The same for the right.
        inputs: For each model what to run it on: keyword arguments, positional ones, or a callable that takes the
            module; both must mean the same input. Left out, usual inputs are tried.
        values: Whether to convert the weights that the left has, in place of random ones.
        sizes: Lengths of axes that shapes do not tell. `config.KEY` is looked up in the config of a transformers model.

    Raises:
        ArchitectureError: A side is no model that can be run.
        PlanError: The rules do not fit the two.
        RuleError: The file is no rule file.
    """
    from ckptmap.align.prove.check import Model, prove
    from ckptmap.infer.by_modules import learnt_elsewhere
    from ckptmap.infer.guessed_inputs import calls_on
    from ckptmap.infer.running import one_thread

    file = rules if isinstance(rules, Rules) else Rules.parse(read_text(rules), os.fspath(rules))
    sides = operand(left, "left"), operand(right, "right")
    for side in sides:
        if side.module is None:
            raise ArchitectureError(
                f"{side.label}: is known by names and shapes only, and nothing can be run; give module:callable or "
                "org/name#Class (`ckptmap check F A B` tells whether rules fit two checkpoints)"
            )
    ours, theirs = sides[0].module, sides[1].module
    assert ours is not None and theirs is not None
    found = _elements(file, sides, sizes or {})
    labels = sides[0].label, sides[1].label
    calls = calls_on(inputs, ours, theirs, labels)
    models = [
        Model(side.module, call, side.label, names)
        for side, call, names in zip(sides, calls, learnt_elsewhere(ours, theirs), strict=True)
        if side.module is not None
    ]
    with one_thread():
        whole = {name: array for name, array in found.items() if (array >= 0).all()}
        made = compile_rules(whole, sides[0].shapes, sides[1].shapes).rules
        weights = ours.state_dict() if values else None
        return prove(made, found, models[0], models[1], values=weights)


def _elements(rules: Rules, sides: tuple[Operand, Operand], sizes: Mapping[str, int]) -> Elements:
    """Which element of the left model stands where in the right one, by rules for their names or their checkpoints'."""
    from ckptmap.align.prove.fills import ZERO
    from ckptmap.infer.on_disk import on_disk

    saved = [on_disk(side) if side.saved_as else None for side in sides]
    shapes = [side.shapes if disk is None else disk.operand.shapes for side, disk in zip(sides, saved, strict=True)]
    config = _config(sides)
    plan = bind(rules, shapes[0], shapes[1], config=config, sizes=sizes, partial=True)
    if misfit := _misfit(rules, plan):
        line, problem = misfit
        try:
            bind(rules, shapes[0], shapes[1], config=config, sizes=sizes)
        except PlanError as error:
            because = tuple(text for text in error.problems if re.search(rf":{line}:|^line {line}:", text))
            raise PlanError(because or (problem,)) from None
        raise PlanError((problem,))
    found = elements_of(plan, shapes[0], shapes[1], zero=ZERO)
    if saved[0] is not None:
        found = saved[0].in_memory_left(found)
    if saved[1] is not None:
        found = saved[1].in_memory_right(found, sides[1])
    return found


def _config(sides: tuple[Operand, Operand]) -> Mapping[str, Any]:
    """What the configs of transformers models say, the left's first."""
    config: dict[str, Any] = {}
    for side in reversed(sides):
        own: Any = getattr(side.module, "config", None)
        config |= own.to_dict() if hasattr(own, "to_dict") else {}
    return config


def _misfit(rules: Rules, plan: Plan) -> tuple[int, str] | None:
    """Tensors may be left without a rule, but a rule that names them must fit: the line of one that does not."""
    for rule in rules.rules:
        for terms, uncovered in ((rule.left, plan.uncovered_left), (rule.right, plan.uncovered_right)):
            patterns = [one.matcher() for term in terms if isinstance(term, NamePattern) for one in term.terms()]
            lost = [name for name in uncovered if any(one.match(name) is not None for one in patterns)]
            if lost and rule.mark != "maybe" and NOWHERE not in (*rule.left, *rule.right):
                what = f"does not fit {lost[0]}; `ckptmap check F A B` tells why, for two checkpoints"
                return rule.line, f"line {rule.line}: {what}"
    return None
