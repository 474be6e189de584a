"""When, from where and for what each token was last used, and how often: counted in memory, told to the store in turns.

A request pays for one look into a dictionary. What was counted goes to the store every few seconds and at the stop,
in batches that carry a number: a batch whose answer was lost is told again and counted once. A process that is
killed takes one turn's counts with it, and nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import lru_cache

from gateway.model import AuditEvent
from gateway.problem import Problem
from gateway.ratelimit import client_network
from gateway.store import Store, Use

TURN_S = 5.0
BATCH = 100
"""Uses told at once: as many as are made ready, and written, in about a millisecond."""

_network = lru_cache(4_096)(client_network)


class _Seen:
    """One token's uses since the last turn."""

    __slots__ = ("count", "earlier_at", "last")

    def __init__(self, event: AuditEvent) -> None:
        self.count = 0
        self.last = event
        self.earlier_at: float | None = None


class LastUse:
    """The uses that one process sees. `see` never waits and never fails; `watch` has to run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._source = secrets.token_hex(8)
        self._number = 0
        self._seen: dict[str, _Seen] = {}
        self._waiting: dict[str, _Seen] = {}
        self._batch: list[Use] = []
        self._turn = asyncio.Lock()

    def see(self, event: AuditEvent) -> None:
        """Count an exchange, if a token was accepted in it."""
        principal = event.principal
        if principal is not None:
            try:
                seen = self._seen[principal.token_id]
            except KeyError:
                seen = self._seen[principal.token_id] = _Seen(event)
            seen.count += 1
            seen.last = event
            if principal.earlier:
                seen.earlier_at = event.began

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            await self.flush()

    async def flush(self) -> None:
        """Tell the store what was counted. What it cannot take now is told at the next turn."""
        async with self._turn:
            if (
                await self._tell()
            ):  # what was left from the turn before: it is bounded by the number of tokens
                self._waiting, self._seen = self._seen, {}
                await self._tell()

    async def _tell(self) -> bool:
        """Whether everything that waits has been told."""
        while self._batch or self._waiting:
            if not self._batch:
                self._number += 1
                count = min(BATCH, len(self._waiting))
                self._batch = [_use(*self._waiting.popitem()) for _ in range(count)]
            try:
                await self._store.add_uses(self._batch, source=self._source, number=self._number)
            except Problem:  # logged by the store; the same batch with the same number comes again
                return False
            self._batch = []
        return True


def _use(token_id: str, seen: _Seen) -> Use:
    event = seen.last
    return Use(
        token_id,
        seen.count,
        int(event.began),
        _network(event.client),
        event.call.operation.id if event.call is not None else event.act or event.surface,
        None if seen.earlier_at is None else int(seen.earlier_at),
    )
