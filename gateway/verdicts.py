"""What is remembered of credentials: who a token turned out to be, and which texts were never tokens.

A verdict is good only while three things hold: the store's epoch is the one it was read under, the store was
reached in the last two seconds, and the token has not expired. So a deleted token is refused by every process of
the machine from the acknowledgement on, and a store that cannot answer is trusted for two seconds, no longer.

Both memories are bounded, and keyed by the whole text that was sent: a prefix or a digest of part of it would
let one credential answer for another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.model import Principal
from gateway.problem import Problem
from gateway.store import Store
from gateway.tokens import Claims

FRESH_S = 2.0
"""For how long after the store was last reached its verdicts hold (section 3 of the design)."""
WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """A token that was found live. `epoch` is the store's from before it was looked up."""

    claims: Claims
    principal: Principal
    epoch: int


class Verdicts:
    """The memory of one process. `watch` has to run, or nothing is remembered."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        limit: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._limit = limit
        self._live: dict[str, Verdict] = {}
        self._never: dict[str, None] = {}
        self._reached_at = -FRESH_S

    async def watch(self) -> None:
        """See every half second whether the store can be reached, and make up for a writer that died."""
        while True:
            await self.check()
            await asyncio.sleep(WATCH_S)

    async def check(self) -> None:
        """Reach the store once."""
        asked_at = self._monotonic()
        try:
            await self._store.refresh()
        except Problem:  # logged by the store; two seconds from the last success, its verdicts end
            return
        self._reached_at = asked_at

    def principal(self, text: str) -> Principal | None:
        """Who a credential is, when that is known and still holds."""
        verdict = self._live.get(text)
        if (
            verdict is None
            or verdict.epoch != self._store.epoch()
            or self._monotonic() - self._reached_at > FRESH_S
            or self._clock() >= verdict.principal.expires_at
        ):
            return None
        return verdict.principal

    def claims(self, text: str) -> Claims | None:
        """What a genuine token says: its signature was checked before, whatever has become of it since."""
        verdict = self._live.get(text)
        return None if verdict is None else verdict.claims

    def remember(self, text: str, verdict: Verdict) -> None:
        self._live.pop(text, None)
        while len(self._live) >= self._limit:
            del self._live[next(iter(self._live))]
        self._live[text] = verdict

    def forget(self, text: str) -> None:
        """A token that is no longer live has no place here."""
        self._live.pop(text, None)

    def never(self, text: str) -> bool:
        """Whether a text was already found to be no token of ours. Signatures do not become valid."""
        return text in self._never

    def remember_never(self, text: str) -> None:
        while len(self._never) >= self._limit:
            del self._never[next(iter(self._never))]
        self._never[text] = None

    def __len__(self) -> int:
        return len(self._live) + len(self._never)


class Queues:
    """Those who have guessed wrong too often wait here for their next guess: so many a second for each client
    network, and so many at once, so that one network's guessing is not another's delay."""

    def __init__(self, per_second: float, at_once: int) -> None:
        self._pause_s = 1 / per_second
        self._at_once = at_once
        self._waiting: dict[str, tuple[asyncio.Lock, int]] = {}

    async def wait(self, network: str) -> None:
        """Until it is one's turn. Raises: Problem "rate-limited" when too many of the network wait already."""
        turn, waiting = self._waiting.get(network, (asyncio.Lock(), 0))
        if waiting >= self._at_once:
            raise Problem(
                "rate-limited",
                "Too many credentials of this network were not accepted.",
                headers=(("Retry-After", "5"),),
            )
        self._waiting[network] = (turn, waiting + 1)
        try:
            async with turn:
                await asyncio.sleep(self._pause_s)
        finally:
            waiting = self._waiting[network][1] - 1
            if waiting:
                self._waiting[network] = (turn, waiting)
            else:
                del self._waiting[network]
