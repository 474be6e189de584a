"""The short way does what the general way does: every trap of a data path, on both of them and on both loops."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.config import Policies, Store
from gateway.demo import ADVERTISER
from gateway.lean import UNCOPIED
from gateway.load import Sets, load_policies
from gateway.outbox import Outbox
from gateway.problem import Problem
from gateway.store import open_store
from tests.conftest import Clock, add_person
from tests.integration.test_answers import BROKEN, SHAPES, WHOLE, reply, ticking
from tests.integration.test_wire import CATALOGUE, CONFIG, NAMED, NI, PUT, Line, connect, head, quick, sized
from tests.upstream import OK, Peer, answers, both_loops, says_and_closes, silence
from tests.ways import GENERAL, SHORT, on_both_ways, outcomes, scene, token_free

__all__ = ["quick", "ticking"]

BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"


def piecewise(*parts: bytes):
    """The parts one after another, then the end."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*parts, pause_s=0.002)

    return script


def said_and_silent(*parts: bytes):
    """The parts, and then nothing more until the gateway leaves."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*parts)
        await peer.gone()

    return script


async def echo(peer: Peer) -> None:
    """Each request is answered with its own target, after a moment."""
    while True:
        request = await peer.request()
        await asyncio.sleep(0.01)
        await peer.say(reply("200 OK", body=request.split(b" ")[1]))


def slow(after_s: float = 0.15, once: bool = False):
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(after_s)
            await peer.say(OK)
            if once:
                return

    return script


@pytest.fixture
def tick(monkeypatch):
    """The short way looks after its clients every 50 ms."""
    monkeypatch.setattr("gateway.lean.TICK_S", 0.05)


# -- the same answer, the same bytes upstream, the same record

REFUSAL = SHAPES["class and text"][1]
TEN_MB = bytes(range(1, 192)) * 54_000  # whatever can stand in a body without being suspicious
ROWS = {
    **{f"whole, {name}": (piecewise(*parts), 200, "", b"hello world") for name, parts in WHOLE.items()},
    **{f"vendor's, {name}": (answers(reply(f"{status} No", body=body)), status, "", body)
       for name, (status, body) in SHAPES.items()},
    "nothing in it": (answers(reply("200 OK")), 200, "", b""),
    "201": (answers(reply("201 Made", body=b"made")), 201, "", b"made"),
    "204": (answers(b"HTTP/1.1 204 No Content\r\n\r\n"), 204, "", b""),
    "204 with a length": (answers(b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n"), 204, "", b""),
    "10 MB": (answers(reply("200 OK", body=TEN_MB)), 200, "", TEN_MB),
    "10 MB in chunks": (answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                                *[b"10000\r\n" + TEN_MB[:65_536] + b"\r\n"] * 156, b"0\r\n\r\n"),
                        200, "", TEN_MB[:65_536] * 156),
    "too much": (answers(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), 200, "", b"ok"),
    "no reason": (answers(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"), 200, "", b"ok"),
    "a refusal in pieces": (piecewise(reply("403 No", body=REFUSAL)[:-9], REFUSAL[-9:]), 403, "", REFUSAL),
    "a refusal in chunks": (piecewise(b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n",
                                      b"%x\r\n%b\r\n" % (len(REFUSAL), REFUSAL), b"0\r\n\r\n"), 404, "", REFUSAL),
    "a refusal until close": (piecewise(b"HTTP/1.1 404 No\r\n\r\n", REFUSAL), 404, "", REFUSAL),
    "a refusal cut": (piecewise(reply("404 No", body=REFUSAL)[:-9]), 502, "upstream-invalid", None),
    "a refusal of HTML": (answers(reply("404 No", body=b"<html>secret")), 404, "upstream-refused", None),
    "401": (answers(reply("401 No", "WWW-Authenticate: Basic")), 502, "upstream-refused-us", None),
    "302": (answers(reply("302 Moved", "Location: http://evil.example/")), 502, "upstream-redirect", None),
    "304": (answers(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1200\r\n\r\n"), 502, "upstream-redirect", None),
    "206": (answers(reply("206 Part", body=b"ab")), 502, "upstream-failed", None),
    "500": (answers(reply("500 Oops", body=b"<html>stack")), 502, "upstream-failed", None),
    "500 with a handle": (answers(reply("500 Oops", body=b'{"errors":{"invalid_data":"handle 123"}}')),
                          502, "upstream-failed", None),
    "101": (said_and_silent(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
            502, "upstream-invalid", None),
    "gzip": (answers(reply("200 OK", "Content-Encoding: gzip", body=b"\x1f\x8b")), 502, "upstream-invalid", None),
    "gzip in pieces": (said_and_silent(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", b"\x1f\x8b"),
                       502, "upstream-invalid", None),
    "two framings": (answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                     502, "upstream-invalid", None),
    "bare line feed": (answers(b"HTTP/1.1 200 OK\r\nX: b\nSet-Cookie: evil\r\nContent-Length: 2\r\n\r\nok"),
                       502, "upstream-invalid", None),
    "no HTTP": (answers(b"SSH-2.0-OpenSSH_9.6\r\n"), 502, "upstream-invalid", None),
    "silence": (silence, 504, "upstream-timeout", None),
    "silence in the head": (said_and_silent(b"HTTP/1.1 200 OK\r\n"), 504, "upstream-timeout", None),
    "silence in a refusal": (said_and_silent(reply("404 No", body=REFUSAL)[:-9]), 504, "upstream-timeout", None),
    **{f"cut, {name}": (piecewise(text[:-7], text[-7:]), None, "", b"") for name, text in BROKEN.items()},
    "cut with its head": (says_and_closes(BROKEN["length"]), None, "", b""),
    "silence in the body": (said_and_silent(BROKEN["length"]), None, "", b""),
    "dripping chunks": (piecewise(*(bytes([b]) for b in BROKEN["bad chunk"])), None, "", b""),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
@both_loops
async def test_both_ways_give_the_same_answer_and_the_same_record(tmp_path, row):
    then, status, kind, body = ROWS[row]
    wait_s = 0.12 if "silence" in row else 5.0
    short, general = await outcomes(then, tmp_path, first_byte_timeout_s=wait_s, gap_timeout_s=wait_s)
    assert (short.status, short.kind) == (status, kind)
    assert body is None or short.body == body
    assert short == general
    assert len(short.sent) == 1


@both_loops
async def test_a_long_answer_that_came_whole_is_not_piled_up_with_others(tmp_path, monkeypatch):
    piled: list[int] = []
    put = Outbox.put

    def seen(outbox, transport, data):
        piled.append(len(data))
        put(outbox, transport, data)

    monkeypatch.setattr(Outbox, "put", seen)
    for body in (TEN_MB[:1_000], TEN_MB[:60_000]):
        folder = tmp_path / str(len(body))
        folder.mkdir()
        short, general = await outcomes(answers(reply("200 OK", body=body)), folder)
        assert (short.body, short) == (body, general)
    assert 1_000 < max(piled) < UNCOPIED


@both_loops
async def test_a_type_that_the_upstream_does_not_name_is_the_same_on_both_ways(tmp_path):
    short, general = await outcomes(answers(OK), tmp_path)
    assert short == general


@both_loops
async def test_a_named_type_is_the_same_on_both_ways(tmp_path):
    answer = reply(
        "200 OK", "Content-Type: application/json; charset=utf-8", "Content-Language: en", body=b"a,b"
    )
    short, general = await outcomes(answers(answer), tmp_path)
    assert (short, short.headers["content-type"]) == (general, "application/json; charset=utf-8")


@both_loops
async def test_a_file_name_that_is_not_ascii_is_the_same_on_both_ways(tmp_path):
    answer = reply(
        "200 OK", "Content-Type: application/json", 'Content-Disposition: x; filename="\xe4"', body=b"a"
    )
    short, general = await outcomes(answers(answer), tmp_path)
    assert short == general


@both_loops
async def test_a_refusal_that_is_too_long_is_answered_without_its_end(tmp_path):
    endless = b"HTTP/1.1 404 No\r\nContent-Length: 100000000\r\n\r\n"
    short, general = await outcomes(said_and_silent(endless, b"x" * 70_000), tmp_path)
    assert (general.status, general.kind) == (404, "upstream-refused")
    assert short == general


@on_both_ways
async def test_a_204_has_neither_a_length_nor_chunks_and_the_connection_goes_on(way, tmp_path):
    nothing = b"HTTP/1.1 204 No Content\r\n\r\n"
    async with scene(way, answers(nothing), tmp_path) as at, connect(at.running) as line:
        for _ in range(2):
            await line.send(at.get())
            heard = await line.answer()
            assert heard.status == 204
            assert not {"content-length", "transfer-encoding"} & heard.headers.keys()
        at.went(2)


@pytest.mark.parametrize("framed", ["in chunks and reads", "until close"])
@on_both_ways
async def test_an_answer_of_unknown_length_is_in_chunks_without_trailers(way, tmp_path, framed):
    async with scene(way, piecewise(*WHOLE[framed]), tmp_path) as at:
        heard = await at.ask()
        assert (heard.body, heard.headers["transfer-encoding"]) == (b"hello world", "chunked")
        assert not {"content-length", "trailer", "x-t"} & heard.headers.keys()
        at.went()


FIELDS = [
    ("X-One: 1", "x-one: 2", "Cookie: a=b", "Referer: http://x/", "Forwarded: for=1.2.3.4"),
    ("Connection: X-Secret", "X-Secret: 1"),
    ("Connection: keep-alive, User-Agent", "User-Agent: secret"),
    ("TE: trailers", "Proxy-Authorization: z", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive"),
    ("Accept-Encoding: gzip", "Accept: text/html", "Range: bytes=0-1", "If-None-Match: x"),
    ("User-Agent: ours/1", "Accept-Language: en", "Accept-Language: de"),
    ("User-Agent: \xe4", "Accept-Language: " + "a" * 300),
    ("Content-Length: 0",),
    ("X-Forwarded-For: 1.2.3.4, 5.6.7.8",),
]


@pytest.mark.parametrize("fields", FIELDS)
@both_loops
async def test_both_ways_send_the_same_bytes_upstream_and_none_that_are_not_listed(tmp_path, fields):
    sent = []
    for way in (SHORT, GENERAL):
        async with scene(way, answers(OK), tmp_path) as at:
            for _ in range(2):  # the second by what the first was found to be
                assert (await at.ask(at.get(*fields))).body == b"ok"
            at.went(2)
            host = f"127.0.0.1:{at.raw.port}".encode()
            sent.append([request.replace(host, b"up") for request in at.requests])
    assert sent[0] == sent[1]
    (request,) = set(sent[0])
    assert token_free(request)
    assert request.lower().count(b"authorization:") == 1
    assert b"secret" not in request
    names = {line.split(b":")[0].lower() for line in request.split(b"\r\n")[1:-2]}
    listed = {
        b"host",
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"user-agent",
        b"via",
        b"authorization",
    }
    assert names <= listed


# -- what the short way leaves alone

LEFT = {
    "HTTP/1.0": (lambda at: at.get().replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
    "upgrade": (lambda at: at.get("Connection: Upgrade", "Upgrade: websocket"), 501),
    "an expectation": (lambda at: at.get("Expect: tea"), 417),
    "an expectation that could be met": (lambda at: at.get("Expect: 100-continue"), 200),
    "a write": (lambda at: sized(PUT, NAMED, token=at.running.tokens["network"]), 200),
    "a body on a GET": (lambda at: at.get("Content-Length: 2") + b"{}", 400),
    "an empty chunked body": (lambda at: at.get("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "an unknown target": (lambda at: at.get(target="/api/nowhere.json"), 404),
    "another surface": (lambda at: at.get(target="/gateway/token"), 200),
    "no credential": (lambda at: head(f"GET {NI} HTTP/1.1"), 401),
    "a token in the query": (lambda at: at.get(target=f"{NI}?x={at.running.tokens['network']}"), 400),
    "a nominated credential": (lambda at: at.get("Connection: Authorization"), 400),
    "two credentials": (lambda at: at.get("Authorization: Bearer x"), 400),
    "a denied read": (lambda at: at.get(who="advertiser"), 403),
}


@pytest.mark.parametrize("left", LEFT)
@both_loops
async def test_what_is_not_simple_takes_the_general_way(tmp_path, left):
    make, status = LEFT[left]
    async with scene(SHORT, answers(OK), tmp_path) as at:
        await at.ask(at.get(who="advertiser"))  # that one is remembered too
        at.taken.clear()
        assert (await at.ask(make(at))).status == status
        assert not any(at.taken)
        assert all(token_free(request) for request in at.requests)


@on_both_ways
async def test_a_client_that_closes_is_closed_behind_its_answer(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        await line.send(at.get("Connection: close"), at.get(), pause_s=0.02)
        heard = await line.answer()
        assert (heard.body, heard.headers["connection"]) == (b"ok", "close")
        assert await line.end() == (b"", "closed")
        at.went()
        assert len(at.requests) == 1


# -- an upstream that is gone, full, or stale


@pytest.mark.parametrize("how", ["close", "reset"])
@on_both_ways
async def test_a_read_on_a_stale_connection_is_sent_once_more(way, tmp_path, how):
    async with scene(way, _stale(how), tmp_path) as at:
        assert (await at.ask()).body == b"ok"
        at.went()
        assert (len(at.requests), at.raw.connections) == (2, 2)
        assert len(at.records()) == 1


def _stale(how: str):
    """The first connection ends on its next request without a word; others serve."""

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await answers(OK)(peer)
        await peer.request()
        if how == "reset":
            peer.reset()

    return script


@on_both_ways
async def test_a_read_is_sent_twice_at_most_however_many_connections_are_stale(way, tmp_path):
    async def script(peer: Peer) -> None:
        if peer.number > 2:
            await answers(OK)(peer)
        await slow(once=True)(peer)  # both are needed for the first two requests
        await peer.request()

    async with scene(way, script, tmp_path, first_byte_timeout_s=3.0) as at:
        await asyncio.gather(at.ask(), at.ask())
        await at.until(lambda: at.running.gateway.upstream.stats().idle == 2)
        before = len(at.requests)
        assert (await at.ask()).status == 200
        assert len(at.requests) - before == 2


@both_loops
async def test_a_read_that_is_sent_once_more_counts_once(tmp_path):
    async with scene(SHORT, _stale("close"), tmp_path, limits={"requests_per_minute": 2}) as at:
        assert (await at.ask()).status == 200
        at.went()


@on_both_ways
async def test_an_upstream_that_has_gone_is_502(way, tmp_path):
    async with scene(way, _stale("close"), tmp_path) as at:
        at.raw._server.close()
        heard = await at.ask()
        assert (heard.status, heard.kind) == (502, "upstream-unreachable")
        at.went()
        assert (await at.settled())["outcome"] == "refused"


@on_both_ways
async def test_a_share_of_the_pool_that_is_used_up_is_503(way, tmp_path):
    async with scene(way, silence, tmp_path, max_connections_per_token=1, first_byte_timeout_s=5.0) as at:
        one = asyncio.create_task(at.ask())
        await at.until(lambda: at.busy() == 1)
        heard = await at.ask()
        assert (heard.status, heard.kind, heard.headers["retry-after"]) == (503, "overloaded", "1")
        at.went(2)
        assert [record["problem"] for record in at.records()] == ["overloaded"]
        one.cancel()


@on_both_ways
async def test_what_an_upstream_sends_too_much_reaches_nobody(way, tmp_path):
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    async with scene(way, answers(OK + poison), tmp_path) as at, connect(at.running) as line:
        for _ in range(3):
            await line.send(at.get())
            assert (await line.answer()).body == b"ok"
        at.went(3)
        assert at.raw.connections == 3  # each was dropped


@on_both_ways
async def test_without_an_idle_connection_one_is_made(way, tmp_path):
    async with scene(way, echo, tmp_path) as at, connect(at.running) as line, connect(at.running) as other:
        at.running.gateway.upstream.distrust()
        for each in (line, other):
            await each.send(at.get())
        assert [(await each.answer()).status for each in (line, other)] == [200, 200]
        at.went(2)
        assert at.raw.connections == 3
        assert (await at.settled(2))["outcome"] == "complete"


@on_both_ways
async def test_an_upstream_that_cannot_be_reached_any_more_is_a_502(way, tmp_path):
    async with scene(way, echo, tmp_path) as at, connect(at.running) as line:
        at.running.gateway.upstream.distrust()
        at.raw.stop_listening()
        await line.send(at.get())
        heard = await line.answer()
        assert (heard.status, heard.kind) == (502, "upstream-unreachable")
        at.went(1)
        assert (await at.settled())["problem"] == "upstream-unreachable"


@on_both_ways
async def test_a_client_that_leaves_while_a_connection_is_made_leaves_no_trace_but_its_record(way, tmp_path):
    async with scene(way, echo, tmp_path) as at:
        upstream = at.running.gateway.upstream
        upstream.distrust()
        dialled, dial = asyncio.Event(), upstream._dial

        async def slowly():
            await dialled.wait()
            return await dial()

        upstream._dial = slowly
        async with connect(at.running) as line:
            await line.send(at.get())
            await at.until(lambda: at.busy() == 1)
        await at.until(lambda: len(at.records()) == 1)
        dialled.set()
        assert (await at.settled())["outcome"] == "aborted"
        at.went(1)
        assert (at.requests, upstream._shares) == ([], {})


# -- one after another on one connection

ONES = [f"{NI}?limit={number}" for number in range(1, 60)]


@on_both_ways
async def test_three_reads_in_one_write_are_answered_in_order(way, tmp_path):
    async with scene(way, echo, tmp_path) as at, connect(at.running) as line:
        await line.send(b"".join(at.get(target=target) for target in ONES[:3]))
        assert [(await line.answer()).body.decode() for _ in range(3)] == ONES[:3]


@pytest.mark.parametrize("many", [1, 2, 31, 32, 33, 50])
@on_both_ways
async def test_what_comes_while_an_answer_is_awaited_is_answered_behind_it(way, tmp_path, many):
    async with scene(way, echo, tmp_path, gap_timeout_s=3.0, first_byte_timeout_s=3.0) as at:
        async with connect(at.running) as line:
            await line.send(at.get(target=ONES[0]))
            await at.until(lambda: at.busy() == 1)
            await line.send(b"".join(at.get(target=target) for target in ONES[1 : many + 1]))
            for target in ONES[: many + 1]:
                assert (await line.answer()).body.decode() == target
        at.went(1)
        assert [request.split(b" ")[1].decode() for request in at.requests] == ONES[: many + 1]


@pytest.mark.parametrize("apart", [True, False])
@on_both_ways
async def test_a_write_behind_a_read_is_answered_behind_it(way, tmp_path, apart):
    async with scene(way, echo, tmp_path) as at, connect(at.running) as line:
        write = sized(PUT, NAMED, token=at.running.tokens["network"])
        await line.send(*([at.get(), write] if apart else [at.get() + write]))
        assert [(await line.answer()).body.decode() for _ in range(2)] == [NI, PUT.split(" ")[1]]


@on_both_ways
async def test_garbage_behind_a_read_is_refused_behind_its_answer_and_the_connection_closed(way, tmp_path):
    async with scene(way, echo, tmp_path) as at, connect(at.running) as line:
        await line.send(at.get())
        await at.until(lambda: at.busy() == 1)
        await line.send(b"gar\0bage\r\n\r\n" + at.get())
        assert [(await line.answer()).status for _ in range(2)] == [200, 400]
        assert (await line.end())[0] == b""
        at.went()
        assert len(at.requests) == 1


@on_both_ways
async def test_nothing_of_a_read_with_garbage_that_came_with_it_goes_upstream(way, tmp_path):
    async with scene(way, echo, tmp_path) as at, connect(at.running) as line:
        await line.send(at.get() + b"gar\0bage\r\n\r\n")
        assert (await line.answer()).status == 400
        assert (await line.end())[0] == b""
        assert not at.requests


@on_both_ways
async def test_a_head_in_pieces_behind_a_read_is_the_next_request(way, tmp_path):
    async with scene(way, echo, tmp_path) as at, connect(at.running) as line:
        request = at.get(target=ONES[0])
        await line.send(at.get() + request[:30], request[30:-2], request[-2:], pause_s=0.02)
        assert [(await line.answer()).body.decode() for _ in range(2)] == [NI, ONES[0]]


@on_both_ways
async def test_a_head_that_comes_byte_by_byte_is_answered(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        request = at.get()
        await line.send(*(request[i : i + 1] for i in range(len(request))))
        assert (await line.answer()).body == b"ok"
        at.went()


# -- clients that leave, or do not read


@pytest.mark.parametrize("begun", [False, True])
@on_both_ways
async def test_a_client_that_leaves_frees_the_upstream_at_once(way, tmp_path, begun):
    then = said_and_silent(BIG + b"x" * 1000) if begun else silence
    async with scene(way, then, tmp_path, first_byte_timeout_s=5.0, gap_timeout_s=5.0) as at:
        async with connect(at.running) as line:
            await line.send(at.get())
            await at.until(lambda: at.busy() == 1)
            if begun:
                await line.answer(to_head=True)
        record = await at.settled()
        at.went()
        assert record["outcome"] == "aborted"
        await at.until(lambda: at.raw.left == 1)


def megabytes(progress: list[int]):
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if b"limit=1 " in request:
                await peer.say(reply("200 OK", body=b"x" * 60_000))
                continue
            await peer.say(BIG)
            for _ in range(100):
                await peer.say(b"x" * 1_000_000)
                progress.append(1)

    return script


@on_both_ways
async def test_a_client_that_does_not_read_makes_the_upstream_wait(way, tmp_path):
    progress: list[int] = []
    async with scene(way, megabytes(progress), tmp_path, gap_timeout_s=5.0) as at:
        async with connect(at.running) as line:
            await line.send(at.get(), pause_s=0.5)
            held = len(progress)
            await asyncio.sleep(0.2)
            assert held == len(progress) < 40
        await at.settled()
        at.went()


@asynccontextmanager
async def deaf(at):
    """A client that reads nothing, and whose kernel takes little for it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", at.running.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.transport.pause_reading()
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


@on_both_ways
async def test_a_client_that_had_stopped_reading_before_makes_the_upstream_wait_too(way, tmp_path):
    progress: list[int] = []
    async with scene(way, megabytes(progress), tmp_path, gap_timeout_s=5.0) as at:
        async with deaf(at) as line:
            await line.send(at.get(target=ONES[0]) * 100)  # 6 MB of small answers
            seen = -1
            while seen != len(at.requests) or at.busy():
                seen = len(at.requests)
                await asyncio.sleep(0.15)
            await line.send(at.get(target=ONES[1]), pause_s=0.4)
            assert len(progress) < 60
        await at.settled()


@on_both_ways
async def test_a_client_that_asks_and_does_not_read_is_not_asked_on(way, tmp_path):
    async with scene(way, megabytes([]), tmp_path, gap_timeout_s=5.0) as at, deaf(at) as line:
        await line.send(at.get(target=ONES[0]) * 200, pause_s=0.4)
        (served,) = at.running.gateway._runners[0].server.connections
        assert served.transport.get_write_buffer_size() < 1_000_000


@on_both_ways
async def test_a_client_that_stops_and_reads_on_gets_every_byte(way, tmp_path):
    body = TEN_MB * 2
    async with scene(way, answers(reply("200 OK", body=body)), tmp_path, gap_timeout_s=5.0) as at:
        async with connect(at.running) as line:
            line.writer.transport.pause_reading()
            await line.send(at.get(), pause_s=0.2)
            line.writer.transport.resume_reading()
            assert (await line.answer()).body == body
        at.went()


@on_both_ways
async def test_a_client_that_never_reads_on_is_broken_off_and_recorded_as_cut(way, tmp_path, tick):
    then = said_and_silent(BIG + b"x" * 30_000_000)
    async with scene(way, then, tmp_path, limits={"body_timeout_s": 0.2}, gap_timeout_s=9.0) as at:
        async with connect(at.running) as line:
            line.writer.transport.pause_reading()
            await line.send(at.get())
            record = await at.settled()
        at.went()
        assert (record["outcome"], record["problem"], record["status"]) == ("cut", "request-timeout", 200)


@on_both_ways
async def test_a_client_that_says_it_sends_no_more_counts_as_gone(way, tmp_path):
    async with scene(way, slow(), tmp_path, first_byte_timeout_s=3.0) as at, connect(at.running) as line:
        await line.send(at.get())
        await at.until(lambda: at.busy() == 1)
        line.writer.write_eof()
        assert await line.end() == (b"", "closed")
        assert (await at.settled())["outcome"] == "aborted"


# -- who may ask is asked anew for every request


async def deleted(at):
    await at.running.request("DELETE", "/admin/api/tokens/" + at.records()[0]["token_id"], "network_admin")


async def deleted_by_another_process(at):
    elsewhere = await open_store(Store(path=at.running.gateway.config.store.path), at.running.clock)
    await elsewhere.delete_token(at.records()[0]["token_id"], by="an administrator", at=1)
    await elsewhere.close()


async def disabled(at):
    await at.running.gateway.store.set_user(at.running.owners["network"], active=False)


async def expired(at):
    at.running.clock.advance(90 * 86_400)


@pytest.mark.parametrize("end", [deleted, deleted_by_another_process, disabled, expired])
@on_both_ways
async def test_a_token_that_has_ended_is_refused_on_the_connection_it_came_on(way, tmp_path, end):
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        for _ in range(2):
            await line.send(at.get())
            assert (await line.answer()).status == 200
        at.went(2)
        await end(at)
        sent = len(at.requests)
        for _ in range(2):
            await line.send(at.get())
            heard = await line.answer()
            assert (heard.status, heard.kind) == (401, "invalid-token")
        assert (len(at.requests), sum(at.taken)) == (sent, 2 if way == SHORT else 0)


@on_both_ways
async def test_what_changes_of_an_owner_holds_from_the_next_request_on(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        store, owner = at.running.gateway.store, at.running.owners["network"]
        seen = []
        for change in ({}, {"role": "member"}, {}, {"account": ADVERTISER}, {}):
            if change:
                await store.set_user(owner, **change)
            await line.send(at.get())
            status = (await line.answer()).status
            record = (await at.settled(len(seen) + 1)) if status else {}
            seen.append((status, record["role"], record["account"]))
    assert seen == [(200, "super", "network:33"), (200, "member", "network:33"), (200, "member", "network:33"),
                    (403, "member", "advertiser:706"), (403, "member", "advertiser:706")]  # fmt: skip


@on_both_ways
async def test_an_exposed_token_ends_when_it_is_to_be_replaced(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        await line.send(at.get())
        before = (await line.answer()).headers["token-expires"]
        shown = head(f"GET {NI}?x={at.running.tokens['network']} HTTP/1.1")
        assert (await at.ask(shown)).kind == "credential-in-query"
        for _ in range(2):
            await line.send(at.get())
            assert (await line.answer()).headers["token-expires"] < before
        at.went(2)  # once from before, once remembered again
        at.running.clock.advance(24 * 3600)
        await line.send(at.get())
        assert (await line.answer()).kind == "invalid-token"


@on_both_ways
async def test_a_store_that_cannot_be_reached_is_trusted_for_a_moment_and_not_for_longer(
    way, tmp_path, monkeypatch
):
    monkeypatch.setattr("gateway.verdicts.FRESH_S", 0.4)
    monkeypatch.setattr("gateway.verdicts.WATCH_S", 0.02)
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:

        async def unreachable(*_):
            raise Problem("store-unavailable")

        with monkeypatch.context() as gone:
            for name in ("refresh", "find"):
                gone.setattr(type(at.running.gateway.store), name, unreachable)
            await line.send(at.get())
            assert (await line.answer()).status == 200
            await asyncio.sleep(0.45)
            for _ in range(2):
                await line.send(at.get())
                assert (await line.answer()).kind == "store-unavailable"
        await at.running.gateway.verdicts.check()
        for _ in range(2):
            await line.send(at.get())
            assert (await line.answer()).status == 200
        at.went(3)  # before, and again: what was known of the token still holds under the same epoch


async def from_networks(at, *networks: str) -> None:
    _, at.running.tokens["bound"] = await at.running.gateway.issuer.create(
        owner_id=at.running.owners["network"], description="bound to networks", scopes=["network:read"],
        expires_at=int(at.running.clock()) + 86_400, networks=networks,
    )  # fmt: skip


@on_both_ways
async def test_the_networks_of_a_token_are_looked_at_for_every_request(way, tmp_path):
    async with scene(way, answers(OK), tmp_path, listen={"trusted_proxies": ("127.0.0.1/32",)}) as at:
        await from_networks(at, "10.0.0.0/8", "127.0.0.1/32")
        await at.warm("bound")
        hops = [
            "10.1.1.1",
            "11.1.1.1",
            "10.1.1.1",
            None,
            "nonsense",
            "11.1.1.1, 127.0.0.1",
            "11.1.1.1, 10.9.9.9",
        ]
        async with connect(at.running) as line:
            statuses = []
            for hop in hops * 2:
                await line.send(at.get(*([f"X-Forwarded-For: {hop}"] if hop else []), who="bound"))
                statuses.append((await line.answer()).status)
                if statuses[-1] == 200:
                    await at.until(lambda: not at.busy())
        assert statuses == [200, 403, 200, 200, 400, 403, 200] * 2
        at.went(8)
        assert [record["client"] for record in at.records()[:2]] == ["10.1.1.1", "11.1.1.1"]


@on_both_ways
async def test_the_same_bytes_from_another_network_are_another_request(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at:
        await from_networks(at, "127.0.0.1/32")
        await at.warm("bound")
        assert (await at.ask(at.get(who="bound"))).status == 200
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", at.running.port, local_addr=("127.0.0.2", 0)
        )
        writer.write(at.get("Connection: close", who="bound").replace(b"Connection: close\r\n", b""))
        assert b" 403 " in await reader.readline()
        writer.transport.abort()
        assert len(at.requests) == 1


@on_both_ways
async def test_a_token_is_told_its_rate_and_held_to_it(way, tmp_path):
    async with scene(way, answers(OK), tmp_path, limits={"requests_per_minute": 4}) as at:
        async with connect(at.running) as line:
            told = []
            for _ in range(5):
                await line.send(at.get())
                heard = await line.answer()
                told.append((heard.status, heard.headers["ratelimit"].split(";")[1]))
        assert told == [(200, "r=2"), (200, "r=1"), (200, "r=0"), (429, "r=0"), (429, "r=0")]
        at.went(3)
        assert len(at.requests) == 3


@on_both_ways
async def test_two_tokens_on_one_connection_are_two_principals(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        await at.warm("network_admin")
        order = ["network", "network_admin", "network_admin", "network", "advertiser", "network"] * 3
        for number, who in enumerate(order, 1):
            await line.send(at.get(who=who))
            assert (await line.answer()).status == (403 if who == "advertiser" else 200)
            await at.settled(number)
        at.went(15)
        assert [record["owner"] for record in at.records()] == [at.running.owners[who] for who in order]


# -- the same bytes again, which are not read again


@both_loops
async def test_the_same_bytes_are_read_once_and_judged_anew(tmp_path):
    async with scene(SHORT, answers(OK), tmp_path) as at, connect(at.running) as line:
        for number in range(1, 5):
            await line.send(at.get())
            assert (await line.answer()).body == b"ok"
            await at.settled(number)
        at.went(4)
        assert (at.repeated, len(at.requests)) == (3, 4)


@both_loops
async def test_who_does_not_take_answers_has_nothing_begun_for_them_without_being_read(tmp_path):
    async with scene(SHORT, answers(OK), tmp_path) as at, connect(at.running) as line:
        await line.send(at.get())
        assert (await line.answer()).status == 200
        (handler,) = at.running.gateway._runners[0].server.connections
        handler.pause_writing()
        handler.data_received(at.get())  # it had left the socket before reading was paused
        await asyncio.sleep(0.05)
        assert (at.repeated, len(at.requests)) == (0, 1)
        handler.resume_writing()
        assert (await line.answer()).status == 200


# Every one of these is taken for something else where it stands than where nothing stands before it.
BEFORE = {
    "a part of a head": (b"GET /nowhere HTTP/1.1\r\nX-Before: ", 404),
    "a part of a line": (b"GET /heal", 400),
    "a head without its empty line": (b"GET /healthz HTTP/1.1\r\nHost: a\r\n", 400),
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("behind", [False, True], ids=["alone", "behind a read"])
@on_both_ways
async def test_bytes_that_were_a_request_once_are_none_behind_a_part_of_another(
    way, tmp_path, behind, before
):
    part, status = BEFORE[before]
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        assert (await at.ask()).status == 200  # kept from here on
        if behind:
            await line.send(at.get() + part, pause_s=0.05)
            assert (await line.answer()).status == 200
        else:
            await line.send(part, pause_s=0.05)
        await line.send(at.get())
        assert (await line.answer()).status == status
        assert len(at.requests) == 1 + behind


@on_both_ways
async def test_a_body_of_bytes_that_were_a_request_once_is_a_body(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        inner = at.get()
        await line.send(at.get())
        assert (await line.answer()).status == 200
        fields = ("Content-Type: application/json", f"Content-Length: {len(inner)}")
        await line.send(head(PUT, *fields, token=at.running.tokens["network"]), inner, pause_s=0.05)
        heard = await line.answer()
        assert (heard.status, heard.kind) == (400, "credential-in-body")
        assert len(at.requests) == 1


@both_loops
async def test_bytes_that_came_in_pieces_or_with_others_are_not_kept_as_a_request(tmp_path):
    async with scene(SHORT, answers(OK), tmp_path) as at, connect(at.running) as line:
        at.running.gateway.lean.plans.clear()
        whole = at.get()
        await line.send(whole[:40], whole[40:], pause_s=0.02)
        assert (await line.answer()).status == 200
        await line.send(whole + whole)
        for _ in range(2):
            assert (await line.answer()).status == 200
        assert not at.running.gateway.lean.plans


# -- another set of policies


def table_of(folder, name, text):
    """The shipped policies and one of the test's, compiled."""
    local = folder / name
    local.mkdir()
    (local / "own.cedar").write_text(f'@id("{name}") @source("s") @reason("r")\n{text}')
    return load_policies(replace(CONFIG, policies=Policies(local=str(local))), CATALOGUE)


def put_in_force(at, table):
    policies = at.running.gateway.policies
    policies.stage(policies.generation + 1, Sets(table, policies.sets.tried))
    policies.put_in_force(policies.generation + 1)


NOT_ON_THE_LIST = 'forbid (principal, action == Action::"call", resource == Operation::"advertisers_list");'
BEFORE_NOON = (
    'forbid (principal, action == Action::"call", resource) when { context.now.toTime() >= duration("12h") };'
)


@on_both_ways
async def test_what_was_decided_by_a_set_is_not_done_once_another_is_in_force(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at, connect(at.running) as line:
        shipped, other = at.running.gateway.policies.table, table_of(tmp_path, "no-list", NOT_ON_THE_LIST)
        for table, status in [(shipped, 200), (other, 403), (shipped, 200), (other, 403), (shipped, 200)]:
            put_in_force(at, table)
            for _ in range(2):
                await line.send(at.get())
                assert (await line.answer()).status == status
            assert (await at.settled())["policy_digest"] == table.digest[:16]


@both_loops
async def test_what_was_worked_out_ends_with_the_set_that_decided_it(tmp_path):
    async with scene(SHORT, answers(OK), tmp_path) as at, connect(at.running) as line:
        plans = at.running.gateway.lean.plans
        for fields in ("X-Number: 1", "X-Number: 2"):
            await line.send(at.get(fields))
            assert (await line.answer()).status == 200
        assert len(plans) >= 2
        put_in_force(at, table_of(tmp_path, "no-list", NOT_ON_THE_LIST))
        await line.send(at.get("X-Number: 1"))
        assert (await line.answer()).status == 403
        assert not plans, "plans hold on to the table that decided them"


@both_loops
async def test_a_request_keeps_the_policies_it_began_with(tmp_path):
    async with scene(SHORT, slow(0.2), tmp_path) as at, connect(at.running) as line:
        shipped = at.running.gateway.policies.table
        await line.send(at.get())
        await at.until(lambda: at.busy() == 1)
        put_in_force(at, table_of(tmp_path, "no-list", NOT_ON_THE_LIST))
        assert (await line.answer()).status == 200
        assert (await at.settled())["policy_digest"] == shipped.digest[:16]


@on_both_ways
async def test_what_hangs_on_the_clock_is_asked_anew_every_time(way, tmp_path):
    clock = Clock()
    async with scene(way, answers(OK), tmp_path, clock=clock) as at, connect(at.running) as line:
        put_in_force(at, table_of(tmp_path, "before-noon", BEFORE_NOON))
        midnight = clock() // 86_400 * 86_400
        statuses = []
        for hour in (11.9, 12, 11.9, 23, 0):
            clock.now = midnight + 86_400 + hour * 3_600
            await line.send(at.get())
            statuses.append((await line.answer()).status)
        assert statuses == [200, 403, 200, 403, 200]


# -- what is remembered is bounded


@both_loops
async def test_the_plans_are_bounded_in_number(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.lean.PLANS", 40)
    async with scene(SHORT, answers(OK), tmp_path) as at, connect(at.running) as line:
        plans = at.running.gateway.lean.plans
        for number in range(200):
            await line.send(at.get(f"X-Trace: {number % 7}", target=f"{NI}?limit={number}"))
            assert (await line.answer()).status == 200
            assert len(plans) <= 40
        at.went(200)


@both_loops
async def test_the_plans_are_bounded_in_bytes(tmp_path):
    async with scene(SHORT, answers(OK), tmp_path) as at:
        assert (await at.ask()).status == 200
        for size, count in ((6_000, 1), (8_000, 90)):  # in one read, and in many
            heard = await at.ask(at.get(*(f"X-{number}: " + "x" * size for number in range(count))))
            assert heard.status == 200
        at.went(3)
        kept = at.running.gateway.lean.plans
        assert kept
        assert all(len(data) <= 4_096 for data in kept)


@both_loops
async def test_what_is_known_of_tokens_is_bounded(tmp_path):
    async with scene(SHORT, answers(OK), tmp_path, limits={"remembered_tokens": 2}) as at:
        for number in range(4):
            await add_person(at.running, f"person-{number}", ADVERTISER)
            for text in (f"person-{number}", "network"):
                await at.ask(at.get(who=text))
        assert len(at.running.gateway.verdicts) <= 2


# -- an end that comes in the middle of an exchange


def draining(at) -> asyncio.Task:
    """The listeners of a gateway, being closed."""

    async def drain() -> None:
        for runner in at.running.gateway._runners:
            await runner.cleanup()

    return asyncio.create_task(drain())


@on_both_ways
async def test_what_is_under_way_when_the_gateway_stops_is_finished_and_the_connection_closed(way, tmp_path):
    async with scene(way, slow(after_s=0.2), tmp_path, first_byte_timeout_s=3.0) as at:
        async with connect(at.running) as line:
            await line.send(at.get())
            await at.until(lambda: at.busy() == 1)
            stopping = draining(at)
            assert (await line.answer()).body == b"ok"
            assert await line.end() == (b"", "closed")
            await asyncio.wait_for(stopping, 0.5)
        at.went()
        assert (await at.settled())["outcome"] == "complete"


@on_both_ways
async def test_what_takes_too_long_when_the_gateway_stops_is_broken_off_and_recorded(way, tmp_path):
    limits = {"drain_timeout_s": 0.1}
    async with scene(way, silence, tmp_path, limits=limits, first_byte_timeout_s=5.0) as at:
        async with connect(at.running) as line:
            await line.send(at.get())
            await at.until(lambda: at.busy() == 1)
            stopping = draining(at)
            assert await line.end() == (b"", "closed")
            await asyncio.wait_for(stopping, 1.0)
        assert (await at.settled())["outcome"] == "aborted"


def ends_late():
    async def script(peer: Peer) -> None:
        if peer.number > 1:
            await answers(OK)(peer)
        await peer.request()
        await asyncio.sleep(0.1)

    return script


@on_both_ways
async def test_a_read_that_has_to_be_sent_once_more_while_the_gateway_stops_is(way, tmp_path):
    async with scene(way, ends_late(), tmp_path, first_byte_timeout_s=3.0) as at:
        async with connect(at.running) as line:
            await line.send(at.get())
            await at.until(lambda: at.busy() == 1)
            stopping = draining(at)
            heard, _ = await line.end()
            await stopping
        assert heard.endswith(b"ok")
        assert (await at.settled())["status"] == 200


@on_both_ways
async def test_the_keep_alive_time_does_not_cut_an_exchange_and_counts_from_its_end(way, tmp_path):
    limits = {"keep_alive_timeout_s": 0.15}
    async with scene(way, slow(after_s=0.3), tmp_path, limits=limits, first_byte_timeout_s=3.0) as at:
        async with connect(at.running) as line:
            await line.send(at.get())
            assert (await line.answer()).body == b"ok"
            began = asyncio.get_running_loop().time()
            assert await line.end() == (b"", "closed")
            assert 0.1 < asyncio.get_running_loop().time() - began < 1.0
        at.went()
