"""What the parser of upstream answers takes, refuses, and drops. No sockets."""

from __future__ import annotations

import pytest

from gateway import reply
from gateway.headers import TO_CLIENT
from gateway.reply import HEEDED, Cut, Invalid, Parser


class Heard:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: reply.Headers = ()
        self.length: int | None = None
        self.body = b""
        self.whole = False

    def on_whole(self, status, headers, length, body):
        self.on_head(status, headers, length)
        self.whole = True
        self.body += body

    def on_head(self, status, headers, length):
        assert not self.status
        self.status, self.headers, self.length = status, headers, length

    def on_body(self, data):
        assert data
        self.body += data


def heard(*pieces: bytes, no_body: bool = False):
    """(parser, sink, ended) after the pieces."""
    parser, sink, ended = Parser(), Heard(), False
    parser.expect(sink, no_body)
    for piece in pieces:
        assert not ended
        ended = parser.feed(piece)
    return parser, sink, ended


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((status, *lines, b"", b""))


CHUNKED = head(b"Transfer-Encoding: chunked")
LENGTH_2 = head(b"Content-Length: 2") + b"ok"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(head(status=line) + b"x", id=line[:40].decode("latin-1").replace("\r", "CR"))
        for line in (
            b"HTTP/2 200 OK", b"HTTP/1.2 200 OK", b"HTTP/1.10 200 OK", b"http/1.1 200 OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1 099 Odd", b"HTTP/1.1 000 Odd", b"HTTP/1.1 600 Odd", b"HTTP/1.1 999 Odd",
            b"HTTP/1.1 20 OK",
            b"HTTP/1.1 2000 OK", b"HTTP/1.1 200OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1", b"",
            b"\r\nHTTP/1.1 200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200 O\x00K",
            b"ICY 200 OK",
            b"HTTP/1.1 200 O\rK", b"HTTP/1.1 \xb2\xb0\xb0 OK", b"GET / HTTP/1.1", b"SSH-2.0-OpenSSH_9.2",
            b"HTTP/1.1 101 Switching Protocols",
        )
    ],
)  # fmt: skip
def test_a_status_line_that_is_not_one_is_refused(data):
    with pytest.raises(Invalid):
        heard(data)


@pytest.mark.parametrize(
    "line",
    [
        b"X-A: b\nX-B: c", b"X-A: b\rX-B: c", b"X-A: b\r", b"X-A: b\x00c", b"X-A: b\x0bc", b"X-A: b\x7fc",
        b"X-A: \x1b[0m",
        b"X-A: b\r\n folded", b"X-A: b\r\n\tfolded", b" X-A: b", b"X-A : b", b"X-A\t: b", b": b", b"X-A",
        b"Date",
        b"X A: b", b"X(A): b", b"X\xe9: b", b"X-A: b\r\nDate", b"\"X\": b", b"X-A: b\n", b"\nX-A: b",
    ],
)  # fmt: skip
def test_a_header_line_that_is_not_one_is_refused(line):
    with pytest.raises(Invalid):
        heard(head(line, b"Content-Length: 2") + b"ok")


@pytest.mark.parametrize(
    "lines",
    [
        *[[b"Content-Length: " + v] for v in (
            b"", b"+2", b"-2", b"2, 2", b"2,2", b"0x2", b"2_0", b"2.0", b"two", b"\xb2", b"2 2", b"9" * 19,
            b"1" + b"0" * 400,
        )],
        [b"Content-Length: 2", b"Content-Length: 2"],
        [b"Content-Length: 2", b"content-length: 3"],
        [b"Content-Length: 2", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
        *[[b"Transfer-Encoding: " + v] for v in (
            b"", b"gzip", b"identity", b"gzip, chunked", b"chunked, chunked", b"chunked;q=1", b"chunked,",
            b"\x0bchunked", b"xchunked",
        )],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("no_body", [False, True], ids=["GET", "HEAD"])
def test_a_framing_that_could_be_read_in_two_ways_is_refused(lines, no_body):
    with pytest.raises(Invalid):
        heard(head(*lines) + b"2\r\nok\r\n0\r\n\r\n", no_body=no_body)


def test_a_switch_of_protocols_is_refused_whatever_follows_it():
    with pytest.raises(Invalid):
        heard(head(status=b"HTTP/1.1 101 Switching Protocols") + LENGTH_2)


def test_a_transfer_coding_in_http_1_0_is_refused():
    with pytest.raises(Invalid):
        heard(head(b"Transfer-Encoding: chunked", status=b"HTTP/1.0 200 OK") + b"0\r\n\r\n")


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n", b"x\r\nok\r\n0\r\n\r\n", b"0x2\r\nok\r\n0\r\n\r\n", b"+2\r\nok\r\n0\r\n\r\n",
        b"-2\r\nok\r\n0\r\n\r\n",
        b" 2\r\nok\r\n0\r\n\r\n", b"2 \r\nok\r\n0\r\n\r\n", b"2_0\r\nok\r\n0\r\n\r\n", b";a\r\nok\r\n",
        b"2 a\r\nok\r\n0\r\n\r\n",
        b"2,3\r\nok\r\n", b"0" * 16 + b"2\r\nok\r\n0\r\n\r\n", b"F" * 17 + b"\r\n", b"2\nok\n0\n\n",
        b"2;a\nb\r\nok\r\n0\r\n\r\n",
        b"2;a\rb\r\nok\r\n0\r\n\r\n", b"2;\x00\r\nok\r\n0\r\n\r\n", b"2\r\nok!\r\n0\r\n\r\n",
        b"2\r\nok0\r\n\r\n", b"2\r\nok\n0\r\n\r\n",
        b"2\r\nok\r0\r\n\r\n", b"2\r\nok\r\n0\n\n", b"2\r\nok\r\n0\r\nX-T 1\r\n\r\n",
        b"2\r\nok\r\n0\r\n: 1\r\n\r\n",
        b"2\r\nok\r\n0\r\nX-T: 1\nX-U: 2\r\n\r\n", b"2\r\nok\r\n0\r\nX T: 1\r\n\r\n",
        b"2\r\nok\r\n0\r\nX-T: \x00\r\n\r\n",
        b"2\r\nok\r\n0\r\n folded\r\n\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut_every", [0, 1], ids=["at once", "bytewise"])
def test_chunks_outside_the_grammar_are_refused(body, cut_every):
    data = CHUNKED + body
    with pytest.raises(Invalid):
        heard(*([data[i : i + 1] for i in range(len(data))] if cut_every else [data]))


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        pytest.param(
            head(b"X: " + b"a" * (65_536 - len(b"HTTP/1.1 200 OK\r\nX: "))),
            head(b"X: " + b"a" * (65_537 - len(b"HTTP/1.1 200 OK\r\nX: "))),
            id="head",
        ),
        pytest.param(head(*[b"X: a"] * 200), head(*[b"X: a"] * 201), id="headers"),
        pytest.param(
            head(status=b"HTTP/1.1 103 Early") * 8 + LENGTH_2,
            head(status=b"HTTP/1.1 103 Early") * 9 + LENGTH_2,
            id="interim answers",
        ),
        pytest.param(
            CHUNKED + b"1;" + b"a" * 4_094 + b"\r\nk\r\n0\r\n\r\n",
            CHUNKED + b"1;" + b"a" * 4_095 + b"\r\nk\r\n0\r\n\r\n",
            id="chunk line",
        ),
        pytest.param(
            CHUNKED + (b"1;" + b"a" * 4_000 + b"\r\nk\r\n") * 4 + b"0\r\n\r\n",
            CHUNKED + (b"1;" + b"a" * 4_000 + b"\r\nk\r\n") * 5 + b"0\r\n\r\n",
            id="all extensions",
        ),
        pytest.param(
            CHUNKED + b"0\r\n" + (b"X: " + b"a" * 4_000 + b"\r\n") * 4 + b"\r\n",
            CHUNKED + b"0\r\n" + (b"X: " + b"a" * 4_000 + b"\r\n") * 5 + b"\r\n",
            id="trailers",
        ),
        pytest.param(
            head(b"Content-Length: 000000000000000002") + b"ok",
            head(b"Content-Length: 0000000000000000002") + b"ok",
            id="length digits",
        ),
    ],
)
def test_each_bound_is_where_it_says(within, beyond):
    assert heard(within)[1].status == 200
    with pytest.raises(Invalid):
        heard(beyond)


@pytest.mark.parametrize(
    "data",
    [
        b"X" * 65_537,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        b"SSH-2.0-x",
        b"HTTP/1.1 200 OK\n\n",
        b"\x15\x03\x01",
    ],
    ids=["flood", "endless head", "another protocol", "bare line feeds", "a TLS alert"],
)
@pytest.mark.parametrize("piece", [1, 1 << 20], ids=["bytewise", "at once"])
def test_what_cannot_become_a_head_is_refused_before_its_end(data, piece):
    with pytest.raises(Invalid):
        heard(*(data[i : i + piece] for i in range(0, len(data), piece)))


def test_many_small_chunks_need_no_allowance():
    parser, sink, ended = heard(CHUNKED + b"1\r\nk\r\n" * 20_000 + b"0\r\n\r\n")
    assert ended
    assert sink.whole
    assert sink.body == b"k" * 20_000
    assert parser.keep


@pytest.mark.parametrize(
    ("data", "no_body", "length", "body"),
    [
        pytest.param(LENGTH_2, False, 2, b"ok", id="length"),
        pytest.param(head(b"Content-Length: 0"), False, 0, b"", id="length 0"),
        pytest.param(CHUNKED + b"2;a=b\r\nok\r\n0;c\r\nX-T: 1\r\n\r\n", False, None, b"ok", id="chunked"),
        pytest.param(CHUNKED + b"002\r\nok\r\n000\r\n\r\n", False, None, b"ok", id="chunked with zeros"),
        pytest.param(CHUNKED + b"A\r\n0123456789\r\na ;x\r\n0123456789\r\n0\r\n\r\n", False, None,
        b"0123456789" * 2, id="hex"),
        pytest.param(head(b"Content-Length: 1200"), True, 1200, b"", id="HEAD"),
        pytest.param(CHUNKED, True, None, b"", id="HEAD, chunked"),
        pytest.param(head(status=b"HTTP/1.1 204 No Content"), False, None, b"", id="204"),
        pytest.param(head(b"Content-Length: 7", status=b"HTTP/1.1 304 Not Modified"), False, 7,
        b"", id="304"),
        pytest.param(head(status=b"HTTP/1.1 100 Continue") + LENGTH_2, False, 2, b"ok", id="100"),
        pytest.param(head(b"Link: x", b"Content-Length: 9", status=b"HTTP/1.1 103 x") + LENGTH_2, False, 2,
        b"ok", id="103"),
    ],
)  # fmt: skip
def test_an_answer_in_one_read_is_told_whole(data, no_body, length, body):
    parser, sink, ended = heard(data, no_body=no_body)
    assert ended
    assert sink.whole
    assert parser.keep
    assert (sink.length, sink.body) == (length, body)


@pytest.mark.parametrize(
    "data",
    [
        LENGTH_2 + LENGTH_2,
        head(b"Content-Length: 0") + b"\r\n",
        CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + LENGTH_2,
        head(status=b"HTTP/1.1 204 No Content") + b"x",
        head(b"Content-Length: 7", status=b"HTTP/1.1 304 Not Modified") + b"content",
    ],
)
@pytest.mark.parametrize("at", [0, 20], ids=["at once", "in two"])
def test_bytes_after_the_end_cost_the_connection_and_not_the_answer(data, at):
    parser, sink, ended = heard(*(p for p in (data[:at], data[at:]) if p))
    assert ended
    assert not parser.keep
    assert sink.body in (b"ok", b"")


@pytest.mark.parametrize("line", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_204_that_announces_a_body_is_the_last_on_its_connection(line):
    parser, sink, ended = heard(head(line, status=b"HTTP/1.1 204 No Content"))
    assert ended
    assert not parser.keep
    assert sink.length is None


@pytest.mark.parametrize(
    ("status", "lines", "keep"),
    [
        (b"HTTP/1.1 200 OK", [], True),
        (b"HTTP/1.1 200", [b"Connection: keep-alive"], True),
        (b"HTTP/1.1 200 ", [b"Connection: Close"], False),
        (b"HTTP/1.1 200 \xc3\xa9", [b"Connection: X-A", b"connection:\tCLOSE\t"], False),
        (b"HTTP/1.0 200 OK", [], False),
        (b"HTTP/1.0 200 OK", [b"Connection: Keep-Alive"], True),
        (b"HTTP/1.0 200 OK", [b"Connection: keep-alive, close"], False),
    ],
)
def test_the_connection_is_kept_as_its_options_say(status, lines, keep):
    assert heard(head(*lines, b"Content-Length: 2", status=status) + b"ok")[0].keep is keep


def test_headers_that_are_heeded_come_in_lower_case_in_order_with_repeats_and_without_what_is_hop_by_hop():
    sink = heard(
        head(
            b"Set-Cookie: a=1", b"LoCaTion:  v \t", b"Connection: Content-Language , x-Other", b"X-HOP: 1",
            b"content-language: 2", b"Keep-Alive: timeout=5",
            b"Proxy-Connection: x", b"Proxy-Authenticate: Basic", b"Trailer: X-T", b"TE: trailers",
            b"Upgrade: h2c", b"ETag: x",
            b"Content-Type: b=2", b"Content-disposition:", b"content-type: \xe9", b"Content-Length: 2",
        ) + b"ok"
    )[1]  # fmt: skip
    assert sink.headers == (
        (b"location", b"v"), (b"content-type", b"b=2"), (b"content-disposition", b""), (b"content-type", b"\xe9"),
    )  # fmt: skip


def test_what_may_travel_is_heeded():
    assert set(TO_CLIENT) < HEEDED


def test_a_body_without_length_ends_with_the_connection_alone():
    parser, sink, ended = heard(head(), b"a", b"b")
    assert not ended
    assert not parser.keep
    assert sink.body == b"ab"
    parser.eof()


@pytest.mark.parametrize(
    "data",
    [b"", b"HTTP/1.1 200", head(b"Content-Length: 3") + b"ok", CHUNKED, CHUNKED + b"2\r\nok\r\n0\r\n",
    head(status=b"HTTP/1.1 100 x")],
)  # fmt: skip
def test_an_end_inside_an_answer_is_a_cut(data):
    parser = heard(*([data] if data else []))[0]
    with pytest.raises(Cut):
        parser.eof()


def test_a_parser_reads_one_answer_after_another_and_none_that_nobody_asked_for():
    parser, sink = Parser(), Heard()
    for data in (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", LENGTH_2):
        sink = Heard()
        parser.expect(sink, False)
        assert [parser.feed(data[:9]), parser.feed(data[9:])] == [False, True]
        assert sink.body == b"ok"
    with pytest.raises(Invalid):
        parser.feed(LENGTH_2)


def test_what_is_bounded_in_an_answer_starts_anew_with_the_next():
    parser = Parser()
    data = (
        head(status=b"HTTP/1.1 103 Early") * 8
        + CHUNKED
        + b"0\r\n"
        + (b"X: " + b"a" * 4_000 + b"\r\n") * 4
        + b"\r\n"
    )
    for _ in range(3):
        parser.expect(Heard(), False)
        assert parser.feed(data)


def test_a_stopped_parser_tells_nobody():
    parser, sink, _ = heard(head(b"Content-Length: 9"), b"1")
    parser.stop()
    with pytest.raises(Invalid):
        parser.feed(b"2345")
    assert sink.body == b"1"


def test_what_is_remembered_of_names_and_status_lines_is_bounded():
    for i in range(2_000):
        heard(head(b"X-%d: 1" % i, b"Content-Length: 2", status=b"HTTP/1.1 200 OK %d" % i) + b"ok")
    assert len(reply._names) <= 512
    assert len(reply._status_lines) <= 512
