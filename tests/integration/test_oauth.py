"""The OAuth surface over real sockets: no grant, no refresh token, and nothing said to who may not know."""

from __future__ import annotations

from urllib.parse import urlencode

import jwt
import pytest

from gateway.model import SCOPES, Account
from tests.conftest import add_person
from tests.people import sign_in, with_password

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MANAGE = ("transactions:read", "tokens:manage")


async def post(gateway, path, form=None, token=None, body=None, headers=FORM):
    data = urlencode(form).encode() if body is None else body
    return await gateway.request("POST", path, token, headers=headers, data=data)


def assert_oauth_error(answer, error):
    assert answer.status == 400, answer.body
    assert answer.json.keys() == {"error", "error_description"}
    assert answer.json["error"] == error
    assert answer.headers["Content-Type"].startswith("application/json")
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")


# --- the token endpoint


async def test_a_refresh_token_grant_is_unsupported_and_told_that_there_are_none(gateway):
    answer = await post(gateway, "/oauth/token", {"grant_type": "refresh_token", "refresh_token": "x"})
    assert_oauth_error(answer, "unsupported_grant_type")
    assert "no refresh tokens" in answer.json["error_description"]
    assert "credentials page" in answer.json["error_description"]


@pytest.mark.parametrize(
    "grant",
    [
        "authorization_code", "password", "client_credentials", "implicit", "x", "REFRESH_TOKEN",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:token-exchange", "urn:ietf:params:oauth:grant-type:device_code",
    ],
)  # fmt: skip
async def test_every_other_grant_is_unsupported_and_pointed_to_the_credentials_page(gateway, grant):
    answer = await post(gateway, "/oauth/token", {"grant_type": grant, "code": "x", "client_id": "x"})
    assert_oauth_error(answer, "unsupported_grant_type")
    assert "credentials page" in answer.json["error_description"]


@pytest.mark.parametrize(
    ("body", "headers", "query"),
    [
        (b"", FORM, ""),
        (b"grant_type=", FORM, ""),
        (b"scope=x", FORM, ""),
        (b"grant_type=refresh_token&grant_type=password", FORM, ""),
        (b"grant_type=refresh_token&scope=a&scope=b", FORM, ""),
        (b"grant_type=refresh_token&%67rant_type=x", FORM, ""),
        (b"grant_type", FORM, ""),
        (b"grant_type=\xff", FORM, ""),
        (b"grant_type=%FF", FORM, ""),
        (b'{"grant_type": "refresh_token"}', {"Content-Type": "application/json"}, ""),
        (b"grant_type=refresh_token", {"Content-Type": "text/plain"}, ""),
        (b"grant_type=refresh_token", {"Content-Type": ""}, ""),
        (b"", FORM, "?grant_type=refresh_token"),
        (b"grant_type=refresh_token", FORM, "?client_id=x"),
    ],
)
async def test_a_malformed_token_request_is_an_invalid_request(gateway, body, headers, query):
    answer = await post(gateway, "/oauth/token" + query, body=body, headers=headers)
    assert_oauth_error(answer, "invalid_request")


async def test_a_form_beyond_its_bound_is_too_large(gateway):
    answer = await post(gateway, "/oauth/token", body=b"grant_type=" + b"x" * 20_000)
    assert (answer.status, answer.problem) == (413, "body-too-large")


@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/introspect", "/oauth/revoke"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_the_endpoints_are_for_post_alone(gateway, upstream, path, method):
    answer = await gateway.request(method, path, "network_admin")
    assert (answer.status, answer.problem, answer.headers["Allow"]) == (405, "method-not-allowed", "POST")
    assert not upstream.journal


@pytest.mark.parametrize("name", ["oauth-authorization-server", "oauth-protected-resource", "jwks.json"])
async def test_the_documents_are_for_get_alone(gateway, name):
    answer = await gateway.request("POST", f"/.well-known/{name}", data=b"")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


async def test_what_is_not_there_under_the_same_roots_is_not_found(gateway, upstream):
    for path in ("/oauth", "/oauth/authorize", "/oauth/token/x", "/.well-known/openid-configuration"):
        assert (await gateway.get(path, "network_admin")).problem == "not-found"
    assert not upstream.journal


async def test_each_act_is_recorded_with_its_name(gateway):
    await post(gateway, "/oauth/token", {"grant_type": "refresh_token"})
    record = gateway.records()[-1]
    assert (record["surface"], record["act"], record["status"]) == ("oauth", "token.grant", 400)
    assert (record["problem"], record["outcome"]) == ("unsupported_grant_type", "refused")


@pytest.mark.parametrize(
    ("body", "headers", "error"),
    [
        (b"grant_type=refresh_token&refresh_token=@", FORM, "unsupported_grant_type"),
        (b"grant_type=refresh_token&refresh_token=#", FORM, "unsupported_grant_type"),
        (b"grant_type=authorization_code&code=@", FORM, "unsupported_grant_type"),
        (b"grant_type=@", FORM, "unsupported_grant_type"),
        (b"refresh_token=@", FORM, "invalid_request"),
        (b"@", FORM, "invalid_request"),
        (b'{"refresh_token": "@"}', {"Content-Type": "application/json"}, "invalid_request"),
    ],
)
async def test_a_token_of_ours_is_no_grant_and_is_marked_exposed(gateway, body, headers, error):
    made = await gateway.create(scopes=["network:read"])
    text = made["token"].encode()
    encoded = "".join(f"%{byte:02X}" for byte in text).encode()
    sent = body.replace(b"@", text).replace(b"#", encoded)
    answer = await post(gateway, "/oauth/token", body=sent, headers=headers)
    assert_oauth_error(answer, error)
    assert text not in answer.body
    record = gateway.records()[-1]
    assert (record["act"], record["subject"]) == ("token.exposed", made["id"])
    shown = (await gateway.get(f"/admin/api/tokens/{made['id']}", "network_admin")).json
    assert shown["state"] == "exposed"


# --- introspection


async def introspect(gateway, text, by="network_admin"):
    return await post(gateway, "/oauth/introspect", {"token": text}, by)


async def test_an_administrator_sees_their_own_token_and_their_networks(gateway):
    for name in ("network_admin", "network", "advertiser", "affiliate"):
        answer = await introspect(gateway, gateway.tokens[name])
        assert answer.status == 200
        found = answer.json
        assert found["active"] is True
        claims = jwt.decode(gateway.tokens[name], options={"verify_signature": False})
        assert {k: found[k] for k in ("iss", "aud", "sub", "client_id", "iat", "exp", "scope")} == {
            k: claims[k] for k in ("iss", "aud", "sub", "client_id", "iat", "exp", "scope")
        }
        assert "jti" not in found


async def test_who_is_no_administrator_sees_their_own_tokens_and_no_others(gateway):
    await add_person(gateway, "plain", Account("network", "33", "33"), scopes=MANAGE)
    assert (await introspect(gateway, gateway.tokens["plain"], "plain")).json["active"] is True
    for name in ("network_admin", "network", "advertiser"):
        assert (await introspect(gateway, gateway.tokens[name], "plain")).json == {"active": False}


async def test_an_administrator_of_another_network_or_of_no_network_sees_nothing_of_this_one(gateway):
    await add_person(gateway, "stranger", Account("network", "34", "34"), administrator=True, scopes=MANAGE)
    await add_person(
        gateway, "merchant", Account("advertiser", "706", "33"), administrator=True, scopes=MANAGE
    )
    # An id says nothing without its kind: this one's is the network's.
    await add_person(
        gateway, "namesake", Account("advertiser", "33", "33"), administrator=True, scopes=MANAGE
    )
    for by in ("stranger", "merchant", "namesake"):
        for name in ("network_admin", "network", "advertiser", "affiliate"):
            assert (await introspect(gateway, gateway.tokens[name], by)).json == {"active": False}


async def test_garbage_unknown_deleted_and_expired_tokens_are_all_just_inactive(gateway, clock):
    gone, late = await gateway.create(), await gateway.create(expires_in=60)
    await gateway.request("DELETE", f"/admin/api/tokens/{gone['id']}", "network_admin")
    clock.advance(60)
    forged = gateway.tokens["network"][:-6] + "AAAAAA"
    for text in ("x", "a.b.c", forged, gone["token"], late["token"], "\x00", "é"):
        answer = await introspect(gateway, text)
        assert (answer.status, answer.json) == (200, {"active": False})


async def test_introspection_needs_a_bearer_and_its_scope(gateway):
    answer = await introspect(gateway, gateway.tokens["network"], None)
    assert (answer.status, answer.problem) == (401, "no-credential")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="invoca-gateway"'
    assert (await introspect(gateway, gateway.tokens["network"], "garbage")).problem == "invalid-token"
    answer = await introspect(gateway, gateway.tokens["network"], "network")
    assert (answer.status, answer.problem) == (403, "insufficient-scope")
    assert 'scope="tokens:manage"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("path", ["/oauth/introspect", "/oauth/revoke"])
@pytest.mark.parametrize("body", [b"", b"token=", b"tokens=x", b"token=a&token=b", b"token=a&a=x&a=y"])
async def test_a_token_is_named_once(gateway, path, body):
    assert_oauth_error(await post(gateway, path, body=body, token="network_admin"), "invalid_request")


async def test_introspection_shows_when_an_exposed_token_ends(gateway, clock):
    made = await gateway.create()
    await gateway.get(f"/gateway/token?x={made['token']}")
    found = (await introspect(gateway, made["token"])).json
    assert (found["active"], found["exp"]) == (True, int(clock()) + 24 * 3600)


async def test_introspection_is_no_oracle_for_who_may_not_see(gateway):
    """A live token of somebody else, one that ended and one that never was: one answer, to the byte."""
    await add_person(gateway, "plain", Account("network", "33", "33"), scopes=MANAGE)
    gone = await gateway.create()
    await gateway.request("DELETE", f"/admin/api/tokens/{gone['id']}", "network_admin")
    forged = gateway.tokens["network"][:-6] + "AAAAAA"
    seen = set()
    for text in (gateway.tokens["network_admin"], gone["token"], forged, "x"):
        answer = await introspect(gateway, text, "plain")
        fields = {k: v for k, v in answer.headers.items() if k not in ("Date", "Gateway-Request-Id")}
        seen.add((answer.status, answer.body, tuple(sorted(fields.items()))))
        assert "subject" not in gateway.records()[-1]
    assert len(seen) == 1


async def test_a_session_does_not_introspect(gateway):
    await with_password(gateway, "network_admin")
    somebody = await sign_in(gateway)
    form = urlencode({"token": gateway.tokens["network"]}).encode()
    answer = await somebody.ask("POST", "/oauth/introspect", headers=FORM, data=form)
    assert (answer.status, answer.problem) == (401, "no-credential")


# --- revocation


async def test_whoever_presents_a_token_ends_it_at_once(gateway):
    made = await gateway.create()
    assert (await gateway.get("/gateway/token", made["token"])).status == 200
    answer = await post(gateway, "/oauth/revoke", {"token": made["token"]})
    assert (answer.status, answer.json) == (200, {})
    assert (await gateway.get("/gateway/token", made["token"])).problem == "invalid-token"
    shown = (await gateway.get(f"/admin/api/tokens/{made['id']}", "network_admin")).json
    assert (shown["state"], shown["delete_reason"]) == ("deleted", "presented at /oauth/revoke")


@pytest.mark.parametrize("text", ["x", "a.b.c", "é", "\x00"])
async def test_an_unknown_token_is_revoked_with_the_same_answer(gateway, text):
    answer = await post(gateway, "/oauth/revoke", {"token": text, "token_type_hint": "refresh_token"})
    assert (answer.status, answer.json) == (200, {})


async def test_a_forged_token_with_a_true_id_ends_nothing(gateway):
    made = await gateway.create()
    assert (await post(gateway, "/oauth/revoke", {"token": made["token"][:-6] + "AAAAAA"})).status == 200
    assert (await gateway.get("/gateway/token", made["token"])).status == 200


async def test_a_token_whose_owner_is_disabled_is_ended_all_the_same(gateway):
    store, owner = gateway.gateway.store, gateway.owners["network"]
    await store.set_user(owner, active=False)
    assert (await post(gateway, "/oauth/revoke", {"token": gateway.tokens["network"]})).status == 200
    await store.set_user(owner, active=True)
    answer = await gateway.get("/gateway/token", "network")
    assert (answer.problem, "deleted" in answer.json["detail"]) == ("invalid-token", True)


async def test_revoking_again_is_the_same_answer_and_changes_nothing(gateway):
    made = await gateway.create()
    for _ in range(2):
        assert (await post(gateway, "/oauth/revoke", {"token": made["token"]})).status == 200
    await gateway.request("DELETE", f"/admin/api/tokens/{made['id']}", "network_admin")
    shown = (await gateway.get(f"/admin/api/tokens/{made['id']}", "network_admin")).json
    assert shown["delete_reason"] == "presented at /oauth/revoke"


async def test_a_store_that_cannot_answer_is_503_and_never_inactive(gateway):
    token = gateway.tokens["network"]
    await gateway.gateway.store.close()
    answer = await post(gateway, "/oauth/revoke", {"token": token})
    assert (answer.status, answer.problem) == (503, "store-unavailable")


# --- metadata and keys


async def test_metadata_says_what_is_so(gateway):
    found = (await gateway.get("/.well-known/oauth-authorization-server")).json
    assert found["issuer"] == gateway.url
    assert found["grant_types_supported"] == found["response_types_supported"] == []
    assert found["scopes_supported"] == list(SCOPES)
    assert "authorization_endpoint" not in found
    assert "registration_endpoint" not in found
    for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint"):
        path = found[name].removeprefix(gateway.url)
        assert_oauth_error(await post(gateway, path, body=b"", token="network_admin"), "invalid_request")
    assert (await gateway.get(found["jwks_uri"].removeprefix(gateway.url))).json["keys"]


async def test_the_resource_metadata_names_the_same_server(gateway):
    found = (await gateway.get("/.well-known/oauth-protected-resource")).json
    assert found["resource"] == gateway.url
    assert found["authorization_servers"] == [gateway.url]
    assert found["bearer_methods_supported"] == ["header"]
    assert found["scopes_supported"] == list(SCOPES)


@pytest.mark.parametrize("name", ["oauth-authorization-server", "oauth-protected-resource"])
async def test_nothing_in_metadata_comes_from_host(gateway, name):
    answer = await gateway.get(
        f"/.well-known/{name}", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    )
    assert answer.status == 200
    assert b"evil" not in answer.body


async def test_anybody_can_check_a_token_with_the_published_keys(gateway):
    found = (await gateway.get("/.well-known/jwks.json")).json["keys"]
    for token in gateway.tokens.values():
        header = jwt.get_unverified_header(token)
        (key,) = [jwt.PyJWK(entry) for entry in found if entry["kid"] == header["kid"]]
        claims = jwt.decode(token, key, algorithms=["EdDSA"], audience=gateway.url, issuer=gateway.url)
        assert claims["client_id"].startswith("tok_")
        assert header["typ"] == "at+jwt"


async def test_no_published_key_has_a_private_part(gateway):
    for entry in (await gateway.get("/.well-known/jwks.json")).json["keys"]:
        assert entry.keys() == {"kty", "crv", "x", "kid", "alg", "use"}
