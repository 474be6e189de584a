"""What the store keeps of people's sign-ins, and the Protocol that every backend keeps.

Nothing here opens anything: of a password its argon2id hash is stored, of a session and of a one-time code the
SHA-256. Both are 256 random bits, so that a digest needs no salt. Times are UTC integer seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from gateway.model import Account, Role
from gateway.store.rows import TokenRow, UserRow

Purpose = Literal["activation", "reset"]


@dataclass(frozen=True, slots=True)
class SessionRow:
    """Somebody's sign-in. `id` names it in records and opens nothing; `ends_at` comes however busy it is."""

    id: str
    user_id: str
    created_at: int
    seen_at: int
    ends_at: int


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be kept: the SHA-256 of its text, and when it ends. `instead_of` is one that ends for it."""

    digest: bytes = field(repr=False)
    ends_at: int
    instead_of: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class NewCode:
    """A one-time code to be kept: the SHA-256 of its text, what it is for, and when it ends."""

    digest: bytes = field(repr=False)
    purpose: Purpose
    ends_at: int


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The token that the operator makes for a user: it stands for their sign-in, for an hour. `key_id` signs it."""

    jti_digest: bytes = field(repr=False)
    expires_at: int
    key_id: str


class People(Protocol):
    """Users as somebody manages them, their passwords, sessions and codes.

    Every method raises Problem "store-unavailable", as `Store` does; each is one transaction.
    """

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
        """A new active user, with their account when it is new too, and what they come in by.

        Raises: Problem "invalid-input" for an address that is none or is taken, or a conflict of networks.
        """

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
        """The user with what is given changed; None for an unknown id, or one that is not in `network`.

        Who is disabled has no session and no code left. Raises: Problem "last-administrator" with `keep_one`, for a
        change after which a network that has an active administrator has none; else as `add`.
        """

    async def password_of(self, email: str) -> tuple[UserRow, str | None] | None:
        """The user with this address and the argon2id hash of their password, if they have set one."""

    async def sign_in(self, user_id: str, *, password_hash: str, session: NewSession) -> SessionRow | None:
        """The session, kept; None when the user is no longer active, or their password no longer this one."""

    async def rehash(self, user_id: str, *, password_hash: str, new_hash: str) -> None:
        """The same password, hashed with today's parameters."""

    async def session(self, digest: bytes) -> tuple[SessionRow, UserRow] | None:
        """The session with this digest and whose it is, in whatever state both are."""

    async def touch(self, digest: bytes, *, at: int) -> None:
        """The session was used."""

    async def end_session(self, digest: bytes) -> None:
        """End one session, if it is there."""

    async def end_sessions(self, user_id: str) -> int:
        """End every session of a user; how many there were."""

    async def give_code(self, user_id: str, code: NewCode, *, network: str | None = None) -> UserRow | None:
        """Keep a code for an active user: the one they had before ends. None as for `change`.

        Raises: Problem "invalid-input" when the user is disabled.
        """

    async def code(self, digest: bytes) -> UserRow | None:
        """Whose code this is, if it still opens something."""

    async def use_code(self, digest: bytes, *, password_hash: str) -> UserRow | None:
        """The user, with a new password and without any session; None for a code that opens nothing, or no more."""

    async def change_password(
        self, user_id: str, *, old_hash: str, new_hash: str, session: NewSession
    ) -> SessionRow | None:
        """A new password, and one new session instead of all there were; None as for `sign_in`."""
