"""What is in a checkpoint, to look at and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptmap.checkpoint import Checkpoint
from ckptmap.errors import CheckpointError
from ckptmap.report.document import (
    Document,
    Section,
    bytes_text,
    count_text,
    tensor_rows,
    tensors_text,
    totals_json,
)
from ckptmap.report.safety import findings_json

SHOWN = 5

# How names of embeddings end that transformers ties, and class names of models that have an output one.
INPUT_EMBEDDINGS = (".embed_tokens.weight", ".word_embeddings.weight", ".wte.weight", ".shared.weight")
OUTPUT_EMBEDDINGS = (".lm_head.weight", ".decoder.weight", ".output.weight", ".embed_out.weight")
WITH_OUTPUT = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")


def inspect_document(checkpoint: Checkpoint, *, every: bool = False) -> Document:
    """Totals, then the tensors by pattern, or every one."""
    checkpoint.check_filter()
    config, problem = _config(checkpoint)
    facts = [("source", f"{checkpoint.source} (names {checkpoint.names})")]
    if architecture := _architecture(config):
        facts.append(("architecture", architecture))
    if problem:
        facts.append(("config", problem))
    facts += [
        ("tensors", tensors_text(checkpoint)),
        ("parameters", f"{checkpoint.parameters:,}"),
        ("size", f"{bytes_text(checkpoint.nbytes)} ({checkpoint.nbytes:,} bytes)"),
        ("dtypes", ", ".join(f"{dtype} ×{count:,}" for dtype, count in checkpoint.dtypes.items()) or "none"),
    ]
    if checkpoint.files:
        names = [f"{file} ({bytes_text(size)})" for file, size in checkpoint.files.items()]
        facts.append(("files", _shortened(names, "file")))
    if ties := _ties(checkpoint, config):
        facts.append(("ties", _shortened(ties, "group")))
    if checkpoint.metadata:
        entries = [f"{key}={value[:60]}" for key, value in checkpoint.metadata.items()]
        facts.append(("metadata", _shortened(entries, "entry")))
    rows = tensor_rows(checkpoint, every=every)
    return Document(tuple(facts), (Section("", rows, ("tensor", "shape", "dtype", "count")),))


def inspect_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of `ckptmap inspect --format json`, described in docs/json.md."""
    checkpoint.check_filter()
    config, problem = _config(checkpoint)
    return {
        "source": checkpoint.source,
        "commit": checkpoint.commit,
        "part": checkpoint.part,
        "names": checkpoint.names,
        "architectures": _architectures(config) or None,
        "model_type": _text(config, "model_type"),
        "totals": totals_json(checkpoint)
        | {
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
        "warnings": [*checkpoint.warnings, *([problem] if problem else [])],
        "findings": findings_json(checkpoint.findings),
    }


def _config(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], str | None]:
    """What config.json says, or why nothing is known of it: tensors can be told without."""
    try:
        return checkpoint.config or {}, None
    except CheckpointError as error:
        return {}, f"config.json is not used: {error.problem}"


def _text(config: Mapping[str, Any], field: str) -> str | None:
    value = config.get(field)
    return value if isinstance(value, str) else None


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _architecture(config: Mapping[str, Any]) -> str | None:
    names = ", ".join(_architectures(config))
    kind = f"model_type {kind}" if (kind := _text(config, "model_type")) else ""
    return f"{names} ({kind})" if names and kind else names or kind or None


def _ties(checkpoint: Checkpoint, config: Mapping[str, Any]) -> list[str]:
    ties = [" = ".join(group) for group in checkpoint.ties]
    has_output = next(iter(_architectures(config)), "").endswith(WITH_OUTPUT)
    if config.get("tie_word_embeddings") is True and has_output and len(checkpoint) == checkpoint.unfiltered:
        names = [f".{name}" for name in checkpoint]
        stored = [any(name.endswith(ends) for name in names) for ends in (INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS)]
        if stored == [True, False]:
            ties.append("config.json ties input and output embeddings; only the input one is stored")
    return ties


def _shortened(items: list[str], noun: str) -> str:
    if len(items) <= SHOWN:
        return ", ".join(items)
    return f"{', '.join(items[:SHOWN])} and {count_text(len(items) - SHOWN, f'more {noun}')}"
