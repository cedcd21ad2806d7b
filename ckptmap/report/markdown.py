"""Documents as Markdown, for pull requests and notes."""

from __future__ import annotations

from ckptmap.report.document import Document, Row, Section


def as_markdown(document: Document) -> str:
    """A document as Markdown: the closing sentences first, since a comment is read from the top."""
    blocks = [f"**{sentence}**" for sentence in document.closing]
    if document.facts:
        blocks.append("\n".join(f"- {label}: {_escaped(text)}" for label, text in document.facts))
    blocks += [_section(section) for section in document.sections]
    return "\n\n".join(blocks)


def _section(section: Section) -> str:
    lines = [f"### {section.heading}", ""] if section.heading else []
    lines += [_line(section.columns), "|" + " --- |" * len(section.columns)]
    for row in section.rows:
        name, *cells = row
        named = name if name.startswith("…") else f"`{name.replace('|', '&#124;')}`"
        padding = [""] * (len(section.columns) - len(row))
        lines.append(_line((named, *map(_escaped, cells), *padding)))
    return "\n".join(lines)


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
