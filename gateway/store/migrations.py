"""The steps from an empty file to today's tables: numbered, applied in order, never edited once released.

A step runs in one transaction with its number, so a crash leaves the step before or the step after. The number
is read again inside the transaction, so of two processes starting at once one applies and the other finds it
applied. A new step is a new entry at the end of STEPS.
"""

from __future__ import annotations

import aiosqlite

APPLICATION_ID = 0x49564754  # "IVGT": a file that has another one, or tables without one, is not ours

STEPS: tuple[tuple[str, ...], ...] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        """
        CREATE TABLE generation (
            one   INTEGER PRIMARY KEY CHECK (one = 1),
            value INTEGER NOT NULL
        ) STRICT
        """,
        "INSERT INTO generation (one, value) VALUES (1, 1)",
        """
        CREATE TABLE accounts (
            kind    TEXT NOT NULL CHECK (kind IN ('network', 'advertiser', 'affiliate')),
            id      TEXT NOT NULL CHECK (length(id) BETWEEN 1 AND 128),
            network TEXT NOT NULL CHECK (length(network) BETWEEN 1 AND 128),
            PRIMARY KEY (kind, id),
            CHECK (kind <> 'network' OR network = id)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX accounts_by_network ON accounts (network)",
        """
        CREATE TABLE users (
            seq           INTEGER PRIMARY KEY,
            id            TEXT NOT NULL UNIQUE CHECK (id GLOB 'usr_*'),
            email         TEXT NOT NULL UNIQUE CHECK (length(email) BETWEEN 3 AND 254),
            account_kind  TEXT NOT NULL,
            account_id    TEXT NOT NULL,
            role          TEXT NOT NULL CHECK (role IN ('super', 'manager', 'member', 'observer')),
            administrator INTEGER NOT NULL CHECK (administrator IN (0, 1)),
            active        INTEGER NOT NULL CHECK (active IN (0, 1)),
            password_hash TEXT CHECK (password_hash GLOB '$argon2id$*'),
            created_at    INTEGER NOT NULL CHECK (created_at >= 0),
            FOREIGN KEY (account_kind, account_id) REFERENCES accounts (kind, id)
        ) STRICT
        """,
        "CREATE INDEX users_by_account ON users (account_kind, account_id)",
        # `network` repeats the network of the owner's account, and is kept in step by the one statement that
        # moves a user: without it a network's list would sort all its tokens for every page.
        # `seq` is the order of creation, whatever the clock did.
        """
        CREATE TABLE tokens (
            seq            INTEGER PRIMARY KEY,
            id             TEXT NOT NULL UNIQUE CHECK (id GLOB 'tok_*'),
            jti_digest     BLOB NOT NULL UNIQUE CHECK (length(jti_digest) = 32),
            owner_id       TEXT NOT NULL REFERENCES users (id),
            network        TEXT NOT NULL CHECK (length(network) BETWEEN 1 AND 128),
            description    TEXT NOT NULL CHECK (length(description) BETWEEN 3 AND 120),
            folded         TEXT NOT NULL CHECK (length(folded) > 0),
            scopes         TEXT NOT NULL CHECK (length(scopes) > 0),
            created_at     INTEGER NOT NULL CHECK (created_at >= 0),
            expires_at     INTEGER NOT NULL CHECK (expires_at > created_at),
            paused_at      INTEGER,
            exposed_at     INTEGER CHECK (exposed_at IS NULL OR rotate_by IS NOT NULL),
            rotate_by      INTEGER,
            deleted_at     INTEGER CHECK ((deleted_at IS NULL) = (deleted_by IS NULL)),
            deleted_by     TEXT,
            delete_reason  TEXT CHECK ((deleted_at IS NULL) = (delete_reason IS NULL)),
            made_by        TEXT REFERENCES tokens (id),
            outlives_maker INTEGER NOT NULL CHECK (outlives_maker IN (0, 1)),
            bootstrap      INTEGER NOT NULL CHECK (bootstrap IN (0, 1)),
            accounts       TEXT,
            networks       TEXT
        ) STRICT
        """,
        "CREATE INDEX tokens_by_owner ON tokens (owner_id, seq)",
        "CREATE INDEX tokens_by_network ON tokens (network, seq)",
        "CREATE INDEX tokens_by_maker ON tokens (made_by) WHERE made_by IS NOT NULL",
        "CREATE INDEX tokens_by_description ON tokens (owner_id, folded) WHERE deleted_at IS NULL",
        # The rare states, so that asking a large network for them does not walk all of its tokens.
        "CREATE INDEX tokens_deleted ON tokens (network, seq) WHERE deleted_at IS NOT NULL",
        "CREATE INDEX tokens_exposed ON tokens (network, seq) WHERE exposed_at IS NOT NULL",
        "CREATE INDEX tokens_paused ON tokens (network, seq) WHERE paused_at IS NOT NULL",
    ),
    # Which key signed which secret, so that it is known when a key may go. Secrets from before have no row here.
    # Upstream credentials, sealed under a key that is not in here (`sealing.py`).
    (
        """
        CREATE TABLE signatures (
            jti_digest BLOB PRIMARY KEY CHECK (length(jti_digest) = 32),
            key_id     TEXT NOT NULL CHECK (key_id GLOB 'ivg-*')
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE credentials (
            account TEXT PRIMARY KEY CHECK (length(account) BETWEEN 3 AND 160),
            sealed  BLOB NOT NULL CHECK (length(sealed) > 28),
            set_at  INTEGER NOT NULL CHECK (set_at >= 0)
        ) STRICT, WITHOUT ROWID
        """,
    ),
    (
        "ALTER TABLE tokens ADD COLUMN not_before INTEGER CHECK (not_before IS NULL OR not_before < expires_at)",
        "ALTER TABLE tokens ADD COLUMN paused_by TEXT CHECK (paused_by IS NULL OR paused_at IS NOT NULL)",
        "ALTER TABLE tokens ADD COLUMN rotated_at INTEGER",
        # The secret before the last rotation. One before that is gone: a new rotation ends an earlier overlap.
        """
        ALTER TABLE tokens ADD COLUMN earlier_digest BLOB
            CHECK (earlier_digest IS NULL OR length(earlier_digest) = 32)
        """,
        """
        ALTER TABLE tokens ADD COLUMN earlier_until INTEGER
            CHECK ((earlier_until IS NULL) = (earlier_digest IS NULL))
        """,
        """
        CREATE UNIQUE INDEX tokens_by_earlier ON tokens (earlier_digest) WHERE earlier_digest IS NOT NULL
        """,
        # With all that a state is made of, so that a long history is walked without a look at each row.
        "DROP INDEX tokens_by_network",
        """
        CREATE INDEX tokens_by_network
            ON tokens (network, seq, deleted_at, expires_at, rotate_by, paused_at, exposed_at)
        """,
        # `sealed` is a jti that only an Idempotency-Key opens, and NULL once it was given again or is over.
        """
        CREATE TABLE answers (
            lookup     BLOB PRIMARY KEY CHECK (length(lookup) = 32),
            binding    BLOB NOT NULL CHECK (length(binding) = 32),
            sealed     BLOB,
            token_id   TEXT NOT NULL REFERENCES tokens (id),
            issued_at  INTEGER NOT NULL,
            expires_at INTEGER NOT NULL,
            until      INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX answers_by_until ON answers (until)",
        "CREATE INDEX answers_sealed ON answers (until) WHERE sealed IS NOT NULL",
    ),
    # People's sign-ins. `seq` is the order of signing in; one code a user, so that a new one ends the one before.
    (
        """
        CREATE TABLE sessions (
            seq        INTEGER PRIMARY KEY,
            digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
            id         TEXT NOT NULL UNIQUE CHECK (id GLOB 'ses_*'),
            user_id    TEXT NOT NULL REFERENCES users (id),
            created_at INTEGER NOT NULL CHECK (created_at >= 0),
            seen_at    INTEGER NOT NULL CHECK (seen_at >= created_at),
            ends_at    INTEGER NOT NULL CHECK (ends_at > created_at)
        ) STRICT
        """,
        "CREATE INDEX sessions_by_user ON sessions (user_id, seq)",
        "CREATE INDEX sessions_by_end ON sessions (ends_at)",
        """
        CREATE TABLE codes (
            user_id TEXT PRIMARY KEY REFERENCES users (id),
            digest  BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
            purpose TEXT NOT NULL CHECK (purpose IN ('activation', 'reset')),
            ends_at INTEGER NOT NULL CHECK (ends_at >= 0)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX codes_by_end ON codes (ends_at)",
        # Whether a network has an administrator left is asked with every change of one.
        "CREATE INDEX users_at_the_head ON users (account_kind, account_id) WHERE administrator = 1",
    ),
    # How many personal records a token may be given on a day, and was: a row for each of a day and the one before.
    (
        """
        ALTER TABLE tokens ADD COLUMN personal_records_per_day INTEGER
            CHECK (personal_records_per_day IS NULL OR personal_records_per_day > 0)
        """,
        """
        CREATE TABLE given_records (
            token_id TEXT NOT NULL REFERENCES tokens (id),
            day      INTEGER NOT NULL CHECK (day >= 0),
            count    INTEGER NOT NULL CHECK (count >= 0),
            PRIMARY KEY (token_id, day)
        ) STRICT, WITHOUT ROWID
        """,
    ),
)


class Refused(Exception):
    """A file that is not for this code to touch, in words for an operator."""


async def migrate(db: aiosqlite.Connection) -> None:
    """Bring the file to the last step. Raises: Refused, sqlite3.Error; the file is then as it was."""
    while await _step(db):
        pass


async def _step(db: aiosqlite.Connection) -> bool:
    """Apply the next step, if there is one; whether there may be another."""
    await db.execute_fetchall("BEGIN IMMEDIATE")
    try:
        done = await _number(db, "PRAGMA user_version")
        await _recognise(db, done)
        if done < len(STEPS):
            for statement in STEPS[done]:
                await db.execute_fetchall(statement)
            await db.execute_fetchall(f"PRAGMA user_version = {done + 1}")
        await db.execute_fetchall("COMMIT")
    except BaseException:
        await db.rollback()
        raise
    return done + 1 < len(STEPS)


async def _recognise(db: aiosqlite.Connection, done: int) -> None:
    tables = await _number(db, "SELECT count(*) FROM sqlite_schema")
    if await _number(db, "PRAGMA application_id") != (APPLICATION_ID if done else 0) or (tables and not done):
        raise Refused("is a database of some other program")
    if done > len(STEPS):
        raise Refused(
            f"was written by a newer version of the gateway (schema {done}; this one knows {len(STEPS)}): "
            "use that version, or a backup made before the upgrade"
        )


async def _number(db: aiosqlite.Connection, sql: str) -> int:
    return int(next(iter(await db.execute_fetchall(sql)))[0])
