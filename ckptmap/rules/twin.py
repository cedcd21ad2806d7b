"""The JSON twin of a rule file: a statement an object, names and shapes as in the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptmap.errors import RuleError
from ckptmap.printable import lines_of
from ckptmap.rules.names import NamePattern
from ckptmap.rules.notation import MisreadError, read_shape
from ckptmap.rules.rules import (
    LANGUAGE,
    NOWHERE,
    ZEROS,
    Provenance,
    Rule,
    Rules,
    Section,
    Size,
    Statement,
    Term,
    Tie,
    Version,
)
from ckptmap.rules.shapes import Shape
from ckptmap.rules.text import read_name


def to_json(rules: Rules) -> dict[str, Any]:
    """The file as a JSON object: its version, and its lines in order."""
    return {"ckptmap": LANGUAGE, "statements": [_fields(statement) for statement in rules.statements]}


def from_json(fields: Mapping[str, Any]) -> Rules:
    """Read the JSON form.

    Raises:
        RuleError: It is not one.
    """
    if fields.get("ckptmap") != LANGUAGE or not isinstance(fields.get("statements"), list):
        raise RuleError(f'not rules in JSON: give an object with "ckptmap": {LANGUAGE} and a list "statements".')
    statements: list[Statement] = []
    faults: list[str] = []
    for number, one in enumerate(fields["statements"], start=1):
        try:
            statements.append(_statement(one, number))
        except MisreadError as error:
            faults.append(f"statement {number}: {error}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            faults.append(f"statement {number} is malformed ({type(error).__name__}: {error}). See docs/rules.md.")
    if faults:
        raise RuleError(lines_of(faults))
    return Rules(tuple(statements))


def _fields(statement: Statement) -> dict[str, Any]:
    fields: dict[str, Any]
    match statement:
        case Version():
            fields = {"kind": "version", "number": statement.number}
        case Provenance():
            fields = {"kind": "provenance", "side": statement.side, "text": statement.text}
        case Size():
            fields = {"kind": "size", "axis": statement.axis, "value": statement.value}
        case Tie():
            fields = {"kind": "tie", "side": statement.side}
            fields |= {"name": str(statement.name), "second": str(statement.second)}
        case Section():
            fields = {"kind": "section", "left": str(statement.left or ""), "right": str(statement.right or "")}
        case Rule():
            fields = {"kind": "rule", "mark": statement.mark}
            fields |= {"left": [str(term) for term in statement.left], "right": [str(term) for term in statement.right]}
            fields |= {"left_shapes": _shape_texts(statement.left_shapes)}
            fields |= {"right_shapes": _shape_texts(statement.right_shapes)}
        case _:
            fields = {"kind": "comment"}
    return fields | ({"comment": statement.comment} if statement.comment else {})


def _shape_texts(shapes: tuple[Shape, ...] | None) -> list[str] | None:
    return None if shapes is None else [str(shape) for shape in shapes]


def _statement(fields: Mapping[str, Any], line: int) -> Statement:
    place: dict[str, Any] = {"comment": str(fields.get("comment", "")), "line": line}
    match fields["kind"]:
        case "version":
            return Version(int(fields["number"]), **place)
        case "provenance":
            return Provenance(_one_of(fields["side"], "left", "right"), str(fields["text"]), **place)
        case "size":
            value = fields["value"]
            return Size(str(fields["axis"]), value if isinstance(value, int) else value and str(value), **place)
        case "tie":
            names = read_name(fields["name"]), read_name(fields["second"])
            return Tie(_one_of(fields["side"], "left", "right"), *names, **place)
        case "section":
            return Section(*(read_name(fields[side]) if fields[side] else None for side in ("left", "right")), **place)
        case "rule":
            return Rule(
                _terms(fields["left"]),
                _terms(fields["right"]),
                _shapes(fields["left_shapes"]),
                _shapes(fields["right_shapes"]),
                _one_of(fields["mark"], "", "maybe", "guess"),
                **place,
            )
        case "comment":
            return Statement(**place)
    raise ValueError(f"unknown kind {fields['kind']!r}")


def _one_of(text: str, *words: str) -> Any:
    if text not in words:
        raise ValueError(f"{text!r} is none of {', '.join(map(repr, words))}")
    return text


def _terms(texts: list[str]) -> tuple[Term, ...]:
    terms: list[Term] = []
    for text in texts:
        terms.append(ZEROS if text == ZEROS else NOWHERE if text == NOWHERE else _name(text))
    return tuple(terms)


def _name(text: str) -> NamePattern:
    return read_name(text)


def _shapes(texts: list[str] | None) -> tuple[Shape, ...] | None:
    return None if texts is None else tuple(map(read_shape, texts))
