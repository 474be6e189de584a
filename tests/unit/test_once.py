"""An answer kept for who asked: only the same key, of the same owner, for the same body, opens it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.once import Once, once
from gateway.problem import Problem
from gateway.tokens import new_jti

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
WHOSE = ("usr_1", "tok_1", "/admin/api/tokens")
LAW = settings(deadline=None, max_examples=50)


def made(key: str = KEY, whose: tuple[str, ...] = WHOSE, body: bytes = b"{}") -> Once:
    found = once([key], whose=whose, body=body)
    assert found is not None
    return found


@LAW
@given(
    st.binary(max_size=200),
    st.text("abcXYZ019-_", min_size=16, max_size=255),
    st.lists(st.text(), max_size=4),
)
def test_what_a_request_seals_it_opens_again(body: bytes, key: str, whose: list[str]) -> None:
    whose = [name for name in whose if name.isascii()]
    jti = new_jti()
    first, second = (once([key], whose=whose, body=body) for _ in range(2))
    assert first is not None
    assert first == second
    assert second.open(first.seal(jti)) == jti


@pytest.mark.parametrize(
    "other",
    [
        {"key": KEY[:-1] + "5"},
        {"whose": ("usr_2", *WHOSE[1:])},
        {"whose": ("usr_1", "tok_2", WHOSE[2])},
        {"whose": (*WHOSE[:2], "/admin/api/tokens/tok_1/rotate")},
        {"whose": ("usr_1tok_1", WHOSE[2])},
        {"whose": ("usr_1t", "ok_1", WHOSE[2])},
        {"body": b"{} "},
    ],
    ids=str,
)
def test_no_other_request_opens_it(other: dict[str, object]) -> None:
    another = made(**other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sealed"):
        another.open(made().seal(new_jti()))
    assert (another.lookup == made().lookup) is ("body" in other)
    assert another.binding != made().binding


@LAW
@given(st.binary(max_size=80))
def test_bytes_that_nobody_sealed_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="sealed"):
        made().open(data)


@LAW
@given(st.data())
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(made().seal(new_jti()))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="sealed"):
        made().open(bytes(sealed))


def test_what_the_store_gets_holds_neither_jti_nor_key_and_differs_each_time() -> None:
    jti, it = new_jti(), made()
    sealed = [it.seal(jti) for _ in range(2)]
    assert sealed[0] != sealed[1]
    for part in (*sealed, it.lookup, it.binding):
        assert jti.encode() not in part
        assert KEY.encode() not in part
    assert it._secret.hex() not in repr(it)
    assert repr(it._secret) not in repr(it)


@pytest.mark.parametrize("key", [KEY, f'"{KEY}"', "x" * 16, "x" * 255])
def test_a_key_is_taken_with_or_without_the_quotes_of_a_structured_field(key: str) -> None:
    assert made(key) == made(key.strip('"'))


def test_without_the_header_there_is_nothing_to_keep() -> None:
    assert once([], whose=WHOSE, body=b"") is None


@pytest.mark.parametrize(
    "keys",
    [[""], ["short"], ["x" * 15], ["x" * 256], [f'"{KEY}'], [f'{KEY}"'], [KEY + " "], [KEY + "\n"], ["é" * 20],
     [KEY, KEY], [f"{KEY},{KEY}"]],
)  # fmt: skip
def test_a_key_that_can_be_guessed_or_misread_is_refused(keys: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        once(keys, whose=WHOSE, body=b"")
    assert (caught.value.kind, caught.value.members) == ("invalid-input", {"member": "Idempotency-Key"})
