"""A rate: so many a minute for each key, by a clock that is passed in."""

from __future__ import annotations

import pytest

from gateway.problem import Problem
from gateway.ratelimit import RateLimit, client_network


class Monotonic:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Monotonic()


def refused(limit, key="a"):
    with pytest.raises(Problem) as caught:
        limit.spend(key)
    assert caught.value.kind == "rate-limited"
    return dict(caught.value.headers)


@pytest.mark.parametrize("per_minute", [1, 7, 60, 601])
def test_a_minutes_worth_may_come_at_once_and_one_more_may_not(clock, per_minute):
    limit = RateLimit("token", per_minute, clock)
    for _ in range(per_minute):
        limit.spend("a")
    refused(limit)


@pytest.mark.parametrize("per_minute", [1, 7, 60, 601])
def test_whoever_waits_as_told_may_go_on(clock, per_minute):
    limit = RateLimit("token", per_minute, clock)
    for _ in range(per_minute):
        limit.spend("a")
    for _ in range(5):
        clock.now += int(refused(limit)["Retry-After"])
        limit.spend("a")
        while True:
            try:
                limit.spend("a")
            except Problem:
                break


def test_a_steady_client_at_the_rate_is_never_refused_and_a_faster_one_is(clock):
    limit = RateLimit("token", 60, clock)
    for _ in range(600):
        limit.spend("a")
        clock.now += 1.0
    passed = 0
    for _ in range(600):
        clock.now += 0.5
        try:
            limit.spend("b")
            passed += 1
        except Problem:
            pass
    assert 60 + 298 <= passed <= 60 + 301


def test_a_refused_request_costs_nothing(clock):
    limit = RateLimit("token", 2, clock)
    limit.spend("a")
    limit.spend("a")
    for _ in range(100):
        refused(limit)
    clock.now += 30
    limit.spend("a")


def test_keys_do_not_share_a_budget(clock):
    limit = RateLimit("token", 1, clock)
    limit.spend("a")
    limit.spend("b")
    refused(limit, "a")


def test_the_headers_say_the_policy_and_what_is_left(clock):
    limit = RateLimit("token", 2, clock)
    assert dict(limit.spend("a")) == {"RateLimit-Policy": '"token";q=2;w=60', "RateLimit": '"token";r=1;t=30'}
    assert dict(limit.spend("a"))["RateLimit"] == '"token";r=0;t=60'
    found = refused(limit)
    assert found["RateLimit"].startswith('"token";r=0;t=')
    assert 30 <= int(found["Retry-After"]) <= 31


def test_zero_limits_nothing_and_says_nothing(clock):
    limit = RateLimit("token", 0, clock)
    assert [limit.spend("a") for _ in range(1000)] == [()] * 1000


def test_a_clock_that_steps_back_gives_no_second_budget(clock):
    limit = RateLimit("token", 3, clock)
    for _ in range(3):
        limit.spend("a")
    clock.now -= 500
    refused(limit)


def test_the_number_of_keys_is_bounded_and_the_quiet_ones_go_first(clock):
    limit = RateLimit("token", 2, clock, max_keys=100)
    for number in range(99):
        limit.spend(f"quiet {number}")
    clock.now += 31
    limit.spend("busy")
    limit.spend("busy")
    for number in range(80):
        limit.spend(f"new {number}")
    refused(limit, "busy")
    for number in range(1000):
        limit.spend(f"flood {number}")
    assert len(limit._whole_at) <= 100


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("::ffff:203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("2001:db8:1:ffff::", "2001:db8:1::/48"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_a_client_is_counted_under_its_network(address, network):
    assert client_network(address) == network
