"""A dict for `from_pretrained(key_mapping=…)` of transformers: names only, from the left to the right."""

from __future__ import annotations

import json

from ckptmap.exports.cases import cases_of
from ckptmap.exports.loading import renaming, require_loads, source_pattern, target_pattern, touched
from ckptmap.exports.names import Refusal, homeless, in_order, refuse, renamings, twice, unplain
from ckptmap.printable import json_text
from ckptmap.rules.plan import Plan

INSTEAD = "--to transformers says layouts too, and --to python says everything."


def export(plan: Plan) -> str:
    """The dict as JSON, once transformers has loaded and saved by it.

    Raises:
        ExportError: Something cannot be said by names alone.
    """
    cases = cases_of(plan)
    refusals = [*homeless(plan), *twice(plan)]
    for case in cases:
        refusals += unplain(case)
        if case.pairs is None and not any(refusal.line == case.line for refusal in refusals):
            refusals.append(
                Refusal(case.line, "tensors differ in more than their names, and key_mapping only renames.")
            )
    refuse("key-mapping", refusals, INSTEAD)
    entries = touched([entry for case in cases for entry in renamings(case, captured=1)])
    placed, stuck = in_order([(dict(e.names).keys(), dict(e.names).values()) for e in entries])
    why = "its new names are old names of other rules in a circle, and transformers renames one after another."
    refuse("key-mapping", [Refusal(entries[at].line, why) for at in stuck], INSTEAD)
    mapping = {source_pattern(entries[at].left): target_pattern(entries[at].right) for at in placed}
    require_loads([renaming(old, new) for old, new in mapping.items()], plan, "key-mapping")
    return json_text(json.dumps(mapping, indent=2)) + "\n"
