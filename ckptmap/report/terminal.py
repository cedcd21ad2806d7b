"""Documents as text: plain in a pipe, coloured by rich on a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ckptmap.report.document import Document, Row, Section, Tone, printable_document

if TYPE_CHECKING:
    from rich.console import Console

STYLES: dict[Tone, str] = {"plain": "", "added": "green", "removed": "red", "changed": "yellow"}
MARKS: dict[Tone, str] = {"plain": " ", "added": "+", "removed": "-", "changed": "~"}


def show(document: Document) -> None:
    """Print a document on stdout; rich is imported only when somebody is looking."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console

        _show_rich(printable_document(document), Console(highlight=False, soft_wrap=True))
    else:
        print(as_text(document))


def as_text(document: Document) -> str:
    """A document as plain text with aligned columns."""
    document = printable_document(document)
    blocks = []
    if document.facts:
        width = max(len(label) for label, _ in document.facts)
        blocks.append("\n".join(f"{label:<{width}}  {text}" for label, text in document.facts))
    blocks += [_section_text(section) for section in document.sections]
    if document.closing:
        blocks.append("\n".join(document.closing))
    return "\n\n".join(blocks)


def _section_text(section: Section) -> str:
    lines = [section.heading] if section.heading else []
    mark = f"{MARKS[section.tone]} " if section.tone != "plain" else "  " if section.heading else ""
    return "\n".join(lines + [f"{mark}{line}" for line in _aligned(section.rows)])


def _aligned(rows: tuple[Row, ...]) -> list[str]:
    # One very long name must not push the columns of all others off the screen.
    widths: list[int] = []
    for row in rows:
        for place, cell in enumerate(row[:-1]):
            if place == len(widths):
                widths.append(0)
            widths[place] = max(widths[place], min(len(cell), 72))
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, [*widths, 0], strict=False)).rstrip() for row in rows]


def _show_rich(document: Document, console: Console) -> None:
    from rich.text import Text

    if document.facts:
        width = max(len(label) for label, _ in document.facts)
        for label, text in document.facts:
            console.print(Text.assemble((f"{label:<{width}}  ", "bold"), text))
    for section in document.sections:
        console.print()
        if section.heading:
            console.print(Text(section.heading, style="bold"))
        mark = f"{MARKS[section.tone]} " if section.heading else ""
        for row, line in zip(section.rows, _aligned(section.rows), strict=True):
            name = line[: len(row[0])]
            console.print(Text.assemble((mark + name, STYLES[section.tone]), (line[len(name) :], "dim")))
    if document.closing:
        console.print()
        for sentence in document.closing:
            console.print(Text(sentence, style="bold"))
