"""Reports in a notebook: a document as a few lines of HTML, its styles inline, without scripts.

`_repr_html_` of the values below calls these. Colours can be read on white and on black, since nothing tells which of
them a notebook has.
"""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from ckptmap.printable import printable
from ckptmap.report.diff import diff_document
from ckptmap.report.document import Document, Section, Tone, count_text
from ckptmap.report.heads import head_document, heads_document
from ckptmap.report.terminal import MARKS

if TYPE_CHECKING:
    from ckptmap.diff import Diff
    from ckptmap.heads import HeadsReport
    from ckptmap.infer.proof import Verification
    from ckptmap.remapping import Remap
    from ckptmap.rules.rules import Rules

LINES = 12
"""Lines of a section that are shown; a notebook is scrolled past."""

RULE_LINES = 40

COLOURS: dict[Tone, str] = {"plain": "inherit", "added": "#1f78d1", "removed": "#bd5818", "changed": "#a25ab0"}

MONO = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px"
CELL = "text-align:left;vertical-align:top;padding:1px 14px 1px 0;border:0;background:transparent"


def diff_html(diff: Diff) -> str:
    """What differs between two checkpoints."""
    return as_html(diff_document(diff, diff.left, diff.right))


def heads_html(report: HeadsReport) -> str:
    """What each head class would load; a single one in full."""
    if len(report) == 1:
        return as_html(head_document(report, next(iter(report.values()))))
    return as_html(heads_document(report))


def remap_html(answer: Remap) -> str:
    """What is decided, what is not, and the rules."""
    from ckptmap.report.remap import remap_document

    return as_html(remap_document(answer), rules=answer.unproven or answer.draft or answer.rules)


def rules_html(rules: Rules) -> str:
    """A rule file."""
    named = [(side, text) for side, text in (("left", rules.left), ("right", rules.right)) if text]
    return as_html(Document(tuple(named), headline=count_text(len(rules.rules), "rule")), rules=rules)


def verification_html(proof: Verification) -> str:
    """What became of a proof."""
    from ckptmap.report.remap import verify_document

    return as_html(verify_document(proof))


def as_html(document: Document, *, rules: Rules | None = None) -> str:
    """A document as HTML that needs nothing around it, the answer first.

    Args:
        document: What to show; its sections are cut after some lines, and the rest is counted.
        rules: A rule file to show below it.
    """
    parts = [f'<div style="font-weight:600">{_text(document.headline)}</div>'] if document.headline else []
    parts += [f"<div>{_text(sentence)}</div>" for sentence in document.closing if sentence != document.headline]
    if document.facts:
        rows = "".join(
            f'<tr style="background:transparent"><td style="{CELL};opacity:.75">{_text(label)}</td>'
            f'<td style="{CELL}">{_text(text)}</td></tr>'
            for label, text in document.facts
        )
        parts.append(f'<table style="border:0;margin:4px 0">{rows}</table>')
    parts += map(_section, map(_cut, document.sections))
    if rules is not None:
        parts.append(_rules(str(rules).splitlines()))
    return f'<div style="font-size:13px;line-height:1.45">{"".join(parts)}</div>'


def _cut(section: Section) -> Section:
    rest = len(section.rows) - LINES
    if rest <= 1:
        return section
    return replace(section, rows=(*section.rows[:LINES], (f"… {rest:,} more lines",)))


def _section(section: Section) -> str:
    mark = f"{MARKS[section.tone]} " if section.tone != "plain" else ""
    rows = "".join(map(_row, section.rows))
    style = f"margin-top:8px;color:{COLOURS[section.tone]};font-weight:600"
    heading = f'<div style="{style}">{mark}{_text(section.heading)}</div>'
    return f'{heading}<table style="border:0;margin:2px 0 2px 12px">{rows}</table>'


def _row(cells: tuple[str, ...]) -> str:
    name, *others = cells
    dim = "".join(f'<td style="{CELL};{MONO};opacity:.75">{_text(cell)}</td>' for cell in others)
    return f'<tr style="background:transparent"><td style="{CELL};{MONO}">{_text(name)}</td>{dim}</tr>'


def _rules(lines: list[str]) -> str:
    rest = len(lines) - RULE_LINES
    if rest > 1:
        lines = [*lines[:RULE_LINES], f"# … {rest:,} more lines"]
    text = "\n".join(map(_text, lines))
    frame = "margin:8px 0 0;padding:6px 10px;background:transparent;color:inherit;border:1px solid rgba(128,128,128,.4)"
    return f'<pre style="{frame};{MONO};overflow-x:auto">{text}</pre>'


def _text(text: str) -> str:
    return escape(printable(text))
