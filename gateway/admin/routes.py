"""The admin JSON API as one table: every route with who may ask, what it takes and what it answers.

Handlers check requests by it, the application is made from it, and so is the OpenAPI document. A new route is a new
row, and a handler under its `act` in `api.py` or `people.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.admin.request import OVERLAPS_S, SELECTORS
from gateway.admin.shapes import Flag, Many, Maybe, Members, Shape, Text, Whole, all_of
from gateway.model import ACCOUNT_KINDS, ROLES, SCOPES
from gateway.passwords import MAX_CHARS, MIN_CHARS
from gateway.problem import KINDS
from gateway.store import (
    MAX_AT_ONCE,
    MAX_DESCRIPTION_CHARS,
    MAX_REASON_CHARS,
    MAX_RECORDS,
    MIN_DESCRIPTION_CHARS,
    TOKEN_STATES,
)

API = "/admin/api"
MAX_LISTED = 200
CSRF = "Gateway-Csrf"

Who = Literal["anybody", "session", "manager", "sign-in"]
"""`manager`: a token with tokens:manage, or a session. `sign-in`: a session, or the operator's first token, which
stands for one. `session`: a session alone. What `anybody` asks is proven by the body."""

NOTHING = Members()
ANY_OBJECT = Members(name="Document", more=True)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One thing that can be asked. `act` is its name in records and in the document.

    `problems` are the kinds beyond those that every route of its `who` can answer with. `again`: it accepts an
    Idempotency-Key. `or_empty`: it can be answered with 204 as well. `path` has `{id}` where an id goes.
    """

    act: str
    method: str
    path: str
    says: str
    who: Who
    status: int
    answer: Members | None = None
    body: Members = NOTHING
    query: Members = NOTHING
    problems: tuple[str, ...] = ()
    again: bool = False
    sets_cookie: bool = False
    or_empty: bool = False

    @property
    def unsafe(self) -> bool:
        """Whether it changes something, and so needs the CSRF token beside a session."""
        return self.method != "GET"

    def kinds(self) -> list[str]:
        """Every problem it may be answered with, in the order of the catalogue."""
        named = {*ANY_REQUEST, *BY_WHO[self.who], *self.problems}
        if self.unsafe:
            named |= WITH_BODY
            if self.who != "anybody":
                named |= {"invalid-csrf-token"}
        return [kind for kind in KINDS if kind in named]


# What any request can be refused with before its route is looked at, and what can be the matter with us.
ANY_REQUEST = frozenset(
    {
        "bad-request", "bad-target", "bad-header", "credential-in-query", "credential-in-header", "two-credentials",
        "forbidden-parameter", "target-too-long", "head-too-large", "expectation-failed", "not-implemented",
        "version-not-supported", "invalid-input", "rate-limited", "store-unavailable", "overloaded",
    }
)  # fmt: skip
WITH_BODY = frozenset(
    {"bad-body", "credential-in-body", "body-too-large", "request-timeout", "unsupported-media-type"}
)
SESSION = frozenset({"no-credential", "invalid-session", "cross-site"})
MANAGER = SESSION | {"invalid-token", "network-not-allowed", "insufficient-scope"}
BY_WHO: dict[Who, frozenset[str]] = {
    "anybody": frozenset({"cross-site"}),
    "session": SESSION | {"sign-in-required"},
    "manager": MANAGER,
    "sign-in": MANAGER | {"sign-in-required"},
}

# --- shapes

MOMENT = Text(20, 40, form="date-time", about="UTC, RFC 3339")
ID = Text(1, 64, about="An id, such as tok_… or usr_…")
USER_ID = Text(20, 20, pattern="^usr_[A-Za-z0-9_-]{16}$")
ACCOUNT_KEY = Text(
    3,
    139,
    pattern=f"^({'|'.join(ACCOUNT_KINDS)}):.+$",
    about="an account such as advertiser:706",
)
EMAIL = Text(3, 254, pattern=r"^[^@]+@[^@]+$", about="an e-mail address")
ROLE = Text(of=ROLES)
REASON = Text(0, MAX_REASON_CHARS, about="printable text, in one line")
NEW_PASSWORD = Text(MIN_CHARS, MAX_CHARS, about="Not one of the first that are tried")
PASSWORD = Text(1, MAX_CHARS)
RECORDS = Whole(1, MAX_RECORDS, about="How many records with personal data it may be given on a day of UTC")
CODE = Text(1, 128, about="A one-time code")
PAGE: Mapping[str, Shape] = {"limit": Whole(1, MAX_LISTED), "after": ID}

TOKEN: Mapping[str, Shape] = {
    "id": ID,
    "description": Text(MIN_DESCRIPTION_CHARS, MAX_DESCRIPTION_CHARS),
    "scopes": Many(Text(of=SCOPES), 1),
    "state": Text(of=TOKEN_STATES),
    "owner": ID,
    "created_at": MOMENT,
    "expires_at": MOMENT,
    "not_before": Maybe(MOMENT),
    "rotated_at": Maybe(MOMENT),
    "overlap_until": Maybe(MOMENT),
    "paused_at": Maybe(MOMENT),
    "paused_by": Maybe(Text(1, MAX_REASON_CHARS)),
    "exposed_at": Maybe(MOMENT),
    "rotate_by": Maybe(MOMENT),
    "deleted_at": Maybe(MOMENT),
    "deleted_by": Maybe(Text(1, MAX_REASON_CHARS)),
    "delete_reason": Maybe(Text(0, MAX_REASON_CHARS)),
    "made_by": Maybe(ID),
    "outlives_maker": Flag(),
    "bootstrap": Flag(),
    "allowed_networks": Maybe(Many(Text(1, 64))),
    "accounts": Maybe(Many(ACCOUNT_KEY)),
    "personal_records_per_day": Maybe(RECORDS),
    "last_used_at": Maybe(MOMENT),
    "last_used_from": Maybe(Text(1, 64)),
    "last_used_for": Maybe(Text(1, 128)),
    "old_secret_used_at": Maybe(MOMENT),
    "uses_24h": Whole(0, 2**53),
    "uses_30d": Whole(0, 2**53),
}
ONE_TOKEN = all_of(TOKEN, "Token")
MADE_TOKEN = all_of({"token": Text(170, 2048, about="The secret, this once"), **TOKEN}, "MadeToken")
MANY_TOKENS = all_of({"tokens": Many(ID, 0, MAX_AT_ONCE), "more": Flag()}, "ActedOn")
USER: Mapping[str, Shape] = {
    "id": ID,
    "email": EMAIL,
    "account": ACCOUNT_KEY,
    "network": Text(1, 128),
    "role": ROLE,
    "administrator": Flag(),
    "state": Text(of=("active", "disabled")),
    "created_at": MOMENT,
}
ONE_USER = all_of(USER, "User")
INVITED = all_of(
    {"code": Text(43, 43, about="A one-time code, this once"), "code_expires_at": MOMENT, **USER},
    "InvitedUser",
)
SIGNED_IN = all_of(
    {
        "user": ONE_USER,
        "session": ID,
        "csrf_token": Text(43, 43, about=f"To be sent as {CSRF} with every change"),
        "expires_at": MOMENT,
    },
    "Session",
)


def _listed(name: str, item: Members) -> Members:
    return all_of({name: Many(item, 0, MAX_LISTED), "next": Maybe(ID)}, f"{item.name}s")


def _selected(more: Mapping[str, Shape] | None = None) -> Members:
    members: dict[str, Shape] = {
        "ids": Many(ID, 1, MAX_AT_ONCE),
        "owner": ID,
        "account": ACCOUNT_KEY,
        "made_by": ID,
        "everything": Flag(always=True),
    }
    return Members(members | dict(more or {}), one_of=tuple(frozenset({name}) for name in SELECTORS))


EXPIRY: Mapping[str, Shape] = {
    "expires_in": Maybe(Whole(1, 10_000_000_000, about="Seconds")),
    "expires_at": Maybe(MOMENT),
}
NEW_TOKEN = Members(
    {
        "description": Text(
            MIN_DESCRIPTION_CHARS, MAX_DESCRIPTION_CHARS, about="The app, and what it uses it for"
        ),
        "scopes": Many(Text(of=SCOPES), 1),
        **EXPIRY,
        "not_before": Maybe(MOMENT),
        "allowed_networks": Maybe(Many(Text(1, 64, about="A network such as 203.0.113.0/24"), 1)),
        "accounts": Maybe(Many(ACCOUNT_KEY, 1)),
        "personal_records_per_day": Maybe(RECORDS),
        "outlives_maker": Flag(),
    },
    frozenset({"description"}),
    "NewToken",
)
NEW_USER = Members(
    {"email": EMAIL, "account": ACCOUNT_KEY, "role": ROLE, "administrator": Flag()},
    frozenset({"email", "account"}),
    "NewUser",
)

# --- the table

ENDED = ("not-found", "token-ended")
MAKING = ("on-behalf-of", "beyond-maker", "invalid-token", "idempotency-key-reused", "answer-gone")

SESSION_OPEN = Route(
    "session.open", "POST", f"{API}/session", "Sign in", "anybody", 201, SIGNED_IN,
    Members({"email": Text(1, 254), "password": PASSWORD}, frozenset({"email", "password"}), "SignIn"),
    problems=("sign-in-failed",), sets_cookie=True,
)  # fmt: skip
SESSION_SHOW = Route("session.show", "GET", f"{API}/session", "Who one is", "session", 200, SIGNED_IN)
SESSION_CLOSE = Route(
    "session.close", "DELETE", f"{API}/session", "Sign out", "session", 204, sets_cookie=True
)
PASSWORD_SET = Route(
    "password.set", "POST", f"{API}/password",
    "Set a password by a one-time code; or change it by the old one and a session, which gives a new session",
    "anybody", 200, SIGNED_IN,
    Members(
        {"password": NEW_PASSWORD, "old_password": PASSWORD, "code": CODE}, frozenset({"password"}), "SetPassword",
        one_of=(frozenset({"old_password"}), frozenset({"code"})),
    ),
    problems=("sign-in-failed", "invalid-code", "no-credential", "invalid-session", "invalid-csrf-token",
              "sign-in-required"),
    sets_cookie=True, or_empty=True,
)  # fmt: skip

USER_LIST = Route(
    "user.list", "GET", f"{API}/users", "The users of one's network, newest first", "manager", 200,
    _listed("users", ONE_USER), query=Members(PAGE), problems=("denied",),
)  # fmt: skip
USER_ADD = Route(
    "user.add", "POST", f"{API}/users", "Add a user to one's network; the code is for them to set a password with",
    "sign-in", 201, INVITED, NEW_USER, problems=("denied",),
)  # fmt: skip
USER_SHOW = Route(
    "user.show", "GET", f"{API}/users/{{id}}", "One user", "manager", 200, ONE_USER,
    problems=("denied", "not-found"),
)  # fmt: skip
USER_CHANGE = Route(
    "user.change", "POST", f"{API}/users/{{id}}",
    "Another role, administrator or not, or another account of the same network: felt by the user's tokens at once",
    "sign-in", 200, ONE_USER,
    Members({"role": ROLE, "administrator": Flag(), "account": ACCOUNT_KEY}, name="ChangedUser"),
    problems=("denied", "not-found", "last-administrator"),
)  # fmt: skip
USER_DISABLE = Route(
    "user.disable", "POST", f"{API}/users/{{id}}/disable",
    "Stop a user: their tokens and sessions are refused from the answer on", "manager", 200, ONE_USER,
    problems=("denied", "not-found", "last-administrator"),
)  # fmt: skip
USER_ENABLE = Route(
    "user.enable", "POST", f"{API}/users/{{id}}/enable", "Let a user, and their tokens, go on", "sign-in", 200,
    ONE_USER, problems=("denied", "not-found"),
)  # fmt: skip
USER_RESET = Route(
    "user.reset", "POST", f"{API}/users/{{id}}/reset", "A one-time code with which the user sets a new password",
    "sign-in", 201, INVITED, problems=("denied", "not-found"),
)  # fmt: skip
USER_SIGN_OUT = Route(
    "user.sign-out", "DELETE", f"{API}/users/{{id}}/sessions", "End every session of a user, or of one's own",
    "manager", 204, problems=("denied", "not-found"),
)  # fmt: skip

TOKEN_LIST = Route(
    "token.list", "GET", f"{API}/tokens", "One's tokens, an administrator's network's; newest first", "manager", 200,
    _listed("tokens", ONE_TOKEN),
    query=Members({**PAGE, "state": Text(of=TOKEN_STATES), "owner": ID}), problems=("not-found",),
)  # fmt: skip
TOKEN_CREATE = Route(
    "token.create", "POST", f"{API}/tokens", "A new token of one's own", "manager", 201, MADE_TOKEN, NEW_TOKEN,
    problems=(*MAKING, "description-taken"), again=True,
)  # fmt: skip
TOKEN_PAUSE_MANY = Route(
    "token.pause-many", "POST", f"{API}/tokens/pause", "Pause many tokens of one's network", "manager", 200,
    MANY_TOKENS, _selected(), problems=("denied",),
)  # fmt: skip
TOKEN_DELETE_MANY = Route(
    "token.delete-many", "POST", f"{API}/tokens/delete", "Delete many tokens of one's network", "manager", 200,
    MANY_TOKENS, _selected({"reason": REASON}), problems=("denied",),
)  # fmt: skip
TOKEN_SHOW = Route(
    "token.show",
    "GET",
    f"{API}/tokens/{{id}}",
    "One token",
    "manager",
    200,
    ONE_TOKEN,
    problems=("not-found",),
)
TOKEN_DELETE = Route(
    "token.delete", "DELETE", f"{API}/tokens/{{id}}", "End a token for good", "manager", 204,
    body=Members({"reason": REASON}), problems=("not-found",),
)  # fmt: skip
TOKEN_ROTATE = Route(
    "token.rotate", "POST", f"{API}/tokens/{{id}}/rotate", "A new secret for one's own token", "manager", 201,
    MADE_TOKEN, Members({"overlap": Whole(0, OVERLAPS_S[-1], OVERLAPS_S, about="Seconds"), **EXPIRY}),
    problems=(*MAKING, *ENDED), again=True,
)  # fmt: skip
TOKEN_PAUSE = Route(
    "token.pause", "POST", f"{API}/tokens/{{id}}/pause", "Stop a token for a while", "manager", 200, ONE_TOKEN,
    problems=ENDED,
)  # fmt: skip
TOKEN_RESUME = Route(
    "token.resume", "POST", f"{API}/tokens/{{id}}/resume", "Let a token go on", "manager", 200, ONE_TOKEN,
    problems=(*ENDED, "denied"),
)  # fmt: skip

DOCUMENT = Route("document.show", "GET", f"{API}/openapi.json", "This document", "anybody", 200, ANY_OBJECT)

ROUTES = (
    SESSION_OPEN, SESSION_SHOW, SESSION_CLOSE, PASSWORD_SET,
    USER_LIST, USER_ADD, USER_SHOW, USER_CHANGE, USER_DISABLE, USER_ENABLE, USER_RESET, USER_SIGN_OUT,
    TOKEN_LIST, TOKEN_CREATE, TOKEN_PAUSE_MANY, TOKEN_DELETE_MANY, TOKEN_SHOW, TOKEN_DELETE, TOKEN_ROTATE,
    TOKEN_PAUSE, TOKEN_RESUME,
    DOCUMENT,
)  # fmt: skip
