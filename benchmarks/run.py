"""Runs the benchmarks and prints a table: `python benchmarks/run.py`; exits 1 when a bar does not hold."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import listing
import remote
import startup
import torch_zip
from measure import Row

HOW: Mapping[str, str] = {
    "startup": startup.HOW,
    "listing": listing.HOW,
    "torch_zip": torch_zip.HOW,
    "remote": remote.HOW,
}
PEERS = ("torch", "huggingface_hub", "safetensors")

BELOW = "\n## Conversions\n"
"""From this heading on the page has what other programs measured; it stays as it is."""

INTRO = """\
# Benchmarks

How fast ckptmap reads, beside what its unmodified peers offer for the same question. Ours and theirs run by turns in
fresh processes within one run, on a machine that also does other work: trust the ratios (ours by theirs), the memory
and the counts rather than the times.

`python benchmarks/run.py` repeats it all, `--only NAME` a part of it, and `--write docs/benchmarks.md` writes this
page down to "Conversions". It needs Linux, torch, safetensors and huggingface_hub, 5 GB of room for temporary files
(`--size 1` makes do with 2 GB) and no network.
"""


def main() -> int:
    """Run what is asked for; 1 if a bar does not hold, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", choices=HOW, help=f"one of {', '.join(HOW)}")
    parser.add_argument("--size", metavar="GB", type=float, default=4.0, help="size of the torch zip (default: 4)")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the whole page there")
    args = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("memory is read from /proc: this needs Linux")
    if args.only and args.write:
        parser.error("the page shows all benchmarks: leave --only out")
    if missing := [name for name in PEERS if find_spec(name) is None]:
        parser.error(f"the peers are not all here: install {', '.join(missing)}")
    benchmarks: Mapping[str, Callable[[Path], list[Row]]] = {
        "startup": startup.run,
        "listing": listing.run,
        "torch_zip": lambda folder: torch_zip.run(folder, args.size),
        "remote": remote.run,
    }
    names = args.only or list(HOW)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ckptmap-benchmark-") as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/bytecode"
        for name in names:
            print(f"{name} …", file=sys.stderr)
            place = Path(folder, name)
            place.mkdir()
            rows += benchmarks[name](place)
    results = f"{_conditions()}\n\n{_table(rows)}\n"
    print(results)
    if args.write:
        how = "\n\n".join(f"### {name}\n\n{HOW[name]}" for name in names)
        _, heading, rest = (args.write.read_text() if args.write.exists() else "").partition(BELOW)
        args.write.write_text(f"{INTRO}\n## Results\n\n{results}\n## How each is measured\n\n{how}\n{heading}{rest}")
    return 1 if any(row.holds is False for row in rows) else 0


def _conditions() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    peers = ", ".join(f"{name} {version(name)}" for name in PEERS)
    return (
        f"{datetime.date.today()}; {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB; "
        f"Linux, Python {platform.python_version()};\n{peers}."
    )


def _table(rows: list[Row]) -> str:
    lines = ["| what | ckptmap | peer | ratio | bar | holds |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
        holds = {True: "yes", False: "**no**", None: "–"}[row.holds]
        lines.append(f"| {' | '.join((row.what, row.ours, row.peer, ratio, row.bar, holds))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
