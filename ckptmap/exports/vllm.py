"""A `WeightsMapper` of vLLM: names from the left to the right, and which parts are laid end to end in one layer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ckptmap.exports.cases import Case, cases_of
from ckptmap.exports.code import title_of
from ckptmap.exports.names import Refusal, Renaming, homeless, in_order, refuse, renamings, twice, unplain
from ckptmap.exports.transformers import laid_end_to_end
from ckptmap.rules.names import Index, NamePattern
from ckptmap.rules.plan import Plan

INSTEAD = "`ckptmap convert` writes a checkpoint that needs no mapping; --to python says everything."
IMPORT = "from vllm.model_executor.models.utils import WeightsMapper\n"

Shard: TypeAlias = "str | int | None"


@dataclass
class Mapper:
    """Our own reading of a WeightsMapper with the fields that are written here.

    **Source**: vLLM 0.25, `vllm/model_executor/models/utils.py`, `WeightsMapper._map_name_with_shard`: expressions in
    order, each on what the one before made, None drops; then every stacked entry whose text is in the name.
    """

    orig_to_new_regex: dict[re.Pattern[str], str | None] = field(default_factory=dict)
    orig_to_new_stacked: dict[str, tuple[str, Shard]] = field(default_factory=dict)

    def map(self, name: str) -> tuple[str, Shard] | None:
        """The new name and the part of it; None for what is dropped."""
        for pattern, new in self.orig_to_new_regex.items():
            if pattern.search(name):
                if new is None:
                    return None
                name = pattern.sub(new, name)
        part: Shard = None
        for text, (new, shard) in self.orig_to_new_stacked.items():
            if text in name:
                name, part = name.replace(text, new, 1), shard
        return name, part


def export(plan: Plan) -> str:
    """The file, once every name has been mapped by it.

    Raises:
        ExportError: Something cannot be said by names and parts.
    """
    cases = cases_of(plan)
    dropped = {equation.line for equation in plan.equations if not equation.right}
    refusals = [refusal for refusal in [*homeless(plan), *twice(plan)] if refusal.line not in dropped]
    entries: list[Renaming] = []
    drops: list[tuple[int, NamePattern]] = []
    stacked: dict[str, tuple[str, Shard]] = {}
    wanted: dict[str, tuple[str, Shard] | None] = {}
    for case in cases:
        refusals += unplain(case)
        if case.line in dropped:
            drops += [(case.line, term) for term in case.sides[0] if isinstance(term, NamePattern)]
            wanted |= dict.fromkeys(case.names(0))
        elif case.pairs is not None:
            made = renamings(case, captured=99)
            entries += made
            wanted |= {old: (new, None) for entry in made for old, new in entry.names}
        elif (parts := _parts(case)) is not None:
            for left, between, right, text, new, shard in parts:
                if stacked.setdefault(text, (new, shard)) != (new, shard):
                    refusals.append(Refusal(case.line, f"{text} would be a part of two things."))
                entries.append(
                    Renaming(
                        case.line, left, between, tuple((left.expand(b), between.expand(b)) for b in case.bindings())
                    )
                )
                wanted |= {left.expand(b): (right.expand(b), shard) for b in case.bindings()}
        elif not any(refusal.line == case.line for refusal in refusals):
            what = "its tensors are laid out anew, and vLLM only renames and lays whole tensors end to end, rows first."
            refusals.append(Refusal(case.line, what))
    refuse("vllm", refusals, INSTEAD)
    entries = [entry for entry in entries if entry.left != entry.right]
    placed, stuck = in_order([(dict(e.names).keys(), dict(e.names).values()) for e in entries])
    circle = "its new names are old names of other rules in a circle, and vLLM renames one after another."
    refuse("vllm", [Refusal(entries[at].line, circle) for at in stuck], INSTEAD)
    expressions = [_expression(entries[at].left, entries[at].right) for at in placed]
    # Dropped first, so that nothing renamed can be taken for it.
    text = _written(plan, [*(_expression(pattern, None) for _, pattern in drops), *expressions], stacked)
    found = _executed(text)
    wrong = [name for name, new in wanted.items() if found.map(name) != new]
    lines = {name: case.line for case in cases for name in case.names(0)}
    told = [Refusal(lines[name], f"{name} would become {found.map(name)}, not {wanted[name]}.") for name in wrong[:20]]
    refuse("vllm", told, INSTEAD)
    return text


def _executed(text: str) -> Mapper:
    names: dict[str, Any] = {"WeightsMapper": Mapper}
    exec(compile(text.replace(IMPORT, ""), "<export>", "exec"), names)
    mapper: Mapper = names["hf_to_vllm_mapper"]
    return mapper


def _written(plan: Plan, expressions: list[str], stacked: dict[str, tuple[str, Shard]]) -> str:
    lines = [f'"""Names for vLLM, made by ckptmap from {title_of(plan)}; one way only."""\n\nimport re\n\n', IMPORT]
    lines += ["\nhf_to_vllm_mapper = WeightsMapper(\n", "    orig_to_new_regex={\n"]
    lines += [f"        {expression},\n" for expression in expressions]
    lines += ["    },\n", "    orig_to_new_stacked={\n"]
    for text, (new, shard) in stacked.items():
        lines.append(f"        {json.dumps(text)}: ({json.dumps(new)}, {json.dumps(shard)}),\n")
    return "".join([*lines, "    },\n", ")\n"])


def _expression(left: NamePattern, right: NamePattern | None) -> str:
    order = list(dict.fromkeys(p.variable for p in left.parts() if isinstance(p, Index)))
    old = _text(left, dict.fromkeys(order, r"(\d+)"), r"\.")
    new = "None" if right is None else f'r"{_text(right, {v: f"{chr(92)}{at}" for at, v in enumerate(order, 1)}, ".")}"'
    return f're.compile(r"^{old}$"): {new}'


def _text(pattern: NamePattern, numbers: dict[str, str], dot: str) -> str:
    return dot.join(
        "".join(numbers[part.variable] if isinstance(part, Index) else str(part) for part in segment)
        for segment in pattern.segments
    )


def _parts(case: Case) -> list[tuple[NamePattern, NamePattern, NamePattern, str, str, Shard]] | None:
    """For each left tensor of what is laid end to end: its name, the name in between, the whole's name, and the entry.

    The name in between is the whole's with the left's own word in it: `self_attn.q_proj` for `self_attn.qkv_proj`.
    """
    lefts = [term for term in case.sides[0] if isinstance(term, NamePattern)]
    (right, *others) = case.sides[1]
    if others or not isinstance(right, NamePattern) or case.rule.stacked != ((), ()):
        return None
    if laid_end_to_end(case.layout, 1) != 0:
        return None
    end = 0
    while end < len(right.segments) - 1 and all(p.segments[-1 - end :] == right.segments[-1 - end :] for p in lefts):
        end += 1
    suffix = right.segments[len(right.segments) - end :]
    before, whole = right.segments[: len(right.segments) - end - 1], right.segments[len(right.segments) - end - 1]
    for length in range(1, min(len(p.segments) for p in lefts) - end + 1):
        words = [p.segments[len(p.segments) - end - length : len(p.segments) - end] for p in lefts]
        if len(set(words)) == len(words):
            break
    else:
        return None
    if any(isinstance(part, Index) for segment in [whole, *(s for word in words for s in word)] for part in segment):
        return None
    left_dot, right_dot = "." if before else "", "." if suffix else ""
    new = left_dot + "".join(map(str, whole)) + right_dot
    texts = [".".join("".join(map(str, segment)) for segment in word) for word in words]
    made: list[tuple[NamePattern, NamePattern, NamePattern, str, str, Shard]] = []
    for pattern, word, text, shard in zip(lefts, words, texts, _shards(texts), strict=True):
        between = NamePattern((*before, *word, *suffix))
        made.append((pattern, between, right, left_dot + text + right_dot, new, shard))
    return made


def _shards(words: list[str]) -> list[str | int]:
    """What vLLM calls the parts: letters in its layer for query, key and value, numbers elsewhere."""
    letters = [word.rpartition(".")[2].removeprefix("w")[:1] for word in words]
    return list(letters) if letters == ["q", "k", "v"] else list(range(len(words)))
