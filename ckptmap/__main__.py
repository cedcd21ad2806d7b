"""`python -m ckptmap`, and the `ckptmap` command."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from ckptmap.cli.main import main
from ckptmap.cli.streams import fill_standard_descriptors

__all__ = ["main", "run"]


ENDED_BY_A_SIGNAL = 128


def run() -> None:
    """Run the command line and exit with its code."""
    fill_standard_descriptors()
    code = main()
    if code > ENDED_BY_A_SIGNAL:
        # Threads may wait for a server that says nothing; Python would wait for them.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
