"""What a write does within its transaction: looks, refusals and single steps that several of them share.

Raises Problem for what is refused, Unreadable and sqlite3.Error for the store to translate; all of it undoes the
transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import aiosqlite

from gateway.model import Account
from gateway.problem import Problem
from gateway.store.decode import TOKEN, Row, Unreadable, first, number, token_row, user_row
from gateway.store.given import bindable
from gateway.store.rows import MAX_AT_ONCE, Page, Repeated, Sealed, TokenRow, TokenState, UserRow, Which
from gateway.store.statements import SIGNED, USER_BY_ID, chosen_tokens
from gateway.tokens import MAX_TIME

ENDED: tuple[TokenState, ...] = ("expired", "deleted")


async def rows_of(
    db: aiosqlite.Connection, sql: str, values: Sequence[Any] | dict[str, Any] = ()
) -> list[Row]:
    """Every row of one statement, in one hop to the connection's thread."""
    # aiosqlite's annotation leaves out the named style, which sqlite3 takes as well.
    return cast(list[Row], await db.execute_fetchall(sql, cast(Iterable[Any], values)))


async def bump(db: aiosqlite.Connection) -> None:
    number(await rows_of(db, "UPDATE generation SET value = value + 1 WHERE one = 1 RETURNING value"))


async def one_token(db: aiosqlite.Connection, token_id: str) -> TokenRow | None:
    return first(token_row)(
        await rows_of(db, f"SELECT {TOKEN} FROM tokens AS t WHERE t.id = ?", (token_id,))  # noqa: S608
    )


async def one_user(db: aiosqlite.Connection, user_id: str) -> UserRow:
    found = first(user_row)(await rows_of(db, USER_BY_ID, (user_id,)))
    if found is None:
        raise Unreadable
    return found


async def maker_expiry(db: aiosqlite.Connection, maker_id: str, owner_id: str, now: int) -> int:
    """When a maker that may make tokens now ends. Raises: Problem "invalid-token" for any other."""
    maker = await one_token(db, bindable(maker_id))
    # A paused one cannot have authenticated; it was paused since.
    if maker is None or maker.owner_id != owner_id or maker.state(now) not in ("active", "exposed"):
        raise Problem("invalid-token", "The token that makes this one is no longer accepted")
    return MAX_TIME if maker.bootstrap else maker.effective_expiry  # a bootstrap token stands for a sign-in


async def longest(db: aiosqlite.Connection, row: TokenRow) -> int:
    """How late a token that is rotated may end: no later than what made it, if that still bounds it."""
    maker = None if row.made_by is None else await one_token(db, row.made_by)
    if maker is None or maker.bootstrap:
        return MAX_TIME
    # What outlives its maker also outlives what befalls it, but not the time it was made within.
    return maker.expires_at if row.outlives_maker else maker.effective_expiry


async def refuse_repeated(db: aiosqlite.Connection, sealed: Sealed | None) -> None:
    if sealed is not None and await rows_of(db, "SELECT 1 FROM answers WHERE lookup = ?", (sealed.lookup,)):
        raise Repeated


async def signed(db: aiosqlite.Connection, jti_digest: bytes, key_id: str | None) -> None:
    """Keep which key signs a secret."""
    if key_id is not None:
        await rows_of(db, SIGNED, (jti_digest, key_id))


async def with_sealed(db: aiosqlite.Connection, row: TokenRow, sealed: Sealed | None) -> TokenRow:
    """The row just written, with what is kept of the answer about it in the same transaction."""
    if sealed is not None:
        await rows_of(
            db,
            """INSERT INTO answers (lookup, binding, sealed, token_id, issued_at, expires_at, until)
               VALUES (?, ?, ?, ?, ?, ?, ?)""",
            (sealed.lookup, sealed.binding, sealed.text, row.id, row.issued_at, row.expires_at, sealed.until),
        )
    return row


async def chosen(
    db: aiosqlite.Connection, which: Which, where: Sequence[str], values: dict[str, Any]
) -> Page[str]:
    """The ids that an act on many tokens is for now, oldest first."""
    sql, bound = chosen_tokens(which, where)
    rows = await rows_of(db, sql, values | bound)
    ids = tuple(str(token_id) for (token_id,) in rows[:MAX_AT_ONCE])
    return Page(ids, ids[-1] if len(rows) > MAX_AT_ONCE else None)


async def end_earlier(db: aiosqlite.Connection, jti_digest: bytes, rotate_by: int) -> TokenRow | None:
    found = await rows_of(db, "SELECT id, earlier_until FROM tokens WHERE earlier_digest = ?", (jti_digest,))
    if not found:
        return None
    token_id, until = found[0]
    if until > rotate_by:
        await rows_of(db, "UPDATE tokens SET earlier_until = ? WHERE id = ?", (rotate_by, token_id))
        await bump(db)
    return await one_token(db, token_id)


def refuse_ended(row: TokenRow, now: float) -> None:
    if row.state(now) in ENDED:
        raise Problem("token-ended", "The token has expired or was deleted.", state=row.state(now))


async def ensure_account(db: aiosqlite.Connection, account: Account) -> None:
    sql = "SELECT network FROM accounts WHERE kind = ? AND id = ?"
    kept = await rows_of(db, sql, (account.kind, account.id))
    if kept and kept[0][0] != account.network:
        raise Problem("invalid-input", f"{account.key} is already kept as belonging to another network")
    if not kept:
        sql = "INSERT INTO accounts (kind, id, network) VALUES (?, ?, ?)"
        await rows_of(db, sql, (account.kind, account.id, account.network))
        await bump(db)  # which accounts a network's users may reach has changed
