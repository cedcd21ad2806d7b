"""How often `untouched` is wrong, over every tensor of tiny models of many families, fresh and trained.

Run `python benchmarks/untouched.py [family …]`; it prints a Markdown table and takes about four minutes on two cores.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers

from ckptmap.checkpoint import open_checkpoint
from ckptmap.heads.untouched import untouched

VOCABULARY, LENGTH, BATCH, WIDTH = 300, 16, 8, 64
TRAININGS = {"1 step of 5e-5": (1, 5e-5), "100 steps of 5e-5": (100, 5e-5), "100 steps of 1e-3": (100, 1e-3)}
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}

TEXT = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {**TEXT, **LAYERS, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH}
LLAMA = {**BERT, "num_key_value_heads": 2, "head_dim": 16}
BART = {
    **TEXT, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "decoder_start_token_id": 2,
}  # fmt: skip
IMAGE = {**LAYERS, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "image_size": 32, "patch_size": 8}
AUDIO = {
    **LAYERS, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "conv_dim": [32, 32], "conv_stride": [4, 4],
    "conv_kernel": [8, 8], "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0,
    "classifier_proj_size": 32, "vocab_size": 32,
}  # fmt: skip

# A class, the data it takes, and its config.
FAMILIES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "classes", BERT),
    "roberta": ("RobertaForSequenceClassification", "classes", BERT),
    "electra": ("ElectraForSequenceClassification", "classes", {**BERT, "embedding_size": 32}),
    "albert": ("AlbertForSequenceClassification", "classes", {**BERT, "embedding_size": 32}),
    "mpnet": ("MPNetForSequenceClassification", "classes", BERT),
    "deberta_v2": ("DebertaV2ForSequenceClassification", "classes", BERT),
    "modernbert": ("ModernBertForSequenceClassification", "classes", BERT),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "classes",
        {**TEXT, "dim": WIDTH, "hidden_dim": 128, "n_layers": 2, "n_heads": 4},
    ),
    "bert masked": ("BertForMaskedLM", "tokens", BERT),
    "roberta tokens": ("RobertaForTokenClassification", "token classes", BERT),
    "gpt2": ("GPT2LMHeadModel", "tokens", {**TEXT, "n_embd": WIDTH, "n_layer": 2, "n_head": 4}),
    "llama": ("LlamaForCausalLM", "tokens", LLAMA),
    "llama classes": ("LlamaForSequenceClassification", "classes", LLAMA),
    "mistral": ("MistralForCausalLM", "tokens", LLAMA),
    "qwen2": ("Qwen2ForSequenceClassification", "classes", LLAMA),
    "qwen3": ("Qwen3ForCausalLM", "tokens", LLAMA),
    "gemma2": ("Gemma2ForCausalLM", "tokens", LLAMA),
    "phi": ("PhiForCausalLM", "tokens", BERT),
    "gpt_neox": ("GPTNeoXForSequenceClassification", "classes", BERT),
    "falcon": ("FalconForSequenceClassification", "classes", {**TEXT, **LAYERS, "hidden_size": WIDTH}),
    "bloom": ("BloomForCausalLM", "tokens", {**TEXT, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4}),
    "opt": ("OPTForSequenceClassification", "classes", {**BERT, "ffn_dim": 128, "word_embed_proj_dim": WIDTH}),
    "t5": (
        "T5ForSequenceClassification",
        "ended classes",
        {**TEXT, "d_model": WIDTH, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
    ),
    "bart": ("BartForSequenceClassification", "ended classes", BART),
    "marian": ("MarianMTModel", "tokens", BART),
    "vit": ("ViTForImageClassification", "images", IMAGE),
    "deit": ("DeiTForImageClassification", "images", IMAGE),
    "convnext": (
        "ConvNextForImageClassification",
        "images",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    ),
    "swin": (
        "SwinForImageClassification",
        "images",
        {"image_size": 32, "patch_size": 4, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4},
    ),
    "resnet": (
        "ResNetForImageClassification",
        "images",
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "basic"},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "spectra",
        {**BART, "num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32},
    ),
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", "waves", AUDIO),
    "hubert": ("HubertForSequenceClassification", "waves", AUDIO),
}  # fmt: skip


@dataclass(frozen=True)
class Count:
    """Over tensors of one model: how many there are, how many look untouched, how many look trained."""

    tensors: int = 0
    untouched: int = 0
    trained: int = 0

    def __add__(self, other: Count) -> Count:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Count(*(a + b for a, b in pairs))


def build(family: str, seed: int = 0) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    name, _, options = FAMILIES[family]
    model_class = getattr(transformers, name)
    return model_class(model_class.config_class(**options)).eval()


def batches(kind: str) -> Iterator[dict[str, torch.Tensor]]:
    """Data with something to learn in it: the class is in what is seen."""
    while True:
        labels = torch.randint(0, 2, (BATCH,))
        tokens = torch.randint(3, VOCABULARY, (BATCH, LENGTH))
        tokens[:, ::2] = tokens[:, ::2] // 2 + labels[:, None] * (VOCABULARY // 2 - 2)
        tokens.clamp_(3, VOCABULARY - 1)
        if kind == "ended classes":
            tokens[:, -1] = 2
        if kind in ("classes", "ended classes"):
            yield {"input_ids": tokens, "labels": labels}
        elif kind == "tokens":
            yield {"input_ids": tokens, "labels": tokens}
        elif kind == "token classes":
            yield {"input_ids": tokens, "labels": tokens % 2}
        elif kind == "images":
            yield {"pixel_values": torch.randn(BATCH, 3, 32, 32) + labels[:, None, None, None], "labels": labels}
        elif kind == "spectra":
            yield {"input_features": torch.randn(BATCH, 16, 64) + labels[:, None, None], "labels": tokens}
        elif kind == "waves":
            yield {"input_values": torch.randn(BATCH, 400) + labels[:, None], "labels": labels}


def train(family: str, model: transformers.PreTrainedModel, steps: int, rate: float) -> transformers.PreTrainedModel:
    model = deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _, batch in zip(range(steps), batches(FAMILIES[family][1]), strict=False):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def count(
    model: transformers.PreTrainedModel, dtype: torch.dtype, fresh: Path, folder: Path
) -> tuple[Count, list[str]]:
    """Save, open and count, leaving out what training did not change from a fresh one; and name what is wrong."""
    deepcopy(model).to(dtype).save_pretrained(folder)
    said: Counter[str] = Counter()
    wrong = []
    with open_checkpoint(fresh) as before, open_checkpoint(folder) as after:
        for name, evidence in untouched(after).items():
            if not after[name].dtype.startswith(("F", "BF")):
                continue
            if folder == fresh or before.read(name) != after.read(name):
                said[evidence.says] += 1
                if evidence.says == ("trained" if folder == fresh else "untouched"):
                    wrong.append(f"{folder.name}: {name}: {evidence.statistic}")
    return Count(said.total(), said["untouched"], said["trained"]), wrong


def measure(family: str) -> tuple[dict[str, Count], list[str]]:
    model = build(family)
    counts, wrong = {}, []
    models = {"fresh": model, **{what: train(family, model, *how) for what, how in TRAININGS.items()}}
    with tempfile.TemporaryDirectory() as room:
        for label, dtype in DTYPES.items():
            fresh = Path(room) / f"{family} fresh {label}"
            for what, each in models.items():
                key = f"{what} {label}"
                counts[key], errors = count(each, dtype, fresh, Path(room) / f"{family} {key}")
                wrong += errors
    return counts, wrong


def row(name: str, counts: Mapping[str, Count]) -> str:
    cells = [name]
    for what in ("fresh", *TRAININGS):
        for label in DTYPES:
            one = counts[f"{what} {label}"]
            cells.append(f"{one.untouched} of {one.tensors}" + (f" ({one.trained} “trained”)" if one.trained else ""))
    return f"| {' | '.join(cells)} |"


def main(argv: list[str]) -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)
    started = perf_counter()
    print("Flagged as untouched, of the tensors that are fresh, or that training changed:\n")
    heads = [f"{what}, {label}" for what in ("fresh", *TRAININGS) for label in DTYPES]
    print(f"| family | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}", flush=True)
    total: dict[str, Count] = {}
    wrong = []
    for family in argv or FAMILIES:
        counts, errors = measure(family)
        total = {key: total.get(key, Count()) + one for key, one in counts.items()}
        wrong += errors
        print(row(family, counts), flush=True)
    print(row("**all**", total))
    trained = sum((one for key, one in total.items() if not key.startswith("fresh")), Count())
    rate = trained.untouched / trained.tensors
    print(f"\nFlagged although trained: {trained.untouched} of {trained.tensors} ({rate:.2%}).")
    fresh = sum((one for key, one in total.items() if key.startswith("fresh")), Count())
    print(f"Untouched and flagged: {fresh.untouched} of {fresh.tensors} ({fresh.untouched / fresh.tensors:.1%}).")
    print(f"{perf_counter() - started:.0f} s.\n\nWrong:\n" + "\n".join(f"- {line}" for line in wrong or ["nothing"]))


if __name__ == "__main__":
    main(sys.argv[1:])
