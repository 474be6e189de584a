"""What the gateway leans on in aiohttp, and what it defends against there: an upgrade that changes a fact tells us.

A fact here is plain aiohttp's behaviour, without a line of ours. When one of these fails, look at the place named
in its docstring: the defence may have become needless, or no longer enough.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import HttpVersion10, HttpVersion11, http_exceptions, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_parser import HttpRequestParserC
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDictProxy

from gateway import wire
from gateway.config import Limits


@asynccontextmanager
async def serving(handler, *, middlewares=(), sub=None, **settings) -> AsyncIterator[int]:
    """The port of a plain aiohttp server with one catch-all route."""
    app = web.Application(middlewares=list(middlewares), client_max_size=10)
    if sub is not None:
        app.add_subapp("/admin/", sub)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, **settings)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    try:
        yield listening.getsockname()[1]
    finally:
        await runner.cleanup()


async def say(port: int, data: bytes, within_s: float = 0.3) -> bytes:
    """All that comes back until the connection is closed, or silent for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    try:
        writer.write(data)
        while piece := await asyncio.wait_for(reader.read(65_536), within_s):
            heard += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return heard


async def ok(request: web.Request) -> web.Response:
    return web.Response(text="ok")


def get(path: str = "/", *fields: str, version: str = "HTTP/1.1", method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} {version}", "Host: x", *fields)).encode("latin-1") + b"\r\n\r\n"


# -- what wire.py is built on


def test_the_c_parser_is_loaded():
    assert HttpRequestParser is HttpRequestParserC
    wire.require_c_parser()


def test_without_the_c_parser_the_gateway_does_not_start():
    program = "from gateway import wire; wire.require_c_parser()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: aiohttp's C parser is not loaded" in done.stderr


async def test_every_keyword_of_our_connections_is_one_of_aiohttps(monkeypatch):
    """`wire.Server.__call__`. A keyword that aiohttp does not know makes its own factory fall back to defaults."""
    given = {}
    monkeypatch.setattr(wire, "Handler", lambda server, **settings: given.update(settings))
    wire.Server(web.Server(ok), None, Limits())()
    known = inspect.signature(RequestHandler.__init__).parameters
    assert given.keys() <= known.keys()
    assert {
        "keepalive_timeout",
        "lingering_time",
        "max_line_size",
        "max_field_size",
        "max_headers",
    } <= given.keys()
    assert (given["auto_decompress"], given["access_log"]) == (False, None)


@pytest.mark.parametrize("name", ["handle_error", "data_received", "connection_made", "connection_lost"])
def test_what_our_connections_override_is_there_with_the_same_parameters(name):
    """`wire.Handler`."""
    theirs, ours = (inspect.signature(getattr(cls, name)) for cls in (RequestHandler, wire.Handler))
    assert list(theirs.parameters) == list(ours.parameters)
    assert callable(RequestHandler.log_exception)
    assert callable(RequestHandler.log_debug)
    assert callable(RequestHandler.force_close)


def test_what_our_connections_read_of_aiohttps_is_there():
    """`wire.Handler.data_received`: whether a head has come."""
    assert {"_current_request", "_messages"} <= set(RequestHandler.__slots__)
    assert inspect.iscoroutinefunction(web.AppRunner._make_server)
    assert list(inspect.signature(web.Server.__init__).parameters)[1:4] == [
        "handler", "request_factory", "handler_cancellation",
    ]  # fmt: skip


async def parsed(data: bytes, **limits):
    """What the C parser makes of bytes."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    return HttpRequestParserC(protocol, loop, 2**16, **limits).feed_data(data)[0][0][0]


async def test_a_message_can_be_replaced_in_part():
    """`wire._guarded`."""
    message = await parsed(get("/", "Expect: 100-continue"))
    assert isinstance(message.headers, CIMultiDictProxy)
    kept = message.headers.copy()
    kept.popall("Expect")
    changed = message._replace(headers=CIMultiDictProxy(kept), version=HttpVersion10)
    assert (changed.version, "Expect" in changed.headers, changed.path) == (HttpVersion10, False, "/")
    assert (b"Expect", b"100-continue") in changed.raw_headers
    assert message.version == HttpVersion11


@pytest.mark.parametrize(
    ("data", "limit"),
    [(get("/" + "a" * 200), 100), (get("/", "X: " + "a" * 200), 150), (get("/", "X" * 200 + ": a"), 150)],
)
async def test_a_line_that_is_too_long_says_which_limit_it_exceeded(data, limit):
    """`wire._parse_problem`: 414 or 431."""
    with pytest.raises(http_exceptions.LineTooLong) as caught:
        await parsed(data, max_line_size=100, max_field_size=150)
    assert caught.value.args[1] == limit


async def test_too_many_headers_are_told_by_a_text_alone():
    """`wire.TOO_MANY_HEADERS`."""
    with pytest.raises(http_exceptions.BadHttpMessage) as caught:
        await parsed(get("/", *(f"X-{i}: a" for i in range(20))), max_headers=10)
    assert caught.value.args == (wire.TOO_MANY_HEADERS,)


def test_a_request_without_a_body_is_at_its_end_from_the_start():
    """`exchange._refuse`: whether anything of a body is left unread."""
    assert EMPTY_PAYLOAD.is_eof()


async def test_a_body_that_came_whole_and_unread_is_at_its_end():
    """`exchange._refuse`: such a connection is kept."""
    ends = []

    async def handler(request: web.Request) -> web.Response:
        ends.append(request.content.is_eof())
        return web.Response()

    async with serving(handler) as port:
        await say(port, get("/", "Content-Length: 2", method="POST") + b"{}")
        await say(port, get("/", "Content-Length: 20", method="POST") + b"{}", within_s=0.1)
    assert ends == [True, False]


async def test_the_hook_for_a_response_runs_before_its_head_is_out():
    """`exchange.on_prepare`: headers set and removed there count."""

    async def hook(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Hook"] = "1"
        response.headers.popall("Connection", None)

    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.on_response_prepare.append(hook)
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    heard = await say(listening.getsockname()[1], get("/", "Connection: close"))
    await runner.cleanup()
    assert b"X-Hook: 1\r\n" in heard
    assert b"Connection" not in heard


# -- what is defended against


async def test_by_default_the_token_in_a_broken_head_comes_back(caplog):
    """`wire.Handler.handle_error`, `log_exception`."""
    async with serving(ok) as port:
        heard = await say(port, get("/", "Authorization: Bearer not-to-be-told\x01"))
    assert b"not-to-be-told" in heard
    assert "not-to-be-told" in caplog.text


async def test_by_default_a_head_may_take_an_hour():
    """`wire.Handler._await_head`."""
    assert inspect.signature(RequestHandler.__init__).parameters["keepalive_timeout"].default == 3630
    assert "head_timeout" not in str(inspect.signature(RequestHandler.__init__))


async def test_expect_is_answered_before_any_middleware():
    """`wire._guarded`: a refused client would be asked for its body."""

    @web.middleware
    async def refuse(request: web.Request, handler) -> web.Response:
        return web.Response(status=403)

    async with serving(ok, middlewares=[refuse]) as port:
        heard = await say(port, get("/", "Expect: 100-continue", "Content-Length: 2", method="POST"))
    assert heard.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403")


async def test_an_unknown_version_is_accepted_and_echoed():
    """`headers.judge`, `wire._guarded`."""
    async with serving(ok) as port:
        assert (await say(port, get(version="HTTP/2.0"))).startswith(b"HTTP/2.0 200")


async def test_an_old_client_is_kept_when_it_asks_for_that():
    """`exchange.on_prepare`: RFC 9112 9.3 forbids it to a proxy."""
    async with serving(ok) as port:
        heard = await say(port, get("/", "Connection: keep-alive", version="HTTP/1.0"))
    assert b"Connection: keep-alive" in heard


async def test_transfer_encoding_is_accepted_from_an_old_client():
    """`headers._length`."""
    async with serving(ok) as port:
        request = get("/", "Transfer-Encoding: chunked", version="HTTP/1.0", method="POST")
        assert (await say(port, request + b"0\r\n\r\n")).startswith(b"HTTP/1.0 200")


async def test_what_follows_a_connect_is_read_as_the_next_request():
    """`exchange._refuse`: a refused head closes the connection."""
    async with serving(ok) as port:
        request = get("x:1", f"Content-Length: {len(get())}", method="CONNECT")
        assert (await say(port, request + get())).count(b"HTTP/1.1 ") == 2


@pytest.mark.parametrize(
    "fields",
    [("Authorization: a", "Authorization: b"), ("X_Forwarded_For: 1",), ("Upgrade: h2c",), ("Connection: host",),
     ("X-HTTP-Method-Override: DELETE",), ("Transfer-Encoding: gzip, chunked",)],
)  # fmt: skip
async def test_a_head_with_two_readings_is_handed_over(fields):
    """`headers.judge`."""
    assert len((await parsed(get("/", *fields))).raw_headers) == len(fields) + 1


@pytest.mark.parametrize("host", ["a, b", "a b", "u@a", ""])
async def test_a_host_that_is_none_is_handed_over(host):
    """`headers._host`."""
    assert (await parsed(get().replace(b"Host: x", b"Host: " + host.encode()))).headers["Host"] == host


@pytest.mark.parametrize(
    "target",
    [
        "/a/../b",
        "/a/%2e%2e/b",
        "//a",
        "/a;b",
        "/a%2fb",
        "/a%00",
        "/a%252e",
        "/a\\b",
        "http://other/a",
        "/a#b",
    ],
)
async def test_every_target_is_accepted_and_its_raw_form_kept(target):
    """`target.judge`: on `raw_path`, because `path` is decoded."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.raw_path, request.path))
        return web.Response()

    async with serving(handler) as port:
        assert (await say(port, get(target, "Connection: close"))).startswith(b"HTTP/1.1 200")
    assert seen[0][0] == target
    if "%" in target:
        assert seen[0][1] != target


async def test_a_route_is_found_by_a_decoded_path():
    """`exchange._judged`: our own surfaces would have many spellings."""
    sub = web.Application()
    sub.router.add_get("/x", ok)

    async def outside(request: web.Request) -> web.Response:
        return web.Response(text="outside")

    async with serving(outside, sub=sub) as port:
        assert b"outside" not in await say(port, get("/%61dmin/x", "Connection: close"))


async def test_a_404_inside_a_sub_app_does_not_fall_through():
    """`app.build`: /admin/ is reserved."""
    async with serving(ok, sub=web.Application()) as port:
        assert (await say(port, get("/admin/x", "Connection: close"))).startswith(b"HTTP/1.1 404")


async def test_a_second_response_is_written_into_the_body_of_the_first():
    """`exchange._refuse`, `BEGUN`."""

    async def handler(request: web.Request) -> web.Response:
        begun = web.StreamResponse()
        await begun.prepare(request)
        await begun.write(b"partial")
        return web.Response(text="second")

    async with serving(handler) as port:
        assert (await say(port, get())).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(("auto", "size"), [(True, 1000), (False, len(zlib.compress(b"a" * 1000)))])
async def test_a_compressed_body_is_inflated_unless_forbidden_and_keeps_its_header(auto, size):
    """`wire.Server.__call__`: `auto_decompress=False`."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        body = b"".join([piece async for piece in request.content.iter_any()])
        seen.append((len(body), request.headers["Content-Encoding"]))
        return web.Response()

    packed = zlib.compress(b"a" * 1000)
    async with serving(handler, auto_decompress=auto) as port:
        await say(
            port,
            get("/", "Content-Encoding: deflate", f"Content-Length: {len(packed)}", method="POST") + packed,
        )
    assert seen == [(size, "deflate")]


async def test_the_size_limit_of_an_application_does_not_bound_a_stream():
    """`exchange.receive` counts."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(len(b"".join([piece async for piece in request.content.iter_any()])))
        return web.Response()

    async with serving(handler) as port:  # client_max_size is 10
        await say(port, get("/", "Content-Length: 1000", method="POST") + b"a" * 1000)
    assert seen == [1000]


@pytest.mark.parametrize(("cancellation", "outcome"), [(False, "finished"), (True, "cancelled")])
async def test_a_client_that_leaves_stops_the_handler_only_where_that_is_asked_for(cancellation, outcome):
    """`wire.Server`: `handler_cancellation=True`."""
    ended = asyncio.Queue()

    async def handler(request: web.Request) -> web.Response:
        try:
            await asyncio.sleep(0.3)
            ended.put_nowait("finished")
        except asyncio.CancelledError:
            ended.put_nowait("cancelled")
            raise
        return web.Response()

    async with serving(handler, handler_cancellation=cancellation) as port:
        await say(port, get(), within_s=0.05)
        assert await asyncio.wait_for(ended.get(), 2) == outcome


async def test_an_answer_says_what_software_made_it_unless_it_is_told_otherwise():
    """`exchange.on_prepare`."""
    async with serving(ok) as port:
        assert b"Server: Python/" in await say(port, get("/", "Connection: close"))
