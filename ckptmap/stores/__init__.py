"""Where bytes are: one file a kind of place.

A store lists the files of one folder (or of one repo at one commit) and reads byte ranges of them.
It knows nothing of what the bytes mean; `ckptmap/formats/` does.
"""

from ckptmap.stores.base import Store, StoredFile

__all__ = ["Store", "StoredFile"]
