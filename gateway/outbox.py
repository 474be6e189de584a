"""Writes that wait until all that came in one turn of the loop has been read, and then go out in a row.

A write to a peer that sleeps has to wake it, and on a virtual machine that costs more than the write. Where a request
or an answer is written as soon as it is ready, the work for the next one lies between it and the next write, and a peer
that is quicker has gone to sleep again: nearly every write wakes one. In a row, one waking does for many. Seen with 64
connections beside a quick upstream: 0.47 wakings for each read became 0.12, and a fifth more requests a second.

For what is whole and small. A long body is written as it comes: here it would pile up, and nobody be told to wait.
"""

from __future__ import annotations

import asyncio


class Outbox:
    """What one side of the gateway writes. `turn` counts the rows that have gone out."""

    __slots__ = ("_waiting", "turn")

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self.turn = 0

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data` before anything that a later turn of the loop brings; nothing, if the transport is closed by
        then."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Write at once: whoever closes a transport after an answer must."""
        waiting, self._waiting = self._waiting, []
        self.turn += 1
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
