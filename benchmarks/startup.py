"""How long `ckptmap inspect FILE` takes, from the shell's prompt to the next one."""

from __future__ import annotations

from pathlib import Path

import files
import measure
from measure import Row

HOW = """\
`python -m ckptmap inspect FILE` with its output in a pipe, beside an interpreter that does nothing and one that imports
torch. FILE is a safetensors file of 219 tensors, then a small file of torch.save. Wall time of the whole process,
medians of 15."""

PICKLE = measure.ROOT / "fixtures" / "roberta-cls-bin" / "pytorch_model.bin"

BAR = 0.15


def run(folder: Path) -> list[Row]:
    """Measure the whole process."""
    path = folder / "model.safetensors"
    files.write_safetensors(path, files.decoder_shapes(layers=24, hidden=1024, vocabulary=32000))
    took = measure.by_turns(
        15,
        bare=lambda: measure.command("-c", "pass"),
        ours=lambda: measure.command("-m", "ckptmap", "inspect", str(path)),
        pickle=lambda: measure.command("-m", "ckptmap", "inspect", str(PICKLE)),
        torch=lambda: measure.command("-c", "import torch"),
    )
    bare, torch = took["bare"].process, took["torch"].process

    def row(what: str, ours: float) -> Row:
        peer = f"bare interpreter: {_shown(bare)}"
        return Row(what, _shown(ours), peer, ours / bare, f"≤ {_shown(BAR)}", ours <= BAR)

    ours = took["ours"].process
    return [
        row("`ckptmap inspect FILE`, whole process", ours),
        Row("the same", _shown(ours), f"`import torch`: {_shown(torch)}", ours / torch),
        row("the same for a file of torch.save", took["pickle"].process),
    ]


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
