"""A scripted raw upstream on a real socket: it says exactly the bytes a test wants, when the test wants them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from gateway import config
from gateway.connection import UpstreamRequest
from gateway.problem import Problem
from gateway.upstream import Stats, Upstream

Script = Callable[["Peer"], Awaitable[None]]

GET = UpstreamRequest("GET", "/a?b=c", (), idempotent=True, share="t")
POST = UpstreamRequest("POST", "/a", (), b"{}", share="t")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BARE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
"""An object with nothing stored in it, for writes that are read before."""


class Peer:
    """One connection as the upstream sees it. `number` counts from 1."""

    def __init__(
        self, upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.upstream = upstream
        self.number = upstream.connections
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next request, head and body by its Content-Length, also kept in `upstream.requests`."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        request = head + await self._reader.readexactly(length)
        self.upstream.requests.append(request)
        return request

    async def say(self, *parts: bytes, pause_s: float = 0.0) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)

    async def read_some(self) -> bytes:
        return await self._reader.read(65_536)

    async def gone(self) -> None:
        """Returns when the client has closed or reset the connection."""
        try:
            while await self._reader.read(65_536):
                pass
        except ConnectionError:
            pass
        self.upstream.left += 1

    def reset(self) -> None:
        """RST instead of FIN; under TLS, the end without a close_notify."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def cut(self) -> None:
        """FIN without the close_notify of TLS."""
        self._writer.transport.abort()


class RawUpstream:
    """`async with RawUpstream(script) as upstream`: runs `script` on every connection, then closes that.

    A script that raises a bug makes leaving the context raise; a client that has gone away does not.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.left = 0
        self._script = script
        self._tls = tls
        self._bugs: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> RawUpstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = (
            f"{'https' if self._tls else 'http'}://{'localhost' if self._tls else '127.0.0.1'}:{self.port}"
        )
        return self

    def stop_listening(self) -> None:
        """Refuse new connections; those there are stay."""
        self._server.close()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.002)  # for transports to be closed by the loop
        if self._bugs:
            raise self._bugs[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(Peer(self, reader, writer))
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        except Exception as bug:
            self._bugs.append(bug)
        finally:
            self._tasks.discard(task)
            if not writer.transport.is_closing():
                writer.close()


def answers(*parts: bytes, pause_s: float = 0.0) -> Script:
    """Every request gets `parts`, `pause_s` apart, and the connection stays."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(*parts, pause_s=pause_s)

    return script


def _nothing(kind: str, body: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


NO_ROWS = {
    b"json": _nothing("application/json", "[]"),
    b"csv": _nothing("text/csv", "duration\n"),
    b"xml": _nothing("application/xml", "<Transactions></Transactions>"),
}


async def nothing(peer: Peer) -> None:
    """Every request gets what it asks for, with nothing in it: no rows of Transactions, or an object."""
    while True:
        path = (await peer.request()).split()[1].partition(b"?")[0]
        await peer.say(NO_ROWS[path.rpartition(b".")[2]] if b"/transactions/" in path else BARE)


def says_and_closes(*parts: bytes) -> Script:
    """The first request gets `parts`, then the connection is closed in good order."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*parts)

    return script


async def silence(peer: Peer) -> None:
    """Takes a request and says nothing until the client leaves."""
    await peer.request()
    await peer.gone()


@asynccontextmanager
async def a_pool(url: str, **settings: Any) -> AsyncIterator[Upstream]:
    """A pool to `url`, with nothing left of it afterwards."""
    upstream = Upstream(config.Upstream(url=url, **settings))
    try:
        yield upstream
    finally:
        await upstream.close()
        assert upstream.stats() == Stats(0, 0, 0)


@asynccontextmanager
async def facing(script: Script, **settings: Any) -> AsyncIterator[tuple[RawUpstream, Upstream]]:
    """(raw upstream, pool) with every connection back or gone at the end."""
    async with RawUpstream(script) as raw, a_pool(raw.url, **settings) as upstream:
        yield raw, upstream
        assert upstream.stats().busy == 0


async def fetch(upstream: Upstream, request: UpstreamRequest = GET) -> tuple[int, bytes]:
    """(status, whole body)."""
    async with upstream.open(request) as reply:
        parts = []
        while data := await reply.read():
            parts.append(data)
        return reply.status, b"".join(parts)


async def refused(upstream: Upstream, request: UpstreamRequest = GET) -> Problem:
    """The problem that the request or its body ends with."""
    with pytest.raises(Problem) as caught:
        await fetch(upstream, request)
    return caught.value


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs a coroutine test on plain asyncio and on uvloop, each in a loop of its own.

    An exception inside a callback, which a loop would only log, fails the test.
    """

    @functools.wraps(test)
    def run(*args: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop], **kwargs: Any) -> None:
        unhandled: list[dict[str, Any]] = []

        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            async with asyncio.timeout(8):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(bounded())
        assert not unhandled

    signature = inspect.signature(test)
    added = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]
    loops = pytest.mark.parametrize(
        "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    return loops(run)
