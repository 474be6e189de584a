"""Who guesses tokens is slowed, by client network; who holds one is not, however many others fail beside them."""

from __future__ import annotations

import asyncio
import base64
import os

import pytest

from gateway.authenticate import SUSPECTS_AT_ONCE
from gateway.config import Listen
from gateway.demo import NETWORK
from tests.conftest import Running, add_person

NI = "/api/2022-08-01/33/advertisers.json"
FEW = {"failed_authentications_per_minute": 1}
MANY = 4 * SUSPECTS_AT_ONCE


def guess(running: Running, name: str = "network", payload: str | None = None) -> str:
    """A text of a token's form, under the key that signs, with a signature that nobody made."""
    header, own, _ = running.tokens[name].split(".")
    made_up = base64.urlsafe_b64encode(os.urandom(64)).rstrip(b"=").decode()
    return f"{header}.{payload or own}.{made_up}"


def unknown(running: Running) -> str:
    """The same, with an id that no token has."""
    _, own, _ = running.tokens["network"].split(".")
    claims = base64.urlsafe_b64decode(own + "=" * (-len(own) % 4))
    at = claims.index(b'"jti":"') + len(b'"jti":"')
    claims = claims[:at] + base64.urlsafe_b64encode(os.urandom(15)) + b"AA" + claims[at + 22 :]
    return guess(running, payload=base64.urlsafe_b64encode(claims).rstrip(b"=").decode())


@pytest.fixture
async def guessed(start, upstream) -> Running:
    """A gateway that has heard too many wrong guesses from this network."""
    running = await start(upstream.port, limits=FEW)
    heard = [(await running.get(NI, unknown(running))).problem for _ in range(2)]
    assert heard == ["invalid-token", "rate-limited"]
    return running


async def test_who_guesses_too_often_is_told_to_wait(guessed):
    answer = await guessed.get(NI, unknown(guessed))
    assert (answer.status, answer.problem) == (429, "rate-limited")
    assert int(answer.headers["Retry-After"]) > 0
    assert "Token-Expires" not in answer.headers


async def test_a_token_that_was_never_seen_before_works_amid_others_guesses(guessed):
    await add_person(guessed, "late", NETWORK, scopes=("network:read",))
    guesses = [asyncio.ensure_future(guessed.get(NI, unknown(guessed))) for _ in range(MANY)]
    await asyncio.sleep(0.05)  # the queue of those who wait is full
    answers = await asyncio.gather(*(guessed.get(NI, "late") for _ in range(5)))
    assert {answer.status for answer in answers} == {200}
    assert not all(done.done() for done in guesses)  # it did not wait for them either
    assert {answer.status for answer in await asyncio.gather(*guesses)} == {429}


async def test_a_token_that_is_known_works_amid_others_guesses(start, upstream):
    running = await start(upstream.port, limits=FEW)
    assert (await running.get(NI, "network")).status == 200
    await asyncio.gather(*(running.get(NI, unknown(running)) for _ in range(MANY)))
    assert (await running.get(NI, "network")).status == 200


async def test_a_known_id_under_wrong_signatures_is_slowed_like_any_guess(guessed):
    await add_person(guessed, "late", NETWORK, scopes=("network:read",))
    for _ in range(2):
        assert (await guessed.get(NI, guess(guessed, "late"))).status == 429
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(guessed.get(NI, guess(guessed, "late")) for _ in range(10)))
    assert asyncio.get_running_loop().time() - began > 0.15  # one after the other, 20 ms each


async def test_guesses_count_against_the_network_that_a_trusted_proxy_names(start, upstream):
    running = await start(upstream.port, limits=FEW, listen=Listen(trusted_proxies=("127.0.0.1/32",)))

    async def status(host: str) -> int:
        return (await running.get(NI, unknown(running), headers={"X-Forwarded-For": host})).status

    assert [await status(f"203.0.113.{n}") for n in range(2)] == [401, 429]
    assert await status("198.51.100.1") == 401
