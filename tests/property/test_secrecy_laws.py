"""Laws of secrecy: a token that is sent comes out nowhere, but in the one answer that made it.

Whatever a client does with a token, neither it nor any 20 characters of its payload or signature are in an
answer, a log line or a record. (The header of every token is the same and says nothing.)
"""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from tests.property.test_judging_laws import samples

ADMIN = "/admin/api/tokens"
NI = "/api/2022-08-01/33/advertisers.json"
CAN = "/gateway/can"
PIECE = 20
JSON = "Content-Type: application/json"
FORM = "Content-Type: application/x-www-form-urlencoded"

# Every place has `@` where the token goes: (method, target, header lines, body).
PLACES = [
    ("GET", NI, ["Authorization: Bearer @"], ""),
    ("GET", NI, ["Authorization: Bearer @ @"], ""),
    ("GET", NI, ["Authorization: @"], ""),
    ("GET", NI, ["Authorization: Basic @"], ""),
    ("GET", NI, ["Authorization: Bearer @", "Authorization: Bearer @"], ""),
    ("GET", NI, ["Authorization: Bearer $", "Cookie: session=@"], ""),
    ("GET", NI, ["Authorization: Bearer $", "Referer: https://app.example/?t=@"], ""),
    ("GET", NI, ["Authorization: Bearer $", "User-Agent: app/@"], ""),
    ("GET", NI, ["Authorization: Bearer $", "Accept-Language: @"], ""),
    ("GET", NI, ["Authorization: Bearer $", "X-Api-Key: @"], ""),
    ("GET", NI, ["Authorization: Bearer $", "@: x"], ""),
    ("GET", NI, ["Authorization: Bearer $", "Connection: @"], ""),
    ("GET", NI, ["Authorization: Bearer $", "X-Forwarded-For: @"], ""),
    ("GET", NI, ["Authorization: Bearer $", "Expect: @"], ""),
    ("GET", NI, ["Authorization: Bearer $", "Upgrade: @"], ""),
    ("GET", NI + "?oauth_token=@", ["Authorization: Bearer $"], ""),
    ("GET", NI + "?oauth_token=@", [], ""),
    ("GET", NI + "?limit=@", ["Authorization: Bearer $"], ""),
    ("GET", NI + "?@=1", ["Authorization: Bearer $"], ""),
    ("GET", NI + "?@", [], ""),
    ("GET", "/api/2022-08-01/33/advertisers/@.json", ["Authorization: Bearer $"], ""),
    ("GET", "/api/@/33/advertisers.json", ["Authorization: Bearer $"], ""),
    ("GET", "/api/2022-08-01/33/advertisers.@", ["Authorization: Bearer $"], ""),
    ("DELETE", "/api/2022-08-01/33/advertisers/@.json", ["Authorization: Bearer $"], ""),
    ("GET", "/@", [], ""),
    ("GET", "/gateway/token?@", ["Authorization: Bearer $"], ""),
    ("GET", "/gateway/@", ["Authorization: Bearer $"], ""),
    ("GET", "/oauth/@", [], ""),
    ("GET", "/.well-known/jwks.json?@=1", [], ""),
    ("GET", "/healthz?@", [], ""),
    ("GET", "/metrics?t=@", [], ""),
    ("GET", "/admin/api/tokens?@=1", ["Authorization: Bearer %"], ""),
    ("GET", "/admin/api/tokens?state=@", ["Authorization: Bearer %"], ""),
    ("GET", "/admin/api/tokens?owner=@", ["Authorization: Bearer %"], ""),
    ("GET", "/admin/api/tokens?after=@", ["Authorization: Bearer %"], ""),
    ("GET", "/admin/api/tokens?limit=@", ["Authorization: Bearer %"], ""),
    ("GET", "/admin/api/tokens/@", ["Authorization: Bearer %"], ""),
    ("DELETE", "/admin/api/tokens/@", ["Authorization: Bearer %", JSON], '{"reason": "@"}'),
    ("POST", ADMIN, ["Authorization: Bearer %", JSON], '{"description": "@"}'),
    ("POST", ADMIN, ["Authorization: Bearer %", JSON], '{"description": "it is @"}'),
    ("POST", ADMIN, ["Authorization: Bearer %", JSON], '{"description": "a b c", "scopes": ["@"]}'),
    ("POST", ADMIN, ["Authorization: Bearer %", JSON], '{"description": "a b c", "expires_at": "@"}'),
    ("POST", ADMIN, ["Authorization: Bearer %", JSON], '{"description": "a b c", "accounts": ["advertiser:@"]}'),
    ("POST", ADMIN, ["Authorization: Bearer %", JSON], '{"description": "a b c", "allowed_networks": ["@"]}'),
    ("POST", ADMIN, ["Authorization: Bearer %", JSON], '{"description": "a b c", "@": 1}'),
    ("POST", ADMIN, ["Authorization: Bearer %", JSON], '{"owner": "@"}'),
    ("POST", "/admin/api/tokens?owner=@", ["Authorization: Bearer %", JSON], '{"description": "a b c"}'),
    ("POST", "/admin/api/tokens", ["Authorization: Bearer @", JSON], '{"description": "a b c"}'),
    ("POST", NI, ["Authorization: Bearer $", JSON], '{"oauth_token": "@"}'),
    ("POST", NI, ["Authorization: Bearer $", JSON], '{"name": "@"}'),
    ("POST", NI, ["Authorization: Bearer $", JSON], '{"@": 1}'),
    ("POST", NI, ["Authorization: Bearer $", JSON], '{"a": [{"b": ["@"]}]}'),
    ("POST", NI, ["Authorization: Bearer $", JSON], '{"a": "@'),
    ("POST", NI, ["Authorization: Bearer $", JSON], "@"),
    ("POST", NI, ["Authorization: Bearer $", "Content-Type: text/@"], '{"name": "x"}'),
    ("GET", NI, ["Authorization: Bearer $", JSON], '{"name": "@"}'),
    ("POST", CAN, ["Authorization: Bearer @", JSON], '{"method": "GET", "path": "/"}'),
    ("POST", CAN, ["Authorization: Bearer $", JSON], '{"method": "GET", "path": "/@"}'),
    ("POST", CAN, ["Authorization: Bearer $", JSON], '{"method": "GET", "path": "/api/2022-08-01/33/a.json?x=@"}'),
    ("POST", CAN, ["Authorization: Bearer $", JSON], '{"method": "@", "path": "/"}'),
    ("POST", CAN, ["Authorization: Bearer $", JSON], '{"method": "GET", "path": "/", "@": 1}'),
    ("POST", CAN, ["Authorization: Bearer $", JSON], '{"method": "GET", "path": "/", "body": ["@"]}'),
    ("POST", CAN, ["Authorization: Bearer $", JSON], '{"method": "GET", "path": "/", "body": "@"}'),
    ("POST", CAN, ["Authorization: Bearer $", JSON], '{"requests": [{"method": "GET", "path": "@"}]}'),
    ("POST", CAN + "?@", ["Authorization: Bearer $", JSON], '{"method": "GET", "path": "/"}'),
    ("POST", "/oauth/token", [FORM], "grant_type=refresh_token&refresh_token=@"),
    ("POST", "/oauth/token", [FORM], "grant_type=@"),
    ("POST", "/oauth/token", [FORM], "@=@&@=@"),
    ("POST", "/oauth/token", [JSON], '{"grant_type": "@"}'),
    ("POST", "/oauth/token?grant_type=@", [FORM], "grant_type=x"),
    ("POST", "/oauth/introspect", [FORM, "Authorization: Bearer %"], "token=@"),
    ("POST", "/oauth/introspect", [FORM, "Authorization: Bearer @"], "token=@"),
    ("POST", "/oauth/introspect", [FORM], "token=@&token=@"),
    ("POST", "/oauth/revoke", [FORM], "token=x@"),
    ("POST", "/oauth/revoke", [FORM], "@"),
    ("POST", "/oauth/revoke?token=@", [FORM], ""),
    ("GET", "@", [], ""),
    ("@", "/", [], ""),
    ("GET", "http://@/x", [], ""),
    ("GET", NI + " @", [], ""),
    ("GET", NI, ["Host: @"], ""),
    ("GET", NI, [" @"], ""),
    ("GET", NI, ["@"], ""),
    ("POST", NI, ["Authorization: Bearer $", "Transfer-Encoding: @"], ""),
    ("POST", NI, ["Authorization: Bearer $", "Transfer-Encoding: chunked", JSON], "@\r\n"),
]  # fmt: skip

# How the token is written there: whole, cut, or with its dots hidden from who looks for them.
FORMS = {
    "whole": lambda token: token,
    "whole again": lambda token: token,
    "without its last character": lambda token: token[:-1],
    "with one character more": lambda token: token + "x",
    "with its dots encoded": lambda token: token.replace(".", "%2E"),
    "with its dots encoded twice": lambda token: token.replace(".", "%252e"),
    "encoded throughout": lambda token: "".join(f"%{ord(c):02x}" for c in token),
    "quoted": lambda token: quote(f'"{token}"'),
}

CUT = {"without its last character"}


def pieces(token):
    """Every run of 20 characters of the payload and of the signature, and the whole."""
    _, payload, signature = token.split(".")
    return {part[i : i + PIECE] for part in (payload, signature) for i in range(len(part) - PIECE + 1)} | {
        token
    }


def leaks(token, text):
    return sorted(piece for piece in pieces(token) if piece in text)


def written(place, form, token, gateway):
    method, target, lines, body = place

    def fill(text):
        return (
            text.replace("$", gateway.tokens["network"])
            .replace("%", gateway.tokens["network_admin"])
            .replace("@", form(token))
        )

    lines = [fill(line) for line in lines]
    host = [] if any(line.startswith("Host:") for line in lines) else ["Host: gateway"]
    chunked = any("Transfer-Encoding" in line for line in lines)
    length = [f"Content-Length: {len(fill(body))}"] if body and not chunked else []
    head = [f"{fill(method)} {fill(target)} HTTP/1.1", *host, *lines, *length, "Connection: close"]
    if any(line.startswith("Connection:") for line in lines):
        head.pop()
    return ("\r\n".join(head) + "\r\n\r\n" + fill(body)).encode("latin-1")


async def test_a_token_that_is_sent_comes_out_nowhere(gateway, caplog, upstream):
    caplog.set_level(logging.DEBUG)
    for name in ("gateway", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    made = await gateway.create(scopes=["network:read"])
    sent = made["token"]
    for place in PLACES:
        await probe(gateway, place, "whole", sent)
    for place, form in samples(st.tuples(st.sampled_from(PLACES), st.sampled_from(sorted(FORMS))), 120):
        if not (form in CUT and place[1].startswith("/api/")):
            await probe(gateway, place, form, sent)
    for known in (sent, *gateway.tokens.values()):
        assert not leaks(known, caplog.text)
        assert not leaks(known, repr(gateway.records()))
        assert not [seen for seen in upstream.journal if leaks(known, repr(seen))]


async def test_a_token_that_was_cut_short_does_not_reach_the_vendor(gateway, upstream):
    for place in PLACES:
        if place[1].startswith("/api/"):
            await probe(gateway, place, "without its last character", gateway.tokens["network"])
    assert not [seen for seen in upstream.journal if leaks(gateway.tokens["network"], repr(seen))]


async def probe(gateway, place, form, token):
    answer = await gateway.raw(written(place, FORMS[form], token, gateway), 1.0)
    for known in (token, gateway.tokens["network"], gateway.tokens["network_admin"]):
        assert not leaks(known, answer.decode("latin-1")), (place, form)


async def test_the_one_answer_with_the_token_is_the_one_that_made_it(gateway, caplog):
    caplog.set_level(logging.DEBUG)
    made = await gateway.create()
    for path in ("/admin/api/tokens", f"/admin/api/tokens/{made['id']}"):
        assert not leaks(made["token"], (await gateway.get(path, "network_admin")).body.decode())
    assert not leaks(made["token"], (await gateway.get("/gateway/token", made["token"])).body.decode())
    assert not leaks(made["token"], caplog.text)


async def test_the_store_holds_no_token_and_no_jti(gateway):
    made = await gateway.create()
    await gateway.get("/gateway/token", made["token"])
    folder = Path(gateway.gateway.config.store.path).parent
    for file in folder.glob("gateway.sqlite3*"):
        assert not leaks(made["token"], file.read_bytes().decode("latin-1"))
    _, payload, _ = made["token"].split(".")
    jti = json.loads(base64.urlsafe_b64decode(payload + "=="))["jti"]
    assert all(jti.encode() not in file.read_bytes() for file in folder.iterdir() if file.is_file())


async def test_a_bug_is_logged_without_what_was_sent(gateway, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)

    def broken(self, method, target):
        raise RuntimeError(f"cannot read {target.raw} of {gateway.tokens['network']}")

    monkeypatch.setattr(type(gateway.gateway.public), "__repr__", lambda _: "app")
    monkeypatch.setattr("gateway.operation.Catalogue.identify", broken)
    answer = await gateway.get(NI, "network")
    assert (answer.status, answer.problem) == (500, "internal-error")
    assert "internal-error" in caplog.text
    assert not leaks(gateway.tokens["network"], caplog.text + answer.body.decode())


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_law_itself_would_notice(form):
    token = "eyJh." + "cGF5bG9hZC1vZi10aGUtdG9rZW4" + "." + "c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
    assert leaks(token, "see " + token)
    assert leaks(token, token.split(".")[1][2:23])
    assert not leaks(token, token.split(".")[0] + "." + token.split(".")[1][:19])
