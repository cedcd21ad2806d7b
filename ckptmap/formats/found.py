"""The tensors that were found in an unpickled tree, and what a person should know of the finding."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ckptmap.errors import CheckpointError
from ckptmap.formats.pickled import Global, Made
from ckptmap.formats.torch_tensors import Tensor

_MAX_NAMES = 500_000
MAX_NAME = 4096
_MAX_NAME_TOTAL = 32_000_000
_MAX_VISITS = 2_000_000
_SHOWN = 5


@dataclass(slots=True)
class StateDict:
    """The chosen tensors by name, and what a person should know of the choice."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    left_out_counts: Counter[str] = field(default_factory=Counter)
    left_out_tensors: list[str] = field(default_factory=list)
    part: str | None = None
    holders: set[int] = field(default_factory=set)
    name_total: int = 0
    visits: int = 0
    number_names: bool = False

    def add(self, name: str, tensor: Tensor, source: str) -> None:
        self.count_name(name, source)
        if name in self.tensors:
            raise CheckpointError("two tensors would get this name", source=source, where=name)
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError:
                raise CheckpointError("a tensor's name is not valid text", source=source, where=repr(name)) from None
        self.tensors[name] = tensor

    def holds_tensors(self, node: object) -> bool:
        """Whether there is a tensor anywhere below a node that is no tensor itself."""
        return id(node) in self.holders

    def count_name(self, name: str, source: str) -> None:
        self.name_total += len(name)
        count = len(self.tensors) + len(self.left_out_tensors)
        if count >= _MAX_NAMES or self.name_total > _MAX_NAME_TOTAL or len(name) > MAX_NAME:
            raise CheckpointError(
                f"more than {_MAX_NAMES:,} tensors, or names too long to be meant", source=source, where=name[:80]
            )

    def leave_out(self, why: str, name: str) -> None:
        self.left_out_counts[why] += 1
        shown = self.left_out.setdefault(why, [])
        if len(shown) < _SHOWN:
            shown.append(name)

    def leave_out_tensors(self, value: object, name: str, source: str) -> None:
        """Remember the names of tensors that are not among `tensors`: those of a list each, else the value's own."""
        if not (type(value) is Tensor or self.holds_tensors(value) or _is_odd_tensor(value)):
            return
        listed = [index for index, item in enumerate(value) if type(item) is Tensor] if type(value) is list else []
        for left_out in (f"{name}.{index}" for index in listed) if listed else [name]:
            self.count_name(left_out, source)
            self.left_out_tensors.append(left_out)

    def visit(self, source: str, count: int = 1) -> None:
        self.visits += count
        if self.visits > _MAX_VISITS:
            raise CheckpointError("it refers to the same parts so often that no end is in sight", source=source)

    def all_notes(self) -> tuple[str, ...]:
        notes = list(self.notes)
        if self.number_names:
            notes.append("some names are numbers in the file; they are shown as text")
        notes += self.left_out_notes()
        return tuple(notes)

    def left_out_notes(self) -> list[str]:
        return [
            f"left out, {why}: {some(names, total=self.left_out_counts[why])}" for why, names in self.left_out.items()
        ]


def _is_odd_tensor(node: object) -> bool:
    """Whether torch makes a tensor of it: a quantized one, one of another device."""
    kind = node.kind if type(node) is Made else None
    return type(kind) is Global and kind.module in ("torch._utils", "torch._tensor") and "_rebuild_" in kind.name


def some(names: list[str], shown: int = _SHOWN, total: int | None = None) -> str:
    """The first of these names, and how many more there are."""
    listed = ", ".join(name[:120] for name in names[:shown])
    more = (len(names) if total is None else total) - shown
    return listed if more <= 0 else f"{listed} and {more} more"
