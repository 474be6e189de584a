"""One exchange with an upstream that misbehaves, over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import pytest

from gateway.connection import UpstreamRequest
from gateway.problem import Problem
from gateway.upstream import BUFFER, Stats
from tests.upstream import (
    GET,
    OK,
    Peer,
    RawUpstream,
    a_pool,
    answers,
    both_loops,
    facing,
    fetch,
    refused,
    says_and_closes,
    silence,
)

HEAD_50M = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n"


@pytest.fixture
def quick(monkeypatch):
    """Sweeps every 20 ms, so that deadlines of tenths of a second can be seen."""
    monkeypatch.setattr("gateway.connection.TICK_S", 0.02)
    monkeypatch.setattr("gateway.upstream.TICK_S", 0.02)


# -- what is sent


@both_loops
async def test_the_request_is_written_with_our_host_and_framing_and_nothing_else():
    async with facing(answers(OK)) as (raw, upstream):
        await fetch(upstream, UpstreamRequest("GET", b"/a?b=%2F", ((b"X-One", b"1"), (b"x-one", b"2"))))
        host = raw.url.removeprefix("http://").encode()
        assert raw.requests == [
            b"GET /a?b=%2F HTTP/1.1\r\nHost: " + host + b"\r\nX-One: 1\r\nx-one: 2\r\n\r\n"
        ]


@pytest.mark.parametrize(
    ("method", "body", "end"),
    [
        ("POST", b"{}", b"\r\nContent-Length: 2\r\n\r\n{}"),
        ("POST", b"", b"\r\nContent-Length: 0\r\n\r\n"),
        ("PUT", b"", b"\r\nContent-Length: 0\r\n\r\n"),
        ("PATCH", b"", b"\r\nContent-Length: 0\r\n\r\n"),
        ("DELETE", b"x", b"\r\nContent-Length: 1\r\n\r\nx"),
    ],
)
@both_loops
async def test_a_body_has_its_length_and_so_has_a_missing_one_where_it_matters(method, body, end):
    async with facing(answers(OK)) as (raw, upstream):
        await fetch(upstream, UpstreamRequest(method, "/", (), body))
        assert raw.requests[0].endswith(end)
    for absent in ("GET", "DELETE", "OPTIONS"):
        async with facing(answers(OK)) as (raw, upstream):
            await fetch(upstream, UpstreamRequest(absent, "/", ()))
            assert b"ontent-" not in raw.requests[0]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1", b"127.0.0.1"),
        ("http://localhost:80", b"localhost"),
        ("https://acme.invoca.net:443/", b"acme.invoca.net"),
        ("https://ACME.invoca.net:8443", b"acme.invoca.net:8443"),
        ("http://[::1]:8080", b"[::1]:8080"),
    ],
)
async def test_the_host_is_the_configured_one_with_a_port_unless_it_is_the_default(url, host):
    async with a_pool(url) as upstream:
        assert b"\r\nHost: " + host + b"\r\n" in upstream.encode(GET)


@pytest.mark.parametrize(
    "request_",
    [
        UpstreamRequest("GET", target, ())
        for target in ("", "a", "http://x/", "*", "/a b", "/a\r\nX: y", "/a\n", "/\x00", "/é",
        b"/\xff", "/a\tb", "/\x7f")
    ]
    + [
        UpstreamRequest("GET", "/", (header,))
        for header in (
            (b"X-A", b"b\r\nX-B: c"), (b"X-A", b"b\nc"), (b"X-A", b"b\rc"), (b"X-A", b"b\0"), (b"X-A",
            b"\xe9"), (b"X-A", b"b\x7f"),
            (b"X A", b"b"), (b"X-A:", b"b"), (b"", b"b"), (b"X-A\r\nX-B", b"b"), (b"X\xe9", b"b"),
            (b"Host", b"evil"),
            (b"content-length", b"3"), (b"Transfer-Encoding", b"chunked"), (b"Connection", b"close"),
            (b"Expect", b"100-continue"),
            (b"Upgrade", b"h2c"),
        )
    ]
    + [UpstreamRequest(method, "/", ()) for method in ("get", "CONNECT", "TRACE", "",
    "GET /x HTTP/1.1\r\nX:", "G\u00c9T")],
)  # fmt: skip
async def test_what_must_not_be_written_is_a_mistake_of_the_callers(request_):
    async with a_pool("http://127.0.0.1:9") as upstream:
        with pytest.raises(ValueError):  # noqa: PT011 - the type is the contract, not the text
            upstream.open(request_)


async def test_the_names_that_are_remembered_are_bounded():
    from gateway import upstream as module

    async with a_pool("http://127.0.0.1:9") as upstream:
        for i in range(1_000):
            upstream.encode(UpstreamRequest("GET", "/", ((b"X-%d" % i, b""),)))
    assert len(module._prefixes) <= 512


# -- what comes back


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "status", "body"),
    [
        pytest.param([OK], 200, b"ok", id="whole"),
        pytest.param([OK[:-1], OK[-1:]], 200, b"ok", id="length in two"),
        pytest.param([bytes([b]) for b in OK], 200, b"ok", id="bytewise"),
        pytest.param([CHUNKED, b"2;x=y\r\no", b"k\r\n0\r", b"\nX-T: 1\r\n\r\n"], 200, b"ok", id="chunked"),
        pytest.param([CHUNKED + b"2\r\nok\r\n0\r\n\r\n"], 200, b"ok", id="chunked whole"),
        pytest.param([b"HTTP/1.1 103 Hi\r\n\r\n", OK], 200, b"ok", id="interim"),
        pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b"", id="204"),
        pytest.param([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"], 304, b"", id="304"),
        pytest.param(
            [b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"], 503, b"no", id="503 is the caller's"
        ),
        pytest.param(
            [b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"], 302, b"", id="so is 302"
        ),
    ],
)
@both_loops
async def test_valid_answers_are_read_and_the_connection_serves_again(parts, status, body):
    async with facing(answers(*parts, pause_s=0.002 if len(parts) > 1 else 0)) as (raw, upstream):
        assert await fetch(upstream) == (status, body)
        assert await fetch(upstream) == (status, body)
        assert raw.connections == 1
        assert upstream.stats() == Stats(open=1, idle=1, busy=0)


@both_loops
async def test_the_answer_to_head_has_a_length_and_no_body():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1200\r\nLocation: b\r\n\r\n"
    async with (
        facing(answers(answer)) as (_, upstream),
        upstream.open(UpstreamRequest("HEAD", "/", ())) as reply,
    ):
        assert (reply.status, reply.length, reply.headers) == (200, 1200, ((b"location", b"b"),))
        assert await reply.read() == b""
        assert upstream.stats().idle == 1


@both_loops
async def test_a_body_without_length_ends_with_the_connection():
    async with facing(says_and_closes(b"HTTP/1.1 200 OK\r\n\r\n", b"un", b"til")) as (_, upstream):
        assert await fetch(upstream) == (200, b"until")
        assert upstream.stats().open == 0


@both_loops
async def test_a_body_without_length_that_ends_in_a_reset_is_cut():
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\npart")
        await asyncio.sleep(0.05)
        peer.reset()

    async with facing(script) as (_, upstream):
        assert (await refused(upstream)).kind == "upstream-invalid"


@pytest.mark.parametrize(
    "data",
    [
        b"not http at all", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\nSet-Cookie: evil\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        CHUNKED + b"2\r\nok\r\nzz\r\n", b"HTTP/1.1 100 Go\r\n\r\n" * 9 + OK,
    ],
)  # fmt: skip
@both_loops
async def test_an_answer_that_is_not_valid_is_a_problem_at_once_and_the_end_of_the_connection(data):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(data)
        await peer.gone()

    async with facing(script) as (raw, upstream):
        problem = await refused(upstream)
        assert (problem.kind, problem.status) == ("upstream-invalid", 502)
        assert upstream.stats().open == 0
        await asyncio.sleep(0.02)
        assert raw.left == 1


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"2\r\nok\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["closed", "reset"])
@both_loops
async def test_an_answer_that_ends_early_is_never_a_clean_end(data, how):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(data)
        if how == "reset":
            await asyncio.sleep(0.03)
            peer.reset()

    async with facing(script) as (_, upstream):
        problem = await refused(upstream)
        assert (problem.kind, problem.detail) == ("upstream-invalid", "The upstream's answer was cut short.")


@both_loops
async def test_what_came_before_a_cut_can_be_read_and_the_problem_stays():
    async with (
        facing(says_and_closes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")) as (_, upstream),
        upstream.open(GET) as reply,
    ):
        assert await reply.read() == b"part"
        for _ in range(2):
            with pytest.raises(Problem):
                await reply.read()


@both_loops
async def test_bytes_after_the_end_never_reach_the_next_request():
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    for parts in ([OK + evil], [OK, evil]):
        async with facing(answers(*parts, pause_s=0.02)) as (raw, upstream):
            assert await fetch(upstream) == (200, b"ok")
            await asyncio.sleep(0.05)
            assert upstream.stats().open == 0
            assert await fetch(upstream) == (200, b"ok")
            assert raw.connections == 2


@both_loops
async def test_bytes_that_the_loop_has_not_seen_yet_do_not_reach_the_next_request_either():
    sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK if peer.number == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew")
        if peer.number == 1:
            # Straight into the socket, with no turn of the loop before the client's next request.
            sock = peer._writer.get_extra_info("socket")
            fetched = asyncio.create_task(asyncio.sleep(0.05))
            await fetched
            with socket.fromfd(sock.fileno(), sock.family, sock.type) as raw_socket:
                raw_socket.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            sent.set()
            second.set_result(upstream.begin(GET, upstream.encode(GET), heard))
        await peer.gone()

    class Heard:
        def on_whole(self, *_): ...
        def on_error(self, *_): ...
        def on_done(self): ...

    heard = Heard()
    second: asyncio.Future = asyncio.get_running_loop().create_future()
    async with RawUpstream(script) as raw, a_pool(raw.url) as upstream:
        assert await fetch(upstream) == (200, b"ok")
        assert await second is None
        assert await fetch(upstream) == (200, b"new")


@both_loops
async def test_an_answer_before_the_request_was_written_ends_the_connection():
    async def script(peer: Peer) -> None:
        await peer._reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await asyncio.sleep(0.2)
        await peer.gone()

    async with facing(script) as (_, upstream):
        big = UpstreamRequest("POST", "/", (), b"q" * 20_000_000)
        assert await fetch(upstream, big) == (413, b"big")
        assert upstream.stats().open == 0


# -- faults


@both_loops
async def test_nobody_listening_is_unreachable_and_the_cause_is_logged_by_class_only(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with a_pool(f"http://127.0.0.1:{port}") as upstream:
            problem = await refused(upstream)
    assert (problem.kind, problem.status) == ("upstream-unreachable", 502)
    assert str(port) not in problem.detail + caplog.text.replace(str(taken), "")
    assert [r.levelno for r in caplog.records if r.name == "gateway.upstream"] == [logging.WARNING]
    assert "upstream-unreachable: ConnectionRefusedError" in caplog.text


@both_loops
async def test_a_name_that_does_not_resolve_is_unreachable(monkeypatch):
    async with a_pool("https://acme.invoca.net") as upstream:

        async def getaddrinfo(*_args, **_kwargs):
            raise socket.gaierror(socket.EAI_NONAME, "secret.internal")

        upstream._loop = _Facade(upstream._loop, getaddrinfo=getaddrinfo)
        problem = await refused(upstream)
    assert (problem.kind, problem.detail) == (
        "upstream-unreachable",
        "The upstream's name could not be resolved.",
    )


@both_loops
async def test_a_connection_closed_before_any_answer_is_unreachable():
    async with facing(says_and_closes()) as (raw, upstream):
        assert (await refused(upstream)).kind == "upstream-unreachable"
        assert raw.connections == 1


class _Facade:
    """A loop with some methods replaced: uvloop's cannot be patched."""

    def __init__(self, loop, **replaced):
        self._loop = loop
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        return getattr(self._loop, name)


@both_loops
async def test_every_address_is_tried_in_the_time_there_is_and_the_good_one_first_next_time():
    tried = []
    async with RawUpstream(answers(OK + b"!")) as raw, a_pool(raw.url, connect_timeout_s=0.4) as upstream:
        loop = upstream._loop

        async def getaddrinfo(*_args, **_kwargs):
            found = []
            for host in ("192.0.2.1", "192.0.2.2", "127.0.0.1"):
                found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, raw.port)))
            return found

        async def create_connection(factory, host, port, **kwargs):
            tried.append(host)
            if host == "192.0.2.1":
                await asyncio.sleep(30)  # swallows what is sent to it
            if host == "192.0.2.2":
                raise OSError("no route")
            return await loop.create_connection(factory, host, port, **kwargs)

        upstream._loop = _Facade(loop, getaddrinfo=getaddrinfo, create_connection=create_connection)
        assert await fetch(upstream) == (200, b"ok")
        assert await fetch(upstream) == (200, b"ok")
    assert tried == ["192.0.2.1", "192.0.2.2", "127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize("what", ["getaddrinfo", "create_connection"])
@both_loops
async def test_the_time_to_connect_is_bounded_in_all(what):
    async with a_pool("http://127.0.0.1:9", connect_timeout_s=0.2) as upstream:

        async def hangs(*_args, **_kwargs):
            await asyncio.sleep(30)

        upstream._loop = _Facade(upstream._loop, **{what: hangs})
        began = time.monotonic()
        problem = await refused(upstream)
        assert (problem.kind, problem.status) == ("upstream-timeout", 504)
        assert 0.15 < time.monotonic() - began < 2
        assert upstream.stats() == Stats(0, 0, 0)


# -- deadlines


@both_loops
async def test_no_first_byte_in_time_is_a_timeout_and_never_early(quick):
    async with facing(silence, first_byte_timeout_s=0.2, gap_timeout_s=9.0) as (raw, upstream):
        for _ in range(2):
            began = time.monotonic()
            problem = await refused(upstream)
            assert (problem.kind, problem.status) == ("upstream-timeout", 504)
            assert 0.2 <= time.monotonic() - began < 2
        await asyncio.sleep(0.02)
        assert raw.left == raw.connections == 2  # the upstream notices, and a timeout is not sent again


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        CHUNKED + b"2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
)
@both_loops
async def test_a_gap_between_bytes_is_a_timeout(quick, data):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(data)
        await peer.gone()

    async with facing(script, first_byte_timeout_s=9.0, gap_timeout_s=0.1) as (_, upstream):
        async with upstream.open(GET) as reply:
            assert await reply.read() == b"ok"
            with pytest.raises(Problem) as caught:
                await reply.read()
        assert caught.value.kind == "upstream-timeout"


@both_loops
async def test_an_answer_that_flows_has_no_limit_of_its_own(quick):
    parts = [b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", *[b"x"] * 7]
    async with facing(answers(*parts, pause_s=0.05), first_byte_timeout_s=0.2, gap_timeout_s=0.2) as (
        _,
        upstream,
    ):
        assert await fetch(upstream) == (200, b"x" * 7)


@pytest.mark.parametrize("drips", [False, True])
@both_loops
async def test_no_deadline_is_early_when_the_first_sweep_comes_at_once(monkeypatch, drips):
    monkeypatch.setattr("gateway.connection.TICK_S", 0.1)
    monkeypatch.setattr("gateway.upstream.TICK_S", 0.1)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*[b"H", b"T", b"T", b"P", b"/"] * drips, pause_s=0.05)
        await peer.gone()

    wait_s = 0.1 if drips else 0.2
    async with facing(script, first_byte_timeout_s=wait_s, gap_timeout_s=0.1) as (_, upstream):
        await asyncio.sleep(0.085)
        began = time.monotonic()
        assert (await refused(upstream)).kind == "upstream-timeout"
        assert 0.2 <= time.monotonic() - began < 2


@both_loops
async def test_a_head_that_drips_in_has_the_time_of_both_waits_and_no_more(quick):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nX-A: ", *[b"a"] * 100, pause_s=0.03)

    async with facing(script, first_byte_timeout_s=0.15, gap_timeout_s=0.15) as (_, upstream):
        began = time.monotonic()
        assert (await refused(upstream)).kind == "upstream-timeout"
        assert 0.3 <= time.monotonic() - began < 2


@both_loops
async def test_an_upstream_that_stops_reading_the_request_is_a_timeout(quick):
    async def script(peer: Peer) -> None:
        await asyncio.sleep(5)

    async with facing(script, first_byte_timeout_s=9.0, gap_timeout_s=0.2) as (_, upstream):
        began = time.monotonic()
        problem = await refused(upstream, UpstreamRequest("PUT", "/", (), b"q" * 20_000_000))
        assert problem.kind == "upstream-timeout"
        assert 0.2 <= time.monotonic() - began < 2


@both_loops
async def test_an_upstream_that_reads_slowly_but_reads_is_given_its_time(quick):
    size = 40_000_000

    async def script(peer: Peer) -> None:
        left = size
        while left > 0:
            left -= len(await peer.read_some())
            await asyncio.sleep(0.001)
        await peer.say(OK)
        await peer.gone()

    async with facing(script, first_byte_timeout_s=9.0, gap_timeout_s=0.5) as (_, upstream):
        began = time.monotonic()
        assert await fetch(upstream, UpstreamRequest("PUT", "/", (), b"q" * size)) == (200, b"ok")
        assert time.monotonic() - began > 0.5


@both_loops
async def test_a_slow_reader_makes_the_upstream_wait_and_its_silence_is_not_counted(quick):
    said = 0

    async def script(peer: Peer) -> None:
        nonlocal said
        await peer.request()
        await peer.say(HEAD_50M)
        for _ in range(50):
            await peer.say(b"x" * 1_000_000)
            said += 1
        await peer.gone()

    async with facing(script, first_byte_timeout_s=0.1, gap_timeout_s=0.1) as (_, upstream):
        async with upstream.open(GET) as reply:
            await asyncio.sleep(0.4)  # four gaps long
            assert said < 20
            assert reply._held <= 2 * BUFFER
            total = 0
            while data := await reply.read():
                total += len(data)
        assert total == 50_000_000
        assert upstream.stats() == Stats(1, 1, 0)


@both_loops
async def test_the_gap_is_counted_again_once_reading_goes_on(quick):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 600_000)
        await peer.gone()

    async with facing(script, first_byte_timeout_s=9.0, gap_timeout_s=0.1) as (_, upstream):
        async with upstream.open(GET) as reply:
            await asyncio.sleep(0.3)
            total = 0
            while total < 600_000:
                total += len(await reply.read())
            with pytest.raises(Problem) as caught:
                await reply.read()
        assert caught.value.kind == "upstream-timeout"


# -- leaving


@both_loops
async def test_a_reply_left_early_aborts_the_connection_and_cannot_be_read_on():
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(HEAD_50M + b"x")
        await peer.gone()

    async with facing(script) as (raw, upstream):
        async with upstream.open(GET) as reply:
            assert upstream.stats() == Stats(1, 0, 1)
        assert upstream.stats() == Stats(0, 0, 0)
        with pytest.raises(Problem):
            await reply.read()
        await asyncio.sleep(0.05)
        assert raw.left == 1


@pytest.mark.parametrize("when", ["connecting", "before the head", "in the body"])
@both_loops
async def test_a_client_that_leaves_aborts_the_upstream_connection_at_once(when):
    async def script(peer: Peer) -> None:
        await peer.request()
        if when == "in the body":
            await peer.say(HEAD_50M)
        await peer.gone()

    async with facing(script) as (raw, upstream):
        if when == "connecting":

            async def create_connection(*_args, **_kwargs):
                await asyncio.sleep(30)

            upstream._loop = _Facade(upstream._loop, create_connection=create_connection)
        task = asyncio.create_task(fetch(upstream))
        await asyncio.sleep(0.05)
        assert upstream.stats() == Stats(1, 0, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upstream.stats() == Stats(0, 0, 0)
        assert upstream._shares == {}
        await asyncio.sleep(0.02)
        assert raw.left == raw.connections == (0 if when == "connecting" else 1)


@both_loops
async def test_closing_ends_what_is_under_way_with_a_problem_and_lets_nothing_begin():
    async with RawUpstream(silence) as raw, a_pool(raw.url) as upstream:
        task = asyncio.create_task(fetch(upstream))
        await asyncio.sleep(0.03)
        await upstream.close()
        with pytest.raises(Problem) as caught:
            await task
        assert caught.value.kind == "overloaded"
        assert (await refused(upstream)).kind == "overloaded"
        assert upstream._timer.cancelled()


@both_loops
async def test_no_task_is_left_behind():
    async with facing(answers(OK)) as (_, upstream):
        await fetch(upstream)
        mine = {task for task in asyncio.all_tasks() if "RawUpstream" not in repr(task.get_coro())}
        assert mine == {asyncio.current_task()}
