"""Find parameters that transformers never writes: `python benchmarks/unwritten.py --truth DIR [--write]`.

Every class of the recorded families is really loaded from an empty state dict, with fresh memory filled by a mark; what
still bears the mark afterwards was written by nobody. `--write` keeps the table in ckptmap/heads/unwritten.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers

MARK = 12345.0
TABLE = Path(__file__).parent.parent / "ckptmap" / "heads" / "unwritten.json"
empty_like = torch.empty_like


def marked(like: torch.Tensor, **options: Any) -> torch.Tensor:
    made = empty_like(like, **options)
    return made.fill_(MARK) if made.is_floating_point() and made.device.type != "meta" else made


def unwritten(class_name: str, config: dict[str, Any]) -> list[str]:
    cls = getattr(transformers, class_name)
    fields = {key: value for key, value in config.items() if key != "transformers_version"}
    made = cls.config_class.from_dict(fields)
    with patch.object(torch, "empty_like", marked):
        model = cls.from_pretrained(None, config=made, state_dict={})
    return [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and tensor.numel() and bool((tensor == MARK).all())
    ]


def recorded(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("*.json.gz")):
        record = json.loads(gzip.decompress(path.read_bytes()))
        seen = set()
        for pair in record["pairs"]:
            if pair["loaded_class"] not in seen and pair["kind"] == "plain":
                seen.add(pair["loaded_class"])
                yield pair["loaded_class"], record["configs"][pair["config"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    found: dict[str, list[str]] = {}
    tried = 0
    for class_name, config in recorded(args.truth):
        tried += 1
        try:
            names = unwritten(class_name, config)
        except Exception as error:
            print(f"{class_name}: not loaded ({type(error).__name__}: {str(error)[:100]})")
            continue
        if names:
            found[class_name] = names
            print(f"{class_name}: {', '.join(names)}")
    print(f"{len(found)} of {tried} classes leave memory unwritten")
    if args.write:
        table = {
            "transformers": transformers.__version__,
            "torch": torch.__version__.partition("+")[0],
            "classes": found,
        }
        TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
