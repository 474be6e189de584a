"""Shadow policies before real requests, on both ways: nothing changes but what records and metrics say."""

from __future__ import annotations

import pytest

from gateway.config import Policies
from gateway.demo import EVERY_NETWORK, NETWORK
from gateway.exchange import rfc3339
from gateway.load import Sets
from gateway.table import Table
from tests.conftest import Clock, add_person
from tests.integration.test_wire import NI, ONE, POLICIES, PUT, head, quick, sized
from tests.unit.test_shadow import ANYTHING, LATER, NO_LISTS
from tests.upstream import BARE, OK, answers
from tests.ways import on_both_ways, scene

__all__ = ["quick"]

NO_WRITES = """@id("no-writes") @source("ours") @reason("Nobody writes")
forbid (principal, action == Action::"call", resource) when { resource.effect == "write" };
"""
NO_SETS = """@id("no-sets") @source("ours") @reason("Nobody replaces a set")
forbid (principal, action == Action::"call", resource) when { resource.effect == "destroy" };
"""


def trying(folder, text):
    place = folder / "shadow"
    place.mkdir()
    (place / "tried.cedar").write_text(text)
    return Policies(shadow=str(place))


def disagreements(at, *outcomes):
    return at.running.gateway.metrics.value("shadow_disagreements", *outcomes)


def try_instead(at, table):
    """Put another set beside the one in force, as a reload does."""
    policies = at.running.gateway.policies
    policies.stage(policies.generation + 1, Sets(policies.table, table))
    policies.put_in_force(policies.generation + 1)


@on_both_ways
async def test_a_request_that_it_would_deny_is_answered_and_recorded_as_such(way, tmp_path):
    async with scene(way, answers(OK), tmp_path, policies=trying(tmp_path, NO_LISTS)) as at:
        before = disagreements(at, "allow", "denied")
        for _ in range(3):
            assert (await at.ask()).status == 200
        for record in (await at.settled(3), *at.records()):
            assert record["decision"] == "allow"
            assert record["shadow"] == {"decision": "deny", "policies": ["no-lists"]}
        assert disagreements(at, "allow", "denied") == before + 3
        at.went(3)


@on_both_ways
async def test_where_it_agrees_nothing_is_said(way, tmp_path):
    async with scene(way, answers(OK), tmp_path, policies=trying(tmp_path, NO_WRITES)) as at:
        assert (await at.ask()).status == 200
        assert "shadow" not in await at.settled()
        assert "shadow_disagreements_total{" not in at.running.gateway.metrics.text()
        at.went()


@on_both_ways
async def test_a_refusal_that_it_would_allow_stays_one(way, tmp_path):
    async with scene(way, answers(OK), tmp_path, policies=trying(tmp_path, ANYTHING)) as at:
        await add_person(at.running, "member", NETWORK, "member", False, EVERY_NETWORK)
        heard = await at.ask(head(f"DELETE {ONE} HTTP/1.1", token=at.running.tokens["member"]))
        assert (heard.status, heard.kind) == (403, "denied")
        record = await at.settled()
        assert (record["decision"], record["shadow"]) == (
            "deny",
            {"decision": "allow", "policies": ["anything"]},
        )
        assert disagreements(at, "denied", "allow") == 1
        assert not at.requests


@pytest.mark.parametrize(
    ("text", "body", "said"),
    [
        (NO_SETS, b'{"name": "x"}', None),
        (NO_SETS, b'{"users": []}', "no-sets"),
        (NO_WRITES, b'{"users": []}', "no-writes"),  # it would have refused before the body came
    ],
)
@on_both_ways
async def test_a_write_is_judged_as_often_as_the_set_in_force_judges_it(way, tmp_path, text, body, said):
    async with scene(way, answers(BARE), tmp_path, policies=trying(tmp_path, text)) as at:
        assert (await at.ask(sized(PUT, body, token=at.running.tokens["network"]))).status == 200
        record = await at.settled(2)
        expected = None if said is None else {"decision": "deny", "policies": [said]}
        assert record.get("shadow") == expected
        assert disagreements(at, "allow", "denied") == (said is not None)


@on_both_ways
async def test_one_that_cannot_be_evaluated_alarms_and_refuses_nothing(way, tmp_path, caplog):
    async with scene(way, answers(OK), tmp_path, policies=trying(tmp_path, NO_LISTS)) as at:
        broken = Table.unpack(at.running.gateway.policies.sets.tried.pack())
        broken._rows = {}
        try_instead(at, broken)
        assert (await at.ask()).status == 200
        assert "shadow" not in await at.settled()
        assert at.running.gateway.metrics.value("alarms", "shadow-evaluation-error") == 1
        assert "shadow-evaluation-error operation=advertisers_list" in caplog.text
        at.went()


@on_both_ways
async def test_another_one_is_asked_from_the_next_request_on(way, tmp_path):
    async with scene(way, answers(OK), tmp_path, policies=trying(tmp_path, NO_LISTS)) as at:
        assert (await at.ask()).status == 200
        assert (await at.settled())["shadow"]["policies"] == ["no-lists"]
        try_instead(at, POLICIES)
        assert (await at.ask()).status == 200
        assert "shadow" not in await at.settled(2)
        at.went(2)


@on_both_ways
async def test_one_that_reads_the_clock_is_judged_with_every_request(way, tmp_path):
    clock = Clock()
    policies = trying(tmp_path, LATER.replace("SOON", rfc3339(int(clock.now) + 1800)))
    async with scene(way, answers(OK), tmp_path, clock=clock, policies=policies) as at:
        assert (await at.ask()).status == 200
        assert "shadow" not in await at.settled()
        clock.advance(3600)
        assert (await at.ask()).status == 200
        assert (await at.settled(2))["shadow"]["policies"] == ["later"]
        at.went(2)


@on_both_ways
async def test_what_can_be_asked_is_about_the_set_in_force(way, tmp_path):
    async with scene(way, answers(OK), tmp_path, policies=trying(tmp_path, NO_LISTS)) as at:
        question = {"method": "GET", "path": NI}
        answer = await at.running.request("POST", "/gateway/can", "network", json=question)
        assert answer.json["decision"] == "allow"
        assert "no-lists" not in answer.body.decode()
