"""`python -m ckptmap`, and the `ckptmap` command."""

from __future__ import annotations

import sys

from ckptmap.cli.ending import keep_descriptors, leave, received
from ckptmap.cli.main import main

__all__ = ["main", "run"]


def run() -> None:
    """Run the command line and exit with its code."""
    keep_descriptors()
    code = main(own_process=True)
    if received() is not None:
        leave(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
