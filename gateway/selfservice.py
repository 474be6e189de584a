"""What an app that holds a token may ask about it, without a call to the vendor."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from gateway.authenticate import Authenticator
from gateway.config import Limits
from gateway.exchange import EVENT, HEAD, rfc3339
from gateway.ops import serve_only


@dataclass(frozen=True, slots=True)
class SelfService:
    """The handler of `GET /gateway/token`: what am I?"""

    authenticator: Authenticator
    limits: Limits

    def add_routes(self, router: web.UrlDispatcher) -> None:
        serve_only(router, ("GET",), "/gateway/token", self.token)

    async def token(self, request: web.Request) -> web.Response:
        """The token's own id, scopes, limits and expiry, and the account it acts for."""
        event = request[EVENT]
        event.act = "token.self"
        principal = event.principal = await self.authenticator.principal(
            request[HEAD].authorization, event.client
        )
        owner = principal.owner
        return web.json_response(
            {
                "id": principal.token_id,
                "scopes": sorted(principal.scopes),
                "expires_at": rfc3339(principal.expires_at),
                "account": owner.account.key,
                "role": owner.role,
                "accounts": None if principal.accounts is None else sorted(principal.accounts),
                "allowed_networks": None if principal.networks is None else [*map(str, principal.networks)],
                "limits": {"requests_per_minute": self.limits.requests_per_minute or None},
            },
            headers={"Gateway-Answer": "ok"},
        )
