"""What loading a file would do, as data: `safety.py` finds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["dangerous", "unknown", "harmless"]
"""Runs code of the pickle's choice; imports a module that is not known here; only refused by `weights_only=True`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that loading a pickle would do.

    Attributes:
        level: How bad it is.
        what: The call with its arguments, `os.system('…')`, or what is imported.
        where: The pickle it stands in: `data.pkl`, or empty where the file is one.
    """

    level: Level
    what: str
    where: str = ""


def danger_sentence(findings: Iterable[Finding]) -> str | None:
    """What to say first of a file that would run code; None of one that would not."""
    calls = [finding.what for finding in findings if finding.level == "dangerous"]
    if not calls:
        return None
    more = f" and {len(calls) - 3} more" if len(calls) > 3 else ""
    shown = "; ".join(calls[:3])
    return f"would run code if loaded with torch.load(weights_only=False) or pickle: {shown}{more}"
