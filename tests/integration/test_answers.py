"""What an upstream can do to an answer, and what the client is told of it: never a broken one as whole."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.config import Upstream
from tests.integration.test_wire import GET, NAMED, NI, PUT, ask, connect, head, quick, sized
from tests.upstream import OK, Peer, RawUpstream, answers, says_and_closes

__all__ = ["quick"]

CREATE = "POST /api/2022-08-01/33/advertisers.json HTTP/1.1"


def upstream_at(port: int, **changes) -> Upstream:
    """Upstream settings; waits are short unless said otherwise."""
    settings = Upstream(f"http://127.0.0.1:{port}", lend_network_credential=True, connect_timeout_s=1.0)
    return replace(settings, first_byte_timeout_s=0.3, gap_timeout_s=0.3, **changes)


@pytest.fixture(autouse=True)
def ticking(monkeypatch):
    """The pool sweeps every 20 ms, so that deadlines of tenths of a second can be seen."""
    monkeypatch.setattr("gateway.connection.TICK_S", 0.02)
    monkeypatch.setattr("gateway.upstream.TICK_S", 0.02)


@pytest.fixture
def before(start):
    """A gateway in front of a raw upstream: `await before(raw)`."""

    async def up(raw: RawUpstream, **changes):
        return await start(raw.port, upstream=upstream_at(raw.port, **changes))

    return up


def reply(status: str, *fields: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def get(gateway) -> bytes:
    return head(GET, token=gateway.tokens["network"])


async def settled(gateway) -> dict:
    """The record of the exchange, once it has been written and no connection to the upstream is busy."""
    for _ in range(300):
        if gateway.records() and not gateway.gateway.upstream.stats().busy:
            return gateway.records()[-1]
        await asyncio.sleep(0.01)
    raise AssertionError("the exchange does not end")


# -- what the upstream says that is not for the client


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [("401", 502, "upstream-refused-us"), ("302", 502, "upstream-redirect"), ("500", 502, "upstream-failed"),
     ("close", 502, "upstream-unreachable")],
)  # fmt: skip
async def test_a_fault_of_the_vendors_is_a_problem_of_ours(gateway, upstream, fault, status, kind):
    upstream.faults.next(fault)
    heard = await ask(gateway, get(gateway))
    assert (heard.status, heard.kind) == (status, kind)
    assert not {"location", "www-authenticate", "set-cookie"} & heard.headers.keys()
    record = gateway.records()[-1]
    assert (record["problem"], record["status"], record["outcome"]) == (kind, status, "refused")
    assert record.get("upstream_status") == (None if fault == "close" else int(fault))


async def test_a_500_passes_the_vendors_error_handle_on_and_nothing_else_of_it(gateway, upstream):
    upstream.faults.next("500")
    document = json.loads((await ask(gateway, get(gateway))).body)
    assert (document["upstream_status"], document["handle"]) == (500, "1228118401")
    assert "refer to error handle" not in json.dumps(document)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply("401 No", "WWW-Authenticate: Basic realm=vendor"), "upstream-refused-us"),
        (reply("301 Moved", "Location: http://evil.example/"), "upstream-redirect"),
        (reply("307 Moved", "Location: /api/other"), "upstream-redirect"),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 1200\r\n\r\n", "upstream-redirect"),
        (reply("500 Oops", body=b"<html>stack trace</html>"), "upstream-failed"),
        (reply("503 Busy", "Retry-After: 99999"), "upstream-failed"),
        (reply("206 Partial", "Content-Range: bytes 0-1/9", body=b"ab"), "upstream-failed"),
        (reply("405 No", "Allow: GET"), "upstream-failed"),
        (reply("413 Large", "Connection: close", body=b"big"), "upstream-failed"),
        (reply("200 OK", "Content-Encoding: gzip", body=b"\x1f\x8b\x08zz"), "upstream-invalid"),
        (reply("200 OK", "Content-Encoding: gzip", "Content-Encoding: identity", body=b"zz"), "upstream-invalid"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "upstream-invalid"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "upstream-invalid"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "upstream-invalid"),
        (b"HTTP/1.1 200 OK\r\nX-A: b\nSet-Cookie: evil\r\nContent-Length: 2\r\n\r\nok", "upstream-invalid"),
        (b"HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok", "upstream-invalid"),
        (b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok", "upstream-invalid"),
        (b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok", "upstream-invalid"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "upstream-invalid"),
        (b"HTTP/1.1 103 Hint\r\n\r\n" * 20 + OK, "upstream-invalid"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 2000 + b"\r\n", "upstream-invalid"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 200_000 + b"\r\n\r\n", "upstream-invalid"),
    ],
    ids=lambda value: repr(value)[:50] if isinstance(value, bytes) else None,
)  # fmt: skip
async def test_an_answer_that_is_none_is_a_502_without_a_byte_of_it(before, answer, kind):
    async with RawUpstream(says_and_closes(answer)) as raw:
        gateway = await before(raw)
        heard = await ask(gateway, get(gateway))
    assert (heard.status, heard.kind) == (502, kind)
    for foreign in ("evil", "vendor", "stack", "99999", "ssh", "set-cookie", "upgrade", "etag", "big"):
        assert foreign not in repr(heard).lower()
    assert (await settled(gateway))["problem"] == kind


# -- what passes as it is

SHAPES = {
    "class and text": (404, b'{"errors": {"class": "RecordNotFound",  "invalid_data": "no such"}}'),
    "field map": (422, b'{"errors":{"name":["can\'t be blank"]}}'),
    "with status": (403, b'{"errors": {"name": ["no"]}, "status": "Applied"}\n'),
    "singular": (403, b'{"error": {"ivr_tree": {"children": [{"0": {"prompt": ["x"]}}]}}}'),
    "too many": (429, b'{"errors": {"class": "RateLimited", "invalid_data": "slow"}}'),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_refusal_in_a_documented_shape_passes_byte_for_byte(before, shape):
    status, body = SHAPES[shape]
    answer = reply(
        f"{status} No", "Content-Type: application/json", "Set-Cookie: a=1", "X-Runtime: 1", body=body
    )
    async with RawUpstream(answers(answer)) as raw:
        gateway = await before(raw)
        heard = await ask(gateway, get(gateway))
    assert (heard.status, heard.body, heard.kind) == (status, body, "")
    assert heard.headers["content-type"].startswith("application/json")
    assert "gateway-answer" not in heard.headers
    assert not {"set-cookie", "x-runtime"} & heard.headers.keys()


@pytest.mark.parametrize(
    "body",
    [b"<html>secret</html>", b"", b"[]", b'{"secret": 1}', b'{"errors": "secret"}', b'{"errors": ["secret"]}',
     b'{"errors": {"a": "secret"}' + b" " * 70_000 + b"}", b'{"errors": {"secret"', b"[" * 50_000],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
@pytest.mark.parametrize("status", [403, 404])
async def test_a_refusal_in_another_shape_keeps_its_status_and_loses_its_text(before, body, status):
    async with RawUpstream(answers(reply(f"{status} No", body=body))) as raw:
        gateway = await before(raw)
        heard = await ask(gateway, get(gateway))
    assert (heard.status, heard.kind) == (status, "upstream-refused")
    assert "secret" not in repr(heard)
    assert heard.headers["gateway-answer"] == "upstream-refused"


async def test_of_a_good_answer_only_listed_headers_travel(before):
    foreign = (
        "Set-Cookie: a=1", "set-cookie: b=2", "Server: nginx", "WWW-Authenticate: Basic", "Location: /x", "ETag: x",
        "Last-Modified: x", "Cache-Control: public, max-age=9", "Expires: 9", "X-Runtime: 1", "Via: 1.1 inner",
        "Access-Control-Allow-Origin: *", "Strict-Transport-Security: max-age=9", "Link: x", "Refresh: 0",
        "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Gateway-Answer: ok", "Gateway-Request-Id: theirs",
        "Token-Expires: never", "RateLimit: x", "Accept-Ranges: bytes", "Content-MD5: x", "Alt-Svc: h3",
    )  # fmt: skip
    answer = reply(
        "200 OK",
        *foreign,
        "Content-Type: application/json",
        'Content-Disposition: attachment; filename="a"',
        body=b"a,b",
    )
    async with RawUpstream(answers(answer)) as raw:
        gateway = await before(raw)
        heard = await ask(gateway, get(gateway))
    ours = {"date", "server", "via", "cache-control", "gateway-request-id", "token-expires", "content-length"}
    assert heard.headers.keys() - ours == {"content-type", "content-disposition"}
    assert (heard.headers["via"], heard.headers["cache-control"]) == ("1.1 invoca-gateway", "no-store")
    assert (heard.headers["server"], heard.body) == ("invoca-gateway", b"a,b")
    assert "theirs" not in repr(heard)
    assert heard.headers["token-expires"] != "never"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
WHOLE = {
    "in chunks": (CHUNKED + b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n",),
    "in chunks and reads": (CHUNKED, b"5;ext=1\r\nhel", b"lo\r\n6\r\n worl", b"d\r\n0\r\nX-T: 1\r\n", b"\r\n"),
    "byte by byte": tuple(bytes([b]) for b in CHUNKED + b"b\r\nhello world\r\n0\r\n\r\n"),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nhello", b" world"),
    "of HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello world",),
    "with a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello", b" world"),
    "after hints": (HINTS, reply("200 OK", body=b"hello world")),
}  # fmt: skip


@pytest.mark.parametrize("framed", WHOLE)
async def test_a_whole_answer_is_relayed_whole_however_it_was_framed(before, framed):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*WHOLE[framed], pause_s=0.002)

    async with RawUpstream(script) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            await line.send(get(gateway))
            heard = await line.answer()
    assert (heard.status, heard.body) == (200, b"hello world")
    assert not {"trailer", "x-t", "link"} & heard.headers.keys()
    record = await settled(gateway)
    assert (record["outcome"], record["status"], record["bytes_out"]) == ("complete", 200, 11)


@pytest.mark.parametrize("framed", WHOLE)
async def test_a_client_of_http_1_0_gets_no_chunks_and_a_closed_connection(before, framed):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(*WHOLE[framed], pause_s=0.002)

    async with RawUpstream(script) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            keep = "Connection: keep-alive"
            await line.send(head(f"GET {NI} HTTP/1.0", keep, token=gateway.tokens["network"]))
            heard = await line.answer()
            assert (heard.line[:12], heard.body) == ("HTTP/1.0 200", b"hello world")
            assert not {"transfer-encoding", "connection"} & heard.headers.keys()
            assert await line.end() == (b"", "closed")


async def test_a_204_has_neither_content_nor_a_length(before):
    async with RawUpstream(answers(b"HTTP/1.1 204 No Content\r\nContent-Type: text/plain\r\n\r\n")) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            for _ in range(2):
                await line.send(sized(PUT, NAMED, token=gateway.tokens["network"]))
                heard = await line.answer()
                assert heard.status == 204
                assert not {"content-length", "transfer-encoding"} & heard.headers.keys()


async def test_what_an_upstream_sends_too_much_reaches_nobody(before):
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    async with RawUpstream(answers(OK + poison)) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            for _ in range(3):
                await line.send(get(gateway))
                assert (await line.answer()).body == b"ok"
        assert raw.connections == 3


# -- what never comes to its end


BROKEN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n",
    "inside a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\npartial",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\nzz\r\n",
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("broken", BROKEN)
async def test_a_cut_answer_ends_in_a_broken_connection_never_in_a_clean_end(before, broken, version):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(BROKEN[broken][:-7], pause_s=0.03)
        await peer.say(BROKEN[broken][-7:], pause_s=0.03)

    async with RawUpstream(script) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            await line.send(head(f"GET {NI} HTTP/{version}", token=gateway.tokens["network"]))
            heard, how = await line.end()
    assert b"0\r\n\r\n" not in heard
    assert how == "reset"  # to a client of HTTP/1.0, a mere close would be the end of a whole answer
    record = await settled(gateway)
    assert (record["outcome"], record["problem"], record["status"]) == ("cut", "upstream-invalid", 200)


async def test_an_answer_that_stops_coming_is_cut(before):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(BROKEN["length"])
        await peer.gone()

    async with RawUpstream(script) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            await line.send(get(gateway))
            assert (await line.end(3))[1] == "reset"
        assert (await settled(gateway))["problem"] == "upstream-timeout"
        assert raw.left == 1


@pytest.mark.parametrize("request_of", [get, lambda g: sized(PUT, NAMED, token=g.tokens["network"])])
async def test_an_upstream_that_hangs_is_504_in_time_and_let_go(before, request_of):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with RawUpstream(script) as raw:
        gateway = await before(raw)
        heard = await ask(gateway, request_of(gateway))
        assert (heard.status, heard.kind) == (504, "upstream-timeout")
        assert (await settled(gateway))["outcome"] == "refused"
        assert raw.left == len(raw.requests) == 1


async def test_an_upstream_that_cannot_be_reached_is_502(start):
    async with RawUpstream(answers(OK)) as raw:
        port = raw.port
    gateway = await start(port, upstream=upstream_at(port))
    heard = await ask(gateway, get(gateway))
    assert (heard.status, heard.kind) == (502, "upstream-unreachable")


def falls(after: int, how: str):
    """An upstream whose connections end, without a word, on the request after `after` answered ones."""

    async def script(peer: Peer) -> None:
        for _ in range(after):
            await peer.request()
            await peer.say(OK)
        await peer.request()
        if how == "reset":
            peer.reset()

    return script


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("line", [PUT, CREATE])
async def test_a_write_is_never_sent_twice(before, line, after, how):
    async with RawUpstream(falls(after, how)) as raw:
        gateway = await before(raw)
        request = sized(line, NAMED, token=gateway.tokens["network"])
        for _ in range(after):
            assert (await ask(gateway, request)).status == 200
        heard = await ask(gateway, request)
        assert (heard.status, heard.kind) == (502, "upstream-unreachable")
        assert len(raw.requests) == after + 1


async def test_a_read_on_a_stale_connection_is_sent_once_more_on_a_new_one(before):
    async with RawUpstream(falls(1, "close")) as raw:
        gateway = await before(raw)
        assert [(await ask(gateway, get(gateway))).status for _ in range(2)] == [200, 200]
        assert (len(raw.requests), raw.connections) == (3, 2)


async def test_a_write_leaves_a_begun_record_before_its_end(before):
    async with RawUpstream(answers(OK)) as raw:
        gateway = await before(raw)
        await ask(gateway, sized(PUT, NAMED, token=gateway.tokens["network"]))
    assert [record["event"] for record in gateway.records()] == ["begun", "exchange"]


# -- clients that leave, or do not read


async def test_a_client_that_leaves_before_the_answer_frees_the_upstream(before):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with RawUpstream(script) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            await line.send(get(gateway), pause_s=0.05)
            assert gateway.gateway.upstream.stats().busy == 1
        record = await settled(gateway)
    assert (record["outcome"], raw.left) == ("aborted", 1)


async def test_a_client_that_leaves_in_the_answer_frees_the_upstream(before):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 1000)
        await peer.gone()

    async with RawUpstream(script) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            await line.send(get(gateway))
            await line.answer(to_head=True)
        record = await settled(gateway)
    assert (record["outcome"], raw.left) == ("aborted", 1)


async def test_a_client_that_does_not_read_makes_the_upstream_wait(before):
    progress = []

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(100):
            await peer.say(b"x" * 1_000_000)
            progress.append(1)

    async with RawUpstream(script) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            await line.send(get(gateway), pause_s=0.7)
            held = len(progress)
            assert held < 40
            await asyncio.sleep(0.2)
            assert len(progress) == held
        assert (await settled(gateway))["outcome"] == "aborted"


async def test_a_client_that_never_reads_on_is_broken_off(start):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 30_000_000)
        await peer.gone()

    async with RawUpstream(script) as raw:
        gateway = await start(raw.port, upstream=upstream_at(raw.port), limits={"body_timeout_s": 0.3})
        async with connect(gateway) as line:
            await line.send(get(gateway))
            record = await settled(gateway)
    assert (record["outcome"], record["problem"]) == ("cut", "request-timeout")


async def test_one_tokens_share_of_the_pool_is_bounded_and_the_rest_is_refused_at_once(before):
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with RawUpstream(script) as raw:
        gateway = await before(raw, max_connections_per_token=2)
        async with connect(gateway) as one, connect(gateway) as two:
            await one.send(get(gateway))
            await two.send(get(gateway), pause_s=0.05)
            heard = await ask(gateway, get(gateway))
            assert (heard.status, heard.kind, heard.headers["retry-after"]) == (503, "overloaded", "1")


async def test_a_bug_after_the_head_of_an_answer_breaks_the_connection_off(before, monkeypatch, caplog):
    reads = iter([b"partial"])

    async def read(self):
        return next(reads, None) or 1 / 0

    monkeypatch.setattr("gateway.upstream.Reply.read", read)
    async with RawUpstream(says_and_closes(b"HTTP/1.1 200 OK\r\n\r\npartial")) as raw:
        gateway = await before(raw)
        async with connect(gateway) as line:
            await line.send(get(gateway))
            heard, how = await line.end()
    assert (heard.count(b"HTTP/1.1"), how) == (1 if heard else 0, "reset")
    assert b"problem" not in heard
    assert (await settled(gateway))["outcome"] == "bug"
    assert "ZeroDivisionError" in caplog.text
