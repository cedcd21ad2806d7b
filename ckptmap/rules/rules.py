"""What a rule file says: statements as they stand there, and the rules they amount to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ckptmap import files
from ckptmap.errors import RuleError
from ckptmap.printable import lines_of
from ckptmap.rules.names import Choice, Index, Matcher, NamePattern, Part, Segment
from ckptmap.rules.shapes import Shape

LANGUAGE = 1
"""The version of the language that this library reads and writes."""

ZEROS: Literal["0"] = "0"
STREAMS = ("/dev/stdin", "/dev/fd/")
"""Where a shell puts what it pipes in."""

NOWHERE: Literal["_"] = "_"

Term: TypeAlias = "NamePattern | Literal['0', '_']"
"""A tensor by its name; `0`, a block of zeros without a tensor; `_`, no home on that side."""

Side: TypeAlias = "Literal['left', 'right']"
SIDES = ("left", "right")
Mark: TypeAlias = "Literal['', 'maybe', 'guess']"


@dataclass(frozen=True, slots=True)
class Statement:
    """One line of a file, which says nothing: blank, or a comment alone."""

    comment: str = field(default="", kw_only=True)
    line: int = field(default=0, compare=False, kw_only=True)
    column: int = field(default=1, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Version(Statement):
    """`ckptmap 1`."""

    number: int


@dataclass(frozen=True, slots=True)
class Provenance(Statement):
    """`left: FacebookAI/roberta-base`: what a side is, for people."""

    side: Side
    text: str


@dataclass(frozen=True, slots=True)
class Size(Statement):
    """`size r = 2`, `size heads = config.num_attention_heads`, or `size p` alone: to be given with `--size`."""

    axis: str
    value: int | str | None


@dataclass(frozen=True, slots=True)
class Tie(Statement):
    """`tie left a = b`: `b` is a second name for `a` on that side."""

    side: Side
    name: NamePattern
    second: NamePattern


@dataclass(frozen=True, slots=True)
class Section(Statement):
    """`[a <-> b]`: prefixes of the names below; `[]` ends it. A prefix that is None is empty."""

    left: NamePattern | None = None
    right: NamePattern | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the terms and shapes of a rule stand in its line, from 1; nothing where it was not read from text."""

    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()
    left_shapes: tuple[int, ...] = ()
    right_shapes: tuple[int, ...] = ()

    def inverse(self) -> Columns:
        """The same of the rule with its sides exchanged."""
        return Columns(self.right, self.left, self.right_shapes, self.left_shapes)


@dataclass(frozen=True, slots=True)
class Rule(Statement):
    """An equation between tensors: `a, b <-> c : x m, y m <-> [x + y] m`.

    Args:
        left: Names of the left side, `0` or `_`.
        right: The same of the right side.
        left_shapes: A shape for each term or one for all; None if both sides' tensors are alike as they are.
        right_shapes: The same of the right side.
        mark: `maybe` may match nothing; `guess` is not yet confirmed.
        columns: Where all of it stands; not part of what it says.
    """

    left: tuple[Term, ...]
    right: tuple[Term, ...]
    left_shapes: tuple[Shape, ...] | None = None
    right_shapes: tuple[Shape, ...] | None = None
    mark: Mark = ""
    columns: Columns = field(default=Columns(), compare=False, repr=False, kw_only=True)

    def inverse(self) -> Rule:
        """The rule with its sides exchanged."""
        return replace(
            self,
            left=self.right,
            right=self.left,
            left_shapes=self.right_shapes,
            right_shapes=self.left_shapes,
            columns=self.columns.inverse(),
        )


@dataclass(frozen=True)
class Rules:
    """A rule file.

    Args:
        statements: Every line of it.
        path: Where it was read; not part of what it says.
        found_with: Sizes of the models that the rules were found with, for axes whose sizes a config tells: they hold
            where there is none. Not part of what the file says.
    """

    statements: tuple[Statement, ...]
    path: str = field(default="", compare=False)
    found_with: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, path: str = "") -> Rules:
        """Read a rule file from its text and check it.

        Raises:
            RuleError: With everything that is wrong, a line each.
        """
        from ckptmap.rules.static import static_faults
        from ckptmap.rules.text import read_statements

        statements, faults = read_statements(text)
        rules = cls(statements, path)
        # A line that cannot be read says nothing of the others; what these say is checked all the same.
        _raise([*faults, *static_faults(rules)], path)
        return rules

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Rules:
        """Read a rule file from disk and check it.

        Raises:
            RuleError: It cannot be read, or is wrong.
        """
        return cls.parse(read_text(path), os.fspath(path))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the canonical file; whoever looks finds the old file or the new one, whole."""
        write_text(path, str(self))

    def check(self) -> None:
        """Check what names and shapes alone can tell.

        Raises:
            RuleError: With everything that is wrong, a line each.
        """
        from ckptmap.rules.static import static_faults

        _raise(static_faults(self), self.path)

    def inverse(self) -> Rules:
        """The same equations with their sides exchanged."""
        return Rules(tuple(map(_inverse, self.statements)), self.path, self.found_with)

    def __str__(self) -> str:
        from ckptmap.rules.layout import written

        return written(self.statements)

    def _repr_html_(self) -> str:
        from ckptmap.report.html.notebook import rules_html

        return rules_html(self)

    def to_json(self) -> dict[str, Any]:
        """The file as a JSON object."""
        from ckptmap.rules.twin import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Rules:
        """Read the JSON form.

        Raises:
            RuleError: It is not one, or says something wrong.
        """
        from ckptmap.rules.twin import from_json

        rules = from_json(fields)
        rules.check()
        return rules

    @property
    def version(self) -> int:
        """The version of the language."""
        return next((s.number for s in self.statements if isinstance(s, Version)), LANGUAGE)

    @property
    def left(self) -> str:
        """What the left side is, for people."""
        return self._provenance("left")

    @property
    def right(self) -> str:
        """What the right side is, for people."""
        return self._provenance("right")

    @property
    def sizes(self) -> dict[str, int | str | None]:
        """Lengths of axes that the file tells: a number, `config.KEY`, or None where `--size` must."""
        return {s.axis: s.value for s in self.statements if isinstance(s, Size)}

    @property
    def ties(self) -> tuple[Tie, ...]:
        """Tensors with two names."""
        return tuple(s for s in self.statements if isinstance(s, Tie))

    @property
    def sections(self) -> tuple[Section, ...]:
        """Prefixes, in order."""
        return tuple(s for s in self.statements if isinstance(s, Section))

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules with whole names: prefixes written out, groups as terms, bare choices with their words."""
        section, found = Section(), []
        for statement in self.statements:
            if isinstance(statement, Section):
                section = statement
            elif isinstance(statement, Rule):
                found.append(_whole(statement, section))
        return tuple(found)

    def names_in(self, side: Side, names: Iterable[str]) -> set[str]:
        """Those names that a rule or a tie of one side can be about."""
        from ckptmap.rules.overlap import PatternTree

        tree: PatternTree[Matcher] = PatternTree()
        terms = [term for rule in self.rules for term in (rule.left if side == "left" else rule.right)]
        ties = [name for tie in self.ties if tie.side == side for name in (tie.name, tie.second)]
        for pattern in dict.fromkeys([*terms, *ties]):
            if isinstance(pattern, NamePattern):
                tree.add(pattern, pattern.matcher())
        return {name for name in names if any(matcher.match(name) is not None for matcher in tree.candidates(name))}

    def _provenance(self, side: Side) -> str:
        return next((s.text for s in self.statements if isinstance(s, Provenance) and s.side == side), "")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a rule file.

    Raises:
        RuleError: It cannot be read.
    """
    try:
        if Path(path).exists() and not Path(path).is_file() and not os.fspath(path).startswith(STREAMS):
            raise RuleError(f"{path}: is a folder, a pipe or a device; name a rule file", path=os.fspath(path))
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise RuleError(f"{path}: cannot be read: {error.strerror}", path=os.fspath(path)) from None
    except UnicodeDecodeError as error:
        raise RuleError(f"{path}: not UTF-8 at byte {error.start}. Save it as UTF-8.", path=os.fspath(path)) from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        CheckpointError: It cannot be written.
    """
    files.write_text(Path(os.path.realpath(path)), text.encode())


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something wrong in a file, and where."""

    line: int
    column: int
    what: str


def _raise(faults: list[Fault], path: str) -> None:
    if not faults:
        return
    faults = sorted(set(faults))
    lines = [f"{path or 'rules'}:{fault.line}:{fault.column}: {fault.what}" for fault in faults]
    raise RuleError(lines_of(lines), path=path, line=faults[0].line, column=faults[0].column)


def _inverse(statement: Statement) -> Statement:
    if isinstance(statement, Rule):
        return statement.inverse()
    if isinstance(statement, Section):
        return replace(statement, left=statement.right, right=statement.left)
    if isinstance(statement, Provenance | Tie):
        return replace(statement, side="right" if statement.side == "left" else "left")
    return statement


def _whole(rule: Rule, section: Section) -> Rule:
    sides, columns = [], []
    for terms, prefix, stand in (
        (rule.left, section.left, rule.columns.left),
        (rule.right, section.right, rule.columns.right),
    ):
        start = prefix.segments if prefix else ()
        expanded = [
            NamePattern((*start, *term.segments)).terms() if isinstance(term, NamePattern) else (term,)
            for term in terms
        ]
        sides.append([pattern for patterns in expanded for pattern in patterns])
        columns.append(tuple(at for at, patterns in zip(stand, expanded, strict=False) for _ in patterns))
    words: list[dict[str, tuple[str, ...]]] = [{}, {}]
    for side, known in zip(sides, words, strict=True):
        for term in side:
            if isinstance(term, NamePattern):
                known.update(term.choices)
    left, right = (
        tuple(_worded(term, {**theirs, **ours}) for term in side)
        for side, ours, theirs in zip(sides, words, reversed(words), strict=True)
    )
    return replace(rule, left=left, right=right, columns=replace(rule.columns, left=columns[0], right=columns[1]))


def _worded(term: Term, words: Mapping[str, tuple[str, ...]]) -> Term:
    """The term with `{n}` as a choice where the rule has words for `n`."""
    if isinstance(term, str) or not words.keys() & set(term.indices):
        return term

    def part(p: Part) -> Part:
        bare = isinstance(p, Index) and p.variable in words and (p.factor, p.shift) == (1, 0)
        return Choice(p.variable, words[p.variable]) if bare and isinstance(p, Index) else p

    segments: list[Segment] = [s if isinstance(s, str) else tuple(map(part, s)) for s in term.segments]
    return NamePattern(tuple(segments))
