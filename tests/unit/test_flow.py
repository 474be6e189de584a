"""What the flow decides without a socket: whose credential goes upstream, and what of a refusal travels on."""

from __future__ import annotations

import pytest

from gateway.credentials import Credentials
from gateway.flow import flows
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
