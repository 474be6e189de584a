"""The ways policy-enforcing proxies have been got round, each tried on a real socket: what is judged is what is
sent, what cannot be judged goes nowhere, and nothing of a client's travels but what is listed."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest

from gateway.config import Listen
from tests.integration.test_wire import (
    GET,
    JSON,
    NAMED,
    NI,
    ONE,
    PUT,
    ask,
    connect,
    head,
    quick,
    refused,
    sized,
    verdict,
)

__all__ = ["quick"]

TRANSACTIONS = "/api/2020-10-01/networks/transactions/33.json"
BY_ID = "/api/2022-08-01/33/advertisers/{}.json"


def sent(seen) -> dict[str, str]:
    """The headers that reached the upstream, by lower-case name; each once."""
    fields = {name.lower(): value for name, value in seen.headers}
    assert len(fields) == len(seen.headers)
    return fields


# -- the target


TARGETS = [
    ("/api/2022-08-01/33/../33/advertisers.json", 400, "bad-target"),
    (
        "/api/2020-10-01/advertisers/transactions/../../../2022-08-01/33/advertisers.json",
        400,
        "bad-target",
    ),
    ("/api/2022-08-01/33/./advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/%2e%2e/33/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/%2E%2E/33/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/.%2E/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/%252E%252E/33/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/%u002e%u002e/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/..;/33/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers.json/..", 400, "bad-target"),
    ("/api/2022-08-01/33%2Fadvertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33%2fadvertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33%5Cadvertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33%C0%AFadvertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33\\advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%2Fb.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%2500.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%25.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%00.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%0A.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%0D%0AX:1.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%7F.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%3Bb.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%3Fb.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%23b.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/%37%30%36.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%c3%a9.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%ED%A0%80.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%4.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers/a%.json", 400, "bad-target"),
    ("/api/2022-08-01/33/%61dvertisers.json", 400, "bad-target"),
    ("/%61pi/2022-08-01/33/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers%2Ejson", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers.json;x=1", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers;.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers.json#x", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers.json#/../..", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers.json?a=b#c", 400, "bad-target"),
    ("//api/2022-08-01/33/advertisers.json", 400, "bad-target"),
    ("//evil.example/api/2022-08-01/33/advertisers.json", 400, "bad-target"),
    ("/api//2022-08-01/33/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33//advertisers.json", 400, "bad-target"),
    (NI + "/", 400, "bad-target"),
    (NI + "//", 400, "bad-target"),
    ("/api/2022-08-01/+33/advertisers.json", 400, "bad-target"),
    ("/api/2022-08-01/33/advertisers.json|", 400, "bad-target"),
    (f"http://evil.example{NI}", 400, "bad-target"),
    (f"http://u@gw.test{NI}", 400, "bad-target"),
    (f"http://gw.test@evil.example{NI}", 400, "bad-target"),
    (f"http://gw.test:8080{NI}", 400, "bad-target"),
    (f"ftp://gw.test{NI}", 400, "bad-target"),
    ("http://gw.test/api/2022-08-01/33/%2E%2E/advertisers.json", 400, "bad-target"),
    (f"http://gw.test/{NI}", 400, "bad-target"),
    (f"http://[::1{NI}", 400, "bad-request"),
    ("gw.test:443", 400, "bad-request"),
    ("api/2022-08-01/33/advertisers.json", 400, "bad-request"),
    ("/api/2022-08\xad-01/33/advertisers.json", 400, "bad-request"),
    ("/api/2022-08-01/33/ädvertisers.json", 400, "bad-request"),
    ("/api/2022-08%C2%AD-01/33/advertisers.json", 404, "unknown-operation"),
    ("/api/2022-08-01/%D9%A3%D9%A3/advertisers.json", 404, "unknown-operation"),
    ("/api/2022-08-01/033/advertisers.json", 404, "unknown-operation"),
    ("/api/latest/33/advertisers.json", 404, "unknown-operation"),
    ("/api/2022-8-1/33/advertisers.json", 404, "unknown-operation"),
    ("/api/2022-08-01%20/33/advertisers.json", 404, "unknown-operation"),
    ("/api/2022-08-01/33/advertisers.json%20", 404, "unknown-operation"),
    ("/api/2022-08-01/33/advertisers.json.", 404, "unknown-operation"),
    ("/api/2022-08-01/33/advertisers.json.json", 404, "unknown-operation"),
    ("/api/2022-08-01/33/advertisers.JSON", 404, "unknown-operation"),
    ("/api/2022-08-01/33/Advertisers.json", 404, "unknown-operation"),
    ("/api/2022-08-01/33/advertisers", 404, "unknown-operation"),
    ("/API/2022-08-01/33/advertisers.json", 404, "not-found"),
    ("/", 404, "not-found"),
]


async def test_a_target_with_two_readings_or_none_is_refused(gateway, upstream):
    found = []
    for target, *_ in TARGETS:
        heard = await ask(gateway, head(f"GET {target} HTTP/1.1", token=gateway.tokens["network"]))
        found.append((target, *verdict(gateway, upstream, heard)))
    assert found == TARGETS


@pytest.mark.parametrize(
    "target",
    [
        NI,
        NI + "?",
        NI + "?start=A1B2&limit=10",
        NI + "?t[]=Call&t[]=Post%20Call%20Event",
        NI + "?query=%24invoca_custom_columns,a%2Cb&x=%2f%2F",
        BY_ID.format("a%40b"),
        BY_ID.format("a%C3%A9"),
        BY_ID.format("..a"),
    ],
)
async def test_what_was_judged_reaches_the_upstream_to_the_byte(gateway, upstream, target):
    await ask(gateway, head(f"GET {target} HTTP/1.1", token=gateway.tokens["network"]))
    assert [(seen.method, seen.target) for seen in upstream.journal] == [("GET", target)]


async def test_of_a_transactions_request_nothing_but_the_path_goes_on_as_it_came(gateway, upstream):
    target = TRANSACTIONS + "?limit=%31&transaction_type[]=Call&include_columns=duration,city&from=&to="
    await ask(gateway, head(f"GET {target} HTTP/1.1", token=gateway.tokens["network"]))
    expected = f"{TRANSACTIONS}?limit=1&transaction_type%5B%5D=Call&include_columns=duration"
    assert [seen.target for seen in upstream.journal] == [expected]


@pytest.mark.parametrize("authority", ["http://gw.test", "HTTP://GW.test", "https://gw.test"])
async def test_absolute_form_for_our_own_host_goes_upstream_in_origin_form(gateway, upstream, authority):
    heard = await ask(gateway, head(f"GET {authority}{NI} HTTP/1.1", token=gateway.tokens["network"]))
    assert heard.status == 200
    assert [seen.target for seen in upstream.journal] == [NI]
    assert sent(upstream.journal[0])["host"] == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/%61dmin/api/tokens", 400), ("/admin/api/../api/tokens", 400), ("/admin//api/tokens", 400),
     ("/gateway/token/", 400), ("/gateway/%74oken", 400), ("/healthz#", 400), ("/healthz;a", 400)],
)  # fmt: skip
async def test_our_own_surfaces_have_one_spelling_too(gateway, upstream, path, status):
    heard = await ask(gateway, head(f"GET {path} HTTP/1.1", token=gateway.tokens["network_admin"]))
    refused(gateway, upstream, heard, status, "bad-target")


async def test_an_eight_kibibyte_target_is_answered_at_once(gateway, upstream):
    for filling in ("a", "%2E", "a/", "..", "-", "%C3%A9"):
        target = ("/api/2022-08-01/33/" + filling * 8000)[:8190].rstrip("/%")
        heard = await ask(gateway, head(f"GET {target} HTTP/1.1", token=gateway.tokens["network"]))
        assert heard.status in (400, 404)
    assert not upstream.journal


# -- parameters that change what was asked for


QUERIES = [
    ("oauth_token=x", "credential-in-query"),
    ("a=b&oauth_token=x", "credential-in-query"),
    ("oauth%5Ftoken=x", "credential-in-query"),
    ("%6Fauth_token=x", "credential-in-query"),
    ("oauth%255Ftoken=x", "credential-in-query"),
    ("OAuth_Token=x", "credential-in-query"),
    ("oauth_token[]=x", "credential-in-query"),
    ("oauth_token%5B%5D=x", "credential-in-query"),
    ("user[oauth_token]=x", "credential-in-query"),
    ("oauth-token=x", "credential-in-query"),
    ("oauth.token=x", "credential-in-query"),
    ("+oauth_token=x", "credential-in-query"),
    ("oauth_token%00=x", "bad-target"),
    ("oauth_token", "credential-in-query"),
    ("access_token=x", "credential-in-query"),
    ("refresh_token=x", "credential-in-query"),
    ("oauth_refresh_token=x", "credential-in-query"),
    ("%EF%BD%8Fauth_token=x", "credential-in-query"),
    ("_method=DELETE", "forbidden-parameter"),
    ("%5Fmethod=DELETE", "forbidden-parameter"),
    ("format=xml", "forbidden-parameter"),
    ("a=1;oauth_token=x", "bad-target"),
    ("a=1&a=2", "bad-target"),
    ("a=1&%61=2", "bad-target"),
    ("a=%zz", "bad-target"),
    ("a=%FF", "bad-target"),
    ("a=%00", "bad-target"),
    ("a=<b>", "bad-target"),
    ('a="b"', "bad-target"),
    ("a={b}", "bad-target"),
]


async def test_a_query_that_carries_a_credential_or_a_second_reading_is_refused(gateway, upstream):
    found = []
    for query, _ in QUERIES:
        heard = await ask(gateway, head(f"GET {NI}?{query} HTTP/1.1", token=gateway.tokens["network"]))
        found.append((query, verdict(gateway, upstream, heard)[1]))
    assert found == QUERIES


@pytest.mark.parametrize(
    "path", ["/gateway/token", "/admin/api/tokens", "/healthz", "/oauth/token", "/nowhere", NI]
)
async def test_a_token_in_a_query_is_refused_on_every_surface_and_marked_exposed(gateway, upstream, path):
    token = gateway.tokens["advertiser"]
    for spelt in (f"access_token={token}", f"x={token}", f"x={quote(quote(token.replace('.', '%2E')))}"):
        heard = await ask(gateway, head(f"GET {path}?{spelt} HTTP/1.1", token=gateway.tokens["network"]))
        refused(gateway, upstream, heard, 400, "credential-in-query")
    assert gateway.records()[-1]["act"] == "token.exposed"
    mine = await gateway.get("/admin/api/tokens?state=exposed", "network_admin")
    assert [row["description"] for row in mine.json["tokens"]] == ["advertiser of the tests"]


async def test_a_token_in_a_path_is_refused_and_marked_exposed(gateway, upstream):
    path = BY_ID.format(gateway.tokens["advertiser"])
    heard = await ask(gateway, head(f"GET {path} HTTP/1.1", token=gateway.tokens["network"]))
    refused(gateway, upstream, heard, 400, "credential-in-query")
    assert gateway.records()[-1]["act"] == "token.exposed"


async def test_a_token_in_a_body_is_refused_and_marked_exposed(gateway, upstream):
    body = json.dumps({"name": f"see {gateway.tokens['advertiser']}"}).encode()
    heard = await ask(gateway, sized(PUT, body, token=gateway.tokens["network"]))
    refused(gateway, upstream, heard, 400, "credential-in-body")
    assert gateway.records()[-1]["act"] == "token.exposed"


# -- headers


FIELDS = [
    (["Authorization: Bearer other"], "two-credentials"),
    (["AUTHORIZATION: Bearer other"], "two-credentials"),
    (["Authorization: "], "two-credentials"),
    (["Authorization_: x"], "bad-header"),
    (["X_Forwarded_For: 127.0.0.1"], "bad-header"),
    (["Content_Length: 3"], "bad-header"),
    (["X.One: 1"], "bad-header"),
    (["X'One: 1"], "bad-header"),
    (["X-HTTP-Method-Override: DELETE"], "forbidden-parameter"),
    (["x-http-method: DELETE"], "forbidden-parameter"),
    (["X-METHOD-OVERRIDE: DELETE"], "forbidden-parameter"),
    (["Connection: Authorization"], "bad-header"),
    (["Connection: close, AUTHORIZATION"], "bad-header"),
    (["Connection: close", "Connection: authorization"], "bad-header"),
    (["Connection:\tHost"], "bad-header"),
    (["Connection: content-type"], "bad-header"),
    (["Connection: x_y"], "bad-header"),
]


async def test_a_header_that_others_read_differently_is_refused(gateway, upstream):
    found = []
    for fields, _ in FIELDS:
        heard = await ask(gateway, head(GET, *fields, token=gateway.tokens["network"]))
        found.append((fields, verdict(gateway, upstream, heard)[1]))
    assert found == FIELDS


@pytest.mark.parametrize(
    ("credential", "kind"),
    [
        ("", "no-credential"),
        ("{}", "no-credential"),
        ("Basic {}", "no-credential"),
        ("Token {}", "no-credential"),
        ("Bearer", "invalid-token"),
        ("Bearer {}, Bearer {}", "invalid-token"),
        ("Bearer {} {}", "invalid-token"),
        ("Bearer\t{}", "invalid-token"),
        ("Bearer {},", "invalid-token"),
        ('Bearer "{}"', "invalid-token"),
        ("Bearer upstream-credential-of-network-33", "invalid-token"),
        ("upstream-credential-of-network-33", "no-credential"),
    ],
)
async def test_only_one_bearer_token_in_its_one_form_is_a_credential(gateway, upstream, credential, kind):
    field = "Authorization: " + credential.replace("{}", gateway.tokens["network"])
    heard = await ask(gateway, head(GET, field))
    refused(gateway, upstream, heard, 401, kind)
    assert heard.headers["www-authenticate"].startswith("Bearer")
    assert heard.headers["www-authenticate"].count("Bearer") == 1


FOREIGN = (
    "Cookie: session=1", "Proxy: http://evil.example", "Proxy-Authorization: Basic eA==", "Proxy-Connection: close",
    "Keep-Alive: timeout=5", "TE: trailers", "Trailer: X-One", "X-Api-Key: 1", "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https", "X-Forwarded-Prefix: /x", "Forwarded: for=10.0.0.1",
    "X-Real-Ip: 10.0.0.1", "X-Original-Url: /admin", "X-Rewrite-Url: /admin", "X-User: root", "Range: bytes=0-1",
    "If-Range: x", "If-None-Match: x", "Accept: text/csv", "Accept-Encoding: gzip", "Via: 1.0 evil", "Max-Forwards: 0",
    "Content-Md5: x", "Origin: http://evil.example", "Referer: http://evil.example", "HTTP2-Settings: AA",
    "X-Request-Id: mine", "Gateway-Request-Id: mine", "Host-Override: x", "X-Nominated: 1", "Connection: x-nominated",
)  # fmt: skip


async def test_nothing_of_a_clients_travels_but_what_is_listed(gateway, upstream):
    fields = (*FOREIGN, "User-Agent: app/1", "Accept-Language: de")
    assert (await ask(gateway, head(GET, *fields, token=gateway.tokens["network"]))).status == 200
    (seen,) = upstream.journal
    assert sent(seen) == {
        "host": f"127.0.0.1:{upstream.port}",
        "user-agent": "app/1",
        "accept-language": "de",
        "accept": "application/json",
        "accept-encoding": "identity",
        "via": "1.1 invoca-gateway",
        "authorization": "upstream-credential-of-network-33",
    }


@pytest.mark.parametrize(
    "field",
    [
        "Connection: user-agent",
        "User-Agent: a\xffb",
        "User-Agent: " + "a" * 300,
        "User-Agent: a\tb",
        "User-Agent: ",
    ],
)
async def test_a_listed_header_that_is_nominated_or_odd_stays_here(gateway, upstream, field):
    fields = (field, "User-Agent: app/1") if field.startswith("Connection") else (field,)
    assert (await ask(gateway, head(GET, *fields, token=gateway.tokens["network"]))).status == 200
    assert "user-agent" not in sent(upstream.journal[0])


async def test_a_forwarded_address_is_not_believed_unless_the_peer_is_a_trusted_proxy(
    gateway, start, upstream
):
    made = await gateway.create(allowed_networks=["203.0.113.0/24"])
    request = head("GET /gateway/token HTTP/1.1", "X-Forwarded-For: 203.0.113.7", token=made["token"])
    refused(gateway, upstream, await ask(gateway, request), 403, "network-not-allowed")
    assert gateway.records()[-1]["client"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("fields", "client"),
    [
        (["X-Forwarded-For: 203.0.113.7"], "203.0.113.7"),
        (["X-Forwarded-For: 198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 203.0.113.7, 127.0.0.9"], "203.0.113.7"),
        (["X-Real-Ip: 203.0.113.7", "Forwarded: for=203.0.113.7"], "127.0.0.1"),
        (["X-Forwarded-For: nonsense"], ""),
    ],
    ids=repr,
)
async def test_behind_a_trusted_proxy_the_client_is_the_first_hop_from_the_right(
    start, upstream, fields, client
):
    gateway = await start(upstream.port, listen=Listen(trusted_proxies=("127.0.0.0/8",)))
    heard = await ask(gateway, head("GET /gateway/token HTTP/1.1", *fields, token=gateway.tokens["network"]))
    if client:
        assert (heard.status, gateway.records()[-1]["client"]) == (200, client)
    else:
        refused(gateway, upstream, heard, 400, "bad-header")


# -- bodies


def nested(depth: int) -> bytes:
    return b'{"name":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


BODIES = [
    (b'{"name": "a", "name": "b"}', "bad-body"),
    (b'{"name": "a", "n\\u0061me": "b"}', "bad-body"),
    (b'{"a": {"b": 1, "b": 2}}', "bad-body"),
    (nested(65), "bad-body"),
    (nested(100_000), "bad-body"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "bad-body"),
    (b'{"name": NaN}', "bad-body"),
    (b'{"name": -Infinity}', "bad-body"),
    (b'{"name": ' + b"1" * 5000 + b"}", "bad-body"),
    (b"[]", "bad-body"),
    (b'"name"', "bad-body"),
    (b"null", "bad-body"),
    (b"{} {}", "bad-body"),
    (b'{"a": 1,}', "bad-body"),
    (b'{"a": "\x01"}', "bad-body"),
    (b"{'a': 1}", "bad-body"),
    (b" ", "bad-body"),
    (b'\xef\xbb\xbf{"name": "a"}', "bad-body"),
    ('{"name": "a"}'.encode("utf-16"), "bad-body"),
    ('{"name": "a"}'.encode("utf-16-le"), "bad-body"),
    (b'{"name": "\xff"}', "bad-body"),
    (b'{"name": "\\ud800"}', "bad-body"),
    (b'{"\\udc00": 1}', "bad-body"),
    (b'{"oauth_token": "x"}', "credential-in-body"),
    (b'{"a": [{"oauth_token": "x"}]}', "credential-in-body"),
    (b'{"oauth\\u005ftoken": "x"}', "credential-in-body"),
    (b'{"OAuth-Token": "x"}', "credential-in-body"),
    (b'{"oauthToken": "x"}', "credential-in-body"),
    (b'{"oauth_token[]": "x"}', "credential-in-body"),
    (b'{"user[access_token]": "x"}', "credential-in-body"),
    (b'{"oauth%5Ftoken": "x"}', "credential-in-body"),
    (b'{"oauth\\u0000_token": "x"}', "credential-in-body"),
    ('{"oａuth_token": "x"}'.encode(), "credential-in-body"),
    (b'{"refresh_token": "x"}', "credential-in-body"),
    (b'{"oauth_refresh_token": "x"}', "credential-in-body"),
    (b'{"_method": "DELETE"}', "forbidden-parameter"),
    (b'{"_METHOD": "DELETE"}', "forbidden-parameter"),
]


async def test_a_body_with_two_readings_or_a_credential_is_refused(gateway, upstream):
    found = []
    for body, _ in BODIES:
        heard = await ask(gateway, sized(PUT, body, token=gateway.tokens["network"]))
        found.append((body, verdict(gateway, upstream, heard)[1]))
    assert found == BODIES


async def test_a_body_that_passed_goes_upstream_to_the_byte(gateway, upstream):
    body = b'{ "name" :\t"B\\u00fcro \xc3\xbc", "method": 1, "x": ' + b"[" * 63 + b"]" * 63 + b"\n}\r\n"
    await ask(gateway, sized(PUT, body, token=gateway.tokens["network"]))
    (seen,) = upstream.journal
    assert (seen.body_bytes, sent(seen)["content-length"]) == (len(body), str(len(body)))
    assert sent(seen)["content-type"] == "application/json"


TYPES = [
    [],
    ["Content-Type: text/plain"],
    ["Content-Type: application/x-www-form-urlencoded"],
    ["Content-Type: multipart/form-data; boundary=x"],
    ["Content-Type: application/xml"],
    ["Content-Type: application/json; charset=utf-16"],
    ["Content-Type: application/json; charset=utf-8; x=y"],
    ["Content-Type: application/json, text/plain"],
    ["Content-Type: application/jsonp"],
    ["Content-Type: text/json"],
    ["Content-Type: application/vnd.api+json"],
    [JSON, "Content-Encoding: gzip"],
    [JSON, "Content-Encoding: br"],
    [JSON, "Content-Encoding: identity, gzip"],
]


async def test_only_plain_json_in_utf_8_is_a_body(gateway, upstream):
    for fields in TYPES:
        request = head(PUT, *fields, f"Content-Length: {len(NAMED)}", token=gateway.tokens["network"]) + NAMED
        refused(gateway, upstream, await ask(gateway, request), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "said",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
    ],
)
async def test_json_may_be_said_in_its_own_spellings(gateway, upstream, said):
    fields = (f"Content-Type: {said}", f"Content-Length: {len(NAMED)}")
    heard = await ask(gateway, head(PUT, *fields, token=gateway.tokens["network"]) + NAMED)
    assert heard.status == 200
    assert sent(upstream.journal[0])["content-type"] == "application/json"


@pytest.mark.parametrize("line", [GET, f"DELETE {ONE} HTTP/1.1"])
@pytest.mark.parametrize("frame", ["Content-Length: 2", "Transfer-Encoding: chunked"])
async def test_get_and_delete_carry_no_body(gateway, upstream, line, frame):
    body = b"{}" if frame.startswith("Content") else b"2\r\n{}\r\n0\r\n\r\n"
    heard = await ask(gateway, head(line, JSON, frame, token=gateway.tokens["network"]) + body)
    refused(gateway, upstream, heard, 400, "bad-body")


async def test_each_request_on_a_connection_is_decided_for_itself(gateway, upstream):
    async with connect(gateway) as line:
        for who, status in (("network", 200), ("advertiser", 403), (None, 401), ("network", 200)):
            await line.send(head(GET, token=gateway.tokens.get(who)))
            assert (await line.answer()).status == status
    assert len(upstream.journal) == 2


async def test_a_query_that_replaces_a_stored_set_counts_as_destroying(gateway, upstream):
    made = await gateway.create(scopes=["network:read", "network:write"])
    for query in ("users[]=", "sites[]=", "users[0][email]=a", "advertiser%5Busers%5D%5B%5D=", "users="):
        answer = await gateway.request(
            "PUT", f"/api/2022-08-01/33/advertisers/706.json?{query}", made["token"], json={"name": "x"}
        )
        assert answer.problem == "insufficient-scope", query
    assert not upstream.journal


async def test_a_name_of_any_length_costs_little_and_is_refused(gateway, upstream):
    long = {"\ufdfa" * 100_000: 1}
    answer = await gateway.request("PUT", "/api/2022-08-01/33/advertisers/706.json", "network", json=long)
    assert (answer.status, answer.problem) == (400, "bad-body")
    query = await gateway.get("/api/2022-08-01/33/advertisers.json?" + "a" * 300 + "=1", "network")
    assert (query.status, query.problem) == (400, "bad-target")
    assert not upstream.journal


async def test_a_token_deleted_while_its_body_comes_changes_nothing_at_the_vendor(gateway, upstream):
    made = await gateway.create(scopes=["network:write"])
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = (
        "PUT /api/2022-08-01/33/advertisers/706.json HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {made['token']}\r\nContent-Length: 13\r\n\r\n"
    )
    writer.write(head.encode() + b'{"name"')
    await asyncio.sleep(0.1)
    assert (await gateway.request("DELETE", f"/admin/api/tokens/{made['id']}", "network_admin")).status == 204
    writer.write(b': "x"}')
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401")
    assert not upstream.journal
    writer.close()


async def test_a_body_that_drips_is_cut_long_before_its_whole_time_is_over(gateway, upstream, monkeypatch):
    monkeypatch.setattr("gateway.exchange.BODY_GRACE_S", 0.2)
    head = (
        "PUT /api/2022-08-01/33/advertisers/706.json HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gateway.tokens['network']}\r\nContent-Length: 100\r\n\r\n"
    )
    answer = await gateway.raw(head.encode() + b'{"name"', 5.0)
    assert answer.startswith(b"HTTP/1.1 408")
    assert not upstream.journal


async def test_acts_on_tokens_are_counted_against_the_acting_tokens_rate(gateway):
    gateway.gateway.lean._flow.rate.per_minute = 2
    statuses = [(await gateway.get("/admin/api/tokens", "network_admin")).status for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_the_kernel_holds_little_for_a_client_that_does_not_read(gateway):
    from gateway import wire

    server = gateway.gateway._runners[0].server
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    await asyncio.sleep(0.05)
    sizes = [c.transport.get_extra_info("socket").getsockopt(1, 7) for c in server.connections if c.transport]
    assert sizes
    assert max(sizes) <= 2 * wire.SEND_BUFFER  # Linux doubles what is asked for
    writer.close()
