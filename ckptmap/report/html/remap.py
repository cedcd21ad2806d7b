"""Which rule puts which tensors together, what is a guess, and what stays open, as page data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptmap.patterns import group
from ckptmap.report.html.matching import Matching, Side, State, Tone
from ckptmap.report.remap import remap_counts, remap_verdict
from ckptmap.rules.layout import written
from ckptmap.rules.plan import Equation, bind
from ckptmap.rules.rules import Rule, Rules

if TYPE_CHECKING:
    from ckptmap.infer.findings import Open
    from ckptmap.remapping import Remap

AS_IT_IS = State("=", "decided", "quiet", "one tensor on both sides, alike as it is")
RESHAPED = State("⇄", "decided, rearranged", "good", "the same elements; the rule says how axes and parts sit")
UNPROVEN = State("!", "not proven", "change", "the rules failed their proof, and at least one of them is wrong")
GUESS = State("?", "guess", "doubt", "it fits by names and shapes; a person has to confirm it")
OPEN = State("○", "undecided", "open", "nothing tells yet; a question says what would")
LEFT = State("−", "only left", "left", "nothing on the right is made of it")
RIGHT = State("+", "only right", "right", "nothing on the left gives it")
TIED = State("&", "second name", "quiet", "one tensor that has two names")
STATES = (UNPROVEN, OPEN, GUESS, LEFT, RIGHT, RESHAPED, AS_IT_IS, TIED)

MOST_PAIRS = 4096
"""Candidates are linked while there are no more pairs of them than this."""

FEW = 6
"""Patterns of candidates that a question shows of each side."""


def remap_page(answer: Remap, *, module_pins: bool = False) -> dict[str, Any]:
    """Both sides with the rules that link them, then the questions.

    Args:
        answer: What was found.
        module_pins: Whether pins are told in other names than those of the rules.
    """
    rules = Rules.parse(str(answer.unproven or answer.draft or answer.rules))
    matching = Matching(Side(rules.left or "left", answer.left), Side(rules.right or "right", answer.right), STATES)
    _link(matching, answer, rules)
    done = not answer.undecided and answer.unproven is None and answer.draft is None
    sentences = list(remap_counts(answer)) if answer.unproven is None else []
    if module_pins and not done:
        sentences.append(
            "Names are those of the checkpoints, and `--pin` wants those of the modules: to pick pairs, make this page "
            "with `--memory-names`."
        )
    return {
        "kind": "remap",
        "title": f"{rules.left} and {rules.right}",
        "headline": remap_verdict(answer),
        "tone": _tone(answer, done=done),
        "facts": [],
        "sentences": sentences,
        "matching": matching.to_json(),
        "rules": [_rule_json(rule, rules) for rule in rules.rules],
        "rules_text": str(rules),
        "rules_title": "Rules, at least one of them wrong" if answer.unproven is not None else "Rules",
        "questions": [_question_json(matching, answer, one) for one in answer.undecided],
        "pickable": not done,
    }


def _tone(answer: Remap, *, done: bool) -> Tone:
    """Good is only what is decided whole and proven."""
    if answer.unproven is not None:
        return "left"
    if not done:
        return "open"
    return "good" if answer.verification is not None and answer.verification.passed else "doubt"


def _link(matching: Matching, answer: Remap, rules: Rules) -> None:
    plan = bind(rules, answer.left, answer.right, partial=True)
    numbers = {rule.line: number for number, rule in enumerate(rules.rules)}
    asked = {name: one.question for one in answer.undecided for name in one.right}
    for equation in plan.equations:
        number = numbers[equation.line]
        state = _state(equation, rules.rules[number], failed=answer.unproven is not None)
        why = next((text[name] for name in equation.right for text in (answer.evidence, asked) if name in text), "")
        matching.link(equation.left, equation.right, state, why, number)
    for second, first in plan.left_ties:
        matching.link([second], [], TIED, f"a second name of {first}")
    for second, first in plan.right_ties:
        matching.link([], [second], TIED, f"a second name of {first}")
    _link_open(matching, answer)
    for one in answer.left_only:
        matching.link([one.name], [], LEFT, one.reason)
    for one in answer.right_only:
        matching.link([], [one.name], RIGHT, one.reason)
    rest = matching.unlinked()
    for name in rest[0]:
        matching.link([name], [], OPEN)
    for name in rest[1]:
        matching.link([], [name], OPEN)


def _link_open(matching: Matching, answer: Remap) -> None:
    """Link what a question is about with its candidates, unless it has a rule already."""
    left, right = map(set, matching.unlinked())
    for one in answer.undecided:
        sides = [name for name in one.left if name in left], [name for name in one.right if name in right]
        if sides[0] and sides[1] and len(sides[0]) * len(sides[1]) <= MOST_PAIRS:
            matching.link(*sides, OPEN, one.question)
            continue
        for name in sides[0]:
            matching.link([name], [], OPEN, one.question)
        for name in sides[1]:
            matching.link([], [name], OPEN, one.question)


def _question_json(matching: Matching, answer: Remap, one: Open) -> dict[str, Any]:
    """A question with what it is about, by pattern: each with the number of its first tensor."""
    sides = (one.left, answer.left), (one.right, answer.right)
    patterns = [group(name for name in names if name in there) for names, there in sides]
    shown = [side[:FEW] for side in patterns]
    numbers = matching.ends(*([pattern.first for pattern in side] for side in shown))
    ends = [list(zip(map(str, side), places, strict=True)) for side, places in zip(shown, numbers, strict=True)]
    return {
        "question": one.question,
        "ends": ends,
        "more": sum(map(len, patterns)) - sum(map(len, shown)),
    }


def _state(equation: Equation, rule: Rule, *, failed: bool) -> State:
    if not equation.right:
        return LEFT
    if not equation.left:
        return RIGHT
    if failed:
        return UNPROVEN
    if rule.mark == "guess":
        return GUESS
    return AS_IT_IS if equation.rename else RESHAPED


def _rule_json(rule: Rule, rules: Rules) -> dict[str, Any]:
    """A rule with whole names; of a guess also the pins that confirm it."""
    text = written([replace(rule, comment="")]).strip()
    pins = None
    if rule.mark == "guess":
        confirmed = written([replace(rule, comment="", mark="")]).strip()
        pins = [*_sizes(confirmed, rules.sizes), confirmed]
    return {"line": rule.line, "text": text, "pins": pins}


def _sizes(text: str, sizes: Mapping[str, int | str | None]) -> list[str]:
    """The `size` lines that a rule needs beside it."""
    axes = set(re.findall(r"\w+", text.rpartition(" : ")[2])) if " : " in text else set()
    return [f"size {axis} = {value}" for axis, value in sizes.items() if axis in axes and value is not None]
