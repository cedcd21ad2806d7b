"""What differs between two checkpoints, as page data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptmap.checkpoint import Checkpoint
from ckptmap.diff import Diff
from ckptmap.heads import HeadsReport
from ckptmap.report.diff import diff_document, diff_json
from ckptmap.report.html.heads import class_rows
from ckptmap.report.html.matching import Matching, Side, State
from ckptmap.report.html.values import heat_maps, said_of_tensors, value_tables

SHAPE = State("≠", "shape differs", "change", "the same name on both sides, and another shape")
DTYPE = State("~", "dtype differs", "doubt", "the same name and shape, and another dtype")
LEFT = State("−", "only left", "left", "the right side has no tensor of this name")
RIGHT = State("+", "only right", "right", "the left side has no tensor of this name")
VALUES = State("Δ", "values differ", "open", "name, shape and dtype agree, and values do not")
PREFIX = State("≈", "other prefix", "good", "the same tensor, were its prefix the other side's")
SAME = State("=", "same", "quiet", "name, shape and dtype agree")
STATES = (LEFT, RIGHT, SHAPE, DTYPE, VALUES, PREFIX, SAME)


def diff_page(
    diff: Diff, left: Checkpoint, right: Checkpoint, told: Iterable[tuple[HeadsReport | None, list[str]]] = ()
) -> dict[str, Any]:
    """Both sides with what links them, then what head classes would load.

    Args:
        diff: What differs.
        left: The left checkpoint.
        right: The right one.
        told: What head classes would load, and what there is to say of it.
    """
    matching = Matching(_left_side(diff, left), _side(right), STATES)
    tied = dict(diff.tied)
    values = diff.values
    said = {} if values is None else said_of_tensors(values)
    moved = set() if values is None else {one.name for one in values.differing}
    for state, pairs in ((SHAPE, diff.shape_differs), (DTYPE, diff.dtype_differs)):
        done = {pair.name for pair in diff.shape_differs} if state is DTYPE else set()
        for pair in pairs:
            if pair.name not in done:
                both = state is SHAPE and pair.left.dtype != pair.right.dtype
                why = "the dtype differs, too" if both else said.get(pair.name, "")
                matching.link([pair.name], [pair.name], state, why)
    for name in diff.same:
        matching.link([name], [name], VALUES if name in moved else SAME, said.get(name, ""))
    renamed = _renamed(diff)
    for one, other in renamed.items():
        matching.link([one], [other], PREFIX)
    taken = {*renamed, *renamed.values()}
    for name in diff.only_left:
        if name not in taken:
            matching.link([name], [], LEFT, _tie(tied, name))
    for name in diff.only_right:
        if name not in taken:
            matching.link([], [name], RIGHT, _tie(tied, name))
    headline = str(diff) if values is None else str(values)
    document, fields = diff_document(diff, left, right), diff_json(diff, left, right)
    notes = [note for _, notes in told for note in notes]
    return {
        "kind": "diff",
        "title": f"{left.source} and {right.source}",
        "headline": headline,
        "tone": "change" if diff else "doubt" if diff.left_out else "good",
        "facts": [list(fact) for fact in document.facts],
        "sentences": [
            *(sentence for sentence in document.closing if not sentence.startswith(headline)),
            *fields["warnings"],
            *notes,
        ],
        "matching": matching.to_json(),
        "classes": [row for report, _ in told if report is not None for row in class_rows(report)],
        "heat": [] if values is None else heat_maps(values),
        "sections": [] if values is None else value_tables(values),
    }


def _left_side(diff: Diff, left: Checkpoint) -> Side:
    """The left side; compared through rules, as what they make of it, under the names of the right."""
    if all(name in left for name in diff.same):
        return _side(left)
    pairs = {pair.name: pair.left for pair in (*diff.shape_differs, *diff.dtype_differs)}
    specs = pairs | {name: diff.right[name] for name in diff.same} | {name: left[name] for name in diff.only_left}
    return Side(
        f"{left.source}, through the rules",
        {name: spec.shape for name, spec in specs.items()},
        {name: spec.dtype for name, spec in specs.items()},
    )


def _side(checkpoint: Checkpoint) -> Side:
    shapes = {name: spec.shape for name, spec in checkpoint.items()}
    return Side(checkpoint.source, shapes, {name: spec.dtype for name, spec in checkpoint.items()})


def _renamed(diff: Diff) -> dict[str, str]:
    """Left names with the right names that they would be, had they the other prefix."""
    change = diff.prefix
    if change is None:
        return {}
    there = {name: diff.right[name].shape for name in diff.only_right}
    found = {
        name: change.right + name.removeprefix(change.left) for name in diff.only_left if name.startswith(change.left)
    }
    return {name: other for name, other in found.items() if there.get(other) == diff.left[name].shape}


def _tie(tied: dict[str, str], name: str) -> str:
    return f"one stored tensor with {tied[name]}, which both sides have" if name in tied else ""
