"""Passwords: what is weak, equal work, and how much of it at once."""

from __future__ import annotations

import asyncio
import time

import pytest
from argon2 import PasswordHasher, extract_parameters

from gateway.passwords import AT_ONCE, WAITING, Passwords, refuse_weak
from gateway.problem import Problem
from tests.conftest import CHEAP


@pytest.fixture
def passwords():
    made = Passwords(CHEAP)
    yield made
    made.close()


async def test_a_password_is_proven_by_itself_alone(passwords):
    kept = await passwords.hash("a long passphrase")
    assert kept.startswith("$argon2id$")
    assert await passwords.hash("a long passphrase") != kept
    assert await passwords.proves("a long passphrase", kept)
    for wrong in ("A long passphrase", "a long passphrase ", "", kept):
        assert not await passwords.proves(wrong, kept)


async def test_nothing_proves_what_has_no_password_and_its_hash_has_todays_cost():
    passwords = Passwords()
    assert not await passwords.proves("", None)
    assert not await passwords.proves(passwords._nobodys, None)
    found, today = extract_parameters(passwords._nobodys), extract_parameters(PasswordHasher().hash("x"))
    assert found == today
    passwords.close()


async def test_what_was_kept_and_is_no_hash_is_a_fault_of_the_store_and_no_refusal(passwords):
    for kept in ("$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$x$y", "x"):
        with pytest.raises(Problem, match="store-unavailable"):
            await passwords.proves("x", kept)


async def test_the_loop_goes_on_while_passwords_are_hashed():
    passwords = Passwords()
    hashing = asyncio.create_task(passwords.hash("a long passphrase"))
    slowest = 0.0
    while not hashing.done():
        began = time.perf_counter()
        await asyncio.sleep(0)
        slowest = max(slowest, time.perf_counter() - began)
    alone = time.perf_counter()
    PasswordHasher().hash("a long passphrase")
    assert slowest < max(0.1, time.perf_counter() - alone)
    passwords.close()


async def test_so_many_at_once_and_no_more_and_all_is_free_again_afterwards(passwords):
    tasks = [asyncio.create_task(passwords.hash(str(n))) for n in range(AT_ONCE + WAITING + 5)]
    done = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [each for each in done if isinstance(each, Problem)]
    assert len(refused) == 5
    assert {problem.kind for problem in refused} == {"overloaded"}
    assert await passwords.hash("again")


async def test_who_leaves_gives_their_place_back(passwords):
    for _ in range(3):
        tasks = [asyncio.create_task(passwords.hash(str(n))) for n in range(AT_ONCE + WAITING)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)
    assert await passwords.hash("again")


@pytest.mark.parametrize(
    "weak",
    ["", "eleven char", "x" * 257, "aaaaaaaaaaaaa", "abcdabcdabcdabcd", "PASSWORD1234", "ada.lovelace",
     "Ada.Lovelace@example.com"],
)  # fmt: skip
def test_a_weak_password_is_refused_without_being_repeated(weak):
    with pytest.raises(Problem) as caught:
        refuse_weak(weak, "ada.lovelace@example.com")
    assert caught.value.kind == "invalid-input"
    assert not weak or weak not in caught.value.detail


@pytest.mark.parametrize("good", ["twelve chars", "correct horse", "пароль-пароль", "x" * 250 + "abcde"])
def test_length_is_all_a_password_needs(good):
    refuse_weak(good, "ada.lovelace@example.com")
