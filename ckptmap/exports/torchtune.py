"""A dict of names for `get_mapped_key` of torchtune, from the left to the right; its readers also turn it round."""

from __future__ import annotations

import json
import re
from typing import Any

from ckptmap.errors import ExportError
from ckptmap.exports.cases import cases_of
from ckptmap.exports.code import title_of
from ckptmap.exports.names import Refusal, homeless, refuse, renamings, twice, unplain
from ckptmap.rules.plan import Plan

INSTEAD = "--to python says everything; `ckptmap convert` writes a checkpoint that needs no mapping."
SKIPPED = "rotary_emb.inv_freq"
"""What readers of the dict skip before they look a name up.

**Source**: torchtune 0.6, `torchtune/models/convert_weights.py`, `hf_to_tune`.
"""


def mapped(name: str, mapping: dict[str, Any]) -> str | None:
    """Our own reading of a look-up in the dict; None where it would fail.

    **Source**: torchtune 0.6, `torchtune/models/convert_weights.py`, `get_mapped_key`: if a segment is a number, each
    `.number` is looked up as `.{}`, and the first number is put into what is found.
    """
    found = mapping.get(_abstract(name))
    if found is None or _abstract(name) == name:
        return found
    try:
        return str(found.format(*re.findall(r"\d+", name)[:1]))
    except IndexError:
        return None


def _abstract(name: str) -> str:
    """The name as the dict has it."""
    return re.sub(r"\.\d+", ".{}", name) if any(segment.isdigit() for segment in name.split(".")) else name


def export(plan: Plan) -> str:
    """The file, once every name has been looked up in it, both ways.

    Raises:
        ExportError: Something cannot be said by names with one number.
    """
    cases = cases_of(plan)
    mapping: dict[str, str | None] = {}
    pairs: list[tuple[int, str, str]] = []
    dropped = {
        equation.line
        for equation in plan.equations
        if not equation.right and all(SKIPPED in name for name in equation.left)
    }
    refusals = [refusal for refusal in [*homeless(plan), *twice(plan), *_second(plan)] if refusal.line not in dropped]
    for case in cases:
        refusals += unplain(case)
        if case.line in dropped:
            mapping |= {_abstract(name): None for name in case.names(0)}
        elif case.pairs is not None:
            pairs += [(case.line, *names) for entry in renamings(case, captured=0) for names in entry.names]
        elif not any(refusal.line == case.line for refusal in refusals):
            refusals.append(
                Refusal(case.line, "tensors differ in more than their names, and torchtune's dict has no more.")
            )
    for line, old, new in pairs:
        key, value = _abstract(old), _abstract(new)
        if mapping.setdefault(key, value) != value:
            refusals.append(Refusal(line, f"{old} and names like it become {value} and {mapping[key]}."))
    refuse("torchtune", refusals, INSTEAD)
    text = _written(plan, mapping)
    names: dict[str, Any] = {}
    exec(compile(text, "<export>", "exec"), names)
    there = names["FROM_LEFT"]
    home = {new: old for old, new in there.items()}
    if len(home) < len(there) - max(sum(new is None for new in there.values()) - 1, 0):
        raise ExportError("torchtune: two names would come back as one. It is not written.")
    wrong = []
    for line, old, new in pairs:
        if mapped(old, there) != new or mapped(new, home) != old:
            wrong.append(
                Refusal(line, f"{old} has another number than {new}, or two, and there is place for one alike.")
            )
    refuse("torchtune", wrong, INSTEAD)
    return text


def _second(plan: Plan) -> list[Refusal]:
    return [
        Refusal(r.line, r.why.replace("Leave it out", "Nothing writes it. Leave it out")) for r in twice(plan.inverse())
    ]


def _written(plan: Plan, mapping: dict[str, str | None]) -> str:
    lines = [
        f'"""Names for torchtune\'s get_mapped_key, made by ckptmap from {title_of(plan)}."""\n\n',
        "FROM_LEFT = {\n",
    ]
    for old, new in mapping.items():
        lines.append(f"    {json.dumps(old)}: {'None' if new is None else json.dumps(new)},\n")
    return "".join([*lines, "}\n"])
