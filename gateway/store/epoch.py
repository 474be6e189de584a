"""A number that every process of the machine sees change before a change of the store is acknowledged.

Eight bytes of a file beside the database, mapped into memory: what a process remembers of the store is good
only while the number is the one it saw before it read. Reading it costs no system call.

The number is the store's `generation` as committed, so setting it twice, or late, or out of order does no harm:
whoever sees it change reads the store again. A process that dies between its commit and setting the number has
not acknowledged anything; `Store.refresh` makes up for it.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

SIZE = 8


class Epoch:
    """The shared number of one database file."""

    __slots__ = ("_map", "_view")

    def __init__(self, database: Path) -> None:
        """Raises: OSError, when the file cannot be made or mapped."""
        path = f"{database}-epoch"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(file).st_size < SIZE:
                os.ftruncate(file, SIZE)
            self._map = mmap.mmap(file, SIZE)
        finally:
            os.close(file)
        # One aligned machine word: a reader never sees half of a write.
        self._view = memoryview(self._map).cast("Q")

    def get(self) -> int:
        return self._view[0]

    def set(self, generation: int) -> None:
        if self._view[0] != generation:
            self._view[0] = generation

    def close(self) -> None:
        self._view.release()
        self._map.close()
