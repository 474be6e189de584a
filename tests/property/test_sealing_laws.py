"""Laws of sealing: what was sealed opens for the same key and account, and for nothing else."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.store.sealing import SealingKey, parse_key

LAW = settings(deadline=None)
KEY, OTHER = SealingKey(os.urandom(32)), SealingKey(os.urandom(32))
CREDENTIAL = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)
ACCOUNT = st.text(max_size=40)


@LAW
@given(ACCOUNT, CREDENTIAL)
def test_what_was_sealed_opens_and_does_not_show(account, credential):
    sealed = KEY.seal(account, credential)
    assert KEY.open(account, sealed) == credential
    assert len(credential) < 4 or credential.encode() not in sealed
    assert sealed != KEY.seal(account, credential)


@LAW
@given(ACCOUNT, ACCOUNT, CREDENTIAL)
def test_it_opens_neither_for_another_account_nor_for_another_key(account, another, credential):
    assume(account != another)
    sealed = KEY.seal(account, credential)
    for key, name in ((KEY, another), (OTHER, account)):
        with pytest.raises(ValueError, match="was not sealed with this key for this account"):
            key.open(name, sealed)


@LAW
@given(CREDENTIAL, st.data())
def test_it_does_not_open_with_any_bit_changed_or_cut(credential, data):
    sealed = bytearray(KEY.seal("network:33", credential))
    at = data.draw(st.integers(0, len(sealed) - 1))
    cut = bytes(sealed[:at])
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    for changed in (bytes(sealed), cut):
        with pytest.raises(ValueError, match="was not sealed"):
            KEY.open("network:33", changed)


@LAW
@given(st.binary(max_size=200))
def test_arbitrary_bytes_do_not_open_and_raise_nothing_else(sealed):
    with pytest.raises(ValueError, match="was not sealed"):
        KEY.open("network:33", sealed)


@LAW
@given(
    st.text()
    | st.text("0123456789abcdefABCDEF", min_size=60, max_size=68)
    | st.binary(max_size=40).map(bytes.hex)
)
def test_a_key_is_read_or_refused_without_being_repeated(text):
    try:
        key = parse_key(text)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
        assert len(key) == 32
    assert len(text.strip()) < 8 or text.strip() not in refused


def test_random_keys_are_never_taken_for_weak_ones_in_any_form():
    for _ in range(20_000):
        key = os.urandom(32)
        for text in (
            key.hex(),
            base64.b64encode(key).decode(),
            base64.urlsafe_b64encode(key).decode().rstrip("="),
        ):
            assert parse_key(f" {text}\n") == key
