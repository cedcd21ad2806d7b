"""Runs commands and subjects in fresh processes, by turns, and takes medians."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
SUBJECTS = Path(__file__).with_name("subjects.py")
SAMPLED_EVERY = 0.02
"""Seconds between looks at a process: more often would slow it down."""


@dataclass(frozen=True)
class Run:
    """One process, or the medians of several: seconds and MiB.

    Attributes:
        process: Wall time of the whole process.
        cpu: CPU time of the whole process.
        call: Wall time of the call alone, imports left out.
        peak: Most memory resident, pages of mapped files counted too.
        anonymous: Most memory of its own, as sampled.
    """

    process: float
    cpu: float
    call: float = 0.0
    peak: float = 0.0
    anonymous: float = 0.0


@dataclass(frozen=True)
class Row:
    """A line of the results; `ratio` is ours by the peer's, and a line without a bar has neither bar nor verdict."""

    what: str
    ours: str
    peer: str
    ratio: float | None = None
    bar: str = "–"
    holds: bool | None = None


def command(*argv: str) -> Run:
    """Run this interpreter with arguments, output in a pipe."""
    run, _ = _process([sys.executable, *argv], {})
    return run


def subject(function: str, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[Run, Any]:
    """Run one function of `subjects.py` in a process; also what it found (None if it does not tell)."""
    run, output = _process([sys.executable, str(SUBJECTS), function, *arguments], environment or {}, sample=True)
    told = json.loads(output.splitlines()[-1])
    return Run(run.process, run.cpu, told["call"], told["peak"], run.anonymous), told["found"]


def by_turns(repeat: int, **runs: Callable[[], Run]) -> dict[str, Run]:
    """The medians of each, run in turn so that what else the machine does meets all; a first round does not count."""
    taken: dict[str, list[Run]] = {name: [] for name in runs}
    for _ in range(repeat + 1):
        for name, run in runs.items():
            taken[name].append(run())
    return {
        name: Run(*(median(getattr(run, field.name) for run in all_runs[1:]) for field in fields(Run)))
        for name, all_runs in taken.items()
    }


def same(repeat: int, **subjects: tuple[str, ...]) -> dict[str, Run]:
    """The same by names and arguments of subjects, which must all find the same tensors."""
    found: dict[str, Any] = {}

    def runner(name: str) -> Callable[[], Run]:
        def run() -> Run:
            measured, found[name] = subject(*subjects[name])
            return measured

        return run

    medians = by_turns(repeat, **{name: runner(name) for name in subjects})
    agree([listed for listed in found.values() if listed is not None])
    return medians


def agree(found: list[Any]) -> None:
    """Stop unless all found the same tensors: a ratio between different answers says nothing."""
    if any(listed != found[0] for listed in found):
        raise SystemExit(f"ours and the peer's do not list the same tensors: {found}")


def _process(argv: list[str], environment: Mapping[str, str], *, sample: bool = False) -> tuple[Run, str]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    # Installed packages have their bytecode; here the first round writes it, outside of the source tree.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    samples = [0]
    start = time.perf_counter()
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    if sample:
        threading.Thread(target=_sample, args=(process, samples), daemon=True).start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} exits with {process.returncode}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cpu, anonymous=max(samples) / 1024), output


def _sample(process: subprocess.Popen[str], samples: list[int]) -> None:
    while process.returncode is None:
        try:
            with open(f"/proc/{process.pid}/status") as lines:
                samples += [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
        except OSError:
            return
        time.sleep(SAMPLED_EVERY)
