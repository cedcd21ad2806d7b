"""How far values moved, as page data: heat maps of layers and modules, and what to say of each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptmap.report.html.heads import section_json
from ckptmap.report.values import COLUMNS, values_json, values_sections

if TYPE_CHECKING:
    from ckptmap.values.values import Values

APART = "≠"
"""What a cell shows that differs and has no distance: in bits only, or where nothing can be measured."""

Cells = dict[str, float | str]


def heat_maps(values: Values) -> list[dict[str, Any]]:
    """For each stack of layers what moved in it, by layer and module; then what is in no layer."""
    stacks: dict[str, dict[int, Cells]] = {}
    outside: dict[str, Cells] = {}
    for cell in values_json(values)["layers"]:
        if cell["layer"] is None:
            outside[cell["module"]] = {"distance": _distance(cell)}
        else:
            layers = stacks.setdefault(cell["stack"], {})
            layers.setdefault(cell["layer"], {})[cell["module"] or "(itself)"] = _distance(cell)
    maps = {
        f"How far values moved in {stack or 'the list'}": {f"layer {n}": layers[n] for n in sorted(layers)}
        for stack, layers in stacks.items()
    }
    maps["How far values moved outside the layers"] = outside
    equal = "equal within the tolerance" if values.has_tolerance else "equal bit for bit"
    note = f"Relative L2 of what differs; 0 is {equal}, {APART} differs without a distance."
    return [
        _heat_map(title, rows, note) for title, rows in maps.items() if any(any(row.values()) for row in rows.values())
    ]


def value_tables(values: Values) -> list[dict[str, Any]]:
    """What differs, by pattern, and parts that nothing was compared with; the layers are on the heat maps."""
    return [section_json(one) for one in values_sections(values) if one.columns == COLUMNS or one.tone == "changed"]


def said_of_tensors(values: Values) -> dict[str, str]:
    """For each tensor that was compared, what its values are to each other."""
    other = {one["name"]: _sentence(one) for one in values_json(values)["tensors"]}
    return {one.name: other.get(one.name, "every bit is equal") for one in values.tensors}


def _heat_map(title: str, rows: dict[str, Cells], note: str) -> dict[str, Any]:
    columns = list(dict.fromkeys(module for row in rows.values() for module in row))
    return {
        "title": title,
        "unit": "relative L2",
        "note": note,
        "rows": list(rows),
        "columns": columns,
        "cells": [[row.get(column) for column in columns] for row in rows.values()],
    }


def _distance(cell: dict[str, Any]) -> float | str:
    if not cell["differing"]:
        return 0
    return (cell["statistics"] or {}).get("relative_l2") or APART


def _sentence(one: dict[str, Any]) -> str:
    found = one["statistics"]
    if found is None:
        return "values cannot be compared as numbers"
    if one["same_numbers"]:
        return "other bits, the same numbers"
    words = [f"{found['changed']:,} of {found['elements']:,} elements changed"]
    for field, label in (("max_abs", "max |Δ|"), ("relative_l2", "relative L2"), ("cosine", "cosine")):
        if found[field] is not None:
            words.append(f"{label} {found[field]:.4g}")
    return ", ".join(words)
