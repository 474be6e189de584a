"""Signing in over real sockets: sessions, cookies, CSRF, and nothing said to who may not know."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time

import pytest

from gateway.app import bind
from gateway.config import Admin, Listen, SignIn
from gateway.model import Account
from tests.conftest import add_person
from tests.people import (
    COOKIE,
    GOOD,
    PASSWORD,
    SESSION,
    TOKENS,
    USERS,
    cookie_of,
    email,
    sign_in,
    try_password,
    with_password,
)

FREE = SignIn(attempts_per_minute=0, attempts_per_minute_of_network=0)


@pytest.fixture
async def gateway(start, upstream):
    running = await start(upstream.port, sign_in=FREE)
    await with_password(running, "network_admin")
    return running


@pytest.fixture
async def dear(start, upstream):
    """As `gateway`, with argon2id as it is in earnest."""
    running = await start(upstream.port, sign_in=FREE, hasher=None)
    await with_password(running, "network_admin")
    return running


def assert_problem(answer, status, kind):
    assert (answer.status, answer.problem) == (status, kind), answer.body
    assert answer.headers["Gateway-Answer"] == kind


# --- sessions


async def test_who_signs_in_gets_a_session_in_a_cookie_that_no_script_reads(gateway):
    answer = await try_password(gateway, " Network-Admin@EXAMPLE.com ", GOOD)
    assert (answer.status, answer.headers["Gateway-Answer"]) == (201, "ok")
    assert re.fullmatch(
        COOKIE + r"=[A-Za-z0-9_-]{43}; Path=/admin; HttpOnly; SameSite=Strict", answer.headers["Set-Cookie"]
    )
    assert answer.json["user"]["email"] == "network-admin@example.com"
    assert answer.json["csrf_token"] not in answer.headers["Set-Cookie"]
    assert cookie_of(answer).partition("=")[2].encode() not in answer.body


async def test_over_https_the_cookie_is_promised_to_this_host_alone(start, upstream):
    """The admin sub-app is reached by https; this test by the listener behind that."""
    with bind("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    secure = await start(
        upstream.port, sign_in=FREE, admin=Admin(port=port, origin="https://admin.example.com")
    )
    await with_password(secure, "network_admin")
    assert_problem(await secure.get(SESSION, "network"), 404, "not-found")  # not on the public listener
    secure.port = port
    answer = await try_password(secure, email("network_admin"), GOOD)
    assert re.fullmatch(
        r"__Host-invoca-gateway=[A-Za-z0-9_-]{43}; Path=/; Secure; HttpOnly; SameSite=Strict",
        answer.headers["Set-Cookie"],
    )
    fields = {"Cookie": cookie_of(answer), "Gateway-Csrf": answer.json["csrf_token"]}
    for origin, status in (("https://admin.example.com", 201), (secure.url, 403), ("http://localhost", 403)):
        made = await secure.request(
            "POST", TOKENS, headers=fields | {"Origin": origin}, json={"description": f"from {origin}"}
        )
        assert made.status == status


async def test_who_one_is(gateway):
    somebody = await sign_in(gateway)
    answer = await somebody.get(SESSION)
    assert answer.status == 200
    assert answer.json == somebody.document
    assert "Token-Expires" not in answer.headers


async def test_every_sign_in_is_a_new_session_and_ends_the_one_it_came_with(gateway):
    first = await sign_in(gateway)
    second = await sign_in(gateway, headers={"Cookie": first.cookie})
    assert second.cookie != first.cookie
    assert second.csrf != first.csrf
    assert (await second.get(SESSION)).status == 200
    assert_problem(await first.get(SESSION), 401, "invalid-session")


async def test_a_session_that_somebody_else_chose_is_never_taken_over(gateway):
    chosen = COOKIE + "=" + "A" * 43
    somebody = await sign_in(gateway, headers={"Cookie": chosen})
    assert somebody.cookie != chosen
    assert_problem(await gateway.get(SESSION, headers={"Cookie": chosen}), 401, "invalid-session")


async def test_signing_out_ends_the_session_and_drops_the_cookie(gateway):
    somebody = await sign_in(gateway)
    answer = await somebody.ask("DELETE", SESSION)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Set-Cookie"].startswith(f"{COOKIE}=; ")
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert_problem(await somebody.get(SESSION), 401, "invalid-session")


async def test_a_session_ends_when_it_was_not_used(gateway, clock):
    somebody = await sign_in(gateway)
    for _ in range(3):
        clock.advance(29 * 60)
        assert (await somebody.get(SESSION)).status == 200
    clock.advance(30 * 60)
    assert_problem(await somebody.get(SESSION), 401, "invalid-session")


async def test_a_session_ends_however_busy_it_is(gateway, clock):
    somebody = await sign_in(gateway)
    for _ in range(12 * 3 - 1):
        clock.advance(20 * 60)
        assert (await somebody.get(SESSION)).status == 200
    clock.advance(20 * 60)
    assert_problem(await somebody.get(SESSION), 401, "invalid-session")


async def test_a_user_has_so_many_sessions_and_the_oldest_ends(gateway):
    sessions = [await sign_in(gateway) for _ in range(21)]
    assert_problem(await sessions[0].get(SESSION), 401, "invalid-session")
    assert (await sessions[1].get(SESSION)).status == 200


@pytest.mark.parametrize(
    "cookie",
    ["", COOKIE, COOKIE + "=", COOKIE + "=short", COOKIE + '="{}"', "x" + COOKIE + "={}", COOKIE + "={}x",
     COOKIE.upper() + "={}", "other={}", "__Host-" + COOKIE + "={}"],
)  # fmt: skip
async def test_what_is_not_exactly_the_cookie_is_no_session(gateway, cookie):
    somebody = await sign_in(gateway)
    sent = cookie.replace("{}", somebody.cookie.partition("=")[2])
    assert_problem(await gateway.get(SESSION, headers={"Cookie": sent}), 401, "no-credential")


async def test_of_two_sessions_none_is_taken(gateway):
    one, two = await sign_in(gateway), await sign_in(gateway)
    for sent in (f"{one.cookie}; {two.cookie}", f"{one.cookie}; {one.cookie}"):
        assert_problem(await gateway.get(SESSION, headers={"Cookie": sent}), 401, "invalid-session")
    assert (await one.ask("GET", SESSION, headers={"Cookie": f"a=b; {one.cookie};c=d"})).status == 200


async def test_a_session_beside_a_token_is_two_credentials(gateway):
    somebody = await sign_in(gateway)
    for path in (SESSION, TOKENS, USERS):
        answer = await gateway.get(path, "network_admin", headers={"Cookie": somebody.cookie})
        assert_problem(answer, 400, "two-credentials")


async def test_a_session_is_nothing_on_the_data_path_and_nothing_of_it_goes_upstream(gateway, upstream):
    somebody = await sign_in(gateway)
    path = "/api/2022-08-01/33/advertisers.json"
    assert_problem(await gateway.get(path, headers={"Cookie": somebody.cookie}), 401, "no-credential")
    assert (await gateway.get(path, "network", headers={"Cookie": somebody.cookie})).status == 200
    assert somebody.cookie.partition("=")[2] not in repr(upstream.journal)


# --- the same answer for everybody who does not get in


async def refused(gateway, address, password):
    answer = await try_password(gateway, address, password)
    assert_problem(answer, 401, "sign-in-failed")
    assert "Set-Cookie" not in answer.headers
    kept = {k: v for k, v in answer.headers.items() if k not in ("Date", "Gateway-Request-Id")}
    return kept, answer.json | {"instance": ""}


async def test_unknown_wrong_disabled_and_without_a_password_are_one_answer(gateway):
    await with_password(gateway, "advertiser")
    await gateway.gateway.store.set_user(gateway.owners["advertiser"], active=False)
    answers = [
        await refused(gateway, "nobody@example.com", GOOD),
        await refused(gateway, email("network_admin"), GOOD + "x"),
        await refused(gateway, email("network_admin"), " " + GOOD),
        await refused(gateway, email("advertiser"), GOOD),
        await refused(gateway, email("affiliate"), GOOD),
        await refused(gateway, "\x00", GOOD),
    ]
    assert all(answer == answers[0] for answer in answers)


async def test_an_unknown_user_costs_the_same_work(dear):
    async def took(address):
        began = time.perf_counter()
        await try_password(dear, address, "not the password at all")
        return time.perf_counter() - began

    known, unknown = email("network_admin"), "nobody@example.com"
    pairs = [(await took(known), await took(unknown), await took(email("affiliate"))) for _ in range(5)]
    medians = [sorted(times)[2] for times in zip(*pairs, strict=True)]
    assert max(medians) < 2 * min(medians), medians
    assert min(medians) > 0.01  # a look into the store alone takes a tenth of that


async def test_a_failed_sign_in_is_recorded_with_whom_it_was_tried_for(gateway):
    await try_password(gateway, email("network_admin"), "a password that is wrong")
    await try_password(gateway, "a password typed into the wrong field", "x")
    known, unknown = gateway.records()[-2:]
    for record in (known, unknown):
        assert (record["act"], record["status"], record["problem"]) == ("session.open", 401, "sign-in-failed")
        assert "owner" not in record
    assert known["subject"] == gateway.owners["network_admin"]
    assert "subject" not in unknown
    assert "wrong" not in repr(gateway.records())


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 422, "invalid-input"),
        (b"{}", 422, "invalid-input"),
        (b"[]", 400, "bad-body"),
        (b'{"email": "a@b.c"}', 422, "invalid-input"),
        (b'{"email": "a@b.c", "password": 5}', 422, "invalid-input"),
        (b'{"email": "a@b.c", "password": "x", "remember": true}', 422, "invalid-input"),
        (b'{"email": "a@b.c", "password": "x", "password": "y"}', 400, "bad-body"),
        (b'{"email": "a@b.c", "password": "' + b"x" * 257 + b'"}', 422, "invalid-input"),
        (b'{"email": "a@b.c", "password": "\\ud800"}', 400, "bad-body"),
    ],
)
async def test_a_sign_in_asked_for_wrongly(gateway, body, status, kind):
    answer = await gateway.request("POST", SESSION, data=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, status, kind)


async def test_a_form_of_another_site_is_no_sign_in(gateway):
    body = f'{{"email": "{email("network_admin")}", "password": "{GOOD}"}}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await gateway.request("POST", SESSION, data=body, headers={"Content-Type": kind})
        assert_problem(answer, 415, "unsupported-media-type")


# --- slowed attempts


async def test_attempts_at_an_address_are_slowed_for_known_and_unknown_alike(start, upstream):
    running = await start(
        upstream.port, sign_in=SignIn(attempts_per_minute=3, attempts_per_minute_of_network=0)
    )
    await with_password(running, "network_admin")
    for address in (email("network_admin"), "nobody@example.com"):
        for _ in range(3):
            assert_problem(await try_password(running, address, "wrong, all of it"), 401, "sign-in-failed")
        answer = await try_password(running, address.upper(), GOOD)
        assert_problem(answer, 429, "rate-limited")
        assert int(answer.headers["Retry-After"]) >= 1


async def test_attempts_from_a_network_are_slowed_whatever_address_they_name(start, upstream):
    running = await start(
        upstream.port,
        listen=Listen(trusted_proxies=("127.0.0.1/32",)),
        sign_in=SignIn(attempts_per_minute=0, attempts_per_minute_of_network=3),
    )
    await with_password(running, "network_admin")
    for number in range(3):
        fields = {"X-Forwarded-For": f"203.0.113.{number}"}
        await try_password(running, f"user{number}@example.com", "wrong, all of it", headers=fields)
    fields = {"X-Forwarded-For": "203.0.113.77"}
    assert_problem(await try_password(running, "x@example.com", GOOD, headers=fields), 429, "rate-limited")
    answer = await running.request("POST", PASSWORD, headers=fields, json={"code": "x", "password": GOOD})
    assert_problem(answer, 429, "rate-limited")
    await sign_in(running, headers={"X-Forwarded-For": "203.0.114.1"})


async def test_nobody_is_kept_out_by_others_who_fail_at_their_address(start, upstream):
    running = await start(
        upstream.port,
        listen=Listen(trusted_proxies=("127.0.0.1/32",)),
        sign_in=SignIn(attempts_per_minute=2, attempts_per_minute_of_network=0),
    )
    await with_password(running, "network_admin")
    at_home = {"X-Forwarded-For": "198.51.100.7"}
    await sign_in(running, headers=at_home)
    for number in range(4):
        elsewhere = {"X-Forwarded-For": f"203.0.{number}.1"}
        await try_password(running, email("network_admin"), "wrong, all of it", headers=elsewhere)
    await sign_in(running, headers=at_home)


async def test_sign_ins_that_succeed_are_not_counted(start, upstream):
    running = await start(
        upstream.port, sign_in=SignIn(attempts_per_minute=2, attempts_per_minute_of_network=2)
    )
    await with_password(running, "network_admin")
    for _ in range(5):
        await sign_in(running)


async def test_a_flood_of_sign_ins_is_refused_and_stops_nobody_else(dear):
    gateway = dear
    flood = [
        asyncio.create_task(try_password(gateway, f"user{number}@example.com", "wrong, all of it"))
        for number in range(60)
    ]
    await asyncio.sleep(0.05)
    began = time.perf_counter()
    assert (await gateway.get("/gateway/token", "network")).status == 200
    assert time.perf_counter() - began < 1.0
    kinds = [answer.problem for answer in await asyncio.gather(*flood)]
    assert set(kinds) == {"sign-in-failed", "overloaded"}
    await sign_in(gateway)


# --- cross-site requests

CHANGES = [
    ("POST", TOKENS, {"description": "made by a test"}),
    ("POST", TOKENS + "/pause", {"everything": True}),
    ("POST", TOKENS + "/delete", {"everything": True}),
    ("POST", TOKENS + "/{token}/rotate", {}),
    ("POST", TOKENS + "/{token}/pause", {}),
    ("POST", TOKENS + "/{token}/resume", {}),
    ("DELETE", TOKENS + "/{token}", {}),
    ("POST", USERS, {"email": "new@example.com", "account": "network:33"}),
    ("POST", USERS + "/{user}", {"role": "observer"}),
    ("POST", USERS + "/{user}/disable", {}),
    ("POST", USERS + "/{user}/enable", {}),
    ("POST", USERS + "/{user}/reset", {}),
    ("DELETE", USERS + "/{user}/sessions", {}),
    ("POST", PASSWORD, {"old_password": GOOD, "password": GOOD + "!"}),
    ("DELETE", SESSION, {}),
]


async def prepared(gateway, path):
    made = await gateway.create()
    return path.replace("{token}", made["id"]).replace("{user}", gateway.owners["network"])


@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=lambda value: str(value)[:40])
async def test_no_change_by_a_session_goes_without_its_csrf_token(gateway, method, path, body):
    somebody, other = await sign_in(gateway), await sign_in(gateway)
    path = await prepared(gateway, path)
    before = await counted(gateway)
    for sent in (
        "",
        "x",
        somebody.csrf[:-1],
        somebody.csrf + "x",
        other.csrf,
        somebody.cookie.partition("=")[2],
    ):
        answer = await somebody.ask(method, path, headers={"Gateway-Csrf": sent}, json=body)
        assert_problem(answer, 403, "invalid-csrf-token")
        record = gateway.records()[-1]
        assert (record["act"], record["problem"]) == (act_of(method, path), "invalid-csrf-token")
        assert record["owner"] == somebody.user_id
    answer = await gateway.request(method, path, headers={"Cookie": somebody.cookie}, json=body)
    assert_problem(answer, 403, "invalid-csrf-token")
    assert await counted(gateway) == before
    assert (await somebody.ask(method, path, json=body)).status in (200, 201, 204)


def act_of(method, path):
    from gateway.admin.routes import ROUTES

    for route in ROUTES:
        form = re.escape(route.path).replace(r"\{id\}", "(?!pause$|delete$)[^/]+")
        if route.method == method and re.fullmatch(form, path):
            return route.act
    raise AssertionError(path)


async def counted(gateway):
    """All that the changes above would change."""
    return [
        (await gateway.get(path, "network_admin")).json
        for path in (TOKENS + "?limit=200", USERS + "?limit=200")
    ]


ELSEWHERE = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "{url}.evil.example"},
    {"Origin": "{url}/"},
    {"Origin": "https://127.0.0.1:{port}"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "x"},
]


@pytest.mark.parametrize("fields", ELSEWHERE, ids=str)
async def test_what_a_browser_says_comes_from_elsewhere_is_refused(gateway, fields):
    somebody = await sign_in(gateway)
    sent = {k: v.format(url=gateway.url, port=gateway.port) for k, v in fields.items()}
    for method, path, body in (
        ("POST", TOKENS, {"description": "made by a test"}),
        ("GET", TOKENS, None),
        ("GET", SESSION, None),
        ("DELETE", SESSION, None),
        ("POST", SESSION, {"email": email("network_admin"), "password": GOOD}),
        ("POST", PASSWORD, {"old_password": GOOD, "password": GOOD + "!"}),
    ):
        more = {} if body is None else {"json": body}
        assert_problem(await somebody.ask(method, path, headers=sent, **more), 403, "cross-site")
    assert (await somebody.get(SESSION)).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_loopback_may_be_called_by_any_of_its_names(gateway, host):
    somebody = await sign_in(gateway)
    fields = {"Origin": f"http://{host}:{gateway.port}"}
    answer = await somebody.ask("POST", TOKENS, headers=fields, json={"description": f"from {host}"})
    assert answer.status == 201


async def test_a_client_that_is_no_browser_needs_the_csrf_token_alone(gateway):
    somebody = await sign_in(gateway)
    fields = {"Cookie": somebody.cookie, "Gateway-Csrf": somebody.csrf}
    answer = await gateway.request("POST", TOKENS, headers=fields, json={"description": "by a script"})
    assert answer.status == 201


async def test_a_token_needs_no_csrf_token_and_no_origin(gateway):
    answer = await gateway.request(
        "POST",
        TOKENS,
        "network_admin",
        headers={"Origin": "https://app.example"},
        json={"description": "by a token"},
    )
    assert answer.status == 201


async def test_no_answer_lets_another_site_read_it(gateway):
    somebody = await sign_in(gateway)
    for answer in (
        await somebody.get(SESSION),
        await gateway.get(SESSION),
        await gateway.request("OPTIONS", SESSION),
    ):
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"


# --- tokens by session


async def test_every_act_on_tokens_goes_by_a_session_too(gateway):
    somebody = await sign_in(gateway)
    made = (await somebody.post(TOKENS, description="by hand", scopes=["tokens:manage", "reveal:pii"])).json
    assert (made["owner"], made["made_by"], made["bootstrap"]) == (somebody.user_id, None, False)
    path = f"{TOKENS}/{made['id']}"
    assert (await gateway.get("/gateway/token", made["token"])).status == 200
    assert made["id"] in [row["id"] for row in (await somebody.get(TOKENS)).json["tokens"]]
    assert (await somebody.get(path)).json["state"] == "active"
    assert (await somebody.post(path + "/pause")).json["state"] == "paused"
    assert (await somebody.post(path + "/resume")).json["state"] == "active"
    again = (await somebody.post(path + "/rotate", expires_in=3600)).json
    assert again["token"] != made["token"]
    assert (await somebody.post(TOKENS + "/pause", ids=[made["id"]])).json["tokens"] == [made["id"]]
    assert (await somebody.post(TOKENS + "/delete", ids=[made["id"]])).json["tokens"] == [made["id"]]
    assert (await somebody.ask("DELETE", path)).status == 204
    acts = [record for record in gateway.records() if record.get("session")]
    assert {record["act"] for record in acts} >= {"token.create", "token.rotate", "token.delete"}
    assert all("token_id" not in record for record in acts)
    assert {record["session"] for record in acts} == {somebody.document["session"]}


async def test_a_plain_users_session_reaches_their_own_tokens_alone(gateway):
    await with_password(gateway, "advertiser")
    somebody = await sign_in(gateway, "advertiser")
    listed = (await somebody.get(TOKENS)).json["tokens"]
    assert [row["owner"] for row in listed] == [somebody.user_id]
    foreign = (await gateway.get("/gateway/token", "network")).json["id"]
    assert_problem(await somebody.get(f"{TOKENS}/{foreign}"), 404, "not-found")
    assert_problem(await somebody.post(f"{TOKENS}/delete", everything=True), 403, "denied")
    assert_problem(await somebody.get(USERS), 403, "denied")


async def test_what_a_session_makes_outlives_it(gateway):
    somebody = await sign_in(gateway)
    made = (await somebody.post(TOKENS, description="outlives its session")).json
    await somebody.ask("DELETE", SESSION)
    assert (await gateway.get("/gateway/token", made["token"])).status == 200


async def test_a_lost_answer_is_given_again_to_the_same_session(gateway):
    somebody = await sign_in(gateway)
    fields = {"Idempotency-Key": "0123456789abcdef-by-hand"}
    first, second = [
        await somebody.ask("POST", TOKENS, headers=fields, json={"description": "once"}) for _ in range(2)
    ]
    assert first.json["token"] == second.json["token"]


# --- passwords


async def test_a_password_is_changed_by_who_knows_the_old_one_and_every_session_ends(gateway):
    somebody, elsewhere = await sign_in(gateway), await sign_in(gateway)
    new = "quite another passphrase"
    answer = await somebody.post(PASSWORD, old_password=GOOD, password=new)
    assert answer.status == 200
    for session in (somebody, elsewhere):
        assert_problem(await session.get(SESSION), 401, "invalid-session")
    assert (await gateway.get(SESSION, headers={"Cookie": cookie_of(answer)})).status == 200
    assert_problem(await try_password(gateway, email("network_admin"), GOOD), 401, "sign-in-failed")
    await sign_in(gateway, password=new)


async def test_who_does_not_know_the_old_password_changes_nothing(gateway):
    somebody = await sign_in(gateway)
    answer = await somebody.post(PASSWORD, old_password="something else", password="quite another passphrase")
    assert_problem(answer, 401, "sign-in-failed")
    assert (await somebody.get(SESSION)).status == 200
    record = gateway.records()[-2]
    assert (record["act"], record["subject"]) == ("password.set", somebody.user_id)


@pytest.mark.parametrize(
    "new",
    ["short", "aaaaaaaaaaaaaaaa", "abababababab", "password1234", "Network-Admin@example.com", "x" * 257, ""],
)
async def test_a_weak_password_is_refused(gateway, new):
    somebody = await sign_in(gateway)
    answer = await somebody.post(PASSWORD, old_password=GOOD, password=new)
    assert_problem(answer, 422, "invalid-input")
    assert answer.json["member"] == "password"
    if len(new) > 5:
        assert new.encode() not in answer.body


async def test_a_password_is_the_same_however_a_keyboard_composes_it(gateway):
    await with_password(gateway, "network_admin", "résumé of a passphrase")
    await sign_in(gateway, password="re\u0301sume\u0301 of a passphrase")


async def test_a_token_neither_is_a_session_nor_changes_a_password(gateway):
    for method, path, body in (
        ("GET", SESSION, None),
        ("DELETE", SESSION, None),
        ("POST", PASSWORD, {"old_password": GOOD, "password": "quite another passphrase"}),
    ):
        more = {} if body is None else {"json": body}
        answer = await gateway.request(method, path, "network_admin", **more)
        assert_problem(answer, 403, "sign-in-required")


async def test_password_needs_exactly_one_proof(gateway):
    somebody = await sign_in(gateway)
    for body in ({}, {"old_password": GOOD, "code": "x" * 43}):
        assert_problem(
            await somebody.post(PASSWORD, password="a new passphrase", **body), 422, "invalid-input"
        )


async def test_a_hash_of_other_parameters_is_made_again_at_the_next_sign_in(dear):
    gateway = dear
    from argon2 import PasswordHasher

    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(GOOD)
    store, owner = gateway.gateway.store, gateway.owners["network_admin"]
    await store.set_password(owner, weak)
    await sign_in(gateway)
    _, kept = await store.people.password_of(email("network_admin"))
    assert kept != weak
    assert not PasswordHasher().check_needs_rehash(kept)
    await sign_in(gateway)


# --- who is disabled, moved or demoted


async def test_a_disabled_user_has_no_session_and_gets_none_back(gateway):
    await with_password(gateway, "network")
    somebody = await sign_in(gateway, "network")
    store, owner = gateway.gateway.store, gateway.owners["network"]
    await store.set_user(owner, active=False)
    assert_problem(await somebody.get(SESSION), 401, "invalid-session")
    await store.set_user(owner, active=True)
    assert_problem(await somebody.get(SESSION), 401, "invalid-session")


async def test_what_a_session_may_do_is_what_its_user_may_now(gateway):
    somebody = await sign_in(gateway)
    assert (await somebody.get(USERS)).status == 200
    store = gateway.gateway.store
    await add_person(gateway, "second", Account("network", "33", "33"), administrator=True)
    await store.set_user(somebody.user_id, administrator=False)
    assert_problem(await somebody.get(USERS), 403, "denied")
    assert (await somebody.get(SESSION)).json["user"]["administrator"] is False


async def test_a_store_that_cannot_answer_is_503_and_signs_nobody_out(gateway):
    somebody = await sign_in(gateway)
    await gateway.gateway.store.close()
    for answer in (await somebody.get(SESSION), await try_password(gateway, email("network_admin"), GOOD)):
        assert_problem(answer, 503, "store-unavailable")
        assert "Set-Cookie" not in answer.headers


async def test_a_session_of_who_was_disabled_by_another_hand_is_none(gateway):
    """Whatever wrote the row: who is not active now is not signed in."""
    somebody = await sign_in(gateway)
    with contextlib.closing(sqlite3.connect(gateway.gateway.config.store.path)) as db, db:
        db.execute("UPDATE users SET active = 0 WHERE id = ?", (somebody.user_id,))
    assert_problem(await somebody.get(SESSION), 401, "invalid-session")
    assert_problem(await try_password(gateway, email("network_admin"), GOOD), 401, "sign-in-failed")


@pytest.mark.parametrize("path", [USERS, TOKENS])
async def test_a_session_that_ended_while_the_body_came_changes_nothing(gateway, path):
    somebody = await sign_in(gateway)
    body = b'{"email": "late@example.com", "account": "network:33"}'
    if path == TOKENS:
        body = b'{"description": "too late for this one"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: gateway\r\nCookie: {somebody.cookie}\r\nGateway-Csrf: {somebody.csrf}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body[:10])
    await writer.drain()
    await asyncio.sleep(0.2)
    await gateway.gateway.store.people.end_sessions(somebody.user_id)
    writer.write(body[10:])
    answer = await reader.read()
    writer.close()
    assert b" 401 " in answer.partition(b"\r\n")[0]
    assert b"late" not in (await gateway.get(USERS, "network_admin")).body
    assert b"too late" not in (await gateway.get(TOKENS, "network_admin")).body


async def test_guessing_sessions_is_slowed_like_guessing_tokens(start, upstream):
    running = await start(upstream.port, sign_in=FREE, limits={"failed_authentications_per_minute": 3})
    await with_password(running, "network_admin")
    somebody = await sign_in(running)
    for number in range(5):
        answer = await running.get(SESSION, headers={"Cookie": f"{COOKIE}={str(number) * 43}"})
        assert_problem(answer, *((401, "invalid-session") if number < 3 else (429, "rate-limited")))
    assert (await somebody.get(SESSION)).status == 200
