"""The slow-down of attempts, and what is derived from a session; no sockets, a clock that is turned."""

from __future__ import annotations

import pytest

from gateway.config import SignIn
from gateway.problem import Problem
from gateway.signin import MAX_KNOWN, Attempts, SignedIn, digest, new_code, new_secret


class Turned:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def attempts(address: int = 2, network: int = 0) -> tuple[Attempts, Turned]:
    clock = Turned()
    return Attempts(SignIn(attempts_per_minute=address, attempts_per_minute_of_network=network), clock), clock


def limited(made: Attempts, email: str, client: str) -> bool:
    try:
        made.begin(email, client)
    except Problem as problem:
        return problem.kind == "rate-limited"
    return False


def test_an_address_is_one_however_it_is_written():
    made, _ = attempts()
    for email in ("ada@example.com", " ADA@example.com"):
        assert not limited(made, email, "203.0.113.1")
    assert limited(made, "Ada@Example.COM ", "198.51.100.1")
    assert not limited(made, "bob@example.com", "203.0.113.1")


def test_attempts_come_back_with_time():
    made, clock = attempts()
    assert [limited(made, "a@b.c", "192.0.2.1") for _ in range(3)] == [False, False, True]
    clock.now += 30
    assert [limited(made, "a@b.c", "192.0.2.1") for _ in range(2)] == [False, True]


def test_one_network_is_one_whatever_its_last_bits():
    made, _ = attempts(0, 2)
    clients = ["203.0.113.1", "203.0.113.200", "203.0.113.3"]
    assert [limited(made, f"{client}@b.c", client) for client in clients] == [False, False, True]
    clients = ["2001:db8:1::1", "2001:db8:1:ffff::1", "2001:db8:1:2::3", "2001:db8:2::1"]
    assert [limited(made, f"{n}@b.c", client) for n, client in enumerate(clients)] == [
        False,
        False,
        True,
        False,
    ]


def test_from_where_somebody_signed_in_before_others_failures_do_not_count():
    made, _ = attempts()
    made.succeeded(made.begin("a@b.c", "192.0.2.1"))
    for number in range(3):
        limited(made, "a@b.c", f"203.0.{number}.1")
    assert limited(made, "a@b.c", "198.51.100.1")
    assert [limited(made, "a@b.c", "192.0.2.1") for _ in range(3)] == [False, False, True]


def test_what_is_remembered_is_bounded():
    made, _ = attempts(0)
    for number in range(MAX_KNOWN + 10):
        made.succeeded(made.begin(f"{number}@b.c", "192.0.2.1"))
    assert len(made._known) == MAX_KNOWN


def test_nothing_typed_as_an_address_is_kept():
    made, _ = attempts()
    made.succeeded(made.begin("a password typed into the wrong field", "192.0.2.1"))
    assert "wrong field" not in repr([vars(made), vars(made._of_address), made._known])


def test_a_csrf_token_is_its_sessions_and_tells_nothing_of_it(a_signed_in):
    one, same, other = a_signed_in("x" * 43), a_signed_in("x" * 43), a_signed_in("y" * 43)
    assert one.csrf_token == same.csrf_token != other.csrf_token
    assert len(one.csrf_token) == 43
    assert one.text not in repr(one)
    assert one.csrf_token.encode() != digest(one.text)


@pytest.fixture
def a_signed_in():
    from gateway.model import Account
    from gateway.store import SessionRow, UserRow

    def make(text: str) -> SignedIn:
        user = UserRow("usr_x", "a@b.c", Account("network", "33", "33"), "super", True, True, 1)
        return SignedIn(SessionRow("ses_x", "usr_x", 1, 1, 2), user, text)

    return make


def test_secrets_are_new_each_time_and_codes_end_after_a_day():
    assert len({new_secret() for _ in range(100)}) == 100
    text, code = new_code("reset", 1_000.9)
    assert (code.digest, code.ends_at) == (digest(text), 1_000 + 24 * 3600)
    assert text not in repr(code)
    assert repr(code.digest) not in repr(code)
