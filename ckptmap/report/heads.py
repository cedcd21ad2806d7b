"""What each head class would load, to look at and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import prod
from typing import TYPE_CHECKING, Any

from ckptmap.heads import Coverage, HeadReport, HeadsReport
from ckptmap.report.document import Document, Row, Section, Tone, count_text, pattern_rows, shape_text

if TYPE_CHECKING:
    from ckptmap.heads.untouched import Evidence

OVERVIEW_COLUMNS = ("class", "backbone loaded", "head loaded", "newly initialized", "mismatched", "not used")

TONES: dict[str, Tone] = {"ready": "added", "backbone not loaded": "removed", "will raise": "removed"}

MEANING = {
    "ready": "every tensor comes from the checkpoint",
    "train the head": "the pretrained part is loaded, the head is new",
    "train more than the head": "new tensors inside the pretrained part too",
    "backbone not loaded": "MOST OF THE PRETRAINED PART IS RANDOM: this class does not fit the checkpoint",
    "will raise": "from_pretrained stops with an error",
}


def meaning(head: HeadReport) -> str:
    """What the verdict on a class means, of a head that is there in part too."""
    if head.verdict == "train the head" and head.head.loaded_tensors:
        return "the pretrained part is loaded, the head only in part"
    return MEANING[head.verdict]


def heads_document(report: HeadsReport, evidence: Collection[Evidence] | None = None) -> Document:
    """One row a class, the loudest verdicts marked."""
    sections = tuple(
        Section(_verdict_heading(verdict), tuple(map(_overview, group)), OVERVIEW_COLUMNS, TONES.get(verdict, "plain"))
        for verdict in MEANING
        if (group := [head for head in report.values() if head.verdict == verdict])
    )
    skipped = [f"{name} cannot be told: {reason}" for name, reason in report.skipped.items()]
    ready = sum(head.verdict == "ready" for head in report.values())
    headline = f"{report.source}: {ready} of {len(report)} head classes are ready"
    return Document(_facts(report), (*sections, *_evidence(evidence)), (*report.notes, *skipped), headline)


def head_document(
    report: HeadsReport, head: HeadReport, evidence: Collection[Evidence] | None = None, *, every: bool = False
) -> Document:
    """One class in full: verdict, coverage, new, mismatched, not used, ties and notes, in this order."""
    facts = [
        *_facts(report),
        ("class", head.class_name),
        ("verdict", f"{head.verdict} ({meaning(head)})"),
        ("backbone", _coverage(head.backbone)),
        ("head", _coverage(head.head)),
    ]
    sections = (*head_sections(head, every=every), *_evidence(evidence))
    headline = f"{head.class_name} from {report.source}: {head.verdict} ({meaning(head)})"
    return Document(tuple(facts), sections, (*head_notes(head), *report.notes), headline)


def heads_sections(report: HeadsReport, *, every: bool = False) -> tuple[Section, ...]:
    """For each class a line with its verdict, then its lists."""
    sections: list[Section] = []
    for head in report.values():
        heading = f"{head.class_name} would load from {report.source}: {head.verdict} ({meaning(head)})"
        missing = f"missing {len(head.missing_keys)}, unexpected {len(head.unexpected_keys)}, "
        missing += f"newly initialized {len(head.newly_initialized)}, mismatched {len(head.mismatched_keys)}"
        sections.append(Section(heading, ((missing,),), ("tensors",), TONES.get(head.verdict, "plain")))
        sections += head_sections(head, every=every)
    return tuple(sections)


def head_sections(head: HeadReport, *, every: bool = False) -> tuple[Section, ...]:
    """The lists of one class, those that are empty left out."""
    share = head.new_parameters / head.parameters if head.parameters else 0.0
    new = f"newly initialized: {count_text(len(head.newly_initialized), 'tensor')}, {head.new_parameters:,} of "
    new += f"{head.parameters:,} parameters ({share:.3%})"
    errors = tuple((name, text) for name, text in head.errors.items())
    sections = [
        Section(new, _new_rows(head, every), ("tensor", "shape", "", "count"), "changed"),
        Section(
            f"mismatched: {count_text(len(head.mismatched_keys), 'tensor')} "
            "(from_pretrained raises without ignore_mismatched_sizes=True)",
            _mismatched_rows(head, every),
            ("tensor", "shape, checkpoint -> model", "usual cause", "count"),
            "removed",
        ),
        Section("conversions that fail", errors, ("tensor", "why"), "removed"),
        *_not_used(head, every),
    ]
    if head.dropped:
        rows = pattern_rows(dict.fromkeys(head.dropped, ()), every=every)
        sections.append(Section("in the file, used for nothing and reported nowhere", rows, ("tensor", "count")))
    return tuple(section for section in sections if section.rows)


def heads_json(report: HeadsReport, evidence: Collection[Evidence] | None = None) -> dict[str, Any]:
    """The fields of `ckptmap heads --format json`, described in docs/json.md."""
    return {
        "source": report.source,
        "model_type": report.model_type,
        "library": report.library,
        "classes": {name: head_json(head) for name, head in report.items()},
        "skipped": dict(report.skipped),
        "untouched": None
        if evidence is None
        else [{"name": one.name, "says": one.says, "statistic": one.statistic} for one in evidence],
        "warnings": list(report.notes),
    }


def head_json(head: HeadReport) -> dict[str, Any]:
    """One class of it; the first four lists bear transformers' own names."""
    return {
        "verdict": head.verdict,
        "missing_keys": sorted(head.missing_keys),
        "unexpected_keys": sorted(head.unexpected_keys),
        "mismatched_keys": [
            [name, list(stored), list(wanted)] for name, stored, wanted in sorted(head.mismatched_keys)
        ],
        "error_msgs": [f"{name}: {text}" for name, text in head.errors.items()],
        "newly_initialized": sorted(head.newly_initialized),
        "unreported": sorted(head.unreported),
        "unwritten": sorted(head.unwritten),
        "backbone": _coverage_json(head.backbone),
        "head": _coverage_json(head.head),
        "new_parameters": head.new_parameters,
        "parameters": head.parameters,
        "spellings": {name: list(originals) for name, originals in head.spellings.items()},
        "owners": dict(head.owners),
        "dropped": list(head.dropped),
        "ties": [list(group) for group in head.ties],
        "notes": list(head.notes),
    }


def _evidence(evidence: Collection[Evidence] | None) -> tuple[Section, ...]:
    if evidence is None:
        return ()
    heading = "the stored head: does it look untouched since initialisation? (evidence, not a verdict)"
    rows = tuple((one.name, one.says, one.statistic) for one in evidence)
    return (Section(heading, rows or (("no head is stored",),), ("tensor", "looks", "why")),)


def _facts(report: HeadsReport) -> tuple[tuple[str, str], ...]:
    return (("source", report.source), ("model_type", f"{report.model_type} (as {report.library} loads it)"))


def _verdict_heading(verdict: str) -> str:
    return f"{verdict}: {MEANING[verdict]}"


def _overview(head: HeadReport) -> Row:
    new = f"{count_text(len(head.newly_initialized), 'tensor')}, {head.new_parameters:,} parameters"
    return (
        head.class_name,
        f"backbone {head.backbone.loaded_tensors} of {head.backbone.tensors}",
        f"head {head.head.loaded_tensors} of {head.head.tensors}" if head.head.tensors else "no head",
        f"new: {new}" if head.newly_initialized else "nothing new",
        f"{len(head.mismatched_keys)} mismatched" if head.mismatched_keys else "",
        f"{len(head.unexpected_keys)} not used" if head.unexpected_keys else "",
    )


def _coverage(part: Coverage) -> str:
    if not part.tensors:
        return "none"
    tensors = f"{part.loaded_tensors:,} of {count_text(part.tensors, 'tensor')} loaded"
    return f"{tensors}, {part.loaded_parameters:,} of {count_text(part.parameters, 'parameter')}"


def _coverage_json(part: Coverage) -> dict[str, int]:
    return {
        "loaded_tensors": part.loaded_tensors,
        "tensors": part.tensors,
        "loaded_parameters": part.loaded_parameters,
        "parameters": part.parameters,
    }


def _new_rows(head: HeadReport, every: bool) -> tuple[Row, ...]:
    tied = {name: group for group in head.ties for name in group}

    def remark(name: str) -> str:
        remarks = []
        if name in head.unwritten:
            remarks.append("never written: whatever the memory held")
        if name in tied and set(tied[name]) <= head.newly_initialized:
            remarks.append("tied group")
        if name in head.unreported:
            remarks.append("not in transformers' own report")
        return ", ".join(remarks)

    shapes = {name: shape for name, shape in head.shapes.items() if name in head.newly_initialized}
    return pattern_rows({name: (shape_text(shape), remark(name)) for name, shape in shapes.items()}, every=every)


def _mismatched_rows(head: HeadReport, every: bool) -> tuple[Row, ...]:
    cells = {
        name: (f"{shape_text(stored)} -> {shape_text(wanted)}", _usual_cause(name, stored, wanted))
        for name, stored, wanted in sorted(head.mismatched_keys)
    }
    return pattern_rows(cells, every=every)


def _usual_cause(name: str, stored: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if len(stored) != len(wanted) or prod(stored) == prod(wanted):
        return "another layout"
    if stored[1:] != wanted[1:]:
        return "another width"
    if any(word in name for word in ("embed", "wte", "lm_head", "decoder", "predictions", "shared")):
        return "position count" if "position" in name or "wpe" in name else "vocabulary size"
    return "num_labels"


def _not_used(head: HeadReport, every: bool) -> Iterable[Section]:
    groups: dict[str, list[str]] = {}
    for name in sorted(head.unexpected_keys):
        groups.setdefault(head.owners.get(name, ""), []).append(name)
    for owner, names in groups.items():
        belongs = f", they belong to {owner}" if owner else ", no class of the family has them"
        cells = {name: (_file_spelling(name, head.spellings.get(name, ())),) for name in names}
        rows = pattern_rows(cells, every=every)
        yield Section(
            f"not used: {count_text(len(names), 'tensor')}{belongs}", rows, ("tensor", "in the file", "count")
        )


def _file_spelling(name: str, originals: Collection[str]) -> str:
    return "" if list(originals) == [name] or not originals else f"in the file: {', '.join(originals)}"


def head_notes(head: HeadReport) -> tuple[str, ...]:
    """What else is said of a class: its ties, and what a person should know."""
    tied = [f"tied by the config: {' = '.join(group)}" for group in head.ties]
    return (*tied, *head.notes)
