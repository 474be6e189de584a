"""Nobody is removed by being left out: not by mistake, and not by what changes meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sandbox.network import sample_user
from tests.integration.test_answers import reply
from tests.integration.test_wire import ask, sized
from tests.upstream import BARE, OK, Peer, RawUpstream

NETWORK = "/api/2022-08-01/33/network.json"
ADVERTISER = "/api/2022-08-01/33/advertisers/706.json"
COLLECTION = "/api/2022-08-01/33/advertisers.json"
AFFILIATE = "/api/2022-08-01/33/affiliates/808.json"
PAT, KIM = {"id_from_network": "u-pat"}, {"id_from_network": "u-kim"}


def names(users) -> list[str]:
    return [user["id_from_network"] for user in users]


def writes(upstream) -> list[str]:
    return [seen.method for seen in upstream.journal if seen.method != "GET"]


async def send(gateway, method, path, body, confirms=None, **more):
    headers = {} if confirms is None else {"Confirm-Removals": str(confirms)}
    return await gateway.request(method, path, "network_admin", json=body, headers=headers, **more)


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize(
    ("path", "body", "gone"),
    [
        (NETWORK, {"users": []}, {"users": ["u-pat", "u-kim"]}),
        (NETWORK, {"users": [PAT]}, {"users": ["u-kim"]}),
        (NETWORK, {"users": None}, {"users": ["u-pat", "u-kim"]}),
        (NETWORK, {"users": [PAT], "deep": {"users": [KIM]}}, {"users": ["u-pat", "u-kim"]}),
        (ADVERTISER, {"name": "J", "users": [], "sites": []}, {"users": ["u-ann706"], "sites": ["site-1"]}),
        (ADVERTISER, {"name": "J", "sites": []}, {"sites": ["site-1"]}),
        (AFFILIATE, {"name": "C", "users": []}, {"users": ["u-sam808"]}),
    ],
)
async def test_a_write_that_leaves_somebody_out_is_409_with_the_list(
    gateway, upstream, method, path, body, gone
):
    if method == "POST" and path == AFFILIATE:
        path, body = "/api/2022-08-01/33/affiliates.json", body | {"id_from_network": "808"}
    count = sum(map(len, gone.values()))
    for confirms in (None, 0, count + 1, count - 1 or 9):
        answer = await send(gateway, method, path, body, confirms)
        assert (answer.status, answer.problem) == (409, "removals-unconfirmed")
        assert (answer.json["removals"], answer.json["count"]) == (gone, count)
    assert not writes(upstream)


async def test_a_confirmed_removal_happens_and_the_confirmation_stays_here(gateway, upstream):
    answer = await send(gateway, "PUT", NETWORK, {"users": [PAT]}, 1)
    assert answer.status == 200
    assert names(upstream.network.users) == ["u-pat", "u-root"]
    assert writes(upstream) == ["PUT"]
    assert "confirm-removals" not in repr(list(upstream.journal)).lower()


async def test_a_write_that_leaves_nobody_out_needs_no_word(gateway, upstream):
    answer = await send(gateway, "PUT", NETWORK, {"users": [PAT, KIM, {"id_from_network": "u-new"}]})
    assert answer.status == 200
    assert "u-new" in names(upstream.network.users)
    refused = await send(gateway, "PUT", NETWORK, {"users": [PAT, KIM, {"id_from_network": "u-new"}]}, 1)
    assert (refused.status, refused.problem) == (409, "removals-unconfirmed")


async def test_a_write_of_something_new_needs_no_word(gateway, upstream):
    new = {"id_from_network": "n-1", "name": "New", "users": [{"id_from_network": "u-1"}]}
    assert (await send(gateway, "POST", COLLECTION, new)).status == 201
    by_id = await send(
        gateway, "PUT", "/api/2022-08-01/33/advertisers/n-2.json", {"name": "New", "users": []}
    )
    assert by_id.status == 200
    assert (await send(gateway, "PUT", ADVERTISER, {"name": "Other"})).status == 200


async def test_a_collection_is_checked_for_what_its_body_names(gateway, upstream):
    body = {"id_from_network": "706", "name": "J", "users": []}
    answer = await send(gateway, "POST", COLLECTION, body)
    assert (answer.status, answer.json["removals"]) == (409, {"users": ["u-ann706"]})
    for name in ("../707", "a/b", ""):
        refused = await send(gateway, "POST", COLLECTION, body | {"id_from_network": name})
        assert refused.status == (403 if not name else 400)  # the vendor itself refuses one without an id
    assert upstream.network.advertisers["706"]["users"]


def after_reads(upstream, number: int, change) -> None:
    """Change what is stored right after so many reads of it have been answered."""
    arrive, seen = upstream.arrive, []

    def arriving(ask):
        answered = arrive(ask)
        if ask.method == "GET":
            seen.append(ask)
            if len(seen) == number:
                change()
        return answered

    upstream.arrive = arriving


async def test_a_set_that_changes_between_check_and_write_is_409_and_nobody_is_lost(gateway, upstream):
    users = upstream.network.users
    after_reads(upstream, 1, lambda: users.append(sample_user(upstream.network, "late")))
    answer = await send(gateway, "PUT", NETWORK, {"users": [PAT]}, 1)
    assert (answer.status, answer.problem) == (409, "removals-unconfirmed")
    assert answer.json["removals"] == {"users": ["u-kim", "u-late"]}
    assert names(users) == ["u-pat", "u-kim", "u-root", "u-late"]
    assert not writes(upstream)
    again = await send(gateway, "PUT", NETWORK, {"users": [PAT]}, 1)
    assert again.status == 409
    assert (await send(gateway, "PUT", NETWORK, {"users": [PAT]}, 2)).status == 200


async def test_a_set_that_changes_without_a_removal_is_409_too(gateway, upstream):
    users = upstream.network.users
    after_reads(upstream, 1, lambda: users.append(sample_user(upstream.network, "late")))
    answer = await send(gateway, "PUT", NETWORK, {"users": [PAT, KIM]})
    assert (answer.status, answer.json["removals"]) == (409, {"users": ["u-late"]})


async def test_one_replaced_by_another_does_not_pass_for_the_same_number(gateway, upstream):
    def swap():
        upstream.network.users[1] = sample_user(upstream.network, "late")

    after_reads(upstream, 1, swap)
    answer = await send(gateway, "PUT", NETWORK, {"users": [PAT]}, 1)
    assert (answer.status, answer.json["removals"]) == (409, {"users": ["u-late"]})


async def test_two_writes_at_once_do_not_undo_each_other_unseen(gateway, upstream):
    adding = [{"users": [PAT, KIM, {"id_from_network": f"u-{n}"}]} for n in range(2)]
    first, second = await asyncio.gather(*(send(gateway, "PUT", NETWORK, body) for body in adding))
    assert sorted([first.status, second.status]) == [200, 409]
    assert len(upstream.network.users) == 4


async def test_a_write_to_a_set_waits_until_the_one_before_it_was_answered(start):
    async def script(peer: Peer) -> None:
        while True:
            if (await peer.request()).startswith(b"PUT"):
                await asyncio.sleep(0.1)  # the other would read, and find what this one is about to change
            await peer.say(BARE)

    async with RawUpstream(script) as raw:
        gateway = await start(raw.port)
        body = {"users": [PAT]}
        both = await asyncio.gather(*(send(gateway, "PUT", NETWORK, body) for _ in range(2)))
    assert [answer.status for answer in both] == [200, 200]
    assert [request[:3] for request in raw.requests] == [b"GET", b"GET", b"PUT"] * 2


@pytest.mark.parametrize("fault", ["500", "401", "302", "truncate", "close"])
@pytest.mark.parametrize("read", [1, 2])
async def test_what_cannot_be_read_is_not_replaced(gateway, upstream, fault, read):
    if read == 1:
        upstream.faults.next(fault, 2)  # a read is sent once more where its connection was closed
    else:
        after_reads(upstream, 1, lambda: upstream.faults.next(fault, 2))
    answer = await send(gateway, "PUT", NETWORK, {"users": []}, 2)
    assert answer.status in (502, 504)
    assert not writes(upstream)
    assert len(upstream.network.users) == 3


NOBODY = b'{"errors": {"class": "RecordNotFound", "invalid_data": "x"}}'


@pytest.mark.parametrize(
    ("status", "body", "written"),
    [
        (404, NOBODY, True),
        (404, b"<html>no such host", False),
        (404, b'{"errors": {"class": "InternalServiceError", "invalid_data": "x"}}', False),
        (403, NOBODY, False),
        (201, b'{"users": []}', False),
        (200, b'{"users": []}' + b" " * 9_000_000, False),
    ],
)
async def test_only_the_vendors_own_word_says_that_nothing_is_stored(start, status, body, written):
    answer = reply(f"{status} X", "Content-Type: application/json", body=body)

    async def script(peer: Peer) -> None:
        while (request := await peer.request()).startswith(b"GET"):
            await peer.say(answer)
        assert written, request
        await peer.say(OK)

    async with RawUpstream(script) as raw:
        gateway = await start(raw.port)
        heard = await send(gateway, "PUT", NETWORK, {"users": []})
    assert heard.status == (200 if written else 502)
    assert written or all(request.startswith(b"GET") for request in raw.requests)


async def test_a_slow_answer_to_one_write_keeps_no_other_waiting(gateway, upstream):
    after_reads(upstream, 2, lambda: upstream.faults.next("slow", seconds=3))
    body = {"users": [PAT, KIM]}
    slow = asyncio.create_task(send(gateway, "PUT", NETWORK, body))
    async with asyncio.timeout(5):
        while "PUT" not in writes(upstream):  # noqa: ASYNC110 - the sandbox tells nobody
            await asyncio.sleep(0.01)
    assert (await send(gateway, "PUT", NETWORK, body)).status == 200
    assert not slow.done()
    assert (await slow).status == 200


@pytest.mark.parametrize("confirms", ["", "-1", "1.0", "01", "two", "1, 1", "9999999"])
async def test_a_confirmation_that_is_no_number_is_refused(gateway, upstream, confirms):
    answer = await send(gateway, "PUT", NETWORK, {"users": []}, confirms)
    assert (answer.status, answer.problem) == (400, "bad-header")
    assert not upstream.journal


async def test_a_confirmation_that_stands_twice_is_refused(gateway, upstream):
    request = sized(
        f"PUT {NETWORK} HTTP/1.1", b'{"users":[]}', "Confirm-Removals: 2", "confirm-removals: 2",
        token=gateway.tokens["network_admin"],
    )  # fmt: skip
    assert (await ask(gateway, request)).kind == "bad-header"


async def test_policy_has_its_say_before_the_guard(gateway, upstream):
    made = await gateway.create(scopes=["network:read", "network:write"])
    answer = await gateway.request(
        "PUT", ADVERTISER, made["token"], json={"users": []}, headers={"Confirm-Removals": "1"}
    )
    assert (answer.status, answer.problem) == (403, "insufficient-scope")
    assert not upstream.journal


async def test_who_would_be_removed_is_recorded_by_neither_line(gateway, upstream):
    await send(gateway, "PUT", NETWORK, {"users": []})
    await send(gateway, "PUT", NETWORK, {"users": []}, 2)
    records = [record for record in gateway.records() if record.get("operation") == "network_users_update"]
    assert [(record["event"], record.get("problem")) for record in records] == [
        ("exchange", "removals-unconfirmed"), ("begun", None), ("exchange", None),
    ]  # fmt: skip
    assert "u-pat" not in repr(records)
