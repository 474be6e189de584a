"""Our server on aiohttp: its parser reads every request; what is ours are deadlines, limits and silence.

aiohttp's own answers to what it cannot parse quote the offending line, and its error log does too, token
included. Here such a request gets a problem that says nothing of what was sent, and the log gets a word.
aiohttp also waits without end for a request's head; here it has `head_timeout_s`.

It also offers every simple read to the short way (`lean.py`) before aiohttp makes a task and a request of it. That
is worth the private parts it costs: `bench.run` saw 34 µs of CPU a request on the short way, where a plain proxy of
aiohttp's own server and client took 198.
Only `data_received` and what belongs to it is replaced; everything the short way leaves goes on as in aiohttp.
Bytes that were one whole request before, and come while the parser holds nothing, are that request again: they are
not parsed a second time.

What is leaned on, all of aiohttp 3.14: `RequestHandler.handle_error`, `log_exception`, `data_received`,
`connection_made`, `connection_lost`, `close`, `shutdown`, `_process_keepalive` overridden; what `selftest.LEANED_ON`
lists read, and `_messages`, `_upgraded`, `_message_tail`, `_request_count` and `_next_keepalive_close_time` written, as
its own `data_received` does; `Server.__call__`; `RawRequestMessage._replace`; what `LineTooLong.args` and one message
of its parser say. Each has its test in `tests/integration/test_aiohttp_facts.py`, or is tried by `selftest.py` at
every start.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, hdrs, http_exceptions, http_parser, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDictProxy

from gateway.config import Limits
from gateway.exchange import CLAIMED, Exchanges, as_response, break_off, trace
from gateway.filter import Parts
from gateway.lean import Exchange, Lean
from gateway.outbox import Outbox
from gateway.problem import Problem

log = logging.getLogger("gateway.wire")
"""Never written to with what a client sent."""

LINGER_S = 2.0
SEND_BUFFER = 262_144
"""Bytes the kernel keeps for a client that reads slowly. Left to itself it would take megabytes, for each."""
TOO_MANY_HEADERS = "Too many headers received"
"""aiohttp's parser has no class for it. Were the text to change, the answer would be a 400 instead of a 431."""


class Handler(RequestHandler):
    """One client connection. What it serves itself is an `Exchange` of the short way; the rest is aiohttp's."""

    __slots__ = (
        "_between",
        "_exchange",
        "_gateway",
        "_head_timer",
        "_held",
        "_lean",
        "_over",
        "_peer",
        "_reader_timer",
    )

    def __init__(self, server: Server, *, loop: asyncio.AbstractEventLoop, **settings: Any) -> None:
        super().__init__(server, loop=loop, **settings)
        self._gateway = server
        self._lean = server.lean
        self._head_timer: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] | None = None
        self._peer = ""
        self._held = b""  # what came while aiohttp's own loop had answered, and did not wait yet
        self._between = True  # whether the parser holds nothing: neither a part of a head, nor of a body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        name = transport.get_extra_info("peername")
        self._peer = str(name[0]) if isinstance(name, tuple | list) else ""
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        if self._reader_timer is not None:
            self._reader_timer.cancel()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.left()
            self._tell_over()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        lean = self._lean
        if lean is None or not self._ours_to_read():
            self._leave(data)
            return
        # The parser makes the same of the same bytes as long as nothing stands before them.
        plan = lean.plans.get(data) if self._between and self._exchange is None else None
        if plan is not None and not self._paused:
            self._exchange = lean.repeat(self, self._peer, plan)
            if self._exchange is not None:
                self._taken()
                return
        if not self._receive(lean, data):
            self._watch_head(data)

    def _leave(self, data: bytes) -> None:
        """What aiohttp's own loop is in the midst of is aiohttp's; but where it has answered, it is waited for.

        A client that is quicker than the next turn of the loop would find it busy with each of its requests otherwise,
        and go the general way for ever."""
        if self._lean is not None and self._about_to_wait():
            if not self._held:
                self._loop.call_soon(self._take_up)
            self._held += data
        else:
            self._pass(data)

    def _take_up(self) -> None:
        data, self._held = self._held, b""
        (self.data_received if self._ours_to_read() else self._pass)(data)

    def _pass(self, data: bytes) -> None:
        self._between = False
        super().data_received(data)
        self._watch_head(data)

    def _watch_head(self, data: bytes) -> None:
        if self._exchange is not None or self._current_request is not None or self._messages:
            self._stop_timer()
        elif self._head_timer is None and self.transport is not None and data:
            self._await_head()  # the first bytes of a next request on a connection kept alive

    def _taken(self) -> None:
        self._request_count += 1
        self._gateway.requests_count += 1
        if self._head_timer is not None:
            self._stop_timer()

    def _ours_to_read(self) -> bool:
        """Whether aiohttp's own loop waits for a request, or for the end of an exchange of the short way."""
        if self._payload_parser is not None or self._upgraded or self._buffer_paused:
            return False
        if self._force_close or self._close:
            return False
        waiter = self._waiter
        return self._exchange is not None or (waiter is not None and not waiter.done() and not self._messages)

    def _about_to_wait(self) -> bool:
        """Whether aiohttp's own loop has answered, and is resumed in this turn to wait for the next request."""
        if self._waiter is not None or self._request_in_progress or self._messages:
            return False
        return not (
            self._payload_parser or self._upgraded or self._buffer_paused or self._force_close or self._close
        )

    def _receive(self, lean: Lean, data: bytes) -> bool:
        """As `RequestHandler.data_received`, but a request that can go the short way does: True when one did."""
        parser = self._parser
        assert parser is not None  # it goes with the connection
        alone, self._between = self._between, False
        try:
            messages, upgraded, tail = parser.feed_data(data)
        except http_exceptions.HttpProcessingError as exc:
            messages = ((_ErrInfo(status=400, exc=exc, message=exc.message), EMPTY_PAYLOAD),)  # type: ignore[assignment]
            upgraded, tail = False, b""
        if not messages:
            return False
        message, payload = messages[-1]
        if payload is EMPTY_PAYLOAD and type(message) is RawRequestMessage and not upgraded:
            # A head ends with the first empty line: were there more behind the last one, it would be one itself.
            self._between = data.endswith(b"\r\n\r\n")
            if len(messages) == 1 and self._exchange is None and not self._paused:
                self._exchange = lean.take(
                    self, self._peer, message, data if alone and self._between else None
                )
                if self._exchange is not None:
                    parser.message_consumed()
                    self._taken()
                    return True
        for each in messages:
            self._request_count += 1
            self._messages.append(each)
        if self._exchange is None:
            self._wake()
        if not self._buffer_paused and len(self._messages) >= self._max_msg_queue_size:
            self._pause_reading_for_buffer()
        self._upgraded = upgraded
        if upgraded and tail:
            self._message_tail = tail
        return False

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- lean.Client

    def answer(self, data: bytes) -> None:
        if self.transport is not None:
            self._gateway.outbox.put(self.transport, data)

    def send(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def send_together(self, parts: Parts) -> None:
        if self.transport is not None:
            self.transport.writelines(parts)

    def unsent(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def exchanged(self, close: bool) -> None:
        self._exchange = None
        if self._over is not None:
            self._tell_over()
        if self._paused:
            self._await_reader()
        if close or self._close:
            self._gateway.outbox.flush()
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._messages:  # pipelined behind the exchange: aiohttp's own loop takes them, in order
            self._wake()

    def again(self, message: RawRequestMessage) -> None:
        self._exchange = None
        self._messages.appendleft((message, EMPTY_PAYLOAD))
        self._wake()
        self._tell_over()

    def close(self) -> None:
        if self._exchange is None:
            super().close()
        else:  # aiohttp's own loop goes on waiting: the exchange may yet need it (`again`)
            self._close = True

    def break_off(self) -> None:
        self._exchange = None
        self._tell_over()
        break_off(self.transport)

    def _tell_over(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._pause_transport_reading()  # who does not take answers has no further requests read
        if self._exchange is not None:
            self._exchange.pause()
        else:
            self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
        if not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()
        if self._exchange is not None:
            self._exchange.resume()

    def _await_reader(self) -> None:
        if self._reader_timer is None:
            limit_s = self._gateway.limits.body_timeout_s
            self._reader_timer = self._loop.call_later(limit_s, self._reader_is_late)

    def _reader_is_late(self) -> None:
        """The client has not taken what was sent, and there is no exchange that would see to it."""
        self._reader_timer = None
        if self._paused and self._exchange is None:
            break_off(self.transport)

    def _process_keepalive(self) -> None:
        if self._exchange is not None:  # not idle, though aiohttp's own loop is
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        if self._exchange is not None:
            self._over = self._loop.create_future()
            await asyncio.wait([self._over], timeout=timeout)
        await super().shutdown(timeout)

    # -- the deadline of a head

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._gateway.limits.head_timeout_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._current_request is None and not self._messages and self._exchange is None:
            self.force_close()

    # -- aiohttp's own words, replaced by none

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what cannot be parsed, without a word of what it was."""
        if isinstance(exc, ConnectionError):  # the client has gone, and `start` knows what to do
            raise exc
        problem = Problem("internal-error")
        if status == 400:
            problem = _parse_problem(exc, self._gateway.line_limit)
        if problem.kind == "internal-error" and exc is not None:
            log.error("internal-error: outside an exchange\n%s", trace(exc))
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        event = self._gateway.exchanges.begin("", request.remote or "", "wire")
        event.status, event.problem, event.outcome = problem.status, problem.kind, "refused"
        self._gateway.exchanges.finish(event)
        response = as_response(problem.to_problem_json(event.request_id))
        response.headers["Gateway-Request-Id"] = event.request_id
        response.headers["Server"] = "invoca-gateway"
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        log.error("connection-error: %s", trace(error) if isinstance(error, BaseException) else "")

    def log_debug(self, *args: Any, **kw: Any) -> None:
        """Nothing: aiohttp's debug lines may hold what a client sent."""


def _parse_problem(exc: BaseException | None, line_limit: int) -> Problem:
    if isinstance(exc, http_exceptions.LineTooLong):
        # The limit that was exceeded is all that tells the request line from a header.
        if exc.args[1] == line_limit:
            return Problem("target-too-long", "The request target is too long.")
        return Problem("head-too-large", "A line of the request head is too long.")
    if isinstance(exc, http_exceptions.BadHttpMessage) and exc.args == (TOO_MANY_HEADERS,):
        return Problem("head-too-large", "The request has too many headers.")
    return Problem("bad-request", "The request is not well-formed HTTP/1.1.")


class Server(web.Server):
    """aiohttp's server with our connections in it."""

    def __init__(
        self, made: web.Server, exchanges: Exchanges, limits: Limits, lean: Lean | None = None
    ) -> None:
        super().__init__(
            made.request_handler,
            request_factory=_guarded(made.request_factory),
            handler_cancellation=True,
        )
        self.exchanges = exchanges
        self.limits = limits
        self.lean = lean
        self.outbox = Outbox()
        # Never the same number: which one was exceeded is told by it.
        self.line_limit = limits.max_target_bytes
        self.field_limit = limits.max_header_bytes + (limits.max_header_bytes == limits.max_target_bytes)

    def __call__(self) -> RequestHandler:
        return Handler(
            self,
            loop=self._loop,
            keepalive_timeout=self.limits.keep_alive_timeout_s,
            lingering_time=LINGER_S,
            max_line_size=self.line_limit,
            max_field_size=self.field_limit,
            max_headers=self.limits.max_headers,
            auto_decompress=False,
            access_log=None,
            logger=log,
        )


def _guarded(factory: Callable[..., BaseRequest]) -> Callable[..., BaseRequest]:
    """Requests of which aiohttp sees neither `Expect` nor a version it would echo.

    It answers an `Expect` before any middleware: a refused client would be asked for its body. `headers.judge`
    reads it from the raw head, and `exchange.receive` answers it.
    """

    def make(message: Any, *rest: Any) -> BaseRequest:
        claimed = message.version
        if hdrs.EXPECT in message.headers:
            kept = message.headers.copy()
            kept.popall(hdrs.EXPECT)
            message = message._replace(headers=CIMultiDictProxy(kept))
        if claimed in (HttpVersion10, HttpVersion11):
            return factory(message, *rest)
        request = factory(message._replace(version=HttpVersion11), *rest)
        request[CLAIMED] = claimed
        return request

    return make


class Runner(web.AppRunner):
    """Serves an application through `Server`."""

    __slots__ = ("_exchanges", "_lean", "_limits")

    def __init__(
        self, app: web.Application, exchanges: Exchanges, limits: Limits, lean: Lean | None = None
    ) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=limits.drain_timeout_s)
        self._exchanges = exchanges
        self._limits = limits
        self._lean = lean

    async def _make_server(self) -> web.Server:
        return Server(await super()._make_server(), self._exchanges, self._limits, self._lean)


def require_c_parser() -> None:
    """Refuse to start without aiohttp's C parser: the Python one is laxer. Raises: RuntimeError."""
    c_parser = getattr(http_parser, "HttpRequestParserC", None)
    if c_parser is None or http_parser.HttpRequestParser is not c_parser:
        raise RuntimeError(
            "aiohttp's C parser is not loaded (AIOHTTP_NO_EXTENSIONS is set, or aiohttp was built without it)"
        )


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """The server side of TLS 1.2 or later, HTTP/1.1 only. Raises: OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    return context
