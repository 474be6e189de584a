"""A number that every process of the machine sees change before a change of the store is acknowledged.

Eight bytes of a file beside the database, mapped into memory: what a process remembers of the store is good
only while the number is the one it saw before it read. Reading it costs no system call.

The number is the store's `generation` as committed, and it never goes back: a process that read it, was held up,
and sets it late would otherwise bring back a number under which somebody remembers what has since been deleted.
One process sets it at a time (`flock`). One that dies between its commit and setting the number has not
acknowledged anything; `Store.refresh` makes up for it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

SIZE = 8


class Epoch:
    """The shared number of one database file."""

    __slots__ = ("_file", "_map", "_view")

    def __init__(self, database: Path) -> None:
        """Raises: OSError, when the file cannot be made or mapped."""
        path = f"{database}-epoch"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(self._file).st_size < SIZE:
                os.ftruncate(self._file, SIZE)
            self._map = mmap.mmap(self._file, SIZE)
        except BaseException:
            os.close(self._file)
            raise
        # One aligned machine word: a reader never sees half of a write.
        self._view = memoryview(self._map).cast("Q")

    def get(self) -> int:
        return self._view[0]

    def set(self, generation: int) -> None:
        """Bring the number up to `generation`, if it is below."""
        if generation <= self._view[0]:
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if generation > self._view[0]:
                self._view[0] = generation
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._view.release()
        self._map.close()
        os.close(self._file)
