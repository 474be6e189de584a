"""Network Integration replies without what may not pass: a JSON document in, the same one out with members left out.

What may pass of a body that has to be read is `reading.py`'s to say. This is when one has to be, and from where.

As long as a quick look finds nothing in a body, it passes as it comes. The look may find something in the middle: then
reading begins at the string that it lies in. Where that string begins is certain, though nothing before it was read:
what was found has letters in a row that JSON has nowhere but in strings, and the beginning of every string that may yet
become dangerous is kept back. What stood before, and how it is nested, is not checked; nothing of it would have been
withheld.

A body that is suspicious from the beginning is read strictly from there to its end, and kept back up to 64 KiB, so that
one that cannot be read is refused. Memory is bounded by that, or by one string of at most 1 MiB.

Source: RFC 8259; issue "Sensitive columns never leave the vendor", Network Integration.
"""

from __future__ import annotations

from gateway.fields import LONGEST_START, Look
from gateway.filter import GATHERED, Parts
from gateway.reading import Reading, without_space
from gateway.rules import Rules, Tally


class Strip:
    """One reply on its way: `feed` bytes in, bytes out; `close` at the end."""

    def __init__(self, rules: Rules) -> None:
        self.tally = Tally()
        self._rules = rules
        self._reading: Reading | None = None
        self._held = b""
        self._passed = False
        self._gathered: list[bytes | memoryview] | None = None
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """Raises: Unfilterable."""
        return b"".join(self.parts(data))

    def parts(self, data: bytes) -> Parts:
        """Raises: Unfilterable."""
        parts = self._looked_at(data) if self._reading is None else (self._reading.feed(data),)
        if self._gathered is None:
            self._passed = self._passed or any(parts)
            return parts
        self._gathered += parts
        self._size += sum(map(len, parts))
        if self._size <= GATHERED:
            return ()
        shown = self._gathered
        self._gathered = None
        return shown

    def close(self) -> bytes:
        """Raises: Unfilterable when the body is not whole, where it is read; or where its names are."""
        last = self._held if self._reading is None else self._reading.close()
        if self._gathered is None:
            return last
        return b"".join((*self._gathered, last))

    def _looked_at(self, data: bytes) -> Parts:
        """What may pass of a body in which nothing was found so far."""
        held, look = self._held, self._rules.look
        if held and len(data) < 2 * LONGEST_START:
            held, data = b"", held + data
        # Of a long piece, the border with what is held is looked at alone, and nothing is copied twice.
        if look.first(data) >= 0 or (held and look.first(held + data[: look.longest]) >= 0):
            return self._suspicious(held + data)
        at = _kept_from(data, look)
        if held and not at:
            held, data = b"", held + data
            at = _kept_from(data, look)
        self._held = data[at:]
        return held, memoryview(data)[:at]

    def _suspicious(self, data: bytes) -> Parts:
        """The same, from here on read: from the beginning, while all of it is here."""
        self._held = b""
        reading = self._reading = Reading(self._rules, self.tally)
        if not self._passed:
            self._gathered = []
            return (reading.feed(data),)
        at = reading.begin(data, self._rules.look.first(data))
        return data[:at], reading.feed(data[reading.at :])


def _kept_from(data: bytes, look: Look) -> int:
    """From where on bytes are kept back: the last string that may go on, with the mark that stands before it. Where
    the last one began long ago, or none did, no more than may be the beginning of what is looked for."""
    at = data.rfind(b'"', max(0, len(data) - LONGEST_START))
    if at < 0:
        at = len(data) - look.begun(data)
    if at and data[at - 1] == 0x5C:
        while at and data[at - 1] == 0x5C:  # none of a row without all of it: they are counted later
            at -= 1
        return at
    before = without_space(data, at)
    return before - 1 if before and data[before - 1] in b",:{[" else at if before else 0
