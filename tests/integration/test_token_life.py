"""Tokens from the day they are made: begin, rotate, pause, resume, end, one by one and many; lost answers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from uuid import uuid4

import pytest

from gateway.config import Listen, Tokens
from gateway.exchange import rfc3339
from gateway.model import Account
from gateway.store.keys import rotate_keys
from tests.conftest import add_person

API = "/admin/api/tokens"
SELF = "/gateway/token"
NI = "/api/2022-08-01/33/advertisers.json"
MANAGE = ("transactions:read", "tokens:manage")
HOUR, DAY = 3600, 86_400


def assert_problem(answer, status, kind, member=None):
    assert (answer.status, answer.problem) == (status, kind), answer.body
    assert member is None or answer.json["member"] == member


async def post(gateway, path, by="network_admin", headers=None, **body):
    return await gateway.request("POST", API + path, by, json=body, headers=headers)


async def shown(gateway, token_id, by="network_admin"):
    return (await gateway.get(f"{API}/{token_id}", by)).json


async def status(gateway, token):
    return (await gateway.get(SELF, token)).status


@pytest.fixture
async def people(gateway):
    """Beside the demo's four: a plain manager of tokens of the same network, and an administrator of another."""
    await add_person(gateway, "plain", Account("network", "33", "33"), scopes=MANAGE)
    await add_person(gateway, "merchant", Account("advertiser", "706", "33"), scopes=MANAGE)
    await add_person(gateway, "stranger", Account("network", "34", "34"), administrator=True, scopes=MANAGE)
    return gateway


# --- beginning


async def test_a_token_works_from_its_first_second_on_and_not_before(gateway, clock):
    made = await gateway.create(not_before=rfc3339(int(clock()) + 60))
    clock.advance(59)
    answer = await gateway.get(SELF, made["token"])
    assert_problem(answer, 401, "invalid-token")
    assert answer.json["detail"] == "The token is not valid yet."
    clock.advance(1)
    assert await status(gateway, made["token"]) == 200
    assert (await shown(gateway, made["id"]))["not_before"] == made["not_before"]


@pytest.mark.parametrize("not_before", ["2020-01-01", 5, "2999-01-01T00:00:00Z", True])
async def test_a_beginning_that_is_none_is_refused(gateway, not_before):
    assert_problem(
        await post(gateway, "", description="abc", not_before=not_before), 422, "invalid-input", "not_before"
    )


async def test_the_cap_on_a_tokens_life_is_the_one_of_its_owners_account_kind(start, upstream):
    running = await start(
        upstream.port, tokens=Tokens(default_days=3, max_days=9, max_days_of={"advertiser": 2})
    )
    await add_person(running, "merchant", Account("advertiser", "706", "33"), scopes=MANAGE)
    assert (await post(running, "", description="abc", expires_in=9 * DAY)).status == 201
    assert_problem(
        await post(running, "", "merchant", description="abc", expires_in=2 * DAY + 1),
        422,
        "invalid-input",
        "expires_in",
    )
    made = (await post(running, "", "merchant", description="abc")).json
    assert made["expires_at"] == rfc3339(int(running.clock()) + 2 * DAY)


async def test_a_mapped_network_and_a_mapped_client_are_the_ipv4_they_stand_for(start, upstream):
    running = await start(upstream.port, listen=Listen(trusted_proxies=("127.0.0.1/32",)))
    made = await running.create(allowed_networks=["::ffff:203.0.113.0/120"])
    assert made["allowed_networks"] == ["203.0.113.0/24"]
    for client, expected in (
        ("203.0.113.9", 200),
        ("::ffff:203.0.113.9", 200),
        ("::203.0.113.9", 403),
        ("203.0.114.9", 403),
    ):
        answer = await running.get(SELF, made["token"], headers={"X-Forwarded-For": client})
        assert answer.status == expected


# --- rotating


@pytest.mark.parametrize("overlap", [0, HOUR, DAY, 7 * DAY])
async def test_both_secrets_work_for_the_overlap_and_then_the_new_one_alone(gateway, clock, overlap):
    made = await gateway.create(scopes=["network:read"])
    assert (await gateway.get(NI, made["token"])).status == 200  # remembered, and a connection is warm
    clock.advance(10)
    answer = await post(gateway, f"/{made['id']}/rotate", overlap=overlap)
    assert (answer.status, answer.headers["Location"]) == (201, f"{API}/{made['id']}")
    new = answer.json
    assert new["token"] != made["token"]
    assert [new[name] for name in ("id", "description", "scopes", "created_at", "state")] == [
        made[name] for name in ("id", "description", "scopes", "created_at", "state")
    ]
    assert new["overlap_until"] == rfc3339(int(clock()) + overlap)
    if overlap:
        old = await gateway.get(NI, made["token"])
        assert (old.status, old.headers["Token-Expires"]) == (200, new["overlap_until"])
        clock.advance(overlap - 1)
        assert (await gateway.get(NI, made["token"])).status == 200
        clock.advance(1)
    gone = await gateway.get(NI, made["token"])
    assert_problem(gone, 401, "invalid-token")
    assert gone.json["detail"] == "The token was rotated: use its new secret."
    kept = await gateway.get(NI, new["token"])
    assert (kept.status, kept.headers["Token-Expires"]) == (200, new["expires_at"])


async def test_a_rotated_token_lives_as_long_again_as_it_did(gateway, clock):
    made = await gateway.create(expires_in=30 * DAY)
    clock.advance(20 * DAY)
    again = (await post(gateway, f"/{made['id']}/rotate")).json
    assert again["expires_at"] == rfc3339(int(clock()) + 30 * DAY)
    short = (await post(gateway, f"/{made['id']}/rotate", expires_in=60)).json
    assert short["expires_at"] == rfc3339(int(clock()) + 60)


@pytest.mark.parametrize(
    ("body", "kind", "member"),
    [
        ({"overlap": 60}, "invalid-input", "overlap"),
        ({"overlap": True}, "invalid-input", "overlap"),
        ({"overlap": "0"}, "invalid-input", "overlap"),
        ({"overlap": 0.0}, "invalid-input", "overlap"),
        ({"scopes": ["network:read"]}, "invalid-input", "scopes"),
        ({"description": "abc"}, "invalid-input", "description"),
        ({"expires_in": 366 * DAY}, "invalid-input", "expires_in"),
        ({"expires_in": 91 * DAY}, "beyond-maker", "expires_in"),
    ],
    ids=str,
)
async def test_a_rotation_asked_for_wrongly_rotates_nothing(gateway, body, kind, member):
    made = await gateway.create()
    answer = await post(gateway, f"/{made['id']}/rotate", **body)
    assert_problem(answer, 403 if kind == "beyond-maker" else 422, kind, member)
    assert await status(gateway, made["token"]) == 200
    assert (await shown(gateway, made["id"]))["rotated_at"] is None


async def test_what_has_ended_is_not_rotated_paused_or_resumed(gateway, clock):
    gone, late = [await gateway.create(expires_in=60) for _ in range(2)]
    await gateway.request("DELETE", f"{API}/{gone['id']}", "network_admin")
    clock.advance(60)
    for made, state in ((gone, "deleted"), (late, "expired")):
        for act in ("rotate", "pause", "resume"):
            answer = await post(gateway, f"/{made['id']}/{act}")
            assert_problem(answer, 409, "token-ended")
            assert answer.json["state"] == state


async def test_an_exposed_token_is_made_good_by_rotating_it(gateway, clock):
    made = await gateway.create()
    await gateway.get(f"{NI}?x={made['token']}")
    new = (await post(gateway, f"/{made['id']}/rotate", overlap=7 * DAY)).json
    assert (new["state"], new["rotate_by"]) == ("active", None)
    assert new["overlap_until"] == rfc3339(int(clock()) + DAY)  # its forced end, not seven days
    clock.advance(DAY)
    assert (await status(gateway, made["token"]), await status(gateway, new["token"])) == (401, 200)


async def test_an_old_secret_that_is_found_somewhere_is_no_harm_to_the_new_one(gateway, clock):
    made = await gateway.create()
    new = (await post(gateway, f"/{made['id']}/rotate", overlap=7 * DAY)).json
    await gateway.get(f"{NI}?x={made['token']}")
    document = await shown(gateway, made["id"])
    assert (document["state"], document["overlap_until"]) == ("active", rfc3339(int(clock()) + DAY))
    assert gateway.records()[-2]["subject"] == made["id"]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for _ in range(2):
        revoked = await gateway.request("POST", "/oauth/revoke", data=f"token={made['token']}", headers=form)
        assert revoked.status == 200
    assert (await status(gateway, made["token"]), await status(gateway, new["token"])) == (401, 200)


async def test_a_token_rotates_itself_and_gains_nothing_by_it(people, clock):
    own = (await people.get(SELF, "plain")).json["id"]
    before = await shown(people, own)
    await people.get(f"{NI}?x={people.tokens['plain']}")
    new = (await post(people, f"/{own}/rotate", "plain")).json
    assert (new["scopes"], new["expires_at"]) == (list(MANAGE), rfc3339(int(clock()) + DAY))
    assert new["expires_at"] < before["expires_at"]
    assert (await status(people, "plain"), await status(people, new["token"])) == (401, 200)


async def rotated_beyond(people, member, **narrower):
    """Try to get, by rotating it, a token that a narrower one of the same owner could not have made."""
    own = (await people.get(SELF, "plain")).json["id"]
    store, issuer = people.gateway.store, people.gateway.issuer
    for name, scopes in (
        ("managing", MANAGE),
        ("wider", ("network:write",)),
        ("same", ("transactions:read",)),
    ):
        await issuer.create(
            owner_id=people.owners["plain"],
            description=name,
            scopes=scopes,
            expires_at=int(people.clock()) + DAY,
        )
    _, text = await issuer.create(
        owner_id=people.owners["plain"], description="narrow", scopes=MANAGE, expires_at=int(people.clock()) + DAY,
        **narrower,
    )  # fmt: skip
    page = await store.list_tokens(owner_id=people.owners["plain"], now=people.clock())
    ids = {row.description: row.id for row in page.rows} | {"own": own}
    wanted = ["same"] if narrower else ["managing", "wider", "own"]
    for name in wanted:
        answer = await post(people, f"/{ids[name]}/rotate", text)
        assert_problem(answer, 403, "beyond-maker", member)
    rows = [await shown(people, ids[name], "plain") for name in wanted]
    assert [row["rotated_at"] for row in rows] == [None] * len(wanted)


@pytest.mark.parametrize(
    ("member", "narrower"),
    [
        ("scopes", {}),
        ("accounts", {"accounts": ["advertiser:706"]}),
        ("allowed_networks", {"networks": ["127.0.0.0/8"]}),
    ],
)
async def test_no_token_is_had_by_rotating_that_could_not_have_been_made(people, member, narrower):
    await rotated_beyond(people, member, **narrower)


async def test_a_bootstrap_token_stands_for_its_owner_and_rotates_all_of_theirs(people, clock):
    _, text = await people.gateway.issuer.create(
        owner_id=people.owners["plain"], description="bootstrap", scopes=("tokens:manage",),
        expires_at=int(clock()) + HOUR, bootstrap=True,
    )  # fmt: skip
    own = (await people.get(SELF, "plain")).json["id"]
    answer = await post(people, f"/{own}/rotate", text)
    assert (answer.status, answer.json["scopes"]) == (201, list(MANAGE))
    assert answer.json["expires_at"] == rfc3339(int(clock()) + 90 * DAY)


async def test_the_hour_of_a_bootstrap_token_does_not_begin_again(people, clock):
    row, text = await people.gateway.issuer.create(
        owner_id=people.owners["plain"], description="bootstrap", scopes=("tokens:manage",),
        expires_at=int(clock()) + HOUR, bootstrap=True,
    )  # fmt: skip
    for asks in (text, "plain"):
        assert_problem(await post(people, f"/{row.id}/rotate", asks), 403, "beyond-maker", "overlap")
    assert (await shown(people, row.id, "plain"))["rotated_at"] is None


async def test_a_deleted_token_gets_nothing_by_a_body_that_comes_slowly(gateway):
    made = await gateway.create()
    own = (await gateway.get(SELF, "network_admin")).json["id"]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        f"POST {API}/{made['id']}/rotate HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n"
        f"Authorization: Bearer {gateway.tokens['network_admin']}\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\n\r\n{".encode()
    )
    await writer.drain()
    await asyncio.sleep(0.1)
    await gateway.gateway.store.delete_token(own, by="command line", at=int(gateway.clock()))
    writer.write(b"}")
    assert b" 401 " in await reader.readline()
    writer.close()
    assert await gateway.gateway.store.token(made["id"]) is not None
    assert (await gateway.gateway.store.token(made["id"])).rotated_at is None


# --- pausing


async def test_a_paused_token_is_refused_at_once_and_works_again_when_resumed(gateway):
    made = await gateway.create(scopes=["network:read"])
    assert (await gateway.get(NI, made["token"])).status == 200
    for _ in range(2):
        answer = await post(gateway, f"/{made['id']}/pause")
        assert (answer.status, answer.json["state"]) == (200, "paused")
        assert answer.json["paused_by"] == gateway.owners["network_admin"]
    refused = await gateway.get(NI, made["token"])
    assert_problem(refused, 401, "invalid-token")
    assert "paused" in refused.json["detail"]
    for _ in range(2):
        answer = await post(gateway, f"/{made['id']}/resume")
        assert (answer.status, answer.json["state"], answer.json["paused_by"]) == (200, "active", None)
    assert (await gateway.get(NI, made["token"])).status == 200


async def test_an_administrators_pause_is_not_its_owners_to_end(people):
    made = await people.create("plain")
    for first in ("plain", "network_admin"):  # also when the owner had paused it before
        assert (await post(people, f"/{made['id']}/pause", first)).status == 200
        assert (await post(people, f"/{made['id']}/pause", "network_admin")).status == 200
        assert_problem(await post(people, f"/{made['id']}/resume", "plain"), 403, "denied")
        assert await status(people, made["token"]) == 401
        assert (await post(people, f"/{made['id']}/resume", "network_admin")).status == 200
    assert (await post(people, f"/{made['id']}/pause", "plain")).status == 200
    assert (await post(people, f"/{made['id']}/resume", "plain")).status == 200


async def test_a_foreign_token_and_an_unknown_one_are_the_same_to_every_act(people):
    foreign = (await people.get(SELF, "stranger")).json["id"]
    for act in ("rotate", "pause", "resume"):
        for by in ("network_admin", "plain"):
            said = [await post(people, f"/{token_id}/{act}", by) for token_id in (foreign, "tok_nothing")]
            assert [answer.problem for answer in said] == ["not-found"] * 2
            assert said[0].json | {"instance": ""} == said[1].json | {"instance": ""}
    assert await status(people, "stranger") == 200


@pytest.mark.parametrize("act", ["pause", "resume", "rotate"])
async def test_an_act_with_more_than_it_knows_is_none(gateway, act):
    made = await gateway.create()
    for path, body in ((f"/{made['id']}/{act}?x=1", {}), (f"/{made['id']}/{act}", {"zzz": 1})):
        assert_problem(await post(gateway, path, **body), 422, "invalid-input")
    document = await shown(gateway, made["id"])
    assert (document["paused_at"], document["rotated_at"]) == (None, None)


# --- many at once


@pytest.mark.parametrize(("act", "refused"), [("pause", "paused"), ("delete", "deleted")])
async def test_an_administrator_stops_every_token_of_somebody_at_once(people, act, refused):
    own = (await people.get(SELF, "plain")).json["id"]
    made = [await people.create("plain") for _ in range(2)]
    more = {"reason": "left the company"} if act == "delete" else {}
    body = {"owner": people.owners["plain"]} | more
    answer = await post(people, f"/{act}", **body)
    assert (answer.status, answer.json["more"]) == (200, False)
    assert answer.json["tokens"] == [own, *(each["id"] for each in made)]
    assert [await status(people, text) for text in ("plain", made[0]["token"], made[1]["token"])] == [401] * 3
    assert (await post(people, f"/{act}", **body)).json == {"tokens": [], "more": False}
    document = await shown(people, made[0]["id"])
    assert (document["state"], document["delete_reason"]) == (refused, more.get("reason"))
    record = people.records()[-2]
    assert (record["act"], record["subject"]) == (f"token.{act}-many", people.owners["plain"])


async def test_the_token_that_acts_on_everything_is_spared_and_other_networks_are(people):
    answer = await post(people, "/pause", everything=True)
    own = (await people.get(SELF, "network_admin")).json["id"]
    assert own not in answer.json["tokens"]
    assert len(answer.json["tokens"]) == 3 + 2
    assert (await status(people, "stranger"), await status(people, "advertiser")) == (200, 401)
    foreign = (await people.get(SELF, "stranger")).json["id"]
    assert (await post(people, "/delete", ids=[own, foreign])).json["tokens"] == [own]
    assert (await status(people, "stranger"), await status(people, "network_admin")) == (200, 401)


async def test_many_are_chosen_by_account_or_maker(people):
    merchants = (await people.get(SELF, "merchant")).json["id"]
    advertisers = (await people.get(SELF, "advertiser")).json["id"]
    child = await people.create("plain")
    plain = (await people.get(SELF, "plain")).json["id"]
    assert (await post(people, "/pause", made_by=plain)).json["tokens"] == [child["id"]]
    paused = (await post(people, "/pause", account="advertiser:706")).json["tokens"]
    assert set(paused) == {merchants, advertisers}


@pytest.mark.parametrize(
    "body",
    [
        {}, {"ids": []}, {"ids": "tok_x"}, {"ids": ["a", "a"]}, {"ids": [f"tok_{n}" for n in range(501)]},
        {"everything": False}, {"everything": 1}, {"owner": ""}, {"owner": None}, {"owner": "me", "ids": ["x"]},
        {"account": "706"}, {"made_by": 5}, {"everything": True, "zzz": 1}, {"reason": "x"},
    ],
    ids=lambda body: str(body)[:40],
)  # fmt: skip
async def test_many_that_are_not_named_clearly_are_left_alone(people, body):
    for act in ("pause", "delete"):
        assert_problem(await post(people, f"/{act}", **body), 422, "invalid-input")
    states = {row["state"] for row in (await people.get(API, "network_admin")).json["tokens"]}
    assert states == {"active"}


@pytest.mark.parametrize("by", ["plain", "merchant"])
async def test_only_an_administrator_of_a_network_acts_on_many(people, by):
    own = (await people.get(SELF, by)).json["id"]
    for body in ({"ids": [own]}, {"owner": people.owners[by]}, {"everything": True}):
        for act in ("pause", "delete"):
            assert_problem(await post(people, f"/{act}", by, **body), 403, "denied")
    assert await status(people, by) == 200


# --- answers that were lost


def key(text=None):
    return {"Idempotency-Key": text or str(uuid4())}


async def test_a_lost_answer_is_given_once_more_and_then_never_again(gateway, clock):
    same = key()
    first, second, third = [await post(gateway, "", headers=same, description="abc") for _ in range(3)]
    assert (first.status, second.status) == (201, 201)
    assert first.json == second.json
    assert_problem(third, 410, "answer-gone")
    assert third.json["id"] == first.json["id"]
    assert first.json["token"].encode() not in third.body
    assert await status(gateway, second.json["token"]) == 200
    assert len((await gateway.get(API, "network_admin")).json["tokens"]) == 5


async def test_a_lost_rotation_is_given_once_more_and_rotates_once(gateway, clock):
    made = await gateway.create()
    same = key()
    answers = [await post(gateway, f"/{made['id']}/rotate", headers=same, overlap=HOUR) for _ in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 410]
    assert answers[0].json == answers[1].json
    assert await status(gateway, made["token"]) == 200  # a second rotation would have ended its overlap
    assert await status(gateway, answers[1].json["token"]) == 200


async def test_after_a_minute_nothing_is_given_again(gateway, clock):
    same = key()
    first = await post(gateway, "", headers=same, description="abc")
    clock.advance(60)
    assert_problem(await post(gateway, "", headers=same, description="abc"), 410, "answer-gone")
    assert await status(gateway, first.json["token"]) == 200


async def test_an_answer_is_not_signed_again_with_another_key(gateway):
    same = key()
    first = await post(gateway, "", headers=same, description="abc")
    rotate_keys(gateway.gateway.config.store.keys)
    answer = await post(gateway, "", headers=same, description="abc")
    assert_problem(answer, 410, "answer-gone")
    assert answer.json["id"] == first.json["id"]
    assert await status(gateway, first.json["token"]) == 200


async def test_a_key_is_of_one_owner_one_token_one_path_and_one_body(people):
    same = key()
    first = await post(people, "", headers=same, description="abc")
    assert_problem(await post(people, "", headers=same, description="abcd"), 422, "idempotency-key-reused")
    assert_problem(
        await people.request(
            "POST", API, "network_admin", data=json.dumps({"description": "abc"}) + " ",
            headers=same | {"Content-Type": "application/json"},
        ),
        422,
        "idempotency-key-reused",
    )  # fmt: skip
    other = await post(people, "", "plain", headers=same, description="abc")
    assert other.status == 201
    assert other.json["id"] != first.json["id"]
    rotated = await post(people, f"/{first.json['id']}/rotate", headers=same)
    assert rotated.status == 201
    again = await post(people, "", headers=same, description="abc")  # what was kept is still theirs, once
    assert again.json["token"] == first.json["token"]


async def test_an_answer_is_not_given_again_to_who_may_no_longer_ask(people):
    same = key()
    first = await post(people, "", "plain", headers=same, description="abc")
    own = (await people.get(SELF, "plain")).json["id"]
    await people.request("DELETE", f"{API}/{own}", "network_admin")
    assert_problem(await post(people, "", "plain", headers=same, description="abc"), 401, "invalid-token")
    assert await status(people, first.json["token"]) == 401  # it died with its maker


async def test_a_refusal_is_not_kept(gateway):
    same = key()
    assert_problem(await post(gateway, "", headers=same, description="ab"), 422, "invalid-input")
    assert (await post(gateway, "", headers=same, description="abc")).status == 201


@pytest.mark.parametrize("bad", ["short", "with spaces in it, and more", "x" * 256])
async def test_a_key_that_can_be_guessed_makes_nothing(gateway, bad):
    assert_problem(
        await post(gateway, "", headers=key(bad), description="abc"), 422, "invalid-input", "Idempotency-Key"
    )
    assert len((await gateway.get(API, "network_admin")).json["tokens"]) == 4


async def test_of_requests_with_one_key_at_once_one_makes_a_token_and_one_hears_of_it(gateway):
    same = key()
    answers = await asyncio.gather(*(post(gateway, "", headers=same, description="abc") for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [201, 201, 410, 410, 410, 410]
    assert len({answer.json["token"] for answer in answers if answer.status == 201}) == 1


async def test_what_was_kept_of_an_answer_is_erased_while_nobody_asks(start, upstream, clock, monkeypatch):
    monkeypatch.setattr("gateway.issue.ERASE_S", 0.02)
    gateway = await start(upstream.port)
    assert (await post(gateway, "", headers=key(), description="abc")).status == 201

    def kept():
        with closing(sqlite3.connect(gateway.gateway.config.store.path)) as db:
            return db.execute("SELECT count(*) FROM answers WHERE sealed IS NOT NULL").fetchone() == (1,)

    clock.advance(59)
    await asyncio.sleep(0.1)
    assert kept()
    clock.advance(1)
    for _ in range(200):
        if not kept():
            break
        await asyncio.sleep(0.02)
    assert not kept()


async def test_neither_key_nor_token_is_in_the_store_the_record_or_the_log(gateway, tmp_path, caplog):
    caplog.set_level("DEBUG")
    same = key()
    made = await post(gateway, "", headers=same, description="abc")
    gateway.records()
    payload = made.json["token"].split(".")[1]
    for file in [*tmp_path.glob("gateway.sqlite3*"), tmp_path / "records.jsonl"]:
        content = file.read_bytes()
        assert same["Idempotency-Key"].encode() not in content
        assert payload.encode() not in content
    assert same["Idempotency-Key"] not in caplog.text
