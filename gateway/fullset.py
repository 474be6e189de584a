"""The guard before a write that replaces a stored set: reads what is stored, twice, around whatever else is to be done.

First when the request is judged, then right before it is sent: a set that changed in between is not replaced. Writes
to the same account through this process wait for each other. What is left open are writers elsewhere, in the moment
between the second answer and the arrival of the write: the vendor offers no conditional requests to close it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from gateway.connection import UpstreamRequest
from gateway.problem import Problem
from gateway.refusals import PASSED, documented, passed_on
from gateway.replacing import Sets, changed, removals, require, stored
from gateway.upstream import Reply, Upstream

MAX_STORED = 8_388_608


class FullSets:
    """Checks writes against what the upstream has stored. One for each process."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def alone(self, path: str) -> AsyncIterator[None]:
        """While this is held, no other write of this process to what `path` reads is on its way."""
        lock = self._writing.get(path)
        if lock is None:
            lock = self._writing[path] = asyncio.Lock()
        async with lock:
            yield

    async def check(self, read: UpstreamRequest, kept: Sets, confirms: int | None) -> Sets:
        """What is stored, where the write may go on. Raises: Problem "removals-unconfirmed", and those of reading."""
        present = await self._stored(read, kept)
        require(removals(present, kept), confirms)
        return present

    async def check_again(self, read: UpstreamRequest, kept: Sets, before: Sets) -> None:
        """Raises: Problem "removals-unconfirmed" where something else is stored than before."""
        present = await self._stored(read, kept)
        if {name: sorted(keys) for name, keys in present.items()} != {
            name: sorted(keys) for name, keys in before.items()
        }:
            raise changed(removals(present, kept))

    async def _stored(self, read: UpstreamRequest, names: Mapping[str, object]) -> Sets:
        async with self._upstream.open(read) as reply:
            text = await _whole(reply)
            if reply.status == 404 and _is_missing(text):
                return dict.fromkeys(names, ())
            if reply.status == 200:
                return stored(text, names)
            if reply.status not in PASSED:
                passed_on(reply.status, text)
            # A refusal to read, whatever it says, is no answer to the write.
            raise Problem("upstream-unreadable", "What is stored could not be read, so it is not replaced.")


async def _whole(reply: Reply) -> bytes:
    pieces = bytearray()
    while piece := await reply.read():
        pieces += piece
        if len(pieces) > MAX_STORED:
            raise Problem(
                "upstream-unreadable", "What is stored is too long to be read, so it is not replaced."
            )
    return bytes(pieces)


def _is_missing(text: bytes) -> bool:
    """Whether the vendor itself says that there is no such record: from anybody else, 404 says nothing of it."""
    document = documented(text) or {}
    errors = document.get("errors")
    return isinstance(errors, dict) and errors.get("class") == "RecordNotFound"
