"""Values of two large files compared: against `cmp`, torch.equal over safe_open, and load_file twice with allclose.

`cmp` gets equal files, as it stops at the first difference.

Run `python benchmarks/values.py [--size GB] [--repeat N] [--folder DIR]`; it prints a Markdown table and exits 1 when a
bar does not hold. Needs Linux, four times the size on disk, and memory for the peers, who load both files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
SHAPES = ((4096, 4096), (11008, 4096), (4096,))
"""One layer of a decoder holds these; all are BF16."""
FEW = 3
"""Tensors that differ where a few do, in one element each."""


def make(path: Path, size: float) -> None:
    """Write random BF16 tensors of about so many GB."""
    import torch
    from safetensors.torch import save_file

    layer = sum(2 * torch.Size(shape).numel() for shape in SHAPES)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(SHAPES[1], generator=generator).bfloat16().flatten()
    tensors = {}
    for number in range(max(1, round(size * 1e9 / layer))):
        for place, shape in enumerate(SHAPES):
            start = torch.Size(shape).numel()
            tensors[f"model.layers.{number}.{place}.weight"] = noise[:start].reshape(shape).roll(number + 1)
    save_file(tensors, path)


def change(source: Path, target: Path, *, every: bool) -> None:
    """Copy a file with a few elements, or all, changed a little."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(source)
    for place, (name, tensor) in enumerate(tensors.items()):
        if every:
            tensors[name] = (tensor.float() * 1.01).bfloat16()
        elif place % (len(tensors) // FEW) == 1:
            tensor.view(torch.int16).flatten()[tensor.numel() // 2] ^= 1
    save_file(tensors, target)


def ours(left: str, right: str) -> int:
    """The command, whole."""
    from ckptmap.__main__ import main

    return main(["diff", left, right, "--values", "-q"])


def torch_equal(left: str, right: str) -> int:
    """Both files mapped, one tensor of each compared after the other."""
    import torch
    from safetensors import safe_open

    with safe_open(left, "pt") as one, safe_open(right, "pt") as two:
        differ = [name for name in one.keys() if not torch.equal(one.get_tensor(name), two.get_tensor(name))]  # noqa: SIM118
    print("\n".join(f"~ {name}" for name in differ))
    return int(bool(differ))


def allclose(left: str, right: str) -> int:
    """Both files loaded, all tensors compared."""
    import torch
    from safetensors.torch import load_file

    one, two = load_file(left), load_file(right)
    differ = [name for name in one if not torch.allclose(one[name], two[name])]
    print("\n".join(f"~ {name}" for name in differ))
    return int(bool(differ))


MANY, MANY_WORKERS = "ours, many", 16
"""Ours again, as on a machine of many cores."""
SUBJECTS: dict[str, Callable[[str, str], int]] = {
    "ours": ours,
    MANY: ours,
    "torch_equal": torch_equal,
    "allclose": allclose,
}
CALLED = {
    "cmp": "`cmp` of equal files",
    MANY: f"ours with {MANY_WORKERS} workers",
    "torch_equal": "`torch.equal` over `safe_open`",
    "allclose": "`load_file` twice, `allclose`",
}


PEERS = {
    "equal": ("cmp", "torch_equal", "allclose"),
    "a few differ": ("torch_equal", "allclose"),
    "all differ": ("cmp", MANY, "torch_equal", "allclose"),
}


def measure(who: str, left: Path, right: Path) -> tuple[float, float, bool]:
    """Seconds, MiB of its own at most, and whether it said that the files differ."""
    argv = [sys.executable, __file__, "--subject", who, str(left), str(right)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if who == MANY:
        environment["CKPTMAP_WORKERS"] = str(MANY_WORKERS)
    if who == "cmp":
        argv = ["cmp", "-s", str(left), str(right)]
    start = time.perf_counter()
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    peaks = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    process.communicate()
    watcher.join()
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(argv)} exits with {process.returncode}")
    return time.perf_counter() - start, peaks[0], bool(process.returncode)


def _watch(process: subprocess.Popen[str], peaks: list[float]) -> None:
    while process.returncode is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            return
        peaks[0] = max([peaks[0], *(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.005)


def main() -> int:
    """Measure by turns and print; 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", metavar="GB", type=float, default=4.0)
    parser.add_argument("--repeat", metavar="N", type=int, default=3)
    parser.add_argument("--folder", metavar="DIR")
    args = parser.parse_args()
    good = True
    print("| what | ours | peer | time, ours / peer | bar | ours, anonymous | peer | bar | holds |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ckptmap-values-", dir=args.folder) as folder:
        left, copy, other = (Path(folder, f"{name}.safetensors") for name in ("left", "copy", "other"))
        make(left, args.size)
        subprocess.run(["cp", str(left), str(copy)], check=True)
        for case in ("equal", "a few differ", "all differ"):
            right = copy if case == "equal" else other
            if right is other:
                change(left, other, every=case == "all differ")
            peers = PEERS[case]
            runs: dict[str, list[tuple[float, float, bool]]] = {who: [] for who in ("ours", *peers)}
            for turn in range(args.repeat + 1):
                for who, taken in runs.items():
                    compared = copy if who == "cmp" else right
                    run = measure(who, left, compared)
                    if run[2] != (compared is other):
                        raise SystemExit(f"{who} is wrong about files of which {case}")
                    if turn:  # the first round fills the page cache
                        taken.append(run)
            seconds, memory = _medians(runs["ours"])
            for who in peers:
                theirs = _medians(runs[who])
                bar, most = _bars(case, who)
                holds = (bar is None or seconds / theirs[0] <= bar) and (most is None or memory <= most)
                good &= holds
                print(
                    f"| 2 × {args.size:g} GB, {case}, vs {CALLED[who]} | {seconds:.1f} s | {theirs[0]:.1f} s | "
                    f"{seconds / theirs[0]:.2f} | {'–' if bar is None else f'≤ {bar:g}'} | {memory:.0f} MiB | "
                    f"{theirs[1]:.0f} MiB | {'–' if most is None else f'≤ {most:g} MiB'} | "
                    f"{'–' if bar is None else 'yes' if holds else '**no**'} |",
                    flush=True,
                )
    return 0 if good else 1


def _medians(runs: list[tuple[float, float, bool]]) -> tuple[float, float]:
    return median(run[0] for run in runs), median(run[1] for run in runs)


def _bars(case: str, who: str) -> tuple[float | None, float | None]:
    """The share of the peer's time, and the memory, that are allowed."""
    if (case, who) == ("equal", "cmp"):
        return 1.5, 64
    if (case, who) == ("a few differ", "allclose"):
        return 0.1, 200
    if (case, who) == ("all differ", "cmp"):
        return 2.5, 64
    return None, None


if __name__ == "__main__":
    if sys.argv[1:2] == ["--subject"]:
        sys.exit(SUBJECTS[sys.argv[2]](*sys.argv[3:]))
    sys.exit(main())
