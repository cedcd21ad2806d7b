"""A file of a store read at any place, in few and large requests."""

from __future__ import annotations

from ckptmap.stores.base import Store

DEFAULT_WINDOW = 64 * 1024


class WindowedFile:
    """Reads a file of a store in windows and keeps the last few, so that small reads cost one request together.

    Args:
        store: Where the file is.
        file: Its name in the store.
        window: The least number of bytes asked for at once.
        keep: How many windows are kept.
    """

    def __init__(self, store: Store, file: str, *, window: int = DEFAULT_WINDOW, keep: int = 4) -> None:
        self.store = store
        self.file = file
        self.size = store.size(file)
        self._window = window
        self._keep = keep
        self._windows: list[tuple[int, bytes]] = []

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`: fewer only where the file ends."""
        length = max(0, min(length, self.size - offset))
        if length == 0:
            return b""
        for start, data in self._windows:
            if start <= offset and offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        data = self.store.read(self.file, offset, min(max(length, self._window), self.size - offset))
        self._windows = [*self._windows[1 - self._keep :], (offset, data)]
        return data if len(data) == length else data[:length]
