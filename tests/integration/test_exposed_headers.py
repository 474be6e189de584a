"""A token of ours in a cookie or a Referer: refused, on both ways and every surface, and marked like one in a URL."""

from __future__ import annotations

import pytest

from tests.integration.test_wire import NI
from tests.upstream import OK, answers
from tests.ways import SHORT, on_both_ways, scene

API = "/admin/api/tokens"
PLACES = {
    "a cookie": ("Cookie: session=@",),
    "the last of many cookies": ("Cookie: a=b; c=d; session=@",),
    "a second line of cookies": ("Cookie: a=b", "Cookie: @"),
    "a cookie's name": ("cookie: @=1",),
    "a cookie with encoded dots": ("Cookie: session=#",),
    "a Referer's query": ("Referer: https://app.example/?token=@&x=1",),
    "a Referer's path": ("REFERER: https://app.example/@/x",),
    "a Referer's fragment": ("Referer: https://app.example/#/@",),
    "an encoded Referer": ("Referer: https://app.example/?token=%",),
    "both": ("Cookie: a=@", "Referer: https://app.example/?token=@"),
}


def written(fields, text):
    """The header lines with a token in them, as it is (@), with encoded dots (#) or encoded twice (%)."""
    twice = "".join(f"%25{ord(c):02X}" for c in text[:40]) + text[40:].replace(".", "%252E")
    forms = {"@": text, "#": text.replace(".", "%2e"), "%": twice}
    return tuple(
        line.replace(mark, form) for line in fields for mark, form in forms.items() if mark in line
    ) + tuple(line for line in fields if not any(mark in line for mark in forms))


@on_both_ways
@pytest.mark.parametrize("place", PLACES)
async def test_a_token_in_a_cookie_or_a_referer_is_refused_and_marked(way, place, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at:
        made = await at.running.create(scopes=["network:read"])
        await at.warm()
        fields = written(PLACES[place], made["token"])
        for _ in range(2):
            heard = await at.ask(at.get(*fields))
            assert (heard.status, heard.kind) == (400, "credential-in-header")
            assert not at.requests
            record = await at.settled()
            assert (record["act"], record["subject"]) == ("token.exposed", made["id"])
        assert not any(at.taken)
        row = await at.running.gateway.store.token(made["id"])
        assert row is not None
        assert row.state(at.running.clock()) == "exposed"
        assert row.rotate_by == int(at.running.clock()) + 24 * 3600


@on_both_ways
async def test_one_that_was_cut_short_or_forged_is_refused_and_nobodys_is_marked(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at:
        made = await at.running.create(scopes=["network:read"])
        for text in (made["token"][:-30], made["token"][:-6] + "AAAAAA"):
            heard = await at.ask(at.get(f"Cookie: session={text}"))
            assert (heard.status, heard.kind) == (400, "credential-in-header")
        row = await at.running.gateway.store.token(made["id"])
        assert row is not None
        assert row.exposed_at is None


@on_both_ways
async def test_other_cookies_and_referers_are_nobodys_business(way, tmp_path):
    async with scene(way, answers(OK), tmp_path) as at:
        for fields in (
            ("Cookie: a=b; c=eyJhbGciOiJIUzI1NiJ9.e30.x",),
            ("Referer: https://app.example/?q=1",),
        ):
            assert (await at.ask(at.get(*fields))).status == 200
        assert at.taken == ([True, True] if way == SHORT else [])
        assert (
            await at.ask(at.get("Cookie: a=100%25; b=%41"))
        ).status == 200  # looked through, the general way


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", NI), ("GET", "/healthz"), ("GET", "/gateway/token"), ("GET", API), ("POST", API), ("GET", "/nowhere"),
     ("POST", "/oauth/token"), ("GET", "/.well-known/jwks.json"), ("GET", "/api/2022-08-01/33/x;y")],
)  # fmt: skip
async def test_it_is_so_on_every_surface_with_and_without_a_credential(gateway, method, path):
    for by in ("network_admin", None):
        made = await gateway.create()
        headers = {"Referer": f"https://app.example/?t={made['token']}"}
        answer = await gateway.request(method, path, by, headers=headers)
        assert (answer.status, answer.problem) == (400, "credential-in-header")
        shown = (await gateway.get(f"{API}/{made['id']}", "network_admin")).json
        assert shown["state"] == "exposed"
        assert made["token"].encode() not in answer.body


async def test_a_token_in_a_header_that_is_also_its_own_credential_is_marked(gateway):
    made = await gateway.create(scopes=["network:read"])
    for path in (NI, NI):  # the first makes it known, and warms a connection
        assert (await gateway.get(path, made["token"])).status == 200
    answer = await gateway.get(NI, made["token"], headers={"Cookie": f"t={made['token']}"})
    assert answer.problem == "credential-in-header"
    kept = await gateway.get(NI, made["token"])
    assert kept.status == 200
    assert (
        kept.headers["Token-Expires"]
        == (await gateway.get(f"{API}/{made['id']}", "network_admin")).json["rotate_by"]
    )
