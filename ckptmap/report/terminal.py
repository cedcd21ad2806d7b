"""Documents as text: plain in a pipe, coloured by rich on a terminal and laid out for its width."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator

from ckptmap.printing import show, styled
from ckptmap.report.document import Document, Row, Section, Tone, printable_document

STYLES: dict[Tone, str] = {"plain": "", "added": "green", "removed": "red", "changed": "yellow"}
MARKS: dict[Tone, str] = {"plain": " ", "added": "+", "removed": "-", "changed": "~"}

LONGEST_NAME = 72
"""One very long name must not push the columns of all others off the screen."""

NARROWEST = 40
"""No terminal is taken to be narrower: what is laid out for less is no longer readable."""

HEIGHT = 25
"""Nothing is laid out by it."""

Line = tuple[tuple[str, str], ...]
"""A line as pieces of text, each with its style."""


def show_document(document: Document) -> None:
    """Print a document on stdout; rich is imported only when somebody is looking."""
    if not sys.stdout.isatty():
        show(as_text(document) + "\n")
        return
    width = max(shutil.get_terminal_size().columns, NARROWEST)
    if os.environ.get("TERM") == "dumb":
        show(as_text(document, width) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    # With both told, rich does not read COLUMNS and LINES, which may hold anything.
    console = Console(file=styled("stdout"), width=width, height=HEIGHT, highlight=False, soft_wrap=True)
    for line in _lines(printable_document(document), width):
        console.print(Text.assemble(*line))


def as_text(document: Document, width: int | None = None) -> str:
    """A document as plain text with aligned columns; on a screen of some width, no line is longer that need not be."""
    lines = _lines(printable_document(document), width)
    return "\n".join("".join(text for text, _ in line) for line in lines)


def _lines(document: Document, width: int | None) -> Iterator[Line]:
    blocks = [_facts(document.facts, width)] if document.facts else []
    blocks += [_section(section, width) for section in document.sections]
    if document.closing:
        blocks.append([((line, "bold"),) for text in document.closing for line in _wrapped(text, width)])
    for number, block in enumerate(blocks):
        if number:
            yield (("", ""),)
        yield from block


def _facts(facts: tuple[tuple[str, str], ...], width: int | None) -> list[Line]:
    lines: list[Line] = []
    indent = max(len(label) for label, _ in facts) + 2
    for label, text in facts:
        first, *rest = _wrapped(text, width and width - indent)
        lines.append(((f"{label:<{indent}}", "bold"), (first, "")))
        lines += [((" " * indent + line, ""),) for line in rest]
    return lines


def _section(section: Section, width: int | None) -> list[Line]:
    lines: list[Line] = [((line, "bold"),) for line in _wrapped(section.heading, width)] if section.heading else []
    marked = section.heading or section.tone != "plain"
    mark = f"{MARKS[section.tone]} " if marked else ""
    for name, rest in _aligned(section.rows, width and width - len(mark)):
        lines.append(
            ((mark + name, STYLES[section.tone]), (rest, "dim")) if name else ((" " * len(mark) + rest, "dim"),)
        )
    return lines


def _aligned(rows: tuple[Row, ...], width: int | None) -> Iterator[tuple[str, str]]:
    """For each line its name and its cells; of a name too long for the screen the cells stand on the line below."""
    widths: list[int] = []
    for row in rows:
        for place, cell in enumerate(row):
            if place == len(widths):
                widths.append(0)
            widths[place] = max(widths[place], min(len(cell), LONGEST_NAME) if place < len(row) - 1 else 0)
    cells = [_cells(row[1:], widths[1:]) for row in rows]
    longest = LONGEST_NAME if width is None else width - max(map(len, cells), default=0)
    column = min(widths[0] if widths else 0, max(longest, 0))
    for row, rest in zip(rows, cells, strict=True):
        if width is None or len(row[0]) <= column or not rest:
            yield row[0], rest and " " * (column - len(row[0])) + rest
        else:
            yield row[0], ""
            indent = max(column, 2) + 2
            yield from (("", " " * indent + line) for line in _wrapped(rest.strip(), width - indent))


def _cells(row: Row, widths: list[int]) -> str:
    used = [f"  {cell:<{width}}" for cell, width in zip(row, widths, strict=False) if width or cell]
    return "".join(used).rstrip()


def _wrapped(text: str, width: int | None) -> list[str]:
    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(width, NARROWEST // 2), break_long_words=False, break_on_hyphens=False) or [text]
