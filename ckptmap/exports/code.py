"""What all written Python has in common: a title, loops, and names that are safe to write."""

from __future__ import annotations

import keyword
from pathlib import Path

from ckptmap.rules.plan import Plan, Sizes

_TAKEN = {"left", "right", "base", "tensors", "torch", "range", "dict", "Rearrange"}
"""Words that written code uses itself; so do those that begin with `_` or `x`."""


def title_of(plan: Plan) -> str:
    """The rule file's name, such that it can stand in a docstring."""
    name = Path(plan.rules.path if plan.rules is not None and plan.rules.path else "rules").name
    return name.encode("unicode_escape").decode().replace("\\", "/").replace('"', "'")


def loop(variable: str, numbers: Sizes) -> str:
    """`for i in …`, without its colon."""
    plain = numbers == tuple(range(len(numbers)))
    return f"for {safe(variable)} in {f'range({len(numbers)})' if plain else numbers}"


def safe(variable: str) -> str:
    """A Python name for an index."""
    taken = keyword.iskeyword(variable) or variable in _TAKEN or variable.startswith(("_", "x"))
    return f"{variable}_" if taken else variable
