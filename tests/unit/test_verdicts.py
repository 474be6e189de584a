"""The queue in which wrong guesses wait."""

from __future__ import annotations

import asyncio

import pytest

from gateway.problem import Problem
from gateway.verdicts import Queues


async def test_one_networks_guessing_is_not_anothers_delay():
    queues = Queues(per_second=20, at_once=3)
    crowd = [asyncio.create_task(queues.wait("203.0.113.0/24")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Problem, match="rate-limited"):
        await queues.wait("203.0.113.0/24")
    await queues.wait("198.51.100.0/24")
    assert not all(each.done() for each in crowd)
    await asyncio.gather(*crowd)
    assert not queues._waiting


async def test_who_gives_up_waiting_leaves_their_place():
    queues = Queues(per_second=20, at_once=1)
    waiting = asyncio.create_task(queues.wait("a"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await queues.wait("a")
    assert not queues._waiting
