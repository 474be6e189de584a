"""The sandbox on the wire: credentials, journal, faults, overridden methods, bodies."""

import asyncio
import csv
import io
import json
import time

import aiohttp
import pytest
from defusedxml import ElementTree
from yarl import URL

from gateway.sandbox import Sandbox, Seen, start
from gateway.sandbox.exchange import Ask

NETWORK = "/api/2022-08-01/33/network.json"
ROWS = "/api/2020-10-01/networks/transactions/33"
BASIC = "Basic dXNlckBleGFtcGxlLmNvbTpU"  # user@example.com:T
TOKEN = {"Authorization": "T"}


class Running:
    """A sandbox with its port and one client."""

    def __init__(self, sandbox, port, client):
        self.sandbox = sandbox
        self.base = f"http://127.0.0.1:{port}"
        self.client = client

    async def __call__(self, method, path, headers=TOKEN, **rest):
        async with self.client.request(
            method, self.base + path, headers=headers, allow_redirects=False, **rest
        ) as reply:
            return reply, await reply.read()


@pytest.fixture
def credential():
    return "T"


@pytest.fixture
async def running(credential):
    sandbox = Sandbox(credential, calls=60)
    runner, port = await start(sandbox)
    async with aiohttp.ClientSession() as client:
        yield Running(sandbox, port, client)
    await runner.cleanup()


# Credentials


@pytest.mark.parametrize(
    ("channel", "headers", "query", "body"),
    [
        ("header", TOKEN, "", None),
        ("basic", {"Authorization": BASIC}, "", None),
        ("query", {}, "?oauth_token=T", None),
        ("body", {}, "", {"oauth_token": "T", "users": []}),
    ],
)
async def test_each_of_the_four_channels_is_accepted_and_named(running, channel, headers, query, body):
    reply, _ = await running("PUT" if body else "GET", NETWORK + query, headers, json=body)
    assert reply.status == 200
    assert reply.headers["Sandbox-Credential"] == channel
    assert [name for name, _ in running.sandbox.journal[-1].credentials] == [channel]


async def test_several_credentials_are_all_named_and_all_journalled(running):
    reply, _ = await running("POST", f"{NETWORK}?oauth_token=q", json={"oauth_token": "b", "users": []})
    assert (reply.status, reply.headers["Sandbox-Credential"]) == (201, "header,query,body")
    assert running.sandbox.journal[-1].credentials == [("header", "T"), ("query", "q"), ("body", "b")]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "wrong"}, {"Authorization": "Bearer T"}, {"Authorization": "Basic !"}]
)
async def test_without_the_right_credential_the_answer_is_401(running, headers):
    reply, body = await running("GET", NETWORK, headers)
    assert reply.status == 401
    assert json.loads(body)["errors"]["class"] == "UnauthorizedOperation"
    assert reply.headers.get("Sandbox-Credential") == (
        ("basic" if "!" in str(headers) else "header") if headers else None
    )


@pytest.mark.parametrize("credential", [None])
async def test_without_a_credential_of_its_own_it_takes_any_but_needs_one(running):
    assert (await running("GET", NETWORK, {"Authorization": "whatever"}))[0].status == 200
    assert (await running("GET", NETWORK, {}))[0].status == 401


async def test_a_token_in_a_body_is_not_stored(running):
    path = "/api/2022-08-01/33/advertisers/706/advertiser_campaigns/spring.json"
    _, body = await running("PUT", path, {}, json={"oauth_token": "T", "description": "d"})
    assert b"oauth_token" not in body


# Journal


async def test_the_journal_tells_what_arrived_as_it_arrived(running):
    target = f"{ROWS}.json?limit=1&%41=%2F"
    url = URL(running.base + target, encoded=True)
    await running.client.get(url, headers={"Authorization": "T", "X-Odd": "å"})
    seen = running.sandbox.journal[-1]
    assert isinstance(seen, Seen)
    assert (seen.method, seen.target, seen.body_bytes) == ("GET", target, 0)
    assert ("X-Odd", "å") in seen.headers


async def test_the_journal_is_read_and_cleared_over_http(running):
    await running("GET", NETWORK)
    await running("PUT", NETWORK, json={"users": []})
    _, body = await running("GET", "/sandbox/journal?limit=1", {})
    assert [(seen["method"], seen["body_bytes"]) for seen in json.loads(body)] == [("PUT", 13)]
    assert (await running("DELETE", "/sandbox/journal", {}))[0].status == 204
    assert json.loads((await running("GET", "/sandbox/journal", {}))[1]) == []


def test_the_journal_keeps_the_last_thousand():
    sandbox = Sandbox(calls=0)
    for number in range(1005):
        sandbox.arrive(Ask("GET", f"/{number}", []))
    assert [sandbox.journal[place].target for place in (0, -1)] == ["/5", "/1004"]


# Methods and bodies


@pytest.mark.parametrize(
    "how",
    [
        {"headers": {**TOKEN, "X-HTTP-Method-Override": "DELETE"}},
        {"params": {"_method": "delete"}},
        {"data": {"_method": "DELETE"}},
    ],
)
async def test_a_post_may_act_as_another_method(running, how):
    item = "/api/2022-08-01/33/customer_phone_numbers/310.json"
    assert (await running("POST", item, **how))[0].status == 200
    assert (await running("GET", item))[0].status == 404


async def test_only_a_post_is_overridden(running):
    item = "/api/2022-08-01/33/customer_phone_numbers/310.json"
    reply, _ = await running("GET", item, {**TOKEN, "X-HTTP-Method-Override": "DELETE"})
    assert reply.status == 200
    assert (await running("GET", item))[0].status == 200


@pytest.mark.parametrize(
    "sent",
    [
        {"data": {"users": "x"}},
        {"data": b"{"},
        {"data": b"[]"},
        {"data": b'{"a": NaN}'},
        {"data": b'{"a": "\xff"}'},
    ],
)
async def test_a_body_that_is_no_json_object_is_refused_with_a_class(running, sent):
    reply, body = await running("PUT", NETWORK, **sent)
    assert reply.status == 403
    assert json.loads(body)["errors"]["class"] == "RecordInvalid"


async def test_a_head_is_a_get_without_a_body(running):
    reply, body = await running("HEAD", f"{ROWS}.csv?limit=1")
    assert (reply.status, body) == (200, b"")
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"


async def test_a_path_that_is_none_is_not_found_in_the_vendors_shape(running):
    for path in ("/", "/api", "/api/2022-08-01", "/nothing/here", "/api/2022-08-01/33/nothing.json"):
        reply, body = await running("GET", path)
        assert (path, reply.status, json.loads(body)["errors"]["class"]) == (path, 404, "RecordNotFound")


async def test_the_three_formats_of_one_request_agree(running):
    bodies = [
        (await running("GET", f"{ROWS}.{suffix}?exclude_columns=custom_data"))[1]
        for suffix in ("json", "csv", "xml")
    ]
    from_json = [row["transaction_id"] for row in json.loads(bodies[0])]
    from_csv = [row["transaction_id"] for row in csv.DictReader(io.StringIO(bodies[1].decode(), newline=""))]
    from_xml = [element.text for element in ElementTree.fromstring(bodies[2]).iter("transaction_id")]
    assert from_json == from_csv == from_xml


async def test_four_thousand_rows_in_all_columns_come_in_seconds():
    runner, port = await start(Sandbox("T", calls=4000))
    began = time.monotonic()
    async with (
        aiohttp.ClientSession(headers=TOKEN) as client,
        client.get(f"http://127.0.0.1:{port}{ROWS}.csv?limit=4000") as reply,
    ):
        assert len(await reply.read()) > 1_000_000
    assert time.monotonic() - began < 4  # twice the aim: the machine may be busy
    await runner.cleanup()


# Faults


@pytest.mark.parametrize(("kind", "status"), [("500", 500), ("401", 401), ("302", 302)])
async def test_a_fault_replaces_the_next_answer_and_only_that(running, kind, status):
    running.sandbox.faults.next(kind)
    assert (await running("DELETE", "/api/2022-08-01/33/customer_phone_numbers/310.json"))[0].status == status
    assert (await running("GET", "/api/2022-08-01/33/customer_phone_numbers/310.json"))[0].status == 200


async def test_a_service_error_has_a_handle_that_changes(running):
    running.sandbox.faults.next("500", count=2)
    errors = [json.loads((await running("GET", NETWORK))[1])["errors"] for _ in range(2)]
    assert errors[0]["class"] == "InternalServiceError"
    assert errors[0]["invalid_data"] != errors[1]["invalid_data"]


async def test_faults_are_ordered_over_http(running):
    reply, body = await running("POST", "/sandbox/faults", {}, json={"next": "401", "count": 2})
    assert (reply.status, json.loads(body)) == (200, {"pending": ["401", "401"]})
    assert (await running("GET", NETWORK))[0].status == 401
    assert json.loads((await running("GET", "/sandbox/faults", {}))[1]) == {"pending": ["401"]}
    await running("DELETE", "/sandbox/faults", {})
    assert (await running("GET", NETWORK))[0].status == 200


@pytest.mark.parametrize("wish", [{"next": "sulk"}, {}, [], {"next": "500", "count": "many"}])
async def test_a_fault_that_is_none_is_a_bad_request(running, wish):
    assert (await running("POST", "/sandbox/faults", {}, json=wish))[0].status == 400


async def test_close_cuts_the_connection_without_an_answer(running):
    running.sandbox.faults.next("close")
    with pytest.raises(aiohttp.ClientConnectionError):
        await running("POST", NETWORK, json={"users": []})  # a PUT would be sent again by the client


@pytest.mark.parametrize("path", [NETWORK, f"{ROWS}.json"])
async def test_truncate_promises_more_than_it_sends(running, path):
    running.sandbox.faults.next("truncate")
    with pytest.raises(aiohttp.ClientPayloadError):
        await running("GET", path)


async def test_slow_drips_the_whole_answer(running):
    running.sandbox.faults.next("slow", seconds=0.2)
    began = time.monotonic()
    _, body = await running("GET", NETWORK)
    assert json.loads(body)["name"]
    assert time.monotonic() - began >= 0.2


async def test_hang_answers_nothing_and_ends_with_the_client(running):
    running.sandbox.faults.next("hang")
    with pytest.raises(asyncio.TimeoutError):
        await running("GET", NETWORK, timeout=aiohttp.ClientTimeout(total=0.2))
    assert (await running("GET", NETWORK))[0].status == 200


async def test_a_hanging_request_does_not_keep_the_server_from_stopping():
    sandbox = Sandbox("T", calls=5)
    sandbox.faults.next("hang")
    runner, port = await start(sandbox)
    async with aiohttp.ClientSession(headers=TOKEN) as client:
        hanging = asyncio.create_task(client.get(f"http://127.0.0.1:{port}{NETWORK}"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(hanging), 0.2)
        began = time.monotonic()
        await runner.cleanup()
        assert time.monotonic() - began < 0.9
        with pytest.raises(aiohttp.ClientConnectionError):
            await hanging
