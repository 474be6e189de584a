"""How many personal records a token is given in a day: taken before a request goes upstream, what is left given back.

As many are taken as the answer may have rows, in one transaction of the store, which all workers share: of two
requests at once, only one gets the last ones. A request that asks for more rows than are left is refused and told
how many are: a shorter answer than was asked for would say to whoever pages through that there is no more. When the
answer is over, what it held is counted, and the rest given back. Who dies in between, or cannot reach the store
afterwards, has spent what was taken: never is more given than there was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from gateway.model import Principal
from gateway.problem import Problem
from gateway.store import Store

DAY_S = 86_400
log = logging.getLogger("gateway.budget")


@dataclass(frozen=True, slots=True)
class Taken:
    """So many personal records, at UTC seconds."""

    token_id: str
    count: int
    at: int


class Budgets:
    """The budgets of all tokens, as one process sees them."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._giving: set[asyncio.Task[None]] = set()

    async def take(self, principal: Principal, count: int) -> Taken:
        """Take so many of today's for one answer. Raises: Problem "budget-spent", "store-unavailable"."""
        taken = Taken(principal.token_id, count, int(self._clock()))
        left = await self._store.take_records(taken.token_id, count, at=taken.at)
        if left is not None:
            raise spent(left, count, taken.at)
        return taken

    async def check(self, principal: Principal, count: int) -> None:
        """As `take`, without taking any."""
        now = int(self._clock())
        left = await self._store.records_left(principal.token_id, at=now)
        if left is not None and left < count:
            raise spent(left, count, now)

    async def left(self, principal: Principal) -> int | None:
        """How many are left today; None for no limit. Raises: Problem "store-unavailable"."""
        if principal.personal_records_per_day is None:
            return None
        return await self._store.records_left(principal.token_id, at=int(self._clock()))

    def settle(self, taken: Taken, given: int) -> None:
        """Give back what an answer did not hold. Never waits: whoever it was for may be gone."""
        if given < taken.count:
            task = asyncio.create_task(self._give_back(taken, taken.count - given))
            self._giving.add(task)
            task.add_done_callback(self._giving.discard)

    async def close(self) -> None:
        """Wait for what is being given back."""
        await asyncio.gather(*self._giving)

    async def _give_back(self, taken: Taken, count: int) -> None:
        try:
            await self._store.give_records_back(taken.token_id, count, at=taken.at)
        except Problem:  # not again: it may have happened, and nothing may be given back twice
            log.warning(
                "budget-not-given-back: %d records of %s stay spent until midnight", count, taken.token_id
            )


def spent(left: int, wanted: int, now: int) -> Problem:
    """The refusal of a request for more than is left."""
    return Problem(
        "budget-spent",
        f"Up to {wanted} personal records were asked for, and {left} are left until midnight UTC: "
        "ask for fewer (limit), or for columns that are not personal.",
        headers=(("Retry-After", str(DAY_S - now % DAY_S)),),
        left=left,
    )
