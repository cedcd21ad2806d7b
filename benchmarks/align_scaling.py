"""How long `ckptmap.remap` takes as models grow: names alone, values in files, and models that are run.

    python benchmarks/align_scaling.py

Each size runs in a process of its own; seconds are those of `remap` after imports, memory is the process's peak.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = (
    "2 layers",
    "12 layers",
    "32 layers",
    "80 layers",
    "80 layers, run",
    "32 x 64 experts",
    "61 x 256 experts",
    "4 layers, values",
)

REAL = ("roberta", "gpt2", "gpt2_split", "vit", "llama")
"""Models of real size by hand, each against transformers' class; the clock runs from building both to the proof."""


def main() -> int:
    """Print a row for each size."""
    if len(sys.argv) > 2:
        write(int(sys.argv[1]), Path(sys.argv[2]))
        return 0
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            one(sys.argv[1], Path(folder))
        return 0
    print("| size | tensors | seconds | peak MiB |\n| --- | ---: | ---: | ---: |")
    for size in (*SIZES, *REAL):
        subprocess.run([sys.executable, __file__, size], check=True)
    return 0


def one(size: str, folder: Path) -> None:
    """Measure one size and print its row."""
    import ckptmap
    import ckptmap.infer.by_modules
    import ckptmap.infer.not_run
    import ckptmap.infer.proof  # so that none of them is imported on the clock

    if size in REAL:
        real(size, folder)
        return
    layers = int(size.split()[0])
    sides: tuple[Any, Any]
    if size.endswith("values"):
        # Written by another process: its memory is not what is measured.
        subprocess.run([sys.executable, __file__, str(layers), str(folder)], check=True)
        sides = folder / "left.safetensors", folder / "right.safetensors"
    else:
        sides = models(layers) if size.endswith("run") else named(size)
    start = time.perf_counter()
    found = ckptmap.remap(*sides)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    lines = (found.draft or found.rules).rules
    print(f"| {size} | {len(found.evidence):,} decided, {len(lines)} rules | {seconds:.2f} | {peak:,} |", flush=True)


def real(family: str, folder: Path) -> None:
    """Measure a model of real size and print its row."""
    import json

    from real_sizes import LEFT

    import ckptmap

    name, config = LEFT[family.removesuffix("_split")]
    (folder / "config.json").write_text(json.dumps(config))
    start = time.perf_counter()
    found = ckptmap.remap(f"{folder}#{name}", f"{Path(__file__).with_name('real_sizes.py')}:{family}")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    outcome = found.verification.outcome if found.verification else "not proven"
    print(f"| {family}, {outcome} | {len(found.evidence):,} decided | {seconds:.1f} | {peak:,} |", flush=True)


def named(size: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Llama of real width by the names of transformers and by those of its authors."""
    from ckptmap import TensorSpec

    layers, experts = int(size.split()[0]), int(size.split()[2]) if "x" in size.split() else 0
    ours: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (128256, 8192)}
    theirs: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (128256, 8192)}
    forward = {"gate": ("w1", (2048, 8192)), "up": ("w3", (2048, 8192)), "down": ("w2", (8192, 2048))}
    for n in range(layers):
        a, b = f"model.layers.{n}", f"layers.{n}"
        for part, width in (("q", 8192), ("k", 1024), ("v", 1024), ("o", 8192)):
            ours[f"{a}.self_attn.{part}_proj.weight"] = theirs[f"{b}.attention.w{part}.weight"] = (width, 8192)
        for expert in range(experts):
            for part, (other, shape) in forward.items():
                ours[f"{a}.mlp.experts.{expert}.{part}_proj.weight"] = shape
                theirs[f"{b}.feed_forward.experts.{expert}.{other}.weight"] = shape
        if experts:
            ours[f"{a}.mlp.gate.weight"] = theirs[f"{b}.feed_forward.gate.weight"] = (experts, 8192)
        else:
            for part, (other, shape) in forward.items():
                ours[f"{a}.mlp.{part}_proj.weight"] = theirs[f"{b}.feed_forward.{other}.weight"] = shape
        ours[f"{a}.input_layernorm.weight"] = theirs[f"{b}.attention_norm.weight"] = (8192,)
        ours[f"{a}.post_attention_layernorm.weight"] = theirs[f"{b}.ffn_norm.weight"] = (8192,)
    ours["model.norm.weight"] = theirs["norm.weight"] = (8192,)
    ours["lm_head.weight"] = theirs["output.weight"] = (128256, 8192)
    specs = ({name: TensorSpec(name, shape, "BF16") for name, shape in side.items()} for side in (ours, theirs))
    return next(specs), next(specs)


def write(layers: int, folder: Path) -> None:
    """A Llama of 7B width in BF16 by both names, rotary rows in halves on the left and in pairs on the right."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    width, hidden, heads, vocabulary = 4096, 11008, 32, 32000
    both: list[tuple[str, str, torch.Tensor]] = []

    def add(ours: str, theirs: str, *shape: int) -> None:
        both.append((ours, theirs, (torch.randn(shape) * 0.02).bfloat16()))

    add("model.embed_tokens.weight", "tok_embeddings.weight", vocabulary, width)
    for n in range(layers):
        a, b = f"model.layers.{n}", f"layers.{n}"
        for part in "qkvo":
            add(f"{a}.self_attn.{part}_proj.weight", f"{b}.attention.w{part}.weight", width, width)
        add(f"{a}.mlp.gate_proj.weight", f"{b}.feed_forward.w1.weight", hidden, width)
        add(f"{a}.mlp.up_proj.weight", f"{b}.feed_forward.w3.weight", hidden, width)
        add(f"{a}.mlp.down_proj.weight", f"{b}.feed_forward.w2.weight", width, hidden)
        add(f"{a}.input_layernorm.weight", f"{b}.attention_norm.weight", width)
        add(f"{a}.post_attention_layernorm.weight", f"{b}.ffn_norm.weight", width)
    add("model.norm.weight", "norm.weight", width)
    add("lm_head.weight", "output.weight", vocabulary, width)
    save_file({ours: tensor for ours, _, tensor in both}, folder / "left.safetensors")
    turned = {
        theirs: tensor.view(heads, 2, -1, width).transpose(1, 2).reshape(width, width)
        if theirs[-9:-7] in ("wq", "wk")
        else tensor
        for _, theirs, tensor in both
    }
    save_file(turned, folder / "right.safetensors")


def models(layers: int) -> tuple[Any, Any]:
    """Two narrow Llamas, one with eager and one with fused attention: width costs time, depth is what is measured."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = []
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=101,
            hidden_size=32,
            intermediate_size=72,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_implementation=attention,
        )
        made.append(LlamaForCausalLM(config).eval())
    return made[0], made[1]


if __name__ == "__main__":
    sys.exit(main())
