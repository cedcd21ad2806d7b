"""Documents as Markdown, for pull requests and notes."""

from __future__ import annotations

import re

from ckptmap.report.document import Document, Row, Section, printable_document


def as_markdown(document: Document) -> str:
    """A document as Markdown: the answer first, then all other sentences, since a comment is read from the top."""
    document = printable_document(document)
    blocks = [f"**{_escaped(document.headline)}**"] if document.headline else []
    blocks += [_escaped(sentence) for sentence in document.closing if sentence != document.headline]
    if document.facts:
        blocks.append("\n".join(f"- {label}: {_escaped(text)}" for label, text in document.facts))
    blocks += [_section(section) for section in document.sections]
    return "\n\n".join(blocks)


def _section(section: Section) -> str:
    lines = [f"### {_escaped(section.heading)}", ""] if section.heading else []
    rows = [(*row, *[""] * (len(section.columns) - len(row))) for row in section.rows]
    used = [at for at in range(len(section.columns)) if not at or any(row[at] for row in rows)]
    lines += [_line(tuple(section.columns[at] for at in used)), "|" + " --- |" * len(used)]
    for row, whole in zip(section.rows, rows, strict=True):
        name = _escaped(row[0]) if len(row) == 1 else _code(row[0])
        lines.append(_line((name, *(_escaped(whole[at]) for at in used[1:]))))
    return "\n".join(lines)


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """A code span in a table; one that holds backticks stands between longer rows of them."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text that shows as it is: no HTML, no code, no emphasis, no link, no other cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*|]|\](?=[(\[])", r"\\\g<0>", text)
