"""Laws of tokens: only what was minted verifies, and nothing but a Problem ever comes out of a refusal."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.problem import Problem
from gateway.tokens import PREFIX, REFUSED, Keyring, find_tokens, generate_key, mint, new_jti, scrub, verify

ORIGIN = "https://gateway.example.com"
RING = Keyring(generate_key(), (generate_key().public,))
TOKEN = mint(
    RING,
    issuer=ORIGIN,
    audience=ORIGIN,
    owner_id="usr_owner",
    token_id="tok_token",
    jti=new_jti(),
    issued_at=1_000,
    expires_at=2_000,
    scopes=["transactions:read"],
)
LAW = settings(deadline=None)  # a loaded machine breaks no law
SCOPE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"\\'), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def refused(text: str) -> None:
    with pytest.raises(Problem) as caught:
        verify(RING, text, issuer=ORIGIN, audience=ORIGIN)
    assert (caught.value.kind, caught.value.detail) == ("invalid-token", REFUSED)


@LAW
@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_a_token_with_any_character_replaced_never_verifies(at: int, char: str) -> None:
    assume(char != TOKEN[at])
    refused(TOKEN[:at] + char + TOKEN[at + 1 :])


@LAW
@given(st.integers(0, len(TOKEN)), st.text(min_size=1, max_size=5))
def test_a_token_with_anything_inserted_or_appended_never_verifies(at: int, text: str) -> None:
    changed = TOKEN[:at] + text + TOKEN[at:]
    refused(changed)


@LAW
@given(st.integers(0, len(TOKEN) - 1), st.integers(1, len(TOKEN)))
def test_a_token_with_anything_deleted_never_verifies(at: int, count: int) -> None:
    refused(TOKEN[:at] + TOKEN[at + count :])


@LAW
@given(st.sets(st.integers(0, len(TOKEN) - 1), min_size=1))
def test_a_token_with_any_letters_in_the_other_case_never_verifies(at: set[int]) -> None:
    changed = "".join(c.swapcase() if i in at else c for i, c in enumerate(TOKEN))
    assume(changed != TOKEN)
    refused(changed)


@LAW
@given(st.text() | st.text("eyJ.AQgw-_=", max_size=400) | st.text().map(lambda tail: PREFIX + tail))
def test_arbitrary_text_is_refused_and_raises_nothing_else(text: str) -> None:
    refused(text)


@LAW
@given(JSON | st.dictionaries(st.sampled_from(["iss", "aud", "sub", "client_id", "iat", "exp"]), JSON))
def test_any_signed_json_that_mint_would_not_write_is_refused_and_raises_nothing_else(value: object) -> None:
    payload = json.dumps(value, separators=(",", ":")).encode()
    text = f"{RING.current.public.header}." + base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    signature = base64.urlsafe_b64encode(RING.current.key.sign(text.encode())).rstrip(b"=").decode()
    refused(f"{text}.{signature}")


@LAW
@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.integers(0, 10**9),
    st.integers(1, 10**9),
    st.lists(SCOPE, min_size=1, max_size=8),
)
def test_whatever_is_minted_verifies_is_found_and_is_scrubbed(
    owner: str, issued_at: int, life: int, scopes: list[str]
) -> None:
    assume(sum(map(len, scopes)) < 500)
    text = mint(
        RING,
        issuer=ORIGIN,
        audience=ORIGIN,
        owner_id=owner,
        token_id="tok_token",
        jti=new_jti(),
        issued_at=issued_at,
        expires_at=issued_at + life,
        scopes=scopes,
    )
    claims = verify(RING, text, issuer=ORIGIN, audience=ORIGIN)
    assert (claims.owner_id, claims.scopes, claims.expires_at) == (owner, tuple(scopes), issued_at + life)
    assert text.startswith(PREFIX)
    assert find_tokens(f"?t={text}&") == [text]
    assert scrub(f"?t={text}&") == "?t=[token]&"


@LAW
@given(st.text(), st.text())
def test_no_text_around_a_token_keeps_it_from_being_scrubbed(before: str, after: str) -> None:
    assert TOKEN.split(".")[2] not in scrub(before + TOKEN + after)
    assert TOKEN in find_tokens(before + TOKEN + after)
