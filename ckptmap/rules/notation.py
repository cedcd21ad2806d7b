"""Reads shapes: `(kv r d) m`, `[q + k + v] m`, `1 o ...`, `scalar`."""

from __future__ import annotations

import re

from ckptmap.rules.shapes import ELLIPSIS, Axis, Block, Factor, Shape, Sum

_TOKEN = re.compile(r"\s*(?:(\.\.\.)|(\*?[A-Za-z_]\w*)|(1(?!\w))|([()\[\]+]))", re.ASCII)


class MisreadError(ValueError):
    """Text is not what should stand there.

    Args:
        column: Where, from 0.
        what: What is wrong and what to do.
    """

    def __init__(self, column: int, what: str) -> None:
        self.column = column
        super().__init__(what)


def read_shape(text: str, column: int = 0) -> Shape:
    """Read one shape.

    Raises:
        MisreadError: It is not one.
    """
    if not text:
        raise MisreadError(column, "a shape is missing. Write its axes, or `scalar` for none.")
    if text == "scalar":
        return Shape(())
    return _Reader(text, column).shape()


class _Reader:
    def __init__(self, text: str, column: int) -> None:
        self._tokens: list[tuple[int, str]] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                word = text[at:].split()[0]
                raise MisreadError(
                    column + at,
                    f"`{word}` is not part of a shape. Shapes are made of axis names, `1`, `(…)`, `[a + b]`, `...`; "
                    "lengths are told by `size` lines.",
                )
            self._tokens.append((column + found.start(found.lastindex or 0), found[found.lastindex or 0]))
            at = found.end()
        self._tokens.append((column + len(text), ""))
        self._at = 0

    @property
    def _next(self) -> str:
        return self._tokens[self._at][1]

    def _take(self, wanted: str = "") -> str:
        column, token = self._tokens[self._at]
        if wanted and token != wanted:
            raise MisreadError(column, f"`{wanted}` is missing here. Close what was opened.")
        self._at += 1
        return token

    def _fail(self, what: str) -> MisreadError:
        return MisreadError(self._tokens[self._at][0], what)

    def shape(self) -> Shape:
        dims: list[tuple[Factor, ...]] = []
        sums = 0
        while self._next:
            if self._next == ELLIPSIS:
                self._take()
                if self._next:
                    raise self._fail("`...` stands for the dimensions at the end. Put it last.")
                return Shape(tuple(dims), rest=True)
            start = self._tokens[self._at][0]
            dim = self._dim()
            sums += sum(isinstance(factor, Sum) for factor in dim)
            if sums > 1:
                raise MisreadError(start, "two sums in a shape. Split it into two rules, or give the axis one sum.")
            dims.append(dim)
        return Shape(tuple(dims))

    def _dim(self) -> tuple[Factor, ...]:
        if self._next == "1":
            self._take()
            return ()
        if self._next != "(":
            return (self._factor(),)
        self._take()
        factors: list[Factor] = []
        while self._next != ")":
            if self._next == "1":
                self._take()  # a factor of 1 changes nothing
                continue
            factors.append(self._factor())
        self._take(")")
        return tuple(factors)

    def _factor(self) -> Factor:
        if self._next == "[":
            self._take()
            blocks = [self._block()]
            while self._next == "+":
                self._take()
                blocks.append(self._block())
            self._take("]")
            return Sum(tuple(blocks))
        return self._axis()

    def _block(self) -> Block:
        if self._next == "1":
            self._take()
            return ()
        axes = [self._axis()]
        while self._next not in ("+", "]", ""):
            axes.append(self._axis())
        return tuple(axes)

    def _axis(self) -> Axis:
        token = self._next
        if not token or not (token[-1].isalnum() or token[-1] == "_") or token == "1":
            raise self._fail(
                f"an axis is missing before `{token}`."
                if token
                else "the shape ends too early. Close what was opened, and name its axes."
            )
        self._take()
        if token == "scalar":
            raise MisreadError(self._tokens[self._at - 1][0], "`scalar` stands alone. Name the axis otherwise.")
        return Axis(token.removeprefix("*"), token.startswith("*"))
