"""Every answer to who was authenticated by a token says when that token ends, whatever else it says; no other does."""

from __future__ import annotations

import pytest

from gateway.demo import ADVERTISER
from tests.conftest import add_person
from tests.people import sign_in, with_password

NI = "/api/2022-08-01/33/advertisers.json"
TOKENS, CAN = "/admin/api/tokens", {"method": "GET", "path": NI}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
# (who, method, path, body, status)
ANSWERS = [
    ("network", "GET", NI, None, 200),
    ("network", "HEAD", NI, None, 405),
    ("network", "GET", "/api/2022-08-01/33/nothing.json", None, 404),
    ("network", "GET", "/api/1999-01-01/33/advertisers.json", None, 403),
    ("advertiser", "GET", NI, None, 403),
    ("network_read", "POST", "/api/2022-08-01/33/advertisers/x.json", {"name": "x"}, 403),
    ("network", "POST", "/api/2022-08-01/33/advertisers/x.json", b"{", 400),
    ("network", "GET", "/gateway/token", None, 200),
    ("network", "POST", "/gateway/can", CAN, 200),
    ("network", "POST", "/gateway/can", {}, 422),
    ("network", "GET", TOKENS, None, 403),
    ("network_admin", "GET", TOKENS, None, 200),
    ("network_admin", "POST", TOKENS, {"description": "one more"}, 201),
    ("network_admin", "POST", TOKENS, {"description": "x", "owner": "y"}, 403),
    ("network_admin", "POST", TOKENS, {}, 422),
    ("network_admin", "GET", f"{TOKENS}/tok_none", None, 404),
    ("network_admin", "POST", "/admin/api/users", {}, 403),
    ("network_admin", "POST", "/oauth/introspect", b"token=x", 200),
]


@pytest.mark.parametrize(
    ("who", "method", "path", "body", "status"),
    ANSWERS,
    ids=[f"{row[1]} {row[2]} {row[4]}" for row in ANSWERS],
)
async def test_every_answer_to_a_token_says_when_it_ends(gateway, who, method, path, body, status):
    await add_person(gateway, "network_read", ADVERTISER, scopes=("network:read",))
    ends = (await gateway.get("/gateway/token", who)).json["expires_at"]
    sent = {"json": body} if isinstance(body, dict) else {} if body is None else {"data": body}
    headers = FORM if path.startswith("/oauth") else {"Content-Type": "application/json"} if body else {}
    answer = await gateway.request(method, path, who, headers=headers, **sent)
    assert (answer.status, answer.headers.get("Token-Expires")) == (status, ends), answer.body


async def test_so_does_a_refusal_for_too_many_requests(start, upstream):
    running = await start(upstream.port, limits={"requests_per_minute": 1})
    answers = [await running.get(NI, "network") for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    assert answers[0].headers["Token-Expires"] == answers[1].headers["Token-Expires"]


async def test_so_does_one_for_an_upstream_that_is_not_there(start):
    answer = await (await start(1)).get(NI, "network")
    assert (answer.status, "Token-Expires" in answer.headers) == (502, True)


async def test_who_was_not_authenticated_by_a_token_is_told_of_none(gateway):
    await with_password(gateway, "network_admin")
    head = await sign_in(gateway)
    answers = [
        await gateway.get(NI),
        await gateway.get(NI, "eyJ.x.y"),
        await gateway.get(f"{NI}?oauth_token=x", "network"),
        await gateway.get("/.well-known/jwks.json"),
        await gateway.request("POST", "/oauth/token", data={"grant_type": "refresh_token"}),
        await head.get(TOKENS),
    ]
    assert [answer.status for answer in answers] == [401, 401, 400, 200, 400, 200]
    assert not [answer for answer in answers if "Token-Expires" in answer.headers]
