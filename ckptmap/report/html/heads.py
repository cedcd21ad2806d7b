"""What each head class would load, as page data."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ckptmap.heads import Coverage, HeadReport, HeadsReport
from ckptmap.report.document import Section
from ckptmap.report.heads import MEANING, head_notes, head_sections, heads_document, meaning

if TYPE_CHECKING:
    from ckptmap.heads.untouched import Evidence

SYMBOLS = {
    "ready": ("✓", "good"),
    "train the head": ("+", "right"),
    "train more than the head": ("±", "doubt"),
    "backbone not loaded": ("✗", "left"),
    "will raise": ("!", "change"),
}


def heads_page(report: HeadsReport, evidence: Collection[Evidence] | None = None) -> dict[str, Any]:
    """The verdicts, each with its details.

    Args:
        report: What each class would load.
        evidence: What the values of stored heads look like, if they were read.
    """
    document = heads_document(report, evidence)
    ready = any(head.verdict == "ready" for head in report.values())
    untouched = [] if evidence is None else [section_json(document.sections[-1])]
    return {
        "kind": "heads",
        "title": report.source,
        "headline": document.headline,
        "tone": "good" if ready else "doubt",
        "facts": [list(fact) for fact in document.facts],
        "sentences": list(document.closing),
        "classes": class_rows(report),
        "sections": untouched,
    }


def class_rows(report: HeadsReport) -> list[dict[str, Any]]:
    """The classes of a report, the best verdict first."""
    order = {verdict: place for place, verdict in enumerate(MEANING)}
    heads = sorted(report.values(), key=lambda head: order[head.verdict])
    return [_class_row(report.source, head) for head in heads]


def section_json(section: Section) -> dict[str, Any]:
    """A table with its heading."""
    return {
        "heading": section.heading,
        "columns": list(section.columns),
        "rows": [list(row) for row in section.rows],
        "tone": section.tone,
    }


def _class_row(source: str, head: HeadReport) -> dict[str, Any]:
    symbol, tone = SYMBOLS[head.verdict]
    return {
        "name": head.class_name,
        "source": source,
        "verdict": head.verdict,
        "meaning": meaning(head),
        "symbol": symbol,
        "tone": tone,
        "backbone": _coverage(head.backbone),
        "head": _coverage(head.head),
        "new": len(head.newly_initialized),
        "new_parameters": head.new_parameters,
        "mismatched": len(head.mismatched_keys),
        "not_used": len(head.unexpected_keys),
        "sections": [section_json(section) for section in head_sections(head)],
        "notes": list(head_notes(head)),
    }


def _coverage(part: Coverage) -> list[int]:
    return [part.loaded_tensors, part.tensors, part.loaded_parameters, part.parameters]
