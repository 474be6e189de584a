"""A credential into a Principal: the signature first, then the store; remembered until the store says otherwise.

The store decides whether a token lives: its `jti` has to be there, neither deleted nor paused nor expired, and
its owner active. Role, account and administrator flag are the owner's as they are now, never the token's.
Whoever holds a token that once was valid is told what became of it; everybody else gets one and the same answer.

Sources: RFC 6750 section 3.1, RFC 9068 section 4, RFC 8725; "Manage API Credentials" (a token inherits the
privileges of the user who made it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_network

from gateway import tokens
from gateway.headers import bearer, client_address, within
from gateway.model import Network, Owner, Principal
from gateway.problem import Problem
from gateway.ratelimit import RateLimit, client_network
from gateway.store import Store, TokenRow, UserRow
from gateway.store.keys import LiveKeys
from gateway.verdicts import Queues, Verdict, Verdicts

FATE = {
    "deleted": "The token was deleted.",
    "expired": "The token has expired.",
    "paused": "The token is paused by its owner or an administrator.",
}


SUSPECTS_PER_S, SUSPECTS_AT_ONCE = 50.0, 64
"""How many credentials of one network that guessed wrong too often are verified, at 150 µs of CPU each."""


class Authenticator:
    """Proves who is asking. Holds the keys, the store, the clock, and the slow-down of wrong guesses."""

    def __init__(
        self,
        store: Store,
        keys: LiveKeys,
        public_url: str,
        clock: Callable[[], float],
        failures: RateLimit,
        verdicts: Verdicts,
        trusted_proxies: tuple[Network, ...] = (),
    ) -> None:
        self._store = store
        self._keys = keys
        self._public_url = public_url
        self._clock = clock
        self._failures = failures
        self._verdicts = verdicts
        self._suspects = Queues(SUSPECTS_PER_S, SUSPECTS_AT_ONCE)
        self._trusted_proxies = trusted_proxies

    def client(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """The client's address. Raises: Problem "bad-header" for nonsense from a trusted proxy."""
        if not self._trusted_proxies:
            return peer
        return client_address(peer, forwarded_for, self._trusted_proxies)

    def remembered(self, authorization: str | None, client: str) -> Principal | None:
        """Who holds this credential, without asking anybody: None when only `principal` can tell.

        Raises: Problem "network-not-allowed".
        """
        principal = None if authorization is None else self._verdicts.principal(authorization)
        return None if principal is None else _from_allowed_network(principal, client)

    async def principal(self, authorization: str | None, client: str) -> Principal:
        """Who holds this credential.

        Raises: Problem "no-credential", "invalid-token", "network-not-allowed", "store-unavailable"; and
        "rate-limited" instead of the 401 when a client network has guessed wrong too often.
        """
        known = self.remembered(authorization, client)
        if known is not None:
            return known
        try:
            principal = await self._proven(authorization or "", bearer(authorization), client)
        except Problem as problem:
            if problem.kind in ("invalid-token", "no-credential"):
                self.failed(client)
            raise
        return _from_allowed_network(principal, client)

    def failed(self, client: str) -> None:
        """Count a wrong guess of a client network. Raises: Problem "rate-limited" when there were too many."""
        self._failures.spend(client_network(client))

    async def _proven(self, authorization: str, text: str, client: str) -> Principal:
        """The principal of a token, and remembered. A wrong guess costs its network more than it costs us."""
        epoch = self._store.epoch()  # before the keys and the look-up: what changes after it changes this too
        if self._verdicts.never(text) or not tokens.well_formed(text):
            raise Problem("invalid-token", tokens.REFUSED)
        await self._keys.refresh()
        if not tokens.plausible(
            self._keys.ring, text
        ):  # also where its signature was checked before: keys end
            raise Problem("invalid-token", tokens.REFUSED)
        claims = self._verdicts.claims(authorization)
        if claims is None:
            claimed = None
            if self._failures.spent(client_network(client)):
                claimed = await self._claimed(text)
                if claimed is None or self._failures.spent(claimed):
                    await self._suspects.wait(client_network(client))
            try:
                claims = self._signed(text)
            except Problem:
                self._verdicts.remember_never(text)
                if claimed is not None and not self._failures.spent(claimed):
                    self._failures.spend(claimed)
                raise
        try:
            token, user = await self._live(claims)
        except Problem as problem:
            if problem.kind == "invalid-token":  # a store that cannot answer says nothing about the token
                self._verdicts.forget(authorization)
            raise
        principal = as_principal(token, user)
        self._verdicts.remember(authorization, Verdict(claims, principal, epoch))
        return principal

    async def _claimed(self, text: str) -> str | None:
        """A name for the token that a text claims to be, when there is such a token.

        Nobody guesses its 128 bits, so it is no guess, and waits for nobody's: a valid token is not slowed by others
        who fail. Who has a token may still send it with many a wrong signature; those count against that token alone.
        """
        jti = tokens.claimed_jti(text)
        digest = None if jti is None else tokens.jti_digest(jti)
        return None if digest is None or await self._store.find(digest) is None else f"jti {digest.hex()}"

    async def holder(self, text: str) -> tuple[TokenRow, UserRow]:
        """The live token a text is, and its owner. Raises: Problem "invalid-token" or "store-unavailable"."""
        return await self._live(await self.genuine(text))

    async def genuine(self, text: str) -> tokens.Claims:
        """What a token says that a key of now has signed, live or not. Raises: Problem "invalid-token"."""
        await self._keys.refresh()
        return self._signed(text)

    def _signed(self, text: str) -> tokens.Claims:
        return tokens.verify(self._keys.ring, text, issuer=self._public_url, audience=self._public_url)

    async def _live(self, claims: tokens.Claims) -> tuple[TokenRow, UserRow]:
        found = await self._store.find(tokens.jti_digest(claims.jti))
        if found is None:
            raise Problem("invalid-token", tokens.REFUSED)
        token, user = found
        if token.id != claims.token_id or user.id != claims.owner_id:
            raise Problem("invalid-token", tokens.REFUSED)
        now = self._clock()
        state = "expired" if claims.expired(now) else token.state(now)
        if state == "expired" and token.by_earlier:
            raise Problem("invalid-token", "The token was rotated: use its new secret.")
        if state in FATE:
            raise Problem("invalid-token", FATE[state])
        if token.not_before is not None and now < token.not_before:
            raise Problem("invalid-token", "The token is not valid yet.")
        if not user.active:
            raise Problem("invalid-token", tokens.REFUSED)
        return token, user

    async def mark_exposed(self, text: str, exposed_hours: int) -> str | None:
        """Mark a token of ours that was seen where none belongs; its id, or None when it is not ours."""
        try:
            claims = await self.genuine(text)
        except Problem:
            return None
        digest, now = tokens.jti_digest(claims.jti), int(self._clock())
        rotate_by = now + exposed_hours * 3600
        found = await self._store.find(digest)
        if found is None or found[0].deleted_at is not None or _is_known(found[0], rotate_by):
            return None if found is None else found[0].id  # what is known already costs no write
        row = await self._store.mark_exposed(digest, at=now, rotate_by=rotate_by)
        return None if row is None else row.id


def as_principal(token: TokenRow, user: UserRow) -> Principal:
    """The rows of a live token and its owner as the principal that decisions are made for."""
    return Principal(
        token_id=token.id,
        owner=Owner(user.id, user.account, user.role, user.administrator),
        scopes=frozenset(token.scopes),
        expires_at=token.effective_expiry,
        accounts=None if token.accounts is None else frozenset(token.accounts),
        networks=None if token.networks is None else tuple(ip_network(cidr) for cidr in token.networks),
        bootstrap=token.bootstrap,
        earlier=token.by_earlier,
        personal_records_per_day=token.personal_records_per_day,
    )


def sees(principal: Principal, owner: UserRow) -> bool:
    """Whether somebody may see another user's tokens: their own always, an administrator their network's."""
    if owner.id == principal.owner.id:
        return True
    account = principal.owner.account
    administers = principal.owner.administrator and account.kind == "network"
    return administers and owner.account.network == account.id


def _is_known(token: TokenRow, rotate_by: int) -> bool:
    """Whether marking this secret as exposed would change nothing."""
    if token.by_earlier:
        return token.earlier_until is not None and token.earlier_until <= rotate_by
    return token.exposed_at is not None


def _from_allowed_network(principal: Principal, client: str) -> Principal:
    if principal.networks is not None and not within(client, principal.networks):
        raise Problem("network-not-allowed", "The token may be used from its allowed networks only.")
    return principal
