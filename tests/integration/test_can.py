"""`POST /gateway/can`: what a request would get, without a word to the vendor."""

from __future__ import annotations

import json

import pytest

from gateway.config import Policies
from gateway.credentials import Credentials
from gateway.demo import NETWORK
from gateway.exchange import rfc3339
from gateway.load import load_policies
from gateway.problem import Problem
from tests.conftest import UPSTREAM_TOKEN, Clock, add_person
from tests.integration.test_wire import NI, ONE, quick
from tests.unit.test_shadow import LATER
from tests.upstream import OK, answers
from tests.ways import on_both_ways, scene

__all__ = ["quick"]

CAN = "/gateway/can"
OWN = "/api/2020-10-01/advertisers/transactions/706.json"
SHARED = "/api/2020-10-01/networks/transactions/33.json"
OTHER = "/api/2020-10-01/advertisers/transactions/707.json"
LOGIN = "/api/2022-08-01/33/users/pat%40example.com/create_access_token.json"


async def ask(gateway, who, method, path, body=None):
    question = {"method": method, "path": path} | ({} if body is None else {"body": body})
    answer = await gateway.request("POST", CAN, who, json=question)
    assert (answer.status, answer.headers["Gateway-Answer"]) == (200, "ok"), answer.body
    return answer.json


async def test_an_allow_names_its_policies_as_explain_does(gateway, upstream):
    answer = await ask(gateway, "network", "GET", NI)
    (policy,) = answer.pop("policies")
    assert answer == {"decision": "allow", "operation": "advertisers_list", "withheld": []}
    assert policy["id"] == "network-integration-read"
    assert policy.keys() == {"id", "effect", "reason", "source", "file", "line"}
    assert not upstream.journal


async def test_a_denial_names_its_problem_and_its_policies(gateway, upstream):
    answer = await ask(gateway, "advertiser", "GET", NI)
    assert (answer["decision"], answer["problem"]) == ("deny", "denied")
    assert answer["policies"][0]["id"] == "network-integration-for-network-users"
    assert not upstream.journal


async def test_a_scope_that_lacks_is_named(gateway):
    made = await gateway.create(scopes=["transactions:read"])
    answer = await ask(gateway, made["token"], "GET", NI)
    assert (answer["problem"], answer["missing_scope"]) == ("insufficient-scope", "network:read")
    assert answer["policies"][0]["effect"] == "permit"


@pytest.mark.parametrize(
    ("scopes", "path", "withheld"),
    [
        (["transactions:read"], SHARED, ["pii", "financial"]),
        (["transactions:read", "reveal:pii"], SHARED, ["financial"]),
        (["transactions:read", "reveal:pii", "reveal:financial"], SHARED, []),
        (["reveal:pii"], SHARED, []),
        (["network:read"], NI, []),
    ],
)
async def test_the_column_classes_that_an_answer_would_lack_are_named(gateway, scopes, path, withheld):
    await add_person(gateway, "seeing", NETWORK, "manager", False, scopes)
    assert (await ask(gateway, "seeing", "GET", path))["withheld"] == withheld


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("GET", "/api/2022-08-01/33/../33/advertisers.json", None, "bad-target"),
        ("GET", NI + "?oauth_token=x", None, "credential-in-query"),
        ("GET", NI + "?_method=PUT", None, "forbidden-parameter"),
        ("GET", "/" + "a" * 9000, None, "target-too-long"),
        ("GET", NI, [], "bad-body"),
        ("TRACE", NI, None, "method-not-allowed"),
        ("PATCH", NI, None, "method-not-allowed"),
        ("BREW", NI, None, "not-implemented"),
        ("GET", "/api/2022-08-01/33/nothing.json", None, "unknown-operation"),
        ("GET", "/api/2020-01-01/33/advertisers.json", None, "unknown-version"),
        ("GET", "/gateway/token", None, "not-found"),
        ("GET", LOGIN.replace("users", "x"), None, "denied"),
    ],
)
async def test_what_is_refused_before_any_policy_says_so(gateway, method, path, body, kind):
    answer = await ask(gateway, "network", method, path, body)
    assert (answer["decision"], answer["problem"], answer["policies"]) == ("deny", kind, [])


async def test_a_key_that_replaces_a_set_makes_it_destroying(gateway):
    made = await gateway.create(scopes=["network:write"])
    assert (await ask(gateway, made["token"], "PUT", ONE, ["name"]))["decision"] == "allow"
    answer = await ask(gateway, made["token"], "PUT", ONE, ["name", "users"])
    assert (answer["problem"], answer["missing_scope"]) == ("insufficient-scope", "network:destroy")
    answer = await ask(gateway, made["token"], "PUT", ONE + "?users[]=1")
    assert answer["missing_scope"] == "network:destroy"


@pytest.mark.parametrize(
    ("key", "kind"),
    [("oauth-token", "credential-in-body"), ("_method", "forbidden-parameter"), ("x" * 300, "bad-body")],
)
async def test_a_key_that_no_body_may_have_is_refused_as_the_body_would_be(gateway, key, kind):
    answer = await ask(gateway, "network", "PUT", ONE, ["name", key])
    assert (answer["problem"], answer["operation"], answer["policies"]) == (kind, "advertiser_update", [])


async def test_an_account_the_token_is_not_for_is_told_as_the_proxy_tells_it(gateway):
    made = await gateway.create(scopes=["transactions:read"], accounts=["advertiser:706"])
    assert (await ask(gateway, made["token"], "GET", OWN))["decision"] == "allow"
    answer = await ask(gateway, made["token"], "GET", OTHER)
    assert (answer["decision"], answer["problem"], answer["policies"]) == ("deny", "account-not-allowed", [])
    assert (await gateway.get(OTHER, made["token"])).problem == "account-not-allowed"


async def test_accounts_out_of_reach_are_alike_whether_they_exist_or_not(gateway):
    stored = await ask(gateway, "advertiser", "GET", OTHER)
    assert stored == await ask(gateway, "advertiser", "GET", OTHER.replace("707", "9999"))


async def test_an_owner_without_a_credential_is_told(start, upstream):
    running = await start(upstream.port, credentials=Credentials({"network:33": UPSTREAM_TOKEN}, False))
    answer = await ask(running, "advertiser", "GET", OWN)
    assert (answer["decision"], answer["problem"]) == ("deny", "no-upstream-credential")


async def test_many_are_answered_in_their_order(gateway):
    asked = [{"method": "GET", "path": path} for path in (NI, "/nowhere", OWN)] * 33
    answer = await gateway.request("POST", CAN, "network", json={"requests": asked})
    found = [each.get("operation") for each in answer.json["answers"]]
    assert found == ["advertisers_list", None, "advertiser_transactions_list"] * 33


@on_both_ways
async def test_asking_has_a_budget_of_its_own(way, tmp_path):
    question = {"method": "GET", "path": NI}
    async with scene(way, answers(OK), tmp_path, limits={"requests_per_minute": 3}) as at:
        for _ in range(3):
            assert (await ask(at.running, "network", **question))["decision"] == "allow"
        refused = await at.running.request("POST", CAN, "network", json=question)
        assert (refused.status, refused.problem) == (429, "rate-limited")
        found = [(await at.ask()).status for _ in range(3)]
        assert found == [200, 200, 429]  # the first of three was spent on warming
        assert len(at.requests) == 2


@pytest.mark.parametrize(
    "fields", [{}, {"json": {}}, {"json": {"requests": []}}, {"json": {"method": "GET", "path": 1}}]
)
async def test_what_asks_nothing_is_refused(gateway, fields):
    answer = await gateway.request("POST", CAN, "network", **fields)
    assert (answer.status, answer.problem) == (422, "invalid-input")


async def test_the_body_is_strict_json_and_bounded(gateway):
    headers = {"Content-Type": "application/json"}
    twice = b'{"method": "GET", "method": "PUT", "path": "/"}'
    answer = await gateway.request("POST", CAN, "network", data=twice, headers=headers)
    assert answer.problem == "bad-body"
    long = json.dumps({"method": "GET", "path": "/" * 70_000}).encode()
    answer = await gateway.request("POST", CAN, "network", data=long, headers=headers)
    assert answer.problem == "body-too-large"
    answer = await gateway.request("POST", CAN, "network", data=b"a=b")
    assert answer.problem == "unsupported-media-type"


async def test_only_a_valid_token_may_ask_and_only_by_post(gateway):
    question = {"method": "GET", "path": NI}
    assert (await gateway.request("POST", CAN, json=question)).problem == "no-credential"
    assert (await gateway.request("POST", CAN, "garbage", json=question)).problem == "invalid-token"
    answer = await gateway.get(CAN, "network")
    assert (answer.problem, answer.headers["Allow"]) == ("method-not-allowed", "POST")


@pytest.mark.parametrize("hide", [str, lambda t: t.replace(".", "%2E"), lambda t: t.replace("e", "%65")])
async def test_a_token_in_a_path_refuses_it_all_and_is_marked_exposed(gateway, hide):
    made = await gateway.create(scopes=["network:read"])
    asked = [{"method": "GET", "path": NI}, {"method": "GET", "path": f"{NI}?x={hide(made['token'])}"}]
    filler = [{"method": "GET", "path": "/" + "a" * 8000}] * 3
    for requests in (asked, filler + asked):
        answer = await gateway.request("POST", CAN, "network", json={"requests": requests})
        assert answer.problem == "credential-in-body"
    shown = await gateway.get(f"/admin/api/tokens/{made['id']}", "network_admin")
    assert shown.json["state"] == "exposed"


async def test_a_store_that_cannot_answer_is_no_denial(gateway, monkeypatch):
    async def down(*_):
        raise Problem("store-unavailable")

    monkeypatch.setattr(type(gateway.gateway.store), "account", down)
    answer = await gateway.request("POST", CAN, "network", json={"method": "GET", "path": OWN})
    assert (answer.status, answer.problem) == (503, "store-unavailable")


async def test_the_record_says_that_it_was_asked_and_nothing_of_what(gateway):
    await ask(gateway, "network", "GET", OWN)
    record = gateway.records()[-1]
    assert (record["surface"], record["act"], record["outcome"]) == ("gateway", "token.can", "complete")
    assert not {"operation", "decision", "path_account"} & record.keys()


@on_both_ways
async def test_what_hangs_on_the_clock_is_told_as_of_now(way, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.load.load_policies", load_policies)
    clock = Clock()
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "own.cedar").write_text(LATER.replace("SOON", rfc3339(int(clock.now) + 1800)))
    policies = Policies(local=str(tmp_path / "local"))
    async with scene(way, answers(OK), tmp_path, clock=clock, policies=policies) as at:
        for seconds, told, got in ((0, None, 200), (3600, "denied", 403)):
            clock.advance(seconds)
            assert (await ask(at.running, "network", "GET", NI)).get("problem") == told
            assert (await at.ask()).status == got
