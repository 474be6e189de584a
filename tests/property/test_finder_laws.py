"""Laws of finding: a token is found once, wherever it lies, however it is spelled, wherever the stream is cut; and
nothing else is ever a token."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import finder
from gateway.finder import Finder
from gateway.tokens import (
    PREFIX,
    Keyring,
    PublicKeys,
    generate_key,
    mint,
    new_jti,
    read_jwks,
    recognise,
)

LAW = settings(deadline=None)
RING = Keyring(generate_key(), (generate_key().public,))


def a_token(scopes=("transactions:read",)):
    return mint(
        RING, issuer="https://gateway.example.com", audience="https://gateway.example.com", owner_id="usr_owner",
        token_id="tok_token", jti=new_jti(), issued_at=1_000, expires_at=2_000, scopes=scopes,
    )  # fmt: skip


TOKEN = a_token()


def percent(text, of=lambda c: True):
    return "".join(f"%{ord(c):02X}" if of(c) else c for c in text)


def wrapped(text, width, end="\r\n"):
    return end.join(text[i : i + width] for i in range(0, len(text), width))


def b64(text, before=b""):
    return base64.b64encode(before + text.encode()).decode()


SPELLINGS = {
    "plain": TOKEN,
    "its dots percent-encoded": TOKEN.replace(".", "%2e"),
    "its dots percent-encoded thrice": TOKEN.replace(".", "%25252E"),
    "its marks percent-encoded": percent(TOKEN, lambda c: not c.isalnum()),
    "percent-encoded throughout": percent(TOKEN),
    "percent-encoded throughout in lower case": percent(TOKEN).lower(),
    "percent-encoded throughout twice": percent(TOKEN).replace("%", "%25"),
    "JSON escapes for its marks": TOKEN.replace(".", "\\u002e").replace("-", "\\u002D"),
    "JSON escapes throughout": "".join(f"\\u{ord(c):04x}" for c in TOKEN),
    "JSON in JSON": json.dumps(json.dumps({"token": "".join(f"\\u{ord(c):04x}" for c in TOKEN)})),
    "C escapes throughout": "".join(f"\\x{ord(c):02x}" for c in TOKEN),
    "HTML entities for its marks": TOKEN.replace(".", "&#46;").replace("_", "&#x5F;"),
    "HTML entities throughout": "".join(f"&#{ord(c)};" for c in TOKEN),
    "hexadecimal HTML entities throughout": "".join(f"&#x{ord(c):X};" for c in TOKEN),
    "quoted-printable": wrapped(TOKEN.replace(".", "=2E"), 76, "=\r\n"),
    "wrapped lines": wrapped(TOKEN, 72, "\n    "),
    "wrapped in a string": wrapped(TOKEN, 64, "\\n"),
    "hexadecimal": TOKEN.encode().hex(),
    "HEXADECIMAL": TOKEN.encode().hex().upper(),
    "base64": b64(TOKEN),
    "base64 after one byte": b64(TOKEN, b":"),
    "base64 of HTTP Basic": b64(TOKEN, "ünser-user:".encode()),
    "base64 after two bytes": b64(TOKEN, b"\xff\xff"),
    "base64 of what goes on": b64(TOKEN + '", "and": "more"}', b'{"token": "'),
    "base64url": base64.urlsafe_b64encode(b"\xff\xfe\xff" + TOKEN.encode() + b"\xff\xfe").decode(),
    "base64 in lines": wrapped(b64(TOKEN + "\n", b"user:"), 76),
    "base64 in lines in a string": wrapped(b64(TOKEN, b"user:"), 60, "\\n"),
    "base64 of percent-encoded marks": b64(percent(TOKEN, lambda c: not c.isalnum())),
    "base64 of UTF-16": base64.b64encode(("$t='" + TOKEN + "'").encode("utf-16-le")).decode(),
    "base64 of UTF-16 after one character": base64.b64encode(("x" + TOKEN).encode("utf-16-le")).decode(),
}


def hits(data, pieces=(), window=finder.WINDOW):
    """Every hit in data that is fed in pieces of these sizes, the rest at once."""
    made, found, at = Finder(window), [], 0
    for size in pieces:
        found += made.feed(data[at : at + size])
        at += size
    return found + made.feed(data[at:]) + made.close()


def tokens(data, *more):
    return [hit.text for hit in hits(data, *more) if recognise(RING, hit.text)]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("code", ["utf-8", "utf-16-le", "utf-16-be", "utf-16"])
def test_a_token_is_found_in_every_spelling_once_and_on_its_line(spelling, code):
    text = f"first\nsecond {SPELLINGS[spelling]}\nlast {PREFIX} eyJh"
    found = [hit for hit in hits(text.encode(code)) if recognise(RING, hit.text)]
    assert [(hit.text, hit.line) for hit in found] == [(TOKEN, 2)]


# Before a token may stand anything but what makes its spelling another one: base64 that goes on, half an escape.
BEFORE = st.binary(max_size=300).map(lambda junk: junk + b"\n#")


@LAW
@given(
    BEFORE,
    st.binary(max_size=300),
    st.sampled_from(sorted(SPELLINGS)),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_wherever_a_stream_is_cut_a_token_is_found_once_and_on_its_line(before, after, spelling, cuts):
    data = before + SPELLINGS[spelling].encode() + b"\r\n\r\n!" + after
    whole = hits(data)
    assert hits(data, cuts) == whole
    mine = [hit for hit in whole if recognise(RING, hit.text)]
    assert [(hit.text, hit.line) for hit in mine] == [(TOKEN, before.count(b"\n") + 1)]


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
@pytest.mark.parametrize("step", [911, 70_001])
def test_tokens_across_the_borders_of_windows_are_found_once(spelling, step):
    window = 4_096
    unit = b"#" + SPELLINGS[spelling].encode() + b"\r\n!"
    number = 2 * (window + finder.OVERLAP) // len(unit)
    assert [hit.line for hit in hits(unit * number, [step] * (len(unit) * number // step), window)] == [
        1 + unit.count(b"\n") * place for place in range(number)
    ]


def test_a_stream_of_any_length_is_held_by_the_window_only():
    made = Finder()
    for _ in range(64):
        made.feed(os.urandom(262_144))
        assert len(made._held) <= finder.WINDOW + finder.OVERLAP + 262_144


@LAW
@given(
    st.binary(max_size=2_000)
    | st.text(max_size=500).map(lambda text: (PREFIX + text).encode("utf-8", "ignore"))
)
def test_arbitrary_bytes_are_no_token_and_raise_nothing(data):
    assert tokens(data) == []


@LAW
@given(st.integers(0, len(TOKEN) - 1), st.characters(max_codepoint=0x7F))
def test_a_token_with_any_character_replaced_is_none(at, char):
    changed = TOKEN[:at] + char + TOKEN[at + 1 :]
    assert tokens(changed.encode()) in ([], [TOKEN] if changed == TOKEN else [])


def test_a_million_random_strings_raise_no_false_alarm():
    chance = random.Random(5)
    header, payload, _ = TOKEN.split(".")
    other = Keyring(generate_key())
    assert recognise(PublicKeys((other.current.public,)), TOKEN) is None
    letters = base64.urlsafe_b64encode(os.urandom(3_000_000)).decode()

    def some(count):
        at = chance.randrange(len(letters) - count)
        return letters[at : at + count]

    def a_string(kind):
        if kind == 0:  # all by chance
            return some(120)
        if kind == 1:  # the prefix, of some other key
            return f"{PREFIX}{some(45)}.{some(200)}.{some(86)}"
        if kind == 2:  # our very header
            return f"{header}.{some(len(payload))}.{some(85)}A"
        if kind == 3:  # a true token's claims, without its signature
            return f"{header}.{payload}.{some(85)}A"
        return percent(f"{PREFIX}{some(45)}.{some(100)}.{some(86)}", lambda c: not c.isalnum())

    made, seen, found = Finder(), 0, 0
    for number in range(1_000):
        # Signatures cost: two of each thousand are checked to the end.
        kinds = [3, 3, *(1, 2) * 100, *(4,) * 10, *(0,) * 788]
        made_up = [a_string(kind) for kind in kinds]
        for hit in made.feed(("\n".join(made_up) + "\n").encode()) + (made.close() if number == 999 else []):
            seen += 1
            found += recognise(RING, hit.text) is not None
    assert seen > 50_000  # most were made to look like one
    assert found == 0


@pytest.mark.parametrize(
    "unit",
    [PREFIX, PREFIX + ".", "%65%79", "%25", "\\", "\\u0065", "&#0", "&#101;", "=65", "=\n", "\\n", "\n", "\0", "e",
     PREFIX.encode().hex(), b64(PREFIX), b64(PREFIX, b"x"), b64(PREFIX, b"xx"),
     percent(PREFIX), percent(TOKEN[:80] + "A" * 900), TOKEN[:-1]],
)  # fmt: skip
def test_nothing_takes_long_to_look_through(unit):
    data = (unit * (2**20 // len(unit) + 1)).encode()[: 2**20]
    began = time.process_time()
    hits(data)
    assert time.process_time() - began < 20.0  # what grows with the square takes minutes


# --- the keys to verify with

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["keys", "kty", "x"]) | st.text(), inner)
    ),
    max_leaves=8,
)  # fmt: skip
JWK = st.fixed_dictionaries(
    {"kty": st.just("OKP"), "crv": st.just("Ed25519"), "x": st.text(max_size=50) | JSON}
)


def test_a_published_set_recognises_what_its_keys_signed():
    assert recognise(read_jwks(json.dumps(RING.jwks())), TOKEN).token_id == "tok_token"
    assert recognise(PublicKeys(RING.retired), TOKEN) is None


@LAW
@given(
    st.binary()
    | st.text()
    | JSON.map(json.dumps)
    | st.lists(JSON | JWK).map(lambda keys: json.dumps({"keys": keys}))
)
def test_a_set_of_keys_is_read_or_is_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert read_jwks(text).public_keys


def test_keys_of_other_kinds_are_left_out():
    document = {
        "keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "OKP", "crv": "X25519", "x": "AA"}]
    }
    with pytest.raises(ValueError, match="has no Ed25519 key"):
        read_jwks(json.dumps(document))
    document["keys"] += RING.jwks()["keys"]
    assert read_jwks(json.dumps(document)).public_keys == RING.public_keys
