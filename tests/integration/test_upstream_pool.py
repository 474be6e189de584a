"""The pool: reuse, bounds, ageing, staleness, the one retry, and both faces. Real sockets, both event loops."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from gateway import config
from gateway.connection import UpstreamRequest
from gateway.problem import Problem
from gateway.upstream import Stats, Upstream
from tests.upstream import (
    GET,
    OK,
    POST,
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


def numbered(pause_s: float = 0.0):
    """A script whose answers name the connection they came on; later connections take longer by `pause_s`."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(pause_s * peer.number)
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % peer.number)

    return script


def stale(answer: bytes = OK, *, served: int = 1, last_words: bytes = b""):
    """The first connection serves `served` requests, and dies with the next one. Later connections are good."""

    async def script(peer: Peer) -> None:
        for _ in range(served if peer.number == 1 else 1_000):
            await peer.request()
            await peer.say(answer)
        await peer.request()
        await peer.say(last_words)

    return script


def a_share(name: str, request: UpstreamRequest = GET) -> UpstreamRequest:
    return UpstreamRequest(request.method, request.target, (), request.body, request.idempotent, name)


async def begun(upstream: Upstream, request: UpstreamRequest, count: int) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(fetch(upstream, request)) for _ in range(count)]
    await asyncio.sleep(0.03)
    return tasks


async def ended(tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# -- reuse


@both_loops
async def test_one_connection_serves_one_request_after_another():
    async with facing(answers(OK)) as (raw, upstream):
        for _ in range(20):
            assert await fetch(upstream) == (200, b"ok")
        assert (raw.connections, len(raw.requests)) == (1, 20)


@both_loops
async def test_the_connection_used_last_is_used_first():
    async with facing(numbered(pause_s=0.02)) as (_, upstream):
        await asyncio.gather(fetch(upstream), fetch(upstream))
        assert upstream.stats() == Stats(2, 2, 0)
        assert [(await fetch(upstream))[1] for _ in range(4)] == [b"2"] * 4


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
@both_loops
async def test_a_connection_the_upstream_will_close_is_not_kept(answer):
    async with facing(answers(answer)) as (raw, upstream):
        await fetch(upstream)
        assert upstream.stats().open == 0
        await fetch(upstream)
        assert raw.connections == 2


@both_loops
async def test_an_idle_connection_is_dropped_when_its_time_is_up_without_any_request(monkeypatch):
    monkeypatch.setattr("gateway.upstream.TICK_S", 0.02)
    async with facing(answers(OK), idle_timeout_s=0.15) as (_, upstream):
        await fetch(upstream)
        await asyncio.sleep(0.05)
        assert upstream.stats().idle == 1
        await asyncio.sleep(0.2)
        assert upstream.stats().open == 0


@both_loops
async def test_an_idle_connection_past_its_time_is_not_taken_though_no_sweep_came():
    async with facing(answers(OK), idle_timeout_s=0.05) as (raw, upstream):
        upstream._timer.cancel()
        await fetch(upstream)
        await asyncio.sleep(0.08)
        await fetch(upstream)
        assert raw.connections == 2


@both_loops
async def test_an_idle_connection_that_the_upstream_closes_or_resets_is_noticed():
    for how in (Peer.cut, Peer.reset):

        async def script(peer: Peer, how=how) -> None:
            await peer.request()
            await peer.say(OK)
            await asyncio.sleep(0.03)
            how(peer)

        async with facing(script) as (_, upstream):
            await fetch(upstream)
            assert upstream.stats().idle == 1
            await asyncio.sleep(0.06)
            assert upstream.stats().open == 0
            assert await fetch(upstream, POST) == (200, b"ok")


# -- the one retry


@both_loops
async def test_an_idempotent_request_on_a_stale_connection_is_sent_once_more_on_a_new_one(caplog):
    async with facing(stale()) as (raw, upstream):
        await fetch(upstream)
        assert await fetch(upstream) == (200, b"ok")
        assert (raw.connections, len(raw.requests)) == (2, 3)
        assert upstream.stats() == Stats(1, 1, 0)
    assert not caplog.records


@both_loops
async def test_a_request_that_is_not_idempotent_is_never_sent_twice():
    async with facing(stale()) as (raw, upstream):
        await fetch(upstream, POST)
        assert (await refused(upstream, POST)).kind == "upstream-unreachable"
        assert (raw.connections, len(raw.requests)) == (1, 2)


@both_loops
async def test_a_new_connection_that_dies_is_not_retried():
    async with facing(stale(served=0)) as (raw, upstream):
        assert (await refused(upstream)).kind == "upstream-unreachable"
        assert (raw.connections, len(raw.requests)) == (1, 1)


@both_loops
async def test_once_a_byte_of_the_answer_came_nothing_is_sent_again():
    async with facing(stale(last_words=b"H")) as (raw, upstream):
        await fetch(upstream)
        assert (await refused(upstream)).kind == "upstream-invalid"
        assert raw.connections == 1


@both_loops
async def test_there_is_one_retry_and_not_two_though_other_idle_connections_are_stale_too():
    dying = False

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if dying:
                return
            await asyncio.sleep(0.02)
            await peer.say(OK)

    async with facing(script) as (raw, upstream):
        await asyncio.gather(fetch(upstream), fetch(upstream))
        assert upstream.stats() == Stats(2, 2, 0)
        dying = True
        assert (await refused(upstream)).kind == "upstream-unreachable"
        assert (raw.connections, len(raw.requests)) == (3, 4)


# -- bounds


@both_loops
async def test_a_full_pool_refuses_at_once_and_is_itself_again_afterwards():
    async with facing(silence, max_connections=3) as (raw, upstream):
        tasks = await begun(upstream, GET, 3)
        assert upstream.stats() == Stats(3, 0, 3)
        problem = await refused(upstream)
        assert (problem.kind, problem.status) == ("overloaded", 503)
        assert ("Retry-After", "1") in problem.headers
        assert raw.connections == 3
        await ended(tasks)
        assert upstream.stats() == Stats(0, 0, 0)


@both_loops
async def test_connections_that_are_being_made_count():
    async with facing(silence, max_connections=3) as (raw, upstream):
        results = await asyncio.gather(
            *(asyncio.wait_for(fetch(upstream), 0.1) for _ in range(10)), return_exceptions=True
        )
        kinds = [r.kind if isinstance(r, Problem) else type(r).__name__ for r in results]
        assert (kinds.count("TimeoutError"), kinds.count("overloaded")) == (3, 7)
        assert raw.connections == 3


@both_loops
async def test_one_share_cannot_take_the_pool_from_the_others():
    async def script(peer: Peer) -> None:
        if b"slow" in await peer.request():
            await peer.gone()
        await peer.say(OK)

    async with facing(script, max_connections_per_token=2) as (_, upstream):
        tasks = await begun(upstream, UpstreamRequest("GET", "/slow", (), share="greedy"), 2)
        problem = await refused(upstream, a_share("greedy"))
        assert (problem.kind, dict(problem.headers)["Retry-After"]) == ("overloaded", "1")
        assert await fetch(upstream, a_share("modest")) == (200, b"ok")
        await ended(tasks)
        assert await fetch(upstream, a_share("greedy")) == (200, b"ok")
        assert upstream._shares == {}


@both_loops
async def test_a_share_at_its_bound_does_not_keep_idle_connections_young():
    async def script(peer: Peer) -> None:
        while b"slow" not in await peer.request():
            await asyncio.sleep(0.02)
            await peer.say(OK)
        await peer.gone()

    async with facing(script, max_connections_per_token=1) as (_, upstream):
        await asyncio.gather(fetch(upstream, a_share("a")), fetch(upstream, a_share("b")))
        tasks = await begun(upstream, UpstreamRequest("GET", "/slow", (), share="a"), 1)
        (idle,) = upstream._idle
        before = idle.idle_since
        await refused(upstream, a_share("a"))
        assert list(upstream._idle) == [idle]
        assert idle.idle_since == before
        await ended(tasks)


@pytest.mark.parametrize(
    "data", [b"garbage", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"", OK + b"extra", OK]
)
@both_loops
async def test_after_any_number_of_faults_the_pool_is_back_to_normal(data):
    async with facing(says_and_closes(data), max_connections=4, max_connections_per_token=4) as (_, upstream):
        for _ in range(5):
            await asyncio.gather(*(fetch(upstream) for _ in range(4)), return_exceptions=True)
        await asyncio.sleep(0.02)
        assert upstream.stats() == Stats(0, 0, 0)
        assert upstream._shares == {}


@both_loops
async def test_many_at_once_get_each_their_own_answer():
    async def script(peer: Peer) -> None:
        while True:
            target = (await peer.request()).split(b" ")[1]
            await asyncio.sleep(0.001 * (len(target) % 3))
            await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(target))
            await peer.say(target, b"\r\n0\r\n\r\n")

    async with facing(script, max_connections=16, max_connections_per_token=16) as (raw, upstream):

        async def client(name: int) -> None:
            for i in range(15):
                target = f"/{name}/{'x' * i}"
                assert await fetch(upstream, UpstreamRequest("GET", target, ())) == (200, target.encode())

        await asyncio.gather(*(client(name) for name in range(16)))
        assert raw.connections <= 16
        assert upstream.stats().busy == 0


@both_loops
async def test_an_upstream_that_is_down_is_no_error_until_it_is_asked_for():
    upstream = Upstream(config.Upstream(url="https://unresolvable.invalid"))
    assert upstream.stats() == Stats(0, 0, 0)
    await upstream.close()
    await upstream.close()


# -- the face of callbacks


class Heard:
    """A sink that writes down its calls, and wakes a test at the end."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.over = asyncio.Event()

    def on_whole(self, status, headers, length, body):
        self.calls.append(("whole", status, length, body))

    def on_head(self, status, headers, length):
        self.calls.append(("head", status, length))

    def on_body(self, data):
        self.calls.append(("body", data))

    def on_done(self):
        self.calls.append(("done",))
        self.over.set()

    def on_error(self, problem, again):
        self.calls.append(("error", problem.kind, again))
        self.over.set()


@both_loops
async def test_begin_needs_an_idle_connection_and_sends_nothing_without_one():
    async with facing(answers(OK)) as (_, upstream):
        assert upstream.begin(GET, upstream.encode(GET), Heard()) is None
        assert upstream.stats() == Stats(0, 0, 0)
        assert upstream._shares == {}
        await fetch(upstream)
        heard = Heard()
        assert upstream.begin(GET, upstream.encode(GET), heard) is not None
        assert upstream.stats() == Stats(1, 0, 1)
        await heard.over.wait()
        assert heard.calls == [("whole", 200, 2, b"ok"), ("done",)]
        assert upstream.stats() == Stats(1, 1, 0)


@both_loops
async def test_start_makes_the_connection_that_begin_does_not_find():
    async with facing(answers(OK)) as (raw, upstream):
        heard = Heard()
        upstream.start(GET, upstream.encode(GET), heard)
        assert upstream._shares == {GET.share: 1}
        await heard.over.wait()
        assert heard.calls == [("whole", 200, 2, b"ok"), ("done",)]
        assert (upstream.stats(), upstream._shares, raw.connections) == (Stats(1, 1, 0), {}, 1)


@both_loops
async def test_what_keeps_start_from_a_connection_is_told_to_its_sink():
    async with facing(answers(OK)) as (_, upstream):
        upstream.settings = dataclasses.replace(upstream.settings, max_connections=0)
        heard = Heard()
        upstream.start(GET, upstream.encode(GET), heard)
        await heard.over.wait()
        assert heard.calls == [("error", "overloaded", False)]
        assert (upstream.stats(), upstream._shares) == (Stats(0, 0, 0), {})


@both_loops
async def test_a_token_with_its_share_under_way_is_told_later():
    async with facing(answers(OK)) as (_, upstream):
        upstream.settings = dataclasses.replace(upstream.settings, max_connections_per_token=0)
        heard, left = Heard(), Heard()
        upstream.start(GET, upstream.encode(GET), heard)
        upstream.start(GET, upstream.encode(GET), left).abort()
        assert heard.calls == []  # not before the caller knows what it has begun
        await heard.over.wait()
        await asyncio.sleep(0)
        assert (heard.calls, left.calls) == ([("error", "overloaded", False)], [])
        assert (upstream.stats(), upstream._shares) == (Stats(0, 0, 0), {})


@both_loops
async def test_a_bug_in_dialling_leaves_nobody_waiting():
    async with facing(answers(OK)) as (_, upstream):

        async def broken():
            raise AssertionError

        upstream._dial = broken
        heard = Heard()
        dialing = upstream.start(GET, upstream.encode(GET), heard)
        with pytest.raises(AssertionError):
            await dialing.task
        assert heard.calls == [("error", "internal-error", False)]
        assert (upstream.stats(), upstream._shares) == (Stats(0, 0, 0), {})


@both_loops
async def test_a_connection_that_nobody_waits_for_any_more_is_anothers():
    async with facing(answers(OK)) as (raw, upstream):
        heard = Heard()
        dialing = upstream.start(GET, upstream.encode(GET), heard)
        dialing.abort()
        await dialing.task
        assert (heard.calls, upstream.stats(), upstream._shares) == ([], Stats(1, 1, 0), {})
        assert await fetch(upstream)
        assert raw.connections == 1


@both_loops
async def test_an_exchange_that_is_dialled_is_aborted_and_paused_like_any_other():
    parts = (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"ab", b"cd")
    async with facing(answers(*parts, pause_s=0.02)) as (_, upstream):
        heard = Heard()
        dialing = upstream.start(GET, upstream.encode(GET), heard)
        dialing.pause()  # before there is anything to pause
        await dialing.task
        await asyncio.sleep(0.1)
        assert heard.calls == []
        dialing.resume()
        await heard.over.wait()
        assert heard.calls == [("whole", 200, 4, b"abcd"), ("done",)]
        upstream.distrust()
        again = Heard()
        dialing = upstream.start(GET, upstream.encode(GET), again)
        await dialing.task
        dialing.abort()
        await asyncio.sleep(0.1)
        assert (again.calls, upstream._shares) == ([], {})


@both_loops
async def test_a_pool_that_closes_tells_those_it_dials_for():
    async with facing(answers(OK)) as (_, upstream):
        heard = Heard()
        dialing = upstream.start(GET, upstream.encode(GET), heard)
        await asyncio.sleep(0)
        await upstream.close()
        assert heard.calls == [("error", "overloaded", False)]
        await asyncio.wait([dialing.task])
        assert (dialing.task.cancelled(), upstream._shares, upstream.stats()) == (True, {}, Stats(0, 0, 0))


@both_loops
async def test_an_answer_to_a_request_that_is_not_out_yet_is_nobodys():
    async with facing(answers(OK)) as (_, upstream):
        await fetch(upstream)
        heard = Heard()
        connection = upstream.begin(GET, upstream.encode(GET), heard)
        connection.data_received(OK)  # in the very turn of the loop: the request has still to be written
        assert heard.calls == [("error", "upstream-invalid", False)]
        assert upstream.stats() == Stats(0, 0, 0)


@both_loops
async def test_the_connection_is_free_for_the_next_request_inside_on_done():
    async with facing(answers(OK)) as (raw, upstream):
        await fetch(upstream)

        class Chain(Heard):
            def on_done(self):
                self.calls.append(("done",))
                if len(raw.requests) < 5:
                    assert upstream.begin(GET, upstream.encode(GET), self) is not None
                else:
                    self.over.set()

        heard = Chain()
        upstream.begin(GET, upstream.encode(GET), heard)
        await heard.over.wait()
        assert (raw.connections, len(raw.requests)) == (1, 5)


@both_loops
async def test_an_answer_in_parts_is_told_in_parts():
    parts = (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"ab", b"cd")
    async with facing(answers(*parts, pause_s=0.02)) as (_, upstream):
        await fetch(upstream)
        heard = Heard()
        upstream.begin(GET, upstream.encode(GET), heard)
        await heard.over.wait()
        assert heard.calls == [("head", 200, 4), ("body", b"ab"), ("body", b"cd"), ("done",)]


@pytest.mark.parametrize(("request_", "again"), [(GET, True), (POST, False)], ids=["GET", "POST"])
@both_loops
async def test_a_sink_is_told_whether_it_may_try_again(request_, again):
    async with facing(stale()) as (_, upstream):
        await fetch(upstream)
        heard = Heard()
        upstream.begin(request_, upstream.encode(request_), heard)
        await heard.over.wait()
        assert heard.calls == [("error", "upstream-unreachable", again)]


@pytest.mark.parametrize("call", ["on_whole", "on_head", "on_body"])
@pytest.mark.parametrize(
    "answer",
    [
        [OK],
        [OK[:-1], OK[-1:]],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"0\r\n\r\n"],
    ],
)
@both_loops
async def test_a_sink_may_abort_from_inside_any_call_and_hears_nothing_more(call, answer):
    async with facing(answers(*answer, pause_s=0.01)) as (_, upstream):
        await fetch(upstream)

        class Aborting(Heard):
            aborted = False

            def __getattribute__(self, name):
                told = super().__getattribute__(name)
                if name != call:
                    assert not (name.startswith("on_") and self.aborted)
                    return told

                def abort(*args):
                    assert not self.aborted
                    told(*args)
                    self.aborted = True
                    connection.abort()

                return abort

        heard = Aborting()
        connection = upstream.begin(GET, upstream.encode(GET), heard)
        await asyncio.sleep(0.04)
        assert upstream.stats().busy == 0
        assert upstream.stats().open == (0 if heard.aborted else 1)
        assert upstream._shares == {}


@both_loops
async def test_a_paused_connection_is_silent_until_it_is_resumed():
    parts = (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"ab", b"cd")
    async with facing(answers(*parts, pause_s=0.02)) as (_, upstream):
        await fetch(upstream)

        class Pausing(Heard):
            def on_head(self, *args):
                super().on_head(*args)
                connection.pause()

        heard = Pausing()
        connection = upstream.begin(GET, upstream.encode(GET), heard)
        await asyncio.sleep(0.12)
        assert [call[0] for call in heard.calls] == ["head"]
        connection.resume()
        await heard.over.wait()
        assert b"".join(call[1] for call in heard.calls if call[0] == "body") == b"abcd"


@both_loops
async def test_time_before_a_pause_does_not_count_after_it(monkeypatch):
    monkeypatch.setattr("gateway.connection.TICK_S", 0.02)
    monkeypatch.setattr("gateway.upstream.TICK_S", 0.02)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await peer.request()
        await peer.say(OK[:-1])
        await asyncio.sleep(0.4)
        await peer.say(OK[-1:])
        await peer.gone()

    async with facing(script, gap_timeout_s=0.3) as (_, upstream):
        await fetch(upstream)
        heard = Heard()
        connection = upstream.begin(GET, upstream.encode(GET), heard)
        await asyncio.sleep(0.2)
        connection.pause()
        connection.resume()
        await heard.over.wait()
        assert heard.calls[-1] == ("done",)


@both_loops
async def test_a_connection_that_is_closing_can_be_paused_and_resumed_without_harm():
    async with facing(answers(OK)) as (_, upstream):
        await fetch(upstream)
        heard = Heard()
        connection = upstream.begin(GET, upstream.encode(GET), heard)
        connection.transport.abort()
        connection.pause()
        connection.resume()
        await heard.over.wait()
        assert heard.calls == [("error", "upstream-unreachable", True)]


@both_loops
async def test_a_pause_at_the_very_end_does_not_leave_an_idle_connection_deaf():
    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.say(OK[:-1])
            await asyncio.sleep(0.01)
            await peer.say(OK[-1:])
        await asyncio.sleep(0.02)

    async with facing(script) as (_, upstream):
        await fetch(upstream)

        class Pausing(Heard):
            def on_body(self, data):
                super().on_body(data)
                if data == b"k":
                    connection.pause()

        heard = Pausing()
        connection = upstream.begin(GET, upstream.encode(GET), heard)
        await heard.over.wait()
        assert upstream.stats().idle == 1
        await asyncio.sleep(0.06)
        assert upstream.stats().open == 0  # it heard the upstream close


@both_loops
async def test_a_share_at_its_bound_is_refused_in_the_face_of_callbacks_too():
    async with RawUpstream(numbered()) as raw, a_pool(raw.url, max_connections_per_token=1) as upstream:
        await fetch(upstream)
        heard = Heard()
        assert upstream.begin(GET, upstream.encode(GET), heard) is not None
        with pytest.raises(Problem) as caught:
            upstream.begin(GET, upstream.encode(GET), Heard())
        assert caught.value.kind == "overloaded"
        await heard.over.wait()
