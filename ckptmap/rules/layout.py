"""Writes rule files in their canonical form: one line for each line, columns aligned in each block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ckptmap.rules.names import NamePattern
from ckptmap.rules.rules import Provenance, Rule, Section, Size, Statement, Term, Tie, Version
from ckptmap.rules.shapes import Shape

WIDEST = 44
"""A left side wider than this stands out alone; the others are not moved for it."""


def written(statements: Iterable[Statement]) -> str:
    """The canonical text of these lines."""
    lines: list[str] = []
    for _, run in groupby(statements, key=type):
        lines += _run(list(run))
    while lines and not lines[-1]:
        lines.pop()
    return "".join(f"{line}\n" for line in lines)


def _run(run: Sequence[Statement]) -> Iterator[str]:
    """Neighbours of one kind, aligned."""
    rows = [_cells(statement) for statement in run]
    for statement, row in zip(run, rows, strict=True):
        text = ""
        for at, cell in enumerate(row[:-1]):
            width = max((len(r[at]) for r in rows if len(r) > at + 1 and len(r[at]) <= WIDEST), default=0)
            text += cell.ljust(width) + " "
        yield _commented((text + row[-1]).rstrip(), statement.comment)


def _commented(text: str, comment: str) -> str:
    if not comment:
        return text
    comment = _in_one_line(comment)
    return f"{text}  # {comment}".rstrip() if text else f"# {comment}".rstrip()


def _in_one_line(text: str) -> str:
    """Free text, which may come from a program and not from a line of a file."""
    return text.replace("\n", "\\n")


def _cells(statement: Statement) -> list[str]:
    """What a line is made of; all but the last is padded."""
    match statement:
        case Version():
            return [f"ckptmap {statement.number}"]
        case Provenance():
            return [f"{statement.side}:", _in_one_line(statement.text)]
        case Size(value=None):
            return [f"size {statement.axis}"]
        case Size():
            return [f"size {statement.axis}", f"= {statement.value}"]
        case Tie():
            return [f"tie {statement.side}", f"{statement.name} = {statement.second}"]
        case Section(left=None, right=None):
            return ["[]"]
        case Section():
            return [_section(statement.left, statement.right)]
        case Rule():
            return list(_rule(statement))
    return [""]


def _section(left: NamePattern | None, right: NamePattern | None) -> str:
    return f"[{left or ''} <-> {right or ''}]".replace("[ <->", "[<->").replace("<-> ]", "<->]")


def _rule(rule: Rule) -> Iterator[str]:
    mark = f"{rule.mark} " if rule.mark else ""
    yield mark + _terms(rule.left)
    if rule.left_shapes is None or rule.right_shapes is None:
        yield f"<-> {_terms(rule.right)}"
    else:
        yield f"<-> {_terms(rule.right)}"
        yield f": {_shapes(rule.left_shapes)} <-> {_shapes(rule.right_shapes)}"


def _terms(terms: tuple[Term, ...]) -> str:
    return ", ".join(map(str, terms))


def _shapes(shapes: tuple[Shape, ...]) -> str:
    return ", ".join(map(str, shapes))
