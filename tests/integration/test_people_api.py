"""The users of a network over real sockets: who may do what to whom, and what tokens feel of it at once."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config import SignIn
from gateway.flow import Credentials
from gateway.model import Account
from tests.conftest import UPSTREAM_TOKEN, add_person
from tests.people import GOOD, PASSWORD, SESSION, TOKENS, USERS, email, sign_in, try_password, with_password

FREE = SignIn(attempts_per_minute=0, attempts_per_minute_of_network=0)
MANAGE = ("transactions:read", "tokens:manage")
NEW = "a brand new passphrase"
NI = "/api/2022-08-01/33/advertisers.json"
TX = "/api/2020-10-01/advertisers/transactions/706.json"
SHOWN = {"id", "email", "account", "network", "role", "administrator", "state", "created_at"}


def assert_problem(answer, status, kind):
    assert (answer.status, answer.problem) == (status, kind), answer.body
    assert answer.headers["Gateway-Answer"] == kind


@pytest.fixture
async def gateway(start, upstream):
    """The demo's four; administrators of what is not this network; and a credential of an advertiser's own."""
    given = Credentials(
        {"network:33": UPSTREAM_TOKEN, "advertiser:999": "a-credential-of-its-own"}, lend_network=True
    )
    running = await start(upstream.port, sign_in=FREE, credentials=given)
    await add_person(running, "stranger", Account("network", "34", "34"), administrator=True, scopes=MANAGE)
    await add_person(
        running, "namesake", Account("advertiser", "33", "33"), administrator=True, scopes=MANAGE
    )
    await add_person(running, "plain", Account("network", "33", "33"), scopes=MANAGE)
    for name in ("network_admin", "stranger", "namesake", "plain"):
        await with_password(running, name)
    return running


@pytest.fixture
async def head(gateway):
    return await sign_in(gateway)


def at(gateway, name, more=""):
    return f"{USERS}/{gateway.owners[name]}{more}"


# --- add, and the code


async def test_a_user_is_added_with_a_code_that_is_shown_this_once(gateway, head):
    answer = await head.post(USERS, email=" New@Example.COM ", account="advertiser:706", role="manager")
    assert answer.status == 201, answer.body
    made = answer.json
    assert made.keys() == SHOWN | {"code", "code_expires_at"}
    assert (made["email"], made["account"], made["network"]) == ("new@example.com", "advertiser:706", "33")
    assert (made["role"], made["administrator"], made["state"]) == ("manager", False, "active")
    assert answer.headers["Location"] == f"{USERS}/{made['id']}"
    shown = (await head.get(f"{USERS}/{made['id']}")).json
    assert shown == {name: made[name] for name in SHOWN}
    record = gateway.records()[-2]
    assert (record["act"], record["subject"], record["owner"]) == ("user.add", made["id"], head.user_id)


async def test_a_code_sets_a_password_once_and_signs_nobody_in(gateway, head):
    made = (await head.post(USERS, email="new@example.com", account="network:33")).json
    assert_problem(await try_password(gateway, "new@example.com", NEW), 401, "sign-in-failed")
    answer = await gateway.request("POST", PASSWORD, json={"code": made["code"], "password": NEW})
    assert (answer.status, answer.body) == (204, b"")
    assert "Set-Cookie" not in answer.headers
    assert (await try_password(gateway, "new@example.com", NEW)).status == 201
    answer = await gateway.request("POST", PASSWORD, json={"code": made["code"], "password": NEW + "2"})
    assert_problem(answer, 403, "invalid-code")
    first = next(record for record in gateway.records() if record["act"] == "password.set")
    assert (first["subject"], first["status"]) == (made["id"], 204)


async def test_of_many_who_use_a_code_at_once_one_sets_the_password(gateway, head):
    made = (await head.post(USERS, email="new@example.com", account="network:33")).json
    answers = await asyncio.gather(
        *(
            gateway.request("POST", PASSWORD, json={"code": made["code"], "password": f"{NEW} {number}"})
            for number in range(8)
        )
    )
    assert sorted(answer.status for answer in answers) == [204] + [403] * 7


async def test_a_code_ends_after_a_day(gateway, head, clock):
    one = (await head.post(USERS, email="one@example.com", account="network:33")).json
    two = (await head.post(USERS, email="two@example.com", account="network:33")).json
    clock.advance(24 * 3600 - 1)
    answer = await gateway.request("POST", PASSWORD, json={"code": one["code"], "password": NEW})
    assert answer.status == 204
    clock.advance(1)
    answer = await gateway.request("POST", PASSWORD, json={"code": two["code"], "password": NEW})
    assert_problem(answer, 403, "invalid-code")


async def test_a_weak_password_does_not_use_up_the_code(gateway, head):
    made = (await head.post(USERS, email="new@example.com", account="network:33")).json
    for weak in ("short", "new@example.com", "aaaaaaaaaaaa"):
        answer = await gateway.request("POST", PASSWORD, json={"code": made["code"], "password": weak})
        assert_problem(answer, 422, "invalid-input")
    answer = await gateway.request("POST", PASSWORD, json={"code": made["code"], "password": NEW})
    assert answer.status == 204


@pytest.mark.parametrize("code", ["x", "x" * 43, "x" * 128, "é", "\x00"])
async def test_a_code_that_is_none_opens_nothing(gateway, code):
    answer = await gateway.request("POST", PASSWORD, json={"code": code, "password": NEW})
    assert_problem(answer, 403, "invalid-code")


async def test_a_reset_leaves_all_as_it_was_until_its_code_is_used(gateway, head):
    await with_password(gateway, "network")
    somebody = await sign_in(gateway, "network")
    first = (await head.post(at(gateway, "network", "/reset"))).json
    second = (await head.post(at(gateway, "network", "/reset"))).json
    assert (await somebody.get(SESSION)).status == 200
    await sign_in(gateway, "network")
    answer = await gateway.request("POST", PASSWORD, json={"code": first["code"], "password": NEW})
    assert_problem(answer, 403, "invalid-code")
    answer = await gateway.request("POST", PASSWORD, json={"code": second["code"], "password": NEW})
    assert answer.status == 204
    assert_problem(await somebody.get(SESSION), 401, "invalid-session")
    assert_problem(await try_password(gateway, email("network"), GOOD), 401, "sign-in-failed")
    await sign_in(gateway, "network", NEW)
    assert (await gateway.get("/gateway/token", "network")).status == 200  # their tokens are another matter


async def test_a_password_change_ends_a_code_that_waits(gateway, head):
    made = (await head.post(f"{USERS}/{head.user_id}/reset")).json
    assert (await head.post(PASSWORD, old_password=GOOD, password=NEW)).status == 200
    answer = await gateway.request("POST", PASSWORD, json={"code": made["code"], "password": NEW + "2"})
    assert_problem(answer, 403, "invalid-code")


async def test_a_disabled_user_gets_no_code_and_keeps_none(gateway, head):
    made = (await head.post(at(gateway, "network", "/reset"))).json
    await head.post(at(gateway, "network", "/disable"))
    assert_problem(await head.post(at(gateway, "network", "/reset")), 422, "invalid-input")
    await head.post(at(gateway, "network", "/enable"))
    answer = await gateway.request("POST", PASSWORD, json={"code": made["code"], "password": NEW})
    assert_problem(answer, 403, "invalid-code")


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"email": "no address"}, "email"),
        ({"email": "a@b@c"}, "email"),
        ({"email": 5}, "email"),
        ({"account": "33"}, "account"),
        ({"account": "planet:33"}, "account"),
        ({"account": "network:34"}, "account"),
        ({"account": "advertiser:34-only"}, "account"),
        ({"account": "advertiser:999"}, "account"),
        ({"role": "owner"}, "role"),
        ({"role": None}, "role"),
        ({"administrator": 1}, "administrator"),
        ({"password": GOOD}, "password"),
        ({"network": "34"}, "network"),
        ({"active": False}, "active"),
    ],
    ids=str,
)
async def test_a_user_asked_for_wrongly_is_not_added(gateway, head, body, member):
    await gateway.gateway.store.add_account(Account("advertiser", "34-only", "34"))
    before = (await head.get(USERS)).json
    answer = await head.post(USERS, **({"email": "new@example.com", "account": "network:33"} | body))
    assert_problem(answer, 422, "invalid-input")
    assert answer.json.get("member", "email") == member
    assert (await head.get(USERS)).json == before


async def test_an_account_that_is_new_becomes_part_of_the_network(gateway, head):
    answer = await head.post(USERS, email="new@example.com", account="affiliate:4711")
    assert answer.status == 201
    kept = await gateway.gateway.store.account("affiliate", "4711")
    assert kept == Account("affiliate", "4711", "33")


async def test_an_account_whose_credential_the_store_keeps_is_the_operators_to_add(gateway, head):
    await gateway.gateway.store.set_credential("affiliate:4711", bytes(64), at=1)
    answer = await head.post(USERS, email="new@example.com", account="affiliate:4711")
    assert_problem(answer, 422, "invalid-input")


async def test_an_address_is_somebodys_once(gateway, head):
    for taken in (email("network"), email("stranger"), email("network").upper()):
        answer = await head.post(USERS, email=taken, account="network:33")
        assert_problem(answer, 422, "invalid-input")


# --- whom an administrator sees


async def test_a_list_is_of_ones_own_network_newest_first_and_in_pages(gateway, head):
    everybody = (await head.get(USERS)).json["users"]
    assert [user["email"] for user in everybody] == [
        email(name) for name in ("plain", "namesake", "affiliate", "advertiser", "network", "network_admin")
    ]
    assert all(user.keys() == SHOWN for user in everybody)
    first = (await head.get(USERS + "?limit=4")).json
    second = (await head.get(f"{USERS}?limit=4&after={first['next']}")).json
    assert first["users"] + second["users"] == everybody
    assert second["next"] is None
    answer = await head.get(f"{USERS}?after={gateway.owners['stranger']}")
    assert_problem(answer, 422, "invalid-input")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "after=", "state=active", "network=34"])
async def test_a_list_asked_for_wrongly(gateway, head, query):
    assert_problem(await head.get(f"{USERS}?{query}"), 422, "invalid-input")


ACTS = [
    ("GET", "", None),
    ("POST", "", {"role": "observer"}),
    ("POST", "/disable", {}),
    ("POST", "/enable", {}),
    ("POST", "/reset", {}),
    ("DELETE", "/sessions", {}),
]


@pytest.mark.parametrize(("method", "more", "body"), ACTS, ids=lambda value: str(value))
async def test_unknown_and_foreign_users_are_one_answer(gateway, head, method, more, body):
    sent = {} if body is None else {"json": body}
    answers = [
        await head.ask(method, f"{USERS}/{user}{more}", **sent)
        for user in (gateway.owners["stranger"], "usr_" + "x" * 16, "nobody", "%20")
    ]
    for answer in answers:
        assert_problem(answer, 404, "not-found")
    assert all(answer.json | {"instance": ""} == answers[0].json | {"instance": ""} for answer in answers)
    record = gateway.records()[-4]
    assert (record["subject"], record["problem"]) == (gateway.owners["stranger"], "not-found")


@pytest.mark.parametrize("name", ["plain", "namesake", "stranger"])
@pytest.mark.parametrize(("method", "more", "body"), ACTS, ids=lambda value: str(value))
async def test_who_is_no_administrator_of_this_network_manages_nobody_in_it(
    gateway, name, method, more, body
):
    somebody = await sign_in(gateway, name)
    sent = {} if body is None else {"json": body}
    answer = await somebody.ask(method, at(gateway, "network", more), **sent)
    expected = (404, "not-found") if name == "stranger" else (403, "denied")
    assert_problem(answer, *expected)
    assert (await gateway.get("/gateway/token", "network")).status == 200
    record = [record for record in gateway.records() if record.get("act", "").startswith("user.")][-1]
    assert (record["subject"], record["problem"]) == (gateway.owners["network"], expected[1])


async def test_everybody_ends_their_own_sessions(gateway):
    first, second = await sign_in(gateway, "plain"), await sign_in(gateway, "plain")
    assert (await first.ask("DELETE", at(gateway, "plain", "/sessions"))).status == 204
    for session in (first, second):
        assert_problem(await session.get(SESSION), 401, "invalid-session")


async def test_an_administrator_ends_every_session_of_a_user(gateway, head):
    sessions = [await sign_in(gateway, "plain") for _ in range(3)]
    answer = await gateway.request("DELETE", at(gateway, "plain", "/sessions"), "network_admin")
    assert answer.status == 204
    for session in sessions:
        assert_problem(await session.get(SESSION), 401, "invalid-session")
    assert (await head.get(SESSION)).status == 200


# --- what a token does not do


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", USERS, None, 200),
        ("GET", "{user}", None, 200),
        ("POST", "{user}/disable", {}, 200),
        ("DELETE", "{user}/sessions", {}, 204),
        ("POST", USERS, {"email": "new@example.com", "account": "network:33"}, 403),
        ("POST", "{user}", {"administrator": True}, 403),
        ("POST", "{user}/enable", {}, 403),
        ("POST", "{user}/reset", {}, 403),
    ],
)
async def test_a_token_stops_people_and_lets_nobody_in(gateway, method, path, body, status):
    sent = {} if body is None else {"json": body}
    path = path.replace("{user}", at(gateway, "network"))
    answer = await gateway.request(method, path, "network_admin", **sent)
    assert answer.status == status, answer.body
    if status == 403:
        assert_problem(answer, 403, "sign-in-required")
    assert_problem(await gateway.request(method, path, "affiliate", **sent), 403, "insufficient-scope")
    assert_problem(await gateway.request(method, path, **sent), 401, "no-credential")


async def test_the_operators_first_token_stands_for_a_sign_in(gateway):
    user, _, token = await gateway.gateway.issuer.first(
        "first@example.com", Account("network", "33", "33"), "super", True
    )
    answer = await gateway.request("POST", f"{USERS}/{user.id}/reset", token)
    assert answer.status == 201
    answer = await gateway.request("POST", PASSWORD, json={"code": answer.json["code"], "password": NEW})
    assert answer.status == 204
    assert (await try_password(gateway, "first@example.com", NEW)).status == 201


async def test_nobody_acts_in_a_users_name(gateway, head):
    """An administrator manages users, and makes no token for one: neither by body nor by address."""
    for path in (
        at(gateway, "network", "/tokens"),
        f"/admin/api/accounts/{gateway.owners['network']}/tokens",
    ):
        assert_problem(await head.post(path, description="for another"), 403, "on-behalf-of")
    answer = await head.post(TOKENS, description="for another", owner=gateway.owners["network"])
    assert_problem(answer, 403, "on-behalf-of")
    other = (await gateway.get("/gateway/token", "network")).json["id"]
    assert_problem(await head.post(f"{TOKENS}/{other}/rotate"), 403, "on-behalf-of")


# --- what tokens feel


async def test_every_token_of_a_disabled_user_is_refused_from_the_answer_on(gateway, head):
    assert (await gateway.get(NI, "network")).status == 200  # remembered from here on
    answer = await head.post(at(gateway, "network", "/disable"))
    assert answer.json["state"] == "disabled"
    assert_problem(await gateway.get(NI, "network"), 401, "invalid-token")
    assert (await head.post(at(gateway, "network", "/disable"))).status == 200
    assert (await head.post(at(gateway, "network", "/enable"))).json["state"] == "active"
    assert (await gateway.get(NI, "network")).status == 200


async def test_a_move_to_another_kind_of_account_is_felt_by_the_next_request(gateway, head, upstream):
    assert (await gateway.get(NI, "network")).status == 200
    answer = await head.post(at(gateway, "network"), account="advertiser:706")
    assert (answer.status, answer.json["account"]) == (200, "advertiser:706")
    assert_problem(await gateway.get(NI, "network"), 403, "denied")
    assert (await gateway.get(TX, "network")).status == 200
    assert len(upstream.journal) == 2
    await head.post(at(gateway, "network"), account="network:33")
    assert (await gateway.get(NI, "network")).status == 200


async def test_a_demotion_is_felt_by_the_next_request(gateway, head):
    path = "/api/2022-08-01/33/advertisers/x-1.json"
    assert (await gateway.request("POST", path, "network", json={"name": "x"})).problem != "denied"
    await head.post(at(gateway, "network"), role="observer")
    answer = await gateway.request("POST", path, "network", json={"name": "x"})
    assert_problem(answer, 403, "denied")


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({}, None),
        ({"account": "network:34"}, "account"),
        ({"account": "advertiser:999"}, "account"),
        ({"email": "x@example.com"}, "email"),
        ({"role": "owner"}, "role"),
        ({"administrator": "yes"}, "administrator"),
    ],
)
async def test_a_change_asked_for_wrongly_changes_nothing(gateway, head, body, member):
    before = (await head.get(at(gateway, "network"))).json
    answer = await head.post(at(gateway, "network"), **body)
    assert_problem(answer, 422, "invalid-input")
    assert answer.json.get("member") == member
    assert (await head.get(at(gateway, "network"))).json == before


# --- the last administrator


@pytest.mark.parametrize(
    ("more", "body"), [("/disable", {}), ("", {"administrator": False}), ("", {"account": "advertiser:706"})]
)
async def test_the_last_administrator_of_a_network_stays_one(gateway, head, more, body):
    """An administrator of an advertiser, one who is disabled and one of another network are none of this one."""
    await add_person(gateway, "second", Account("network", "33", "33"), administrator=True)
    await gateway.gateway.store.set_user(gateway.owners["second"], active=False)
    path = f"{USERS}/{head.user_id}{more}"
    answer = await head.post(path, **body)
    assert_problem(answer, 409, "last-administrator")
    assert (await head.get(USERS)).status == 200
    await gateway.gateway.store.set_user(gateway.owners["second"], active=True)
    assert (await head.post(path, **body)).status == 200
    assert (await head.get(USERS)).status in (401, 403)


async def test_two_administrators_who_end_each_other_at_once_leave_one(gateway, head):
    await add_person(gateway, "second", Account("network", "33", "33"), administrator=True, scopes=MANAGE)
    await with_password(gateway, "second")
    second = await sign_in(gateway, "second")
    answers = await asyncio.gather(
        head.post(at(gateway, "second", "/disable")), second.post(f"{USERS}/{head.user_id}/disable")
    )
    assert 200 in [answer.status for answer in answers]
    users = await gateway.gateway.store.list_users(network="33")
    heads = [u for u in users.rows if u.active and u.administrator and u.account.kind == "network"]
    assert len(heads) == 1


async def test_the_last_administrator_may_change_in_all_else(gateway, head):
    answer = await head.post(f"{USERS}/{head.user_id}", role="member", administrator=True)
    assert (answer.status, answer.json["role"]) == (200, "member")
