"""`python -m ckptmap`, and the `ckptmap` command."""

from __future__ import annotations

import sys

from ckptmap.cli.main import main

__all__ = ["main", "run"]


def run() -> None:
    """Run the command line and exit with its code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
