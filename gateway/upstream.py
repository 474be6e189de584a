"""The way to the vendor: a pool of strict HTTP/1.1 connections, whose every fault is a Problem of one table.

There are two faces: `open` for coroutines, `begin` and `start` for callers that live in callbacks. Redirects, cookies,
content codings and what a status means are left to the caller; so is every header but Host and the framing.

There is no queue. A request that finds no connection and may not open one is refused at once: waiting would hold
a client's request, body and all, for an upstream that is already behind.

What a request costs here is paid by every request. So there is one sweep and no timer per exchange, one write, no
task and no stream reader: `connection.py` is callbacks, and `reply.py` reads a whole answer in one pass.

Sources: RFC 9112 sections 3.2, 6.2 and 9.3; RFC 9110 sections 7.2, 8.6 and 9.2.2.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from gateway import config
from gateway.connection import TICK_S, Connection, UpstreamRequest, problem_of
from gateway.outbox import Outbox
from gateway.problem import Problem
from gateway.reply import CRLF, Headers, Sink

log = logging.getLogger("gateway.upstream")

BUFFER = 262_144
"""Bytes a `Reply` holds for a slow reader before the upstream is made to wait (one read may come on top)."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Connections now. `open` is `idle` and `busy` together; busy ones carry an exchange or are being made."""

    open: int
    idle: int
    busy: int


class Upstream:
    """The pool, one per process. Connections are made when needed: an upstream that is down is no error here."""

    def __init__(self, settings: config.Upstream) -> None:
        """Needs a running loop. Raises: OSError when `ca_file` cannot be used."""
        parts = urlsplit(settings.url)
        secure = parts.scheme == "https"
        host = parts.hostname or ""
        self.settings = settings
        self.outbox = Outbox()
        self._loop = asyncio.get_running_loop()
        self._host = host if host.isascii() else host.encode("idna").decode()
        self._port = parts.port or (443 if secure else 80)
        self._tls = _tls_context(settings.ca_file) if secure else None
        name = f"[{self._host}]" if ":" in self._host else self._host
        if self._port != (443 if secure else 80):
            name += f":{self._port}"
        self._host_line = b"Host: " + name.encode()
        self._idle: dict[Connection, None] = {}  # the newest last: taken first, so that the others grow old
        self._all: set[Connection] = set()
        self._connecting = 0
        self._dialing: set[Dialing] = set()
        self._shares: dict[str, int] = {}
        self._good_address: object = None
        self._closed = False
        self._alive = 0
        self._all_lost: asyncio.Future[None] | None = None
        self._timer = self._loop.call_later(TICK_S, self._sweep)

    def open(self, request: UpstreamRequest) -> AbstractAsyncContextManager[Reply]:
        """The exchange as a context: entered when the head of the answer is there, with the body still to `read`.

        Left before the end of the body, the connection is aborted. Raises: Problem "overloaded",
        "upstream-unreachable", "upstream-invalid" or "upstream-timeout" on entering; ValueError at once for a
        request that must not be written, which is a mistake of the caller's.
        """
        return Reply(self, request, self.encode(request))

    def begin(self, request: UpstreamRequest, wire: bytes, sink: Sink) -> Connection | None:
        """Sends `request` on an idle connection, without a task; None, with nothing sent, when there is none.

        `wire` is what `encode` made of it: who sends the same request again and again encodes it once. The
        connection is the caller's to pause, resume and abort until the sink hears `on_done` or `on_error`.
        Raises: Problem "overloaded".
        """
        self._hold(request.share)
        idle, oldest = self._idle, self._loop.time() - self.settings.idle_timeout_s
        while idle:
            connection = idle.popitem()[0]
            if connection.idle_since > oldest and connection.quiet():
                connection.start(request, wire, sink)
                return connection
            self.drop(connection)
        self.free(request.share)
        return None

    def start(self, request: UpstreamRequest, wire: bytes, sink: Sink) -> Connection | Dialing:
        """As `begin`, but where no connection is idle one is made. Whatever comes of it, the sink hears, and in a later
        turn of the loop."""
        try:
            return self.begin(request, wire, sink) or self._dialing_for(request, wire, sink)
        except Problem as problem:
            refused = Dialing(sink)
            self._loop.call_soon(refused.end, problem)
            return refused

    def _dialing_for(self, request: UpstreamRequest, wire: bytes, sink: Sink) -> Dialing:
        self._hold(request.share)
        dialing = Dialing(sink)
        dialing.task = self._loop.create_task(dialing.run(self, request, wire))
        self._dialing.add(dialing)
        dialing.task.add_done_callback(lambda _: self._dialing.discard(dialing))
        return dialing

    async def close(self) -> None:
        """Aborts every connection, and waits until the loop has let go of them. No exchange begins after."""
        self._closed = True
        self._timer.cancel()
        for dialing in list(self._dialing):
            dialing.end(_overloaded("The gateway is stopping."))
            dialing.task.cancel()
            await asyncio.wait([dialing.task])
        for connection in list(self._all):
            if connection.sink is None:
                self.drop(connection)
            else:
                connection.end(_overloaded("The gateway is stopping."))
        if self._alive:
            self._all_lost = self._loop.create_future()
            try:
                async with asyncio.timeout(1):
                    await self._all_lost
            except TimeoutError:
                log.warning("connections outlive their pool: %d", self._alive)

    def distrust(self) -> None:
        """Let go of what is idle: it may well be as old as a connection that was found stale."""
        for connection in list(self._idle):
            self.drop(connection)

    def stats(self) -> Stats:
        """The connections at this moment, this process's."""
        total = len(self._all) + self._connecting
        return Stats(total, len(self._idle), total - len(self._idle))

    # -- for Reply, Dialing and Connection

    async def _begin_on_new(self, request: UpstreamRequest, wire: bytes, sink: Sink) -> Connection:
        self._hold(request.share)
        try:
            connection = await self._connect()
        except BaseException:
            self.free(request.share)
            raise
        connection.start(request, wire, sink)
        return connection

    def _hold(self, share: str) -> None:
        held = self._shares.get(share, 0)
        if held >= self.settings.max_connections_per_token:
            raise _overloaded("Too many requests of this token are under way.")
        self._shares[share] = held + 1

    def free(self, share: str) -> None:
        held = self._shares[share] - 1
        if held:
            self._shares[share] = held
        else:
            del self._shares[share]

    def park(self, connection: Connection, share: str) -> None:
        connection.idle_since = self._loop.time()
        self._idle[connection] = None
        self.free(share)

    def drop(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)
        connection.transport.abort()

    async def _connect(self) -> Connection:
        if self._closed:
            raise _overloaded("The gateway is stopping.")
        if len(self._all) + self._connecting >= self.settings.max_connections:
            raise _overloaded("Every connection to the upstream is in use.")
        self._connecting += 1
        try:
            connection = await self._dial()
        except (OSError, UnicodeError) as fault:
            raise problem_of(fault) from None
        finally:
            self._connecting -= 1
        self._all.add(connection)
        if self._closed or connection.transport.is_closing():
            self.drop(connection)
            raise problem_of(ConnectionResetError())
        return connection

    async def _dial(self) -> Connection:
        """A new connection: the name is looked up afresh, every address has its part of the time.

        The address that worked last comes first, so that a dead one is not waited for again and again. Not
        `happy_eyeballs_delay`: uvloop does not know it.
        """
        loop = self._loop
        fault: Exception = OSError()
        end = loop.time() + self.settings.connect_timeout_s
        async with asyncio.timeout_at(end):
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            found.sort(key=lambda info: info[4] != self._good_address)
            for index, (family, _, _, _, address) in enumerate(found):
                try:
                    async with asyncio.timeout((end - loop.time()) / (len(found) - index)):
                        _, connection = await loop.create_connection(
                            lambda: Connection(self),
                            str(address[0]),
                            int(address[1]),
                            family=family,
                            ssl=self._tls,
                            server_hostname=self._host if self._tls else None,
                        )
                except OSError as error:  # a TimeoutError and an SSLError are two
                    fault = error
                else:
                    self._good_address = address
                    return connection
        raise fault

    def made(self) -> None:
        self._alive += 1

    def lost(self, connection: Connection) -> None:
        self._alive -= 1
        self._all.discard(connection)
        self._idle.pop(connection, None)
        if not self._alive and self._all_lost is not None and not self._all_lost.done():
            self._all_lost.set_result(None)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._sweep)
        oldest = self._loop.time() - self.settings.idle_timeout_s
        for connection in list(self._idle):
            if connection.idle_since > oldest:
                break
            self.drop(connection)
        for connection in list(self._all):
            if connection.sink is not None:
                connection.tick(self.settings)

    def encode(self, request: UpstreamRequest) -> bytes:
        """Head and body as they go out. Raises: ValueError for what would be read as something else there."""
        method, target, body = request.method, request.target, request.body
        if isinstance(target, str):
            target = target.encode("ascii")
        if not target.startswith(b"/") or target.translate(None, _VISIBLE):
            raise ValueError("the target is not in origin form, or not printable ASCII")
        if method not in _METHODS:
            raise ValueError(f"not a method of this client: {method!r}")
        lines = [_METHODS[method] + target + b" HTTP/1.1", self._host_line]
        for name, value in request.headers:
            lines.append((_prefixes.get(name) or _prefix(name)) + value)
        if body or method in _WITH_BODY:
            lines.append(b"Content-Length: %d" % len(body))
        head = CRLF.join(lines)
        # One pass over it all: without printable bytes, exactly the line ends that were just written are left.
        if head.translate(None, _VALUE) != CRLF * (len(lines) - 1):
            raise ValueError("a header value is not printable ASCII")
        return head + b"\r\n\r\n" + body


class Dialing:
    """A connection that is being made for one exchange, and then that one. A caller of `start` has `pause`, `resume`
    and `abort`, as of a `Connection`."""

    __slots__ = ("_connection", "_paused", "_sink", "task")

    task: asyncio.Task[None]

    def __init__(self, sink: Sink) -> None:
        self._sink: Sink | None = sink
        self._connection: Connection | None = None
        self._paused = False

    async def run(self, upstream: Upstream, request: UpstreamRequest, wire: bytes) -> None:
        """Make it, and begin. One that nobody waits for any more is another's."""
        problem: Problem | None = Problem("internal-error")
        try:
            connection = await upstream._connect()
            problem = None
        except Problem as known:
            problem = known
        finally:
            if problem is not None:
                upstream.free(request.share)
                self.end(problem)
        if problem is not None:
            return
        if self._sink is None:
            upstream.park(connection, request.share)
            return
        self._connection = connection
        connection.start(request, wire, self._sink)
        if self._paused:
            connection.pause()

    def pause(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume()

    def abort(self) -> None:
        self._sink = None
        if self._connection is not None:
            self._connection.abort()

    def end(self, problem: Problem) -> None:
        """As `abort` of what is not made yet, but the sink is told."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_error(problem, False)


class Reply:
    """What the upstream sent, for a coroutine: a context (`Upstream.open`), then the head, then `read`.

    `headers` are those that `reply.HEEDED` names, in lower case, in order, repeats kept. `length` is the declared
    Content-Length, also where no body follows; None when there was none.
    """

    __slots__ = (
        "_again", "_connection", "_done", "_held", "_pieces", "_problem", "_request", "_upstream", "_waiter",
        "_wire", "headers", "length", "status",
    )  # fmt: skip

    def __init__(self, upstream: Upstream, request: UpstreamRequest, wire: bytes) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.length: int | None = None
        self._upstream = upstream
        self._request = request
        self._wire = wire
        self._connection: Connection | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._done = False
        self._again = False
        self._problem: Problem | None = None

    async def __aenter__(self) -> Reply:
        upstream, request = self._upstream, self._request
        self._connection = upstream.begin(request, self._wire, self)
        if self._connection is None:
            self._connection = await upstream._begin_on_new(request, self._wire, self)
        await self._head()
        if self._again:
            # Once, and on a new connection: the other idle ones may well be as old as the one that was stale.
            self._again = False
            self._problem = None
            self._connection = await upstream._begin_on_new(request, self._wire, self)
            await self._head()
        if self._problem is not None:
            raise self._problem
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    async def read(self) -> bytes:
        """The next bytes of the content, b"" at its clean end. Raises: Problem where it was cut short, is not
        valid, or stopped coming: what was read until then is incomplete."""
        while not self._pieces:
            if self._problem is not None:
                raise self._problem
            if self._done:
                return b""
            await self._wait()
        # No more at once than is sent on at once: whoever reads holds it while a slow client is waited for.
        pieces, count, size = self._pieces, 1, len(self._pieces[0])
        while count < len(pieces) and size + len(pieces[count]) <= BUFFER:
            size += len(pieces[count])
            count += 1
        data = pieces[0] if count == 1 else b"".join(pieces[:count])
        del pieces[:count]
        self._held = max(0, self._held - size)
        if self._held < BUFFER and self._connection is not None:
            self._connection.resume()
        return data

    async def _head(self) -> None:
        try:
            while not self.status and self._problem is None:
                await self._wait()
        except BaseException:
            self._leave()
            raise

    async def _wait(self) -> None:
        self._waiter = self._upstream._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
            self._pieces.clear()
            self._problem = Problem("upstream-invalid", "The answer was left before its end.")

    # -- Sink

    def on_whole(self, status: int, headers: Headers, length: int | None, body: bytes) -> None:
        self.on_head(status, headers, length)
        if body:
            self._pieces.append(body)

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        self._wake()

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= BUFFER and self._connection is not None:
            self._connection.pause()
        self._wake()

    def on_done(self) -> None:
        self._connection = None
        self._done = True
        self._wake()

    def on_error(self, problem: Problem, again: bool) -> None:
        self._connection = None
        self._problem = problem
        self._again = again
        self._wake()


def _overloaded(detail: str) -> Problem:
    return Problem("overloaded", detail, headers=(("Retry-After", "1"),))


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Names and chains are verified, against `ca_file` alone when there is one, else the system's authorities."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


# -- what is written

_VISIBLE = bytes(range(0x21, 0x7F))
_VALUE = b"\t " + _VISIBLE
_NAME = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_METHODS = {m: m.encode() + b" " for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
"""Methods that say so when there is no content (RFC 9110 section 8.6)."""
_OURS = frozenset(
    (
        b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"proxy-authenticate",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
"""Names that never travel on: RFC 9110 7.6.1, and those that say where and how this one message goes."""
_prefixes: dict[bytes, bytes] = {}


def _prefix(name: bytes) -> bytes:
    """`Name: `, judged once per name. Raises: ValueError for a name that is none, or not the caller's to send."""
    if not name or name.translate(None, _NAME):
        raise ValueError("not a header name")
    if name.lower() in _OURS:
        raise ValueError(f"a header that is this client's own: {name.decode()}")
    if len(_prefixes) < 512:
        _prefixes[name] = name + b": "
    return name + b": "
