"""Quantized checkpoints: several stored tensors stand for one weight, in shapes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptmap.heads.rules import Shape

COMPANIONS = (
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_scale_2",
    "weight_zero_point",
    "weight_g_idx",
    "weight_shape",
    "weight_global_scale",
    "input_scale",
    "input_global_scale",
    "output_scale",
    "activation_scale",
    "k_scale",
    "v_scale",
    "SCB",
    "weight_format",
)
"""Last segments of the names under which quantizers store a weight and what goes with it.

Source: transformers 5.23.0, `quantizers/` and `integrations/` (GPTQ, AWQ, bitsandbytes, compressed-tensors, fp8).
"""

BESIDE_WEIGHT = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.")
"""What bitsandbytes appends to a weight's own name."""


def fold_companions(
    shapes: Mapping[str, Shape], method: Mapping[str, Any]
) -> tuple[Mapping[str, Shape | None], tuple[str, ...]]:
    """One name for each weight, and the sentence that says what was done.

    A weight with companions gets the shape None: what is stored of it may be packed, or parted by groups.
    """
    folded: dict[str, Shape | None] = dict(shapes)
    count = 0
    for name in shapes:
        owner, _, last = name.rpartition(".")
        mark = next((mark for mark in BESIDE_WEIGHT if mark in name), None)
        if last in COMPANIONS:
            weight = f"{owner}.weight"
        elif mark is not None:
            weight = name.partition(mark)[0]
        else:
            continue
        del folded[name]
        folded[weight] = None
        count += 1
    kind = method.get("quant_method", "unknown")
    note = (
        f"quantized ({kind}): {count} companion tensors were folded into the weights they belong to, and shapes of "
        "quantized weights are not checked"
    )
    return folded, (note,)
