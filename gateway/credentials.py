"""The upstream credentials in use: from environment, file or the encrypted store, and kept up to date.

What the configuration names comes first; the store serves the accounts that it does not name. Twice a second it is
all read again, so that a credential is replaced without a restart. One that cannot be read any more stays in use as
it was, with an alarm; one that was deleted does not. None is ever in a log, an error or the repr of anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.config import Config, Secret
from gateway.model import Account
from gateway.problem import Problem
from gateway.store import CredentialRow, Store
from gateway.store.sealing import SealingKey, read_key
from gateway.tomlfile import ConfigError, Fault

WATCH_S = 0.5
NO_KEY = "store.credential_key is not set, and what the store keeps cannot be opened without it"
log = logging.getLogger("gateway.credentials")


@dataclass(slots=True)
class Credentials:
    """The real upstream tokens, by account key; and whether a network's may serve those under it."""

    by_account: Mapping[str, str] = field(repr=False)
    lend_network: bool

    def of(self, account: Account) -> str:
        """The credential for an account. Raises: Problem "no-upstream-credential"; never somebody else's."""
        own = self.by_account.get(account.key)
        if own is None and self.lend_network:
            own = self.by_account.get(f"network:{account.network}")
        if own is None:
            raise Problem(
                "no-upstream-credential", f"No upstream credential is configured for {account.key}."
            )
        return own


@dataclass(frozen=True, slots=True)
class Found:
    """What one look found: credentials and faults, each by account key. A fault says why, never what."""

    credentials: dict[str, str] = field(repr=False)
    faults: dict[str, str]


def configured(secrets: Mapping[str, Secret]) -> Found:
    """What the configuration names, read from there."""
    found, faults = {}, {}
    for account, secret in secrets.items():
        try:
            found[account] = secret.value()
        except LookupError as error:
            faults[account] = str(error.args[0])
    return Found(found, faults)


def opened(rows: tuple[CredentialRow, ...], place: Secret | None) -> Found:
    """What the store keeps, opened with the key at a place."""
    found: dict[str, str] = {}
    faults: dict[str, str] = {}
    key: SealingKey | None = None
    why = NO_KEY
    try:
        key = None if place is None or not rows else read_key(place)
    except LookupError as error:
        why = str(error.args[0])
    for row in rows:
        try:
            if key is None:
                raise ValueError(why)
            found[row.account] = key.open(row.account, row.sealed)
        except ValueError as error:
            faults[row.account] = str(error)
    return Found(found, faults)


class LiveCredentials:
    """Keeps `credentials` as they are now. Made by `open`. `alarms` counts credentials that became unusable.

    `on_change` is called after the credentials in use have become others.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self.credentials = Credentials({}, config.upstream.lend_network_credential)
        self.alarms = 0
        self.on_change: Callable[[], None] = lambda: None
        self._configured = config.upstream.credentials
        self._key = config.store.credential_key
        self._store = store
        self._faults: dict[str, str] = {}

    @classmethod
    async def open(cls, config: Config, store: Store) -> LiveCredentials:
        """Raises: ConfigError naming each credential, and the key, that cannot be used."""
        made = cls(config, store)
        found = await made._look()
        faults = [
            Fault("configuration", 0, f"upstream.credentials.{it}", text) for it, text in found.faults.items()
        ]
        if made._key is not None:
            try:
                read_key(made._key)
            except LookupError as error:
                faults.append(Fault("configuration", 0, "store.credential_key", str(error.args[0])))
        if faults:
            raise ConfigError(faults)
        made.credentials.by_account = found.credentials
        return made

    async def watch(self) -> None:
        """Look twice a second."""
        while True:
            await asyncio.sleep(WATCH_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Use what is there now."""
        try:
            found = await self._look()
        except Problem:  # logged by the store; all stays as it is
            return
        known = self.credentials.by_account
        for account, text in found.faults.items():
            if self._faults.get(account) != text:
                self.alarms += 1
                log.error("credential-unusable: the one from before stays in use for %s: %s", account, text)
        self._faults = found.faults
        now = {account: known[account] for account in found.faults if account in known} | found.credentials
        if now != known:
            changed = sorted(it for it in now.keys() | known.keys() if now.get(it) != known.get(it))
            self.credentials.by_account = now
            log.info("credentials-changed: %s", ", ".join(changed))
            self.on_change()

    async def _look(self) -> Found:
        """Raises: Problem "store-unavailable"."""
        rows = await self._store.credentials()
        return await asyncio.to_thread(self._read, rows)

    def _read(self, rows: tuple[CredentialRow, ...]) -> Found:
        named = configured(self._configured)
        kept = opened(tuple(row for row in rows if row.account not in self._configured), self._key)
        return Found(named.credentials | kept.credentials, named.faults | kept.faults)
