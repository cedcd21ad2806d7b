"""How much a pickle may ask of the machine that reads it."""

from __future__ import annotations

# A real checkpoint of 100 000 tensors takes 3.5 million opcodes, 1.2 million memo entries and 2 million items; a
# hostile pickle that uses any of these limits up stays within about 200 MiB, its own bytes not counted.
MAX_OPCODES = 12_000_000
MAX_STACK = 1_000_000
MAX_MARKS = 10_000
MAX_ITEMS = 3_200_000
MAX_CONTAINERS = 600_000
MAX_CALLS = 1_000_000
MAX_SPARSE_MEMO = 100_000
MAX_KEPT_STRING = 64 * 1024
MAX_WIDE_CHARACTERS = 16_000_000
MAX_INTEGER_BYTES = 1024
MAX_LINE = 4096
MAX_ALIKE = 20
"""Calls of one function that are kept: more are more of the same, and none of another is lost."""
