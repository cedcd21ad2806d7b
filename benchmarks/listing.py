"""How long it takes to list a safetensors file of 100,000 tensors."""

from __future__ import annotations

from pathlib import Path

import files
import measure
from measure import Row, Run

HOW = """\
All names, shapes and dtypes of one safetensors file (a header of 12 MB), as a list: by `open_checkpoint`, which
validates the header in full, by `huggingface_hub`'s `parse_local_safetensors_file_metadata`, which does not, and by
`safe_open(…, "pt")` with a slice of every key. Wall time of the call without imports and peak memory of the process,
medians of 7; all must list the same."""

TENSORS = 100_000


def run(folder: Path) -> list[Row]:
    """Measure the three readers on one file."""
    path = folder / "many.safetensors"
    names = (f"model.layers.{n // 1000}.mlp.experts.{n % 1000}.down_proj.weight" for n in range(TENSORS))
    files.write_safetensors(path, dict.fromkeys(names, (64, 64)))
    took = measure.same(
        7,
        ours=("ckptmap_open", str(path)),
        client=("hub_parse_local", str(path)),
        library=("safe_open_slices", str(path)),
    )
    ours, client, library = took["ours"], took["client"], took["library"]
    ratio = ours.call / client.call
    return [
        Row(
            f"list {TENSORS:,} tensors, validated",
            _shown(ours),
            f"Hub client's parser: {_shown(client)}",
            ratio,
            "< 1 of the time",
            ratio < 1,
        ),
        Row("the same", _shown(ours), f"`safe_open`: {_shown(library)}", ours.call / library.call),
    ]


def _shown(run: Run) -> str:
    return f"{run.call:.2f} s, {run.peak:.0f} MiB"
