"""What a filter of answers is: bytes of the upstream's body in, those that may pass out; and what it withheld.

Whoever sends answers on (`flow.py`, `lean.py`) knows no more of a filter than this, and of what makes them (`Guard`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.problem import Headers, Problem

GATHERED = 65_536
"""Bytes that a filter may keep back so that an answer which cannot be read is refused rather than cut."""


Parts = Sequence[bytes | memoryview]
"""Bytes in a row, some perhaps empty."""


class Unfilterable(Exception):
    """The body cannot be read completely, so none of the rest may pass. The text is ours, never the upstream's."""


class Tally(Protocol):
    """What one answer lacks, so far."""

    @property
    def withheld(self) -> Mapping[str, int]:
        """How many names were withheld of each class; no class with none."""


class Filter(Protocol):
    """One answer on its way."""

    @property
    def tally(self) -> Tally:
        """It grows with the answer."""

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the upstream's body into those that may pass, perhaps none. Raises: Unfilterable."""

    def parts(self, data: bytes) -> Parts:
        """As `feed`, without the copy that makes one of what passes unchanged and what was kept back before it."""

    def close(self) -> bytes:
        """The end of the upstream's body. Raises: Unfilterable when it is not a whole one."""


class Guard(Protocol):
    """What protects the answers to one call. It belongs to no single answer, and may be kept.

    `filters`: a body may have to be changed; otherwise its head is looked at, and it passes as it comes.
    """

    filters: bool

    def fields(self, status: int, reply: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
        """Headers that the answer gets besides those that travel. Raises: Problem for a head whose body cannot be
        read: another status of success, another media type, another charset."""

    def receipt(self, tally: Tally | None) -> Headers:
        """The header that says what the answer lacks: of the whole of it, or without a tally what is known before."""

    def clean(self, body: bytes) -> bool:
        """Whether a whole body passes as it is. Quick: it is asked of every answer."""

    def open(self) -> Filter:
        """A filter for one body."""


def receipt(withheld: Mapping[str, int], unit: str) -> Headers:
    """The header that says what was withheld: `Gateway-Withheld: pii;columns=4, financial;columns=2`."""
    if not withheld:
        return ()
    return (("Gateway-Withheld", ", ".join(f"{name};{unit}={number}" for name, number in withheld.items())),)


def unreadable() -> Problem:
    """What an Unfilterable becomes, while that can still be said."""
    return Problem(
        "upstream-unreadable", "The upstream's answer could not be read to its end, so none of it passes."
    )
