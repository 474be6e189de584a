"""Tokens as JSON: create, list, show, rotate, pause, resume, delete, by a token with `tokens:manage` or a session.

The owner of a new token is always the caller, and so is the owner of one that is rotated: whoever rotates receives
the secret. An owner sees, pauses and deletes their own tokens; a network's administrator also those of everybody
in the network, one by one or many at once, and reads nobody's secret: a token's text is in one answer only, the
one that made it (and that answer once more, for who lost it and knows its Idempotency-Key). What one may not see
does not exist: an unknown id and a foreign one get the same 404.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

from gateway.admin import request as asked
from gateway.admin import routes
from gateway.admin.answers import answer, moment, nothing
from gateway.admin.caller import Callers, administers
from gateway.admin.routes import Route
from gateway.authenticate import sees
from gateway.body import Body
from gateway.config import Limits, Tokens
from gateway.exchange import EVENT, TARGET, Exchanges, rfc3339
from gateway.issue import Issuer
from gateway.model import AccountKind, Principal
from gateway.once import Once, once
from gateway.problem import Problem
from gateway.store import MAX_REASON_CHARS, Page, Store, TokenRow, TokenState, UseRow, Which
from gateway.tokens import scrub

DEFAULT_PAGE = 50


@dataclass(frozen=True, slots=True)
class TokensApi:
    """The handlers. `clock` is in UTC seconds."""

    exchanges: Exchanges
    callers: Callers
    issuer: Issuer
    store: Store
    settings: Tokens
    limits: Limits
    clock: Callable[[], float]

    async def create(self, request: web.Request) -> web.Response:
        """`POST /admin/api/tokens`: 201 with the token's text, this once."""
        principal, sent = await self._secret_wanted(request, routes.TOKEN_CREATE)
        wanted = asked.read(sent.document, principal, self.settings, int(self.clock()))
        await self._reachable(principal, wanted.accounts)
        row, text = await self.issuer.create(
            owner_id=principal.owner.id,
            description=wanted.description,
            scopes=wanted.scopes,
            expires_at=wanted.expires_at,
            made_by=principal.maker,
            outlives_maker=wanted.outlives_maker,
            accounts=wanted.accounts,
            networks=wanted.networks,
            not_before=wanted.not_before,
            personal_records_per_day=wanted.personal_records_per_day,
            once=_once(request, principal, sent),
        )
        request[EVENT].subject = row.id
        return await self._made(row, text)

    async def rotate(self, request: web.Request) -> web.Response:
        """`POST /admin/api/tokens/{id}/rotate`, `{"overlap"}`: 201 with the new text, this once; the owner alone."""
        principal, sent = await self._secret_wanted(request, routes.TOKEN_ROTATE)
        row = await self._visible(principal, request)
        if row.owner_id != principal.owner.id:
            raise asked.on_behalf("whoever rotates a token receives its secret; pause or delete it")
        wanted = asked.read_rotation(sent.document, row, principal, self.settings, int(self.clock()))
        row, text = await self.issuer.rotate(
            row.id,
            owner_id=principal.owner.id,
            expires_at=wanted.expires_at,
            overlap_s=wanted.overlap_s,
            once=_once(request, principal, sent),
        )
        return await self._made(row, text)

    async def for_another(self, request: web.Request) -> web.Response:
        """Below somebody's address there are no tokens to make, whoever it is."""
        await self.callers.ask(request, routes.TOKEN_CREATE)
        raise asked.on_behalf("POST to /admin/api/tokens")

    async def pause(self, request: web.Request) -> web.Response:
        """`POST /admin/api/tokens/{id}/pause`: 200, again and again."""
        principal, _ = await self._told(request, routes.TOKEN_PAUSE)
        row = await self._visible(principal, request)
        paused = await self.store.pause_token(row.id, by=principal.owner.id, at=int(self.clock()))
        return answer(await self._shown(paused or row))

    async def resume(self, request: web.Request) -> web.Response:
        """`POST /admin/api/tokens/{id}/resume`: 200, again and again; an administrator's pause is theirs to end."""
        principal, _ = await self._told(request, routes.TOKEN_RESUME)
        row = await self._visible(principal, request)
        resumed = await self.store.resume_token(
            row.id, by=principal.owner.id, anybodys=administers(principal), at=int(self.clock())
        )
        return answer(await self._shown(resumed or row))

    async def pause_many(self, request: web.Request) -> web.Response:
        """`POST /admin/api/tokens/pause`: the ids of those that were paused by it, at most 500, and whether there are
        more. Again until there are none."""
        which, principal, _ = await self._many(request, routes.TOKEN_PAUSE_MANY)
        page = await self.store.pause_tokens(which, by=principal.owner.id, at=int(self.clock()))
        return _many(page)

    async def delete_many(self, request: web.Request) -> web.Response:
        """`POST /admin/api/tokens/delete`, optionally with a reason: as `pause_many`."""
        which, principal, document = await self._many(request, routes.TOKEN_DELETE_MANY)
        page = await self.store.delete_tokens(
            which, by=principal.owner.id, reason=_reason(document), at=int(self.clock())
        )
        return _many(page)

    async def list(self, request: web.Request) -> web.Response:
        """`GET /admin/api/tokens?limit&after&state&owner`: newest first, never with a secret."""
        principal = await self._asked(request, routes.TOKEN_LIST)
        page = await self.store.list_tokens(
            owner_id=self._listed_owner(principal, request.query.get("owner")),
            network=principal.owner.account.id if administers(principal) else None,
            state=cast(TokenState | None, request.query.get("state")),
            after=request.query.get("after"),
            limit=int(request.query.get("limit", DEFAULT_PAGE)),
            now=self.clock(),
        )
        used = await self.store.uses([row.id for row in page.rows], now=self.clock())
        rows = [self._listed(row, used.get(row.id)) for row in page.rows]
        return answer({"tokens": rows, "next": page.next})

    def _listed_owner(self, principal: Principal, owner: str | None) -> str | None:
        """Whose tokens are listed: one's own, or for an administrator whoever is asked for, else everybody's."""
        if owner == "me" or not administers(principal):
            if owner not in (None, "me", principal.owner.id):
                raise Problem("not-found", "There is no such owner.")
            return principal.owner.id
        return owner

    async def show(self, request: web.Request) -> web.Response:
        """`GET /admin/api/tokens/{id}`."""
        principal = await self._asked(request, routes.TOKEN_SHOW)
        return answer(await self._shown(await self._visible(principal, request)))

    async def delete(self, request: web.Request) -> web.Response:
        """`DELETE /admin/api/tokens/{id}`, optionally `{"reason"}`: 204, again and again."""
        principal, document = await self._told(request, routes.TOKEN_DELETE)
        row = await self._visible(principal, request)
        await self.store.delete_token(
            row.id, by=principal.owner.id, reason=_reason(document), at=int(self.clock())
        )
        return nothing()

    async def _sent(self, request: web.Request, route: Route) -> tuple[Principal, Body]:
        """Who asks, and the body: while it came, the token or session that asks can have ended."""
        principal = await self.callers.ask(request, route)
        sent = await self.exchanges.receive_json(request, self.limits)
        if sent.raw:
            principal = await self.callers.prove(request, route)
        return principal, sent

    async def _secret_wanted(self, request: web.Request, route: Route) -> tuple[Principal, Body]:
        """A request for a secret, which nobody asks for in another's name. Raises: Problem "on-behalf-of"."""
        principal, sent = await self._sent(request, route)
        asked.refuse_on_behalf(sent.keys | request[TARGET].query_names)
        asked.refuse_acting_headers(request.headers)
        route.query.check_query(request.query)
        route.body.check(sent.document)
        return principal, sent

    async def _told(self, request: web.Request, route: Route) -> tuple[Principal, dict[str, Any]]:
        principal, sent = await self._sent(request, route)
        route.query.check_query(request.query)
        route.body.check(sent.document)
        return principal, sent.document

    async def _asked(self, request: web.Request, route: Route) -> Principal:
        principal = await self.callers.ask(request, route)
        route.query.check_query(request.query)
        return principal

    async def _many(self, request: web.Request, route: Route) -> tuple[Which, Principal, dict[str, Any]]:
        principal, document = await self._told(request, route)
        if not administers(principal):
            raise Problem("denied", "Only an administrator of a network acts on many tokens at once.")
        which = asked.read_selection(document, principal)
        request[EVENT].subject = which.owner_id or which.made_by  # of the tokens each row says who and when
        return which, principal, document

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

    async def _visible(self, principal: Principal, request: web.Request) -> TokenRow:
        row = await self.store.token(request.match_info["id"])
        owner = None if row is None else await self.store.user(row.owner_id)
        if row is None or owner is None or not sees(principal, owner):
            raise Problem("not-found", "There is no such token.")
        request[EVENT].subject = row.id
        return row

    async def _made(self, row: TokenRow, text: str) -> web.Response:
        document = {"id": row.id, "token": text} | await self._shown(row)
        return answer(document, 201, {"Location": f"/admin/api/tokens/{row.id}"})

    async def _shown(self, row: TokenRow) -> dict[str, object]:
        used = await self.store.uses([row.id], now=self.clock())
        return self._listed(row, used.get(row.id))

    def _listed(self, row: TokenRow, used: UseRow | None) -> dict[str, object]:
        """A token as its owner and administrators see it. What was used in the last few seconds may not show yet."""
        return {
            "id": row.id,
            "description": row.description,
            "scopes": list(row.scopes),
            "state": row.state(self.clock()),
            "owner": row.owner_id,
            "created_at": rfc3339(row.created_at),
            "expires_at": rfc3339(row.expires_at),
            "not_before": moment(row.not_before),
            "rotated_at": moment(row.rotated_at),
            "overlap_until": moment(row.earlier_until),
            "paused_at": moment(row.paused_at),
            "paused_by": row.paused_by,
            "exposed_at": moment(row.exposed_at),
            "rotate_by": moment(row.rotate_by),
            "deleted_at": moment(row.deleted_at),
            "deleted_by": row.deleted_by,
            "delete_reason": row.delete_reason,
            "made_by": row.made_by,
            "outlives_maker": row.outlives_maker,
            "bootstrap": row.bootstrap,
            "allowed_networks": None if row.networks is None else [*row.networks],
            "accounts": None if row.accounts is None else [*row.accounts],
            "personal_records_per_day": row.personal_records_per_day,
            "last_used_at": None if used is None else rfc3339(used.at),
            "last_used_from": None if used is None else used.network,
            "last_used_for": None if used is None else used.operation,
            "old_secret_used_at": None if used is None else moment(used.earlier_at),
            "uses_24h": 0 if used is None else used.in_24h,
            "uses_30d": 0 if used is None else used.in_30d,
        }


def _once(request: web.Request, principal: Principal, sent: Body) -> Once | None:
    """The request behind its Idempotency-Key: of this owner, by this token, to this path, with this body."""
    whose = (principal.owner.id, principal.token_id, request[TARGET].path)
    return once(request.headers.getall("Idempotency-Key", []), whose=whose, body=sent.raw)


def _many(page: Page[str]) -> web.Response:
    return answer({"tokens": [*page.rows], "more": page.next is not None})


def _reason(document: dict[str, Any]) -> str:
    reason = document.get("reason", "")
    if not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS or not (reason or "-").isprintable():
        raise asked.invalid("reason", f"has to be printable text of at most {MAX_REASON_CHARS} characters")
    if scrub(reason) != reason:
        raise asked.invalid("reason", "holds a token, or a piece of one")
    return reason
