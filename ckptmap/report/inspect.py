"""What is in a checkpoint, to look at and as JSON."""

from __future__ import annotations

from typing import Any

from ckptmap.checkpoint import Checkpoint
from ckptmap.report.document import (
    Document,
    Section,
    bytes_text,
    count_text,
    tensor_rows,
)

SHOWN = 5


def inspect_document(checkpoint: Checkpoint, *, every: bool = False) -> Document:
    """Totals, then the tensors by pattern, or every one."""
    facts = [("source", f"{checkpoint.source} (names {checkpoint.names})")]
    if architecture := _architecture(checkpoint):
        facts.append(("architecture", architecture))
    facts += [
        ("tensors", f"{len(checkpoint):,}"),
        ("parameters", f"{checkpoint.parameters:,}"),
        ("size", f"{bytes_text(checkpoint.nbytes)} ({checkpoint.nbytes:,} bytes)"),
        ("dtypes", ", ".join(f"{dtype} ×{count:,}" for dtype, count in checkpoint.dtypes.items()) or "none"),
    ]
    if checkpoint.files:
        names = [f"{file} ({bytes_text(size)})" for file, size in checkpoint.files.items()]
        facts.append(("files", _shortened(names, "file")))
    if ties := _ties(checkpoint):
        facts.append(("ties", _shortened(ties, "group")))
    if checkpoint.metadata:
        entries = [f"{key}={value[:60]}" for key, value in checkpoint.metadata.items()]
        facts.append(("metadata", _shortened(entries, "entry")))
    rows = tensor_rows(checkpoint, every=every)
    return Document(tuple(facts), (Section("", rows, ("tensor", "shape", "dtype", "count")),))


def inspect_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of `ckptmap inspect --format json`, described in docs/json.md."""
    config = checkpoint.config or {}
    return {
        "source": checkpoint.source,
        "names": checkpoint.names,
        "architectures": config.get("architectures"),
        "model_type": config.get("model_type"),
        "totals": {
            "tensors": len(checkpoint),
            "parameters": checkpoint.parameters,
            "bytes": checkpoint.nbytes,
            "dtypes": dict(checkpoint.dtypes),
        },
        "files": [{"name": file, "bytes": size} for file, size in checkpoint.files.items()],
        "ties": [list(group) for group in checkpoint.ties],
        "metadata": dict(checkpoint.metadata),
        "tensors": [
            {
                "name": name,
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "bytes": spec.nbytes,
                "file": checkpoint.file_of(name),
            }
            for name, spec in checkpoint.items()
        ],
        "warnings": list(checkpoint.warnings),
    }


def _architecture(checkpoint: Checkpoint) -> str | None:
    config = checkpoint.config or {}
    named = config.get("architectures")
    names = ", ".join(map(str, named)) if isinstance(named, list) and named else ""
    kind = f"model_type {config['model_type']}" if "model_type" in config else ""
    return f"{names} ({kind})" if names and kind else names or kind or None


def _ties(checkpoint: Checkpoint) -> list[str]:
    ties = [" = ".join(group) for group in checkpoint.ties]
    if (checkpoint.config or {}).get("tie_word_embeddings") is True:
        ties.append("config.json ties input and output embeddings (tie_word_embeddings)")
    return ties


def _shortened(items: list[str], noun: str) -> str:
    if len(items) <= SHOWN:
        return ", ".join(items)
    return f"{', '.join(items[:SHOWN])} and {count_text(len(items) - SHOWN, f'more {noun}')}"
