"""A count over the last so many hours or days, in a few bytes: one number for each of them, the oldest forgotten.

Pure. A unit is a whole number of hours, or of days, since the epoch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HOUR_S, DAY_S = 3600, 86_400
HOURS, DAYS = 24, 30
MOST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of the units up to `last`, oldest first. What is added twice counts twice: see `Store.add_uses`."""

    last: int
    counts: tuple[int, ...]

    @classmethod
    def none(cls, units: int) -> Tally:
        """Nothing counted, of so many units."""
        return cls(0, (0,) * units)

    @classmethod
    def unpack(cls, packed: object) -> Tally:
        """From the form of `pack`. Raises: ValueError for anything else."""
        if type(packed) is not bytes or len(packed) < 12 or len(packed) % 4:
            raise ValueError("is not a tally")
        last, *counts = struct.unpack(f">Q{len(packed) // 4 - 2}I", packed)
        return cls(last, tuple(counts))

    def pack(self) -> bytes:
        """Eight bytes and four for each unit."""
        return struct.pack(f">Q{len(self.counts)}I", self.last, *self.counts)

    def add(self, unit: int, count: int) -> Tally:
        """With so many more in a unit; in one that is too old to be counted, none."""
        moved = self._up_to(unit) if unit > self.last else self
        place = len(moved.counts) - 1 - (moved.last - unit)
        if place < 0:
            return moved
        counts = list(moved.counts)
        counts[place] = min(counts[place] + count, MOST)
        return Tally(moved.last, tuple(counts))

    def total(self, unit: int) -> int:
        """How many in this unit and those before it, as many as are kept."""
        return sum(self._up_to(unit).counts if unit > self.last else self.counts)

    def _up_to(self, unit: int) -> Tally:
        size = len(self.counts)
        passed = min(unit - self.last, size)
        return Tally(unit, (*self.counts[passed:], *(0,) * passed))
