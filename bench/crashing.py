"""A gateway that is killed and started again while it is used: a worker of it, all of it, or by a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import Children
from bench.serving import Serving, start, workers_of

WORKERS = 2
AT_TERMINALS = 3
"""How many commands run at once beside it."""
PATIENCE_S = 30.0


@dataclass
class Site:
    """The gateway, which comes and goes. Within `disturbed` an exchange may break off."""

    children: Children
    serving: Serving
    up: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)
    disturbed: list[list[float]] = field(default_factory=list)
    terminals: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_TERMINALS))
    blows: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.serving.port

    def excuses(self, start: float, end: float) -> bool:
        """Whether a crash or a restart fell into this time."""
        return any(began <= end and start <= over for began, over in self.disturbed)

    async def strike(self, how: str, chance: random.Random) -> None:
        """A crash or a restart; back when all workers serve again."""
        self.blows[how] += 1
        window = [time.monotonic(), float("inf")]
        self.disturbed.append(window)
        if how == "a worker killed":
            os.kill(chance.choice(workers_of(self.serving.child)), signal.SIGKILL)
            await self.listening(lambda count: count < WORKERS)
        else:
            self.up.clear()
            child = self.serving.child
            if how == "all killed":
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.to_thread(self.children.stop, child)
            self.said.append(child.errors.read_text(errors="replace"))
            child = start(self.children, self.serving.config)
            self.serving = Serving(self.serving.url, child, (), self.serving.manager, self.serving.config)
            await asyncio.to_thread(child.line)
        await self.listening(lambda count: count == WORKERS)
        window[1] = time.monotonic()
        self.up.set()

    async def listening(self, enough: Callable[[int], bool]) -> None:
        """Until so many workers accept connections. Raises: RuntimeError when that does not come about."""
        deadline = time.monotonic() + PATIENCE_S
        while not enough(listeners(self.port)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"a worker was not replaced: {self.serving.child.said()}")
            await asyncio.sleep(0.01)

    async def fate(self, chance: random.Random, blows: int) -> None:
        """Crashes at moments drawn by lot, half of them right after something was acknowledged."""
        for _ in range(blows):
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            if chance.random() < 0.5:
                self.acknowledged.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.acknowledged.wait(), 1.0)
            await self.strike(chance.choice(("a worker killed", "all killed", "restarted")), chance)


def listeners(port: int) -> int:
    """How many sockets of this machine listen on a port of loopback."""
    wanted = f"0100007F:{port:04X}"
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(1 for row in rows if row[1] == wanted and row[3] == "0A")
