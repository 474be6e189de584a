"""The store in one SQLite file, through aiosqlite.

One connection writes, one transaction at a time; two read, so that neither a writer nor a long list ever makes
`find` wait (WAL readers see the last commit and take no lock that a writer holds). A commit is on the disk
before it is acknowledged (`synchronous = FULL`): deleting a token is a security statement. Last uses are in a file
of their own (`uses.py`).

Every statement goes through a connection's own thread, in the order sent. That is what makes cancellation
safe: the ROLLBACK of a task that was cancelled is queued behind whatever it had begun, before the next BEGIN.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from gateway import config
from gateway.model import SCOPES, Account, AccountKind, Clock, Role
from gateway.problem import Problem
from gateway.store import records
from gateway.store.decode import (
    TOKEN,
    TOKEN_COLUMNS,
    USER,
    USERS,
    Row,
    Unreadable,
    account_row,
    count_and_time,
    credential_row,
    first,
    kept_row,
    number,
    texts,
    token_row,
    user_row,
)
from gateway.store.epoch import Epoch
from gateway.store.given import (
    account_key,
    bindable,
    check_account,
    check_prose,
    cidr,
    clean_description,
    page_limit,
    when,
)
from gateway.store.migrations import Refused, migrate
from gateway.store.people import People
from gateway.store.rows import (
    MAX_PAGE,
    MAX_REASON_CHARS,
    MAX_RECORDS,
    CredentialRow,
    Kept,
    KeyUse,
    Page,
    Sealed,
    TokenRow,
    TokenState,
    Use,
    UseRow,
    UserRow,
    Which,
    folded,
    new_token_id,
)
from gateway.store.sqlitepeople import SqlitePeople
from gateway.store.statements import (
    DELETE,
    EXPOSE,
    FIND,
    FIND_EARLIER,
    GENERATION,
    INSERT_TOKEN,
    OVER,
    PAUSE,
    ROTATE,
    SAME_DESCRIPTION,
    SHORTEN,
    SIGNED_WITH,
    STATE,
    UNSIGN_EARLIER,
    USER_BY_ID,
    as_json,
    index_of,
    tokens_page,
)
from gateway.store.tally import DAY_S
from gateway.store.transaction import (
    ENDED,
    bump,
    chosen,
    end_earlier,
    ensure_account,
    longest,
    maker_expiry,
    one_token,
    one_user,
    refuse_ended,
    refuse_repeated,
    rows_of,
    signed,
    with_sealed,
)
from gateway.store.uses import Uses
from gateway.tokens import MAX_TIME
from gateway.tomlfile import ConfigError, Fault

log = logging.getLogger("gateway.store")
T = TypeVar("T")

GRACE_S = 1.0  # beyond the busy timeout, until an operation is given up
ROLLBACK_S = 0.25
SHOWN = 20
CHILD_REASON = "the token that made it was deleted"

_CODES = {
    sqlite3.SQLITE_BUSY: "locked by another writer",
    sqlite3.SQLITE_LOCKED: "locked by another writer",
    sqlite3.SQLITE_INTERRUPT: "interrupted at its deadline",
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_IOERR: "input or output error",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "not a database",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "not permitted",
    sqlite3.SQLITE_AUTH: "not permitted",
    sqlite3.SQLITE_NOMEM: "out of memory",
}
_CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "no answer within the deadline"),
    (OSError, "refused by the operating system"),
    (Unreadable, "a row that does not read as it was written"),
    (sqlite3.Error, "refused by SQLite"),
)
_FAULTS = tuple(kind for kind, _ in _CLASSES)


def cause(error: Exception) -> str:
    """What went wrong, by error code or class, never by message: a message may quote a value."""
    primary = getattr(error, "sqlite_errorcode", -1) & 0xFF  # the extended code's low byte
    return _CODES.get(primary) or next(words for kind, words in _CLASSES if isinstance(error, kind))


def _unavailable(operation: str, error: Exception) -> Problem:
    log.error(
        "store-unavailable operation=%s cause=%r class=%s code=%s",
        operation, cause(error), type(error).__name__, getattr(error, "sqlite_errorname", "-"),
    )  # fmt: skip
    return Problem("store-unavailable")


class SqliteStore:
    """`rows.Store` over one file. Made by `open`."""

    def __init__(
        self,
        writer: aiosqlite.Connection,
        finder: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        uses: Uses,
        epoch: Epoch,
        busy_timeout_s: float,
        clock: Clock,
    ) -> None:
        self._uses = uses
        self._epoch = epoch
        self._writer = writer
        self._finder = finder
        self._reader = reader
        self._deadline_s = busy_timeout_s + GRACE_S
        self._clock = clock
        self._writing = asyncio.Lock()
        self._closed = False
        self.people: People = SqlitePeople(self._read, self._write, clock)

    @classmethod
    async def open(cls, settings: config.Store, clock: Clock) -> SqliteStore:
        """The store at `settings.path`, created with mode 0600 and migrated when it has to be.

        Raises: ConfigError, when the file cannot be used.
        """
        # At DEBUG aiosqlite logs every statement with its values.
        logging.getLogger("aiosqlite").setLevel(logging.INFO)
        opened: list[aiosqlite.Connection | Uses] = []
        try:
            async with asyncio.timeout(2 * (settings.busy_timeout_s + GRACE_S)):
                path = _private_file(Path(settings.path))
                opened.append(writer := await _connect(path, settings.busy_timeout_s, writes=True))
                await migrate(writer)
                opened.append(finder := await _connect(path, settings.busy_timeout_s, writes=False))
                opened.append(reader := await _connect(path, settings.busy_timeout_s, writes=False))
                opened.append(uses := Uses(path, settings.busy_timeout_s))
            epoch = Epoch(path)
            try:
                made = cls(writer, finder, reader, uses, epoch, settings.busy_timeout_s, clock)
                await made._catch_up()
            except BaseException:
                epoch.close()
                raise
            return made
        except BaseException as error:
            for db in opened:
                await db.close()
            if isinstance(error, Problem):
                raise ConfigError([Fault(settings.path, 0, "store.path", "cannot be read")]) from None
            if isinstance(error, Refused):
                raise ConfigError([Fault(settings.path, 0, "store.path", str(error))]) from None
            if isinstance(error, _FAULTS):
                raise ConfigError([Fault(settings.path, 0, "store.path", cause(error))]) from None
            raise

    async def _catch_up(self) -> None:
        """After an older database was put back, its generation has to be beyond every epoch that was ever seen."""
        seen = self._epoch.get()
        if await self.generation() < seen:
            await self._write(
                "catch_up",
                lambda db: rows_of(db, "UPDATE generation SET value = ? + 1 WHERE one = 1", (seen,)),
            )
        else:
            await self.refresh()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        async with self._writing:  # who already waits to write still may
            for db in (self._finder, self._reader, self._uses, self._writer):
                try:
                    await db.close()
                except sqlite3.Error as error:
                    log.error("store-close cause=%r", cause(error))
            self._epoch.close()

    # --- tokens

    async def find(self, jti_digest: bytes) -> tuple[TokenRow, UserRow] | None:
        def parse(rows: list[Row]) -> tuple[TokenRow, UserRow] | None:
            return (token_row(rows[0][:TOKEN_COLUMNS]), user_row(rows[0][TOKEN_COLUMNS:])) if rows else None

        found = await self._read("find", FIND, (jti_digest,), parse, db=self._finder)
        if found is None:
            # In this order: a rotation in between makes the secret an earlier one, never the other way about.
            found = await self._read("find", FIND_EARLIER, (jti_digest,), parse, db=self._finder)
            if found is not None:
                found = (replace(found[0], by_earlier=True), found[1])
        return found

    async def token(self, token_id: str) -> TokenRow | None:
        sql = f"SELECT {TOKEN} FROM tokens AS t WHERE t.id = ?"  # noqa: S608
        return await self._read("token", sql, (bindable(token_id),), first(token_row))

    async def create_token(
        self,
        *,
        jti_digest: bytes,
        owner_id: str,
        description: str,
        scopes: Iterable[str],
        expires_at: int,
        made_by: str | None = None,
        outlives_maker: bool = False,
        bootstrap: bool = False,
        accounts: Iterable[str] | None = None,
        networks: Iterable[str] | None = None,
        key_id: str | None = None,
        not_before: int | None = None,
        personal_records_per_day: int | None = None,
        sealed: Sealed | None = None,
    ) -> TokenRow:
        now = int(self._clock())
        description = clean_description(description)
        granted = set(scopes)
        if not granted or not granted <= set(SCOPES):
            raise Problem("invalid-input", "A token holds at least one scope, and only known ones")
        kept_accounts = None if accounts is None else tuple(map(account_key, accounts))
        kept_networks = None if networks is None else tuple(map(cidr, networks))
        if not now < expires_at <= MAX_TIME:
            raise Problem("invalid-input", "A token expires later than now")
        if not_before is not None and not 0 <= not_before < expires_at:
            raise Problem("invalid-input", "A token begins before it expires")
        if personal_records_per_day is not None and not 0 < personal_records_per_day <= MAX_RECORDS:
            raise Problem(
                "invalid-input", "A token that is limited to no record at all needs no scope for any"
            )

        async def body(db: aiosqlite.Connection) -> TokenRow:
            await refuse_repeated(db, sealed)
            owners = await rows_of(
                db,
                f"SELECT u.active, a.network FROM {USERS} WHERE u.id = ?",  # noqa: S608
                (bindable(owner_id),),
            )
            if not owners or not owners[0][0]:
                raise Problem("invalid-token", "The owner of the token is not active")
            ends = expires_at
            if made_by is not None:
                ends = min(ends, await maker_expiry(db, made_by, owner_id, now))
            if not_before is not None and not_before >= ends:
                raise Problem("invalid-input", "A token begins before it expires, and before its maker does")
            if await rows_of(db, SAME_DESCRIPTION, (owner_id, folded(description), now, now)):
                raise Problem("description-taken")
            # The epoch stays: nobody can remember anything of a token that was not there.
            made = await rows_of(
                db,
                INSERT_TOKEN,
                (
                    new_token_id(), jti_digest, owner_id, owners[0][1], description, folded(description),
                    " ".join(scope for scope in SCOPES if scope in granted), now, ends, made_by,
                    outlives_maker, bootstrap, as_json(kept_accounts), as_json(kept_networks), not_before,
                    personal_records_per_day,
                ),
            )  # fmt: skip
            await signed(db, jti_digest, key_id)
            return await with_sealed(db, token_row(made[0]), sealed)

        return await self._write("create_token", body)

    async def rotate_token(
        self,
        token_id: str,
        *,
        owner_id: str,
        jti_digest: bytes,
        expires_at: int,
        overlap_s: int,
        key_id: str | None = None,
        sealed: Sealed | None = None,
    ) -> TokenRow | None:
        now = int(self._clock())
        if not now < expires_at <= MAX_TIME:
            raise Problem("invalid-input", "A token expires later than now")
        if overlap_s < 0:
            raise Problem("invalid-input", "An overlap is not negative")

        async def body(db: aiosqlite.Connection) -> TokenRow | None:
            await refuse_repeated(db, sealed)
            row = await one_token(db, bindable(token_id))
            if row is None or row.owner_id != owner_id:
                return None
            if not (await one_user(db, owner_id)).active:
                raise Problem("invalid-token", "The owner of the token is not active")
            refuse_ended(row, now)
            ends = min(expires_at, await longest(db, row))
            if ends <= now:
                raise Problem("token-ended", "The token that made this one has ended.")
            if row.not_before is not None and row.not_before >= ends:
                raise Problem("invalid-input", "A token begins before it expires")
            until = min(now + overlap_s, row.effective_expiry, ends)
            values = {"id": row.id, "digest": jti_digest, "until": until, "now": now, "ends": ends}
            await rows_of(db, UNSIGN_EARLIER, {"id": row.id})
            made = await rows_of(db, ROTATE, values)
            await signed(db, jti_digest, key_id)
            if ends < row.expires_at:
                await rows_of(db, SHORTEN, {"id": row.id, "ids": as_json([row.id]), "ends": ends})
            await bump(db)
            return await with_sealed(db, token_row(made[0]), sealed)

        return await self._write("rotate_token", body)

    async def take(self, lookup: bytes, binding: bytes) -> Kept | None:
        now = int(self._clock())

        async def body(db: aiosqlite.Connection) -> Kept | None:
            sql = """SELECT binding, until, token_id, issued_at, expires_at, sealed
                     FROM answers WHERE lookup = ?"""
            found = await rows_of(db, sql, (lookup,))
            if not found:
                return None
            bound, until, kept = kept_row(found[0])
            if bound != binding:
                raise Problem("idempotency-key-reused")
            await rows_of(db, "UPDATE answers SET sealed = NULL WHERE lookup = ?", (lookup,))
            token = await one_token(db, kept.token_id)
            lost = token is None or now >= until or token.state(now) in ENDED
            return replace(kept, text=None) if lost else kept

        return await self._write("take", body)

    async def erase_sealed(self) -> None:
        now = int(self._clock())
        # A look first: a write that finds nothing to do would still make a writer of every process wait.
        if not await self._read("erase_sealed", OVER, {"now": now, "old": now - DAY_S}, bool):
            return

        async def body(db: aiosqlite.Connection) -> None:
            await rows_of(
                db, "UPDATE answers SET sealed = NULL WHERE sealed IS NOT NULL AND until <= ?", (now,)
            )
            await rows_of(db, "DELETE FROM answers WHERE until <= ?", (now - DAY_S,))

        await self._write("erase_sealed", body)

    async def list_tokens(
        self,
        *,
        owner_id: str | None = None,
        network: str | None = None,
        state: TokenState | None = None,
        after: str | None = None,
        limit: int = 100,
        now: float,
    ) -> Page[TokenRow]:
        whose = []
        if owner_id is not None:
            whose.append("t.owner_id = :owner")
        if network is not None:
            whose.append("t.network = :network")
        values: dict[str, Any] = {
            # Whole seconds do for `expiry <= now`, because expiries are whole too.
            "now": int(now),
            "owner": bindable(owner_id or ""),
            "network": bindable(network or ""),
            "limit": page_limit(limit) + 1,
        }
        where = [*whose, *([STATE[state]] if state else [])]
        if after is not None:
            # Looked up among the same rows, so that it does not tell whether a foreign id exists.
            place = "SELECT t.seq FROM tokens AS t WHERE " + " AND ".join(["t.id = :after", *whose])  # noqa: S608
            values["seq"] = await self._place("list_tokens", place, values | {"after": bindable(after)})
            where.append("t.seq < :seq")
        sql = tokens_page(where, index_of(owner_id is not None, network is not None, state))
        rows = await self._read("list_tokens", sql, values, lambda found: list(map(token_row, found)))
        return _page(rows, limit)

    async def delete_token(self, token_id: str, *, by: str, reason: str = "", at: int) -> TokenRow | None:
        check_prose(by, "name of who deletes", 1, MAX_REASON_CHARS)
        check_prose(reason, "reason", 0, MAX_REASON_CHARS)
        key, values = bindable(token_id), _deletion(by, reason, when(at))

        async def body(db: aiosqlite.Connection) -> TokenRow | None:
            if await rows_of(db, DELETE, values | {"ids": as_json([key])}):
                await bump(db)
            return await one_token(db, key)

        return await self._write("delete_token", body)

    async def delete_tokens(self, which: Which, *, by: str, reason: str = "", at: int) -> Page[str]:
        check_prose(by, "name of who deletes", 1, MAX_REASON_CHARS)
        check_prose(reason, "reason", 0, MAX_REASON_CHARS)
        values = _deletion(by, reason, when(at))

        async def body(db: aiosqlite.Connection) -> Page[str]:
            page = await chosen(db, which, [], values)
            if page.rows:
                await rows_of(db, DELETE, values | {"ids": as_json(page.rows)})
                await bump(db)
            return page

        return await self._write("delete_tokens", body)

    async def pause_token(self, token_id: str, *, by: str, at: int) -> TokenRow | None:
        check_prose(by, "name of who pauses", 1, MAX_REASON_CHARS)
        key = bindable(token_id)

        async def body(db: aiosqlite.Connection) -> TokenRow | None:
            row = await one_token(db, key)
            if row is None:
                return None
            refuse_ended(row, at)
            if row.paused_at is None or (row.paused_by == row.owner_id != by):
                await rows_of(db, PAUSE, {"ids": as_json([key]), "by": by, "at": when(at)})
                await bump(db)
            return await one_token(db, key)

        return await self._write("pause_token", body)

    async def resume_token(self, token_id: str, *, by: str, anybodys: bool, at: int) -> TokenRow | None:
        key = bindable(token_id)

        async def body(db: aiosqlite.Connection) -> TokenRow | None:
            row = await one_token(db, key)
            if row is None:
                return None
            refuse_ended(row, at)
            if row.paused_at is None:
                return row
            if row.paused_by != by and not anybodys:
                raise Problem("denied", "An administrator paused this token: it is theirs to resume.")
            await rows_of(db, "UPDATE tokens SET paused_at = NULL, paused_by = NULL WHERE id = ?", (key,))
            await bump(db)
            return await one_token(db, key)

        return await self._write("resume_token", body)

    async def pause_tokens(self, which: Which, *, by: str, at: int) -> Page[str]:
        check_prose(by, "name of who pauses", 1, MAX_REASON_CHARS)
        values: dict[str, Any] = {"by": by, "at": when(at)}
        unpaused = "(t.paused_at IS NULL OR (t.paused_by = t.owner_id AND t.owner_id <> :by))"

        async def body(db: aiosqlite.Connection) -> Page[str]:
            page = await chosen(db, which, [unpaused], values)
            if page.rows:
                await rows_of(db, PAUSE, values | {"ids": as_json(page.rows)})
                await bump(db)
            return page

        return await self._write("pause_tokens", body)

    async def mark_exposed(self, jti_digest: bytes, *, at: int, rotate_by: int) -> TokenRow | None:
        async def body(db: aiosqlite.Connection) -> TokenRow | None:
            found = await rows_of(db, "SELECT id, exposed_at FROM tokens WHERE jti_digest = ?", (jti_digest,))
            if not found:
                return await end_earlier(db, jti_digest, when(rotate_by))
            token_id, exposed_at = found[0]
            if exposed_at is None:
                values = {
                    "id": token_id, "ids": as_json([token_id]), "at": when(at), "rotate_by": when(rotate_by)
                }  # fmt: skip
                await rows_of(db, EXPOSE, values)
                await bump(db)
            return await one_token(db, token_id)

        return await self._write("mark_exposed", body)

    async def add_uses(self, uses: Sequence[Use], *, source: str, number: int) -> None:
        if self._closed:
            raise Problem("store-unavailable")
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._uses.add(uses, source, number, int(self._clock()))
        except _FAULTS as error:
            raise _unavailable("add_uses", error) from None

    async def uses(self, token_ids: Sequence[str], *, now: float) -> dict[str, UseRow]:
        ids = [bindable(token_id) for token_id in token_ids[:MAX_PAGE]]
        try:
            async with asyncio.timeout(self._deadline_s):
                return {} if self._closed or not ids else await self._uses.of(ids, int(now))
        except _FAULTS as error:
            _unavailable("uses", error)
            return {}

    # --- personal records of a day

    async def take_records(self, token_id: str, count: int, *, at: int) -> int | None:
        values = records.of(bindable(token_id), when(at), count)
        return await self._write("take_records", lambda db: records.take(db, values))

    async def give_records_back(self, token_id: str, count: int, *, at: int) -> None:
        values = records.of(bindable(token_id), when(at), count)
        await self._write("give_records_back", lambda db: records.give_back(db, values))

    async def records_left(self, token_id: str, *, at: int) -> int | None:
        values = records.of(bindable(token_id), when(at))
        return await self._read("records_left", records.LEFT, values, records.left)

    # --- signing keys and upstream credentials

    async def signed_with(self, key_id: str, *, now: float) -> KeyUse:
        values = {"key": bindable(key_id), "now": int(now)}
        counted = f"SELECT count(DISTINCT id), max(until) FROM ({SIGNED_WITH})"  # noqa: S608
        some = f"SELECT id FROM ({SIGNED_WITH}) GROUP BY id ORDER BY max(seq) DESC LIMIT {SHOWN}"  # noqa: S608
        live, until = await self._read("signed_with", counted, values, count_and_time)
        return KeyUse(live, until, await self._read("signed_with", some, values, texts))

    async def end_verdicts(self) -> None:
        await self._write("end_verdicts", bump)

    async def set_credential(self, account: str, sealed: bytes, *, at: int) -> None:
        values = (account_key(account), sealed, when(at))

        async def body(db: aiosqlite.Connection) -> None:
            await rows_of(
                db,
                """INSERT INTO credentials (account, sealed, set_at) VALUES (?, ?, ?)
                   ON CONFLICT (account) DO UPDATE SET sealed = excluded.sealed, set_at = excluded.set_at""",
                values,
            )

        await self._write("set_credential", body)

    async def delete_credential(self, account: str) -> bool:
        async def body(db: aiosqlite.Connection) -> bool:
            sql = "DELETE FROM credentials WHERE account = ? RETURNING 1"
            return bool(await rows_of(db, sql, (bindable(account),)))

        return await self._write("delete_credential", body)

    async def credentials(self) -> tuple[CredentialRow, ...]:
        sql = "SELECT account, set_at, sealed FROM credentials ORDER BY account"
        return await self._read("credentials", sql, (), lambda found: tuple(map(credential_row, found)))

    # --- accounts and users

    async def add_account(self, account: Account) -> None:
        check_account(account)
        await self._write("add_account", lambda db: ensure_account(db, account))

    async def account(self, kind: AccountKind, account_id: str) -> Account | None:
        sql = "SELECT kind, id, network FROM accounts WHERE kind = ? AND id = ?"
        return await self._read("account", sql, (kind, bindable(account_id)), first(account_row))

    async def add_user(
        self, email: str, account: Account, role: Role, administrator: bool = False
    ) -> UserRow:
        user, _ = await self.people.add(email, account, role, administrator)
        return user

    async def user(self, user_id: str) -> UserRow | None:
        return await self._read("user", USER_BY_ID, (bindable(user_id),), first(user_row))

    async def user_by_email(self, email: str) -> UserRow | None:
        sql = f"SELECT {USER} FROM {USERS} WHERE u.email = ?"  # noqa: S608
        return await self._read("user_by_email", sql, (bindable(folded(email)),), first(user_row))

    async def list_users(
        self, *, network: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[UserRow]:
        where = ["a.network = :network"] if network is not None else []
        values: dict[str, Any] = {"network": bindable(network or ""), "limit": page_limit(limit) + 1}
        if after is not None:
            place = f"SELECT u.seq FROM {USERS} WHERE " + " AND ".join(["u.id = :after", *where])  # noqa: S608
            values["seq"] = await self._place("list_users", place, values | {"after": bindable(after)})
            where.append("u.seq < :seq")
        filters = " AND ".join(where) or "1"
        sql = f"SELECT {USER} FROM {USERS} WHERE {filters} ORDER BY u.seq DESC LIMIT :limit"  # noqa: S608
        rows = await self._read("list_users", sql, values, lambda found: list(map(user_row, found)))
        return _page(rows, limit)

    async def set_user(
        self,
        user_id: str,
        *,
        active: bool | None = None,
        role: Role | None = None,
        administrator: bool | None = None,
        account: Account | None = None,
    ) -> UserRow | None:
        return await self.people.change(
            user_id, active=active, role=role, administrator=administrator, account=account
        )

    # --- the store itself

    async def set_password(self, user_id: str, password_hash: str) -> bool:
        values = (bindable(password_hash), bindable(user_id))

        async def body(db: aiosqlite.Connection) -> bool:
            return bool(
                await rows_of(db, "UPDATE users SET password_hash = ? WHERE id = ? RETURNING 1", values)
            )

        return await self._write("set_password", body)

    def epoch(self) -> int:
        return self._epoch.get()

    async def refresh(self) -> None:
        self._epoch.set(await self.generation())

    async def generation(self) -> int:
        return await self._read("generation", GENERATION, (), number, db=self._finder)

    async def ping(self) -> None:
        await self._read("ping", GENERATION, (), number)

    async def _read(
        self,
        operation: str,
        sql: str,
        values: Sequence[Any] | dict[str, Any],
        parse: Callable[[list[Row]], T],
        *,
        db: aiosqlite.Connection | None = None,
    ) -> T:
        db = db or self._reader
        if self._closed:
            raise Problem("store-unavailable")
        try:
            async with asyncio.timeout(self._deadline_s):
                rows = await rows_of(db, sql, values)
            return parse(rows)
        except TimeoutError as error:
            # Whoever is queued behind began later: this cuts short only what is over its time itself.
            if not self._closed:
                await db.interrupt()
            raise _unavailable(operation, error) from None
        except _FAULTS as error:
            raise _unavailable(operation, error) from None

    async def _place(self, operation: str, sql: str, values: dict[str, Any]) -> int:
        rows = await self._read(operation, sql, values, list)
        if not rows:
            raise Problem("invalid-input", "The page asked for does not follow any row of this list")
        return int(rows[0][0])

    async def _write(self, operation: str, body: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """`body` in one transaction: committed when this returns, undone when it raises.

        The one doubt is a deadline, or a cancellation, that falls into COMMIT itself: then it is done or
        undone, never half, and the waiting side was told nothing or "store-unavailable".
        """
        if self._closed:
            raise Problem("store-unavailable")
        db = self._writer
        try:
            async with asyncio.timeout(self._deadline_s), self._writing:
                try:
                    if db.in_transaction:  # an earlier ROLLBACK could not be waited for
                        await db.rollback()
                    await db.execute_fetchall("BEGIN IMMEDIATE")
                    result = await body(db)
                    generation = number(await rows_of(db, GENERATION, ()))
                    await db.execute_fetchall("COMMIT")
                except BaseException:
                    await _roll_back(db)
                    raise
                self._epoch.set(generation)  # before anybody is told
                return result
        except _FAULTS as error:
            raise _unavailable(operation, error) from None


async def _roll_back(db: aiosqlite.Connection) -> None:
    """End the transaction, if one is open. Waits a moment only: it is queued, and so will come first."""
    try:
        async with asyncio.timeout(ROLLBACK_S):
            await db.rollback()
    except (sqlite3.Error, TimeoutError) as error:
        log.error("store-rollback cause=%r", cause(error))


def _deletion(by: str, reason: str, at: int) -> dict[str, Any]:
    return {"by": by, "reason": reason, "inherited": CHILD_REASON, "at": at}


# --- the file


def _private_file(path: Path) -> Path:
    """The database file, absolute, existing and of mode 0600, which the files beside it get from it."""
    path = path.absolute()  # SQLite reads some relative names, such as ":memory:", as something else
    # By path alone: closing a handle of a file drops the locks SQLite holds on it elsewhere in this process.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not path.is_file():
            raise Refused("is not a file") from None
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    return path


async def _connect(path: Path, busy_timeout_s: float, *, writes: bool) -> aiosqlite.Connection:
    db = await aiosqlite.connect(str(path), isolation_level=None, timeout=busy_timeout_s)
    try:
        await db.execute_fetchall("PRAGMA trusted_schema = OFF")
        await db.execute_fetchall("PRAGMA foreign_keys = ON")
        if writes:
            await _use_wal(db, busy_timeout_s)
            await db.execute_fetchall("PRAGMA synchronous = FULL")
            await db.execute_fetchall("PRAGMA secure_delete = ON")  # what is erased is overwritten
        else:
            await db.execute_fetchall("PRAGMA query_only = ON")
    except BaseException:
        await db.close()
        raise
    return db


async def _use_wal(db: aiosqlite.Connection, busy_timeout_s: float) -> None:
    # SQLite does not wait for a lock in this one statement, so two first starts at once are ours to settle.
    give_up = time.monotonic() + busy_timeout_s
    while True:
        try:
            mode = await rows_of(db, "PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorcode", -1) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.02)
    if mode[0][0] != "wal":
        raise Refused("lies where SQLite cannot use a write-ahead log, such as a network share")


def _page(rows: list[Any], limit: int) -> Page[Any]:
    """One row more than asked for was read: it says whether there is a next page."""
    kept = tuple(rows[: page_limit(limit)])
    return Page(kept, kept[-1].id if len(rows) > len(kept) else None)
