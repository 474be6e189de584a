"""Budgets of personal records: counted exactly, whoever asks at the same time, in whichever worker, before or after a
restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.demo import NETWORK
from tests.conftest import Clock, add_person
from tests.integration.test_columns import typed
from tests.integration.test_wire import connect
from tests.processes import UPSTREAM_TOKEN, Programs, Site, ask, create, free_port
from tests.upstream import answers
from tests.ways import GENERAL, SHORT, scene

TX = "/api/2020-10-01/networks/transactions/33"
DAY = 86_400
SEES = ("transactions:read", "reveal:pii")


@pytest.fixture
async def people(gateway):
    """`maker` may make tokens that see personal data."""
    await add_person(gateway, "maker", NETWORK, "super", True, (*SEES, "tokens:manage"))
    return gateway


async def a_budget(people, count, **more):
    made = await people.create("maker", scopes=[*SEES], personal_records_per_day=count, **more)
    assert made["personal_records_per_day"] == count
    return made["token"]


async def left(people, token) -> int | None:
    """How many are left, once what was not needed has been given back."""
    await people.gateway.budgets.close()
    limits = (await people.get("/gateway/token", token)).json["limits"]
    return limits["personal_records_left"]


def rows(limit: int, columns: str = "transaction_id,city", form: str = "json", **more: str) -> str:
    query = "".join(f"&{name}={value}" for name, value in more.items())
    return f"{TX}.{form}?limit={limit}&include_columns={columns}{query}"


async def test_a_token_is_given_its_personal_records_and_then_no_more_until_midnight(people, clock, upstream):
    clock.now = float(int(clock.now) // DAY * DAY + 3_600)
    token = await a_budget(people, 100)
    got = await people.get(rows(30), token)
    assert (got.status, len(got.json), await left(people, token)) == (200, 30, 70)
    refused = await people.get(rows(71), token)
    assert (refused.status, refused.problem, refused.json["left"]) == (429, "budget-spent", 70)
    assert refused.headers["Retry-After"] == str(DAY - 3_600)
    assert (await people.get(rows(70), token)).status == 200
    before = len(upstream.journal)
    assert (await people.get(rows(1), token)).json["left"] == 0
    assert len(upstream.journal) == before
    clock.advance(DAY - 3_601)
    assert (await people.get(rows(1), token)).status == 429
    clock.advance(1)
    assert (await people.get(rows(1), token)).status == 200
    assert await left(people, token) == 99


@pytest.mark.parametrize("form", ["json", "csv", "xml"])
async def test_what_an_answer_does_not_hold_is_given_back(people, form):
    token = await a_budget(people, 2_000)
    one = (await people.get(rows(1), token)).json[0]["transaction_id"]
    assert await left(people, token) == 1_999
    assert (await people.get(rows(50, form=form, transaction_id=one), token)).status == 200
    assert await left(people, token) == 1_998
    none = rows(1_000, form=form, call_record_id="no-such-call")
    assert (await people.get(none, token)).status == 200
    assert await left(people, token) == 1_998
    assert (
        await people.get(rows(1_000, form=form, start_after_transaction_id="nobody"), token)
    ).status == 404
    assert await left(people, token) == 1_998


async def test_what_is_not_personal_is_not_counted(people):
    token = await a_budget(people, 1)
    for _ in range(2):
        assert len((await people.get(rows(50, "transaction_id,duration"), token)).json) == 50
    assert await left(people, token) == 1
    plain = await people.create("maker", scopes=["transactions:read"], personal_records_per_day=1)
    for _ in range(2):
        assert len((await people.get(rows(50), plain["token"])).json) == 50
    assert await left(people, plain["token"]) == 1


async def test_no_budget_is_no_limit(people):
    made = await people.create("maker", scopes=[*SEES])
    assert made["personal_records_per_day"] is None
    assert (await people.get(rows(4_000), made["token"])).status == 200
    assert await left(people, made["token"]) is None


async def test_what_a_token_makes_is_given_no_more_than_it(people):
    await people.gateway.issuer.create(
        owner_id=people.owners["maker"],
        description="narrow",
        scopes=(*SEES, "tokens:manage"),
        expires_at=int(people.clock()) + DAY,
        personal_records_per_day=50,
    )
    page = await people.gateway.store.list_tokens(owner_id=people.owners["maker"], now=people.clock())
    (narrow,) = [row for row in page.rows if row.description == "narrow"]
    _, text = await people.gateway.issuer.rotate(
        narrow.id, owner_id=narrow.owner_id, expires_at=narrow.expires_at, overlap_s=0
    )
    asks = {"description": "child", "scopes": [*SEES]}
    refused = await people.request(
        "POST", "/admin/api/tokens", text, json=asks | {"personal_records_per_day": 51}
    )
    assert (refused.status, refused.problem) == (403, "beyond-maker")
    children = [await people.create(text, scopes=[*SEES]) for _ in range(2)]
    assert [child["personal_records_per_day"] for child in children] == [50, 50]
    assert (await people.get(rows(40), children[0]["token"])).status == 200
    assert (await people.get(rows(20), children[1]["token"])).json["left"] == 10
    free = (await people.get("/gateway/token", "maker")).json["id"]
    rotated = await people.request("POST", f"/admin/api/tokens/{free}/rotate", text, json={})
    assert (rotated.status, rotated.problem) == (403, "beyond-maker")


async def test_asking_before_tells_and_spends_nothing(people):
    token = await a_budget(people, 10)
    for limit, decision in ((10, "allow"), (11, "deny"), (10, "allow")):
        question = {"method": "GET", "path": rows(limit)}
        told = (await people.request("POST", "/gateway/can", token, json=question)).json
        assert told["decision"] == decision
        assert told.get("problem") == (None if decision == "allow" else "budget-spent")
    assert await left(people, token) == 10


async def test_of_many_who_ask_at_once_nobody_is_given_more_than_there_is(people):
    token = await a_budget(people, 95)
    got = await asyncio.gather(*(people.get(rows(10), token) for _ in range(15)))
    assert sorted(each.status for each in got) == [200] * 9 + [429] * 6
    assert await left(people, token) == 5


@pytest.mark.parametrize("way", [SHORT, GENERAL])
@pytest.mark.parametrize("asked", ["transaction_id,city", "transaction_id"])
async def test_an_upstream_that_sends_more_rows_than_were_asked_for_is_not_relayed(way, tmp_path, asked):
    body = json.dumps([{"transaction_id": n, "city": f"S3CR3T-{n}"} for n in range(3)])
    clock = Clock()
    async with scene(way, answers(typed("json", body)), tmp_path, clock=clock) as at:
        await add_person(at.running, "maker", NETWORK, "super", True, (*SEES, "tokens:manage"))
        token = await a_budget(at.running, 100)
        heard = await at.ask(
            at.get(target=rows(2, asked)).replace(at.running.tokens["network"].encode(), token.encode())
        )
        assert (heard.status, heard.kind) == (502, "upstream-unreadable")
        assert b"S3CR3T" not in heard.body
        assert await left(at.running, token) == 100


async def test_a_client_that_leaves_has_been_given_what_was_on_its_way(tmp_path):
    row = json.dumps({"transaction_id": "T", "city": "Ulm", "notes": "x" * 5_000})
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n["

    async def script(peer):
        await peer.request()
        await peer.say(head + ", ".join([row] * 5).encode() + b", ")
        await peer.gone()

    async with scene(GENERAL, script, tmp_path, gap_timeout_s=5.0) as at:
        await add_person(at.running, "maker", NETWORK, "super", True, (*SEES, "tokens:manage"))
        token = await a_budget(at.running, 1_000)
        wanted = at.get(target=f"{TX}.json").replace(at.running.tokens["network"].encode(), token.encode())
        async with connect(at.running) as line:
            await line.send(wanted)
            await asyncio.wait_for(line.reader.readuntil(b"Ulm"), 5)
        await at.settled()
        assert await left(at.running, token) == 995


# -- two workers, and a restart


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Site, Programs]]:
    with Programs(tmp_path) as programs:
        port = free_port()
        program = programs.start("sandbox", "--port", str(port), "--credential", UPSTREAM_TOKEN)
        assert program.line().startswith("sandbox:")
        made = Site(tmp_path, f"http://127.0.0.1:{port}", listen="workers = 2")
        yield made, programs


def test_two_workers_and_a_restart_count_together(site):
    at, programs = site
    manager = at.add_administrator(programs)
    serving = at.serve(programs)
    token = create(at.url, manager, scopes=[*SEES], personal_records_per_day=1_050)["token"]
    with ThreadPoolExecutor(8) as clients:
        got = list(clients.map(lambda _: ask(at.url, rows(100), token), range(24)))
    assert sorted(each.status for each in got) == [200] * 10 + [429] * 14
    assert {len(each.json) for each in got if each.status == 200} == {100}
    serving.kill()
    serving = at.serve(programs)
    refused = ask(at.url, rows(51), token)
    assert (refused.status, refused.problem, refused.json["left"]) == (429, "budget-spent", 50)
    assert ask(at.url, rows(50), token).status == 200
    assert ask(at.url, rows(1), token).json["left"] == 0
    assert serving.stop() == 0
