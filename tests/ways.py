"""The two ways of a request through the gateway, on real sockets in front of a scripted upstream.

A `Scene` is warm: its token is remembered, and a connection to the upstream is idle. So the next simple GET goes
the short way where there is one; `taken` tells for each request that the short way was asked about, whether it was.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, DummyCookieJar

from gateway.app import bind, build
from gateway.config import Config, Limits, Listen, Policies, Record, Store, Upstream
from gateway.credentials import Credentials
from gateway.demo import NETWORK, OTHER_ADVERTISER, PEOPLE
from gateway.tokens import PREFIX
from tests.conftest import UPSTREAM_TOKEN, Clock, Running, add_person
from tests.integration.test_wire import GET, NI, Heard, Line, ask, connect, head
from tests.upstream import OK, Peer, RawUpstream, Script, both_loops

SHORT, GENERAL = "short", "general"
# Each exchange has its own of these; and the framing is the gateway's, not the answer's (RFC 9112 section 6).
OF_ITS_OWN = frozenset({"date", "gateway-request-id", "content-length", "transfer-encoding"})
OF_ITS_RECORD = frozenset({"request_id", "time", "duration_ms", "token_id", "owner"})


def on_both_ways(test: Callable[..., Any]) -> Callable[..., None]:
    """A coroutine test for each way, on plain asyncio and on uvloop. Takes `way`."""
    ways = pytest.mark.parametrize("way", [SHORT, GENERAL])
    return ways(both_loops(test))  # type: ignore[no-any-return]


@dataclass
class Scene:
    """A warm gateway in front of `raw`. What the warming left behind is not counted."""

    way: str
    raw: RawUpstream
    running: Running
    taken: list[bool] = field(default_factory=list)
    repeated: int = 0
    """How many of those that were taken were not even parsed."""
    _before: tuple[int, int] = (0, 0)

    def get(self, *fields: str | bytes, target: str = NI, who: str = "network") -> bytes:
        return head(f"GET {target} HTTP/1.1", *fields, token=self.running.tokens[who])

    async def ask(self, data: bytes | None = None) -> Heard:
        """The answer to a GET, or to other bytes, on a connection of its own."""
        return await ask(self.running, self.get() if data is None else data)

    @property
    def requests(self) -> list[bytes]:
        """What reached the upstream."""
        return self.raw.requests[self._before[0] :]

    def records(self) -> list[dict[str, Any]]:
        return self.running.records()[self._before[1] :]

    def busy(self) -> int:
        return self.running.gateway.upstream.stats().busy

    async def settled(self, records: int = 1) -> dict[str, Any]:
        """The last of so many records, once no connection to the upstream is busy."""
        for _ in range(400):
            if not self.busy() and len(found := self.records()) >= records:
                return found[-1]
            await asyncio.sleep(0.01)
        raise AssertionError("the exchange does not end")

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(400):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("what was waited for does not come")

    def went(self, times: int = 1) -> None:
        """So many requests went this scene's way, and none of the others that came here went another."""
        if self.way == SHORT:
            assert sum(self.taken) == times, self.taken

    async def warm(self, who: str = "network") -> None:
        """Have a token remembered, with a connection to the upstream left idle."""
        assert (await self.ask(self.get(who=who))).status == 200
        await self.until(lambda: self.running.gateway.upstream.stats().idle > 0)
        self.running.gateway.recorder.flush()
        self._before = (len(self.raw.requests), len(self.running.records()))
        self.taken.clear()
        self.repeated = 0


def warmed(then: Script) -> Script:
    """The first request of all is answered well; the rest, of that connection and of others, is `then`'s."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.say(OK)
        await then(peer)

    return script


@asynccontextmanager
async def scene(
    way: str,
    then: Script,
    folder: Path,
    *,
    clock: Clock | None = None,
    limits: dict[str, Any] | None = None,
    listen: dict[str, Any] | None = None,
    policies: Policies | None = None,
    **upstream: Any,
) -> AsyncIterator[Scene]:
    """A warm gateway of one way, stopped afterwards with nothing left under way."""
    place = folder / way
    place.mkdir(exist_ok=True)
    async with RawUpstream(warmed(then)) as raw:
        running = await _started(
            way,
            raw.port,
            place,
            clock or Clock(),
            limits or {},
            listen or {},
            policies or Policies(),
            upstream,
        )
        made = Scene(way, raw, running)
        _watch_taking(made)
        try:
            assert (running.gateway.lean is not None) == (way == SHORT)
            await made.warm()
            yield made
        finally:
            await running.session.close()
            await running.gateway.stop()
        assert made.busy() == 0
        lean = running.gateway.lean
        assert lean is None or not lean._active


async def _started(
    way: str,
    upstream_port: int,
    place: Path,
    clock: Clock,
    limits: dict[str, Any],
    listen: dict[str, Any],
    policies: Policies,
    upstream: dict[str, Any],
) -> Running:
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    quiet = {"requests_per_minute": 0, "failed_authentications_per_minute": 0, "drain_timeout_s": 1.0}
    config = Config(
        public_url=f"http://127.0.0.1:{port}",
        listen=Listen(fast_path=way == SHORT, **listen),
        upstream=replace(
            Upstream(f"http://127.0.0.1:{upstream_port}", lend_network_credential=True),
            **{"connect_timeout_s": 1.0, "first_byte_timeout_s": 0.3, "gap_timeout_s": 0.3} | upstream,
        ),
        store=Store(path=str(place / "gateway.sqlite3"), keys=str(place / "keys")),
        record=Record(path=str(place / "records.jsonl")),
        policies=policies,
        limits=Limits(**quiet | limits),  # type: ignore[arg-type]
    )
    gateway = await build(config, clock, Credentials({NETWORK.key: UPSTREAM_TOKEN}, lend_network=True))
    running = Running(gateway, port, clock, {}, ClientSession(cookie_jar=DummyCookieJar()))
    await gateway.store.add_account(OTHER_ADVERTISER)
    for person in PEOPLE:
        await add_person(
            running, person.name, person.account, person.role, person.administrator, person.scopes
        )
    await gateway.start(listening)
    await gateway.verdicts.check()
    return running


def _watch_taking(made: Scene) -> None:
    lean = made.running.gateway.lean
    if lean is None:
        return
    take, repeat = lean.take, lean.repeat

    def watched(*args: Any) -> Any:
        exchange = take(*args)
        made.taken.append(exchange is not None)
        return exchange

    def repeated(*args: Any) -> Any:
        exchange = repeat(*args)
        if exchange is not None:  # else `take` is asked as well
            made.taken.append(True)
            made.repeated += 1
        return exchange

    lean.take = watched  # type: ignore[method-assign]
    lean.repeat = repeated  # type: ignore[method-assign]


# -- what is compared between the ways


@dataclass
class Outcome:
    """What came of one request, without what each exchange has of its own."""

    status: int | None
    kind: str
    headers: dict[str, str]
    body: bytes
    sent: list[bytes]
    record: dict[str, Any]


async def outcome(at: Scene, data: bytes | None = None) -> Outcome:
    """Send a request. An answer that is broken off has no status."""
    async with connect(at.running) as line:
        await line.send(at.get() if data is None else data)
        try:
            heard = await line.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            heard = None
        record = await at.settled()
    kept = {name: value for name, value in record.items() if name not in OF_ITS_RECORD}
    if heard is None:
        del kept["bytes_out"]  # how much had been sent is a matter of moments
        return Outcome(None, "", {}, b"", _sent(at), kept)
    fields = {name: value for name, value in heard.headers.items() if name not in OF_ITS_OWN}
    body = heard.body.replace(record["request_id"].encode(), b"ID")
    return Outcome(heard.status, heard.kind, fields, body, _sent(at), kept)


def _sent(at: Scene) -> list[bytes]:
    """What reached the upstream: the same for both, but for the port in Host."""
    host = f"127.0.0.1:{at.raw.port}".encode()
    return [request.replace(host, b"upstream") for request in at.requests]


async def outcomes(then: Script, folder: Path, **settings: Any) -> tuple[Outcome, Outcome]:
    """What the short way makes of a GET, and what the general one does."""
    clock = Clock()
    found = []
    for way in (SHORT, GENERAL):
        async with scene(way, then, folder, clock=clock, **settings) as at:
            found.append(await outcome(at))
            at.went()
    return found[0], found[1]


def token_free(request: bytes) -> bool:
    return PREFIX.encode() not in request


def told(document: bytes) -> dict[str, Any]:
    """A problem document without the id of its exchange."""
    found = json.loads(document)
    found.pop("instance", None)
    return dict(found)


__all__ = ["GENERAL", "GET", "NI", "SHORT", "Heard", "Line", "Outcome", "Scene", "connect", "head"]
