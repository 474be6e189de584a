"""Tokens: what is minted, what is accepted, and how they are recognised in text."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gateway.problem import Problem
from gateway.tokens import (
    MAX_TOKEN_CHARS,
    PREFIX,
    REFUSED,
    Claims,
    Keyring,
    find_tokens,
    generate_key,
    jti_digest,
    mint,
    new_jti,
    public_key,
    scrub,
    signing_key,
    verify,
)

ORIGIN = "https://gateway.example.com"
RING = Keyring(generate_key())


def a_token(ring: Keyring = RING, **changes: Any) -> str:
    values: dict[str, Any] = {
        "issuer": ORIGIN,
        "audience": ORIGIN,
        "owner_id": "usr_owner",
        "token_id": "tok_token",
        "jti": new_jti(),
        "issued_at": 1_000,
        "expires_at": 2_000,
        "scopes": ["transactions:read", "network:read"],
    }
    return mint(ring, **(values | changes))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(payload: bytes, header: str | None = None, ring: Keyring = RING) -> str:
    """Any payload under any header, truly signed with our key: what a thief of the key could make."""
    text = f"{header or ring.current.public.header}.{b64(payload)}"
    return f"{text}.{b64(ring.current.key.sign(text.encode()))}"


def check(text: str, ring: Keyring = RING) -> Claims:
    return verify(ring, text, issuer=ORIGIN, audience=ORIGIN)


def assert_refused(text: str, ring: Keyring = RING) -> None:
    with pytest.raises(Problem) as caught:
        check(text, ring)
    assert (caught.value.kind, caught.value.detail) == ("invalid-token", REFUSED)
    assert caught.value.members == {}


def claims(**changes: Any) -> dict[str, Any]:
    return json.loads(unb64(a_token().split(".")[1])) | changes


def test_every_token_begins_with_the_prefix_scanners_know() -> None:
    for _ in range(50):
        ring = Keyring(generate_key())
        token = a_token(ring)
        assert token.startswith(PREFIX)
        assert token.split(".")[0] == ring.current.public.header


def test_the_header_is_alg_kid_typ_in_that_order() -> None:
    header = unb64(a_token().split(".")[0]).decode()
    assert header == f'{{"alg":"EdDSA","kid":"{RING.current.kid}","typ":"at+jwt"}}'


def test_the_claims_are_exactly_those_of_the_contract() -> None:
    jti = new_jti()
    assert json.loads(unb64(a_token(jti=jti).split(".")[1])) == {
        "iss": ORIGIN,
        "aud": ORIGIN,
        "sub": "usr_owner",
        "client_id": "tok_token",
        "iat": 1_000,
        "exp": 2_000,
        "jti": jti,
        "scope": "transactions:read network:read",
    }


def test_a_minted_token_verifies_to_what_it_was_minted_from() -> None:
    jti = new_jti()
    found = check(a_token(jti=jti))
    assert found == Claims(
        ORIGIN, ORIGIN, "usr_owner", "tok_token", 1_000, 2_000, jti, ("transactions:read", "network:read")
    )
    assert jti not in repr(found)


@pytest.mark.parametrize(("now", "over"), [(1_999.9, False), (2_000, True), (2_000.1, True)])
def test_the_last_second_of_a_token_is_exclusive(now: float, over: bool) -> None:
    assert check(a_token()).expired(now) is over


def test_a_token_of_a_retired_key_is_still_accepted_and_one_of_a_dropped_key_is_not() -> None:
    token = a_token()
    successor = generate_key()
    assert check(token, Keyring(successor, (RING.current.public,))).token_id == "tok_token"
    assert_refused(token, Keyring(successor))


def test_a_token_of_another_key_under_our_key_id_is_refused() -> None:
    header, payload, _ = a_token().split(".")
    forged = ed25519.Ed25519PrivateKey.generate().sign(f"{header}.{payload}".encode())
    assert_refused(f"{header}.{payload}.{b64(forged)}")


@pytest.mark.parametrize(
    ("issuer", "audience"),
    [(ORIGIN + "/", ORIGIN), (ORIGIN[:-1], ORIGIN), (ORIGIN, ORIGIN.upper()), (ORIGIN, ORIGIN + ".evil")],
)
def test_issuer_and_audience_are_compared_exactly(issuer: str, audience: str) -> None:
    assert_refused(a_token(issuer=issuer, audience=audience))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "at+jwt"},
        {"alg": "none", "kid": RING.current.kid, "typ": "at+jwt"},
        {"alg": "HS256", "kid": RING.current.kid, "typ": "at+jwt"},
        {"alg": "Ed25519", "kid": RING.current.kid, "typ": "at+jwt"},
        {"alg": "EdDSA", "kid": RING.current.kid, "typ": "JWT"},
        {"alg": "EdDSA", "kid": RING.current.kid, "typ": "at+JWT"},
        {"alg": "EdDSA", "kid": RING.current.kid, "typ": "rt+jwt"},
        {"alg": "EdDSA", "kid": "ivg-AAAAAAAAAAAAAAAA", "typ": "at+jwt"},
        {"alg": "EdDSA", "kid": RING.current.kid, "TYP": "at+jwt"},
        {"alg": "EdDSA", "kid": RING.current.kid},
        {"alg": "EdDSA", "kid": "ivg-../../../etc", "typ": "at+jwt"},
        {"typ": "at+jwt", "kid": RING.current.kid, "alg": "EdDSA"},
        {"alg": "EdDSA", "kid": RING.current.kid, "typ": "at+jwt", "crit": ["exp"]},
        {"alg": "EdDSA", "kid": RING.current.kid, "typ": "at+jwt", "jku": "https://evil.example/jwks"},
        {"alg": "EdDSA", "kid": RING.current.kid, "typ": "at+jwt", "jwk": RING.jwks()["keys"][0]},
        {"alg": "EdDSA", "kid": RING.current.kid, "typ": "at+jwt", "b64": False, "crit": ["b64"]},
    ],
)
def test_no_header_but_ours_is_accepted_even_truly_signed(header: dict[str, Any]) -> None:
    payload = json.dumps(claims(), separators=(",", ":")).encode()
    assert_refused(signed(payload, b64(json.dumps(header, separators=(",", ":")).encode())))


def test_a_token_without_algorithm_or_signature_is_refused() -> None:
    header, payload, _ = a_token().split(".")
    assert_refused(jwt.encode(claims(), None, algorithm="none", headers={"typ": "at+jwt"}))
    assert_refused(f"{header}.{payload}.")


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("form", ["pem", "raw", "jwk"])
def test_a_token_signed_with_the_public_key_as_a_shared_secret_is_refused(form: str) -> None:
    import hashlib
    import hmac

    secret = {
        "pem": RING.current.public.to_pem(),
        "raw": RING.current.public.key.public_bytes_raw(),
        "jwk": json.dumps(RING.jwks()["keys"][0]).encode(),
    }[form]
    payload = b64(json.dumps(claims(), separators=(",", ":")).encode())
    own = b64(f'{{"alg":"HS256","kid":"{RING.current.kid}","typ":"at+jwt"}}'.encode())
    for header in (own, RING.current.public.header):
        mac = hmac.digest(secret, f"{header}.{payload}".encode(), hashlib.sha256)
        assert_refused(f"{header}.{payload}.{b64(mac)}")


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "scope"])
def test_a_token_lacking_a_claim_is_refused(name: str) -> None:
    body = claims()
    del body[name]
    assert_refused(signed(json.dumps(body, separators=(",", ":")).encode()))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": True},
        {"exp": 2_000.0},
        {"exp": "2000"},
        {"exp": None},
        {"exp": -1},
        {"exp": 10**30},
        {"exp": 1_000},
        {"iat": False},
        {"iat": [1_000]},
        {"aud": [ORIGIN]},
        {"aud": {}},
        {"iss": [ORIGIN]},
        {"sub": 7},
        {"sub": ""},
        {"sub": "usr owner"},
        {"sub": "usr_\u0661"},
        {"client_id": ["tok_token"]},
        {"jti": "short"},
        {"jti": "A" * 21 + "B"},
        {"scope": ["transactions:read"]},
        {"scope": ""},
        {"scope": "a  b"},
        {"scope": "a "},
        {"nbf": 1},
        {"act": {"sub": "usr_other"}},
    ],
    ids=str,
)
def test_a_claim_of_another_shape_is_refused_even_truly_signed(changes: dict[str, Any]) -> None:
    assert_refused(signed(json.dumps(claims(**changes), separators=(",", ":")).encode()))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"1",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b"{" * 200,
        b"[" * 1_200,
        b'{"exp":' + b"9" * 1_300 + b"}",
        b'{"exp":1e999}',
        b'{"exp":NaN}',
    ],
    ids=lambda payload: payload[:12].decode("latin-1"),
)
def test_a_payload_that_is_no_claims_object_is_refused_and_breaks_nothing(payload: bytes) -> None:
    assert_refused(signed(payload))


def test_numbers_of_five_thousand_digits_and_endless_tokens_are_refused() -> None:
    assert_refused(signed(b'{"exp":' + b"9" * 5_000 + b"}"))
    assert_refused("A" * 10_000_000)
    assert_refused(a_token() + "A" * MAX_TOKEN_CHARS)


def test_one_token_has_one_spelling_even_for_who_holds_the_key() -> None:
    plain = json.dumps(claims(), separators=(",", ":"))
    assert check(signed(plain.encode())).token_id == "tok_token"
    assert_refused(signed(json.dumps(claims()).encode()))
    assert_refused(signed(plain.replace('{"iss"', '{"exp":2000,"iss"', 1).encode()))
    assert_refused(signed(plain.replace("usr_owner", "usr_\\u006fwner").encode()))
    assert_refused(signed(json.dumps(dict(reversed(claims().items())), separators=(",", ":")).encode()))


def test_padding_spare_bits_and_the_other_alphabet_are_refused() -> None:
    token = a_token()
    last = "AQgw".index(token[-1]) * 16
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for spare in range(1, 16):
        assert_refused(token[:-1] + alphabet[last + spare])
    for wrong in (
        token + "=",
        token + "==",
        token + "\n",
        " " + token,
        token + ".",
        token.replace(".", ".."),
    ):
        assert_refused(wrong)
    header, payload, signature = token.split(".")
    assert_refused(f"{header}.{payload}=.{signature}")
    assert_refused(token.translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")))


@pytest.mark.parametrize(
    "changes",
    [
        {"scopes": []},
        {"scopes": ["two words"]},
        {"expires_at": 1_000},
        {"expires_at": True},
        {"owner_id": "usr owner"},
        {"jti": "guessable"},
        {"issuer": "https://gateway.example.com/" + "x" * 2_000},
        {"issuer": "https://bücher.example"},
    ],
    ids=str,
)
def test_nothing_is_minted_that_would_not_verify(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"token"):
        a_token(**changes)


def test_the_published_keys_have_no_private_part() -> None:
    retired = generate_key().public
    keys = Keyring(RING.current, (retired,)).jwks()["keys"]
    assert [key["kid"] for key in keys] == [RING.current.kid, retired.kid]
    for key in keys:
        assert key.keys() == {"kty", "crv", "x", "kid", "alg", "use"}
        assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("OKP", "Ed25519", "EdDSA", "sig")
        assert len(unb64(key["x"])) == 32


def test_a_published_key_verifies_a_token_elsewhere() -> None:
    key = jwt.PyJWK(RING.jwks()["keys"][0])
    options = {"verify_exp": False}
    found = jwt.decode(a_token(), key, algorithms=["EdDSA"], audience=ORIGIN, issuer=ORIGIN, options=options)
    assert found["sub"] == "usr_owner"


def test_keys_survive_their_pem_and_print_without_their_secret() -> None:
    key = generate_key()
    assert signing_key(key.to_pem()).kid == key.kid == public_key(key.public.to_pem()).kid
    assert repr(key) == "SigningKey()"


def test_keys_of_another_kind_are_refused() -> None:
    from cryptography.hazmat.primitives import serialization as s

    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    locked = ed25519.Ed25519PrivateKey.generate().private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"passphrase")
    )
    for wrong in (pem, locked, b"", b"not a key", RING.current.public.to_pem()):
        with pytest.raises(ValueError, match="is not an"):
            signing_key(wrong)
    for wrong in (b"", RING.current.to_pem()):
        with pytest.raises(ValueError, match="is not a"):
            public_key(wrong)


def test_a_jti_is_128_random_bits_and_its_digest_is_sha_256() -> None:
    assert len({new_jti() for _ in range(1_000)}) == 1_000
    assert len(unb64(new_jti())) == 16
    assert jti_digest("abc").hex().startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "x{}y",
        "?token={}&page=2",
        '{{"token": "{}"}}',
        "Authorization: Bearer {}\r\n",
        "{}.",
        PREFIX + "{}",
    ],
)
def test_tokens_are_found_in_any_text(around: str) -> None:
    token = a_token()
    text = around.format(token)
    assert find_tokens(text) == find_tokens(text.encode()) == [token]


def test_tokens_with_percent_encoded_dots_are_found_too() -> None:
    token = a_token()
    for dot in ("%2E", "%2e", "%252E", "%25252e"):
        assert find_tokens(token.replace(".", dot)) == [token]
        assert scrub(f"a {token.replace('.', dot)} b") == "a [token] b"


def test_other_tokens_and_mere_prefixes_are_not_candidates() -> None:
    other = jwt.encode({"sub": "x"}, "s" * 32, algorithm="HS256")
    assert find_tokens(f"{PREFIX} {PREFIX}.a.b {other}") == []
    assert scrub(other) == other


def test_scrubbing_leaves_nothing_of_a_token_even_of_a_truncated_one() -> None:
    token = a_token()
    assert scrub(f"GET /a?t={token}&b=1 {token}") == "GET /a?t=[token]&b=1 [token]"
    for cut in range(len(PREFIX), len(token)):
        assert scrub(f"<{token[:cut]}>") == "<[token]>"


@pytest.mark.parametrize("piece", [PREFIX, PREFIX + ".", "%25", "%", ".", "A", PREFIX + "A" * 45 + "."])
def test_searching_hostile_text_is_linear(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))  # quadratic would take hours, not longer than the suite
    assert find_tokens(text) == []
    assert isinstance(scrub(text), str)
