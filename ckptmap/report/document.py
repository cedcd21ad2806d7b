"""A report before it is shown: facts, then sections of rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ckptmap.checkpoint import Checkpoint
from ckptmap.patterns import group
from ckptmap.printable import printable
from ckptmap.spec import TensorSpec

Tone = Literal["plain", "added", "removed", "changed"]
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a heading; the first cell of a row is a name, and the rest may be shown dimmer."""

    heading: str
    rows: tuple[Row, ...]
    columns: Row
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Document:
    """Facts as label and text, sections, then sentences that close the report.

    The headline is the answer in one sentence, for forms that are read from the top; it repeats what the rest says.
    """

    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = ()
    closing: tuple[str, ...] = ()
    headline: str = ""


def truncated(document: Document, limit: int | None) -> Document:
    """The document with at most `limit` rows a section; what is left out is counted in a last row."""
    if limit is None:
        return document
    return replace(document, sections=tuple(_truncated(section, limit) for section in document.sections))


def _truncated(section: Section, limit: int) -> Section:
    if len(section.rows) <= limit:
        return section
    rest = f"… {len(section.rows) - limit:,} more lines (--no-truncate shows them)"
    return Section(section.heading, (*section.rows[:limit], (rest,)), section.columns, section.tone)


def printable_document(document: Document) -> Document:
    """The document with all its text printable."""

    def row(cells: Row) -> Row:
        return tuple(map(printable, cells))

    return Document(
        tuple((label, printable(text)) for label, text in document.facts),
        tuple(
            Section(printable(section.heading), tuple(map(row, section.rows)), section.columns, section.tone)
            for section in document.sections
        ),
        row(document.closing),
        printable(document.headline),
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as people write it: `[768, 768]`."""
    return f"[{', '.join(map(str, shape))}]"


def bytes_text(count: int) -> str:
    """A size in decimal units, as the Hub shows sizes: `3.99 GB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{count} B" if unit == "B" else f"{size:.3g} {unit}"


def count_text(count: int, noun: str) -> str:
    """A count with its noun: `1 tensor`, `2 tensors`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def tensor_rows(specs: Mapping[str, TensorSpec], *, every: bool) -> tuple[Row, ...]:
    """Rows of name, shape, dtype and count: one for each pattern, or for every tensor."""
    return pattern_rows({name: (shape_text(spec.shape), spec.dtype) for name, spec in specs.items()}, every=every)


def pattern_rows(cells: Mapping[str, Row], *, every: bool) -> tuple[Row, ...]:
    """Rows of a name, its cells and a count, names with equal cells grouped by pattern unless every one is wanted."""
    if every:
        return tuple((name, *row, "") for name, row in cells.items())
    traits: Mapping[str, Hashable] = cells
    rows = []
    for pattern in group(cells, traits):
        count = f"×{len(pattern)}" if len(pattern) > 1 else ""
        rows.append((str(pattern), *cells[pattern.first], count))
    return tuple(rows)


def parameters_of(specs: Mapping[str, TensorSpec], ties: Iterable[Iterable[str]]) -> int:
    """Number of elements of these tensors together, tied ones counted once."""
    again = {name for group in ties for name in [name for name in group if name in specs][1:]}
    return sum(spec.parameters for name, spec in specs.items() if name not in again)


def totals_json(checkpoint: Checkpoint) -> dict[str, int]:
    """The number of tensors and, of a filtered checkpoint, how many there were before."""
    filtered = len(checkpoint) != checkpoint.unfiltered
    return {"tensors": len(checkpoint)} | ({"filtered_from": checkpoint.unfiltered} if filtered else {})


def tensors_text(checkpoint: Checkpoint) -> str:
    """The number of tensors, and of how many a filter left them: `32 of 41 (filtered)`."""
    if len(checkpoint) == checkpoint.unfiltered:
        return f"{len(checkpoint):,}"
    return f"{len(checkpoint):,} of {checkpoint.unfiltered:,} (filtered)"
