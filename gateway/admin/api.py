"""Tokens as JSON: create, list, show, delete, by a bearer token that holds `tokens:manage`.

The owner of a new token is always the caller. An owner sees and deletes their own tokens; a network's
administrator also those of everybody in the network, and reads nobody's secret: a token's text is in one
answer only, the one that made it. What one may not see does not exist: an unknown id and a foreign one get
the same 404.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

from gateway.admin import request as asked
from gateway.authenticate import Authenticator, sees
from gateway.config import Limits, Tokens
from gateway.exchange import EVENT, HEAD, Exchanges, rfc3339
from gateway.issue import Issuer
from gateway.model import AccountKind, Principal
from gateway.problem import Problem
from gateway.ratelimit import RateLimit
from gateway.store import MAX_REASON_CHARS, TOKEN_STATES, Store, TokenRow
from gateway.tokens import scrub

DEFAULT_PAGE, MAX_PAGE = 50, 200
QUERY = frozenset({"limit", "after", "state", "owner"})


@dataclass(frozen=True, slots=True)
class TokensApi:
    """The handlers. `clock` is in UTC seconds."""

    exchanges: Exchanges
    authenticator: Authenticator
    issuer: Issuer
    store: Store
    settings: Tokens
    limits: Limits
    rate: RateLimit
    clock: Callable[[], float]

    async def create(self, request: web.Request) -> web.Response:
        """`POST /admin/api/tokens`: 201 with the token's text, this once."""
        principal = await self._manager(request, "token.create")
        document = await self._document(request)
        asked.refuse_on_behalf(document | dict(request.query))
        wanted = asked.read(document, principal, self.settings, int(self.clock()))
        await self._reachable(principal, wanted.accounts)
        row, text = await self.issuer.create(
            owner_id=principal.owner.id,
            description=wanted.description,
            scopes=wanted.scopes,
            expires_at=wanted.expires_at,
            made_by=principal.token_id,
            outlives_maker=wanted.outlives_maker,
            accounts=wanted.accounts,
            networks=wanted.networks,
        )
        request[EVENT].subject = row.id
        answer = {"id": row.id, "token": text} | self._shown(row)
        return _json(answer, 201, {"Location": f"/admin/api/tokens/{row.id}"})

    async def list(self, request: web.Request) -> web.Response:
        """`GET /admin/api/tokens?limit&after&state&owner`: newest first, never with a secret."""
        principal = await self._manager(request, "token.list")
        asked.refuse_unknown(request.query, QUERY)
        limit = _limit(request.query.get("limit"))
        state = request.query.get("state")
        if state is not None and state not in TOKEN_STATES:
            raise asked.invalid("state", f"has to be one of {', '.join(TOKEN_STATES)}")
        page = await self.store.list_tokens(
            owner_id=self._listed_owner(principal, request.query.get("owner")),
            network=principal.owner.account.id if _administers(principal) else None,
            state=state,
            after=request.query.get("after"),
            limit=limit,
            now=self.clock(),
        )
        return _json({"tokens": [self._shown(row) for row in page.rows], "next": page.next})

    def _listed_owner(self, principal: Principal, owner: str | None) -> str | None:
        """Whose tokens are listed: one's own, or for an administrator whoever is asked for, else everybody's."""
        if owner == "me" or not _administers(principal):
            if owner not in (None, "me", principal.owner.id):
                raise Problem("not-found", "There is no such owner.")
            return principal.owner.id
        return owner

    async def show(self, request: web.Request) -> web.Response:
        """`GET /admin/api/tokens/{id}`."""
        principal = await self._manager(request, "token.show")
        row = await self._visible(principal, request.match_info["id"])
        request[EVENT].subject = row.id
        return _json(self._shown(row))

    async def delete(self, request: web.Request) -> web.Response:
        """`DELETE /admin/api/tokens/{id}`, optionally `{"reason"}`: 204, again and again."""
        principal = await self._manager(request, "token.delete")
        row = await self._visible(principal, request.match_info["id"])
        request[EVENT].subject = row.id
        reason = await self._reason(request)
        await self.store.delete_token(row.id, by=principal.owner.id, reason=reason, at=int(self.clock()))
        return web.Response(status=204, headers={"Gateway-Answer": "ok"})

    async def _manager(self, request: web.Request, act: str) -> Principal:
        event = request[EVENT]
        event.act = act
        principal = event.principal = await self.authenticator.principal(
            request[HEAD].authorization, event.client
        )
        if "tokens:manage" not in principal.scopes:
            raise Problem("insufficient-scope", "This needs the scope tokens:manage.", scope="tokens:manage")
        self.rate.spend(principal.token_id)
        return principal

    async def _document(self, request: web.Request) -> dict[str, Any]:
        return (await self.exchanges.receive_json(request, self.limits)).document

    async def _reachable(self, principal: Principal, accounts: tuple[str, ...] | None) -> None:
        """Refuse a subset that names an account its owner does not reach."""
        own = principal.owner.account
        for key in accounts or ():
            kind, _, number = key.partition(":")
            if key == own.key:
                continue
            stored = None
            if own.kind == "network":
                stored = await self.store.account(cast(AccountKind, kind), number)
            if stored is None or stored.network != own.id:
                raise asked.invalid("accounts", f"holds {key}, which is not an account of yours")

    async def _visible(self, principal: Principal, token_id: str) -> TokenRow:
        row = await self.store.token(token_id)
        owner = None if row is None else await self.store.user(row.owner_id)
        if row is None or owner is None or not sees(principal, owner):
            raise Problem("not-found", "There is no such token.")
        return row

    async def _reason(self, request: web.Request) -> str:
        document = await self._document(request)
        asked.refuse_unknown(document, frozenset({"reason"}))
        reason = document.get("reason", "")
        if not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS or not (reason or "-").isprintable():
            raise asked.invalid(
                "reason", f"has to be printable text of at most {MAX_REASON_CHARS} characters"
            )
        if scrub(reason) != reason:
            raise asked.invalid("reason", "holds a token, or a piece of one")
        return reason

    def _shown(self, row: TokenRow) -> dict[str, object]:
        """A token as its owner and administrators see it."""
        return {
            "id": row.id,
            "description": row.description,
            "scopes": list(row.scopes),
            "state": row.state(self.clock()),
            "owner": row.owner_id,
            "created_at": rfc3339(row.created_at),
            "expires_at": rfc3339(row.expires_at),
            "exposed_at": _moment(row.exposed_at),
            "rotate_by": _moment(row.rotate_by),
            "deleted_at": _moment(row.deleted_at),
            "deleted_by": row.deleted_by,
            "delete_reason": row.delete_reason,
            "made_by": row.made_by,
            "outlives_maker": row.outlives_maker,
            "bootstrap": row.bootstrap,
            "allowed_networks": None if row.networks is None else [*row.networks],
            "accounts": None if row.accounts is None else [*row.accounts],
        }


def make_app(tokens: TokensApi) -> web.Application:
    """The sub-app, to be mounted at `/admin/`."""
    app = web.Application()
    app.router.add_post("/api/tokens", tokens.create)
    app.router.add_get("/api/tokens", tokens.list, allow_head=False)
    app.router.add_get("/api/tokens/{id}", tokens.show, allow_head=False)
    app.router.add_delete("/api/tokens/{id}", tokens.delete)
    return app


def _administers(principal: Principal) -> bool:
    return principal.owner.administrator and principal.owner.account.kind == "network"


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if re.fullmatch("[0-9]{1,3}", text, re.ASCII) is None or not 1 <= int(text) <= MAX_PAGE:
        raise asked.invalid("limit", f"has to be a number from 1 to {MAX_PAGE}")
    return int(text)


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)


def _json(document: dict[str, Any], status: int = 200, fields: dict[str, str] | None = None) -> web.Response:
    return web.json_response(document, status=status, headers={"Gateway-Answer": "ok", **(fields or {})})
