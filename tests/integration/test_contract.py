"""What scripts rely on to the letter: section 7 of the design, over real sockets."""

from __future__ import annotations

import base64
import json

import jwt
import pytest

NI = "/api/2022-08-01/33/advertisers.json"
OWN = "/api/2020-10-01/advertisers/transactions/706.json"


async def test_a_network_token_goes_through_with_exactly_the_upstream_credential(gateway, upstream):
    answer = await gateway.get(NI, "network")
    assert answer.status == 200
    assert isinstance(answer.json, list)
    (seen,) = upstream.journal
    sent = [value for name, value in seen.headers if name.lower() == "authorization"]
    assert sent == ["upstream-credential-of-network-33"]
    assert gateway.tokens["network"] not in repr(seen)


async def test_an_advertisers_token_is_refused_there_by_a_named_policy(gateway, upstream):
    answer = await gateway.get(NI, "advertiser")
    assert (answer.status, answer.problem) == (403, "denied")
    assert answer.json["policies"][0]["id"] == "network-integration-for-network-users"
    assert answer.headers["Gateway-Answer"] == "denied"
    assert not upstream.journal


async def test_an_advertiser_reads_their_own_transactions_and_no_others(gateway, upstream):
    assert (await gateway.get(OWN, "advertiser")).status == 200
    assert len(upstream.journal) == 1
    answer = await gateway.get(OWN.replace("706", "707"), "advertiser")
    assert (answer.status, answer.problem) == (403, "denied")
    assert len(upstream.journal) == 1


async def test_no_token_is_401_with_a_challenge_and_no_error_code(gateway, upstream):
    answer = await gateway.get(NI)
    assert (answer.status, answer.problem) == (401, "no-credential")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "error" not in answer.headers["WWW-Authenticate"]
    assert not upstream.journal


def _forged(token: str, **header: str) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, "x" * 32, algorithm="HS256", headers=header)


def _unsigned(token: str) -> str:
    head = (
        base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "at+jwt"}).encode()).rstrip(b"=").decode()
    )
    return f"{head}.{token.split('.')[1]}."


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: "garbage",
        lambda token: "a.b.c",
        lambda token: token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB"),
        lambda token: token + "=",
        lambda token: _unsigned(token),
        lambda token: _forged(token, typ="at+jwt"),
        lambda token: token.swapcase(),
    ],
    ids=["garbage", "three parts", "wrongly signed", "padded", "alg none", "hs256", "case"],
)
async def test_what_is_no_token_of_ours_is_401_invalid_token(gateway, upstream, spoil):
    answer = await gateway.get(NI, spoil(gateway.tokens["network"]))
    assert (answer.status, answer.problem) == (401, "invalid-token")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert not upstream.journal


async def test_an_expired_token_is_401_and_its_holder_is_told(gateway, clock):
    made = await gateway.create(expires_in=60)
    assert (await gateway.get("/gateway/token", made["token"])).status == 200
    clock.advance(60)
    answer = await gateway.get("/gateway/token", made["token"])
    assert (answer.status, answer.problem) == (401, "invalid-token")
    assert "expired" in answer.json["detail"]


async def test_a_deleted_token_is_refused_on_the_next_request(gateway):
    made = await gateway.create()
    assert (await gateway.get("/gateway/token", made["token"])).status == 200
    assert (await gateway.request("DELETE", f"/admin/api/tokens/{made['id']}", "network_admin")).status == 204
    answer = await gateway.get("/gateway/token", made["token"])
    assert (answer.status, answer.problem) == (401, "invalid-token")
    assert "deleted" in answer.json["detail"]


async def test_a_demoted_or_disabled_owner_is_felt_on_the_next_request(gateway):
    write = ("PUT", "/api/2022-08-01/33/advertisers/706.json", "network")
    assert (await gateway.request(*write, json={"name": "Renamed"})).status == 200
    await gateway.gateway.store.set_user(gateway.owners["network"], role="observer")
    assert (await gateway.request(*write, json={"name": "Renamed"})).problem == "denied"
    await gateway.gateway.store.set_user(gateway.owners["network"], active=False)
    assert (await gateway.get(NI, "network")).problem == "invalid-token"


async def test_what_the_owner_may_and_the_scopes_do_not_is_insufficient_scope(gateway, upstream):
    made = await gateway.create(scopes=["transactions:read"])
    answer = await gateway.get(NI, made["token"])
    assert (answer.status, answer.problem) == (403, "insufficient-scope")
    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    assert 'scope="network:read"' in answer.headers["WWW-Authenticate"]
    assert not upstream.journal


async def test_every_answer_names_its_request_and_when_the_token_ends(gateway):
    answer = await gateway.get(NI, "network")
    assert len(answer.headers["Gateway-Request-Id"]) == 24
    assert answer.headers["Token-Expires"].endswith("Z")
    assert "Gateway-Answer" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_problem_can_be_read_by_invoca_clients_too(gateway):
    document = (await gateway.get(NI, "advertiser")).json
    assert document["type"] == "urn:invoca-gateway:problem:denied"
    assert set(document["errors"]) == {"class", "invalid_data"}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/api/2018-02-01/transactions.json", "unknown-operation"),
        ("/call/transcript/CUID-33", "not-found"),
        ("/nowhere", "not-found"),
        ("/api/2019-01-01/33/advertisers.json", "unknown-version"),
        ("/api/2022-08-01/33/advertisers/354/users/create_access_token.json", "denied"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(gateway, upstream, path, problem):
    assert (await gateway.get(path, "network")).problem == problem
    assert not upstream.journal


async def test_a_login_token_is_refused_whatever_the_scopes(gateway, upstream):
    path = "/api/2014-01-01/33/network/pat%40example.com/create_access_token.json"
    answer = await gateway.request("POST", path, "network_admin")
    assert (answer.status, answer.problem) == (403, "denied")
    assert answer.json["policies"][0]["id"] == "no-login-for-somebody-else"
    assert not upstream.journal


async def test_a_body_that_replaces_people_counts_as_destroying(gateway, upstream):
    made = await gateway.create(scopes=["network:read", "network:write"])
    path = "/api/2022-08-01/33/advertisers/706.json"
    plain = await gateway.request("PUT", path, made["token"], json={"name": "Renamed"})
    assert plain.status == 200
    replacing = await gateway.request("PUT", path, made["token"], json={"name": "Renamed", "users": []})
    assert replacing.problem == "insufficient-scope"
    assert 'scope="network:destroy"' in replacing.headers["WWW-Authenticate"]
    assert len(upstream.journal) == 1
