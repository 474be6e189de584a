"""The nouns everything else speaks of: frozen values, no I/O, no clock of their own.

What is here is what a decision is made from and what it is made into. How these values come about
(a signature checked, a path matched, a row read) is other files' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, get_args

AccountKind = Literal["network", "advertiser", "affiliate"]
Role = Literal["super", "manager", "member", "observer"]
Api = Literal["transactions", "network_integration"]
Effect = Literal["read", "write", "destroy", "publish", "impersonate"]
Relation = Literal["own", "network", "none", "other"]
Status = Literal["current", "legacy", "refused_upstream"]
ColumnClass = Literal["public", "pii", "financial"]

ACCOUNT_KINDS: tuple[AccountKind, ...] = get_args(AccountKind)
APIS: tuple[Api, ...] = get_args(Api)
ROLES: tuple[Role, ...] = get_args(Role)
EFFECTS: tuple[Effect, ...] = get_args(Effect)
RELATIONS: tuple[Relation, ...] = get_args(Relation)
STATUSES: tuple[Status, ...] = get_args(Status)
COLUMN_CLASSES: tuple[ColumnClass, ...] = get_args(ColumnClass)

SCOPES = (
    "transactions:read",
    "network:read",
    "network:write",
    "network:destroy",
    "network:publish",
    "reveal:pii",
    "reveal:financial",
    "tokens:manage",
)
"""Every scope there is, in the order they are shown. None implies another."""

DEFAULT_SCOPES = ("transactions:read",)

Clock = Callable[[], float]
"""Seconds since the epoch, UTC. Passed in, so that tests can turn it."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the vendor: its kind, the vendor's id, and the vendor's id of the network it is in.

    A network belongs to itself: `network == id`.
    """

    kind: AccountKind
    id: str
    network: str

    @property
    def key(self) -> str:
        """`network:33`: how an account is written in configuration, on the command line and in bodies."""
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True, slots=True)
class Owner:
    """A user as they are now: what a token's privileges are inherited from."""

    id: str
    account: Account
    role: Role
    administrator: bool


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, once proven: a live token and its owner as they are now.

    `accounts` are the account keys the token is cut down to, or None for all that its owner may reach.
    `networks` are the client networks the token may be used from, or None for anywhere.
    `earlier`: proven by a secret that has been rotated out and still works for a while.
    `bootstrap`: it bounds nothing that is made by it, because it stands for its owner's sign-in.
    `personal_records_per_day`: how many personal records it may be given on a day of UTC; None for no limit.
    `signed_in`: it is that sign-in, and no token: `token_id` is the id of the session.
    """

    token_id: str
    owner: Owner
    scopes: frozenset[str]
    expires_at: int
    accounts: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None
    bootstrap: bool = False
    earlier: bool = False
    signed_in: bool = False
    personal_records_per_day: int | None = None

    @property
    def maker(self) -> str | None:
        """The token that makes what this principal makes; None for somebody who is signed in."""
        return None if self.signed_in else self.token_id


@dataclass(frozen=True, slots=True)
class Moment:
    """When a request came, in seconds since the epoch, and from which client address. Policies see whole seconds."""

    now: float
    client: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One business act of the vendor's documentation, by id: `network_transactions_list`.

    `scope` is what a token needs for it; None means that no scope reaches it.
    `account_kind` is the kind of account that the path names with the placeholder `account`.
    `status` is `legacy` for what only old documentation has.
    `replaces` are the arrays of the body that replace a stored set: members left out are deleted. A request
    that carries one is judged as this operation with effect `destroy`.
    """

    id: str
    api: Api
    effect: Effect
    scope: str | None
    status: Status
    methods: tuple[str, ...]
    path: str
    formats: tuple[str, ...]
    account_kind: AccountKind | None = None
    account: str | None = None
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One request as identified: an operation, the API version, the account in its path, the format asked for.

    `account_id` is None when the path could name an account and does not (the network id left out).
    """

    operation: Operation
    version: str
    account_id: str | None
    format: str


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """A policy as a decision names it: enough to say why, and where to read it."""

    id: str
    effect: Literal["permit", "forbid"]
    reason: str
    source: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Allow or deny, and the policies behind it (none for a default deny).

    `problem` is None for an allow, else the kind of the refusal. `error` is set when an evaluation failed.
    """

    allowed: bool
    policies: tuple[PolicyRef, ...] = ()
    problem: str | None = None
    missing_scope: str | None = None
    error: str | None = None

    @property
    def outcome(self) -> str:
        """`allow`, or the kind of the refusal: what whoever asked would notice."""
        return "allow" if self.allowed else self.problem or "denied"


Outcome = Literal["complete", "refused", "aborted", "cut", "bug"]


class Facts:
    """What the records of like exchanges have in common, once the first of them was written (`audit.py`)."""

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = ""


class AuditEvent:
    """One exchange, as it will be recorded. Filled in as the request goes along; written once, at the end.

    It never holds a credential, a header value, a query string or any value of it, a body, or a path: the
    operation id and the account say what was asked for. Sizes are bytes, times are seconds since the epoch.

    `surface` is `proxy`, `oauth`, `admin`, `gateway`, `operations`, `command` (the command line) or `wire` (refused
    before it had a surface).
    `policy_digest` is that of the policies it was decided by, where a decision was made.
    `act` names what an admin or OAuth request did, `subject` the token or user it did it to. `actor` is who did it
    where no token was presented: somebody who is signed in, by `session`, or who just proved who they are.
    `relation` is that of the path's account to the owner's, once it was asked for.
    `shadow` is what the shadow policies would have decided, where there are any.
    `withheld` counts the names that the answer lacks, by class: in all of it, also where its head could not say.
    `facts` are shared by exchanges that differ in nothing but their time, client and answer.
    `outcome`: complete; refused (a Problem); aborted (the client left); cut (the upstream failed in mid-answer,
    so the client's connection was broken off); bug.
    """

    # Defaults of the class, not set one by one for every request: most stay as they are.
    principal: Principal | None = None
    actor: Owner | None = None
    session: str | None = None
    call: Call | None = None
    relation: Relation | None = None
    decision: Decision | None = None
    shadow: Decision | None = None
    policy_digest: str | None = None
    act: str | None = None
    subject: str | None = None
    status: int = 0
    problem: str | None = None
    upstream_status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    withheld: Mapping[str, int] | None = None
    outcome: Outcome = "complete"
    facts: Facts | None = None

    def __init__(
        self, request_id: str, began: float, surface: str = "proxy", method: str = "", client: str = ""
    ) -> None:
        self.request_id = request_id
        self.began = began
        self.surface = surface
        self.method = method
        self.client = client
        # Read of every exchange: a default of the class would be slower to find than to set.
        self.problem = None
        self.shadow = None
        self.withheld = None
        self.bytes_in = 0

    @property
    def dissent(self) -> Decision | None:
        """The shadow's decision, where it comes to something else than the one in force."""
        shadow, decision = self.shadow, self.decision
        if shadow is None or decision is None or shadow.outcome == decision.outcome:
            return None
        return shadow
