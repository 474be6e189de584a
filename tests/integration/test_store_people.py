"""What every backend of the store keeps of people: sessions, codes and passwords, each act one transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import config
from gateway.model import Account
from gateway.signin import digest, new_secret
from gateway.store import FirstToken, NewCode, NewSession, Store, UserRow, open_store
from gateway.tokens import jti_digest, new_jti
from tests.integration.test_store_contract import (
    ADVERTISER,
    NETWORK,
    NOW,
    Turnable,
    a_token,
    a_user,
    assert_problem,
)

HASH, OTHER = "$argon2id$one", "$argon2id$two"
HOUR = 3600


@pytest.fixture
def clock() -> Turnable:
    return Turnable()


@pytest.fixture(params=["sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Turnable) -> AsyncIterator[Store]:
    opened = await open_store(config.Store(path=str(tmp_path / "gateway.sqlite3")), clock)
    yield opened
    await opened.close()


async def a_person(store: Store, **changes: object) -> UserRow:
    """Somebody with a password."""
    user = await a_user(store, **changes)  # type: ignore[arg-type]
    await store.set_password(user.id, HASH)
    return user


async def a_session(store: Store, user: UserRow, text: str | None = None, ends_at: int = NOW + HOUR) -> str:
    text = text or new_secret()
    row = await store.people.sign_in(user.id, password_hash=HASH, session=NewSession(digest(text), ends_at))
    assert row is not None
    return text


async def a_code(store: Store, user: UserRow, ends_at: int = NOW + HOUR) -> str:
    text = new_secret()
    assert await store.people.give_code(user.id, NewCode(digest(text), "reset", ends_at)) == user
    return text


# --- adding


async def test_a_user_comes_with_account_and_code_or_not_at_all(store):
    code = NewCode(digest("x"), "activation", NOW + HOUR)
    user, token = await store.people.add("a@example.com", ADVERTISER, "member", code=code)
    assert token is None
    assert await store.people.code(digest("x")) == user
    before = await store.generation()
    # The digest is taken: the last of three writes fails, and none has happened.
    await assert_problem(
        "store-unavailable",
        store.people.add("b@example.com", Account("affiliate", "9", "33"), "member", code=code),
    )
    assert await store.user_by_email("b@example.com") is None
    assert await store.account("affiliate", "9") is None
    assert await store.generation() == before


async def test_the_first_token_comes_with_its_user_or_not_at_all(store):
    jti = new_jti()
    first = FirstToken(jti_digest(jti), NOW + HOUR, "ivg-key")
    user, token = await store.people.add("a@example.com", NETWORK, "super", True, first=first)
    assert token is not None
    assert (token.owner_id, token.bootstrap, token.scopes) == (user.id, True, ("tokens:manage",))
    assert (token.expires_at, token.made_by) == (NOW + HOUR, None)
    assert await store.find(jti_digest(jti)) == (token, user)
    await assert_problem(
        "store-unavailable", store.people.add("b@example.com", NETWORK, "super", True, first=first)
    )
    assert await store.user_by_email("b@example.com") is None


# --- sessions


async def test_a_session_is_found_by_its_digest_alone_with_whose_it_is(store):
    user = await a_person(store)
    text = await a_session(store, user)
    session, found = await store.people.session(digest(text))
    assert found == user
    assert (session.user_id, session.created_at, session.seen_at) == (user.id, NOW, NOW)
    assert session.id.startswith("ses_")
    for wrong in (digest("x"), b"", text.encode()):
        assert await store.people.session(wrong) is None


async def test_who_was_disabled_or_has_another_password_since_is_not_signed_in(store):
    user = await a_person(store)
    session = NewSession(digest("x"), NOW + HOUR)
    await store.set_password(user.id, OTHER)
    assert await store.people.sign_in(user.id, password_hash=HASH, session=session) is None
    await store.set_password(user.id, HASH)
    await store.set_user(user.id, active=False)
    assert await store.people.sign_in(user.id, password_hash=HASH, session=session) is None
    assert await store.people.session(digest("x")) is None


async def test_ended_sessions_and_codes_are_cleared_away_at_a_sign_in(store, clock, tmp_path):
    user, other = await a_person(store), await a_person(store)
    await a_session(store, user, ends_at=NOW + 60)
    await a_code(store, other, ends_at=NOW + 60)
    clock.now += 60
    await a_session(store, user, ends_at=NOW + HOUR)
    db = sqlite3.connect(tmp_path / "gateway.sqlite3")
    counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("sessions", "codes")]
    db.close()
    assert counts == [1, 0]


async def test_a_session_is_seen_later_and_never_earlier(store):
    user = await a_person(store)
    text = await a_session(store, user)
    for at, expected in ((NOW + 60, NOW + 60), (NOW + 30, NOW + 60)):
        await store.people.touch(digest(text), at=at)
        found = await store.people.session(digest(text))
        assert found[0].seen_at == expected


async def test_ending_is_of_one_session_or_of_all_of_one_user(store):
    user, other = await a_person(store), await a_person(store)
    mine = [await a_session(store, user) for _ in range(3)]
    theirs = await a_session(store, other)
    await store.people.end_session(digest(mine[0]))
    assert [await store.people.session(digest(text)) is None for text in mine] == [True, False, False]
    assert await store.people.end_sessions(user.id) == 2
    assert await store.people.end_sessions(user.id) == 0
    assert await store.people.session(digest(theirs)) is not None


# --- codes


async def test_a_code_is_used_once_by_one_of_many(store):
    user = await a_person(store)
    text = await a_code(store, user)
    used = await asyncio.gather(
        *(store.people.use_code(digest(text), password_hash=f"$argon2id${number}") for number in range(6))
    )
    assert sorted(row is None for row in used) == [False] + [True] * 5
    assert await store.people.code(digest(text)) is None


async def test_a_code_ends_at_its_second_and_not_before(store, clock):
    user = await a_person(store)
    text = await a_code(store, user)
    clock.now = NOW + HOUR - 1
    assert await store.people.code(digest(text)) == user
    clock.now += 1
    assert await store.people.code(digest(text)) is None
    assert await store.people.use_code(digest(text), password_hash=OTHER) is None


async def test_a_new_code_ends_the_one_before(store):
    user = await a_person(store)
    first, second = await a_code(store, user), await a_code(store, user)
    assert await store.people.code(digest(first)) is None
    assert await store.people.code(digest(second)) == user


async def test_a_password_by_code_ends_every_session(store):
    user = await a_person(store)
    text = await a_session(store, user)
    code = await a_code(store, user)
    assert await store.people.use_code(digest(code), password_hash=OTHER) == user
    assert await store.people.session(digest(text)) is None
    assert await store.people.password_of(user.email) == (user, OTHER)


async def test_who_is_disabled_loses_sessions_and_codes_in_the_same_act(store):
    user = await a_person(store)
    text, code = await a_session(store, user), await a_code(store, user)
    await store.set_user(user.id, active=False)
    await store.set_user(user.id, active=True)
    assert await store.people.session(digest(text)) is None
    assert await store.people.code(digest(code)) is None
    await store.set_user(user.id, active=False)
    await assert_problem("invalid-input", a_code(store, user))


async def test_a_code_is_given_within_a_network_alone(store):
    user = await a_person(store)
    code = NewCode(digest("x"), "reset", NOW + HOUR)
    assert await store.people.give_code(user.id, code, network="34") is None
    assert await store.people.give_code("usr_nobody", code) is None
    assert await store.people.code(digest("x")) is None


# --- passwords


async def test_a_password_is_changed_by_whom_the_old_one_was_proven_for(store):
    user = await a_person(store)
    text, code = await a_session(store, user), await a_code(store, user)
    session = NewSession(digest("new"), NOW + HOUR)
    wrong = await store.people.change_password(user.id, old_hash=OTHER, new_hash=OTHER, session=session)
    assert wrong is None
    assert await store.people.session(digest(text)) is not None
    row = await store.people.change_password(user.id, old_hash=HASH, new_hash=OTHER, session=session)
    assert row is not None
    assert await store.people.session(digest(text)) is None
    assert await store.people.session(digest("new")) == (row, user)
    assert await store.people.code(digest(code)) is None


async def test_a_rehash_never_undoes_a_change(store):
    user = await a_person(store)
    await store.set_password(user.id, OTHER)
    await store.people.rehash(user.id, password_hash=HASH, new_hash="$argon2id$three")
    assert await store.people.password_of(user.email) == (user, OTHER)


# --- changes


async def test_a_change_within_a_network_is_of_its_users_alone(store):
    user = await a_person(store, account=ADVERTISER)
    assert await store.people.change(user.id, active=False, network="34") is None
    assert (await store.user(user.id)).active
    changed = await store.people.change(user.id, active=False, network="33")
    assert changed is not None
    assert not changed.active


async def test_the_epoch_has_changed_when_a_disabling_is_acknowledged(store):
    user = await a_person(store)
    token = await a_token(store, user)
    before = store.epoch()
    await store.people.change(user.id, active=False)
    assert store.epoch() > before
    assert (await store.token(token.id)).deleted_at is None


@pytest.mark.parametrize(
    "change", [{"active": False}, {"administrator": False}, {"account": Account("advertiser", "706", "33")}]
)
async def test_the_last_administrator_is_kept_where_that_is_asked_for(store, change):
    head = await a_person(store, administrator=True)
    await a_person(store)
    await a_person(store, account=ADVERTISER, administrator=True)
    await a_person(store, account=Account("network", "34", "34"), administrator=True)
    before = await store.generation()
    await assert_problem("last-administrator", store.people.change(head.id, keep_one=True, **change))
    assert await store.user(head.id) == head
    assert await store.generation() == before
    assert await store.people.change(head.id, **change) != head


async def test_who_administers_nothing_may_go_where_nobody_administers(store):
    user = await a_person(store)
    assert await store.people.change(user.id, active=False, keep_one=True) is not None


async def test_nothing_that_opens_anything_is_in_the_file(store, tmp_path):
    user = await a_person(store)
    texts = [await a_session(store, user), await a_code(store, user)]
    await store.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert not [text for text in texts if text.encode() in kept]
    assert digest(texts[0]) in kept
