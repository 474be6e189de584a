"""`people.People` in SQLite: the same file, connections and transactions as `sqlite.SqliteStore`, which makes it.

A change that can end or alter what a token may do raises the generation; a session is looked up every time, so
its end needs no such word.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import aiosqlite

from gateway.model import Account, Clock, Role
from gateway.problem import Problem
from gateway.store.decode import USER, USERS, Row, first, number, session_row, token_row, user_row
from gateway.store.given import bindable, check_account, check_role, clean_email, when
from gateway.store.people import FirstToken, NewCode, NewSession, SessionRow
from gateway.store.rows import TokenRow, UserRow, folded, new_token_id, new_user_id
from gateway.store.statements import INSERT_TOKEN, USER_BY_ID
from gateway.store.transaction import bump, ensure_account, one_user, rows_of, signed
from gateway.tokens import MAX_TIME

T = TypeVar("T")

FIRST_TOKEN = "bootstrap token made by the operator"  # its description
SESSIONS_AT_ONCE = 20
SESSION = "s.id, s.user_id, s.created_at, s.seen_at, s.ends_at"
_FIND = f"SELECT {SESSION}, {USER} FROM {USERS} JOIN sessions AS s ON s.user_id = u.id WHERE s.digest = ?"  # noqa: S608
_CODE = (
    f"SELECT {USER} FROM {USERS} JOIN codes AS c ON c.user_id = u.id "  # noqa: S608
    "WHERE c.digest = ? AND c.ends_at > ? AND u.active = 1"
)


class Read(Protocol):
    """`SqliteStore._read`: one statement, on the connection for lists."""

    def __call__(
        self,
        operation: str,
        sql: str,
        values: Sequence[Any] | dict[str, Any],
        parse: Callable[[list[Row]], T],
    ) -> Awaitable[T]: ...


class Write(Protocol):
    """`SqliteStore._write`: one transaction, its generation told to everybody before it is acknowledged."""

    def __call__(
        self, operation: str, body: Callable[[aiosqlite.Connection], Awaitable[T]]
    ) -> Awaitable[T]: ...


class SqlitePeople:
    """Made by `SqliteStore`, over its connections."""

    def __init__(self, read: Read, write: Write, clock: Clock) -> None:
        self._read = read
        self._write = write
        self._clock = clock

    async def add(
        self,
        email: str,
        account: Account,
        role: Role,
        administrator: bool = False,
        *,
        code: NewCode | None = None,
        first: FirstToken | None = None,
    ) -> tuple[UserRow, TokenRow | None]:
        address = clean_email(email)
        check_account(account)
        check_role(role)
        now = int(self._clock())

        async def body(db: aiosqlite.Connection) -> tuple[UserRow, TokenRow | None]:
            if await rows_of(db, "SELECT 1 FROM users WHERE email = ?", (address,)):
                raise Problem("invalid-input", "Another user has this e-mail address")
            await ensure_account(db, account)
            user_id = new_user_id()
            await rows_of(
                db,
                """INSERT INTO users
                       (id, email, account_kind, account_id, role, administrator, active, created_at)
                   VALUES (?, ?, ?, ?, ?, ?, 1, ?)""",
                (user_id, address, account.kind, account.id, role, administrator, now),
            )
            await bump(db)
            if code is not None:
                await _keep_code(db, user_id, code)
            token = None if first is None else await _first_token(db, user_id, account.network, first, now)
            return await one_user(db, user_id), token

        return await self._write("add_user", body)

    async def change(
        self,
        user_id: str,
        *,
        active: bool | None = None,
        role: Role | None = None,
        administrator: bool | None = None,
        account: Account | None = None,
        network: str | None = None,
        keep_one: bool = False,
    ) -> UserRow | None:
        if role is not None:
            check_role(role)
        if account is not None:
            check_account(account)
        key = bindable(user_id)

        async def body(db: aiosqlite.Connection) -> UserRow | None:
            before = await _within(db, key, network)
            if before is None:
                return None
            if account is not None:
                await _move(db, key, account)
            await rows_of(
                db,
                """UPDATE users SET active = coalesce(?, active), role = coalesce(?, role),
                       administrator = coalesce(?, administrator) WHERE id = ?""",
                (active, role, administrator, key),
            )
            if active is False:
                await rows_of(db, "DELETE FROM sessions WHERE user_id = ?", (key,))
                await rows_of(db, "DELETE FROM codes WHERE user_id = ?", (key,))
            await bump(db)
            if keep_one and administers(before):
                await _refuse_headless(db, before.account.network)
            return await one_user(db, key)

        return await self._write("set_user", body)

    async def password_of(self, email: str) -> tuple[UserRow, str | None] | None:
        def parse(rows: list[Row]) -> tuple[UserRow, str | None] | None:
            return (user_row(rows[0][1:]), rows[0][0]) if rows else None

        sql = f"SELECT u.password_hash, {USER} FROM {USERS} WHERE u.email = ?"  # noqa: S608
        return await self._read("password_of", sql, (bindable(folded(email)),), parse)

    async def sign_in(self, user_id: str, *, password_hash: str, session: NewSession) -> SessionRow | None:
        now = int(self._clock())

        async def body(db: aiosqlite.Connection) -> SessionRow | None:
            if not await _has_password(db, user_id, password_hash):
                return None
            if session.instead_of is not None:
                await rows_of(db, "DELETE FROM sessions WHERE digest = ?", (session.instead_of,))
            await rows_of(db, "DELETE FROM sessions WHERE ends_at <= ?", (now,))
            await rows_of(db, "DELETE FROM codes WHERE ends_at <= ?", (now,))
            return await _keep_session(db, user_id, session, now)

        return await self._write("sign_in", body)

    async def rehash(self, user_id: str, *, password_hash: str, new_hash: str) -> None:
        sql = "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?"
        await self._write("rehash", lambda db: rows_of(db, sql, (new_hash, user_id, password_hash)))

    async def session(self, digest: bytes) -> tuple[SessionRow, UserRow] | None:
        def parse(rows: list[Row]) -> tuple[SessionRow, UserRow] | None:
            return (session_row(rows[0][:5]), user_row(rows[0][5:])) if rows else None

        return await self._read("session", _FIND, (digest,), parse)

    async def touch(self, digest: bytes, *, at: int) -> None:
        sql = "UPDATE sessions SET seen_at = ? WHERE digest = ? AND seen_at < ?"
        await self._write("touch_session", lambda db: rows_of(db, sql, (when(at), digest, at)))

    async def end_session(self, digest: bytes) -> None:
        sql = "DELETE FROM sessions WHERE digest = ?"
        await self._write("end_session", lambda db: rows_of(db, sql, (digest,)))

    async def end_sessions(self, user_id: str) -> int:
        sql = "DELETE FROM sessions WHERE user_id = ? RETURNING 1"
        ended = await self._write("end_sessions", lambda db: rows_of(db, sql, (bindable(user_id),)))
        return len(ended)

    async def give_code(self, user_id: str, code: NewCode, *, network: str | None = None) -> UserRow | None:
        key = bindable(user_id)

        async def body(db: aiosqlite.Connection) -> UserRow | None:
            user = await _within(db, key, network)
            if user is None:
                return None
            if not user.active:
                raise Problem("invalid-input", "The user is disabled: enable them first")
            await _keep_code(db, key, code)
            return user

        return await self._write("give_code", body)

    async def code(self, digest: bytes) -> UserRow | None:
        return await self._read("code", _CODE, (digest, int(self._clock())), first(user_row))

    async def use_code(self, digest: bytes, *, password_hash: str) -> UserRow | None:
        now = int(self._clock())

        async def body(db: aiosqlite.Connection) -> UserRow | None:
            user = first(user_row)(await rows_of(db, _CODE, (digest, now)))
            if user is None:
                return None
            await rows_of(db, "DELETE FROM codes WHERE user_id = ?", (user.id,))
            await _new_password(db, user.id, password_hash)
            return user

        return await self._write("use_code", body)

    async def change_password(
        self, user_id: str, *, old_hash: str, new_hash: str, session: NewSession
    ) -> SessionRow | None:
        now = int(self._clock())

        async def body(db: aiosqlite.Connection) -> SessionRow | None:
            if not await _has_password(db, user_id, old_hash):
                return None
            await rows_of(db, "DELETE FROM codes WHERE user_id = ?", (user_id,))
            await _new_password(db, user_id, new_hash)
            return await _keep_session(db, user_id, session, now)

        return await self._write("change_password", body)


def administers(user: UserRow) -> bool:
    """Whether a user is at the head of their network now."""
    return user.active and user.administrator and user.account.kind == "network"


def new_session_id() -> str:
    """`ses_` and 96 random bits. Public: it names a session in records, and opens nothing."""
    return "ses_" + secrets.token_urlsafe(12)


async def _within(db: aiosqlite.Connection, user_id: str, network: str | None) -> UserRow | None:
    """A user, if there is one and they belong to a network when one is given."""
    user = first(user_row)(await rows_of(db, USER_BY_ID, (user_id,)))
    return None if user is None or network not in (None, user.account.network) else user


async def _move(db: aiosqlite.Connection, user_id: str, account: Account) -> None:
    await ensure_account(db, account)
    await rows_of(
        db,
        "UPDATE users SET account_kind = ?, account_id = ? WHERE id = ?",
        (account.kind, account.id, user_id),
    )
    moved = (account.network, user_id, account.network)
    await rows_of(db, "UPDATE tokens SET network = ? WHERE owner_id = ? AND network <> ?", moved)


async def _refuse_headless(db: aiosqlite.Connection, network: str) -> None:
    sql = """SELECT count(*) FROM users
             WHERE account_kind = 'network' AND account_id = ? AND administrator = 1 AND active = 1"""
    if not number(await rows_of(db, sql, (network,))):
        raise Problem("last-administrator", "Make somebody else of the network an administrator first.")


async def _has_password(db: aiosqlite.Connection, user_id: str, password_hash: str) -> bool:
    """Whether what was proven a moment ago, against this hash, still holds."""
    sql = "SELECT 1 FROM users WHERE id = ? AND active = 1 AND password_hash = ?"
    return bool(await rows_of(db, sql, (user_id, password_hash)))


async def _new_password(db: aiosqlite.Connection, user_id: str, password_hash: str) -> None:
    await rows_of(db, "UPDATE users SET password_hash = ? WHERE id = ?", (password_hash, user_id))
    await rows_of(db, "DELETE FROM sessions WHERE user_id = ?", (user_id,))


async def _keep_session(db: aiosqlite.Connection, user_id: str, session: NewSession, now: int) -> SessionRow:
    values = (session.digest, new_session_id(), user_id, now, now, when(session.ends_at))
    made = await rows_of(
        db,
        f"""INSERT INTO sessions AS s (digest, id, user_id, created_at, seen_at, ends_at)
            VALUES (?, ?, ?, ?, ?, ?) RETURNING {SESSION.replace("s.", "")}""",  # noqa: S608
        values,
    )
    await rows_of(
        db,
        """DELETE FROM sessions WHERE digest IN
               (SELECT digest FROM sessions WHERE user_id = ? ORDER BY seq DESC LIMIT -1 OFFSET ?)""",
        (user_id, SESSIONS_AT_ONCE),
    )
    return session_row(made[0])


async def _keep_code(db: aiosqlite.Connection, user_id: str, code: NewCode) -> None:
    await rows_of(
        db,
        """INSERT INTO codes (user_id, digest, purpose, ends_at) VALUES (?, ?, ?, ?)
           ON CONFLICT (user_id) DO UPDATE SET
               digest = excluded.digest, purpose = excluded.purpose, ends_at = excluded.ends_at""",
        (user_id, code.digest, code.purpose, when(code.ends_at)),
    )


async def _first_token(
    db: aiosqlite.Connection, user_id: str, network: str, token: FirstToken, now: int
) -> TokenRow:
    if not now < token.expires_at <= MAX_TIME:
        raise Problem("invalid-input", "A token expires later than now")
    made = await rows_of(
        db,
        INSERT_TOKEN,
        (
            new_token_id(), token.jti_digest, user_id, network, FIRST_TOKEN, folded(FIRST_TOKEN),
            "tokens:manage", now, token.expires_at, None, False, True, None, None, None, None,
        ),
    )  # fmt: skip
    await signed(db, token.jti_digest, token.key_id)
    return token_row(made[0])
