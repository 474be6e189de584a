"""The admin sub-app: tokens and people as JSON. It has its own application, and may have its own listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.admin import routes
from gateway.admin.answers import answer
from gateway.admin.api import TokensApi
from gateway.admin.caller import Callers
from gateway.admin.openapi import document
from gateway.admin.people import PeopleApi
from gateway.exchange import EVENT

__all__ = ["Callers", "PeopleApi", "TokensApi", "make_app"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MOUNT = "/admin"


def make_app(tokens: TokensApi, people: PeopleApi, callers: Callers, origin: str) -> web.Application:
    """The sub-app, to be mounted at `/admin/`: a handler for every row of the table."""
    shown = document(routes.ROUTES, origin, callers.cookie_name)

    async def show(request: web.Request) -> web.StreamResponse:
        request[EVENT].act = routes.DOCUMENT.act
        routes.DOCUMENT.query.check_query(request.query)
        return answer(shown)

    app = web.Application()
    app.on_response_prepare.append(_guard)
    handlers = _handlers(tokens, people) | {routes.DOCUMENT: show}
    for route in routes.ROUTES:
        app.router.add_route(route.method, route.path.removeprefix(MOUNT), handlers[route])
    for others in ("users", "owners", "accounts"):
        app.router.add_post(f"/api/{others}/{{id}}/tokens", tokens.for_another)
    return app


def _handlers(tokens: TokensApi, people: PeopleApi) -> dict[routes.Route, Handler]:
    return {
        routes.SESSION_OPEN: people.open_session,
        routes.SESSION_SHOW: people.show_session,
        routes.SESSION_CLOSE: people.close_session,
        routes.PASSWORD_SET: people.set_password,
        routes.USER_LIST: people.list,
        routes.USER_ADD: people.add,
        routes.USER_SHOW: people.show,
        routes.USER_CHANGE: people.change,
        routes.USER_DISABLE: people.disable,
        routes.USER_ENABLE: people.enable,
        routes.USER_RESET: people.reset,
        routes.USER_SIGN_OUT: people.sign_out,
        routes.TOKEN_LIST: tokens.list,
        routes.TOKEN_CREATE: tokens.create,
        routes.TOKEN_PAUSE_MANY: tokens.pause_many,
        routes.TOKEN_DELETE_MANY: tokens.delete_many,
        routes.TOKEN_SHOW: tokens.show,
        routes.TOKEN_DELETE: tokens.delete,
        routes.TOKEN_ROTATE: tokens.rotate,
        routes.TOKEN_PAUSE: tokens.pause,
        routes.TOKEN_RESUME: tokens.resume,
    }


async def _guard(_: web.Request, response: web.StreamResponse) -> None:
    """What keeps an answer from being read as something else, or by another site's page."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Referrer-Policy"] = "no-referrer"
