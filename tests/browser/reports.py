"""Checkpoints whose reports are looked at."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]


def llama(layers: int) -> Shapes:
    """Names and shapes as transformers has them."""
    found: Shapes = {"model.embed_tokens.weight": (101, 48)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        found |= {
            f"{start}self_attn.q_proj.weight": (48, 48),
            f"{start}self_attn.k_proj.weight": (16, 48),
            f"{start}self_attn.v_proj.weight": (16, 48),
            f"{start}self_attn.o_proj.weight": (48, 48),
            f"{start}mlp.gate_proj.weight": (80, 48),
            f"{start}mlp.up_proj.weight": (80, 48),
            f"{start}mlp.down_proj.weight": (48, 80),
            f"{start}input_layernorm.weight": (48,),
            f"{start}post_attention_layernorm.weight": (48,),
        }
    return found | {"model.norm.weight": (48,), "lm_head.weight": (101, 48)}


def meta(layers: int) -> Shapes:
    """The same model, as its authors have it."""
    found: Shapes = {"tok_embeddings.weight": (101, 48)}
    for layer in range(layers):
        start = f"layers.{layer}."
        found |= {
            f"{start}attention.wq.weight": (48, 48),
            f"{start}attention.wk.weight": (16, 48),
            f"{start}attention.wv.weight": (16, 48),
            f"{start}attention.wo.weight": (48, 48),
            f"{start}feed_forward.w1.weight": (80, 48),
            f"{start}feed_forward.w2.weight": (48, 80),
            f"{start}feed_forward.w3.weight": (80, 48),
            f"{start}attention_norm.weight": (48,),
            f"{start}ffn_norm.weight": (48,),
        }
    return found | {"norm.weight": (48,), "output.weight": (101, 48)}


def experts(layers: int, each: int) -> Shapes:
    """A large mixture of experts."""
    found: Shapes = {"model.embed_tokens.weight": (1000, 64)}
    for layer in range(layers):
        for expert in range(each):
            for name in ("gate_proj", "up_proj", "down_proj"):
                found[f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight"] = (64, 32)
                found[f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight_scale_inv"] = (2, 1)
    return found


def saved(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> str:
    """A safetensors file with these tensors, its values a hole that takes no room on the disk."""
    size = {"F32": 4, "BF16": 2}[dtype]
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + size * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return str(path)
