"""Network Integration answers on both ways: secrets, people and ways past the gateway stay here, whatever is sent."""

from __future__ import annotations

import json

import pytest

from gateway.demo import NETWORK
from gateway.model import Account
from tests.conftest import add_person
from tests.integration.test_answers import reply
from tests.integration.test_fast_path import piecewise
from tests.integration.test_wire import NAMED, PUT, connect, sized
from tests.upstream import Peer, answers
from tests.ways import GENERAL, on_both_ways, outcomes, scene

JSON = "Content-Type: application/json; charset=utf-8"
USERS = "/api/2022-08-01/33/advertisers/706/users.json"
POOL = {
    "id": 1,
    "api_key": "S3CR3T",
    "name": "Search",
    "amount": 1.5,
    "object_url": "https://x.example.com/S3CR3T",
}
PEOPLE = {
    "name": "Juniper",
    "oauth_refresh_token": "S3CR3T",
    "users": [{"id_from_network": "u-1", "first_name": "S3CR3T", "name": "S3CR3T", "role": "Super"}],
}
CLEAN = json.dumps([{"id": n, "name": f"Advertiser {n}", "amount": 1.10} for n in range(3_000)]).encode()


def rows(*others: object) -> bytes:
    """A long list that turns suspicious at its end."""
    return CLEAN[:-1] + b"".join(b", " + json.dumps(other).encode() for other in others) + b"]"


def chunked(body: bytes, size: int, *fields: str) -> bytes:
    head = "\r\n".join(("HTTP/1.1 200 OK", JSON, "Transfer-Encoding: chunked", *fields, "", "")).encode()
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"


@on_both_ways
async def test_a_body_with_nothing_in_it_passes_to_the_byte_with_its_length(way, tmp_path):
    async with scene(way, answers(reply("200 OK", JSON, body=CLEAN[:1_200])), tmp_path) as at:
        heard = await at.ask()
        assert (heard.body, heard.headers["content-length"]) == (CLEAN[:1_200], "1200")
        assert "gateway-withheld" not in heard.headers
        at.went()
        assert "withheld" not in await at.settled()


@on_both_ways
async def test_what_is_withheld_is_gone_and_the_head_and_the_record_say_so(way, tmp_path):
    body = json.dumps([POOL, PEOPLE]).encode()
    async with scene(way, answers(reply("200 OK", JSON, body=body)), tmp_path) as at:
        heard = await at.ask()
        shown = json.loads(heard.body)
        assert shown == [
            {"id": 1, "name": "Search", "amount": 1.5},
            {"name": "Juniper", "users": [{"id_from_network": "u-1", "role": "Super"}]},
        ]
        assert heard.headers["gateway-withheld"] == "link;fields=1, pii;fields=2, secret;fields=2"
        assert int(heard.headers["content-length"]) == len(heard.body)
        at.went()
        record = await at.settled()
        assert record["withheld"] == {"link": 1, "pii": 2, "secret": 2}
        assert (record["outcome"], record["bytes_out"]) == ("complete", len(heard.body))


@pytest.mark.parametrize("size", [1, 7, 1_000, 65_536])
@on_both_ways
async def test_a_long_body_that_turns_suspicious_loses_only_what_is_withheld(way, tmp_path, size):
    body = rows(POOL, PEOPLE)
    if size == 1:
        body = CLEAN[:4_000].rpartition(b", {")[0] + b"," + json.dumps(POOL).encode() + b"]"
    async with scene(way, answers(chunked(body, size)), tmp_path) as at:
        heard = await at.ask()
        assert b"S3CR3T" not in heard.body
        shown = json.loads(heard.body)
        assert shown[:-2] == json.loads(body)[: len(shown) - 2]
        assert (await at.settled())["withheld"]["secret"] in (1, 2)


UNREADABLE = {
    "ends too early": (JSON, b'{"api_key": "S3CR3T", "a": 1'),
    "no JSON": (JSON, b"<api_key>S3CR3T</api_key>"),
    "no quotes": (JSON, b"{api_key: 'S3CR3T'}"),
    "two documents": (JSON, b'{"api_key": 1} {"x": "S3CR3T"}'),
    "a NUL": (JSON, b'{"a\0": "S3CR3T"}'),
    "UTF-16": (JSON, '{"api_key": "S3CR3T"}'.encode("utf-16")),
    "UTF-16, said": ("Content-Type: application/json; charset=utf-16", b"{}"),
    "overlong": (JSON, b'{"\xc1\xa1pi_key": "S3CR3T"}'),
    "not UTF-8": (JSON, b'{"token": 1, "a": "\xff"}'),
    "HTML": ("Content-Type: text/html", b"<p>S3CR3T"),
    "csv": ("Content-Type: text/csv", b"a,b"),
    "depth": (JSON, b'{"token": ' + b"[" * 100_000),
    "a byte order mark": (JSON, b'\xef\xbb\xbf{"api_key": "S3CR3T"}'),
    "an endless name": (JSON, b'{"token' + b"x" * 1_100_000),
}


@pytest.mark.parametrize("case", UNREADABLE)
@on_both_ways
async def test_what_cannot_be_read_is_502_without_a_byte_of_it(way, tmp_path, case):
    field, body = UNREADABLE[case]
    async with scene(way, answers(reply("200 OK", field, body=body)), tmp_path) as at:
        heard = await at.ask()
        assert (heard.status, heard.kind) == (502, "upstream-unreadable")
        assert b"S3CR3T" not in heard.body
        at.went()
        assert (await at.settled())["outcome"] == "refused"


@on_both_ways
async def test_what_cannot_be_read_on_once_bytes_are_out_is_cut(way, tmp_path):
    parts = [chunked(CLEAN, 200_000)[:-5], b'14\r\n{"api_key" "S3CR3T"}\r\n0\r\n\r\n']
    async with scene(way, piecewise(*parts), tmp_path) as at:
        async with connect(at.running) as line:
            await line.send(at.get())
            heard, how = await line.end()
        assert how == "reset"
        assert b"S3CR3T" not in heard
        record = await at.settled()
        assert (record["outcome"], record["problem"]) == ("cut", "upstream-unreadable")


LONG = [
    reply("200 OK", JSON, body=rows(POOL)),
    chunked(rows(PEOPLE), 10_000),
    reply("200 OK", JSON, body=json.dumps([POOL] * 3_000).encode()),
    reply("201 Made", JSON, "Location: /api/2022-08-01/33/advertisers/1.json", body=b"{}"),
    chunked(json.dumps([PEOPLE, POOL]).encode(), 20),
    reply("200 OK", JSON, body=b'{"token": '),
    reply("204 No Content", "Content-Type: text/plain"),
]


@pytest.mark.parametrize("number", range(len(LONG)))
async def test_both_ways_withhold_the_same(tmp_path, number):
    short, general = await outcomes(answers(LONG[number]), tmp_path)
    for each in (short, general):  # their gateways have addresses of their own
        each.headers.pop("location", None)
    assert short == general
    assert b"S3CR3T" not in short.body


BS = "\\"
DEEP = '{"a":' * 60 + '{"api_key": "S3CR3T", "b": 1}' + "}" * 60
SPELLED = {
    "escaped": (f'{{"{BS}u0061pi_key": "S3CR3T", "a": 1}}', {"a": 1}),
    "escaped with capitals": (f'{{"api{BS}u005FK{BS}u0045Y": "S3CR3T", "a": 1}}', {"a": 1}),
    "escaped whole": ('{"' + "".join(f"{BS}u{ord(c):04x}" for c in "token") + '": ["S3CR3T"]}', {}),
    "twice": ('{"api_key": "S3CR3T", "a": 1, "api_key": {"b": "S3CR3T"}}', {"a": 1}),
    "twice, once in disguise": (f'{{"api_key": null, "{BS}u0041PI-key": "S3CR3T"}}', {}),
    "other marks": (
        '[{"API-Key": "S3CR3T"}, {"OAuthRefreshToken": "S3CR3T"}, {"apiKey": "S3CR3T"}]',
        [{}] * 3,
    ),
    "nested": (DEEP, json.loads(DEEP.replace('"api_key": "S3CR3T", ', ""))),
    "in a list in a list": ('[[[{"x_secret": [["S3CR3T"]]}]]]', [[[{}]]]),
    "a name within a value": ('{"a": "api_key\\": \\"", "password": "S3CR3T"}', {"a": 'api_key": "'}),
    "space": ('{ "api_key"\t:\r\n"S3CR3T"\n,\n"a" : 1.10 }', {"a": 1.1}),
    "a number": ('{"token": 1e400, "a": 5, "recording": {"at": "S3CR3T"}}', {"a": 5}),
    "people": ('{"users": {"x": [{"FIRST_NAME": "S3CR3T", "Phone": "S3CR3T"}]}}', {"users": {"x": [{}]}}),
    "escaped slashes": (f'{{"a": "https:{BS}/{BS}/x.invoca.net{BS}/S3CR3T"}}', {"a": None}),
    "an escaped host": (f'{{"a": "https://x.invo{BS}u0063a.net/S3CR3T"}}', {"a": None}),
    "credentials before a host": ('{"a": "https://S3CR3T@Cedar.INVOCA.net:443"}', {"a": None}),
}


@pytest.mark.parametrize("case", SPELLED)
@on_both_ways
async def test_no_spelling_of_a_name_or_an_address_hides_what_it_holds(way, tmp_path, case):
    text, visible = SPELLED[case]
    body = text.encode()
    once, dripping = reply("200 OK", JSON, body=body), chunked(body, 1)

    async def script(peer: Peer) -> None:
        for answer in (once, dripping, once):
            await peer.request()
            await peer.say(answer)

    async with scene(way, script, tmp_path) as at:
        for _ in range(3):
            heard = await at.ask()
            assert (heard.status, json.loads(heard.body)) == (200, visible)
            assert b"S3CR3T" not in heard.body + repr(heard.headers).encode()
        at.went(3)


@pytest.mark.parametrize("framed", [True, False])
@on_both_ways
async def test_a_body_that_ends_at_any_byte_lets_nothing_out(way, tmp_path, framed):
    body = b'{"id": 1, "token": "S3CR3T", "users": [{"email": "S3CR3T"}], "url": "//a.invoca.net/S3CR3T"} '

    async def script(peer: Peer) -> None:
        while True:
            size = int((await peer.request()).partition(b"limit=")[2].partition(b" ")[0])
            if framed:
                await peer.say(reply("200 OK", JSON, body=body[:size]))
            else:
                await peer.say(reply("200 OK", JSON, body=body)[: size - len(body)])
                return

    async with scene(way, script, tmp_path) as at:
        for size in range(1, len(body)):
            async with connect(at.running) as line:
                await line.send(at.get("Connection: close", target=f"{USERS}?limit={size}"))
                heard, how = await line.end()
            assert b"S3CR3T" not in heard, size
            assert framed or how == "reset" or b"HTTP/1.1 502" in heard, size


TOLD = [
    (403, {"errors": {"class": "RecordInvalid", "invalid_data": "x", "api_key": "S3CR3T"}}),
    (403, {"errors": {"class": "RecordInvalid", "invalid_data": {"api_key": "S3CR3T"}}}),
    (403, {"errors": {"name": ["x"], "api_key": ["S3CR3T"]}}),
    (403, {"errors": {"users": [{"oauth_refresh_token": ["S3CR3T"]}]}}),
    (403, {"errors": {"name": ["x"]}, "status": "Applied", "api_key": "S3CR3T"}),
    (404, {"errors": {"name": ["x"]}, "status": {"api_key": "S3CR3T"}}),
    (404, {"error": {"ivr_tree": {"children": [{"0": {"Api-Key": ["S3CR3T"]}}]}}}),
    (422, {"error": {"ivr_tree": {"api_key": "S3CR3T"}}}),
    (500, {"errors": {"class": "InternalServiceError", "invalid_data": "S3CR3T, handle 12"}}),
    (401, {"errors": {"class": "UnauthorizedOperation", "invalid_data": "S3CR3T"}}),
    (302, {"errors": {"class": "Moved", "invalid_data": "S3CR3T"}}),
]


@pytest.mark.parametrize("number", range(len(TOLD)))
@on_both_ways
async def test_a_refusal_with_a_secret_in_it_is_told_without_its_words(way, tmp_path, number):
    status, document = TOLD[number]
    body = json.dumps(document).replace("api_key", "\\u0061pi_key").encode()
    place = "Location: https://x.invoca.net/S3CR3T"
    async with scene(way, answers(reply(f"{status} No", JSON, place, body=body)), tmp_path) as at:
        heard = await at.ask()
        assert heard.status == (status if status in (403, 404, 422) else 502)
        assert heard.kind.startswith("upstream-")
        assert b"S3CR3T" not in heard.body + repr(heard.headers).encode()
        at.went()


@pytest.mark.parametrize(
    "page", ["", "{vendor}/S3CR3T", "https://evil.example.com/api/x", "//evil.example.com/api/x"]
)
@on_both_ways
async def test_addresses_at_the_vendors_lead_through_the_gateway_or_nowhere(way, tmp_path, page):
    async def script(peer: Peer) -> None:
        await peer.request()
        vendor = f"http://127.0.0.1:{peer.upstream.port}"
        body = {
            "next": f"{vendor}/api/2022-08-01/33/advertisers.json?limit=1",
            "page": "https://cedar.invoca.net/home",
            "recording": "https://storage.example.com/a.wav?signature=S3CR3T",
            "url": "https://www.example.com/offer",
            "text": f"see {vendor}/home",
        }
        place = page.format(vendor=vendor) or f"{vendor}/api/2022-08-01/33/x.json"
        await peer.say(reply("201 Made", JSON, f"Location: {place}", body=json.dumps(body).encode()))

    async with scene(way, script, tmp_path) as at:
        heard, ours = await at.ask(), at.running.gateway.config.public_url
        at.went()
    shown = json.loads(heard.body)
    assert (shown["next"], shown["page"]) == (f"{ours}/api/2022-08-01/33/advertisers.json?limit=1", None)
    assert shown["url"] == "https://www.example.com/offer"
    assert shown["text"].startswith("see http://127.0.0.1:")  # a text is not for us to change
    assert "recording" not in shown
    assert heard.headers.get("location") == (None if page else f"{ours}/api/2022-08-01/33/x.json")
    assert heard.headers["gateway-withheld"] == "link;fields=2"


@on_both_ways
async def test_where_all_is_about_users_every_name_and_phone_is_somebodys(way, tmp_path):
    body = b'[{"id": 1, "name": "S3CR3T", "mobile_phone": "S3CR3T", "x": {"Name": "S3CR3T"}}]'
    async with scene(way, answers(reply("200 OK", JSON, body=body)), tmp_path) as at:
        heard = await at.ask(at.get(target=USERS))
        assert json.loads(heard.body) == [{"id": 1, "x": {}}]
        assert heard.headers["gateway-withheld"] == "pii;fields=3"


@on_both_ways
async def test_the_answer_to_a_write_is_protected_too(way, tmp_path):
    body = json.dumps(PEOPLE).encode()
    async with scene(way, answers(reply("200 OK", JSON, body=body)), tmp_path) as at:
        heard = await at.ask(sized(PUT, NAMED, token=at.running.tokens["network"]))
        assert b"S3CR3T" not in heard.body
        assert heard.headers["gateway-withheld"] == "pii;fields=2, secret;fields=1"


@pytest.mark.parametrize("case", [*SPELLED, *UNREADABLE])
async def test_the_answer_to_a_write_can_hide_no_more_than_that_to_a_read(tmp_path, case):
    field, body = UNREADABLE[case] if case in UNREADABLE else (JSON, SPELLED[case][0].encode())
    async with scene(GENERAL, answers(reply("201 Made", field, body=body)), tmp_path) as at:
        heard = await at.ask(sized(PUT, NAMED, token=at.running.tokens["network"]))
        assert (heard.status, heard.kind) == ((201, "") if case in SPELLED else (502, "upstream-unreadable"))
        assert b"S3CR3T" not in heard.body


async def test_people_are_shown_to_whom_policy_shows_them_and_secrets_to_nobody(gateway):
    paths = [
        "/33/network.json",
        "/33/advertisers/706.json",
        "/33/affiliates/808.json",
        "/33/advertisers/706/users.json",
    ]
    for path in paths:
        plain = await gateway.get("/api/2022-08-01" + path, "network_admin")
        assert plain.status == 200
        for word in (b"first_name", b"email", b"contact_phone", b"oauth", b"O'Vale", b"541-555-0101"):
            assert word not in plain.body
        assert b"id_from_network" in plain.body
    await add_person(gateway, "seeing", NETWORK, scopes=("network:read", "reveal:pii"))
    for path in paths:
        shown = await gateway.get("/api/2022-08-01" + path, "seeing")
        for word in (b"first_name", b"email_address", b"O'Vale", b"541-555-0101"):
            assert word in shown.body
        assert b"oauth" not in shown.body
        assert "pii" not in shown.headers["Gateway-Withheld"]


async def test_a_key_of_a_ring_pool_stays_here(gateway, upstream):
    path = "/api/2022-08-01/33/advertisers/706/advertiser_campaigns/spring/ring_pools.json"
    answer = await gateway.get(path, "network")
    assert answer.status == 200
    assert answer.json[0]["id_from_network"] == "pool-spring"
    assert "api_key" not in answer.json[0]
    assert answer.headers["Gateway-Withheld"] == "link;fields=1, secret;fields=1"


CAMPAIGN = "/api/2022-08-01/33/advertisers/706/advertiser_campaigns/spring.json"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"destination_advertiser_id_from_network": "707"}, 200),
        ({"destination_advertiser_id_from_network": "900"}, 403),
        ({"deep": [{"Destination-Advertiser_ID_from_network": "900"}]}, 403),
        ({"advertiser_id": "900"}, 403),
        ({"advertiser_id": 706}, 200),
        ({"advertiser_id": 99_999}, 403),
        ({"network_id": 33}, 200),
        ({"network_id": 44}, 403),
        ({"affiliate_id_from_network": ["808", None]}, 200),
        ({"affiliate_id_from_network": {"id": "808"}}, 400),
        ({"api_key": "x"}, 400),
        ({"deep": [{"API-Key": "x"}]}, 400),
        ({"oauth_refresh_token": None}, 400),
    ],
)
async def test_ids_in_bodies_reach_no_further_than_ids_in_paths(gateway, upstream, body, status):
    await gateway.gateway.store.add_account(Account("advertiser", "900", "44"))
    answer = await gateway.request("PUT", CAMPAIGN, "network", json=body)
    assert answer.status == status
    assert bool(upstream.journal) == (status == 200)
    assert status != 403 or answer.problem == "account-not-allowed"


async def test_a_token_for_some_advertisers_names_no_others(gateway):
    accounts = ["network:33", "advertiser:706"]
    made = await gateway.create(scopes=["network:read", "network:write"], accounts=accounts)
    for name, status in (("706", 200), ("707", 403)):
        body = {"destination_advertiser_id_from_network": name}
        answer = await gateway.request("PUT", CAMPAIGN, made["token"], json=body)
        assert answer.status == status, answer.body
