"""Laws of reading an upstream: pieces do not matter, a cut is never an end, garbage is never more than a Problem."""

from __future__ import annotations

import asyncio
import itertools
import logging

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway import config
from gateway.connection import UpstreamRequest
from gateway.problem import Problem
from gateway.reply import Cut, Invalid, Parser
from gateway.upstream import Upstream
from tests.upstream import RawUpstream, says_and_closes

INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


class Told:
    """A sink that keeps what counts: the head, the content, and no trace of how it was cut."""

    def __init__(self):
        self.head = None
        self.body = b""

    def on_whole(self, status, headers, length, body):
        self.head = (status, headers, length)
        self.body += body

    def on_head(self, status, headers, length):
        self.head = (status, headers, length)

    def on_body(self, data):
        self.body += data


def read(pieces):
    """(head, body, how it ended, connection kept) for pieces followed by the end of the connection."""
    parser, told = Parser(), Told()
    parser.expect(told, False)
    try:
        for piece in pieces:
            if parser.feed(piece):
                return told.head, told.body, "end", parser.keep
        parser.eof()
    except Cut:
        return told.head, told.body, "cut", False
    except Invalid:
        return told.head, told.body, "invalid", False
    return told.head, told.body, "closed", parser.keep


bodies = st.lists(st.binary(min_size=1, max_size=40) | st.just(b"\r\n0\r\n\r\n"), max_size=6)


@st.composite
def responses(draw, framings=("length", "chunked", "close")):
    """(bytes of one valid answer, its content, its framing)."""
    parts = draw(bodies)
    framing = draw(st.sampled_from(framings))
    out = INTERIM * draw(st.integers(0, 3)) + b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nX-A: b \r\n"
    content = b"".join(parts)
    if framing == "length":
        return out + b"Content-Length: %d\r\n\r\n" % len(content) + content, content, framing
    if framing == "close":
        return out + b"\r\n" + content, content, framing
    extension = draw(st.sampled_from((b"", b";a=b", b' ;c="d"')))
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    trailer = draw(st.sampled_from((b"", b"X-T: 1\r\n", b"X-T: 1\r\nx-u:\r\n")))
    return (
        out + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n",
        content,
        framing,
    )


def pieces_of(data, cuts):
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(responses(), cuts)
def test_how_an_answer_is_cut_into_reads_does_not_matter(response, cuts):
    data, content, framing = response
    result = read(pieces_of(data, cuts))
    assert result == read([data])
    assert result == read([bytes([b]) for b in data])
    assert result[1:3] == (content, "closed" if framing == "close" else "end")


@given(responses(framings=("length", "chunked")), st.data())
def test_a_truncated_answer_is_a_cut_and_its_content_a_prefix(response, data):
    whole, content, _ = response
    at = data.draw(st.integers(0, len(whole) - 1))
    _, body, how, keep = read([whole[:at]] if at else [])
    assert (how, keep) == ("cut", False)
    assert content.startswith(body)


@given(responses(framings=("close",)), st.data())
def test_a_truncated_head_is_a_cut_whatever_frames_the_body(response, data):
    whole, content, _ = response
    at = data.draw(st.integers(0, len(whole) - len(content) - 1))
    assert read([whole[:at]] if at else [])[2] == "cut"


@given(responses(framings=("length", "chunked")), responses(), cuts)
def test_a_second_answer_is_never_part_of_the_first(first, second, cuts):
    data, content, _ = first
    head, body, how, keep = read([data + second[0]])
    assert (body, how, keep) == (content, "end", False)
    assert read(pieces_of(data + second[0], cuts))[:3] == (head, body, how)


nearly = st.builds(
    lambda response, edits: _edited(response[0], edits),
    responses(),
    st.lists(
        st.tuples(st.integers(0, 10_000), st.binary(max_size=3), st.integers(0, 2)), min_size=1, max_size=4
    ),
)


def _edited(data, edits):
    for at, new, gone in edits:
        at %= len(data) + 1
        data = data[:at] + new + data[at + gone :]
    return data


@given(st.binary(max_size=300) | nearly, cuts)
def test_bytes_of_any_kind_never_raise_anything_but_a_finding(data, cuts):
    assert read(pieces_of(data, cuts))[2] in ("end", "closed", "cut", "invalid")


@given(nearly, cuts)
def test_a_head_that_is_told_has_nothing_in_it_that_could_split_it(data, cuts):
    head = read(pieces_of(data, cuts))[0]
    if head is not None:
        for name, value in head[1]:
            assert name
            assert not set(name) & set(b"\r\n\0 :\t")
            assert not set(value) & set(b"\r\n\0")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200) | nearly)
@example(b"")
@example(b"\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n")
def test_over_a_socket_anything_is_an_answer_or_a_problem(data):
    async def scenario():
        async with RawUpstream(says_and_closes(data)) as raw:
            kinds = set()
            upstream = Upstream(config.Upstream(url=raw.url, max_connections=1))
            try:
                async with upstream.open(UpstreamRequest("GET", "/", ())) as reply:
                    assert 200 <= reply.status <= 599
                    while await reply.read():
                        pass
            except Problem as problem:
                kinds.add(problem.kind)
            assert kinds <= {"upstream-invalid", "upstream-unreachable"}
            assert upstream.stats().busy == 0
            await upstream.close()

    logging.getLogger("gateway.upstream").disabled = True
    try:
        asyncio.run(scenario())
    finally:
        logging.getLogger("gateway.upstream").disabled = False
