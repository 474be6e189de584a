"""HTTP/1.1 as a client can break it, over raw sockets: heads, framing, deadlines, pipelines, and silence."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from gateway.config import Config, Upstream
from gateway.load import load_catalogue, load_policies

CONFIG = Config(public_url="http://127.0.0.1", upstream=Upstream(url="http://127.0.0.1"))
CATALOGUE = load_catalogue(CONFIG)
POLICIES = load_policies(CONFIG, CATALOGUE)

NI = "/api/2022-08-01/33/advertisers.json"
ONE = "/api/2022-08-01/33/advertisers/706.json"
GET = f"GET {NI} HTTP/1.1"
PUT = f"PUT {ONE} HTTP/1.1"
JSON = "Content-Type: application/json"
NAMED = b'{"name": "Renamed"}'
HANDED_ON = f"GET {NI} HTTP/1.1\r\nHost: gw.test\r\n".encode()


def head(line: str, *fields: str | bytes, token: str | None = None, host: str | None = "gw.test") -> bytes:
    """A request head as it goes over the wire; `token` becomes a bearer's Authorization."""
    lines: list[str | bytes] = [line]
    if host is not None:
        lines.append(f"Host: {host}")
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    lines.extend(fields)
    return b"\r\n".join(f.encode("latin-1") if isinstance(f, str) else f for f in lines) + b"\r\n\r\n"


def sized(line: str, body: bytes, *fields: str, token: str) -> bytes:
    """A JSON request with its Content-Length."""
    return head(line, JSON, f"Content-Length: {len(body)}", *fields, token=token) + body


def chunked(line: str, *parts: bytes, token: str) -> bytes:
    """A JSON request in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return head(line, JSON, "Transfer-Encoding: chunked", token=token) + body + b"0\r\n\r\n"


@dataclass
class Heard:
    """One answer of the gateway's, read by its own framing."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    @property
    def kind(self) -> str:
        """The kind of the problem it is, or an empty string."""
        if "problem+json" not in self.headers.get("content-type", ""):
            return ""
        return str(json.loads(self.body)["type"].rsplit(":", 1)[1])


class Line:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes, pause_s: float = 0.0) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(pause_s)

    async def answer(self, to_head: bool = False) -> Heard:
        """The next answer. Raises: IncompleteReadError when the connection ends first."""
        async with asyncio.timeout(5):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = text[:-4].split("\r\n")
            headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
            if to_head or line.split(" ")[1] in ("100", "204"):
                body = b""
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self.reader.read()
        return Heard(line, headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return body

    async def end(self, within_s: float = 5.0) -> tuple[bytes, str]:
        """What still comes, and how it ends: closed, reset, or open when it has not ended in time."""
        rest = b""
        try:
            async with asyncio.timeout(within_s):
                while piece := await self.reader.read(65_536):
                    rest += piece
        except TimeoutError:
            return rest, "open"
        except ConnectionError:
            return rest, "reset"
        return rest, "closed"

    def abort(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def connect(gateway) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


async def ask(gateway, data: bytes) -> Heard:
    """The first answer to bytes on a connection of their own."""
    async with connect(gateway) as line:
        await line.send(data)
        return await line.answer()


def verdict(gateway, upstream, heard: Heard) -> tuple[int, str]:
    """How a request was refused: status and kind. Nothing went upstream, and there is a record that says so."""
    assert heard.headers["gateway-answer"] == heard.kind
    assert not upstream.journal, heard
    record = gateway.records()[-1]
    assert (record["problem"], record["status"], record["outcome"]) == (heard.kind, heard.status, "refused")
    assert record["request_id"] == heard.headers["gateway-request-id"]
    return heard.status, heard.kind


def refused(gateway, upstream, heard: Heard, status: int, kind: str) -> None:
    assert verdict(gateway, upstream, heard) == (status, kind)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The packaged catalogue and policies are read once for all of these tests, and a refused body is not
    lingered over for long."""
    monkeypatch.setattr("gateway.wire.LINGER_S", 0.3)
    monkeypatch.setattr("gateway.app.load_catalogue", lambda config: CATALOGUE)
    monkeypatch.setattr("gateway.load.load_policies", lambda config, catalogue: POLICIES)


# -- heads that are read in one way only


HEADS = [
    (["Host: gw.test"], 400, "bad-request"),
    (["Content-Length: 0", "Content-Length: 0"], 400, "bad-request"),
    (["Content-Length: 0, 0"], 400, "bad-request"),
    (["Content-Length: +0"], 400, "bad-request"),
    (["Content-Length: 1_0"], 400, "bad-request"),
    (["Content-Length: "], 400, "bad-request"),
    (["Content-Length: -1"], 400, "bad-request"),
    (["Content-Length: 0x1"], 400, "bad-request"),
    (["Content-Length: 18446744073709551616"], 400, "bad-request"),
    (["Content-Length: 3", "Transfer-Encoding: chunked"], 400, "bad-request"),
    (["Transfer-Encoding: chunked", "Content-Length: 3"], 400, "bad-request"),
    (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400, "bad-request"),
    (["Transfer-Encoding: chunked, gzip"], 400, "bad-request"),
    (["Transfer-Encoding: xchunked"], 400, "bad-request"),
    (["Transfer-Encoding: identity"], 400, "bad-request"),
    (["Transfer-Encoding: \x0bchunked"], 400, "bad-request"),
    (["Transfer-Encoding : chunked"], 400, "bad-request"),
    (["X-One : 1"], 400, "bad-request"),
    ([": 1"], 400, "bad-request"),
    (["no colon here"], 400, "bad-request"),
    (["X-One: 1", " folded"], 400, "bad-request"),
    (["X-One: a\rb"], 400, "bad-request"),
    (["X-One: a\nb"], 400, "bad-request"),
    (["X-One: a\0b"], 400, "bad-request"),
    (["X-One: a\x01b"], 400, "bad-request"),
    (["Content-Type: application/json", "Content-Type: text/plain"], 400, "bad-request"),
    (["Expect: 200-ok"], 417, "expectation-failed"),
    (["X-Long: " + "a" * 9000], 431, "head-too-large"),
    (["X" * 9000 + ": a"], 431, "head-too-large"),
    ([f"X-{i}: a" for i in range(105)], 431, "head-too-large"),
    (
        ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AA"],
        501,
        "not-implemented",
    ),
    (["Upgrade: websocket", "Connection: Upgrade"], 501, "not-implemented"),
    (["Upgrade: TLS/1.2"], 501, "not-implemented"),
]


async def test_a_head_that_two_parsers_could_read_differently_is_refused_and_the_connection_closed(
    gateway, upstream
):
    found = []
    for fields, *_ in HEADS:
        async with connect(gateway) as line:
            # A request hidden behind it: nothing that follows a head like this is ever read as one.
            await line.send(head(GET, *fields, token=gateway.tokens["network"]), HANDED_ON)
            found.append((fields, *verdict(gateway, upstream, await line.answer())))
            assert await line.end() in ((b"", "closed"), (b"", "reset"))
    assert found == HEADS


LINES = [
    (f"GET {NI} HTTP/2.0", 505, "version-not-supported"),
    (f"GET {NI} HTTP/0.9", 505, "version-not-supported"),
    (f"GET {NI}", 505, "version-not-supported"),
    (f"GET {NI} HTTP/1.2", 400, "bad-request"),
    (f"GET {NI} HTTP/1.10", 400, "bad-request"),
    (f"GET {NI} HTTP/3", 400, "bad-request"),
    (f"GET {NI} http/1.1", 400, "bad-request"),
    (f"GET\t{NI} HTTP/1.1", 400, "bad-request"),
    (f"GET {NI}?a=b c HTTP/1.1", 400, "bad-request"),
    (f" GET {NI} HTTP/1.1", 400, "bad-request"),
    (f"GET {NI}\0 HTTP/1.1", 400, "bad-request"),
    (f"GET {NI}\x7f HTTP/1.1", 400, "bad-request"),
    (f"GET {NI}\r HTTP/1.1", 400, "bad-request"),
    ("GET  HTTP/1.1", 400, "bad-request"),
    (f"GET /{'a' * 9000} HTTP/1.1", 414, "target-too-long"),
    (f"TRACE {NI} HTTP/1.1", 405, "method-not-allowed"),
    ("CONNECT gw.test:443 HTTP/1.1", 405, "method-not-allowed"),
    (f"CONNECT {NI} HTTP/1.1", 405, "method-not-allowed"),
    ("CONNECT gw.test: HTTP/1.1", 405, "method-not-allowed"),
    (f"PATCH {NI} HTTP/1.1", 405, "method-not-allowed"),
    (f"OPTIONS {NI} HTTP/1.1", 405, "method-not-allowed"),
    ("OPTIONS * HTTP/1.1", 400, "bad-target"),
    (f"PROPFIND {NI} HTTP/1.1", 501, "not-implemented"),
    (f"LINK {NI} HTTP/1.1", 501, "not-implemented"),
    (f"FOO {NI} HTTP/1.1", 400, "bad-request"),
    (f"get {NI} HTTP/1.1", 400, "bad-request"),
    (f"{'A' * 300} {NI} HTTP/1.1", 400, "bad-request"),
    ("PRI * HTTP/2.0", 400, "bad-request"),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad-request"),
]


async def test_a_request_line_that_is_not_ours_is_refused(gateway, upstream):
    found = []
    for line, *_ in LINES:
        heard = await ask(gateway, head(line, token=gateway.tokens["network"]))
        found.append((line, *verdict(gateway, upstream, heard)))
        assert heard.line.startswith(("HTTP/1.1 ", "HTTP/1.0 "))  # never an echo of what was claimed
        assert ("allow" in heard.headers) == (heard.status == 405)
    assert found == LINES


@pytest.mark.parametrize(
    "host", ["a, b", "a b", "u@a", "", "a/b", "a:b", "a:1:2", "[::1", "ä", "a%41", "a;b"]
)
async def test_a_host_that_is_none_is_refused(gateway, upstream, host):
    heard = await ask(gateway, head(GET, token=gateway.tokens["network"], host=host))
    refused(gateway, upstream, heard, 400, "bad-header")


async def test_http_1_1_without_a_host_is_refused_and_http_1_0_is_not(gateway, upstream):
    token = gateway.tokens["network"]
    refused(gateway, upstream, await ask(gateway, head(GET, token=token, host=None)), 400, "bad-request")
    assert (await ask(gateway, head(f"GET {NI} HTTP/1.0", token=token, host=None))).status == 200


async def test_transfer_encoding_in_http_1_0_is_refused_and_the_connection_closed(gateway, upstream):
    request = chunked(f"PUT {ONE} HTTP/1.0", NAMED, token=gateway.tokens["network"])
    async with connect(gateway) as line:
        await line.send(
            request.replace(b"Content-Type", b"Connection: keep-alive\r\nContent-Type"), HANDED_ON
        )
        refused(gateway, upstream, await line.answer(), 400, "bad-header")
        assert (await line.end())[0] == b""


async def test_a_coding_beside_chunked_is_refused_and_the_connection_closed(gateway, upstream):
    request = chunked(PUT, NAMED, token=gateway.tokens["network"]).replace(b": chunked", b": gzip, chunked")
    async with connect(gateway) as line:
        await line.send(request, pause_s=0.05)
        refused(gateway, upstream, await line.answer(), 501, "not-implemented")
        assert (await line.end())[1] in ("closed", "reset")


async def test_bare_line_feeds_are_no_line_ends(gateway, upstream):
    request = head(GET, token=gateway.tokens["network"]).replace(b"\r\n", b"\n")
    refused(gateway, upstream, await ask(gateway, request), 400, "bad-request")


async def test_an_answer_to_head_has_no_content(gateway, upstream):
    async with connect(gateway) as line:
        await line.send(head(f"HEAD {NI} HTTP/1.1", "Connection: close", token=gateway.tokens["network"]))
        heard = await line.answer(to_head=True)
        assert (heard.status, heard.headers["gateway-answer"]) == (405, "method-not-allowed")
        assert await line.end() == (b"", "closed")
    assert not upstream.journal


@pytest.mark.parametrize("empty_lines", [b"\r\n", b"\r\n\r\n"])
async def test_an_empty_line_before_a_request_is_skipped(gateway, upstream, empty_lines):
    assert (await ask(gateway, empty_lines + head(GET, token=gateway.tokens["network"]))).status == 200
    assert [seen.target for seen in upstream.journal] == [NI]


@pytest.mark.parametrize("cut", [1, 3, 20, 60, 300])
async def test_a_head_may_come_in_any_pieces(gateway, upstream, cut):
    request = head(GET, token=gateway.tokens["network"])
    async with connect(gateway) as line:
        await line.send(request[:cut], request[cut:-1], request[-1:], pause_s=0.01)
        assert (await line.answer()).status == 200
    assert len(upstream.journal) == 1


async def test_a_line_that_comes_in_fragments_is_bounded_all_the_same(gateway, upstream):
    async with connect(gateway) as line:
        await line.send(GET.encode() + b"\r\nHost: gw.test\r\nX-Long: ", *[b"a" * 1000] * 9, pause_s=0.005)
        refused(gateway, upstream, await line.answer(), 431, "head-too-large")
        assert (await line.end())[1] in ("closed", "reset")


# -- bodies as they are framed


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"2\n{}\n0\n\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"+2\r\n{}\r\n0\r\n\r\n",
        b"10000000000000002\r\n{}\r\n0\r\n\r\n",
        b"2;a\nb\r\n{}\r\n0\r\n\r\n",
        b"2 \r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}0\r\n\r\n",
        b"2\r\n{}\r\n0\r\nX : y\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_chunks_that_are_no_chunks_are_refused_and_the_connection_closed(gateway, upstream, body):
    start = head(PUT, JSON, "Transfer-Encoding: chunked", token=gateway.tokens["network"])
    async with connect(gateway) as line:
        await line.send(start + body)
        refused(gateway, upstream, await line.answer(), 400, "bad-request")
        assert (await line.end())[1] in ("closed", "reset")


async def test_a_chunked_body_goes_upstream_as_the_bytes_it_is_made_of_without_its_trailers(
    gateway, upstream
):
    token = gateway.tokens["network"]
    request = chunked(PUT, NAMED[:5], NAMED[5:], token=token)
    request = request.replace(
        b"\r\n0\r\n\r\n", b"\r\n0;x=y\r\nAuthorization: other\r\nX-Http-Method-Override: GET\r\n\r\n"
    )
    assert (await ask(gateway, request)).status == 200
    (seen,) = upstream.journal
    sent = {name.lower(): value for name, value in seen.headers}
    assert (seen.method, seen.body_bytes, sent["content-length"]) == ("PUT", len(NAMED), str(len(NAMED)))
    assert "transfer-encoding" not in sent
    assert "x-http-method-override" not in sent
    assert sent["authorization"] == "upstream-credential-of-network-33"


async def test_a_flood_of_trailers_is_refused(gateway, upstream):
    request = chunked(PUT, NAMED, token=gateway.tokens["network"]).removesuffix(b"\r\n")
    async with connect(gateway) as line:
        await line.send(request, b"".join(b"X-%d: a\r\n" % number for number in range(5000)) + b"\r\n")
        heard = await line.answer()
        assert heard.status in (400, 431)
        assert (await line.end())[1] in ("closed", "reset")
    assert not upstream.journal


async def test_a_body_over_a_mebibyte_is_413_before_it_is_sent(gateway, upstream):
    heard = await ask(gateway, head(PUT, JSON, "Content-Length: 1048577", token=gateway.tokens["network"]))
    refused(gateway, upstream, heard, 413, "body-too-large")
    assert heard.headers["connection"] == "close"


async def test_a_form_that_says_it_is_too_large_is_413_before_it_is_asked_for(gateway, upstream):
    form = "Content-Type: application/x-www-form-urlencoded"
    request = head("POST /oauth/revoke HTTP/1.1", form, "Content-Length: 20000", "Expect: 100-continue")
    refused(gateway, upstream, await ask(gateway, request), 413, "body-too-large")


async def test_a_body_over_a_mebibyte_is_413_in_chunks_too(gateway, upstream):
    start = head(PUT, JSON, "Transfer-Encoding: chunked", token=gateway.tokens["network"])
    async with connect(gateway) as line:
        await line.send(start + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 17)
        refused(gateway, upstream, await line.answer(), 413, "body-too-large")
        await line.send(HANDED_ON)
        assert (await line.end())[0] == b""


async def test_a_body_of_a_mebibyte_goes_through(gateway, upstream):
    body = NAMED + b" " * (1_048_576 - len(NAMED))
    assert (await ask(gateway, sized(PUT, body, token=gateway.tokens["network"]))).status == 200
    assert [seen.body_bytes for seen in upstream.journal] == [1_048_576]


async def test_many_tiny_chunks_are_taken_in_time(gateway, upstream):
    body = NAMED + b" " * 20_000
    request = chunked(PUT, *(body[i : i + 1] for i in range(len(body))), token=gateway.tokens["network"])
    async with asyncio.timeout(5):
        assert (await ask(gateway, request)).status == 200
    assert [seen.body_bytes for seen in upstream.journal] == [len(body)]


@pytest.mark.parametrize(
    "pieces",
    [
        [head(PUT, JSON, "Content-Length: 19"), b"{"],
        [head(PUT, JSON, "Transfer-Encoding: chunked"), b"5\r\n{"],
        [head(PUT, JSON, "Content-Length: 1000"), *[b" "] * 40],
    ],
    ids=["silent", "silent in a chunk", "dripping"],
)
async def test_a_slow_body_is_408_and_the_connection_closed(start, upstream, pieces):
    gateway = await start(upstream.port, limits={"body_timeout_s": 0.3})
    token = f"\r\nAuthorization: Bearer {gateway.tokens['network']}\r\n\r\n".encode()
    first, *rest = pieces
    async with connect(gateway) as line:
        sending = asyncio.create_task(line.send(first.replace(b"\r\n\r\n", token, 1), *rest, pause_s=0.02))
        heard = await line.answer()
        refused(gateway, upstream, heard, 408, "request-timeout")
        assert heard.headers["connection"] == "close"
        sending.cancel()


# -- Expect


async def test_a_client_is_asked_for_its_body_when_nothing_refuses_it_any_more(gateway, upstream):
    wanted = head(
        PUT, JSON, f"Content-Length: {len(NAMED)}", "Expect: 100-continue", token=gateway.tokens["network"]
    )
    async with connect(gateway) as line:
        await line.send(wanted)
        assert (await line.answer()).line == "HTTP/1.1 100 Continue"
        assert not upstream.journal
        await line.send(NAMED)
        assert (await line.answer()).status == 200
    (seen,) = upstream.journal
    assert "expect" not in {name.lower() for name, _ in seen.headers}


@pytest.mark.parametrize(
    ("line", "who", "kind"),
    [
        (PUT, None, "no-credential"),
        (PUT, "advertiser", "denied"),
        ("PUT /api/2022-08-01/33/nothing.json HTTP/1.1", "network", "unknown-operation"),
        ("PUT /nowhere HTTP/1.1", "network", "not-found"),
        ("POST /admin/api/tokens HTTP/1.1", None, "no-credential"),
        ("POST /admin/api/tokens HTTP/1.1", "network", "insufficient-scope"),
        ("POST /admin/nothing HTTP/1.1", "network", "not-found"),
        ("POST /oauth/introspect HTTP/1.1", None, "no-credential"),
        ("PUT /oauth/revoke HTTP/1.1", None, "method-not-allowed"),
    ],
)
async def test_a_refused_client_is_never_asked_for_its_body(gateway, upstream, line, who, kind):
    wanted = head(line, JSON, "Content-Length: 19", "Expect: 100-continue", token=gateway.tokens.get(who))
    heard = await ask(gateway, wanted)
    assert (heard.kind, heard.headers["connection"]) == (kind, "close")
    assert not upstream.journal


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/admin/nothing", "/oauth/token", NI])
async def test_an_unknown_expectation_is_417_on_every_surface(gateway, upstream, path):
    heard = await ask(gateway, head(f"GET {path} HTTP/1.1", "Expect: tea"))
    refused(gateway, upstream, heard, 417, "expectation-failed")


# -- deadlines


@pytest.mark.parametrize(
    "parts",
    [[], [b"G"], [b"\r\n"], [GET.encode() + b"\r\n"]],
    ids=["silent", "a letter", "empty line", "a line"],
)
async def test_a_connection_without_a_whole_head_is_closed_in_time(start, upstream, parts):
    gateway = await start(upstream.port, limits={"head_timeout_s": 0.25})
    async with connect(gateway) as line:
        await line.send(*parts)
        began = asyncio.get_running_loop().time()
        assert await line.end() == (b"", "closed")
        assert 0.1 < asyncio.get_running_loop().time() - began < 1.5


async def drip(line: Line, data: bytes) -> None:
    try:
        await line.send(*(data[i : i + 1] for i in range(len(data))), pause_s=0.02)
    except ConnectionError:
        pass


async def test_a_head_that_drips_in_is_cut_off_in_time(start, upstream):
    gateway = await start(upstream.port, limits={"head_timeout_s": 0.25})
    async with connect(gateway) as line:
        dripping = asyncio.create_task(drip(line, head(GET, token=gateway.tokens["network"])))
        began = asyncio.get_running_loop().time()
        assert (await line.end())[1] in ("closed", "reset")
        assert asyncio.get_running_loop().time() - began < 1.5
        dripping.cancel()
    assert not upstream.journal


async def test_a_second_head_has_the_same_deadline_and_an_idle_connection_has_not(start, upstream):
    gateway = await start(upstream.port, limits={"head_timeout_s": 0.25})
    request = head(GET, token=gateway.tokens["network"])
    async with connect(gateway) as line:
        for _ in range(2):
            await line.send(request)
            assert (await line.answer()).status == 200
            await asyncio.sleep(0.5)
        dripping = asyncio.create_task(drip(line, request))
        assert (await line.end(1.5))[1] in ("closed", "reset")
        dripping.cancel()
    assert len(upstream.journal) == 2


async def test_an_idle_connection_is_closed_after_the_keep_alive_time(start, upstream):
    gateway = await start(upstream.port, limits={"keep_alive_timeout_s": 0.3})
    request = head(GET, token=gateway.tokens["network"])
    async with connect(gateway) as line:
        await line.send(request, request[:50])  # what has come of a next head does not prolong it
        assert (await line.answer()).status == 200
        assert await line.end(2) == (b"", "closed")


async def test_a_body_that_comes_slower_than_a_head_may_is_not_cut_off_by_the_heads_deadline(start, upstream):
    gateway = await start(upstream.port, limits={"head_timeout_s": 0.2})
    request = sized(PUT, NAMED, token=gateway.tokens["network"])
    async with connect(gateway) as line:
        await line.send(request[:-9], request[-9:-3], request[-3:], pause_s=0.2)
        assert (await line.answer()).status == 200


# -- one request after another


async def test_pipelined_requests_are_answered_in_order_each_by_its_own_credential(gateway, upstream):
    network, advertiser = gateway.tokens["network"], gateway.tokens["advertiser"]
    requests = [head(GET, token=token) for token in (network, advertiser, None, "nonsense", network)]
    async with connect(gateway) as line:
        await line.send(b"".join(requests))
        assert [(await line.answer()).status for _ in requests] == [200, 403, 401, 401, 200]
    assert len(upstream.journal) == 2


async def test_a_long_pipeline_is_answered_whole(gateway):
    async with connect(gateway) as line:
        await line.send(head("GET /healthz HTTP/1.1") * 150)
        assert [(await line.answer()).status for _ in range(150)] == [200] * 150


async def test_nothing_behind_a_close_is_processed(gateway, upstream):
    token = gateway.tokens["network"]
    async with connect(gateway) as line:
        await line.send(head(GET, "Connection: close", token=token), head(GET, token=token), pause_s=0.02)
        heard = await line.answer()
        assert (heard.status, heard.headers["connection"]) == (200, "close")
        assert await line.end() == (b"", "closed")
    assert len(upstream.journal) == 1


@pytest.mark.parametrize("frame", [sized, chunked])
async def test_the_body_of_a_refused_request_is_never_the_next_request(gateway, upstream, frame):
    hidden = head(GET, token=gateway.tokens["network"])
    async with connect(gateway) as line:
        await line.send(frame(PUT, hidden, token=gateway.tokens["advertiser"]))
        assert (await line.answer()).kind == "denied"
        await line.send(
            head("GET /gateway/token HTTP/1.1", "Connection: close", token=gateway.tokens["advertiser"])
        )
        rest, _ = await line.end()
    assert rest.count(b"HTTP/1.1 ") <= 1  # the next request's own answer, or a closed connection
    assert not upstream.journal


async def test_a_connection_with_an_unread_body_is_closed_after_a_refusal(gateway, upstream):
    hidden = head(GET, token=gateway.tokens["network"])
    async with connect(gateway) as line:
        await line.send(head(PUT, JSON, "Content-Length: 5000", token=gateway.tokens["advertiser"]))
        heard = await line.answer()
        assert (heard.kind, heard.headers["connection"]) == ("denied", "close")
        await line.send(hidden)
        assert (await line.end())[0] == b""
    assert not upstream.journal


async def test_a_refusal_without_a_body_leaves_the_connection_usable(gateway, upstream):
    async with connect(gateway) as line:
        await line.send(head(GET, token=gateway.tokens["advertiser"]))
        assert (await line.answer()).kind == "denied"
        await line.send(head(GET, token=gateway.tokens["network"]))
        assert (await line.answer()).status == 200
    assert len(upstream.journal) == 1


async def test_a_client_of_http_1_0_is_answered_without_chunks_and_closed_whatever_it_asks(gateway):
    for path, status in ((NI, 200), (NI + "/", 400), ("/healthz", 200)):
        async with connect(gateway) as line:
            keep = "Connection: keep-alive"
            await line.send(head(f"GET {path} HTTP/1.0", keep, token=gateway.tokens["network"]))
            heard = await line.answer()
            assert (heard.status, heard.line[:8]) == (status, "HTTP/1.0")
            assert "transfer-encoding" not in heard.headers
            assert heard.headers.get("connection") != "keep-alive"
            assert await line.end() == (b"", "closed")


# -- silence


def pieces(secret: str) -> set[str]:
    return {secret[i : i + 20] for i in range(len(secret) - 19)}


PLACES = {
    "a control character behind it": lambda t: head(GET, f"Authorization: Bearer {t}\x01"),
    "a control character before it": lambda t: head(GET, f"Authorization: \x01Bearer {t}"),
    "over-long": lambda t: head(GET, f"Authorization: Bearer {t}" + "a" * 9000),
    "over-long name": lambda t: head(GET, t * 30 + ": x"),
    "twice": lambda t: head(GET, f"Authorization: Bearer {t}", token=t),
    "folded": lambda t: head(GET, "Authorization: Bearer", f" {t}"),
    "without a scheme": lambda t: head(GET, f"Authorization: {t}"),
    "with words": lambda t: head(GET, f"Authorization: Bearer {t} {t}"),
    "as basic": lambda t: head(GET, f"Authorization: Basic {t}"),
    "spoilt": lambda t: head(GET, token=t[:-1]),
    "a line of its own": lambda t: head(GET, t),
    "a header name": lambda t: head(GET, f"{t}: x"),
    "a header name with underscore": lambda t: head(GET, f"X_{t}: x"),
    "two lines of it": lambda t: f"{t}\r\n{t}\r\n\r\n".encode(),
    "a method": lambda t: head(f"{t} {NI} HTTP/1.1"),
    "a version": lambda t: head(f"GET {NI}?oauth_token={t} HTTP/1.9"),
    "a version that is none": lambda t: head(f"GET {NI} {t}"),
    "an expectation": lambda t: head(GET, f"Expect: {t}"),
    "an upgrade": lambda t: head(GET, f"Upgrade: {t}", "Connection: upgrade"),
    "a coding": lambda t: head(GET, f"Transfer-Encoding: {t}"),
    "a length": lambda t: head(GET, f"Content-Length: {t}"),
    "a type": lambda t: head(PUT, f"Content-Type: {t}", "Content-Length: 1", token=t) + b"x",
    "a host": lambda t: head(GET, token=t, host=f"{t} x"),
    "another host": lambda t: head(f"GET http://{t}.example{NI} HTTP/1.1", token=t),
    "the path": lambda t: head(f"GET /api/{t} HTTP/1.1", token=t),
    "the path, not ASCII": lambda t: head(f"GET /api/ä{t} HTTP/1.1", token=t),
    "the query": lambda t: head(f"GET {NI}?oauth_token={t} HTTP/1.1"),
    "a query without a name": lambda t: head(f"GET {NI}?{t} HTTP/1.1", token=t),
    "the query, broken": lambda t: head(f"GET {NI}?access_token={t}#x HTTP/1.1"),
    "the query of another surface": lambda t: head(f"GET /gateway/token?token={t} HTTP/1.1", token=t),
    "a body": lambda t: sized(PUT, json.dumps({"name": t}).encode(), token=t),
    "a key of a body": lambda t: sized(PUT, json.dumps({t: 1}).encode(), token=t),
    "a body that is no JSON": lambda t: sized(PUT, t.encode(), token=t),
    "a form": lambda t: (
        head(PUT, "Content-Type: text/plain", f"Content-Length: {len(t)}", token=t) + t.encode()
    ),
    "a chunk size": lambda t: head(PUT, JSON, "Transfer-Encoding: chunked", token=t) + f"{t}\r\n".encode(),
    "a cookie": lambda t: head(GET.replace("GET", "PATCH"), f"Cookie: session={t}"),
    "a user agent": lambda t: head(GET, f"User-Agent: {t[:200]}", token=t),
    "a proxy's header": lambda t: head(GET, f"Proxy-Authorization: Bearer {t}"),
    "a forwarded address": lambda t: head(GET, f"X-Forwarded-For: {t}"),
    "a revocation": lambda t: head(f"PUT /oauth/revoke?token={t} HTTP/1.1"),
}


@pytest.mark.parametrize("place", PLACES)
async def test_no_piece_of_a_token_comes_back_or_is_written_down(gateway, upstream, caplog, capfd, place):
    caplog.set_level(logging.DEBUG)
    token = gateway.tokens["network"]
    before = len(gateway.records())
    async with connect(gateway) as line:
        await line.send(PLACES[place](token))
        heard = await line.answer()
    records = gateway.records()
    assert len(records) > before
    written = repr(heard) + caplog.text + "".join(capfd.readouterr()) + json.dumps(records)
    assert not any(piece in written + repr(upstream.journal) for piece in pieces(token))


async def test_a_bug_that_quotes_a_token_is_told_of_without_it(gateway, monkeypatch, caplog, capfd):
    token = gateway.tokens["network"]

    async def principal(self, authorization, client):
        raise RuntimeError(f"no such token: {authorization}")

    monkeypatch.setattr("gateway.authenticate.Authenticator.principal", principal)
    monkeypatch.setattr("gateway.authenticate.Authenticator.remembered", lambda *_: None)
    heard = await ask(gateway, head(GET, token=token))
    assert (heard.status, heard.kind) == (500, "internal-error")
    assert "RuntimeError" in caplog.text
    record = gateway.records()[-1]
    assert record["outcome"] == "bug"
    written = repr(heard) + caplog.text + "".join(capfd.readouterr()) + json.dumps(record)
    assert not any(piece in written for piece in pieces(token))


async def test_a_bug_outside_of_every_exchange_is_told_of_without_what_it_says(gateway, monkeypatch, caplog):
    token = gateway.tokens["network"]

    def rfc3339(seconds):
        raise RuntimeError(f"no such time: {token}")

    monkeypatch.setattr("gateway.exchange.rfc3339", rfc3339)  # asked for while the head of the answer is made
    async with connect(gateway) as line:
        await line.send(head(GET, token=token))
        assert await line.end() == (b"", "closed")
    assert "connection-error" in caplog.text
    assert "RuntimeError" in caplog.text
    assert not any(piece in caplog.text for piece in pieces(token))


async def test_no_answer_says_what_software_made_it(gateway):
    for request in (
        head(GET, token=gateway.tokens["network"]),
        head("GET /nowhere HTTP/1.1"),
        b"garbage\r\n\r\n",
    ):
        heard = await ask(gateway, request)
        assert heard.headers["server"] == "invoca-gateway"
        assert not re.search(r"aiohttp|python|uvloop", repr(heard), re.IGNORECASE)
        assert heard.headers["cache-control"] == "no-store"


async def test_a_client_that_resets_at_once_harms_nobody(gateway, upstream):
    for data in (b"", b"GET", head(GET, token=gateway.tokens["network"])):
        async with connect(gateway) as line:
            await line.send(data)
            linger = struct.pack("ii", 1, 0)
            line.writer.get_extra_info("socket").setsockopt(1, 13, linger)
            line.abort()
    assert (await ask(gateway, head("GET /healthz HTTP/1.1"))).status == 200
