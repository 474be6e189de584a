"""The store: tokens and people, behind one Protocol. `open_store` is the only way in."""

from __future__ import annotations

from gateway import config
from gateway.model import Clock
from gateway.store.given import allowed_network
from gateway.store.people import FirstToken, NewCode, NewSession, People, Purpose, SessionRow
from gateway.store.rows import (
    MAX_AT_ONCE,
    MAX_DESCRIPTION_CHARS,
    MAX_PAGE,
    MAX_REASON_CHARS,
    MAX_RECORDS,
    MIN_DESCRIPTION_CHARS,
    TOKEN_STATES,
    CredentialRow,
    Kept,
    KeyUse,
    Page,
    Repeated,
    Sealed,
    Store,
    TokenRow,
    TokenState,
    Use,
    UseRow,
    UserRow,
    Which,
    folded,
    new_token_id,
    new_user_id,
)
from gateway.store.sqlite import SqliteStore

__all__ = [
    "MAX_AT_ONCE",
    "MAX_DESCRIPTION_CHARS",
    "MAX_PAGE",
    "MAX_REASON_CHARS",
    "MAX_RECORDS",
    "MIN_DESCRIPTION_CHARS",
    "TOKEN_STATES",
    "CredentialRow",
    "FirstToken",
    "Kept",
    "KeyUse",
    "NewCode",
    "NewSession",
    "Page",
    "People",
    "Purpose",
    "Repeated",
    "Sealed",
    "SessionRow",
    "Store",
    "TokenRow",
    "TokenState",
    "Use",
    "UseRow",
    "UserRow",
    "Which",
    "allowed_network",
    "folded",
    "new_token_id",
    "new_user_id",
    "open_store",
]


async def open_store(settings: config.Store, clock: Clock) -> Store:
    """The store at `settings.path`, created and migrated when it has to be. Close it: it owns threads.

    Open it once per process and after any fork: SQLite forbids carrying a connection over one.
    Raises: ConfigError, when the file cannot be used.
    """
    return await SqliteStore.open(settings, clock)
