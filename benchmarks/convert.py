"""Conversions of a large file against `cp` and against load_file + save_file, each in a process of its own.

Run `python benchmarks/convert.py [--size GB] [--repeat N] [--folder DIR]`; it prints a Markdown table and exits 1 when
a bar does not hold. Needs Linux and three times the size on disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
HIDDEN = 4096
BYTES_PER_LAYER = 2 * (4 * HIDDEN * HIDDEN)


def plan_of(kind: str, layers: int) -> Any:
    """A plan by hand: names only, q, k and v fused, split by head, or transposed."""
    from ckptmap.rules.plan import BoundBlock, Equation, Piece, Plan

    left: dict[str, tuple[int, ...]] = {}
    right: dict[str, tuple[int, ...]] = {}
    equations = []

    def whole(name: str, order: tuple[int, int] = (0, 1)) -> Piece:
        return Piece(name, (HIDDEN, HIDDEN), (), (HIDDEN, HIDDEN), order)

    def add(old: tuple[str, ...], new: tuple[str, ...], blocks: list[BoundBlock], *, is_rename: bool) -> None:
        for side, names in ((left, old), (right, new)):
            rows = HIDDEN * (len(old) + len(new) - 1) if len(names) == 1 else HIDDEN
            side.update(dict.fromkeys(names, (rows, HIDDEN)))
        equations.append(Equation(1, old, new, tuple(blocks), is_rename))

    for layer in range(layers):
        old = [f"model.layers.{layer}.{name}.weight" for name in "qkvo"]
        new = [f"blocks.{layer}.{name}.weight" for name in "qkvo"]
        square = (HIDDEN, HIDDEN)
        if kind in ("rename", "transpose"):
            for one, other in zip(old, new, strict=True):
                source = whole(one, (1, 0) if kind == "transpose" else (0, 1))
                add((one,), (other,), [BoundBlock(square, source, whole(other))], is_rename=kind == "rename")
            continue
        fused, blocks = f"blocks.{layer}.qkv.weight", []
        heads, size = 32, HIDDEN // 32
        for place, name in enumerate(old[:3]):
            if kind == "fuse":
                there = Piece(fused, (3 * HIDDEN, HIDDEN), ((0, place * HIDDEN, HIDDEN),), square, (0, 1))
                blocks.append(BoundBlock(square, whole(name), there))
            else:
                # (h [d + d + d]) m <-> (h d) m
                view, split = (heads, 3 * size, HIDDEN), (heads, size, HIDDEN)
                there = Piece(fused, view, ((1, place * size, size),), split, (0, 1, 2))
                blocks.append(BoundBlock(split, Piece(name, split, (), split, (0, 1, 2)), there))
        add(tuple(old[:3]), (fused,), blocks, is_rename=False)
        add((old[3],), (new[3],), [BoundBlock(square, whole(old[3]), whole(new[3]))], is_rename=True)
    return Plan(tuple(equations), left, right)


def ours(kind: str, layers: int, source: str, out: str) -> None:
    from ckptmap.conversion.convert import convert

    plan = plan_of("interleave" if kind == "split" else kind, layers)
    convert(plan, source, out, back=kind == "split", force=True)


def load_save(kind: str, layers: int, source: str, out: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(source)
    if kind in ("rename", "transpose"):
        turned = kind == "transpose"
        state = {f"new.{name}": tensor.T.contiguous() if turned else tensor for name, tensor in state.items()}
    elif kind == "split":
        for layer in range(layers):
            parts = state.pop(f"blocks.{layer}.qkv.weight").view(32, 3, HIDDEN // 32, HIDDEN)
            for place, name in enumerate("qkv"):
                state[f"{layer}.{name}"] = parts[:, place].reshape(HIDDEN, HIDDEN).contiguous()
    else:
        for layer in range(layers):
            state[f"{layer}.qkv"] = torch.cat([state.pop(f"model.layers.{layer}.{name}.weight") for name in "qkv"])
    save_file(state, out)


def in_place(kind: str, layers: int, source: str, out: str) -> None:
    from ckptmap.conversion.convert import convert

    start = time.perf_counter()
    convert(plan_of("rename", layers), source, in_place=True)
    print((time.perf_counter() - start) * 1000)


def bind_many(kind: str, layers: int, source: str, out: str) -> None:
    """Bind rules to 100,000 tensors, both sides together; some become parts of stacked ones."""
    from ckptmap.rules.plan import bind
    from ckptmap.rules.rules import Rules

    left, right = {}, {}
    for layer in range(48):
        right[f"layers.{layer}.down"] = (417, 64, 32)
        for expert in range(417):
            for old, new in (("gate", "w1"), ("up", "w3")):
                left[f"model.layers.{layer}.mlp.experts.{expert}.{old}_proj.weight"] = (32, 64)
                right[f"layers.{layer}.ffn.{expert}.{new}.weight"] = (32, 64)
            left[f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"] = (64, 32)
    text = """\
model.layers.{i}.mlp.experts.{e}.{n:gate|up}_proj.weight <-> layers.{i}.ffn.{e}.{n:w1|w3}.weight
model.layers.{i}.mlp.experts.{e}.down_proj.weight <-> layers.{i}.down : m f <-> e m f
"""
    start = time.perf_counter()
    plan = bind(Rules.parse(text), left, right)
    print(len(plan.left) + len(plan.right), time.perf_counter() - start)


SUBJECTS = {"ours": ours, "load_save": load_save, "in_place": in_place, "bind": bind_many}


def measure(who: str, kind: str, layers: int, source: Path, out: Path) -> tuple[float, float, float, str]:
    """Seconds, MiB resident at most, MiB of its own at most, and what it printed; what was written is synced too."""
    out.unlink(missing_ok=True)
    os.sync()
    argv = [sys.executable, __file__, "--subject", who, kind, str(layers), str(source), str(out)]
    if who == "cp":
        argv = ["cp", str(source), str(out)]
    start = time.perf_counter()
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    peaks = [0.0, 0.0]
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    text, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} exits with {process.returncode}")
    if out.exists():  # ours lasts when it returns; the others are given the same end
        descriptor = os.open(out, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - start, peaks[0], peaks[1], text


def _watch(process: subprocess.Popen[str], peaks: list[float]) -> None:
    while process.returncode is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            for place, field in enumerate(("VmHWM", "RssAnon")):
                if line.startswith(field):
                    peaks[place] = max(peaks[place], int(line.split()[1]) / 1024)
        time.sleep(0.005)


def make_source(path: Path, layers: int) -> None:
    import torch

    from ckptmap.spec import TensorSpec
    from ckptmap.writing.safetensors import header_bytes

    specs = [
        TensorSpec(f"model.layers.{layer}.{name}.weight", (HIDDEN, HIDDEN), "BF16")
        for layer in range(layers)
        for name in "qkvo"
    ]
    data = torch.randint(0, 256, (specs[0].nbytes,), dtype=torch.uint8).numpy().tobytes()
    with open(path, "wb") as file:
        file.write(header_bytes(specs, {"format": "pt"}))
        for _ in specs:
            file.write(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", metavar="GB", type=float, default=4.0)
    parser.add_argument("--repeat", metavar="N", type=int, default=3)
    parser.add_argument("--folder", metavar="DIR")
    args = parser.parse_args()
    layers = max(1, round(args.size * 1e9 / BYTES_PER_LAYER))
    print("| what | ours | peer | time, ours / peer | bar | ours, peak | peer, peak | bar | holds |")
    print("|---|---|---|---|---|---|---|---|---|")
    good = True
    with tempfile.TemporaryDirectory(prefix="ckptmap-convert-", dir=args.folder) as folder:
        source, out, fused = (Path(folder, f"{name}.safetensors") for name in ("source", "out", "fused"))
        make_source(source, layers)
        rows = [
            ("rename", "cp", None, 40.0),
            ("rename", "load_save", 1 / 1.8, 40.0),
            ("fuse", "load_save", 1.0, None),
            ("split", "load_save", 1.0, None),
            ("transpose", "load_save", 1.0, None),
        ]
        for kind, peer, bar, limit in rows:
            origin = source
            if kind == "split":
                from ckptmap.conversion.convert import convert

                convert(plan_of("interleave", layers), source, fused, force=True)
                origin = fused
            runs = [
                (measure("ours", kind, layers, origin, out), measure(peer, kind, layers, origin, out))
                for _ in range(args.repeat)
            ]
            mine, theirs = ([median(run[side][i] for run in runs) for i in range(3)] for side in (0, 1))
            ratio, allowed = mine[0] / theirs[0], limit or theirs[1] / 10
            shown = "" if limit is None and peer == "cp" else f"≤ {allowed:.0f} MiB"
            # Torch itself takes memory to be imported, which is no part of what a conversion holds.
            held = mine[1] if limit else mine[2]
            holds = (bar is None or ratio <= bar) and held <= allowed
            good &= holds
            print(
                f"| {kind} of {args.size:g} GB vs {peer} | {mine[0]:.1f} s | {theirs[0]:.1f} s | {ratio:.2f} | "
                f"{'–' if bar is None else f'≤ {bar:.2f}'} | {mine[1]:.0f} MiB ({mine[2]:.0f} its own) | "
                f"{theirs[1]:.0f} MiB | {shown} | {'yes' if holds else 'NO'} |",
                flush=True,
            )
        fused.unlink(missing_ok=True)
        os.sync()
        ms = float(measure("in_place", "rename", layers, source, out)[3])
        good &= ms < 50
        tensors, seconds = map(float, measure("bind", "", 0, source, out)[3].split())
        good &= seconds <= 2
        holds = "yes" if seconds <= 2 else "NO"
        print(f"| bind {tensors:,.0f} tensors, both sides together | {seconds:.2f} s | – | – | ≤ 2 s | | | | {holds} |")
        print(f"| rename in place | {ms:.1f} ms | – | – | < 50 ms | | | | {'yes' if ms < 50 else 'NO'} |")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--subject"]:
        SUBJECTS[sys.argv[2]](sys.argv[3], int(sys.argv[4]), sys.argv[5], sys.argv[6])
    else:
        raise SystemExit(main())
