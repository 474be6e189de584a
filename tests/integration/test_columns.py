"""Transactions answers on both ways: what a token may not see is neither asked for nor delivered, whatever is sent."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from urllib.parse import parse_qsl, quote, urlencode

import pytest

from gateway.columns import load
from gateway.config import Policies
from gateway.demo import ADVERTISER, AFFILIATE, NETWORK
from gateway.sandbox import Sandbox
from gateway.sandbox.columns import COLUMNS, CUSTOM_COLUMNS, CUSTOM_DATA, SOURCE_COLUMNS
from gateway.sandbox.exchange import Ask
from tests.conftest import UPSTREAM_TOKEN, Clock, add_person
from tests.integration.test_answers import reply
from tests.integration.test_fast_path import piecewise
from tests.integration.test_wire import connect
from tests.upstream import answers
from tests.ways import GENERAL, SHORT, on_both_ways, outcomes, scene

TX = "/api/2020-10-01/networks/transactions/33"
TYPES = {"json": "application/json", "csv": "text/csv", "xml": "application/xml"}
CLASSES = load()


def typed(form: str, body: bytes | str, kind: str = "", status: str = "200 OK", *fields: str) -> bytes:
    body = body.encode() if isinstance(body, str) else body
    return reply(status, f"Content-Type: {kind or TYPES[form] + '; charset=utf-8'}", *fields, body=body)


def chunked(form: str, body: bytes, size: int) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {TYPES[form]}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"


def asked(seen: bytes) -> dict[str, str]:
    """The query that reached the upstream."""
    return dict(parse_qsl(seen.split()[1].decode().partition("?")[2], keep_blank_values=True))


# -- what a hostile upstream sends

JSON_ROW = b'{"transaction_id": "T1", "calling_phone_number": "S3CR3T", "duration": 1.10, "notes": null, "x": "S3CR3T"}'
KEPT = {
    "ignores the columns": (
        "json",
        b"[" + JSON_ROW + b"]",
        b'[{"transaction_id": "T1", "duration": 1.10}]',
        {"pii": 75},
    ),
    "escapes keys": (
        "json",
        rb'[{"\u0063ity": "S3CR3T", "duration": 1.10, "c\u0069ty ": "S3CR3T", "\u0064uration_": "S3CR3T"}]',
        b'[{"duration": 1.10}]',
        {"pii": 76},
    ),
    "renames": ("json", b'[{"City": "S3CR3T", "duration": 10e2}]', b'[{"duration": 10e2}]', {"pii": 75}),
    "nests under a public name": (
        "json",
        b'[{"duration": {"city": "S3CR3T"}, "region": ["S3CR3T"], "mobile": 1}]',
        b'[{"mobile": 1}]',
        {"pii": 76},
    ),
    "hides values in custom_data": (
        "json",
        b'[{"custom_data": [{"name": "x", "value": "S3CR3T"}, {"partner_name": "y", "value": "S3CR3T"}], '
        b'"duration": 1}]',
        b'[{"custom_data": [], "duration": 1}]',
        {"pii": 76},
    ),
    "a number of 5,000 digits": (
        "json",
        b'[{"duration": ' + b"7" * 5_000 + b', "city": ' + b"6" * 5_000 + b"}]",
        b'[{"duration": ' + b"7" * 5_000 + b"}]",
        {"pii": 74},
    ),
    "csv with all columns": (
        "csv",
        b'transaction_id,city,duration\nT1,"S3\nCR3T,""S3CR3T",1.10\nT2,S3CR3T,\nT3,,""\n',
        b'transaction_id,duration\nT1,1.10\nT2,\nT3,""\n',
        {"pii": 74},
    ),
    "csv with quoted names": ("csv", b'"city","duration"\nS3CR3T,1\n', b'"duration"\n1\n', {"pii": 74}),
    "csv with columns nobody knows": ("csv", b"Duration,duration\nS3CR3T,1\n", b"duration\n1\n", {"pii": 75}),
    "xml with all columns": (
        "xml",
        b"<Transactions><Transaction><city>S3CR3T</city><duration>1.10</duration></Transaction></Transactions>",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Transactions>\n  <Transaction><duration>1.10</duration>\n'
        b"  </Transaction>\n</Transactions>\n",
        {"pii": 74},
    ),
    "xml with attributes and cdata": (
        "xml",
        b'<Transactions><Transaction><duration city="S3CR3T">1</duration><mobile><![CDATA[x]]></mobile>'
        b"<city><![CDATA[</city><duration>S3CR3T]]></city></Transaction></Transactions>",
        None,
        {"pii": 75},
    ),
}


@pytest.mark.parametrize("size", [None, 1, 11, 100_000])
@pytest.mark.parametrize("case", KEPT)
@on_both_ways
async def test_nothing_but_what_may_be_seen_comes_out_of_what_is_sent(way, tmp_path, case, size):
    form, body, visible, withheld = KEPT[case]
    if size == 1:
        body = body.replace(b"7" * 5_000, b"7" * 50).replace(b"6" * 5_000, b"6" * 50)
        visible = visible and visible.replace(b"7" * 5_000, b"7" * 50)
    said = typed(form, body) if size is None else chunked(form, body, size)
    async with scene(way, answers(said), tmp_path) as at:
        heard = await at.ask(at.get(target=f"{TX}.{form}"))
        assert heard.status == 200
        assert b"S3CR3T" not in heard.body
        if visible is not None:
            assert heard.body == visible
        # Of the head the columns that were not asked for are known; of what came besides, the record tells.
        assert heard.headers["gateway-withheld"].startswith("pii;columns=74, financial;columns=12")
        at.went()
        record = await at.settled()
        assert record["withheld"] == withheld | {"financial": 12}
        assert (record["outcome"], record["bytes_out"]) == ("complete", len(heard.body))
        assert "city" not in asked(at.requests[-1])["include_columns"].split(",")


GOOD = {
    "json": b"[" + JSON_ROW + b"]",
    "csv": b"city,duration\nS3CR3T,1\n",
    "xml": b"<Transactions><Transaction><city>S3CR3T</city></Transaction></Transactions>",
}
UNREADABLE = {
    "an object": ("json", '{"city": "S3CR3T"}'),
    "the vendor's envelope around rows": ("json", '{"data": [{"city": "S3CR3T"}]}'),
    "a name twice": ("json", '[{"duration": 1, "duration": "S3CR3T"}]'),
    "a name twice, escaped": ("json", '[{"duration": 1, "d\\u0075ration": "S3CR3T"}]'),
    "truncated": ("json", '[{"city": "S3CR3T"'),
    "depth": ("json", '[{"city": ' + "[" * 100_000),
    "a byte order mark": ("json", b"\xef\xbb\xbf" + GOOD["json"]),
    "UTF-16": ("json", GOOD["json"].decode().encode("utf-16")),
    "UTF-16, said": ("json", GOOD["json"], "application/json; charset=utf-16"),
    "another charset": ("csv", GOOD["csv"], "text/csv; charset=iso-8859-1"),
    "HTML": ("json", "<p>S3CR3T</p>", "text/html"),
    "csv for json": ("json", GOOD["csv"], "text/csv"),
    "json for csv": ("csv", GOOD["json"], "application/json"),
    "said to be csv": ("csv", GOOD["json"]),
    "said to be xml": ("xml", GOOD["csv"]),
    "said to be json": ("json", GOOD["xml"]),
    "nothing": ("json", b""),
    "csv without a header": ("csv", b""),
    "csv of another width": ("csv", "duration\n1,S3CR3T\n"),
    "csv with a name twice": ("csv", "duration,duration\n1,S3CR3T\n"),
    "csv with an open quote": ("csv", '"duration\n1\nS3CR3T'),
    "xml with an entity": (
        "xml",
        '<!DOCTYPE a [<!ENTITY e "S3CR3T">]>'
        "<Transactions><Transaction><duration>&e;</duration></Transaction></Transactions>",
    ),
    "xml with a comment": ("xml", "<Transactions><!-- S3CR3T --></Transactions>"),
    "xml of another root": ("xml", "<html><body>S3CR3T</body></html>"),
}


@pytest.mark.parametrize("case", UNREADABLE)
@on_both_ways
async def test_what_cannot_be_read_is_502_without_a_byte_of_it(way, tmp_path, case):
    form, body, *kind = UNREADABLE[case]
    async with scene(way, answers(typed(form, body, *kind)), tmp_path) as at:
        heard = await at.ask(at.get(target=f"{TX}.{form}"))
        assert (heard.status, heard.kind) == (502, "upstream-unreadable")
        assert b"S3CR3T" not in heard.body
        at.went()
        assert (await at.settled())["outcome"] == "refused"


@pytest.mark.parametrize("form", GOOD)
@on_both_ways
async def test_what_cannot_be_read_on_once_rows_are_out_is_cut(way, tmp_path, form):
    row = {"json": JSON_ROW, "csv": b"S3CR3T,1\n", "xml": GOOD["xml"][14:-15]}[form]
    begun = {"json": b"[", "csv": b"city,duration\n", "xml": b"<Transactions>"}[form]
    joined = (b"," if form == "json" else b"").join([row] * 3_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {TYPES[form]}\r\nContent-Length: 9999999\r\n\r\n".encode()
    parts = [head + begun + joined, b'\x00"S3CR3T']
    async with scene(way, piecewise(*parts), tmp_path) as at:
        async with connect(at.running) as line:
            await line.send(at.get(target=f"{TX}.{form}"))
            heard, how = await line.end()
        assert how == "reset"
        assert b"S3CR3T" not in heard
        assert (b"T1" if form == "json" else b"duration" if form == "csv" else b"<Transaction>") in heard
        record = await at.settled()
        assert (record["outcome"], record["problem"]) == ("cut", "upstream-unreadable")


@pytest.mark.parametrize(
    ("status", "kind", "answered"),
    [
        ("201 Made", "", 502), ("203 Said By Others", "", 502), ("204 Nothing", "", 502),
        ("206 Partial Content", "", 502), ("302 Found", "", 502), ("500 Oops", "", 502),
        ("404 Not Found", "", 404), ("403 No", "text/html", 403), ("401 No", "", 502),
    ],
)  # fmt: skip
@on_both_ways
async def test_under_another_status_nothing_withheld_comes_out_either(way, tmp_path, status, kind, answered):
    async with scene(way, answers(typed("json", GOOD["json"], kind, status)), tmp_path) as at:
        heard = await at.ask(at.get(target=f"{TX}.json"))
        assert heard.status == answered
        assert b"S3CR3T" not in heard.body
        at.went()


SAID = {
    "json": typed("json", GOOD["json"]),
    "csv": typed("csv", GOOD["csv"]),
    "xml": chunked("xml", GOOD["xml"], 7),
    "validators": typed("json", GOOD["json"], "", "200 OK", 'ETag: "a"', "Content-MD5: x", "Accept-Ranges: bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
async def test_both_ways_ask_and_answer_the_same(tmp_path, case):
    form = case if case in GOOD else "json"
    found, clock = [], Clock()
    for way in (SHORT, GENERAL):
        async with scene(way, answers(SAID[case]), tmp_path, clock=clock) as at:
            heard = await at.ask(at.get("Range: bytes=0-10", target=f"{TX}.{form}?limit=5"))
            kept = {
                name: value
                for name, value in heard.headers.items()
                if name not in ("date", "gateway-request-id")
            }
            record = await at.settled()
            (seen,) = at.requests
            assert b"\r\naccept-encoding: identity\r\n" in seen.lower()
            assert b"range" not in seen.lower()
            assert not {"etag", "content-md5", "accept-ranges"} & kept.keys()
            found.append((heard.status, kept, heard.body, asked(seen), record["withheld"]))
            at.went()
    assert found[0] == found[1]


@on_both_ways
async def test_a_request_asked_again_is_answered_from_its_plan_and_counts_its_own_answer(way, tmp_path):
    said = [typed("json", GOOD["json"]), typed("json", b'[{"duration": 1}]')]

    async def script(peer):
        for each in (*said, said[0]):
            await peer.request()
            await peer.say(each)

    async with scene(way, script, tmp_path) as at:
        wanted = at.get(target=f"{TX}.json?include_columns=duration,city")
        async with connect(at.running) as line:
            for _ in range(3):
                await line.send(wanted)
                heard = await line.answer()
                assert heard.headers["gateway-withheld"] == "pii;columns=1"
                assert b"S3CR3T" not in heard.body
        await at.settled(3)
        assert [record["withheld"] for record in at.records()] == [{"pii": 4}, {"pii": 1}, {"pii": 4}]
        assert at.repeated == (2 if way == SHORT else 0)


@on_both_ways
async def test_a_policy_decides_what_may_be_seen_of_public_columns_too(way, tmp_path):
    local = tmp_path / "local"
    local.mkdir(exist_ok=True)
    (local / "rules.cedar").write_text(
        '@id("nothing") @source("a test") @reason("Nothing")\n'
        'forbid (principal, action == Action::"see", resource == ColumnClass::"public");\n'
    )
    held = Policies(local=str(local))
    async with scene(way, answers(typed("json", GOOD["json"])), tmp_path, policies=held) as at:
        heard = await at.ask(at.get(target=f"{TX}.json"))
        assert (heard.status, heard.kind) == (403, "columns-withheld")
        assert not at.requests


@on_both_ways
async def test_an_operators_columns_are_asked_for_and_delivered(way, tmp_path):
    local = tmp_path / "local"
    local.mkdir(exist_ok=True)
    (local / "columns.toml").write_text(
        '[public]\n"Visit Booked" = ["network"]\n[financial]\nquote = ["network"]\n[pii]\nduration = ["network"]\n'
    )
    body = (
        '[{"Visit Booked": 1, "quote": "S3CR3T", "duration": "S3CR3T", "custom_data": '
        '[{"partner_name": "Visit Booked", "value": 1}, {"name": "quote", "value": "S3CR3T"}]}]'
    )
    held = Policies(local=str(local))
    async with scene(way, answers(typed("json", body)), tmp_path, policies=held) as at:
        names = quote("Visit Booked,quote,duration,custom_data")
        heard = await at.ask(at.get(target=f"{TX}.json?include_columns={names}"))
        shown = {"Visit Booked": 1, CUSTOM_DATA: [{"partner_name": "Visit Booked", "value": 1}]}
        assert json.loads(heard.body) == [shown]
        assert heard.headers["gateway-withheld"] == "pii;columns=1, financial;columns=1"
        assert asked(at.requests[-1]) == {"include_columns": "Visit Booked,custom_data"}


EVERYTHING = ("transactions:read", "reveal:pii", "reveal:financial")


@pytest.mark.parametrize("form", GOOD)
@on_both_ways
async def test_who_sees_everything_gets_what_was_sent(way, tmp_path, form):
    async with scene(way, answers(typed(form, GOOD[form])), tmp_path) as at:
        await add_person(at.running, "all", NETWORK, scopes=EVERYTHING)
        for _ in range(2):
            heard = await at.ask(at.get(target=f"{TX}.{form}", who="all"))
            assert (heard.body, heard.headers["content-length"]) == (GOOD[form], str(len(GOOD[form])))
            assert "gateway-withheld" not in heard.headers
        assert "withheld" not in await at.settled(2)


@on_both_ways
async def test_who_sees_everything_gets_no_page_that_is_none_either(way, tmp_path):
    async with scene(way, answers(typed("json", b"<p>", "text/html")), tmp_path) as at:
        await add_person(at.running, "all", NETWORK, scopes=EVERYTHING)
        heard = await at.ask(at.get(target=f"{TX}.json", who="all"))
        assert (heard.status, heard.kind) == (502, "upstream-unreadable")


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("limit=0", "bad-parameter"), ("from=2026-01-01", "bad-parameter"), ("other=1", "bad-parameter"),
        ("include_columns=city", "columns-withheld"), ("column_separator=%3B", "bad-parameter"),
    ],
)  # fmt: skip
@on_both_ways
async def test_a_query_that_cannot_be_stood_for_goes_nowhere(way, tmp_path, query, kind):
    async with scene(way, answers(typed("json", GOOD["json"])), tmp_path) as at:
        heard = await at.ask(at.get(target=f"{TX}.json?{query}"))
        assert heard.kind == kind
        assert not at.requests
        assert (await at.settled())["problem"] == kind


# -- the round trip through the sandbox

VIEWS = {
    "networks/transactions/33": (NETWORK, "n", "network"),
    "advertisers/transactions/706": (ADVERTISER, "a", "advertiser"),
    "affiliates/transactions/808": (AFFILIATE, "f", "affiliate"),
}
SEEN = [(), ("pii",), ("financial",), ("pii", "financial")]
STYLES = [
    {},
    {"column_separator": "\t", "include_header": "0"},
    {"column_separator": ";", "row_separator": "\r\n", "force_quotes": "1"},
    {"column_separator": "||", "row_separator": "|\n", "include_header": "1", "force_quotes": "0"},
    {"column_separator": "é", "row_separator": "\n", "include_header": "0", "force_quotes": "1"},
]
OWN = [each.name for each in CUSTOM_COLUMNS] + list(SOURCE_COLUMNS)


def straight(path: str, **query: str) -> bytes:
    """What the sandbox answers to whoever asks it without a gateway."""
    target = f"{path}?{urlencode(query)}"
    made = Sandbox(credential=UPSTREAM_TOKEN).answer(Ask("GET", target, [("Authorization", UPSTREAM_TOKEN)]))
    assert made.status == 200
    return b"".join(made.chunks)


def same(form: str, one: bytes, other: bytes) -> bool:
    if form == "json":
        return bool(json.loads(one, object_pairs_hook=list) == json.loads(other, object_pairs_hook=list))
    return one == other


@pytest.mark.parametrize("seen", SEEN, ids=str)
@pytest.mark.parametrize("place", VIEWS)
async def test_every_column_of_every_view_comes_as_if_the_withheld_ones_were_not_there(gateway, place, seen):
    account, letter, view = VIEWS[place]
    scopes = ("transactions:read", *(f"reveal:{name}" for name in seen))
    await add_person(gateway, "seeing", account, "super", False, scopes)
    reveal = CLASSES.reveal(["public", *seen])
    documented = [column.name for column in CLASSES.columns(view) if column.name != CUSTOM_DATA]
    served = [each.name for each in COLUMNS if each.known(letter, "2020-10-01")]
    assert {*documented} == {*served} - {CUSTOM_DATA}
    every = [*documented, *(OWN if letter != "f" else [])]
    visible = [name for name in every if reveal.sees(name)]
    for form, style in [("json", {}), ("xml", {}), *(("csv", style) for style in STYLES)]:
        path, rows = f"/api/2020-10-01/{place}.{form}", {"limit": "30"} | style
        got = await gateway.get(f"{path}?{urlencode(rows | {'include_columns': ','.join(every)})}", "seeing")
        assert got.status == 200, got.body
        expected = straight(path, **rows, include_columns=",".join(visible))
        assert same(form, got.body, expected), (form, style)
        counts = [
            f"{name};columns={number}"
            for name in ("pii", "financial")
            if (number := sum(reveal.hidden_as(each) == name for each in {*every} - {*visible}))
        ]
        assert got.headers.get("Gateway-Withheld", "") == ", ".join(counts)
        default = await gateway.get(f"{path}?{urlencode(rows)}", "seeing")
        alone = [name for name in documented if reveal.sees(name)]
        custom = "$invoca_custom_columns" if "pii" in seen else ""
        expected = straight(path, **rows, include_columns=",".join([*alone, custom]))
        assert same(form, default.body, expected), (form, style)


async def test_the_constants_and_what_is_excluded_are_honoured(gateway):
    await add_person(gateway, "seeing", NETWORK, "super", False, ("transactions:read", "reveal:pii"))
    query = (
        "include_columns=$invoca_custom_source_columns,transaction_id,duration,city&exclude_columns=duration"
    )
    got = await gateway.get(f"{TX}.json?{query}&limit=3", "seeing")
    assert [[*row] for row in got.json] == [[*SOURCE_COLUMNS, "transaction_id", "city"]] * 3
    plain = await gateway.get(f"{TX}.json?{query}&limit=3", "network")
    assert [[*row] for row in plain.json] == [["transaction_id"]] * 3
    assert plain.headers["Gateway-Withheld"] == "pii;columns=2"


async def test_custom_data_comes_value_by_value(gateway, start, upstream, tmp_path):
    local = tmp_path / "local"
    local.mkdir()
    (local / "columns.toml").write_text('[public]\ngclid = ["network"]\n"Visit Booked" = ["network"]\n')
    opened = await start(
        upstream.port,
        policies=Policies(local=str(local)),
        store=replace(gateway.gateway.config.store, path=str(tmp_path / "other.sqlite3")),
    )
    path = f"{TX}.{{}}?include_columns=custom_data,transaction_id&limit=50"
    for form in ("json", "xml"):
        shown = await opened.get(path.format(form), "network")
        assert shown.status == 200, shown.body
        for secret in (b"patient_email", b"@example.com", b"541-555", b"call_summary"):
            assert secret not in shown.body
        assert b"gclid" in shown.body
        assert b"Visit Booked" in shown.body
    rows = (await opened.get(path.format("json"), "network")).json
    names = [next(iter(entry.values())) for row in rows for entry in row["custom_data"] or ()]
    assert {*names} == {"gclid", "Visit Booked"}
    hidden = await gateway.get(path.format("json"), "network")
    assert {json.dumps(row["custom_data"]) for row in hidden.json} == {"[]", "null"}


async def test_rows_keep_their_order_and_a_client_pages_through_all_of_them(gateway, upstream):
    seen: list[str] = []
    cursor = ""
    while True:
        page = await gateway.get(
            f"{TX}.xml?include_columns=transaction_id,city&limit=150&start_after_transaction_id={cursor}", "network"
        )  # fmt: skip
        ids = [row.findtext("transaction_id") or "" for row in ET.fromstring(page.body)]
        if not ids:
            break
        seen += ids
        cursor = ids[-1]
    assert seen == [row.id for row in upstream.rows if row.kind != "Signal"]


async def test_what_may_be_asked_is_told_before_and_is_what_then_comes(gateway):
    asked = f"{TX}.json?include_columns=duration,city,own,revenue"
    told = await gateway.request("POST", "/gateway/can", "network", json={"method": "GET", "path": asked})
    assert told.json["withheld_columns"] == {"pii": 2, "financial": 1}
    assert told.json["withheld"] == ["pii", "financial"]
    got = await gateway.get(asked, "network")
    assert got.headers["Gateway-Withheld"] == "pii;columns=2, financial;columns=1"
    for query, kind in (("include_columns=city", "columns-withheld"), ("to=2026-01-01", "bad-parameter")):
        question = {"method": "GET", "path": f"{TX}.json?{query}"}
        told = await gateway.request("POST", "/gateway/can", "network", json=question)
        assert (told.json["decision"], told.json["problem"]) == ("deny", kind)


@pytest.mark.parametrize("number", range(3))
async def test_the_two_ways_record_the_same(tmp_path, number):
    said = [typed("json", GOOD["json"]), typed("json", b'[{"city"'), typed("json", b"[]")][number]
    short, general = await outcomes(answers(said), tmp_path)
    assert short == general
