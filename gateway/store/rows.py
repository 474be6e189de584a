"""What the store keeps, as frozen rows, and the Protocol that every backend keeps.

Times are UTC integer seconds. Nothing here is secret: of a token only the SHA-256 of its `jti` is stored, and
no row carries even that.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, get_args

from gateway.model import Account, AccountKind, Role

if TYPE_CHECKING:
    from gateway.store.people import People

TokenState = Literal["active", "paused", "exposed", "expired", "deleted"]
TOKEN_STATES: tuple[TokenState, ...] = get_args(TokenState)

MAX_PAGE = 500
MIN_DESCRIPTION_CHARS, MAX_DESCRIPTION_CHARS = 3, 120
MAX_REASON_CHARS = 500
MAX_RECORDS = 1_000_000_000
MAX_AT_ONCE = 500
"""How many tokens one act on many of them reaches, those that die with them aside."""

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

    `personal_records_per_day`: how many personal records it may be given on a day of UTC; None for no limit.

    A token that was rotated has a new secret since `rotated_at`; the one before it works until `earlier_until`.
    `by_earlier` says that the row was found by that earlier secret, and so is about it.
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
    not_before: int | None = None
    paused_by: str | None = None
    rotated_at: int | None = None
    earlier_until: int | None = None
    personal_records_per_day: int | None = None
    by_earlier: bool = False

    @property
    def effective_expiry(self) -> int:
        """The first second in which the token no longer works, deletion aside."""
        ends = self.expires_at if self.rotate_by is None else min(self.expires_at, self.rotate_by)
        return min(ends, self.earlier_until) if self.by_earlier and self.earlier_until is not None else ends

    @property
    def issued_at(self) -> int:
        """When the secret that counts now was made."""
        return self.created_at if self.rotated_at is None else self.rotated_at

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
class Use:
    """What one process saw of a token since it last said so: how often, and the last time, from where, for what.

    `network` is a client's /24 or /48; `earlier_at` is the last use by a secret that was rotated out.
    """

    token_id: str
    count: int
    at: int
    network: str
    operation: str
    earlier_at: int | None = None


@dataclass(frozen=True, slots=True)
class UseRow:
    """The last use of a token that anybody saw, and how often it was used in the last 24 hours and 30 days.

    The counts are of whole hours and whole days (UTC), the present one included.
    """

    at: int
    network: str
    operation: str
    earlier_at: int | None
    in_24h: int
    in_30d: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A `jti` kept for an answer that may be lost, readable by whoever knows the Idempotency-Key alone (`once.py`).

    `until` is when it is erased.
    """

    lookup: bytes
    binding: bytes
    text: bytes
    until: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of an answer: which token it was about, its times, and its sealed `jti` unless that is gone."""

    token_id: str
    issued_at: int
    expires_at: int
    text: bytes | None


class Repeated(Exception):
    """The Idempotency-Key of a new token was used before, and so nothing was made: ask for the answer kept."""


@dataclass(frozen=True, slots=True)
class Which:
    """Live tokens of a network to act on: by id, of an owner, of an account (kind and id), or made by one token;
    all of them where nothing is said. `spare` is left alone, unless it is among `ids`."""

    network: str
    ids: tuple[str, ...] | None = None
    owner_id: str | None = None
    account: tuple[str, str] | None = None
    made_by: str | None = None
    spare: str | None = None


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

    people: People
    """Their passwords, sessions and codes, and what is done to them."""

    async def find(self, jti_digest: bytes) -> tuple[TokenRow, UserRow] | None:
        """The token with this SHA-256 of its `jti` and its owner, in whatever state both are. The hot read.

        Found by the secret that it had before it was rotated, the row says so: `by_earlier`.
        """

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
        not_before: int | None = None,
        personal_records_per_day: int | None = None,
        sealed: Sealed | None = None,
    ) -> TokenRow:
        """A new token, with an id of its own, created at the store's clock; mint it from the row returned.

        `expires_at` is cut down to the maker's effective expiry. Scopes are kept in the order they are shown.
        `key_id` is the key that is to sign it.
        `sealed` is kept with it, so that `take` finds it.
        Raises: Problem "description-taken"; "invalid-token" when the owner is missing or disabled, or the
        maker is missing, another owner's, paused, expired or deleted; "invalid-input". Repeated, before any of
        these, when the look-up of `sealed` is known.
        """

    async def rotate_token(
        self,
        token_id: str,
        *,
        owner_id: str,
        jti_digest: bytes,
        expires_at: int,
        overlap_s: int,
        key_id: str | None = None,
        sealed: Sealed | None = None,
    ) -> TokenRow | None:
        """The owner's token with a new secret; mint it from the row returned. None for an unknown id or owner.

        The secret it had works on for the overlap, never longer than it would have; the one before that ends now.
        An exposure was the old secret's, and stays with it. `expires_at` is cut down to the maker's, and what it made
        to it, unless that outlives it.
        Raises: Problem "token-ended"; "invalid-token" for a disabled owner; "invalid-input". Repeated as above.
        """

    async def take(self, lookup: bytes, binding: bytes) -> Kept | None:
        """The answer kept under a look-up; its sealed text is in here once, within its time, while the token lives.

        Raises: Problem "idempotency-key-reused" when it was kept under another binding.
        """

    async def erase_sealed(self) -> None:
        """Erase every sealed `jti` whose time is over, and after a day that there was one."""

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

    async def pause_token(self, token_id: str, *, by: str, at: int) -> TokenRow | None:
        """The token, paused. None for an unknown id. Raises: Problem "token-ended", "invalid-input".

        Pausing again changes nothing, but that somebody else takes a pause over from the owner.
        """

    async def resume_token(self, token_id: str, *, by: str, anybodys: bool, at: int) -> TokenRow | None:
        """The token, no longer paused. None for an unknown id; again is no change.

        Raises: Problem "token-ended"; "denied" for a pause of somebody else's, unless `anybodys` may be lifted.
        """

    async def pause_tokens(self, which: Which, *, by: str, at: int) -> Page[str]:
        """Pause live tokens, at most MAX_AT_ONCE; their ids. `next` is set while there are more. Raises: Problem
        "invalid-input". What is paused already is not among them."""

    async def delete_tokens(self, which: Which, *, by: str, reason: str = "", at: int) -> Page[str]:
        """Delete live tokens and what dies with them; ids, bounds and Problems as in `pause_tokens`."""

    async def mark_exposed(self, jti_digest: bytes, *, at: int, rotate_by: int) -> TokenRow | None:
        """The token, seen where it should not be, and so to be replaced by `rotate_by`; None for an unknown one.

        The first exposure wins. What the token made ends by then too, unless it outlives it. A secret that was
        rotated out ends by then, and nothing else does.
        """

    async def add_uses(self, uses: Sequence[Use], *, source: str, number: int) -> None:
        """Add what one source saw of tokens. A number of a source counts once, and no lower one after it, so that
        it can be said again when the answer was lost. No writer of anything else ever waits for it."""

    async def uses(self, token_ids: Sequence[str], *, now: float) -> dict[str, UseRow]:
        """The last use of each of these tokens that has one. At most MAX_PAGE ids.

        Alone of all it raises nothing: what cannot be read is not known, and no list fails because of it.
        """

    async def take_records(self, token_id: str, count: int, *, at: int) -> int | None:
        """Take so many of the personal records that a token may be given on the day of `at`, from it and from every
        token above it. None when they are taken; else how many are left, which is fewer, and nothing is taken.

        Whoever else takes some at the same time takes them before or after: never are more given than there are.
        """

    async def give_records_back(self, token_id: str, count: int, *, at: int) -> None:
        """Give back what was taken at `at` and not needed."""

    async def records_left(self, token_id: str, *, at: int) -> int | None:
        """How many personal records a token may still be given on the day of `at`; None for no limit."""

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
        """The user with what is given changed; None for an unknown id. Raises: as `add_user`. See `People.change`."""

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
