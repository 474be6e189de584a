"""People signing in: a password into a session, a session into a Principal, a one-time code into a new password.

A session is 256 random bits in a cookie, looked up in the store with every request: ending it, or disabling its
user, ends it at the next one. Its CSRF token is derived from it, and so is bound to it and kept nowhere.

Attempts are slowed for each e-mail address and each client network; from a network where somebody signed in before,
others' failures at their address do not count against them. Who is unknown, disabled or wrong gets one and the same
answer after the same work.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.config import SignIn as Settings
from gateway.model import SCOPES, AuditEvent, Clock, Owner, Principal
from gateway.passwords import Passwords, refuse_weak
from gateway.problem import Problem
from gateway.ratelimit import RateLimit, client_network
from gateway.store import NewCode, NewSession, Purpose, SessionRow, Store, UserRow, folded

CODE_S = 86_400
TOUCH_S = 60
FORM = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""How a session and a code are written: 32 random bytes in base64url."""
MAX_KNOWN = 16_384
log = logging.getLogger("gateway.signin")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody who is signed in: their session, who they are now, and what only their browser has."""

    session: SessionRow
    user: UserRow
    text: str = field(repr=False)

    @property
    def csrf_token(self) -> str:
        """What a request by this session has to carry beside the cookie. Says nothing about the session itself."""
        return _b64(hmac.digest(self.text.encode(), b"invoca-gateway csrf", "sha256"))

    @property
    def owner(self) -> Owner:
        return owner_of(self.user)

    @property
    def principal(self) -> Principal:
        """Who is asking. Nothing bounds what they make but what they may do themselves."""
        return Principal(
            self.session.id,
            self.owner,
            frozenset(SCOPES),
            self.session.ends_at,
            bootstrap=True,
            signed_in=True,
        )


class SignIn:
    """Opens, proves and ends sessions. `clock` is in UTC seconds, `monotonic` for the slow-down."""

    def __init__(
        self,
        store: Store,
        passwords: Passwords,
        settings: Settings,
        clock: Clock,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._idle_s = settings.idle_minutes * 60
        self._longest_s = settings.longest_hours * 3600
        self._clock = clock
        self._attempts = Attempts(settings, monotonic)

    async def open(self, email: str, password: str, event: AuditEvent, before: str | None) -> SignedIn:
        """A new session; the one presented with the request, if there was one, ends for it.

        Raises: Problem "sign-in-failed", the same for everybody; "rate-limited", "overloaded".
        """
        attempt = self._attempts.begin(email, event.client)
        found = await self._store.people.password_of(email)
        if found is not None:
            event.subject = found[0].id  # whom it was tried for; who tried is not known
        user, kept = found or (None, None)
        proven = await self._passwords.proves(password, kept)
        if user is None or kept is None or not proven or not user.active:
            raise Problem("sign-in-failed")
        text, session = self._new_session(before)
        row = await self._store.people.sign_in(user.id, password_hash=kept, session=session)
        if row is None:  # disabled, or another password, since it was proven
            raise Problem("sign-in-failed")
        self._attempts.succeeded(attempt)
        if self._passwords.outdated(kept):
            await self._rehash(user, password, kept)
        return SignedIn(row, user, text)

    async def prove(self, text: str) -> SignedIn:
        """Whose session a cookie is. Raises: Problem "invalid-session"."""
        found = await self._store.people.session(digest(text))
        now = self._clock()
        if found is None:
            raise Problem("invalid-session")
        session, user = found
        if not user.active or now >= min(session.ends_at, session.seen_at + self._idle_s):
            raise Problem("invalid-session")
        if now - session.seen_at >= min(TOUCH_S, self._idle_s / 2):
            await self._touch(text, int(now))
        return SignedIn(session, user, text)

    async def close(self, text: str) -> None:
        """End a session."""
        await self._store.people.end_session(digest(text))

    async def change_password(self, who: SignedIn, old: str, new: str, event: AuditEvent) -> SignedIn:
        """A new password for who knows the old one; every session of theirs ends, and a new one begins.

        Raises: Problem "sign-in-failed" for a wrong old one; "invalid-input", "rate-limited", "overloaded".
        """
        refuse_weak(new, who.user.email)
        attempt = self._attempts.begin(who.user.email, event.client)
        found = await self._store.people.password_of(who.user.email)
        kept = None if found is None else found[1]
        if not await self._passwords.proves(old, kept) or kept is None:
            raise Problem("sign-in-failed", "The old password is not the one you have.")
        text, session = self._new_session(None)
        row = await self._store.people.change_password(
            who.user.id, old_hash=kept, new_hash=await self._passwords.hash(new), session=session
        )
        if row is None:
            raise Problem("sign-in-failed", "The old password is not the one you have.")
        self._attempts.succeeded(attempt)
        return SignedIn(row, who.user, text)

    async def use_code(self, code: str, new: str, event: AuditEvent) -> UserRow:
        """Set a password by a one-time code. It ends every session, so that whoever had one signs in again.

        Raises: Problem "invalid-code", the same for unknown, used and expired ones; "invalid-input".
        """
        self._attempts.spend_network(event.client)
        user = await self._store.people.code(digest(code))
        if user is None:
            raise Problem("invalid-code")
        event.subject = user.id
        refuse_weak(new, user.email)
        password_hash = await self._passwords.hash(new)
        used = await self._store.people.use_code(digest(code), password_hash=password_hash)
        if used is None:  # somebody else was faster
            raise Problem("invalid-code")
        return used

    def _new_session(self, before: str | None) -> tuple[str, NewSession]:
        text = new_secret()
        instead_of = None if before is None else digest(before)
        return text, NewSession(digest(text), int(self._clock()) + self._longest_s, instead_of)

    async def _touch(self, text: str, now: int) -> None:
        try:
            await self._store.people.touch(digest(text), at=now)
        except Problem:  # logged by the store; at worst the session ends a minute early
            pass

    async def _rehash(self, user: UserRow, password: str, kept: str) -> None:
        try:
            new_hash = await self._passwords.hash(password)
            await self._store.people.rehash(user.id, password_hash=kept, new_hash=new_hash)
        except Problem as problem:  # the sign-in stands; the next one tries again
            log.warning("password-rehash: user %s: %s", user.id, problem.kind)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt was counted under."""

    address: str
    network: str

    @property
    def pair(self) -> str:
        return f"{self.address} {self.network}"


class Attempts:
    """How often passwords are tried: for each address, and from each client network, in one process.

    An attempt that succeeds is not counted. Where it came from is remembered: from there somebody may try at their
    own rate, so that nobody keeps them out by failing at their address from elsewhere.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float]) -> None:
        self._of_address = RateLimit("sign-in", settings.attempts_per_minute, monotonic)
        self._of_network = RateLimit("sign-in", settings.attempts_per_minute_of_network, monotonic)
        self._known: dict[str, None] = {}

    def begin(self, email: str, client: str) -> Attempt:
        """Count one. Raises: Problem "rate-limited"."""
        # Digests: what is typed as an address can be a password, and is of any length.
        attempt = Attempt(hashlib.sha256(folded(email).encode()).hexdigest(), client_network(client))
        self._of_network.spend(attempt.network)
        self._of_address.spend(self._key(attempt))
        return attempt

    def spend_network(self, client: str) -> None:
        """Count one that names no address. Raises: Problem "rate-limited"."""
        self._of_network.spend(client_network(client))

    def succeeded(self, attempt: Attempt) -> None:
        self._of_network.give_back(attempt.network)
        self._of_address.give_back(self._key(attempt))
        self._known.pop(attempt.pair, None)
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[attempt.pair] = None

    def _key(self, attempt: Attempt) -> str:
        return attempt.pair if attempt.pair in self._known else attempt.address


def owner_of(user: UserRow) -> Owner:
    return Owner(user.id, user.account, user.role, user.administrator)


def new_code(purpose: Purpose, now: float) -> tuple[str, NewCode]:
    """A one-time code's text, to be shown once, and what the store keeps of it. It ends after 24 hours."""
    text = new_secret()
    return text, NewCode(digest(text), purpose, int(now) + CODE_S)


def new_secret() -> str:
    """256 random bits as 43 characters."""
    return secrets.token_urlsafe(32)


def digest(text: str) -> bytes:
    """SHA-256 of a session or code: all that is kept of one."""
    return hashlib.sha256(text.encode()).digest()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
