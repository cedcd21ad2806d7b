"""The vocabulary of architectures: what the words in a tensor's name say it is for.

Source: names in transformers, torch.nn, timm, fairseq, and the published code of GPT-2, LLaMA, T5, CLIP and Whisper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_COMPOUNDS = re.compile(
    r"(layer|rms|batch|group)(norm)|(lay)r(norm)|(self|cross)(attn|attention)|(encdec)(attention)", re.IGNORECASE
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

NORM = frozenset({"norm", "ln", "layernorm", "rms", "bn", "gn"})
ATTENTION = frozenset({"attn", "attention", "att", "mha", "mhsa", "sa", "attend"})
CROSS = frozenset({"cross", "encdec", "xattn"})
FEEDFORWARD = frozenset({"ffn", "mlp", "ff", "feedforward", "feed", "moe", "ffw", "fc"})
EXPERT = frozenset({"expert", "experts"})

QUERY = frozenset({"q", "query", "queries", "wq"})
KEY = frozenset({"k", "key", "keys", "wk"})
VALUE = frozenset({"v", "value", "values", "wv"})
PACKED = frozenset({"qkv", "wqkv"})
LEAVES_ATTENTION = frozenset({"o", "out", "output", "dense", "proj", "projection", "wo", "final"})

POSITION = frozenset({"position", "positions", "positional", "pos", "wpe"})
SEGMENT = frozenset({"type", "segment", "segments", "seg", "types"})
TOKEN = frozenset({"word", "words", "tok", "token", "tokens", "wte", "piece", "vocab", "shared"})
EMBEDDING = frozenset({"embed", "embedding", "embeddings", "emb", "embedder", "embeds", "wte", "wpe"})
ROTARY = frozenset({"rotary", "rope", "freqs", "inv"})

NONDESCRIPT = NORM | {"dense", "linear", "lin", "proj", "projection", "layer", "out", "fc", "conv", "decoder"}
"""Words that say what a module is, not what for."""

KINDS = {"gamma": "weight", "beta": "bias", "scale": "weight", "shift": "bias", "g": "weight", "b": "bias"} | {
    "a_2": "weight",
    "b_2": "bias",
}
"""Other names of a norm's weight and bias."""

PLAIN_KINDS = (
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "weight_g",
    "weight_v",
)


@cache
def words(segment: str) -> tuple[str, ...]:
    """Words of one segment, lower case: `LayerNorm` is layer, norm; `fc_1` and `fc1` are fc, 1."""
    parted = _COMPOUNDS.sub(lambda match: " ".join(part for part in match.groups() if part), segment)
    return tuple(word.lower() for word in _WORD.findall(parted))


def all_words(path: Iterable[str]) -> tuple[str, ...]:
    """Words of several segments."""
    return tuple(word for segment in path for word in words(segment))


def number(found: Iterable[str]) -> int | None:
    """The last of these words that is a number."""
    digits = [word for word in found if word.isdigit()]
    return int(digits[-1]) if digits else None
