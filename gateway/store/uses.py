"""Last uses, in a file of their own beside the store's: whoever writes tokens never waits for whoever counts.

What is in it can be lost without harm, and nothing is decided by it: no commit waits for the disk, and a file that
was thrown away is made anew. Each connection has a thread; what is read, added and written back is so within one
transaction, so that processes add up.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from gateway.store.decode import Row, tally, use_row
from gateway.store.migrations import Refused
from gateway.store.rows import Use, UseRow
from gateway.store.tally import DAY_S, DAYS, HOUR_S, HOURS, Tally

T = TypeVar("T")
# Changed only together with the number: a file of another one is a file of another version.
VERSION = 1
_TABLES = (
    """
    CREATE TABLE uses (
        token_id   TEXT PRIMARY KEY,
        at         INTEGER NOT NULL,
        network    TEXT NOT NULL,
        operation  TEXT NOT NULL,
        earlier_at INTEGER,
        hours      BLOB NOT NULL,
        days       BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE sources (
        source TEXT PRIMARY KEY,
        number INTEGER NOT NULL,
        at     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    f"PRAGMA user_version = {VERSION}",
)
_FIND = """
    SELECT token_id, at, network, operation, earlier_at, hours, days FROM uses
    WHERE token_id IN (SELECT value FROM json_each(?))
"""
_NUMBERED = """
    INSERT INTO sources (source, number, at) VALUES (:source, :number, :at)
    ON CONFLICT (source) DO UPDATE SET number = excluded.number, at = excluded.at
        WHERE excluded.number > sources.number
    RETURNING 1
"""
_KEEP = (
    "INSERT OR REPLACE INTO uses VALUES (:token_id, :at, :network, :operation, :earlier_at, :hours, :days)"
)


class Uses:
    """One file of uses. Raises sqlite3.Error, OSError and Unreadable, for the store to translate."""

    def __init__(self, database: Path, busy_timeout_s: float) -> None:
        """Raises: Refused, in words for an operator."""
        path = f"{database}-uses"
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._writer = _connect(path, busy_timeout_s)
            _prepare(self._writer, busy_timeout_s)
            self._reader = _connect(path, busy_timeout_s)
        except (sqlite3.Error, OSError) as error:
            raise Refused(
                f"has a file of last uses beside it that cannot be used ({type(error).__name__}): "
                f"remove {path}, which holds nothing else"
            ) from None
        self._writing, self._reading = (ThreadPoolExecutor(1, f"store-uses-{what}") for what in "wr")

    async def add(self, uses: Sequence[Use], source: str, number: int, now: int) -> None:
        await _in(self._writing, lambda: self._add(uses, source, number, now))

    async def of(self, token_ids: Sequence[str], now: int) -> dict[str, UseRow]:
        rows = await _in(self._reading, lambda: _found(self._reader, token_ids))
        return dict(use_row(row, now) for row in rows)

    async def close(self) -> None:
        for thread, db in ((self._writing, self._writer), (self._reading, self._reader)):
            await _in(thread, db.close)
            thread.shutdown(wait=False)

    def _add(self, uses: Sequence[Use], source: str, number: int, now: int) -> None:
        db = self._writer
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute(_NUMBERED, {"source": source, "number": number, "at": now}).fetchall():
                # Row by row, so that the interpreter is never held for a whole batch.
                db.executemany(_KEEP, self._merged(uses))
                db.execute("DELETE FROM sources WHERE at < ?", (now - DAY_S,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _merged(self, uses: Sequence[Use]) -> Iterator[dict[str, Any]]:
        kept = {row[0]: row for row in _found(self._writer, [use.token_id for use in uses])}
        for use in uses:
            yield merged(use, kept.get(use.token_id))


def merged(use: Use, kept: Row | None) -> dict[str, Any]:
    """The columns of a token's row with what one process saw. The last use only goes forward in time."""
    _, at, network, operation, earlier_at, hours, days = kept or (None, -1, "", "", None, None, None)
    if use.at >= at:
        at, network, operation = use.at, use.network, use.operation
    if use.earlier_at is not None:
        earlier_at = max(use.earlier_at, earlier_at or 0)
    in_hours = Tally.none(HOURS) if hours is None else tally(hours)
    in_days = Tally.none(DAYS) if days is None else tally(days)
    return {
        "token_id": use.token_id,
        "at": at,
        "network": network,
        "operation": operation,
        "earlier_at": earlier_at,
        "hours": in_hours.add(use.at // HOUR_S, use.count).pack(),
        "days": in_days.add(use.at // DAY_S, use.count).pack(),
    }


def _found(db: sqlite3.Connection, token_ids: Sequence[str]) -> list[Row]:
    return db.execute(_FIND, (json.dumps(token_ids),)).fetchall()


async def _in(thread: ThreadPoolExecutor, act: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, act)


def _connect(path: str, busy_timeout_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=busy_timeout_s, check_same_thread=False)
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _prepare(db: sqlite3.Connection, busy_timeout_s: float) -> None:
    give_up = time.monotonic() + busy_timeout_s
    while True:  # as in `sqlite.py`: this one statement does not wait for a lock by itself
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
    db.execute("BEGIN IMMEDIATE")
    ((version,),) = db.execute("PRAGMA user_version")
    if version not in (0, VERSION):
        raise sqlite3.NotSupportedError("of another version")
    for statement in _TABLES if version == 0 else ():
        db.execute(statement)
    db.execute("COMMIT")
