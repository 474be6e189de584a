"""A body that asks for a token: every refusal names its member, and nothing exceeds the maker."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest

from gateway.admin.request import OTHERS_NAMES, read, refuse_on_behalf
from gateway.config import Tokens
from gateway.model import SCOPES, Account, Owner, Principal
from gateway.problem import Problem
from gateway.tokens import PREFIX

NOW = 1_800_000_000
DAY = 86_400
MAKER = Principal(
    "tok_1",
    Owner("usr_1", Account("network", "33", "33"), "super", False),
    frozenset({"transactions:read", "network:read", "tokens:manage"}),
    NOW + 200 * DAY,
)
BOOTSTRAP = replace(MAKER, scopes=frozenset({"tokens:manage"}), expires_at=NOW + 3600, bootstrap=True)


def ask(maker=MAKER, **document):
    return read({"description": "a dashboard"} | document, maker, Tokens(), NOW)


def refused(maker=MAKER, **document):
    with pytest.raises(Problem) as caught:
        ask(maker, **document)
    return caught.value.kind, caught.value.members.get("member")


def test_omitted_members_get_the_closed_defaults():
    made = ask()
    assert (made.description, made.scopes, made.expires_at) == (
        "a dashboard",
        ("transactions:read",),
        NOW + 90 * DAY,
    )
    assert (made.networks, made.accounts, made.outlives_maker) == (None, None, False)


@pytest.mark.parametrize(
    ("document", "member"),
    [
        ({"description": None}, "description"),
        ({"description": 5}, "description"),
        ({"description": ""}, "description"),
        ({"description": "ab"}, "description"),
        ({"description": " ab \t"}, "description"),
        ({"description": "x" * 121}, "description"),
        ({"description": "a\nb c"}, "description"),
        ({"description": "a\x00bc"}, "description"),
        ({"description": "abc\u202edef"}, "description"),
        ({"description": f"my {PREFIX}abc"}, "description"),
        ({"scopes": None}, "scopes"),
        ({"scopes": "transactions:read"}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": [1]}, "scopes"),
        ({"scopes": ["transactions:write"]}, "scopes"),
        ({"scopes": ["transactions:read "]}, "scopes"),
        ({"scopes": ["TRANSACTIONS:READ"]}, "scopes"),
        ({"scopes": ["transactions:read", "transactions:read"]}, "scopes"),
        ({"scopes": ["network:read"] * 101}, "scopes"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -1}, "expires_in"),
        ({"expires_in": 1.5}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"expires_in": "60"}, "expires_in"),
        ({"expires_in": 10**11}, "expires_in"),
        ({"expires_in": 365 * DAY + 1}, "expires_in"),
        ({"expires_in": 60, "expires_at": "2027-02-22T05:58:28Z"}, "expires_in"),
        ({"expires_at": "2027-01-15T08:00:00Z"}, "expires_at"),
        ({"expires_at": "1990-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2029-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2027-02-22"}, "expires_at"),
        ({"expires_at": "2027-02-22T05:58:28"}, "expires_at"),
        ({"expires_at": "2027-02-22 05:58:28Z"}, "expires_at"),
        ({"expires_at": "2027-02-30T05:58:28Z"}, "expires_at"),
        ({"expires_at": "20270222T055828Z"}, "expires_at"),
        ({"expires_at": "2027-W08-1T05:58:28Z"}, "expires_at"),
        ({"expires_at": "2027-02-22T05Z"}, "expires_at"),
        ({"expires_at": "2027-02-22T05:58:28+0000"}, "expires_at"),
        ({"expires_at": "２027-02-22T05:58:28Z"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+23:59"}, "expires_at"),
        ({"expires_at": 1_800_000_060}, "expires_at"),
        ({"expires_at": ""}, "expires_at"),
        ({"allowed_networks": "10.0.0.0/8"}, "allowed_networks"),
        ({"allowed_networks": []}, "allowed_networks"),
        ({"allowed_networks": ["10.0.0.1/8"]}, "allowed_networks"),
        ({"allowed_networks": ["example.com"]}, "allowed_networks"),
        ({"allowed_networks": [10]}, "allowed_networks"),
        ({"allowed_networks": ["10.0.0.0/8", "10.0.0.0/8"]}, "allowed_networks"),
        ({"accounts": "advertiser:706"}, "accounts"),
        ({"accounts": []}, "accounts"),
        ({"accounts": ["706"]}, "accounts"),
        ({"accounts": ["advertiser:"]}, "accounts"),
        ({"accounts": ["publisher:706"]}, "accounts"),
        ({"accounts": ["advertiser:706", "advertiser:706"]}, "accounts"),
        ({"personal_records_per_day": 0}, "personal_records_per_day"),
        ({"personal_records_per_day": -5}, "personal_records_per_day"),
        ({"personal_records_per_day": 1.5}, "personal_records_per_day"),
        ({"personal_records_per_day": True}, "personal_records_per_day"),
        ({"personal_records_per_day": "9"}, "personal_records_per_day"),
        ({"personal_records_per_day": 10**9 + 1}, "personal_records_per_day"),
        ({"outlives_maker": 1}, "outlives_maker"),
        ({"outlives_maker": None}, "outlives_maker"),
        ({"scope": ["network:read"]}, "scope"),
        ({"Description": "x"}, "Description"),
        ({"bootstrap": True}, "bootstrap"),
        ({"networks": []}, "networks"),
    ],
)
def test_every_refusal_names_its_member(document, member):
    assert refused(**document) == ("invalid-input", member)


def test_a_description_is_required():
    with pytest.raises(Problem) as caught:
        read({}, MAKER, Tokens(), NOW)
    assert (caught.value.kind, caught.value.members["member"]) == ("invalid-input", "description")


@pytest.mark.parametrize(
    ("given", "kept"), [("  a report\t", "a report"), ("re\u0301sume\u0301", "résumé"), ("abc", "abc")]
)
def test_a_description_is_kept_trimmed_and_composed(given, kept):
    assert ask(description=given).description == kept
    assert len(ask(description="x" * 120).description) == 120


@pytest.mark.parametrize("name", OTHERS_NAMES)
@pytest.mark.parametrize("others", [{}, {"description": 5}, {"scopes": "x", "zzz": 1}, {"expires_in": -1}])
@pytest.mark.parametrize("value", ["usr_1", None, "", {}])
def test_naming_an_owner_is_refused_before_anything_else_is_looked_at(name, others, value):
    document = others | {name: value}
    with pytest.raises(Problem) as caught:
        read(document, MAKER, Tokens(), NOW)
    assert caught.value.kind == "on-behalf-of"
    with pytest.raises(Problem, match="on-behalf-of"):
        refuse_on_behalf(document)


def test_the_contract_names_six_spellings_of_an_owner():
    assert set(OTHERS_NAMES) == {"owner", "user", "user_id", "email", "on_behalf_of", "account"}


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope not in MAKER.scopes])
def test_no_scope_beyond_the_makers(scope):
    assert refused(scopes=[scope]) == ("beyond-maker", "scopes")


def test_a_token_made_by_a_token_never_manages_tokens():
    assert refused(scopes=["tokens:manage"]) == ("beyond-maker", "scopes")


def test_the_default_scope_is_no_exception():
    assert refused(replace(MAKER, scopes=frozenset({"tokens:manage"}))) == ("beyond-maker", "scopes")


def test_scopes_come_out_in_the_order_they_are_shown():
    assert ask(scopes=["network:read", "transactions:read"]).scopes == ("transactions:read", "network:read")


def moment(seconds):
    return (datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)).isoformat()


def test_no_expiry_beyond_the_makers():
    assert ask(expires_in=200 * DAY).expires_at == MAKER.expires_at
    assert refused(expires_in=200 * DAY + 1) == ("beyond-maker", "expires_in")
    assert refused(expires_at=moment(200 * DAY + 1)) == ("beyond-maker", "expires_at")


def test_the_default_expiry_is_cut_down_to_the_makers():
    assert ask(replace(MAKER, expires_at=NOW + 60)).expires_at == NOW + 60


@pytest.mark.parametrize(
    "text",
    [
        "2027-02-22T05:58:28Z",
        "2027-02-22t05:58:28z",
        "2027-02-22T06:58:28+01:00",
        "2027-02-22T05:58:28.123456789Z",
    ],
)
def test_a_moment_of_rfc_3339_is_read_in_its_offset(text):
    assert ask(expires_at=text).expires_at == int(datetime(2027, 2, 22, 5, 58, 28, tzinfo=UTC).timestamp())


LIMITED = replace(MAKER, networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")))


def test_networks_lie_within_the_makers():
    assert ask(LIMITED).networks == ("10.0.0.0/8", "2001:db8::/32")
    assert ask(LIMITED, allowed_networks=["10.1.0.0/16", "10.2.3.4"]).networks == (
        "10.1.0.0/16",
        "10.2.3.4/32",
    )
    for wider in ("0.0.0.0/0", "11.0.0.0/8", "::/0", "2001:db9::/32", "10.0.0.0/7"):
        assert refused(LIMITED, allowed_networks=["10.1.0.0/16", wider]) == (
            "beyond-maker",
            "allowed_networks",
        )


def test_accounts_lie_within_the_makers():
    maker = replace(MAKER, accounts=frozenset({"advertiser:706", "advertiser:707"}))
    assert ask(maker).accounts == ("advertiser:706", "advertiser:707")
    assert ask(maker, accounts=["advertiser:707"]).accounts == ("advertiser:707",)
    assert refused(maker, accounts=["advertiser:707", "network:33"]) == ("beyond-maker", "accounts")


def test_personal_records_are_no_more_than_the_makers():
    maker = replace(MAKER, personal_records_per_day=100)
    assert ask(maker).personal_records_per_day == 100
    assert ask(maker, personal_records_per_day=7).personal_records_per_day == 7
    assert refused(maker, personal_records_per_day=101) == ("beyond-maker", "personal_records_per_day")
    assert ask().personal_records_per_day is None
    assert ask(personal_records_per_day=10**9).personal_records_per_day == 10**9


def test_a_bootstrap_token_stands_for_its_owner_and_bounds_nothing():
    made = ask(BOOTSTRAP, scopes=["network:destroy", "tokens:manage"], expires_in=365 * DAY)
    assert (made.scopes, made.expires_at) == (("network:destroy", "tokens:manage"), NOW + 365 * DAY)
    assert made.outlives_maker
    assert ask(BOOTSTRAP).expires_at == NOW + 90 * DAY
    assert refused(BOOTSTRAP, expires_in=366 * DAY) == ("invalid-input", "expires_in")


def test_outliving_the_maker_has_to_be_asked_for():
    assert ask(outlives_maker=True).outlives_maker
    assert not ask(outlives_maker=False).outlives_maker


def test_a_refusal_does_not_repeat_what_could_be_a_secret():
    for document in ({"zzz": 1, "s3cret" * 20: 1}, {"scopes": ["s3cret"]}, {"expires_at": "s3cret"}):
        with pytest.raises(Problem) as caught:
            ask(**document)
        assert "s3crets3cret" not in caught.value.detail
        assert "s3cret" not in caught.value.detail or document.get("scopes") is None
