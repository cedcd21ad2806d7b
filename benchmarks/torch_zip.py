"""How long it takes to see what a large file of torch.save holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import measure
from measure import Row

HOW = """\
A file that torch.save wrote, of 219 bfloat16 tensors, in the page cache. `ckptmap inspect FILE` in a pipe against
`torch.load(FILE, map_location="meta", mmap=True, weights_only=True)`, the cheapest way that torch has. Wall time and
peak memory of the whole process, imports and all, since a person waits for those too; the next line has the call alone,
`open_checkpoint` against `torch.load`, with all imports done, and both must list the same. Medians of 7. The run stops
if ckptmap imports torch."""

TIME_BAR = 1 / 8
MEMORY_BAR = 40

SAVE = """
import sys, torch, files
path, gigabytes = sys.argv[1:]
hidden = int(2048 * (float(gigabytes) / 2.82) ** 0.5) // 8 * 8
shapes = files.decoder_shapes(layers=24, hidden=hidden, vocabulary=32000)
torch.save({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, path)
"""


def run(folder: Path, gigabytes: float) -> list[Row]:
    """Measure both on one file of about that size."""
    path = folder / "model.bin"
    if shutil.disk_usage(folder).free < gigabytes * 1.2e9:
        raise SystemExit(f"no room for a file of {gigabytes:g} GB in the temporary folder: set TMPDIR, or --size")
    subprocess.run([sys.executable, "-c", SAVE, str(path), str(gigabytes)], cwd=Path(__file__).parent, check=True)
    size = path.stat().st_size / 1e9
    took = measure.same(
        7,
        ours=("ckptmap_inspect", str(path)),
        listed=("ckptmap_open", str(path)),
        torch=("torch_load", str(path)),
    )
    path.unlink()
    ours, listed, torch = took["ours"], took["listed"], took["torch"]
    ratio = ours.process / torch.process
    return [
        Row(
            f"inspect a torch zip of {size:.1f} GB, whole process",
            f"{ours.process:.3f} s",
            f"`torch.load` to meta: {torch.process:.2f} s",
            ratio,
            "≤ 1/8 of the time",
            ratio <= TIME_BAR,
        ),
        Row(
            "the same, peak memory (anonymous)",
            f"{ours.peak:.0f} ({ours.anonymous:.0f}) MiB",
            f"{torch.peak:.0f} ({torch.anonymous:.0f}) MiB",
            ours.peak / torch.peak,
            f"≤ {MEMORY_BAR} MiB",
            ours.peak <= MEMORY_BAR,
        ),
        Row(
            "the same, the call alone",
            f"{listed.call * 1000:.1f} ms",
            f"{torch.call * 1000:.1f} ms",
            listed.call / torch.call,
        ),
    ]
