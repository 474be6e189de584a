"""Making a token, or a new secret for one: the row in the store first, then the signature over what the store wrote.

The one place that sees a `jti`: it goes into the token and, as its SHA-256, into the store. The token's text is
returned once and kept nowhere. An answer that may be lost is not kept either: its `jti` is, for a minute, sealed
under a key that only who asked has (`once.py`), and what was signed before is signed again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from gateway import tokens
from gateway.model import Account, Clock, Role
from gateway.once import KEPT_S, Once
from gateway.problem import Problem
from gateway.store import FirstToken, Repeated, Sealed, Store, TokenRow, UserRow
from gateway.store.keys import LiveKeys

ERASE_S = 5.0
FIRST_S = 3600


@dataclass(frozen=True, slots=True)
class Issuer:
    """Makes tokens with the key that signs now, for one `public_url`, into one store. `clock` is in UTC seconds."""

    store: Store
    keys: LiveKeys
    public_url: str
    clock: Clock = time.time

    @property
    def keyring(self) -> tokens.Keyring:
        return self.keys.ring

    async def create(
        self,
        *,
        owner_id: str,
        description: str,
        scopes: Iterable[str],
        expires_at: int,
        made_by: str | None = None,
        outlives_maker: bool = False,
        bootstrap: bool = False,
        accounts: Iterable[str] | None = None,
        networks: Iterable[str] | None = None,
        not_before: int | None = None,
        personal_records_per_day: int | None = None,
        once: Once | None = None,
    ) -> tuple[TokenRow, str]:
        """A new token's row and its text. The same `once` again gives the same text, once more.

        Raises: the Problems of `Store.create_token`; "answer-gone", "idempotency-key-reused".
        """
        await self.keys.refresh()
        jti, keyring = tokens.new_jti(), self.keyring  # the row names the very key that signs
        try:
            row = await self.store.create_token(
                jti_digest=tokens.jti_digest(jti),
                owner_id=owner_id,
                description=description,
                scopes=scopes,
                expires_at=expires_at,
                made_by=made_by,
                outlives_maker=outlives_maker,
                bootstrap=bootstrap,
                accounts=accounts,
                networks=networks,
                not_before=not_before,
                personal_records_per_day=personal_records_per_day,
                key_id=keyring.current.kid,
                sealed=self._sealed(once, jti, keyring),
            )
        except Repeated:
            return await self._again(once)
        return row, self._text(keyring, row, jti, row.issued_at, row.expires_at)

    async def first(
        self, email: str, account: Account, role: Role, administrator: bool
    ) -> tuple[UserRow, TokenRow, str]:
        """A new user with the one token that its owner did not make: for an hour it stands for their sign-in.

        Raises: the Problems of `People.add`.
        """
        await self.keys.refresh()
        jti, keyring = tokens.new_jti(), self.keyring
        first = FirstToken(tokens.jti_digest(jti), int(self.clock()) + FIRST_S, keyring.current.kid)
        user, row = await self.store.people.add(email, account, role, administrator, first=first)
        assert row is not None
        return user, row, self._text(keyring, row, jti, row.issued_at, row.expires_at)

    async def rotate(
        self, token_id: str, *, owner_id: str, expires_at: int, overlap_s: int, once: Once | None = None
    ) -> tuple[TokenRow, str]:
        """The row and the new text of an owner's token; the same `once` again as in `create`.

        Raises: the Problems of `Store.rotate_token`; "not-found", "answer-gone", "idempotency-key-reused".
        """
        await self.keys.refresh()
        jti, keyring = tokens.new_jti(), self.keyring
        try:
            row = await self.store.rotate_token(
                token_id,
                owner_id=owner_id,
                jti_digest=tokens.jti_digest(jti),
                expires_at=expires_at,
                overlap_s=overlap_s,
                key_id=keyring.current.kid,
                sealed=self._sealed(once, jti, keyring),
            )
        except Repeated:
            return await self._again(once)
        if row is None:
            raise Problem("not-found", "There is no such token.")
        return row, self._text(keyring, row, jti, row.issued_at, row.expires_at)

    async def watch(self) -> None:
        """Erase what was kept of answers, when its minute is over."""
        while True:
            try:
                await self.store.erase_sealed()
            except Problem:  # logged by the store; sealed it stays in any case
                pass
            await asyncio.sleep(ERASE_S)

    def _sealed(self, once: Once | None, jti: str, keyring: tokens.Keyring) -> Sealed | None:
        if once is None:
            return None
        text = once.seal(f"{keyring.current.kid} {jti}")
        return Sealed(once.lookup, once.binding, text, int(self.clock()) + KEPT_S)

    async def _again(self, once: Once | None) -> tuple[TokenRow, str]:
        kept = None if once is None else await self.store.take(once.lookup, once.binding)
        row = None if kept is None else await self.store.token(kept.token_id)
        if once is None or kept is None or row is None:
            raise Problem("answer-gone")
        if kept.text is None:
            raise Problem(
                "answer-gone",
                "It was given again, or its 60 seconds are over: rotate or delete the token it was about.",
                id=row.id,
            )
        keyring = self.keyring
        try:
            kid, _, jti = once.open(kept.text).partition(" ")
        except ValueError:
            raise Problem("answer-gone", id=row.id) from None
        if (
            kid != keyring.current.kid
        ):  # another key would make another token, of which the store knows nothing
            raise Problem("answer-gone", "The signing key was replaced since.", id=row.id)
        return row, self._text(keyring, row, jti, kept.issued_at, kept.expires_at)

    def _text(self, keyring: tokens.Keyring, row: TokenRow, jti: str, issued_at: int, expires_at: int) -> str:
        return tokens.mint(
            keyring,
            issuer=self.public_url,
            audience=self.public_url,
            owner_id=row.owner_id,
            token_id=row.id,
            jti=jti,
            issued_at=issued_at,
            expires_at=expires_at,
            scopes=row.scopes,
        )
