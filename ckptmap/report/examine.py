"""What stands out in the values of one checkpoint, to look at and as JSON."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import Checkpoint
from ckptmap.report.document import Section, count_text, pattern_rows, shape_text

if TYPE_CHECKING:
    from ckptmap.values.examine import Examination


def examine_sections(found: Examination, checkpoint: Checkpoint, *, every: bool = False) -> tuple[Section, ...]:
    """What holds NaN, what is equal, constant, or looks fresh; a line that says so where nothing is."""
    stored_once = {frozenset(group) for group in checkpoint.ties}
    equal = tuple(
        (
            " = ".join(group),
            shape_text(checkpoint[group[0]].shape),
            checkpoint[group[0]].dtype,
            "one stored tensor" if frozenset(group) in stored_once else "",
        )
        for group in found.equal
    )
    not_finite = {
        name: (f"{count.nan:,} NaN, {count.infinite:,} infinite", f"of {checkpoint[name].parameters:,}")
        for name, count in found.not_finite.items()
    }
    constant = {name: (_text(value), shape_text(checkpoint[name].shape)) for name, value in found.constant.items()}
    fresh = tuple((name, one.statistic) for name, one in found.evidence.items() if one.says == "untouched")
    sections = (
        Section(
            f"not finite: {count_text(len(not_finite), 'tensor')}",
            pattern_rows(not_finite, every=every),
            ("tensor", "elements", "of", "count"),
            "removed",
        ),
        Section(f"equal bits: {count_text(len(equal), 'group')}", equal, ("tensors", "shape", "dtype", "")),
        Section(
            f"one value throughout: {count_text(len(constant), 'tensor')}",
            pattern_rows(constant, every=every),
            ("tensor", "value", "shape", "count"),
        ),
        Section(
            f"look untouched since initialisation: {count_text(len(fresh), 'tensor')} (evidence, not a verdict)",
            fresh,
            ("tensor", "why"),
            "changed",
        ),
    )
    shown = tuple(section for section in sections if section.rows)
    return shown or (Section("values", (("nothing stands out",),), ("values",)),)


def examine_json(found: Examination) -> dict[str, Any]:
    """The `values` of `ckptmap inspect --format json`, described in docs/json.md."""
    return {
        "equal": [list(group) for group in found.equal],
        "constant": [{"name": name, "value": _number(value)} for name, value in found.constant.items()],
        "not_finite": [
            {"name": name, "nan": count.nan, "infinite": count.infinite} for name, count in found.not_finite.items()
        ],
        "untouched": [
            {"name": one.name, "says": one.says, "statistic": one.statistic} for one in found.evidence.values()
        ],
    }


def _text(value: complex) -> str:
    return str(value) if isinstance(value, bool | int) else f"{value:g}"


def _number(value: complex) -> Any:
    """A number of JSON; complex ones, NaN and infinity as text."""
    is_plain = isinstance(value, int) or (isinstance(value, float) and isfinite(value))
    return value if is_plain else str(value)
