"""People as JSON: signing in and out, passwords, and the users of a network for its administrators.

An administrator manages the users of their own network and of the accounts in it; everybody else does not exist for
them, and gets the same 404 as an unknown id. What hands out a code, or widens what somebody may do, is for who is
signed in: a token that got lost is not a way in. Stopping somebody is for a token as well.

A code is shown once, to the administrator who asked for it and passes it on. Until it is used the user's password
and sessions are as they were; its use ends every session, and is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

from gateway.admin import routes
from gateway.admin.answers import answer, nothing
from gateway.admin.caller import Callers, administers
from gateway.admin.request import invalid
from gateway.admin.routes import Route
from gateway.config import Limits
from gateway.exchange import EVENT, Exchanges, rfc3339
from gateway.model import Account, AccountKind, Principal
from gateway.problem import Problem
from gateway.signin import SignedIn, SignIn, new_code
from gateway.store import NewCode, Store, UserRow

DEFAULT_PAGE = 50


@dataclass(frozen=True, slots=True)
class PeopleApi:
    """The handlers. `clock` is in UTC seconds; `has_credential` says whether an account has an upstream credential
    of its own."""

    exchanges: Exchanges
    callers: Callers
    sign_in: SignIn
    store: Store
    limits: Limits
    has_credential: Callable[[str], bool]
    clock: Callable[[], float]

    # --- one's own sign-in

    async def open_session(self, request: web.Request) -> web.Response:
        """`POST /admin/api/session`: 201 with a new session in a cookie. One that was presented ends for it."""
        event = request[EVENT]
        event.act = routes.SESSION_OPEN.act
        self.callers.refuse_cross_site(request)
        document = await self._document(request, routes.SESSION_OPEN)
        before = self.callers.cookie(request)
        who = await self.sign_in.open(document["email"], document["password"], event, before)
        event.actor, event.session = who.owner, who.session.id
        return self.callers.keep(answer(_signed_in(who), 201), who.text)

    async def show_session(self, request: web.Request) -> web.Response:
        """`GET /admin/api/session`: who one is, and the CSRF token."""
        request[EVENT].act = routes.SESSION_SHOW.act
        who = await self.callers.signed_in(request, routes.SESSION_SHOW)
        routes.SESSION_SHOW.query.check_query(request.query)
        return answer(_signed_in(who))

    async def close_session(self, request: web.Request) -> web.Response:
        """`DELETE /admin/api/session`: 204, and the cookie is gone."""
        request[EVENT].act = routes.SESSION_CLOSE.act
        who = await self.callers.signed_in(request, routes.SESSION_CLOSE)
        await self._document(request, routes.SESSION_CLOSE)
        await self.sign_in.close(who.text)
        return self.callers.drop(nothing())

    async def set_password(self, request: web.Request) -> web.Response:
        """`POST /admin/api/password`: by a code, 204; by the old one and a session, 200 with a new session."""
        event = request[EVENT]
        event.act = routes.PASSWORD_SET.act
        self.callers.refuse_cross_site(request)
        document = await self._document(request, routes.PASSWORD_SET)
        if "code" in document:
            user = await self.sign_in.use_code(document["code"], document["password"], event)
            event.subject = user.id
            return nothing()
        who = await self.callers.signed_in(request, routes.PASSWORD_SET)
        event.subject = who.user.id
        now = await self.sign_in.change_password(who, document["old_password"], document["password"], event)
        event.session = now.session.id
        return self.callers.keep(answer(_signed_in(now)), now.text)

    # --- the users of a network

    async def list(self, request: web.Request) -> web.Response:
        """`GET /admin/api/users?limit&after`: newest first."""
        principal, _ = await self._administrator(request, routes.USER_LIST)
        page = await self.store.list_users(
            network=principal.owner.account.id,
            after=request.query.get("after"),
            limit=int(request.query.get("limit", DEFAULT_PAGE)),
        )
        return answer({"users": [shown(row) for row in page.rows], "next": page.next})

    async def add(self, request: web.Request) -> web.Response:
        """`POST /admin/api/users`: 201 with a one-time code, this once."""
        principal, document = await self._administrator(request, routes.USER_ADD)
        account = await self._account(principal, document["account"])
        text, code = new_code("activation", self.clock())
        user, _ = await self.store.people.add(
            document["email"],
            account,
            document.get("role", "member"),
            document.get("administrator", False),
            code=code,
        )
        request[EVENT].subject = user.id
        return _invited(user, text, code, {"Location": f"{routes.API}/users/{user.id}"})

    async def show(self, request: web.Request) -> web.Response:
        """`GET /admin/api/users/{id}`."""
        principal, _ = await self._administrator(request, routes.USER_SHOW)
        return answer(shown(await self._visible(principal, request)))

    async def change(self, request: web.Request) -> web.Response:
        """`POST /admin/api/users/{id}`: 200; from the answer on the user's tokens may do what the user now may."""
        principal, document = await self._administrator(request, routes.USER_CHANGE)
        await self._visible(principal, request)
        if not document:
            raise Problem("invalid-input", "Say what is to change: role, administrator or account.")
        account = None
        if "account" in document:
            account = await self._account(principal, document["account"])
        return await self._changed(
            principal,
            request,
            role=document.get("role"),
            administrator=document.get("administrator"),
            account=account,
        )

    async def disable(self, request: web.Request) -> web.Response:
        """`POST /admin/api/users/{id}/disable`: 200, again and again."""
        principal, _ = await self._administrator(request, routes.USER_DISABLE)
        return await self._changed(principal, request, active=False)

    async def enable(self, request: web.Request) -> web.Response:
        """`POST /admin/api/users/{id}/enable`: 200, again and again."""
        principal, _ = await self._administrator(request, routes.USER_ENABLE)
        return await self._changed(principal, request, active=True)

    async def reset(self, request: web.Request) -> web.Response:
        """`POST /admin/api/users/{id}/reset`: 201 with a one-time code, this once; the one before opens nothing."""
        principal, _ = await self._administrator(request, routes.USER_RESET)
        text, code = new_code("reset", self.clock())
        user = await self.store.people.give_code(
            request.match_info["id"], code, network=principal.owner.account.id
        )
        return _invited(_known(user), text, code)

    async def sign_out(self, request: web.Request) -> web.Response:
        """`DELETE /admin/api/users/{id}/sessions`: 204. One's own are everybody's to end."""
        route = routes.USER_SIGN_OUT
        principal, _ = await self._manager(request, route)
        if request.match_info["id"] != principal.owner.id:
            _refuse_others(principal)
            await self._visible(principal, request)
        await self.store.people.end_sessions(request.match_info["id"])
        return nothing()

    # --- what several of them share

    async def _document(self, request: web.Request, route: Route) -> dict[str, Any]:
        document = (await self.exchanges.receive_json(request, self.limits)).document
        route.query.check_query(request.query)
        route.body.check(document)
        return document

    async def _manager(self, request: web.Request, route: Route) -> tuple[Principal, dict[str, Any]]:
        """Who asks, and the body; the user it is about is recorded, also when it is refused."""
        event, about = request[EVENT], request.match_info.get("id")
        if about is not None and routes.USER_ID.fault(about) is None:
            event.subject = about
        principal = await self.callers.ask(request, route)
        document = {}
        if route.unsafe:
            document = await self._document(request, route)
            # While the body came, the token or session that asks can have ended.
            principal = await self.callers.prove(request, route)
        else:
            route.query.check_query(request.query)
        return principal, document

    async def _administrator(self, request: web.Request, route: Route) -> tuple[Principal, dict[str, Any]]:
        principal, document = await self._manager(request, route)
        _refuse_others(principal)
        return principal, document

    async def _visible(self, principal: Principal, request: web.Request) -> UserRow:
        row = await self.store.user(request.match_info["id"])
        return _known(None if row is None or row.account.network != principal.owner.account.id else row)

    async def _changed(self, principal: Principal, request: web.Request, **changes: Any) -> web.Response:
        """The user after a change, which is refused where it would leave the network without an administrator."""
        row = await self.store.people.change(
            request.match_info["id"], network=principal.owner.account.id, keep_one=True, **changes
        )
        return answer(shown(_known(row)))

    async def _account(self, principal: Principal, key: str) -> Account:
        """An account of the administrator's network. One that is not kept yet becomes part of it.

        Unless it has an upstream credential of its own: then the operator says whose it is, on the command line, or
        an administrator could reach with it what is another network's.
        """
        kind, _, number = key.partition(":")
        own = principal.owner.account
        account = Account(cast(AccountKind, kind), number, own.id)
        if account == own:
            return own
        kept = await self.store.account(account.kind, number)
        if kept == account:
            return account
        if kept is not None or account.kind == "network" or await self._has_credential(key):
            raise invalid("account", "is not an account of your network")
        return account

    async def _has_credential(self, key: str) -> bool:
        """Whether there is one, usable now or not, here or in the store."""
        return self.has_credential(key) or any(row.account == key for row in await self.store.credentials())


def shown(row: UserRow) -> dict[str, object]:
    """A user as administrators see them, and themselves."""
    return {
        "id": row.id,
        "email": row.email,
        "account": row.account.key,
        "network": row.account.network,
        "role": row.role,
        "administrator": row.administrator,
        "state": "active" if row.active else "disabled",
        "created_at": rfc3339(row.created_at),
    }


def _signed_in(who: SignedIn) -> dict[str, Any]:
    return {
        "user": shown(who.user),
        "session": who.session.id,
        "csrf_token": who.csrf_token,
        "expires_at": rfc3339(who.session.ends_at),
    }


def _invited(user: UserRow, text: str, code: NewCode, fields: dict[str, str] | None = None) -> web.Response:
    document = {"code": text, "code_expires_at": rfc3339(code.ends_at)} | shown(user)
    return answer(document, 201, fields)


def _refuse_others(principal: Principal) -> None:
    if not administers(principal):
        raise Problem("denied", "Only an administrator of a network manages its users.")


def _known(row: UserRow | None) -> UserRow:
    if row is None:
        raise Problem("not-found", "There is no such user.")
    return row
