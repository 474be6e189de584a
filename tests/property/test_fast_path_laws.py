"""Laws of the two ways: whatever a client sends, both answer it alike and send the same bytes upstream."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.integration.test_answers import reply
from tests.integration.test_traps import TARGETS
from tests.integration.test_wire import NI, connect, quick
from tests.upstream import OK, Peer, answers
from tests.ways import GENERAL, SHORT, Scene, scene

__all__ = ["quick"]

QUICKLY = settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

NAMES = (
    "X-One", "User-Agent", "Accept-Language", "Accept", "Accept-Encoding", "Connection", "Host", "Content-Length",
    "Transfer-Encoding", "Content-Type", "Content-Encoding", "Expect", "Upgrade", "X-Forwarded-For", "TE", "Via",
    "Authorization", "X-HTTP-Method-Override", "x_one", "Keep-Alive", "Trailer", "Cookie", "HTTP2-Settings", "X(",
)  # fmt: skip
VALUES = (
    "", "1", "0", "close", "keep-alive", "Upgrade", "User-Agent", "authorization", "close, Accept-Language", "chunked",
    "identity", "gzip", "100-continue", "websocket", "h2c", "127.0.0.1", "gw.test", "evil.example", "GET", "\xe4\xff",
    "a\tb", "a\0b", "a\nb", "a\rb", " a ", "x" * 300, "invoca_gw_", "Bearer x", "text/html", "a, b",
)  # fmt: skip
kind = st.lists(
    st.sampled_from(["User-Agent: x", "Accept: */*", "X-One: 1", "Cookie: a=b", "Connection: close"])
)
hostile = st.lists(
    st.builds(
        "{}:{}{}".format,
        st.sampled_from(NAMES) | st.text("abXY-_ ", min_size=1, max_size=6),
        st.sampled_from(["", " ", "  ", "\t"]),
        st.sampled_from(VALUES)
        | st.text(st.characters(max_codepoint=255, exclude_characters="\r"), max_size=12),
    ),
    max_size=5,
)
fields = kind | hostile
PIECES = ("limit", "t[]", "a", "=", "&", "%20", "%2e", "%", "+", "/", ";", "#", "|", "oauth_token", "_method", "\xe4",
          "invoca_gw_", "%69nvoca", "format", "[", "]", ",", "1", "<", '"', "\\", "{", "`", "\x7f")  # fmt: skip
queries = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
good = (
    NI,
    NI,
    NI,
    "/api/2020-10-01/networks/transactions/33.json",
    "/api/2022-08-01/33/advertisers/706.json",
)
paths = st.sampled_from(good) | st.sampled_from([target for target, *_ in TARGETS])
targets = st.builds(lambda path, query: f"{path}?{query}" if query else path, paths, queries)
people = st.sampled_from(["network", "network", "network_admin", "advertiser", "affiliate"])


async def answered(at: Scene, request: bytes) -> tuple[object, ...]:
    """(status, kind, type, content unless it is a problem, what went upstream) of a request, on a new connection."""
    before = len(at.requests)
    async with connect(at.running) as line:
        await line.send(request)
        try:
            heard = await line.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            return ("broken",)
        await at.until(lambda: not at.busy())
    sent = [each.replace(str(at.raw.port).encode(), b"PORT") for each in at.requests[before:]]
    said = b"" if heard.kind else heard.body
    return heard.status, heard.kind, heard.headers.get("connection"), said, tuple(sent)


LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


class Both:
    """A warm gateway of each way, for all the examples of a law."""

    def __init__(self, runner: asyncio.Runner, folder) -> None:
        self.runner = runner
        self.folder = folder
        self.stack = AsyncExitStack()

    def __enter__(self) -> Both:
        self.runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.run(self.stack.aclose())

    async def _start(self) -> None:
        then = self.then
        self.short, self.general = [
            await self.stack.enter_async_context(scene(way, then, self.folder, first_byte_timeout_s=5.0))
            for way in (SHORT, GENERAL)
        ]
        for at in (self.short, self.general):
            for who in ("network_admin", "advertiser", "affiliate"):
                await at.ask(at.get(who=who))  # remembered from here on, whatever it may do
            at.taken.clear()

    @staticmethod
    async def then(peer: Peer) -> None:
        await answers(OK)(peer)


@LOOPS
def test_any_request_is_answered_alike_on_both_ways_and_sent_alike(tmp_path, loop_factory):
    with asyncio.Runner(loop_factory=loop_factory) as runner, Both(runner, tmp_path) as both:

        @QUICKLY
        @example(NI, ["Content-Length: 0", "User-Agent: x"], "network")
        @example(NI + "?a=b", ["Connection: User-Agent", "User-Agent: x"], "network")
        @given(targets, fields, people)
        def law(target, lines, who):
            async def ask(at):
                lately = [line.encode("latin-1") for line in lines]
                return await answered(
                    at, at.get(*lately, target=target.encode("latin-1").decode("latin-1"), who=who)
                )

            first = runner.run(ask(both.short))
            again = runner.run(ask(both.short))  # by what the first was found to be
            assert first == again == runner.run(ask(both.general))

        law()
        assert any(both.short.taken)


class Echoing(Both):
    @staticmethod
    async def then(peer: Peer) -> None:
        while True:
            target = (await peer.request()).split(b" ")[1]
            await asyncio.sleep(0.001 * (len(target) % 3))
            await peer.say(reply("200 OK", body=target))


ASKED = ("?limit=1", "?limit=10", "?limit=100", "?oauth_token=x", "/nowhere", "?a=1000")


@LOOPS
def test_any_requests_in_any_pieces_are_answered_alike_and_in_order(tmp_path, loop_factory):
    with asyncio.Runner(loop_factory=loop_factory) as runner, Echoing(runner, tmp_path) as both:

        @settings(QUICKLY, max_examples=100)
        @example([(ASKED[0], "network"), (ASKED[1], "network_admin")], [(500, 0.002)])
        @given(
            st.lists(st.tuples(st.sampled_from(ASKED), people), min_size=1, max_size=6),
            st.lists(st.tuples(st.integers(1, 1500), st.sampled_from([0.0, 0.0, 0.002])), max_size=6),
        )
        def law(wanted, cuts):
            async def ask(at):
                left = b"".join(at.get(target=NI + end, who=who) for end, who in wanted)
                async with connect(at.running) as line:
                    for size, pause_s in cuts:
                        await line.send(left[:size], pause_s=pause_s)
                        left = left[size:]
                    await line.send(left)
                    heard = [await line.answer() for _ in wanted]
                    await at.until(lambda: not at.busy())
                return [(each.status, each.kind, b"" if each.kind else each.body) for each in heard]

            short = runner.run(ask(both.short))
            assert short == runner.run(ask(both.general))
            for (end, _), (status, _, body) in zip(wanted, short, strict=True):
                assert status != 200 or body.decode() == NI + end

        law()
        assert any(both.short.taken)
