"""What the store keeps, as frozen rows, and the Protocol that every backend keeps.

Times are UTC integer seconds. Nothing here is secret: of a token only the SHA-256 of its `jti` is stored, and
no row carries even that.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar, get_args

from gateway.model import Account, AccountKind, Role

TokenState = Literal["active", "paused", "exposed", "expired", "deleted"]
TOKEN_STATES: tuple[TokenState, ...] = get_args(TokenState)

MAX_PAGE = 500
MIN_DESCRIPTION_CHARS, MAX_DESCRIPTION_CHARS = 3, 120
MAX_REASON_CHARS = 500

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user as they are now. `email` is trimmed and case-folded."""

    id: str
    email: str
    account: Account
    role: Role
    administrator: bool
    active: bool
    created_at: int


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as it is now; history once deleted.

    `rotate_by` is when an exposed token stops working; a token whose maker is exposed has one too, without
    being exposed itself. `accounts` are account keys and `networks` CIDRs the token is cut down to; None means
    no such cut, an empty tuple means nothing is left.
    """

    id: str
    owner_id: str
    description: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int
    paused_at: int | None
    exposed_at: int | None
    rotate_by: int | None
    deleted_at: int | None
    deleted_by: str | None
    delete_reason: str | None
    made_by: str | None
    outlives_maker: bool
    bootstrap: bool
    accounts: tuple[str, ...] | None
    networks: tuple[str, ...] | None

    @property
    def effective_expiry(self) -> int:
        """The first second in which the token no longer works, deletion aside."""
        return self.expires_at if self.rotate_by is None else min(self.expires_at, self.rotate_by)

    def state(self, now: float) -> TokenState:
        """What the token is at `now`; what is final comes first. `active` and `exposed` ones work."""
        if self.deleted_at is not None:
            return "deleted"
        if now >= self.effective_expiry:  # RFC 7519 section 4.1.4: the last second is exclusive
            return "expired"
        if self.paused_at is not None:
            return "paused"
        return "active" if self.exposed_at is None else "exposed"


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What is signed with a key and not over: how many tokens, until when the last, and some of their ids.

    Tokens of which it is not known which key signed them (from before that was kept) count for every key.
    """

    live: int
    until: int | None
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """An upstream credential as it is kept: sealed for its account, set at UTC seconds."""

    account: str
    set_at: int
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """Some rows, newest first, and the `after` of the next page; None when there is none."""

    rows: tuple[T_co, ...]
    next: str | None


class Store(Protocol):
    """Tokens and people, and nothing secret that is not sealed. One suite holds every backend to this text.

    Every method raises Problem "store-unavailable" when it cannot answer within its deadline, or when what it
    reads is not what it once wrote: nothing is ever allowed, or forgotten, by a fault. A write whose waiting
    task is cancelled, or which is answered by that Problem, has happened wholly or not at all.
    """

    async def find(self, jti_digest: bytes) -> tuple[TokenRow, UserRow] | None:
        """The token with this SHA-256 of its `jti` and its owner, in whatever state both are. The hot read."""

    async def token(self, token_id: str) -> TokenRow | None:
        """A token by id, in whatever state."""

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
    ) -> TokenRow:
        """A new token, with an id of its own, created at the store's clock; mint it from the row returned.

        `expires_at` is cut down to the maker's effective expiry. Scopes are kept in the order they are shown.
        `key_id` is the key that is to sign it.
        Raises: Problem "description-taken"; "invalid-token" when the owner is missing or disabled, or the
        maker is missing, another owner's, paused, expired or deleted; "invalid-input".
        """

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
        """Tokens, newest first: an owner's, those of owners in a network, both or neither restriction.

        At most MAX_PAGE rows whatever `limit` says. Raises: Problem "invalid-input" for an unknown `after`.
        """

    async def delete_token(self, token_id: str, *, by: str, reason: str = "", at: int) -> TokenRow | None:
        """The token, deleted for good, with what it made unless that outlives it. None for an unknown id.

        Deleting again changes nothing: who was first stays written. Raises: Problem "invalid-input".
        """

    async def mark_exposed(self, jti_digest: bytes, *, at: int, rotate_by: int) -> TokenRow | None:
        """The token, seen where it should not be, and so to be replaced by `rotate_by`; None for an unknown one.

        The first exposure wins. What the token made ends by then too, unless it outlives it.
        """

    async def add_account(self, account: Account) -> None:
        """Keep an account; again is no change. Raises: Problem "invalid-input" for a conflict of networks."""

    async def account(self, kind: AccountKind, account_id: str) -> Account | None:
        """An account by the vendor's kind and id."""

    async def add_user(
        self, email: str, account: Account, role: Role, administrator: bool = False
    ) -> UserRow:
        """A new active user, with their account when it is new too.

        Raises: Problem "invalid-input" for an address that is none or is taken, or a conflict of networks.
        """

    async def user(self, user_id: str) -> UserRow | None:
        """A user by id."""

    async def user_by_email(self, email: str) -> UserRow | None:
        """A user by address, however it is written."""

    async def list_users(
        self, *, network: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[UserRow]:
        """Users, newest first, of one network or all. Bounds and Problems as in `list_tokens`."""

    async def set_user(
        self,
        user_id: str,
        *,
        active: bool | None = None,
        role: Role | None = None,
        administrator: bool | None = None,
        account: Account | None = None,
    ) -> UserRow | None:
        """The user with what is given changed; None for an unknown id. Raises: as `add_user`."""

    async def set_password(self, user_id: str, password_hash: str) -> bool:
        """Keep the argon2id hash of a user's password, in its encoded form; False for an unknown id."""

    async def signed_with(self, key_id: str, *, now: float) -> KeyUse:
        """What a key has signed that is neither deleted nor expired at `now`."""

    async def end_verdicts(self) -> None:
        """Have every process of the machine prove every token anew, from now on."""

    async def set_credential(self, account: str, sealed: bytes, *, at: int) -> None:
        """Keep an account's sealed upstream credential, in place of one before. Raises: Problem "invalid-input"."""

    async def delete_credential(self, account: str) -> bool:
        """Keep an account's upstream credential no longer; False when none was kept."""

    async def credentials(self) -> tuple[CredentialRow, ...]:
        """Every upstream credential that is kept, by account."""

    def epoch(self) -> int:
        """A number in memory, shared by every process of the machine: it changes before a change that can end
        or alter a verdict is acknowledged. What was read after an epoch holds while that epoch does."""

    async def refresh(self) -> None:
        """Bring the epoch up to what is committed. Raises: Problem "store-unavailable"."""

    async def generation(self) -> int:
        """A number that has grown with every change that can end or alter a verdict, in the same transaction."""

    async def ping(self) -> None:
        """Nothing, when the store can answer."""

    async def close(self) -> None:
        """Finish what is under way and let go of everything. Closing again is no change."""


def new_token_id() -> str:
    """`tok_` and 96 random bits. Public: it names a token in records and addresses, and opens nothing."""
    return "tok_" + secrets.token_urlsafe(12)


def new_user_id() -> str:
    """`usr_` and 96 random bits."""
    return "usr_" + secrets.token_urlsafe(12)


def folded(text: str) -> str:
    """How two descriptions, or two addresses, are compared: trimmed, case-folded, NFC."""
    # Folding can take a text out of NFC, and NFC must come first for folding to see whole characters.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text.strip()).casefold())
