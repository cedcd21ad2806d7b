"""What differs between two checkpoints, to look at and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptmap.checkpoint import Checkpoint
from ckptmap.diff import Diff, Pair, names_text
from ckptmap.report.document import (
    Document,
    Section,
    Tone,
    bytes_text,
    count_text,
    parameters_of,
    pattern_rows,
    shape_text,
    tensor_rows,
    totals_json,
)
from ckptmap.report.values import values_json, values_sections

TENSOR_COLUMNS = ("tensor", "shape", "dtype", "count")


def diff_document(diff: Diff, left: Checkpoint, right: Checkpoint, *, every: bool = False) -> Document:
    """Both sides, what is on one side only, what differs, and a summary to quote."""
    facts = (("left", _side(left)), ("right", _side(right)))
    sections = (
        _one_side("only left", diff.only_left, left, "removed", every),
        _one_side("only right", diff.only_right, right, "added", every),
        _differing("shape differs", diff.shape_differs, "shape", every),
        _differing("dtype differs", diff.dtype_differs, "dtype", every),
        *(values_sections(diff.values, every=every) if diff.values is not None else ()),
    )
    closing = [f"{diff}{_cost(diff)}"] if diff.values is None else [names_text(diff), str(diff.values)]
    if diff.tied:
        closing.insert(0, _tied_sentence(diff))
    if diff.prefix is not None:
        closing.insert(0, _prefix_sentence(diff))
    return Document(facts, tuple(section for section in sections if section.rows), tuple(closing), str(diff))


def _cost(diff: Diff) -> str:
    """What comparing values would take; a class has none, nor has what stands on one side only."""
    files = diff.left.files and diff.right.files
    nbytes = sum(side[name].nbytes for side in (diff.left, diff.right) for name in diff.same) if files else 0
    return f" (--values reads at most {bytes_text(nbytes)})" if nbytes else ""


def diff_names(diff: Diff) -> list[str]:
    """One line a name: `- ` only left, `+ ` only right, `~ ` on both sides but not the same."""
    values = diff.values
    differing = dict.fromkeys(pair.name for pair in (*diff.shape_differs, *diff.dtype_differs))
    differing |= dict.fromkeys(one.name for one in values.differing) if values is not None else {}
    marked = (("-", diff.only_left), ("+", diff.only_right), ("~", differing))
    return [f"{mark} {name}" for mark, names in marked for name in names]


def diff_json(diff: Diff, left: Checkpoint, right: Checkpoint) -> dict[str, Any]:
    """The fields of `ckptmap diff --format json`, described in docs/json.md."""
    prefix = diff.prefix
    return {
        "left": _side_json(left),
        "right": _side_json(right),
        "only_left": list(diff.only_left),
        "only_right": list(diff.only_right),
        "shape_differs": [
            {"name": pair.name, "left": list(pair.left.shape), "right": list(pair.right.shape)}
            for pair in diff.shape_differs
        ],
        "dtype_differs": [
            {"name": pair.name, "left": pair.left.dtype, "right": pair.right.dtype} for pair in diff.dtype_differs
        ],
        "same": list(diff.same),
        "prefix": prefix and {"left": prefix.left, "right": prefix.right, "tensors": prefix.tensors},
        "tied": [list(pair) for pair in diff.tied],
        "left_out": diff.left_out,
        "values": None if diff.values is None else values_json(diff.values),
        "summary": str(diff) if diff.values is None else names_text(diff),
        "warnings": [f"{side}: {text}" for side, ckpt in (("left", left), ("right", right)) for text in ckpt.warnings],
    }


def _side(checkpoint: Checkpoint) -> str:
    count = count_text(len(checkpoint), "tensor")
    if len(checkpoint) != checkpoint.unfiltered:
        count = f"{len(checkpoint):,} of {count_text(checkpoint.unfiltered, 'tensor')}, filtered"
    return f"{checkpoint.source} (names {checkpoint.names}, {count})"


def _side_json(side: Checkpoint) -> dict[str, Any]:
    fields = {"source": side.source, "commit": side.commit, "part": side.part, "names": side.names}
    return fields | totals_json(side)


def _one_side(title: str, names: Iterable[str], side: Checkpoint, tone: Tone, every: bool) -> Section:
    specs = {name: side[name] for name in names}
    parameters = parameters_of(specs, side.ties)
    heading = f"{title}: {count_text(len(specs), 'tensor')}, {count_text(parameters, 'parameter')}"
    return Section(heading, tensor_rows(specs, every=every), TENSOR_COLUMNS, tone)


def _differing(title: str, pairs: Iterable[Pair], what: str, every: bool) -> Section:
    def cell(pair: Pair) -> str:
        if what == "dtype":
            return f"{pair.left.dtype} -> {pair.right.dtype}"
        return f"{shape_text(pair.left.shape)} -> {shape_text(pair.right.shape)}"

    cells = {pair.name: (cell(pair),) for pair in pairs}
    heading = f"{title}: {count_text(len(cells), 'tensor')}"
    return Section(heading, pattern_rows(cells, every=every), ("tensor", f"{what}, left -> right", "count"), "changed")


def _tied_sentence(diff: Diff) -> str:
    name, other = diff.tied[0]
    more = f", and {count_text(len(diff.tied) - 1, 'more name')} such" if len(diff.tied) > 1 else ""
    return f"`{name}` is one stored tensor with `{other}`, which both sides have{more}: its values are on both sides."


def _prefix_sentence(diff: Diff) -> str:
    change = diff.prefix
    assert change is not None
    if change.left and change.right:
        how = f"with `{change.right}` in place of `{change.left}`"
    elif change.left:
        how = f"without the prefix `{change.left}`"
    else:
        how = f"with the prefix `{change.right}`"
    flag = f"--prefix {change.left}={change.right}"
    return f"{count_text(change.tensors, 'left name')} would be right names {how}. (`{flag}` compares them so.)"
