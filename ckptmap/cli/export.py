"""`ckptmap export`: a rule file in the form of another tool."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ckptmap.cli.check import add_operands, read_config_file, read_sides, read_sizes
from ckptmap.cli.common import show_error
from ckptmap.errors import ConvertError, ExportError
from ckptmap.exporting import TARGETS, export
from ckptmap.printing import show
from ckptmap.rules.rules import write_text

EXAMPLES = """\
  ckptmap export names.ckptmap my-model/ --to key-mapping
  ckptmap export vit.ckptmap timm.safetensors --to transformers -o vit.py
  ckptmap export llama.ckptmap meta-llama/Llama-3.2-1B --to python -o llama.py
  ckptmap export llama.ckptmap --to json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's operands and flags."""
    add_operands(parser)
    parser.add_argument(
        "--to",
        metavar="TARGET",
        choices=TARGETS,
        required=True,
        help="; ".join(f"{name}: {target.says}" for name, target in TARGETS.items()),
    )
    parser.add_argument("--back", action="store_true", help="from the right side to the left")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write it there, in place of showing it")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


def run(args: argparse.Namespace) -> int:
    """Write the export; 0 when it is written, 1 when the target cannot say it."""
    if args.output is not None and os.path.lexists(args.output) and not args.force:
        raise ConvertError(f"{args.output}: exists; --force overwrites")
    sizes, given = read_sizes(args.size), read_config_file(args.config)
    (left, right), config = read_sides(args, given)
    try:
        text = export(args.rules, args.to, left, right, sizes=sizes, config=config, back=args.back)
    except ExportError as error:
        show_error(error)
        return 1
    if args.output is None:
        show(text)
    else:
        write_text(args.output, text)
    return 0
