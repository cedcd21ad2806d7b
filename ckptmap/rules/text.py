"""Reads rule files: lines, statements, names; each fault with its line and column."""

from __future__ import annotations

import re
from itertools import pairwise
from math import prod

from ckptmap.rules.names import STAR, STARS, Choice, Group, Index, NamePattern, Part, Segment, joined
from ckptmap.rules.notation import MisreadError, read_shape
from ckptmap.rules.rules import (
    LANGUAGE,
    NOWHERE,
    ZEROS,
    Columns,
    Fault,
    Mark,
    Provenance,
    Rule,
    Section,
    Side,
    Size,
    Statement,
    Term,
    Tie,
    Version,
)
from ckptmap.rules.shapes import Shape

_COMMENT = re.compile(r"(?:^|(?<=\s))#.*", re.DOTALL)
_ARROW = re.compile(r"(?:^|(?<=\s))<->(?=\s|$)")
_SHAPES = re.compile(r"(?<=\s):(?=\s)")
_PROVENANCE = re.compile(r"(left|right):(?:\s+(.*))?")
_KEYWORD = re.compile(r"(ckptmap|size|tie|maybe|guess)(?=\s)(?!\s*(?:<->|,))")
_SIZE = re.compile(r"size\s+(\w+)(?:\s*=\s*(\S+))?")
_TIE = re.compile(r"tie\s+(left|right)\s+(\S+)\s+=\s+(\S+)")
_INDEX = re.compile(r"(?:([0-9]+)\*)?([A-Za-z_]\w*)(?:([+-])([0-9]+))?", re.ASCII)
_CHOICE = re.compile(r"([A-Za-z_]\w*):(.*)", re.ASCII)
_AXIS = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_WORD = re.compile(r"[^\s.{}|,*]+")

# No rule that a person or `remap` writes comes near these; without them a small file could keep a machine busy.
MOST_OF_A_LINE = 200_000
MOST_LINES = 100_000
MOST_SEGMENTS = 128
MOST_NAMES = 2048
MOST_WORDS = 4096
MOST_DIGITS = 18


def read_statements(text: str) -> tuple[tuple[Statement, ...], list[Fault]]:
    """Every line that can be read, and what is wrong with the others."""
    statements: list[Statement] = []
    faults: list[Fault] = []
    lines = text.removeprefix("\ufeff").split("\n")
    if len(lines) > MOST_LINES:
        return (), [Fault(MOST_LINES + 1, 1, f"a rule file has {MOST_LINES:,} lines at most. Split it.")]
    for number, line in enumerate(lines, start=1):
        try:
            if len(line) > MOST_OF_A_LINE:
                raise MisreadError(MOST_OF_A_LINE, f"a line has {MOST_OF_A_LINE:,} characters at most. Split the rule.")
            statements.append(_statement(line.rstrip(), number, first=not any(map(_says, statements))))
        except MisreadError as error:
            faults.append(Fault(number, error.column + 1, str(error)))
            statements.append(Statement(line=number))
    while statements and statements[-1] == Statement():
        statements.pop()
    return tuple(statements), faults


def _says(statement: Statement) -> bool:
    return type(statement) is not Statement


def _statement(line: str, number: int, *, first: bool) -> Statement:
    found = _COMMENT.search(line)
    comment = found[0][1:].strip() if found else ""
    if found and not comment:
        comment = " "  # a bare `#` is a comment too
    body = (line[: found.start()] if found else line).rstrip()
    start = len(body) - len(body.lstrip())
    place: dict[str, str | int] = {"comment": comment, "line": number, "column": start + 1}
    said = body[start:]
    if not said:
        return Statement(**place)  # type: ignore[arg-type]
    if (named := _PROVENANCE.fullmatch(said)) and "<->" not in said:
        side: Side = "left" if named[1] == "left" else "right"
        return Provenance(side, (named[2] or "").strip(), **place)  # type: ignore[arg-type]
    keyword = _KEYWORD.match(said)
    word = keyword[1] if keyword else ""
    if word == "ckptmap":
        return Version(_version(said, start, first), **place)  # type: ignore[arg-type]
    if word == "size":
        return Size(*_size(said, start), **place)  # type: ignore[arg-type]
    if word == "tie":
        return Tie(*_tie(said, start), **place)  # type: ignore[arg-type]
    if said.startswith("["):
        return Section(*_section(said, start), **place)  # type: ignore[arg-type]
    mark: Mark = "maybe" if word == "maybe" else "guess" if word == "guess" else ""
    return _rule(body, start + len(mark), mark, place)


def _version(said: str, start: int, first: bool) -> int:
    number = said.removeprefix("ckptmap").strip()
    if not first:
        raise MisreadError(start, "the version of the language stands below other lines. Move it to the first line.")
    if not number.isascii() or not number.isdigit() or len(number) > MOST_DIGITS:
        raise MisreadError(start, f"`{said[:80]}` is not a version. Write `ckptmap {LANGUAGE}`.")
    if int(number) != LANGUAGE:
        raise MisreadError(
            start, f"this is language {int(number)}; this ckptmap reads language {LANGUAGE}. Update ckptmap."
        )
    return LANGUAGE


def _size(said: str, start: int) -> tuple[str, int | str | None]:
    found = _SIZE.fullmatch(said)
    if not found or not _AXIS.fullmatch(found[1]):
        raise MisreadError(
            start, f"`{said}` is not a size. Write `size r = 2`, `size h = config.num_attention_heads` or `size r`."
        )
    value = found[2]
    if value is None:
        return found[1], None
    if value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS:
        return found[1], int(value)
    if not re.fullmatch(r"config(\.\w+)+", value, re.ASCII):
        raise MisreadError(start + found.start(2), f"`{value[:80]}` is no length. Write a number or `config.KEY`.")
    return found[1], value


def _tie(said: str, start: int) -> tuple[Side, NamePattern, NamePattern]:
    found = _TIE.fullmatch(said)
    if not found:
        raise MisreadError(start, f"`{said}` is not a tie. Write `tie left NAME = SECOND_NAME`.")
    names = [read_name(found[at], start + found.start(at)) for at in (2, 3)]
    return "left" if found[1] == "left" else "right", names[0], names[1]


def _section(said: str, start: int) -> tuple[NamePattern | None, NamePattern | None]:
    if not said.endswith("]"):
        raise MisreadError(start + len(said), "the section is not closed. Put `]` at its end.")
    inner = said[1:-1]
    if not inner.strip():
        return None, None
    arrows = list(_ARROW.finditer(inner))
    if len(arrows) != 1:
        raise MisreadError(
            start, f"`{said}` is not a section. Write `[left.prefix <-> right.prefix]`, or `[]` to end one."
        )
    prefixes = []
    for begin, end in ((0, arrows[0].start()), (arrows[0].end(), len(inner))):
        text = inner[begin:end]
        at = start + 1 + begin + len(text) - len(text.lstrip())
        prefix = read_name(text.strip(), at) if text.strip() else None
        if prefix and prefix.open_ended:
            raise MisreadError(
                at, "`**` cannot stand in a prefix, since names go on after it. Write `*` for a segment."
            )
        if prefix and any(isinstance(part, Group) for part in prefix.parts()):
            raise MisreadError(at, "a group cannot stand in a prefix. Write it in the rules below.")
        prefixes.append(prefix)
    return prefixes[0], prefixes[1]


def _rule(body: str, at: int, mark: Mark, place: dict[str, str | int]) -> Rule:
    shapes = _SHAPES.search(body, at)
    end = shapes.start() if shapes else len(body)
    arrow = _only_arrow(body, at, end)
    parts = [(at, arrow[0]), (arrow[1], end)]
    left, right = (_terms(body, *part) for part in parts)
    if not shapes:
        return Rule(left, right, mark=mark, columns=_columns(body, parts), **place)  # type: ignore[arg-type]
    between = _only_arrow(body, shapes.end(), len(body))
    parts += [(shapes.end(), between[0]), (between[1], len(body))]
    left_shapes, right_shapes = (_shapes(body, *part) for part in parts[2:])
    columns = _columns(body, parts)
    return Rule(left, right, left_shapes, right_shapes, mark, columns=columns, **place)  # type: ignore[arg-type]


def _columns(body: str, parts: list[tuple[int, int]]) -> Columns:
    return Columns(*(tuple(at + 1 for at, _ in _pieces(body, *part)) for part in parts))


def _only_arrow(body: str, start: int, end: int) -> tuple[int, int]:
    arrows = [found for found in _ARROW.finditer(body, start) if found.end() <= end]
    if len(arrows) == 1:
        return arrows[0].span()
    at = start + len(body[start:end]) - len(body[start:end].lstrip())
    if arrows:
        raise MisreadError(arrows[1].start(), "`<->` stands twice. Write one rule a line.")
    if re.search("<-|->|<->", body[start:end]):
        raise MisreadError(at, "there is no `<->` between spaces here. Rules read both ways: write `left <-> right`.")
    raise MisreadError(at, f"`{body[start:end].strip()}` is not a statement. Write a rule as `left <-> right`.")


def _pieces(body: str, start: int, end: int) -> list[tuple[int, str]]:
    """What stands between commas outside braces, with its place."""
    pieces, begin, depth = [], start, 0
    for at in range(start, end + 1):
        if at == end or (body[at] == "," and depth == 0):
            text = body[begin:at]
            pieces.append((begin + len(text) - len(text.lstrip()), text.strip()))
            begin = at + 1
        elif body[at] in "{}":
            depth += 1 if body[at] == "{" else -1
    return pieces


def _terms(body: str, start: int, end: int) -> tuple[Term, ...]:
    terms: list[Term] = []
    pieces = _pieces(body, start, end)
    if len(pieces) > MOST_NAMES:
        raise MisreadError(start, f"a side of a rule has {MOST_NAMES:,} names at most. Split the rule.")
    for at, text in pieces:
        terms.append(ZEROS if text == ZEROS else NOWHERE if text == NOWHERE else read_name(text, at))
    return tuple(terms)


def _shapes(body: str, start: int, end: int) -> tuple[Shape, ...]:
    return tuple(read_shape(text, at) for at, text in _pieces(body, start, end))


def read_name(text: str, column: int = 0) -> NamePattern:
    """Read a name pattern.

    Raises:
        MisreadError: It is not one.
    """
    if not text:
        raise MisreadError(column, "a name is missing. Write a name, `0` for zeros, or `_` for what has no home here.")
    if found := re.search(r'\s|"', text):
        raise MisreadError(
            column + found.start(), f"`{text}` has a {_called(found[0])} in it. Separate names by commas."
        )
    if text.count(".") >= MOST_SEGMENTS:
        raise MisreadError(column, f"a name has {MOST_SEGMENTS} parts between dots at most. Write a rule for less.")
    segments: list[Segment] = []
    at = column
    for piece in re.split(r"\.(?![^{}]*\})", text):
        segments.append(_segment(piece, at))
        at += len(piece) + 1
    if STARS in segments[:-1]:
        raise MisreadError(column, "`**` is the rest of a name. Put it last, or write `*` for one segment.")
    pattern = NamePattern(tuple(segments))
    if sum(isinstance(part, Group) for part in pattern.parts()) > 1:
        raise MisreadError(column, "two groups in a name. Write the names one by one, separated by commas.")
    if prod(len(part.words) for part in pattern.parts() if isinstance(part, Choice | Group)) > MOST_WORDS:
        raise MisreadError(column, f"the words of a name can be combined in {MOST_WORDS:,} ways at most. Split it.")
    return pattern


def _called(character: str) -> str:
    return "quotation mark" if character == '"' else "space"


def _segment(text: str, column: int) -> Segment:
    if text in (STAR, STARS):
        return text
    if not text:
        raise MisreadError(column, "nothing stands between two dots. Delete one, or write `*` for any segment.")
    parts: list[Part] = []
    at = 0
    while at < len(text):
        if text[at] == "{":
            end = text.find("}", at)
            if end < 0:
                raise MisreadError(column + at, "`{` is not closed. Put `}` after the variable.")
            parts.append(_braces(text[at + 1 : end], column + at))
            at = end + 1
        elif text[at] in "*}|,":
            what = {
                "*": "`*` stands for a whole segment. Put dots around it; for parts of words write `{n:one|other}`.",
                "}": "`}` without `{`. Delete it, or open the variable.",
            }
            raise MisreadError(
                column + at, what.get(text[at], f"`{text[at]}` stands outside braces. Write `{{n:a|b}}`.")
            )
        else:
            end = min((found for mark in "{}*|," if (found := text.find(mark, at)) >= 0), default=len(text))
            parts.append(text[at:end])
            at = end
    segment = joined(parts)
    _check_sides(segment, column)
    return segment


def _braces(inner: str, column: int) -> Part:
    if found := _INDEX.fullmatch(inner):
        if any(len(number or "") > MOST_DIGITS for number in found.group(1, 4)):
            raise MisreadError(column, f"a number has {MOST_DIGITS} digits at most. Write a smaller one.")
        factor = int(found[1] or 1)
        if factor == 0:
            raise MisreadError(column, f"`{{{inner}}}` is the same number always. Write the number.")
        return Index(found[2], factor, int((found[3] or "+") + (found[4] or "0")))
    if found := _CHOICE.fullmatch(inner):
        words = tuple(found[2].split("|"))
        _check_words(words, inner, column)
        return Choice(found[1], words)
    if "," in inner:
        words = tuple(inner.split(","))
        _check_words(words, inner, column)
        return Group(words)
    raise MisreadError(
        column, f"`{{{inner}}}` is not a variable. Write `{{i}}`, `{{2*i+1}}`, `{{n:a|b}}` or `{{q,k,v}}`."
    )


def _check_words(words: tuple[str, ...], inner: str, column: int) -> None:
    for word in words:
        if not _WORD.fullmatch(word):
            what = f"`{word}` is not a part of a name" if word else "a word is empty"
            raise MisreadError(column, f"{what} in `{{{inner}}}`. Words have no dots, spaces, braces or stars in them.")
    if len(set(words)) < len(words):
        raise MisreadError(column, f"a word stands twice in `{{{inner}}}`. Delete one.")


def _check_sides(segment: tuple[Part, ...], column: int) -> None:
    """An index must end where its digits end, and a choice where its word ends."""
    for one, other in pairwise(segment):
        if isinstance(one, str) and isinstance(other, str):
            continue
        ends = {text[-1] for text in _texts(one)}, {text[0] for text in _texts(other)}
        if any(isinstance(part, Index) for part in (one, other)) and all(_digit(side) for side in ends):
            raise MisreadError(
                column, f"{one} and {other} stand side by side, so no one sees where a number ends. Part them."
            )
        if isinstance(one, Choice) and isinstance(other, Choice | Group):
            raise MisreadError(column, f"{one} and {other} stand side by side. Write their words as one choice.")


def _texts(part: Part) -> tuple[str, ...]:
    if isinstance(part, Index):
        return ("0",)
    return (part,) if isinstance(part, str) else part.words


def _digit(characters: set[str]) -> bool:
    return any(character in "0123456789" for character in characters)
