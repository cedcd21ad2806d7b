"""What pickles would run, as a report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptmap.formats.findings import Finding
from ckptmap.report.document import Document, Section, Tone, count_text
from ckptmap.safety import Safety

_HEADINGS: tuple[tuple[str, str, Tone], ...] = (
    ("dangerous", "would run code if loaded with torch.load(weights_only=False) or pickle", "removed"),
    ("unknown", "imports what is not known here: look at it before you load the file with pickle", "changed"),
    ("harmless", "refused by torch.load(weights_only=True), and harmless", "plain"),
)


def safety_document(found: Safety) -> Document:
    """The worst first; a file that could not be read is told, not passed over."""
    sections = []
    for level, heading, tone in _HEADINGS:
        rows = tuple(
            (finding.what, " ".join(dict.fromkeys((scan.file, finding.where))).strip())
            for scan in found.files
            for finding in scan.findings
            if finding.level == level
        )
        if rows:
            sections.append(Section(heading, rows, ("what", "where"), tone))
    if found.unread:
        rows = tuple((scan.file, scan.problem or "") for scan in found.unread)
        sections.append(Section("could not be read to its end", rows, ("file", "why"), "changed"))
    pickles = sum(scan.pickles for scan in found.files)
    looked = f"{count_text(pickles, 'pickle')} in {count_text(len(found.files), 'file')} looked at"
    if found.dangers:
        verdict = f"{looked}: would run code, do not load with pickle"
    elif found.unread:
        verdict = f"{looked}, and not all could be read, so nobody can say"
    else:
        verdict = f"{looked}: nothing in them runs code"
    return Document((("source", found.source),), tuple(sections), (verdict,), headline=verdict)


def safety_json(found: Safety) -> dict[str, Any]:
    """The same as data."""
    return {
        "source": found.source,
        "dangerous": len(found.dangers),
        "files": [
            {
                "file": scan.file,
                "pickles": scan.pickles,
                "problem": scan.problem,
                "findings": findings_json(scan.findings),
            }
            for scan in found.files
        ],
    }


def findings_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Findings as data."""
    return [{"level": finding.level, "what": finding.what, "where": finding.where} for finding in findings]
