"""One connection to the upstream: one exchange at a time, its deadlines, and the table of what can go wrong on it.

A caller of callbacks is given one by `Upstream.begin` and hears the answer through its `Sink`; a coroutine never
sees one. The pool is only known as a `Home`: where a connection reports to.

Sources: RFC 9112 sections 8 and 9; RFC 8446 section 6.1.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import ssl
from dataclasses import dataclass
from typing import Protocol, cast

from gateway import config
from gateway.outbox import Outbox
from gateway.problem import Problem
from gateway.reply import Cut, Headers, Invalid, Parser, Sink

log = logging.getLogger("gateway.upstream")

RECEIVE_BUFFER = 262_144
"""Bytes the kernel takes from the upstream ahead of us. Left to itself it would be megabytes, for each connection
that a slow client holds up."""
TICK_S = 0.25
"""Between two sweeps. A deadline is never early, and late by at most this and what the loop is late itself."""


_CLOSED_EARLY = "The upstream closed the connection before it answered."

FAULTS: tuple[tuple[type[Exception], str, str], ...] = (
    (Cut, "upstream-invalid", "The upstream's answer was cut short."),
    (Invalid, "upstream-invalid", "The upstream's answer breaks the rules of HTTP/1.1."),
    (TimeoutError, "upstream-timeout", "The upstream did not answer in time."),
    (ssl.SSLError, "upstream-unreachable", "No secure connection to the upstream could be made."),
    (socket.gaierror, "upstream-unreachable", "The upstream's name could not be resolved."),
    (UnicodeError, "upstream-unreachable", "The upstream's name could not be resolved."),
    (ConnectionResetError, "upstream-unreachable", _CLOSED_EARLY),
    (ConnectionAbortedError, "upstream-unreachable", _CLOSED_EARLY),
    (BrokenPipeError, "upstream-unreachable", _CLOSED_EARLY),
    (OSError, "upstream-unreachable", "No connection to the upstream could be made."),
)
"""What goes wrong here, as the client is told it; the first row that fits. What is in no row is a bug."""


def problem_of(fault: Exception, cause: Exception | None = None, level: int = logging.WARNING) -> Problem:
    """`fault` by the table, logged with the class of what caused it. Raises: the fault itself when no row fits."""
    for kind, name, detail in FAULTS:
        if isinstance(fault, kind):
            finding = f": {fault}" if isinstance(fault, Invalid) else ""
            log.log(level, "%s: %s%s", name, type(cause or fault).__name__, finding)
            return Problem(name, detail)
    raise fault


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request as it will go out, but for Host and the framing.

    `target` is in origin form. `headers` are in order, repeats kept. `idempotent` allows one more try on a
    connection that turns out stale. `share` is whose part of the pool this takes: a token's id.
    """

    method: str
    target: bytes | str
    headers: Headers
    body: bytes = b""
    idempotent: bool = False
    share: str = ""


class Home(Protocol):
    """What a connection needs of its pool. Requests go out by its `outbox`."""

    outbox: Outbox

    def made(self) -> None:
        """A transport exists from now on."""

    def lost(self, connection: Connection) -> None:
        """It does no longer."""

    def park(self, connection: Connection, share: str) -> None:
        """The exchange is over, and the connection good for another; `share` has one less under way."""

    def drop(self, connection: Connection) -> None:
        """The connection is to be aborted and forgotten."""

    def free(self, share: str) -> None:
        """The exchange is over, and `share` has one less under way."""


class Connection(asyncio.Protocol):
    """One connection, idle or carrying one exchange. What a caller of `begin` needs is `pause`, `resume`, `abort`."""

    __slots__ = (
        "_answered", "_head_s", "_home", "_parser", "_paused", "_poll", "_request", "_reused", "_silent_s", "_tls",
        "_turn", "_unsent", "idle_since", "sink", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, home: Home) -> None:
        self.sink: Sink | None = None
        self.idle_since = 0.0
        self._home = home
        self._parser = Parser()
        self._poll = select.poll()
        self._reused = False
        self._paused = False

    def start(self, request: UpstreamRequest, wire: bytes, sink: Sink) -> None:
        """Sends `wire`, which is `request`; `sink` hears the answer."""
        self.sink = sink
        self._request = request
        self._answered = False
        # Below zero: the first tick may come at once, and then counts for nothing.
        self._silent_s = self._head_s = -TICK_S
        self._unsent = 0
        self._parser.expect(sink, request.method == "HEAD")
        self._turn = self._home.outbox.turn
        self._home.outbox.put(self.transport, wire)

    def pause(self) -> None:
        """The sink can take no more. The upstream is made to wait, and its silence is not held against it."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Undoes `pause`."""
        if self._paused:
            self._paused = False
            self._silent_s = -TICK_S
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def abort(self) -> None:
        """Ends the exchange and the connection at once. The sink hears nothing more."""
        if self.sink is not None:
            self._release()
            self._home.drop(self)

    def end(self, problem: Problem, again: bool = False) -> None:
        """As `abort`, but the sink is told."""
        sink = self.sink
        if sink is not None:
            self.abort()
            sink.on_error(problem, again)

    def quiet(self) -> bool:
        """Whether an idle connection is still one: open, and nothing has come that the loop has yet to see.

        What is unread here, be it the end or an answer to nothing, would be taken for the answer to the next
        request. The look costs half a microsecond, and leaves only what is under way on the wire.
        """
        return not self.transport.is_closing() and not self._poll.poll(0)

    def tick(self, limits: config.Upstream) -> None:
        """One sweep's look at an exchange. Ticks are counted and no clock is read: a loop that was late itself
        does not hold it against the upstream."""
        if self._paused:
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent = unsent
            self._silent_s = -TICK_S
        self._silent_s += TICK_S
        limit = limits.gap_timeout_s if self._answered or unsent else limits.first_byte_timeout_s
        if self._parser.in_head and not unsent:
            # A head that drips in is never silent for long. It has the time of both waits, no more.
            self._head_s += TICK_S
        if self._silent_s >= limit or self._head_s >= limits.first_byte_timeout_s + limits.gap_timeout_s:
            self._fail(TimeoutError())

    # -- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._tls = transport.get_extra_info("ssl_object")
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._poll.register(sock.fileno(), select.POLLIN)
        self._home.made()

    def data_received(self, data: bytes) -> None:
        if self.sink is None:
            # RFC 9112 9.2: an answer to nothing. Nothing on this connection is believed any more.
            self._home.drop(self)
            return
        if not self._answered and self._turn == self._home.outbox.turn:
            # And so is one to what has not been sent yet.
            self._fail(Invalid("an answer before the request"))
            return
        self._answered = True
        self._silent_s = -TICK_S
        try:
            ended = self._parser.feed(data)
        except Invalid as fault:
            self._fail(fault)
            return
        if ended and self.sink is not None:
            self._finish()

    def eof_received(self) -> None:
        if self.sink is None:
            return  # idle: the transport closes itself, and `connection_lost` tells the pool
        try:
            if self._tls is not None and self._tls.read(1):
                raise Cut("more to come")
            self._parser.eof()
        except (Cut, ssl.SSLError):
            # asyncio says so too when TCP ended without the close_notify of TLS. Reading is not at an end then, it
            # wants more, and anyone on the way may have cut the answer here (RFC 8446 6.1).
            self._fail_lost(EOFError())
        else:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._home.lost(self)
        if self.sink is not None:
            self._fail_lost(exc or ConnectionResetError())

    def _fail_lost(self, cause: Exception) -> None:
        if self._answered:
            self._fail(Cut("closed inside an answer"), cause)
        else:
            # RFC 9112 9.3.1: the upstream may have closed before it saw the request, so that it can be sent again.
            self._fail(ConnectionResetError(), cause, self._reused and self._request.idempotent)

    def _fail(self, fault: Exception, cause: Exception | None = None, again: bool = False) -> None:
        # A stale connection that is made up for is the daily course of things.
        self.end(problem_of(fault, cause, logging.DEBUG if again else logging.WARNING), again)

    def _finish(self) -> None:
        sink, transport = self.sink, self.transport
        # RFC 9112 9.3: with a part of the request still unsent, what follows would be read as the rest of it.
        if self._parser.keep and not transport.get_write_buffer_size() and not transport.is_closing():
            self.sink = None
            self._parser.stop()
            if self._paused:
                self.resume()
            self._reused = True
            self._home.park(self, self._request.share)
        else:
            self._release()
            self._home.drop(self)
        if sink is not None:
            sink.on_done()

    def _release(self) -> None:
        self.sink = None
        self._parser.stop()
        self._home.free(self._request.share)
