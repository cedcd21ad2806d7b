"""A Python file of weight conversions: `from_pretrained` loads the left side, `save_pretrained` writes it again."""

from __future__ import annotations

from typing import Any

from ckptmap.exports.cases import Case, cases_of
from ckptmap.exports.code import loop, safe, title_of
from ckptmap.exports.loading import of_names, require_loads, source_pattern, target_pattern, touched
from ckptmap.exports.names import Refusal, homeless, in_order, refuse, renamings, twice, unplain
from ckptmap.printable import printable
from ckptmap.rules.compiled import LaidEnd, Layout, Place
from ckptmap.rules.names import Index, NamePattern
from ckptmap.rules.plan import Plan, Sizes

INSTEAD = "--to python says everything; `ckptmap convert` writes a checkpoint that needs no conversion."

HEAD = '''"""Weight conversions between a checkpoint and a transformers model, made by ckptmap from {title}.

Call register with the name of the model's class, then from_pretrained reads such checkpoints and save_pretrained
writes them. Names of the model are those of its state_dict().
"""

{torch}from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import {imports}


def register(class_name):
    """Make transformers use these conversions for a class, in place of its own."""
    register_checkpoint_conversion_mapping(class_name, CONVERSIONS, overwrite=True)

{rearrange}
CONVERSIONS = [
{conversions}]
'''

REARRANGE = '''
class Rearrange(ConversionOps):
    """Blocks of tensors that lie otherwise on the other side.

    Of each tensor: whether one for each number is stacked, and its shape. Of each block, on both sides: which tensor,
    and the steps to the block, which are reshape, narrow, reshape, permute, and the axes along which values repeat.
    """

    supports_many_to_many = True

    def __init__(self, sources, targets, blocks):
        self.sources, self.targets, self.blocks = sources, targets, blocks

    @torch.no_grad()
    def convert(self, input_dict, source_patterns, target_patterns, **kwargs):
        tensors = []
        for pattern, (stacked, _) in zip(source_patterns, self.sources):
            found = input_dict[pattern] if isinstance(input_dict[pattern], list) else [input_dict[pattern]]
            tensors.append(torch.stack(found) if stacked else found[0])
        made = [tensors[0].new_empty(shape) for _, shape in self.targets]
        for (source, *there), (target, *here) in self.blocks:
            block = self._block(tensors[source], *there)
            for axis in there[-1]:
                first = block.narrow(axis, 0, 1)
                if not torch.equal(block, first.expand_as(block)):
                    raise ValueError(f"{source_patterns[source]}: its repeated values are not all the same")
                block = first
            self._block(made[target], *here).copy_(block)
        result = {}
        for pattern, (stacked, _), tensor in zip(target_patterns, self.targets, made):
            if stacked:
                result.update((pattern.replace("*", str(n)), part.clone()) for n, part in enumerate(tensor))
            else:
                result[pattern] = tensor
        return result

    @staticmethod
    def _block(tensor, view, narrow, split, order, repeated):
        tensor = tensor.reshape(view)
        for axis, start, length in narrow:
            tensor = tensor.narrow(axis, start, length)
        return tensor.reshape(split).permute(order)

    @property
    def reverse_op(self):
        return Rearrange(self.targets, self.sources, [(right, left) for left, right in self.blocks])

'''


def export(plan: Plan) -> str:
    """The file, once transformers has loaded and saved by it.

    Raises:
        ExportError: Something cannot be said.
    """
    cases = cases_of(plan)
    refusals = [*homeless(plan), *twice(plan)]
    for case in cases:
        refusals += [*unplain(case), *_unsaid(case)]
    refuse("transformers", refusals, INSTEAD)
    renamed, converted = _sorted_out(cases)
    lines = [*renamed, *(line for case in converted for line in _converter(case))]
    body = "".join(f"    {line}\n" for line in lines)
    own = "Rearrange(" in body
    ops = {op for case in converted for op in _operations(case)[0]} | ({"ConversionOps"} if own else set())
    kinds = {kind for kind in ("WeightConverter", "WeightRenaming") if f"{kind}(" in body}
    text = HEAD.format(
        title=title_of(plan),
        torch="import torch\n" if own else "",
        imports=", ".join(sorted(kinds | ops)) or "WeightRenaming",
        rearrange=REARRANGE if own else "",
        conversions=body,
    )
    require_loads(_executed(text), plan, "transformers")
    return text


def _executed(text: str) -> list[Any]:
    names: dict[str, Any] = {"__name__": "ckptmap_export"}
    exec(compile(text, "<export>", "exec"), names)
    conversions: list[Any] = names["CONVERSIONS"]
    return conversions


def _unsaid(case: Case) -> list[Refusal]:
    """What even a conversion of our own cannot say, since transformers matches names before it is asked."""
    found = []
    for side in (0, 1):
        patterns = [term for term in case.sides[side] if isinstance(term, NamePattern)]
        if len(set(patterns)) < len(patterns):
            found.append(Refusal(case.line, "it names one tensor twice, and transformers gives a tensor to one rule."))
        for term, pattern in enumerate(case.sides[side]):
            stack = case.stack_of(side, term)
            if len(stack) > 1:
                found.append(
                    Refusal(case.line, f"{pattern} is stacked along two indices, and one is all there can be.")
                )
            elif stack and isinstance(pattern, NamePattern) and not _ends_segment(pattern, stack[0]):
                found.append(Refusal(case.line, f"the number {{{stack[0]}}} in {pattern} is not followed by a dot."))
    return found


def _ends_segment(pattern: NamePattern, variable: str) -> bool:
    places = [s for s in pattern.segments if any(isinstance(p, Index) and p.variable == variable for p in s)]
    last = places[0][-1]
    plain = isinstance(last, Index) and (last.variable, last.factor, last.shift) == (variable, 1, 0)
    return len(places) == 1 and plain and places[0] is not pattern.segments[-1]


def _sorted_out(cases: list[Case]) -> tuple[list[str], list[Case]]:
    """Renamings as lines, and cases that become converters: layouts, and names that renamings would hand on."""
    converted = [case for case in cases if case.pairs is None]
    while True:
        entries = [
            (entry, case) for case in cases if case not in converted for entry in touched(renamings(case, captured=1))
        ]
        names = [(dict(entry.names).keys(), dict(entry.names).values()) for entry, _ in entries]
        placed, stuck = in_order(names, [of_names(case) for case in converted])
        if not stuck:
            break
        converted += [case for case in cases if any(case is entries[at][1] for at in stuck)]
    lines, said = [], 0
    for entry, case in (entries[at] for at in placed):
        if entry.line != said:
            lines.append(f"# line {entry.line}: {printable(case.text)}")
        said = entry.line
        lines.append(f'WeightRenaming(r"{source_pattern(entry.left)}", r"{target_pattern(entry.right)}"),')
    return lines, converted


def _converter(case: Case) -> list[str]:
    """A converter for every choice of the shared indices."""
    names = []
    for side in (0, 1):
        patterns = (_converter_name(case, side, term) for term in range(len(case.sides[side])))
        names.append(f"[{', '.join(patterns)}]")
    lines = [f"# line {case.line}: {printable(case.text)}"]
    operations = f"[{', '.join(_operations(case)[1])}]".splitlines()
    call = ["WeightConverter(", *(f"    {part}," for part in names), *(f"    {line}" for line in operations), ")"]
    call[-2] += ","
    if not case.loops:
        return [*lines, *call[:-1], "),"]
    loops = [loop(v, numbers) for v, numbers in case.loops.items()]
    return [*lines, "*(", *(f"    {line}" for line in [*call, *loops]), "),"]


def _converter_name(case: Case, side: int, term: int) -> str:
    """A name as a Python string: shared indices are written out by a loop, a stacked one is `*`."""
    pattern = case.sides[side][term]
    assert isinstance(pattern, NamePattern)
    stack = case.stack_of(side, term)
    text, formatted = "^", False
    for number, segment in enumerate(pattern.segments):
        after_stack = text.endswith("*")
        text += ("." if after_stack else r"\.") if number else ""
        for part in segment:
            if isinstance(part, Index) and part.variable in stack:
                text += "*"
            elif isinstance(part, Index):
                text, formatted = text + str(Index(safe(part.variable), part.factor, part.shift)), True
            else:
                text += str(part)
    return f'{"rf" if formatted else "r"}"{text}"'


def _operations(case: Case) -> tuple[set[str], list[str]]:
    """What to import, and what to call: transformers' own operations where they do, else one of ours."""
    layout = case.merged()
    stacked = [any(case.stack_of(side, term) for term in range(len(case.sides[side]))) for side in (0, 1)]
    whole = [all(case.stack_of(side, term) for term in range(len(case.sides[side]))) for side in (0, 1)]
    if stacked == whole and not all(stacked) and (own := _known(case, layout)) is not None:
        merge = ["MergeModulelist(dim=0)"] if stacked[0] else []
        split = ["SplitModulelist(dim=0)"] if stacked[1] else []
        calls = [*merge, *own, *split]
        if calls:
            return {call.partition("(")[0] for call in calls}, calls
    sides = [
        [(bool(case.stack_of(side, term)), shape) for term, shape in enumerate(layout.shapes[side])] for side in (0, 1)
    ]
    blocks = [(_steps(left), _steps(right)) for _, left, right in layout.blocks]
    rows = "".join(f"        {block},\n" for block in blocks)
    return set(), [f"Rearrange(\n    {sides[0]},\n    {sides[1]},\n    [\n{rows}    ],\n)"]


def _steps(end: LaidEnd) -> tuple[object, ...]:
    assert isinstance(end, Place)
    return end.term, end.view, end.narrow, end.split, end.order, end.repeated


def _known(case: Case, layout: Layout) -> list[str] | None:
    """The operation of transformers that does this, if there is one; none at all where stacking is all there is."""
    many = len(case.sides[0]), len(case.sides[1])
    if many == (1, 1):
        (_, left, right), *others = layout.blocks
        if others or not (_straight(left, layout.shapes[0][0]) and _straight(right, layout.shapes[1][0])):
            return None
        assert isinstance(left, Place) and isinstance(right, Place)
        order = [left.order[right.order.index(at)] for at in range(len(right.order))]
        moved = [at for at, other in enumerate(order) if at != other]
        if not moved:
            return []
        return [f"Transpose({moved[0]}, {moved[1]})"] if len(moved) == 2 else None
    one = 1 if many[1] == 1 else 0 if many[0] == 1 else None
    if one is None:
        return None
    axis = laid_end_to_end(layout, one)
    if axis is None:
        return None
    lengths = {shape[axis] for shape in layout.shapes[1 - one]}
    if one == 0:
        return [f"Chunk(dim={axis})" if len(lengths) == 1 else f"Split(dim={axis})"]
    return [f"Concatenate(dim={axis})"] if len(lengths) == 1 else None  # its reverse cuts equal parts only


def _straight(end: LaidEnd, shape: Sizes) -> bool:
    """Whether a block is a tensor with its dimensions, or a slice of it."""
    if not isinstance(end, Place) or end.view != shape or end.repeated:
        return False
    lengths = {axis: length for axis, _, length in end.narrow}
    return end.split == tuple(lengths.get(axis, length) for axis, length in enumerate(shape))


def laid_end_to_end(layout: Layout, one: int) -> int | None:
    """The axis along which whole tensors of one side make up the tensor of the other, in order."""
    axes = set()
    for number, (_, *ends) in enumerate(layout.blocks):
        whole, part = ends[1 - one], ends[one]
        if not isinstance(whole, Place) or not isinstance(part, Place) or whole.term != number or whole.narrow:
            return None
        straight = _straight(whole, layout.shapes[1 - one][number]) and _straight(part, layout.shapes[one][0])
        if not straight or whole.order != part.order or len(part.narrow) != 1:
            return None
        axes.add(part.narrow[0][0])
    return axes.pop() if len(axes) == 1 else None
