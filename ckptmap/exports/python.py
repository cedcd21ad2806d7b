"""One Python file with a function for each way; it needs torch and nothing else."""

from __future__ import annotations

import re
from math import prod
from typing import Any

from ckptmap.exports.cases import Case, cases_of, with_numbers
from ckptmap.exports.code import loop, safe, title_of
from ckptmap.exports.proof import base_of, coded, require
from ckptmap.printable import printable
from ckptmap.rules.compiled import LaidEnd, Place
from ckptmap.rules.names import Index, NamePattern
from ckptmap.rules.plan import Plan, Sizes
from ckptmap.rules.rules import SIDES

HEAD = '''"""Converts state dicts, made by ckptmap from {title}.

left_to_right(tensors) and right_to_left(tensors) take and return a dict of tensors; every bit survives.
"""

import torch


def left_to_right(tensors, base=None):
    """The right side of a left state dict; `base` is a right one, for what has no source."""
{left_to_right}

def right_to_left(tensors, base=None):
    """The left side of a right state dict; `base` is a left one, for what has no source."""
{right_to_left}

def _take(tensors, name, *shape):
    if name not in tensors:
        raise KeyError(f"{{name}} is missing")
    if tuple(tensors[name].shape) != shape:
        raise ValueError(f"{{name}} is {{list(tensors[name].shape)}}, expected {{list(shape)}}")
    return tensors.pop(name)


def _base(base, name, *shape):
    if base is None or name not in base:
        raise KeyError(f"nothing gives all of {{name}}; pass a state dict that has it as `base`")
    return _take(dict(base), name, *shape)


def _cat(parts, axis):
    if len({{part.dtype for part in parts}}) > 1:
        raise ValueError(f"parts of one tensor have different dtypes: {{[part.dtype for part in parts]}}")
    return torch.cat(parts, axis)


def _bits(tensor):
    return _own(tensor.detach()).reshape(-1).view(torch.uint8)


def _own(tensor):
    return tensor.clone(memory_format=torch.contiguous_format)


def _once(tensor, axis, name):
    first = tensor.narrow(axis, 0, 1)
    if not torch.equal(_bits(torch.cat([first] * tensor.shape[axis], axis)), _bits(tensor)):
        raise ValueError(f"{{name}}: its repeated values are not all the same")
    return first


def _zero(tensor, name):
    if _bits(tensor).any():
        raise ValueError(f"{{name}}: its padding is not zero")


def _put(tensors, name, tensor):
    if name in tensors and not torch.equal(_bits(tensors[name]), _bits(tensor)):
        raise ValueError(f"{{name}}: two tensors that must be equal are not")
    tensors[name] = tensor


def _end(tensors):
    if tensors:
        raise ValueError(f"no rule covers {{', '.join(sorted(tensors))}}")
'''


def export(plan: Plan) -> str:
    """The file, once it has done what the rules do, both ways.

    Raises:
        ExportError: It has not.
    """
    cases = cases_of(plan)
    text = HEAD.format(
        title=title_of(plan),
        left_to_right=_function(cases, plan, 0),
        right_to_left=_function(cases, plan, 1),
    )
    functions: dict[str, Any] = {}
    exec(compile(text, "<export>", "exec"), functions)
    for way, one in (("left_to_right", plan), ("right_to_left", plan.inverse())):
        state, wanted = coded(one)
        require(functions[way](state, base_of(one)), wanted, "python", way.replace("_", " "))
    return text


def _function(cases: list[Case], plan: Plan, reads: int) -> str:
    """The body of one function: rule by rule."""
    source, target = SIDES[reads], SIDES[1 - reads]
    ties = (plan.left_ties, plan.right_ties)
    lines = [f"{source}, {target} = dict(tensors), {{}}"]
    for second, first in ties[reads]:
        lines += [f"if {second!r} in {source}:", f"    _put({source}, {first!r}, {source}.pop({second!r}))"]
    said = 0
    for case in cases:
        if case.line != said:
            lines += ["", f"# line {case.line}: {printable(case.text)}"]
        said = case.line
        lines += _Writer(case, reads).lines()
    lines += [""]
    lines += [f"{target}[{second!r}] = {target}[{first!r}]" for second, first in ties[1 - reads]]
    lines += [f"_end({source})", f"return {target}"]
    return "".join(f"    {line}\n" if line else "\n" for line in lines)


class _Writer:
    """Writes what one case does in one way."""

    def __init__(self, case: Case, reads: int) -> None:
        self._case, self._reads, self._writes = case, reads, 1 - reads
        self._parts = _parts(case)

    def lines(self) -> list[str]:
        """Its lines, loops and all."""
        lines, depth = [], 0
        for variable, numbers in self._case.loops.items():
            lines.append("    " * depth + f"{loop(variable, numbers)}:")
            depth += 1
        return [*lines, *("    " * depth + line for line in [*self._takes(), *self._checks(), *self._puts()])]

    def _takes(self) -> list[str]:
        """Each tensor is taken once, a stack of them as a list."""
        lines: list[str] = []
        seen: dict[NamePattern, int] = {}
        for term, pattern in enumerate(self._case.sides[self._reads]):
            if not isinstance(pattern, NamePattern):
                continue
            if pattern in seen:
                lines.append(f"x{term} = x{seen[pattern]}")
                continue
            seen[pattern] = term
            shape = self._case.layout.shapes[self._reads][term]
            value = f"_take({', '.join([SIDES[self._reads], self._name(self._reads, term), *map(str, shape)])})"
            stack = self._case.stack_of(self._reads, term)
            loops = " ".join(f"for {safe(v)} in range({self._case.lengths[v]})" for v in stack)
            lines.append(f"x{term} = [{value} {loops}]" if stack else f"x{term} = {value}")
        return lines

    def _checks(self) -> list[str]:
        """Padding is verified where it is read."""
        lines = []
        for part in self._parts:
            read, write = part.ends(self._reads)
            if isinstance(read, Place) and write == "zeros":
                loops = [f"for {safe(v)} in range({n}):" for v, n in part.loops]
                lines += ["    " * depth + loop for depth, loop in enumerate(loops)]
                value, _ = self._read(part, read)
                lines.append("    " * len(loops) + f"_zero({value}, {self._name(self._reads, read.term)})")
        return lines

    def _puts(self) -> list[str]:
        lines = []
        target = SIDES[self._writes]
        patterns = self._case.sides[self._writes]
        for term, pattern in enumerate(patterns):
            if not isinstance(pattern, NamePattern):
                continue
            stack = self._case.stack_of(self._writes, term)
            loops = [f"for {safe(v)} in range({self._case.lengths[v]}):" for v in stack]
            name = self._name(self._writes, term)
            mine = [part for part in self._parts if _is_of(part.ends(self._reads)[1], term)]
            inner = []
            if all(part.ends(self._reads)[0] == "none" for part in mine):
                inner = [f"if base is not None and {name} in base:"]
                inner += [f"    {target}[{name}] = {self._whole_base(term)}"]
            else:
                value = self._assembled(mine, term)
                twice = patterns.count(pattern) > 1
                inner = [f"_put({target}, {name}, {value})" if twice else f"{target}[{name}] = {value}"]
            lines += ["    " * depth + loop for depth, loop in enumerate(loops)]
            lines += ["    " * len(loops) + line for line in inner]
        return lines

    def _assembled(self, parts: list[_Part], term: int) -> str:
        """The expression of a whole tensor: parts end to end, each of them stacked along the axes that names count."""
        shape = self._case.layout.shapes[self._writes][term]
        stack = self._case.stack_of(self._writes, term)
        pieces = []
        for part in parts:
            end = part.ends(self._reads)[1]
            assert isinstance(end, Place)
            value, size = self._block(part, end, parts)
            moves = [(*_stride(part, self._writes, v), v, n) for v, n in part.loops if v not in stack and n > 1]
            for along, _, v, n in sorted(moves, key=lambda move: move[1]):  # the innermost first
                value = f"_cat([{value} for {safe(v)} in range({n})], {along})"
                size = _with(size, along, size[along] * n)
            pieces.append((end, value, size))
        if len(pieces) == 1:
            ((_, value, size),) = pieces
        else:
            # The axis of the sum, which is the one that none of its blocks fills.
            (axis,) = {at for end, _, size in pieces for at, n in enumerate(size) if n != end.view[at]}
            value = f"_cat([{', '.join(value for _, value, _ in pieces)}], {axis})"
            size = _with(pieces[0][2], axis, sum(size[axis] for _, _, size in pieces))
        # A view would share memory with its source, which files of safetensors may not.
        value += _reshape(size, shape)
        return value if re.fullmatch(r"x\d+", value) or value.startswith("_cat(") else f"_own({value})"

    def _block(self, part: _Part, write: Place, siblings: list[_Part]) -> tuple[str, Sizes]:
        """The expression of one block as it lies in its tensor, and its shape there."""
        read, _ = part.ends(self._reads)
        lengths = {axis: length for axis, _, length in write.narrow}
        size = tuple(lengths.get(axis, length) for axis, length in enumerate(write.view))
        if read == "zeros":
            one = self._like([*siblings, *self._parts]) or self._whole_base(write.term)
            return f"torch.zeros({size}, dtype={one}.dtype, device={one}.device)", size
        if read == "none":
            shape = self._case.layout.shapes[self._writes][write.term]
            value = self._whole_base(write.term) + _reshape(shape, write.view)
            return value + self._narrow(part, self._writes, write), size
        value, shape = self._read(part, read)
        order = [read.order[write.order.index(at)] for at in range(len(write.order))]
        if order != list(range(len(order))):
            value += f".permute({', '.join(map(str, order))})"
        shape = tuple(shape[at] for at in order)
        for at, (have, want) in enumerate(zip(shape, write.split, strict=True)):
            if have != want:
                value = f"torch.cat([{value}] * {want}, {at})"
                shape = _with(shape, at, want)
        return value + _reshape(shape, size), size

    def _like(self, parts: list[_Part]) -> str:
        """A tensor that tells dtype and device."""
        for part in parts:
            if isinstance(read := part.ends(self._reads)[0], Place):
                return f"x{read.term}[0]" if self._case.stack_of(self._reads, read.term) else f"x{read.term}"
        return ""

    def _whole_base(self, term: int) -> str:
        shape = self._case.layout.shapes[self._writes][term]
        return f"_base({', '.join(['base', self._name(self._writes, term), *map(str, shape)])})"

    def _name(self, side: int, term: int) -> str:
        """The name of a term as a Python string; an index that is 0 alone is written out."""
        pattern = self._case.sides[side][term]
        assert isinstance(pattern, NamePattern)
        return _text(with_numbers(pattern, {v: 0 for v, n in self._case.lengths.items() if n == 1}))

    def _read(self, part: _Part, read: Place) -> tuple[str, Sizes]:
        """The expression of a block in its own order, with one position of repeated axes."""
        stack = self._case.stack_of(self._reads, read.term)
        value = f"x{read.term}"
        if stack:
            place = ""
            for v in stack:
                number = safe(v) if self._case.lengths[v] > 1 else "0"
                place = f"({place}) * {self._case.lengths[v]} + {number}" if place else number
            value += f"[{place}]"
        shape = self._case.layout.shapes[self._reads][read.term]
        if read.narrow:
            value += _reshape(shape, read.view) + self._narrow(part, self._reads, read)
            lengths = {axis: length for axis, _, length in read.narrow}
            shape = tuple(lengths.get(axis, length) for axis, length in enumerate(read.view))
        value += _reshape(shape, read.split)
        shape = read.split
        for at in read.repeated:
            axis = read.order[at]
            value = f"_once({value}, {axis}, {self._name(self._reads, read.term)})"
            shape = _with(shape, axis, 1)
        return value, shape

    def _narrow(self, part: _Part, side: int, end: Place) -> str:
        """The steps to a block, their starts counted by the indices that stand in names of the other side."""
        text = ""
        for axis, start, length in end.narrow:
            steps = [str(start)] if start else []
            for v, n in part.loops:
                moved, step = _stride(part, side, v) if n > 1 else (0, 0)
                if step and moved == axis:
                    steps.append(safe(v) if step == 1 else f"{safe(v)} * {step}")
            text += f".narrow({axis}, {' + '.join(steps) or 0}, {length})"
        return text


class _Part:
    """The k-th block of both sides, for all numbers of the indices that stand in names of one side only."""

    def __init__(self, blocks: list[tuple[Sizes, LaidEnd, LaidEnd]], loops: tuple[tuple[str, int], ...]) -> None:
        self.blocks, self.loops = blocks, loops

    def ends(self, reads: int) -> tuple[LaidEnd, LaidEnd]:
        """Where it is read and written, for the first of these numbers."""
        _, left, right = self.blocks[0]
        return (right, left) if reads else (left, right)


def _parts(case: Case) -> list[_Part]:
    """The blocks of a layout, those of one part together."""
    blocks = list(case.layout.blocks)
    parts = []
    for left, right in zip(case.rule.parts(0), case.rule.parts(1), strict=True):
        variables = (*case.stack_of(0, left.term), *case.stack_of(1, right.term))
        loops = tuple((v, case.lengths[v]) for v in variables)
        count = prod(n for _, n in loops)
        parts.append(_Part(blocks[:count], loops))
        del blocks[:count]
    return [part for part in parts if part.blocks]


def _stride(part: _Part, side: int, variable: str) -> tuple[int, int]:
    """Along which axis a part moves on a side when an index counts one further, and how far; nowhere is 0, 0."""
    step = 1
    for v, n in reversed(part.loops):
        if v == variable:
            break
        step *= n
    first, second = (block[2] if side else block[1] for block in (part.blocks[0], part.blocks[step]))
    if not isinstance(first, Place) or not isinstance(second, Place):
        return 0, 0
    for (axis, start, _), (_, further, _) in zip(first.narrow, second.narrow, strict=True):
        if further != start:
            return axis, further - start
    return 0, 0


def _is_of(end: LaidEnd, term: int) -> bool:
    return isinstance(end, Place) and end.term == term


def _with(shape: Sizes, axis: int, size: int) -> Sizes:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _reshape(have: Sizes, want: Sizes) -> str:
    return "" if have == want else f".reshape({', '.join(map(str, want)) or '()'})"


def _text(pattern: NamePattern) -> str:
    """The name as a Python string."""
    text, formatted = "", False
    for number, segment in enumerate(pattern.segments):
        text += "." if number else ""
        for part in segment:
            if isinstance(part, Index):
                formatted = True
                text += str(Index(safe(part.variable), part.factor, part.shift))
            else:
                text += str(part).replace("{", "{{").replace("}", "}}")
    return f"f{text!r}" if formatted else repr(text.replace("{{", "{").replace("}}", "}"))
