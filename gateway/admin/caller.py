"""Who asks the admin API: a bearer token, or a browser with a session.

A browser sends its cookie to us whoever made it send the request. So what a session asks for has to come from our
own pages, as far as the browser says where it comes from (Origin, Sec-Fetch-Site), and every change has to carry
the session's CSRF token besides, which another site can neither read nor guess. A token is sent by nobody unasked,
and needs none of this. A request with both is refused: which of them asks would be a guess.

Sources: RFC 6265bis sections 4.1.3 (name prefixes) and 5.5, W3C Fetch Metadata, OWASP CSRF cheat sheet.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import web

from gateway.admin.routes import CSRF, Route
from gateway.authenticate import Authenticator
from gateway.config import LOOPBACK_NAMES, is_loopback
from gateway.exchange import EVENT, HEAD
from gateway.model import Principal
from gateway.problem import Problem
from gateway.ratelimit import RateLimit
from gateway.signin import FORM, SignedIn, SignIn

SITES = ("same-origin", "none")
"""Of Sec-Fetch-Site: from our own pages, or by nobody's page (typed in, a bookmark)."""
DEFAULT_PORTS = {"http": 80, "https": 443}


class Callers:
    """Proves who asks, by whichever of the two. `origin` is where browsers reach the admin sub-app."""

    def __init__(self, authenticator: Authenticator, sign_in: SignIn, rate: RateLimit, origin: str) -> None:
        self._authenticator = authenticator
        self._sign_in = sign_in
        self._rate = rate
        self._origins = own_origins(origin)
        self._secure = origin.startswith("https:")

    @property
    def cookie_name(self) -> str:
        """`__Host-` is a promise that browsers keep: over https only, from this host alone, for all of it."""
        return "__Host-invoca-gateway" if self._secure else "invoca-gateway"

    async def ask(self, request: web.Request, route: Route) -> Principal:
        """Who asks, allowed to ask for this route; once for each request.

        Raises: Problem "no-credential", "invalid-token", "invalid-session", "two-credentials", "insufficient-scope",
        "sign-in-required", "cross-site", "invalid-csrf-token", "network-not-allowed", "rate-limited".
        """
        request[EVENT].act = route.act
        principal = await self.prove(request, route)
        self._rate.spend(principal.token_id)
        return principal

    async def prove(self, request: web.Request, route: Route) -> Principal:
        """As `ask`, and uncounted: again after the body came, while which the token or session can have ended."""
        text = self.cookie(request)
        if text is not None:
            return (await self.signed_in(request, route)).principal
        event = request[EVENT]
        principal = event.principal = await self._authenticator.principal(
            request[HEAD].authorization, event.client
        )
        if "tokens:manage" not in principal.scopes:
            raise Problem("insufficient-scope", "This needs the scope tokens:manage.", scope="tokens:manage")
        if route.who == "session" or (route.who == "sign-in" and not principal.bootstrap):
            raise Problem("sign-in-required", "A token does not do: sign in.")
        return principal

    async def signed_in(self, request: web.Request, route: Route) -> SignedIn:
        """Who is signed in. Raises: as `ask`; "sign-in-required" for a token."""
        text = self.cookie(request)
        if request[HEAD].authorization is not None:
            raise Problem("two-credentials" if text is not None else "sign-in-required")
        if text is None:
            raise Problem("no-credential", "Sign in.")
        self.refuse_cross_site(request)
        event = request[EVENT]
        try:
            found = await self._sign_in.prove(text)
        except Problem as problem:
            if problem.kind == "invalid-session":
                self._authenticator.failed(event.client)
            raise
        event.actor, event.session = found.owner, found.session.id
        if route.unsafe and not _carries(request, found.csrf_token):
            raise Problem("invalid-csrf-token", f"Send the session's CSRF token as {CSRF}.")
        return found

    def refuse_cross_site(self, request: web.Request) -> None:
        """Refuse what a browser says comes from elsewhere. Raises: Problem "cross-site"."""
        origins = request.headers.getall("Origin", [])
        sites = request.headers.getall("Sec-Fetch-Site", [])
        if not (set(origins) <= self._origins and set(sites) <= set(SITES)):
            raise Problem("cross-site", "It has to come from this gateway's own pages.")

    def cookie(self, request: web.Request) -> str | None:
        """The session that came with a request, if one did. Raises: Problem "invalid-session" for several."""
        found = session_cookies(request.headers.getall("Cookie", []), self.cookie_name)
        if len(found) > 1:  # somebody else set one beside it
            raise Problem("invalid-session", "More than one session was sent.")
        return found[0] if found else None

    def keep(self, response: web.Response, text: str) -> web.Response:
        """Give the browser a session. Without an end of its own it ends with the browser, if not before."""
        return self._set(response, text)

    def drop(self, response: web.Response) -> web.Response:
        return self._set(response, "", "; Max-Age=0")

    def _set(self, response: web.Response, text: str, more: str = "") -> web.Response:
        # The prefix asks for Path=/ and Secure. Without it, on loopback, the cookie goes no further than it has to.
        where = "Path=/; Secure" if self._secure else "Path=/admin"
        response.headers["Set-Cookie"] = (
            f"{self.cookie_name}={text}; {where}; HttpOnly; SameSite=Strict{more}"
        )
        return response


def administers(principal: Principal) -> bool:
    """Whether somebody is an administrator of a network: one of an advertiser administers nothing."""
    return principal.owner.administrator and principal.owner.account.kind == "network"


def own_origins(origin: str) -> frozenset[str]:
    """The origins of our own pages as browsers write them: the one of the configuration; on loopback all its names."""
    parts = urlsplit(origin)
    port = "" if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    host = parts.hostname or ""
    names = LOOPBACK_NAMES if parts.scheme == "http" and is_loopback(host) else ()
    shown = (f"[{name}]" if ":" in name else name for name in {host, *names})
    return frozenset(f"{parts.scheme}://{name}{port}" for name in shown)


def session_cookies(values: Sequence[str], name: str) -> list[str]:
    """Every session of this name in Cookie headers, in order; what is of no session's form is not one.

    Byte for byte: no quotes are taken off and nothing is decoded, because nothing of ours is written so.
    """
    pairs = [pair.strip(" \t").partition("=") for value in values for pair in value.split(";")]
    return [text for found, _, text in pairs if found == name and FORM.fullmatch(text) is not None]


def _carries(request: web.Request, csrf_token: str) -> bool:
    sent = request.headers.getall(CSRF, [])
    return len(sent) == 1 and hmac.compare_digest(sent[0].encode("utf-8", "replace"), csrf_token.encode())
