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


def fenced(text: str) -> str:
    """Lines of code as a block, which nothing in them can close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text.rstrip(chr(10))}\n{fence}"


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
    if "\\|" in text:  # no code span in a table can say this
        return f"<code>{_escaped(text)}</code>"
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


_MEANS_SOMETHING = re.compile(
    r"[\\`*|~$]"  # code, emphasis, cells, formulas
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # emphasis, too, but for one within a word
    r"|\](?=[(\[:])"  # links
    r"|(?<=:)/(?=/)|(?<=www)\."  # addresses, which become links of themselves
    r"|^[#>+=-]|^\d+[.)]"  # headings, quotations, lists
)
_MENTION = re.compile(r"(?<![A-Za-z0-9_])@(?=[A-Za-z0-9])")


def _escaped(text: str) -> str:
    """Text that shows as it is: no HTML, no code, no emphasis, no link, no other cell, and nobody is called."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = _MEANS_SOMETHING.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", text)
    return _MENTION.sub("@<!-- -->", text)
