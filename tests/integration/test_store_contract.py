"""What every backend of the store keeps: one suite, run against each. Real databases, a clock that is turned."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway import config
from gateway.model import ROLES, SCOPES, Account
from gateway.problem import Problem
from gateway.store import (
    MAX_AT_ONCE,
    MAX_PAGE,
    Kept,
    KeyUse,
    Repeated,
    Sealed,
    Store,
    TokenRow,
    Use,
    UseRow,
    UserRow,
    Which,
    folded,
    open_store,
)
from gateway.store.keys import drop_key, load_keys, load_or_create_keys, rotate_keys
from gateway.tokens import jti_digest, new_jti
from gateway.tomlfile import ConfigError

NETWORK = Account("network", "33", "33")
ADVERTISER = Account("advertiser", "706", "33")
NOW = 1_800_000_000
DAY = 86_400


class Turnable:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Turnable:
    return Turnable()


@pytest.fixture(params=["sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Turnable) -> AsyncIterator[Store]:
    opened = await open_store(config.Store(path=str(tmp_path / "gateway.sqlite3")), clock)
    yield opened
    await opened.close()


COUNT = itertools.count(1)


async def a_user(store: Store, account: Account = NETWORK, **changes: Any) -> UserRow:
    values: dict[str, Any] = {
        "email": f"user{next(COUNT)}@example.com",
        "role": "super",
        "administrator": False,
    }
    return await store.add_user(account=account, **(values | changes))


async def a_token(store: Store, owner: UserRow, jti: str | None = None, **changes: Any) -> TokenRow:
    values: dict[str, Any] = {
        "description": f"token {next(COUNT)}",
        "scopes": ["transactions:read"],
        "expires_at": NOW + 90 * DAY,
    }
    digest = jti_digest(jti or new_jti())
    return await store.create_token(jti_digest=digest, owner_id=owner.id, **(values | changes))


async def assert_problem(kind: str, act: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await act
    assert caught.value.kind == kind
    return caught.value


async def assert_growing(store: Store, before: int) -> int:
    after = await store.generation()
    assert after > before
    return after


# --- tokens


async def test_a_created_token_is_found_by_its_digest_with_its_owner(store: Store) -> None:
    owner = await a_user(store, ADVERTISER, role="member")
    jti = new_jti()
    made = await a_token(
        store,
        owner,
        jti,
        scopes=["reveal:pii", "transactions:read"],
        accounts=["advertiser:706"],
        networks=["192.0.2.0/24", "2001:db8::/32"],
    )
    assert await store.find(jti_digest(jti)) == (made, owner)
    assert await store.token(made.id) == made
    assert made.id.startswith("tok_")
    assert made.scopes == ("transactions:read", "reveal:pii")  # in the order scopes are shown
    assert (made.accounts, made.networks) == (("advertiser:706",), ("192.0.2.0/24", "2001:db8::/32"))
    assert (made.created_at, made.state(NOW)) == (NOW, "active")


async def test_no_cut_and_an_empty_cut_are_told_apart(store: Store) -> None:
    owner = await a_user(store)
    assert (await a_token(store, owner)).accounts is None
    assert (await a_token(store, owner, accounts=[], networks=[])).networks == ()


async def test_unknown_things_are_none(store: Store) -> None:
    assert await store.find(jti_digest("none")) is None
    assert await store.find(b"") is None
    for unknown in ("", "tok_none", "tok_\ud800", "\0", "tok_' OR 1=1 --"):
        assert await store.token(unknown) is None
        assert await store.user(unknown) is None
        assert await store.user_by_email(unknown) is None
        assert await store.account("network", unknown) is None
        assert await store.delete_token(unknown, by="usr_x", at=NOW) is None
        assert await store.set_user(unknown, active=False) is None
    assert await store.mark_exposed(jti_digest("none"), at=NOW, rotate_by=NOW + DAY) is None


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "active"),
        ({"expires_at": NOW}, "expired"),
        ({"expires_at": NOW + 1}, "active"),
        ({"paused_at": NOW - 1}, "paused"),
        ({"exposed_at": NOW - 1, "rotate_by": NOW + 1}, "exposed"),
        ({"exposed_at": NOW - 1, "rotate_by": NOW}, "expired"),
        ({"rotate_by": NOW + 1}, "active"),
        ({"rotate_by": NOW}, "expired"),
        ({"exposed_at": NOW - 1, "rotate_by": NOW + 1, "paused_at": NOW - 1}, "paused"),
        ({"paused_at": NOW - 1, "expires_at": NOW}, "expired"),
        ({"deleted_at": NOW - 1, "expires_at": NOW, "paused_at": NOW - 1}, "deleted"),
    ],
    ids=str,
)
async def test_the_state_of_a_row_is_what_is_final_first(
    store: Store, change: dict[str, Any], state: str
) -> None:
    row = dataclasses.replace(await a_token(store, await a_user(store)), **change)
    assert row.state(NOW) == state
    assert row.effective_expiry == min(row.expires_at, row.rotate_by or row.expires_at)


@pytest.mark.parametrize(
    "same", ["Reports", "  reports ", "REPORTS", "re\u0301ports", "R\u00c9PORTS", "stra\u00dfe"]
)
async def test_a_description_is_unique_among_the_owners_live_tokens(store: Store, same: str) -> None:
    owner, other = await a_user(store), await a_user(store)
    for description in ("reports", "r\u00e9ports", "STRASSE"):
        await a_token(store, owner, description=description)
    await assert_problem("description-taken", a_token(store, owner, description=same))
    await a_token(store, other, description=same)


async def test_a_description_is_free_again_once_its_token_is_no_longer_live(
    store: Store, clock: Turnable
) -> None:
    owner = await a_user(store)
    first = await a_token(store, owner, description="reports", expires_at=NOW + 10)
    await store.delete_token(first.id, by=owner.id, at=NOW)
    await a_token(store, owner, description="reports", expires_at=NOW + 10)
    clock.now = NOW + 9.9
    await assert_problem("description-taken", a_token(store, owner, description="reports"))
    clock.now = NOW + 10
    jti = new_jti()
    await a_token(store, owner, jti, description="reports")
    await store.mark_exposed(jti_digest(jti), at=NOW + 10, rotate_by=NOW + 20)
    await assert_problem("description-taken", a_token(store, owner, description="reports"))
    clock.now = NOW + 20
    await a_token(store, owner, description="reports")


async def test_of_many_equal_descriptions_at_once_one_is_made(store: Store) -> None:
    owner = await a_user(store)
    acts = [a_token(store, owner, description="the same") for _ in range(20)]
    results = await asyncio.gather(*acts, return_exceptions=True)
    refusals = [result for result in results if isinstance(result, Problem)]
    assert len(refusals) == 19
    assert {refusal.kind for refusal in refusals} == {"description-taken"}


@pytest.mark.parametrize(
    "change",
    [
        {"description": "ab"},
        {"description": "  ab  "},
        {"description": "x" * 121},
        {"description": "two\nlines"},
        {"description": "nul\0nul"},
        {"description": "lone \ud800"},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"expires_at": NOW},
        {"expires_at": 10**30},
        {"accounts": ["706"]},
        {"accounts": ["agency:1"]},
        {"networks": ["192.0.2.1/24"]},
        {"networks": ["anywhere"]},
        {"personal_records_per_day": 0},
        {"personal_records_per_day": 10**9 + 1},
    ],
    ids=ascii,
)
async def test_a_token_that_makes_no_sense_is_refused(store: Store, change: dict[str, Any]) -> None:
    owner = await a_user(store)
    await assert_problem("invalid-input", a_token(store, owner, **change))


async def test_nobody_gets_a_token_who_is_unknown_or_disabled(store: Store) -> None:
    owner = await a_user(store)
    await store.set_user(owner.id, active=False)
    await assert_problem("invalid-token", a_token(store, owner))
    await assert_problem("invalid-token", a_token(store, dataclasses.replace(owner, id="usr_nobody")))


async def test_only_a_live_token_of_the_same_owner_makes_tokens(store: Store, clock: Turnable) -> None:
    owner, other = await a_user(store), await a_user(store)
    maker = await a_token(store, owner, expires_at=NOW + 10)
    await a_token(store, owner, made_by=maker.id)
    await assert_problem("invalid-token", a_token(store, other, made_by=maker.id))
    await assert_problem("invalid-token", a_token(store, owner, made_by="tok_unknown"))
    clock.now = NOW + 10
    await assert_problem("invalid-token", a_token(store, owner, made_by=maker.id))
    clock.now = NOW
    await store.delete_token(maker.id, by=owner.id, at=NOW)
    await assert_problem("invalid-token", a_token(store, owner, made_by=maker.id))


async def test_what_a_token_makes_ends_no_later_than_it(store: Store) -> None:
    owner = await a_user(store)
    jti = new_jti()
    maker = await a_token(store, owner, jti, expires_at=NOW + 100)
    assert (await a_token(store, owner, made_by=maker.id, expires_at=NOW + 1_000)).expires_at == NOW + 100
    assert (await a_token(store, owner, made_by=maker.id, expires_at=NOW + 50)).expires_at == NOW + 50
    await store.mark_exposed(jti_digest(jti), at=NOW, rotate_by=NOW + 20)
    assert (await a_token(store, owner, made_by=maker.id, expires_at=NOW + 50)).expires_at == NOW + 20


async def test_deleting_is_final_idempotent_and_says_who_was_first(store: Store) -> None:
    owner = await a_user(store)
    jti = new_jti()
    made = await a_token(store, owner, jti)
    gone = await store.delete_token(made.id, by=owner.id, reason="leaked", at=NOW + 1)
    again = await store.delete_token(made.id, by="usr_other", reason="again", at=NOW + 2)
    assert gone is not None
    assert gone == again == await store.token(made.id)
    assert (gone.deleted_at, gone.deleted_by, gone.delete_reason) == (NOW + 1, owner.id, "leaked")
    found = await store.find(jti_digest(jti))
    assert found is not None
    assert found[0].state(NOW + 1) == "deleted"


async def test_what_a_token_made_dies_with_it_unless_it_outlives_it(store: Store) -> None:
    owner = await a_user(store)
    maker = await a_token(store, owner)
    child = await a_token(store, owner, made_by=maker.id)
    grandchild = await a_token(store, owner, made_by=child.id)
    heir = await a_token(store, owner, made_by=child.id, outlives_maker=True)
    heirs_child = await a_token(store, owner, made_by=heir.id)
    sibling = await a_token(store, owner)
    await store.delete_token(maker.id, by=owner.id, reason="done", at=NOW)
    states = [
        row.state(NOW)
        for one in (maker, child, grandchild, heir, heirs_child, sibling)
        if (row := await store.token(one.id))
    ]
    assert states == ["deleted", "deleted", "deleted", "active", "active", "active"]
    dead = await store.token(grandchild.id)
    assert dead is not None
    assert dead.delete_reason == "the token that made it was deleted"


async def test_a_child_deleted_earlier_keeps_its_own_history(store: Store) -> None:
    owner = await a_user(store)
    maker = await a_token(store, owner)
    child = await a_token(store, owner, made_by=maker.id)
    await store.delete_token(child.id, by="usr_first", reason="first", at=NOW)
    await store.delete_token(maker.id, by=owner.id, at=NOW + 1)
    row = await store.token(child.id)
    assert row is not None
    assert (row.deleted_by, row.delete_reason, row.deleted_at) == ("usr_first", "first", NOW)


async def test_the_first_exposure_wins(store: Store) -> None:
    owner = await a_user(store)
    jti = new_jti()
    await a_token(store, owner, jti)
    first = await store.mark_exposed(jti_digest(jti), at=NOW + 1, rotate_by=NOW + DAY)
    again = await store.mark_exposed(jti_digest(jti), at=NOW + 2, rotate_by=NOW + 9 * DAY)
    assert first is not None
    assert first == again
    assert (first.exposed_at, first.rotate_by) == (NOW + 1, NOW + DAY)
    assert (first.state(NOW + 1), first.state(NOW + DAY)) == ("exposed", "expired")


async def test_what_an_exposed_token_made_ends_with_it_unless_it_outlives_it(store: Store) -> None:
    owner = await a_user(store)
    jti, child_jti = new_jti(), new_jti()
    maker = await a_token(store, owner, jti)
    await a_token(store, owner, child_jti, made_by=maker.id)
    heir = await a_token(store, owner, made_by=maker.id, outlives_maker=True)
    await store.mark_exposed(jti_digest(jti), at=NOW, rotate_by=NOW + DAY)
    found = await store.find(jti_digest(child_jti))
    assert found is not None
    assert (found[0].state(NOW), found[0].state(NOW + DAY)) == ("active", "expired")
    own = await store.mark_exposed(jti_digest(child_jti), at=NOW + 9, rotate_by=NOW + 9 * DAY)
    assert own is not None
    assert (own.exposed_at, own.rotate_by) == (NOW + 9, NOW + DAY)
    assert (await store.token(heir.id)) == heir


# --- rotating


async def rotate(store: Store, token: TokenRow, jti: str | None = None, **changes: Any) -> TokenRow:
    values: dict[str, Any] = {"owner_id": token.owner_id, "expires_at": NOW + 60 * DAY, "overlap_s": 3600}
    row = await store.rotate_token(token.id, jti_digest=jti_digest(jti or new_jti()), **(values | changes))
    assert row is not None
    return row


async def found(store: Store, jti: str) -> TokenRow | None:
    pair = await store.find(jti_digest(jti))
    return None if pair is None else pair[0]


async def test_a_rotated_token_has_a_new_secret_and_the_old_one_for_the_overlap(
    store: Store, clock: Turnable
) -> None:
    owner = await a_user(store)
    old, new = new_jti(), new_jti()
    token = await a_token(store, owner, old, scopes=["network:read"], networks=["192.0.2.0/24"])
    clock.now = NOW + 100
    row = await rotate(store, token, new)
    assert row == dataclasses.replace(
        token, rotated_at=NOW + 100, earlier_until=NOW + 3700, expires_at=NOW + 60 * DAY
    )
    assert (row.issued_at, token.issued_at) == (NOW + 100, NOW)
    assert await found(store, new) == row == await store.token(token.id)
    earlier = await found(store, old)
    assert earlier == dataclasses.replace(row, by_earlier=True)
    assert (earlier.state(NOW + 3699), earlier.state(NOW + 3700)) == ("active", "expired")
    assert row.state(NOW + 3700) == "active"


async def test_without_an_overlap_the_old_secret_ends_at_once(store: Store) -> None:
    owner, old = await a_user(store), new_jti()
    await rotate(store, await a_token(store, owner, old), overlap_s=0)
    row = await found(store, old)
    assert row is not None
    assert row.state(NOW) == "expired"


async def test_a_new_rotation_ends_an_earlier_overlap(store: Store) -> None:
    owner = await a_user(store)
    first, second, third = new_jti(), new_jti(), new_jti()
    token = await a_token(store, owner, first)
    await rotate(store, token, second)
    await rotate(store, token, third)
    assert await found(store, first) is None
    rows = [await found(store, jti) for jti in (second, third)]
    assert [row.by_earlier for row in rows if row] == [True, False]


@pytest.mark.parametrize(
    ("expires_at", "exposed", "ends"),
    [(NOW + 10, False, NOW + 10), (NOW + 9 * DAY, True, NOW + 20), (NOW + 9 * DAY, False, NOW + 3600)],
)
async def test_no_overlap_is_longer_than_the_old_secret_would_have_lived(
    store: Store, expires_at: int, exposed: bool, ends: int
) -> None:
    owner, old = await a_user(store), new_jti()
    token = await a_token(store, owner, old, expires_at=expires_at)
    if exposed:
        await store.mark_exposed(jti_digest(old), at=NOW, rotate_by=NOW + 20)
    assert (await rotate(store, token)).earlier_until == ends
    assert (await rotate(store, token, expires_at=NOW + 5)).earlier_until == NOW + 5


async def test_rotating_leaves_an_exposure_with_the_secret_that_was_exposed(store: Store) -> None:
    owner, old, new = await a_user(store), new_jti(), new_jti()
    token = await a_token(store, owner, old)
    await store.mark_exposed(jti_digest(old), at=NOW, rotate_by=NOW + DAY)
    row = await rotate(store, token, new)
    assert (row.exposed_at, row.rotate_by, row.state(NOW + 2 * DAY)) == (None, None, "active")


async def test_a_secret_that_is_exposed_after_it_was_rotated_out_ends_sooner_and_alone(store: Store) -> None:
    owner, old, new = await a_user(store), new_jti(), new_jti()
    token = await a_token(store, owner, old)
    await rotate(store, token, new)
    at = await store.generation()
    assert await store.mark_exposed(jti_digest(old), at=NOW, rotate_by=NOW + 60) == await store.token(
        token.id
    )
    at = await assert_growing(store, at)
    await store.mark_exposed(jti_digest(old), at=NOW, rotate_by=NOW + 90)
    assert await store.generation() == at
    rows = [await found(store, jti) for jti in (old, new)]
    assert [row.state(NOW + 60) for row in rows if row] == ["expired", "active"]
    assert (await rotate(store, token)).exposed_at is None


async def test_both_secrets_of_a_rotated_token_count_for_the_keys_that_signed_them(store: Store) -> None:
    owner = await a_user(store)
    token = await a_token(store, owner, key_id="ivg-one")
    await rotate(store, token, key_id="ivg-two", overlap_s=50)
    for key, until in (("ivg-one", NOW + 50), ("ivg-two", NOW + 60 * DAY)):
        assert await store.signed_with(key, now=NOW) == KeyUse(1, until, (token.id,))
    assert (await store.signed_with("ivg-one", now=NOW + 50)).live == 0
    await rotate(store, token, key_id="ivg-two", overlap_s=50)
    assert await store.signed_with("ivg-two", now=NOW) == KeyUse(1, NOW + 60 * DAY, (token.id,))
    assert (await store.signed_with("ivg-one", now=NOW)).live == 0
    await store.delete_token(token.id, by=owner.id, at=NOW)
    assert (await store.signed_with("ivg-two", now=NOW)).live == 0


async def test_only_the_owner_rotates_and_only_what_lives(store: Store, clock: Turnable) -> None:
    owner, other = await a_user(store), await a_user(store)
    token, gone = await a_token(store, owner, expires_at=NOW + 9), await a_token(store, owner)
    await store.delete_token(gone.id, by=owner.id, at=NOW)
    values: dict[str, Any] = {"jti_digest": jti_digest("x"), "expires_at": NOW + DAY, "overlap_s": 0}
    assert await store.rotate_token("tok_unknown", owner_id=owner.id, **values) is None
    assert await store.rotate_token(token.id, owner_id=other.id, **values) is None
    await assert_problem("token-ended", rotate(store, gone))
    await assert_problem("invalid-input", rotate(store, token, expires_at=NOW))
    await assert_problem("invalid-input", rotate(store, token, overlap_s=-1))
    clock.now = NOW + 9
    await assert_problem("token-ended", rotate(store, token))
    clock.now = NOW
    await store.set_user(owner.id, active=False)
    await assert_problem("invalid-token", rotate(store, token))
    assert await store.token(token.id) == token


async def test_a_paused_token_is_rotated_and_stays_paused(store: Store) -> None:
    token = await a_token(store, await a_user(store))
    await store.pause_token(token.id, by="usr_admin", at=NOW)
    assert (await rotate(store, token)).state(NOW) == "paused"


async def test_a_rotation_never_goes_beyond_what_made_the_token(store: Store) -> None:
    owner, jti = await a_user(store), new_jti()
    maker = await a_token(store, owner, jti, expires_at=NOW + 100)
    child, heir = [await a_token(store, owner, made_by=maker.id, outlives_maker=it) for it in (False, True)]
    assert [(await rotate(store, each)).expires_at for each in (child, heir)] == [NOW + 100, NOW + 100]
    await store.mark_exposed(jti_digest(jti), at=NOW, rotate_by=NOW + 20)
    assert [(await rotate(store, each)).expires_at for each in (child, heir)] == [NOW + 20, NOW + 100]
    bootstrap = await a_token(store, owner, bootstrap=True, expires_at=NOW + 10)
    made = await a_token(store, owner, made_by=bootstrap.id, outlives_maker=True)
    assert (await rotate(store, made)).expires_at == NOW + 60 * DAY


async def test_a_token_that_is_rotated_to_end_sooner_takes_what_it_made_with_it(store: Store) -> None:
    owner = await a_user(store)
    maker = await a_token(store, owner)
    child, heir = [await a_token(store, owner, made_by=maker.id, outlives_maker=it) for it in (False, True)]
    await rotate(store, maker, expires_at=NOW + 50)
    rows = [await store.token(each.id) for each in (child, heir)]
    assert [row.state(NOW + 50) for row in rows if row] == ["expired", "active"]


async def test_a_token_that_has_not_begun_is_not_made_to_end_before_it_does(store: Store) -> None:
    owner = await a_user(store)
    for never in (NOW + 90 * DAY, -1):
        await assert_problem("invalid-input", a_token(store, owner, not_before=never))
    token = await a_token(store, owner, not_before=NOW + 50)
    assert (token.not_before, (await store.token(token.id))) == (NOW + 50, token)
    await assert_problem("invalid-input", rotate(store, token, expires_at=NOW + 50))
    maker = await a_token(store, owner, expires_at=NOW + 40)
    await assert_problem("invalid-input", a_token(store, owner, made_by=maker.id, not_before=NOW + 50))


# --- personal records of a day


async def test_a_token_is_given_so_many_personal_records_a_day_and_no_more(store: Store) -> None:
    token = await a_token(store, await a_user(store), personal_records_per_day=100)
    assert token.personal_records_per_day == 100
    assert await store.take_records(token.id, 60, at=NOW) is None
    assert await store.take_records(token.id, 41, at=NOW) == 40
    assert await store.records_left(token.id, at=NOW) == 40
    await store.give_records_back(token.id, 25, at=NOW)
    assert await store.records_left(token.id, at=NOW) == 65
    tomorrow = (NOW // DAY + 1) * DAY
    assert await store.records_left(token.id, at=tomorrow - 1) == 65
    assert await store.records_left(token.id, at=tomorrow) == 100


async def test_who_is_not_limited_takes_what_they_like_and_nobody_is_given_more_by_giving_back(
    store: Store,
) -> None:
    owner = await a_user(store)
    free, token = await a_token(store, owner), await a_token(store, owner, personal_records_per_day=5)
    assert await store.take_records(free.id, 10**9, at=NOW) is None
    assert await store.records_left(free.id, at=NOW) is None
    await store.give_records_back(token.id, 10, at=NOW)
    assert await store.records_left(token.id, at=NOW) == 5


async def test_what_is_given_to_a_token_is_given_to_those_it_was_made_by(store: Store) -> None:
    owner = await a_user(store)
    maker = await a_token(store, owner, personal_records_per_day=10)
    one, other = [await a_token(store, owner, made_by=maker.id, personal_records_per_day=8) for _ in "12"]
    unbounded = await a_token(store, owner, made_by=maker.id)
    assert await store.take_records(one.id, 7, at=NOW) is None
    assert await store.take_records(other.id, 4, at=NOW) == 3
    assert await store.take_records(unbounded.id, 4, at=NOW) == 3
    assert await store.take_records(other.id, 3, at=NOW) is None
    assert [await store.records_left(each.id, at=NOW) for each in (maker, one, other)] == [0, 0, 0]
    await store.give_records_back(one.id, 2, at=NOW)
    assert [await store.records_left(each.id, at=NOW) for each in (maker, one, other)] == [2, 2, 2]


async def test_of_many_who_take_at_once_as_many_succeed_as_there_are_records(store: Store) -> None:
    token = await a_token(store, await a_user(store), personal_records_per_day=35)
    took = await asyncio.gather(*(store.take_records(token.id, 10, at=NOW) for _ in range(12)))
    assert took.count(None) == 3
    assert set(took) == {None, 5}


async def test_what_was_given_is_kept_of_today_and_yesterday_alone(store: Store, tmp_path: Path) -> None:
    token = await a_token(store, await a_user(store), personal_records_per_day=10)
    for day in range(4):
        assert await store.take_records(token.id, 10, at=NOW + day * DAY) is None
    await store.give_records_back(token.id, 4, at=NOW + 2 * DAY)
    assert await store.records_left(token.id, at=NOW + 2 * DAY) == 4
    assert await store.records_left(token.id, at=NOW + DAY) == 10


async def test_a_rotated_token_has_been_given_what_it_was_given(store: Store) -> None:
    token = await a_token(store, await a_user(store), personal_records_per_day=10)
    await store.take_records(token.id, 4, at=NOW)
    rotated = await rotate(store, token)
    assert rotated is not None
    assert rotated.personal_records_per_day == 10
    assert await store.records_left(token.id, at=NOW) == 6


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
async def test_a_mapped_network_is_kept_as_the_one_it_stands_for(
    store: Store, written: str, kept: str
) -> None:
    assert (await a_token(store, await a_user(store), networks=[written])).networks == (kept,)


# --- pausing


async def test_a_paused_token_is_resumed_as_it_was(store: Store) -> None:
    owner, jti = await a_user(store), new_jti()
    token = await a_token(store, owner, jti)
    paused = await store.pause_token(token.id, by=owner.id, at=NOW + 1)
    assert paused == dataclasses.replace(token, paused_at=NOW + 1, paused_by=owner.id)
    assert await store.pause_token(token.id, by=owner.id, at=NOW + 2) == paused == await found(store, jti)
    for _ in range(2):
        assert await store.resume_token(token.id, by=owner.id, anybodys=False, at=NOW) == token
    assert await store.pause_token("tok_x", by="x", at=NOW) is None
    assert await store.resume_token("tok_x", by="x", anybodys=True, at=NOW) is None


async def test_somebody_elses_pause_is_not_the_owners_to_end(store: Store) -> None:
    owner = await a_user(store)
    token = await a_token(store, owner)
    for first in (owner.id, "usr_admin"):
        await store.pause_token(token.id, by=first, at=NOW)
        taken = await store.pause_token(token.id, by="usr_admin", at=NOW + 1)
        assert taken is not None
        assert (taken.paused_at, taken.paused_by) == (NOW, "usr_admin")
        assert await store.pause_token(token.id, by=owner.id, at=NOW + 2) == taken
        await assert_problem("denied", store.resume_token(token.id, by=owner.id, anybodys=False, at=NOW))
        assert await store.token(token.id) == taken
        assert await store.resume_token(token.id, by="usr_other", anybodys=True, at=NOW) == token


async def test_what_has_ended_is_neither_paused_nor_resumed(store: Store) -> None:
    owner = await a_user(store)
    late, gone = await a_token(store, owner, expires_at=NOW + 5), await a_token(store, owner)
    await store.delete_token(gone.id, by=owner.id, at=NOW)
    for token in (late, gone):
        await assert_problem("token-ended", store.pause_token(token.id, by=owner.id, at=NOW + 5))
        await assert_problem(
            "token-ended", store.resume_token(token.id, by=owner.id, anybodys=True, at=NOW + 5)
        )


# --- many at once


async def test_many_are_paused_and_deleted_by_what_they_have_in_common(store: Store) -> None:
    here, there = await a_user(store), await a_user(store, ADVERTISER)
    foreign = await a_user(store, Account("network", "44", "44"))
    maker = await a_token(store, here)
    child = await a_token(store, here, made_by=maker.id)
    theirs, stranger = await a_token(store, there), await a_token(store, foreign)
    late = await a_token(store, here, expires_at=NOW + 5)

    async def paused(**which: Any) -> list[str]:
        page = await store.pause_tokens(Which("33", **which), by="usr_admin", at=NOW + 5)
        for token_id in page.rows:
            await store.resume_token(token_id, by="", anybodys=True, at=NOW + 5)
        return list(page.rows)

    assert await paused(owner_id=here.id) == [maker.id, child.id]
    assert await paused(owner_id=foreign.id) == []
    assert await paused(account=("advertiser", "706")) == [theirs.id]
    assert await paused(made_by=maker.id) == [child.id]
    assert await paused(ids=(stranger.id, child.id, late.id, "tok_x", "\ud800")) == [child.id]
    assert await paused() == [maker.id, child.id, theirs.id]
    assert await paused(spare=maker.id) == [child.id, theirs.id]
    assert await paused(spare=maker.id, ids=(maker.id,)) == [maker.id]
    page = await store.delete_tokens(Which("33", ids=(maker.id, stranger.id)), by="usr_admin", at=NOW)
    assert (page.rows, page.next) == ((maker.id,), None)
    rows = [await store.token(each.id) for each in (maker, child, theirs, stranger)]
    assert [row.state(NOW) for row in rows if row] == ["deleted", "deleted", "active", "active"]


async def test_an_act_on_many_is_bounded_and_done_again_until_nothing_is_left(store: Store) -> None:
    owner = await a_user(store)
    made = [(await a_token(store, owner)).id for _ in range(MAX_AT_ONCE + 3)]
    for act in (store.pause_tokens, store.delete_tokens):
        first = await act(Which("33"), by="usr_admin", at=NOW)
        second = await act(Which("33"), by="usr_admin", at=NOW)
        at = await store.generation()
        assert [*first.rows, *second.rows] == made
        assert (len(first.rows), first.next is None, second.next) == (MAX_AT_ONCE, False, None)
        assert (await act(Which("33"), by="usr_admin", at=NOW)).rows == ()
        assert await store.generation() == at


async def test_an_administrators_pause_of_many_takes_owners_pauses_over(store: Store) -> None:
    owner = await a_user(store)
    token = await a_token(store, owner)
    await store.pause_token(token.id, by=owner.id, at=NOW)
    assert (await store.pause_tokens(Which("33"), by="usr_admin", at=NOW)).rows == (token.id,)
    await assert_problem("denied", store.resume_token(token.id, by=owner.id, anybodys=False, at=NOW))


# --- answers that may be lost


def a_sealed(name: bytes = b"l", until: int = NOW + 60, binding: bytes = b"b") -> Sealed:
    return Sealed(name * 32, binding * 32, b"sealed " + name * 40, until)


async def test_a_kept_answer_is_given_once_and_then_says_only_what_it_was_about(store: Store) -> None:
    token = await a_token(store, await a_user(store), sealed=a_sealed())
    assert await store.take(b"x" * 32, b"b" * 32) is None
    await assert_problem("idempotency-key-reused", store.take(b"l" * 32, b"c" * 32))
    kept = await store.take(b"l" * 32, b"b" * 32)
    assert kept == Kept(token.id, NOW, token.expires_at, a_sealed().text)
    for _ in range(2):
        assert await store.take(b"l" * 32, b"b" * 32) == dataclasses.replace(kept, text=None)


async def test_nothing_is_made_twice_for_one_key(store: Store) -> None:
    owner = await a_user(store)
    token = await a_token(store, owner, sealed=a_sealed())
    acts = [a_token(store, owner, sealed=a_sealed()), a_token(store, owner, description="", sealed=None)]
    with pytest.raises(Repeated):
        await acts[0]
    await assert_problem("invalid-input", acts[1])
    with pytest.raises(Repeated):
        await rotate(store, token, sealed=a_sealed())
    with pytest.raises(Repeated):  # before it is found that the description is taken
        await a_token(store, owner, description=token.description, sealed=a_sealed())
    assert await store.token(token.id) == token
    assert len((await store.list_tokens(now=NOW)).rows) == 1


async def test_of_many_requests_with_one_key_at_once_one_makes_a_token(store: Store) -> None:
    owner = await a_user(store)
    acts = [a_token(store, owner, sealed=a_sealed()) for _ in range(10)]
    results = await asyncio.gather(*acts, return_exceptions=True)
    assert sum(isinstance(result, Repeated) for result in results) == 9


@pytest.mark.parametrize("end", ["time", "deleted", "expired"])
async def test_a_kept_answer_is_not_given_when_its_time_or_its_token_is_over(
    store: Store, clock: Turnable, end: str
) -> None:
    owner = await a_user(store)
    token = await a_token(store, owner, sealed=a_sealed(), expires_at=NOW + (9 if end == "expired" else 900))
    if end == "deleted":
        await store.delete_token(token.id, by=owner.id, at=NOW)
    clock.now = NOW + {"time": 60, "deleted": 0, "expired": 9}[end]
    kept = await store.take(b"l" * 32, b"b" * 32)
    assert kept is not None
    assert kept.text is None


async def test_what_is_kept_of_an_answer_is_erased_from_the_file_when_its_time_is_over(
    store: Store, clock: Turnable, tmp_path: Path
) -> None:
    owner = await a_user(store)
    for name in (b"k", b"l", b"m"):
        await a_token(store, owner, sealed=a_sealed(name))
    await store.erase_sealed()
    clock.now = NOW + 60
    await store.erase_sealed()
    clock.now = NOW + 59  # even if the clock goes back
    kept = await store.take(b"l" * 32, b"b" * 32)
    assert kept is not None
    assert kept.text is None
    await store.close()
    assert b"l" * 33 not in (tmp_path / "gateway.sqlite3").read_bytes()


async def test_a_day_later_a_key_is_forgotten(store: Store, clock: Turnable) -> None:
    await a_token(store, await a_user(store), sealed=a_sealed())
    clock.now = NOW + 60 + DAY
    await store.erase_sealed()
    assert await store.take(b"l" * 32, b"b" * 32) is None


# --- last uses


async def add(store: Store, *uses: Use, source: str = "one", number: int = 1) -> None:
    await store.add_uses(uses, source=source, number=number)


async def test_processes_add_up_and_the_last_use_goes_forward_only(store: Store) -> None:
    await add(store, Use("tok_a", 2, NOW, "192.0.2.0/24", "calls_list"))
    await add(store, Use("tok_a", 3, NOW - 9, "198.51.100.0/24", "other", NOW - 9), source="two")
    used = await store.uses(["tok_a", "tok_b"], now=NOW)
    assert used == {"tok_a": UseRow(NOW, "192.0.2.0/24", "calls_list", NOW - 9, 5, 5)}


async def test_what_a_source_says_twice_counts_once(store: Store) -> None:
    for number in (1, 1, 2, 1, 2):
        await add(store, Use("tok_a", 1, NOW, "n", "o"), number=number)
    assert (await store.uses(["tok_a"], now=NOW))["tok_a"].in_24h == 2


async def test_uses_are_counted_for_a_day_and_for_thirty(store: Store) -> None:
    await add(store, Use("tok_a", 1, NOW - 40 * DAY, "n", "o"), number=1)
    await add(store, Use("tok_a", 2, NOW - 3 * DAY, "n", "o"), number=2)
    await add(store, Use("tok_a", 4, NOW, "n", "o"), number=3)
    for later, counts in ((0, (4, 6)), (2 * DAY, (0, 6)), (28 * DAY, (0, 4)), (31 * DAY, (0, 0))):
        row = (await store.uses(["tok_a"], now=NOW + later))["tok_a"]
        assert (row.in_24h, row.in_30d, row.at) == (*counts, NOW)


async def test_counting_changes_nothing_that_a_verdict_is_made_of(store: Store) -> None:
    token = await a_token(store, await a_user(store))
    before = (await store.generation(), store.epoch())
    await add(store, Use(token.id, 1, NOW, "n", "o"))
    assert (await store.generation(), store.epoch()) == before
    assert await store.token(token.id) == token


# --- lists


async def test_a_list_is_newest_first_in_pages_that_new_tokens_do_not_shift(store: Store) -> None:
    owner = await a_user(store)
    made = [await a_token(store, owner) for _ in range(7)]
    seen: list[str] = []
    after = None
    while True:
        page = await store.list_tokens(owner_id=owner.id, after=after, limit=3, now=NOW)
        seen += [row.id for row in page.rows]
        after = page.next
        if after is None:
            break
        await a_token(store, owner)
    assert seen == [row.id for row in reversed(made)]


async def test_a_page_is_bounded_whatever_is_asked_for(store: Store) -> None:
    owner = await a_user(store)
    for _ in range(3):
        await a_token(store, owner)
    assert len((await store.list_tokens(limit=-5, now=NOW)).rows) == 1
    page = await store.list_tokens(limit=10**12, now=NOW)
    assert (len(page.rows), page.next, MAX_PAGE) == (3, None, 500)


async def test_a_list_is_of_one_owner_or_of_one_network(store: Store) -> None:
    network, advertiser = await a_user(store), await a_user(store, ADVERTISER)
    stranger = await a_user(store, Account("network", "44", "44"))
    one, two, three = [await a_token(store, user) for user in (network, advertiser, stranger)]

    async def ids(**which: Any) -> list[str]:
        return [row.id for row in (await store.list_tokens(now=NOW, **which)).rows]

    assert await ids() == [three.id, two.id, one.id]
    assert await ids(network="33") == [two.id, one.id]
    assert await ids(owner_id=advertiser.id) == [two.id]
    assert await ids(owner_id=stranger.id, network="33") == []
    assert await ids(network="' OR 1=1 --") == []


async def test_tokens_follow_their_owner_into_another_network(store: Store) -> None:
    owner = await a_user(store)
    token = await a_token(store, owner)
    await store.set_user(owner.id, account=Account("advertiser", "9", "44"))
    assert (await store.list_tokens(network="33", now=NOW)).rows == ()
    assert (await store.list_tokens(network="44", now=NOW)).rows == (token,)


async def test_a_list_is_of_one_state_and_agrees_with_the_rows(store: Store) -> None:
    owner = await a_user(store)
    jti, old = new_jti(), new_jti()
    await a_token(store, owner)
    await a_token(store, owner, expires_at=NOW + 5)
    await a_token(store, owner, jti)
    await a_token(store, owner, old)
    gone = await a_token(store, owner)
    await store.mark_exposed(jti_digest(jti), at=NOW, rotate_by=NOW + DAY)
    await store.mark_exposed(jti_digest(old), at=NOW, rotate_by=NOW + 5)
    await store.delete_token(gone.id, by=owner.id, at=NOW)
    everything = (await store.list_tokens(now=NOW)).rows
    for now in (NOW, NOW + 4.9, NOW + 5, NOW + DAY, NOW + 90 * DAY):
        for state in ("active", "paused", "exposed", "expired", "deleted"):
            for which in ({}, {"owner_id": owner.id}, {"network": "33"}):
                page = await store.list_tokens(state=state, now=now, **which)  # type: ignore[arg-type]
                assert page.rows == tuple(row for row in everything if row.state(now) == state)


async def test_a_foreign_place_in_a_list_is_refused_like_an_unknown_one(store: Store) -> None:
    owner, other = await a_user(store), await a_user(store)
    foreign = await a_token(store, other)
    said = [
        (
            await assert_problem("invalid-input", store.list_tokens(owner_id=owner.id, after=after, now=NOW))
        ).detail
        for after in (foreign.id, "tok_unknown", "", "\ud800")
    ]
    assert len(set(said)) == 1


async def test_no_row_carries_anything_secret(store: Store, tmp_path: Path) -> None:
    owner = await a_user(store)
    jti = new_jti()
    await a_token(store, owner, jti)
    page = await store.list_tokens(now=NOW)
    assert jti not in repr(page)
    assert jti_digest(jti).hex() not in repr(page)
    await store.close()
    assert jti.encode() not in (tmp_path / "gateway.sqlite3").read_bytes()


# --- people


async def test_a_user_comes_with_their_account_or_not_at_all(store: Store) -> None:
    user = await store.add_user("  Ada@Example.COM ", ADVERTISER, "manager", administrator=True)
    assert user == UserRow(user.id, "ada@example.com", ADVERTISER, "manager", True, True, NOW)
    assert user.id.startswith("usr_")
    assert await store.user(user.id) == user == await store.user_by_email("ADA@example.com")
    assert await store.account("advertiser", "706") == ADVERTISER
    await assert_problem(
        "invalid-input", store.add_user("ada@EXAMPLE.com", Account("network", "55", "55"), "super")
    )
    assert await store.account("network", "55") is None


@pytest.mark.parametrize(
    "email",
    ["", "ada", "@example.com", "ada@", "a@b@c", "a da@x.y", "a@x\ny", "\ud800@x", "a" * 251 + "@x.y"],
    ids=lambda email: ascii(email[:20]),
)
async def test_an_address_that_is_none_is_refused(store: Store, email: str) -> None:
    await assert_problem("invalid-input", store.add_user(email, NETWORK, "super"))


async def test_an_account_belongs_to_one_network_for_good(store: Store) -> None:
    await store.add_account(ADVERTISER)
    await store.add_account(ADVERTISER)
    other = Account("advertiser", "706", "44")
    user = await a_user(store)
    await assert_problem("invalid-input", store.add_account(other))
    await assert_problem("invalid-input", store.add_user("new@example.com", other, "super"))
    await assert_problem("invalid-input", store.set_user(user.id, account=other, role="observer"))
    assert await store.user(user.id) == user
    assert await store.account("advertiser", "706") == ADVERTISER


@pytest.mark.parametrize(
    "account",
    [
        Account("network", "33", "44"),
        Account("advertiser", "", "33"),
        Account("advertiser", " 7", "33"),
        Account("advertiser", "7\n7", "33"),
        Account("advertiser", "7" * 129, "33"),
        Account("agency", "7", "33"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
async def test_an_account_that_makes_no_sense_is_refused(store: Store, account: Account) -> None:
    await assert_problem("invalid-input", store.add_account(account))


async def test_a_change_of_a_user_changes_what_is_given_and_nothing_else(store: Store) -> None:
    user = await a_user(store)
    for role in ROLES:
        user = dataclasses.replace(user, role=role)
        assert await store.set_user(user.id, role=role) == user
    user = dataclasses.replace(user, active=False, administrator=True, account=ADVERTISER)
    assert await store.set_user(user.id, active=False, administrator=True, account=ADVERTISER) == user
    assert await store.set_user(user.id) == user
    await assert_problem("invalid-input", store.set_user(user.id, role="root"))  # type: ignore[arg-type]


async def test_the_owner_of_a_token_is_found_as_they_are_now(store: Store) -> None:
    owner = await a_user(store)
    jti = new_jti()
    await a_token(store, owner, jti)
    changed = await store.set_user(owner.id, role="observer", active=False, account=ADVERTISER)
    found = await store.find(jti_digest(jti))
    assert found is not None
    assert found[1] == changed


async def test_users_are_listed_by_network_in_pages(store: Store) -> None:
    here = [await a_user(store, account) for account in (NETWORK, ADVERTISER, NETWORK)]
    there = await a_user(store, Account("affiliate", "808", "44"))
    first = await store.list_users(network="33", limit=2)
    assert first.rows == (here[2], here[1])
    rest = await store.list_users(network="33", after=first.next, limit=2)
    assert (rest.rows, rest.next) == ((here[0],), None)
    assert (await store.list_users()).rows[0] == there
    await assert_problem("invalid-input", store.list_users(network="33", after=there.id))


# --- generation


async def test_the_generation_grows_with_every_change_that_can_alter_a_verdict(store: Store) -> None:
    at = await store.generation()
    await store.add_account(NETWORK)
    at = await assert_growing(store, at)
    owner = await a_user(store)
    jti = new_jti()
    at = await assert_growing(store, at)
    token = await a_token(store, owner, jti)
    assert await store.generation() == at  # of a token that was not there nobody can remember anything
    assert await store.pause_token(token.id, by=owner.id, at=NOW)
    at = await assert_growing(store, at)
    assert await store.resume_token(token.id, by=owner.id, anybodys=False, at=NOW)
    at = await assert_growing(store, at)
    await store.pause_tokens(Which("33"), by="usr_admin", at=NOW)
    at = await assert_growing(store, at)
    await rotate(store, token, jti := new_jti())
    at = await assert_growing(store, at)
    await store.mark_exposed(jti_digest(jti), at=NOW, rotate_by=NOW + DAY)
    at = await assert_growing(store, at)
    await store.set_user(owner.id, role="observer")
    at = await assert_growing(store, at)
    await store.delete_token(token.id, by=owner.id, at=NOW)
    at = await assert_growing(store, at)
    await a_token(store, owner)
    await store.delete_tokens(Which("33"), by=owner.id, at=NOW)
    await assert_growing(store, at)


async def test_the_generation_stands_when_nothing_changed(store: Store) -> None:
    owner = await a_user(store)
    token = await a_token(store, owner, description="reports")
    await store.delete_token(token.id, by=owner.id, at=NOW)
    at = await store.generation()
    await store.delete_token(token.id, by=owner.id, at=NOW)
    await store.delete_token("tok_unknown", by=owner.id, at=NOW)
    await store.add_account(NETWORK)
    other = await a_token(store, owner)
    await store.resume_token(other.id, by=owner.id, anybodys=False, at=NOW)
    await store.pause_tokens(Which("44"), by=owner.id, at=NOW)
    await store.delete_tokens(Which("33", owner_id="usr_x"), by=owner.id, at=NOW)
    await assert_problem("invalid-input", a_token(store, owner, scopes=[]))
    assert await store.generation() == at


async def test_a_change_by_another_process_is_seen_at_once(
    store: Store, tmp_path: Path, clock: Turnable
) -> None:
    owner = await a_user(store)
    jti = new_jti()
    token = await a_token(store, owner, jti)
    assert await store.find(jti_digest(jti)) == (token, owner)
    other = await open_store(config.Store(path=str(tmp_path / "gateway.sqlite3")), clock)
    before = await store.generation()
    await other.delete_token(token.id, by=owner.id, at=NOW)
    await other.close()
    found = await store.find(jti_digest(jti))
    assert found is not None
    assert found[0].state(NOW) == "deleted"
    await assert_growing(store, before)


async def test_a_write_whose_task_is_cancelled_happens_wholly_or_not_at_all(store: Store) -> None:
    owner = await a_user(store)
    for turns in range(40):
        maker = await a_token(store, owner)
        child = await a_token(store, owner, made_by=maker.id)
        task = asyncio.create_task(store.delete_token(maker.id, by=owner.id, at=NOW))
        for _ in range(turns):
            await asyncio.sleep(0 if turns < 20 else 0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.set_user(owner.id, role="super")  # the next writer is not disturbed
        states = {row.state(NOW) for one in (maker, child) if (row := await store.token(one.id))}
        assert len(states) == 1


async def test_a_closed_store_says_that_it_cannot_answer(store: Store) -> None:
    await store.ping()
    await store.close()
    await store.close()
    await assert_problem("store-unavailable", store.ping())
    await assert_problem("store-unavailable", store.find(b""))
    await assert_problem("store-unavailable", store.add_account(NETWORK))


async def test_writers_that_already_wait_are_served_before_the_store_closes(store: Store) -> None:
    owner = await a_user(store)
    acts = [asyncio.create_task(a_token(store, owner)) for _ in range(5)]
    await asyncio.sleep(0)
    await store.close()
    assert all(isinstance(row, TokenRow) for row in await asyncio.gather(*acts))


def test_folding_is_idempotent_and_ends_in_nfc() -> None:
    for text in ("  Stra\u00dfe ", "\u1e9e", "I\u0307", "\u0345\u03b1", "e\u0301"):
        assert folded(folded(text)) == folded(text)


async def test_every_scope_can_be_kept(store: Store) -> None:
    assert (await a_token(store, await a_user(store), scopes=reversed(SCOPES))).scopes == SCOPES


# --- SQLite alone: its files


async def test_the_database_and_the_files_beside_it_are_the_owners_alone(
    tmp_path: Path, clock: Turnable
) -> None:
    path = tmp_path / "gateway.sqlite3"
    path.touch(mode=0o644)
    store = await open_store(config.Store(path=str(path)), clock)
    await store.add_account(NETWORK)
    modes = [stat.S_IMODE(os.stat(f"{path}{end}").st_mode) for end in ("", "-wal", "-shm")]
    await store.close()
    assert modes == [0o600] * 3


async def test_a_store_opened_again_has_kept_everything(tmp_path: Path, clock: Turnable) -> None:
    settings = config.Store(path=str(tmp_path / "gateway.sqlite3"))
    store = await open_store(settings, clock)
    owner = await a_user(store)
    token = await a_token(store, owner)
    generation = await store.generation()
    await store.close()
    store = await open_store(settings, clock)
    assert (await store.token(token.id), await store.user(owner.id)) == (token, owner)
    assert await store.generation() == generation
    await store.close()


async def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path, clock: Turnable) -> None:
    path = tmp_path / "gateway.sqlite3"
    await (await open_store(config.Store(path=str(path)), clock)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(ConfigError, match="newer version of the gateway"):
        await open_store(config.Store(path=str(path)), clock)


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, clock: Turnable) -> None:
    path = tmp_path / "cookies.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE cookies (name TEXT)")
    db.close()
    with pytest.raises(ConfigError, match="some other program"):
        await open_store(config.Store(path=str(path)), clock)
    with sqlite3.connect(path) as db:
        assert [name for (name,) in db.execute("SELECT name FROM sqlite_schema")] == ["cookies"]
    db.close()


# --- sealed credentials, and verdicts that end


async def test_a_credential_is_kept_replaced_and_deleted_as_it_was_given(store: Store) -> None:
    await store.set_credential("network:33", b"a" * 29, at=NOW)
    await store.set_credential("advertiser:706", b"b" * 29, at=NOW + 1)
    await store.set_credential("network:33", b"c" * 40, at=NOW + 2)
    kept = [(row.account, row.sealed, row.set_at) for row in await store.credentials()]
    assert kept == [("advertiser:706", b"b" * 29, NOW + 1), ("network:33", b"c" * 40, NOW + 2)]
    assert await store.delete_credential("network:33")
    assert not await store.delete_credential("network:33")
    assert [row.account for row in await store.credentials()] == ["advertiser:706"]


async def test_a_credential_is_an_accounts_and_sealed(store: Store) -> None:
    for account in ("33", "planet:33", "network:", "network:3\n3"):
        await assert_problem("invalid-input", store.set_credential(account, b"a" * 29, at=NOW))
    await assert_problem("store-unavailable", store.set_credential("network:33", b"plain", at=NOW))
    assert await store.credentials() == ()


async def test_verdicts_end_for_every_process_before_it_is_acknowledged(store: Store) -> None:
    before = store.epoch()
    await store.end_verdicts()
    assert store.epoch() > before


# --- the signing keys


def test_keys_are_created_once_with_closed_modes_and_loaded_again(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    ring = load_or_create_keys(str(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    assert (file.name, stat.S_IMODE(file.stat().st_mode)) == (f"{ring.current.kid}.pem", 0o600)
    assert load_or_create_keys(str(folder)).jwks() == load_keys(str(folder)).jwks() == ring.jwks()


def test_rotation_keeps_the_old_key_in_public_only(tmp_path: Path) -> None:
    first = load_or_create_keys(str(tmp_path / "keys"))
    second = rotate_keys(str(tmp_path / "keys"))
    assert second.current.kid != first.current.kid
    assert [key.kid for key in second.retired] == [first.current.kid]
    names = sorted(file.name for file in (tmp_path / "keys").iterdir())
    assert names == sorted([f"{second.current.kid}.pem", f"{first.current.kid}.pub.pem"])
    assert load_keys(str(tmp_path / "keys")).jwks() == second.jwks()


def test_a_key_that_signs_no_more_is_dropped_and_no_other_is(tmp_path: Path) -> None:
    path = str(tmp_path / "keys")
    first = load_or_create_keys(path)
    second = rotate_keys(path)
    assert not drop_key(path, second.current.kid)
    assert not drop_key(path, "ivg-unknown")
    assert not drop_key(path, "../" + first.current.kid)
    assert load_keys(path).jwks() == second.jwks()
    assert drop_key(path, first.current.kid)
    assert load_keys(path).retired == ()


def test_a_rotation_that_was_cut_short_is_finished_without_losing_a_key(tmp_path: Path) -> None:
    first = load_or_create_keys(str(tmp_path / "keys"))
    (tmp_path / "keys" / f"{first.current.kid}.pub.pem").write_bytes(first.current.public.to_pem())
    ring = load_or_create_keys(str(tmp_path / "keys"))
    assert ring.current.kid != first.current.kid
    assert [key.kid for key in ring.retired] == [first.current.kid]
    assert not (tmp_path / "keys" / f"{first.current.kid}.pem").exists()


def test_of_many_that_start_at_once_one_creates_the_key(tmp_path: Path) -> None:
    for turn in range(10):
        folder = str(tmp_path / f"keys{turn}")
        barrier = threading.Barrier(8)

        def start(folder: str = folder, barrier: threading.Barrier = barrier) -> str:
            barrier.wait()
            return load_or_create_keys(folder).current.kid

        with ThreadPoolExecutor(8) as pool:
            kids = {future.result() for future in [pool.submit(start) for _ in range(8)]}
        assert os.listdir(folder) == [f"{kid}.pem" for kid in kids]


def test_a_draft_of_a_process_that_died_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / ".ivg-half.pem.draft").write_bytes(b"-----BEGIN PRIV")
    ring = load_or_create_keys(str(tmp_path / "keys"))
    assert os.listdir(tmp_path / "keys") == [f"{ring.current.kid}.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_private_key_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    kid = load_or_create_keys(str(tmp_path / "keys")).current.kid
    (tmp_path / "keys" / f"{kid}.pem").chmod(mode)
    with pytest.raises(ConfigError, match=f"{kid}.pem: is a private key that group or others can read"):
        load_or_create_keys(str(tmp_path / "keys"))


def test_a_folder_others_can_enter_is_refused(tmp_path: Path) -> None:
    load_or_create_keys(str(tmp_path / "keys"))
    (tmp_path / "keys").chmod(0o750)
    with pytest.raises(ConfigError, match="chmod 0700"):
        load_or_create_keys(str(tmp_path / "keys"))


def test_a_key_under_another_name_and_a_broken_key_are_refused(tmp_path: Path) -> None:
    kid = load_or_create_keys(str(tmp_path / "keys")).current.kid
    file = tmp_path / "keys" / f"{kid}.pem"
    file.rename(tmp_path / "keys" / "ivg-other.pem")
    with pytest.raises(ConfigError, match="holds another key than its name says"):
        load_keys(str(tmp_path / "keys"))
    (tmp_path / "keys" / "ivg-other.pem").write_bytes(b"-----BEGIN")
    with pytest.raises(ConfigError, match="is not an unencrypted PKCS #8"):
        load_keys(str(tmp_path / "keys"))


def test_two_signing_keys_no_key_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        load_keys(str(tmp_path / "none"))
    (tmp_path / "keys").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="has no signing key"):
        load_keys(str(tmp_path / "keys"))
    for name in ("a", "b"):
        load_or_create_keys(str(tmp_path / name))
        for file in (tmp_path / name).iterdir():
            file.rename(tmp_path / "keys" / file.name)
    with pytest.raises(ConfigError, match="has 2 signing keys"):
        load_keys(str(tmp_path / "keys"))


# --- the epoch


async def test_the_epoch_has_changed_when_a_change_is_acknowledged(store: Store) -> None:
    jti = new_jti()
    owner = await a_user(store)
    token = await a_token(store, owner, jti)
    seen = {store.epoch()}
    for change in (
        lambda: store.set_user(owner.id, role="observer"),
        lambda: store.mark_exposed(jti_digest(jti), at=token.created_at, rotate_by=token.created_at + 60),
        lambda: store.delete_token(token.id, by="a test", at=token.created_at),
    ):
        await change()
        assert store.epoch() not in seen
        seen.add(store.epoch())


async def test_another_opening_of_the_same_store_changes_the_same_epoch(
    store: Store, tmp_path: Path, clock: Turnable
) -> None:
    other = await open_store(config.Store(path=str(tmp_path / "gateway.sqlite3")), clock)
    before = store.epoch()
    await a_user(other)
    assert store.epoch() == other.epoch() != before
    await other.close()


async def test_refreshing_makes_up_for_a_writer_that_died_before_it_could_tell(store: Store) -> None:
    await a_user(store)
    committed = store.epoch()
    store._epoch.set(committed - 1)  # type: ignore[attr-defined]  # as that writer would have left it
    await store.refresh()
    assert store.epoch() == committed


async def test_an_epoch_never_goes_back(store: Store) -> None:
    await a_user(store)
    before = store.epoch()
    store._epoch.set(before - 1)  # type: ignore[attr-defined]  # as a process would that was held up
    assert store.epoch() == before


async def test_after_an_older_database_is_put_back_its_changes_are_seen(
    tmp_path: Path, clock: Turnable
) -> None:
    path = tmp_path / "gateway.sqlite3"
    store = await open_store(config.Store(path=str(path)), clock)
    await store.close()
    older = path.read_bytes()
    store = await open_store(config.Store(path=str(path)), clock)
    for _ in range(3):
        await a_user(store)
    seen = store.epoch()
    await store.close()
    for left in await asyncio.to_thread(lambda: list(tmp_path.glob("gateway.sqlite3-[ws]*"))):
        await asyncio.to_thread(left.unlink)
    path.write_bytes(older)
    restored = await open_store(config.Store(path=str(path)), clock)
    assert restored.epoch() > seen
    now = restored.epoch()
    await a_user(restored)
    assert restored.epoch() > now
    await restored.close()
