"""What bytes mean: one file a format.

A reader takes a store and the name of a file in it and returns `Contents`. Nothing it reads is trusted: a
reader checks all that a hostile file could lie about, and raises `CheckpointError` and nothing else.
"""

from ckptmap.formats.base import Contents, Extent

__all__ = ["Contents", "Extent"]
