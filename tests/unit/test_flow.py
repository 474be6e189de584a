"""What the flow decides without a socket: whose credential goes upstream, and what of a refusal travels on."""

from __future__ import annotations

import pytest

from gateway.credentials import Credentials
from gateway.flow import flows, passed_on
from gateway.model import Account
from gateway.problem import Problem

NETWORK = Account("network", "33", "33")
ADVERTISER = Account("advertiser", "706", "33")
FOREIGN = Account("advertiser", "1", "44")


def test_an_account_has_its_own_credential():
    made = Credentials({"network:33": "n", "advertiser:706": "a"}, lend_network=True)
    assert (made.of(NETWORK), made.of(ADVERTISER)) == ("n", "a")


def test_a_networks_credential_is_lent_only_where_that_is_written():
    lent = Credentials({"network:33": "n"}, lend_network=True)
    assert lent.of(ADVERTISER) == "n"
    with pytest.raises(Problem, match="no-upstream-credential"):
        Credentials({"network:33": "n"}, lend_network=False).of(ADVERTISER)
    with pytest.raises(Problem, match="no-upstream-credential"):
        lent.of(FOREIGN)


def test_printing_credentials_prints_none():
    assert "hush" not in repr(Credentials({"network:33": "hush"}, lend_network=False))


@pytest.mark.parametrize(
    ("status", "does"), [(200, True), (201, True), (204, True), (206, False), (404, False)]
)
def test_only_whole_successes_flow(status, does):
    assert flows(status, ()) is does


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "upstream-refused-us"),
        (302, "upstream-redirect"),
        (206, "upstream-failed"),
        (500, "upstream-failed"),
        (418, "upstream-failed"),
    ],
)
def test_what_is_not_the_apps_business_becomes_a_problem_of_ours(status, kind):
    with pytest.raises(Problem, match=kind):
        passed_on(status, b'{"errors": {"class": "X", "invalid_data": "y"}}')


def test_a_documented_refusal_travels_as_it_is():
    text = b'{"errors": {"name": ["has already been taken"]}, "status": "Applied"}'
    assert passed_on(403, text) == text
    singular = b'{"error": {"ivr_tree": {"children": []}}}'
    assert passed_on(403, singular) == singular


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b'{"errors": []}', b"{" * 100_000, b'{"message": "x"}']
)
def test_an_undocumented_refusal_keeps_its_status_and_loses_its_words(text):
    with pytest.raises(Problem) as raised:
        passed_on(404, text)
    assert (raised.value.kind, raised.value.status) == ("upstream-refused", 404)


def test_a_failure_of_the_vendors_carries_the_handle_its_support_asks_for():
    with pytest.raises(Problem) as raised:
        passed_on(
            500, b'{"errors": {"class": "InternalServiceError", "invalid_data": "error handle 1228118400"}}'
        )
    assert raised.value.members["handle"] == "1228118400"
