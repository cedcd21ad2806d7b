"""What differs in values, to look at and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import ceil, floor, isfinite, log2
from typing import TYPE_CHECKING, Any

from ckptmap.patterns import Pattern, group
from ckptmap.report.document import Row, Section, count_text
from ckptmap.values.moved import Cell, cells, summary, together

if TYPE_CHECKING:
    from ckptmap.values.compare import TensorValues
    from ckptmap.values.statistics import Statistics
    from ckptmap.values.values import Values

COLUMNS = ("tensor", "max |Δ|", "mean |Δ|", "relative L2", "cosine", "changed", "remark", "count")
HEAT = "▁▂▃▄▅▆▇█"
EQUAL, ABSENT = "·", " "
MOST_LAYERS = 60
"""Layers that stand beside each other on a line; of more, neighbours share a place."""


def values_sections(values: Values, *, every: bool = False) -> tuple[Section, ...]:
    """What differs, by pattern, then where in the layers."""
    differing = values.differing
    rows = _every(differing) if every else _by_pattern(differing)
    elements = sum(one.statistics.elements for one in differing if one.statistics)
    changed = sum(one.statistics.changed for one in differing if one.statistics)
    heading = f"values differ: {count_text(len(differing), 'tensor')}, {changed:,} of their {elements:,} elements"
    aside = Section(
        "set aside by the rules, and not compared",
        tuple((key, side) for side, key in values.set_aside),
        ("tensor", "side"),
    )
    sections = (Section(heading, rows, COLUMNS, "changed"), *_heat(cells(values)), aside)
    return tuple(section for section in sections if section.rows)


def values_json(values: Values) -> dict[str, Any]:
    """The `values` of `ckptmap diff --format json`, described in docs/json.md."""
    return {
        "differ": bool(values),
        "summary": summary(values),
        "compared": len(values.tensors),
        "same_bits": sum(one.same_bits for one in values.tensors),
        "atol": values.atol,
        "rtol": values.rtol,
        "fetched": values.fetched,
        "tensors": [_tensor_json(one) for one in values.tensors if not one.same_bits],
        "layers": [
            {
                "stack": cell.stack,
                "layer": cell.layer,
                "module": cell.module,
                "tensors": cell.tensors,
                "differing": cell.differing,
                "statistics": cell.statistics and statistics_json(cell.statistics),
            }
            for cell in cells(values)
        ],
        "set_aside": [{"side": side, "tensor": key} for side, key in values.set_aside],
    }


def statistics_json(found: Statistics) -> dict[str, Any]:
    """How far two tensors are apart; null for what is not defined or no number of JSON."""
    return {
        "elements": found.elements,
        "finite": found.finite,
        "changed": found.changed,
        "beyond": found.beyond,
        "max_abs": _number(found.max_abs) if found.finite else None,
        "mean_abs": _number(found.mean_abs),
        "relative_l2": _number(found.relative_l2),
        "cosine": _number(found.cosine),
    }


def _tensor_json(one: TensorValues) -> dict[str, Any]:
    return {
        "name": one.name,
        "left": one.left,
        "right": one.right,
        "same_numbers": one.same_numbers,
        "statistics": one.statistics and statistics_json(one.statistics),
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _every(tensors: Iterable[TensorValues]) -> tuple[Row, ...]:
    return tuple((one.name, *_cells([one]), "") for one in tensors)


def _by_pattern(tensors: Sequence[TensorValues]) -> tuple[Row, ...]:
    by_name = {one.name: one for one in tensors}
    traits = {name: (one.shape, one.left, one.right, one.same_numbers) for name, one in by_name.items()}
    rows = []
    for pattern in group(by_name, traits):
        count = f"×{len(pattern)}" if len(pattern) > 1 else ""
        rows.append((str(pattern), *_cells([by_name[name] for name in _names(pattern)]), count))
    return tuple(rows)


def _names(pattern: Pattern) -> list[str]:
    return [".".join(words) for words in product(*pattern.segments)]


def _cells(tensors: Sequence[TensorValues]) -> Row:
    """The statistics of tensors as of one, in words that need no head of a table."""
    first, found = tensors[0], together(tensors)
    dtypes = f"{first.left} -> {first.right}" if first.left != first.right else ""
    if found is None:
        return ("", "", "", "", "", f"{dtypes}: cannot be compared as numbers")
    remarks = [dtypes] if dtypes else []
    if not found.changed:
        remarks.append("equal as numbers")
    elif found.not_finite:
        remarks.append(f"{found.not_finite:,} NaN or infinite")
    numbers = found.finite and found.changed
    return (
        f"max {found.max_abs:.3g}" if numbers else "",
        f"mean {found.mean_abs:.3g}" if numbers else "",
        _text("L2", found.relative_l2) if numbers else "",
        _text("cos", found.cosine, digits=6) if numbers else "",
        _share(found),
        ", ".join(remarks),
    )


def _text(label: str, value: float | None, digits: int = 3) -> str:
    return f"{label} –" if value is None else f"{label} {value:.{digits}g}"


def _share(found: Statistics) -> str:
    """How much changed: `3 elements`, then `12%`, and all of it only when it is."""
    if found.changed < 10 or found.changed == found.elements:
        return "all" if found.changed == found.elements else count_text(found.changed, "element")
    return f"{min(100 * found.changed_share, 99.9):.3g}%"


def _heat(found: Iterable[Cell]) -> list[Section]:
    """For each stack of layers, a line for each module and a place in it for each layer."""
    stacks: dict[str, dict[str, dict[int, Cell]]] = {}
    for cell in found:
        if cell.layer is not None:
            stacks.setdefault(cell.stack, {}).setdefault(cell.module, {})[cell.layer] = cell
    sections = []
    for stack, modules in stacks.items():
        layers = sorted({layer for row in modules.values() for layer in row})
        most = max((_distance(cell) for row in modules.values() for cell in row.values()), default=0.0)
        if len(layers) < 2 or not any(cell.differing for row in modules.values() for cell in row.values()):
            continue
        together_ = ceil(len(layers) / MOST_LAYERS)
        shared = f", {together_} in a place" if together_ > 1 else ""
        heading = f"layers {layers[0]} to {layers[-1]} of {stack or 'the list'}{shared}"
        heading += f": {HEAT[-1]} is a relative L2 of {most:.3g}, a step down half of it, {EQUAL} equal"
        places = [layers[start : start + together_] for start in range(0, len(layers), together_)]
        rows = tuple(
            (module or "(itself)", "".join(_shade([row[n] for n in place if n in row], most) for place in places))
            for module, row in modules.items()
        )
        sections.append(Section(heading, rows, ("module", "layers"), "plain"))
    return sections


def _distance(cell: Cell) -> float:
    """A relative L2; one that is not defined, or that no number tells, counts as none."""
    return (cell.statistics.relative_l2 or 0.0) if cell.statistics else 0.0


def _shade(found: Sequence[Cell], most: float) -> str:
    if not found:
        return ABSENT
    if not any(cell.differing for cell in found):
        return EQUAL
    distance = max(map(_distance, found))
    if not distance:
        return HEAT[0]
    return HEAT[max(0, len(HEAT) - 1 + floor(log2(distance / most) + 0.5))]
