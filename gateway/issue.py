"""Making a token: the row in the store first, then the signature over what the store wrote.

The one place that sees a `jti`: it goes into the token and, as its SHA-256, into the store. The token's text is
returned once and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway import tokens
from gateway.store import Store, TokenRow
from gateway.store.keys import LiveKeys


@dataclass(frozen=True, slots=True)
class Issuer:
    """Makes tokens with the key that signs now, for one `public_url`, into one store."""

    store: Store
    keys: LiveKeys
    public_url: str

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
    ) -> tuple[TokenRow, str]:
        """A new token's row and its text. Raises: the Problems of `Store.create_token`."""
        await self.keys.refresh()
        jti, keyring = tokens.new_jti(), self.keyring  # the row names the very key that signs
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
            key_id=keyring.current.kid,
        )
        text = tokens.mint(
            keyring,
            issuer=self.public_url,
            audience=self.public_url,
            owner_id=row.owner_id,
            token_id=row.id,
            jti=jti,
            issued_at=row.created_at,
            expires_at=row.expires_at,
            scopes=row.scopes,
        )
        return row, text
