"""The OAuth surface: a token endpoint that refuses every grant, introspection, revocation, metadata and keys.

Tokens are made by the people who own them, on the credentials page or its API; there is no grant to get one by,
and no refresh token exists. Metadata says so with empty lists: leaving them out would announce RFC 8414's
defaults.

Sources: RFC 6749 sections 3.2 and 5.2, RFC 7009, RFC 7662, RFC 8414, RFC 9728; "Manage API Credentials" (Invoca
does not use OAuth refresh tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aiohttp import web

from gateway import tokens
from gateway.authenticate import Authenticator, as_principal, sees
from gateway.config import Limits
from gateway.exchange import EVENT, HEAD, Exchanges, as_response, receive
from gateway.model import SCOPES
from gateway.ops import serve_only
from gateway.problem import Problem, to_oauth_json
from gateway.store import Store, TokenRow, UserRow
from gateway.store.keys import LiveKeys

FORM = "application/x-www-form-urlencoded"
MAX_FORM_BYTES = 16_384
NO_GRANT = "No grant is offered. Tokens are made by the users who own them, on the credentials page."
NO_REFRESH = (
    "There are no refresh tokens. Tokens are made by the users who own them, on the credentials page."
)


class OAuthError(Exception):
    """An error of RFC 6749 section 5.2, answered with 400."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class OAuth:
    """Handlers of the OAuth endpoints. `public_url` is the issuer; nothing here is derived from Host."""

    exchanges: Exchanges
    public_url: str
    keys: LiveKeys
    store: Store
    authenticator: Authenticator
    clock: Callable[[], float]
    limits: Limits

    def add_routes(self, router: web.UrlDispatcher) -> None:
        serve_only(router, ("POST",), "/oauth/token", self.token)
        serve_only(router, ("POST",), "/oauth/introspect", self.introspect)
        serve_only(router, ("POST",), "/oauth/revoke", self.revoke)
        serve_only(router, ("GET",), "/.well-known/oauth-authorization-server", self.server_metadata)
        serve_only(router, ("GET",), "/.well-known/oauth-protected-resource", self.resource_metadata)
        serve_only(router, ("GET",), "/.well-known/jwks.json", self.jwks)

    async def token(self, request: web.Request) -> web.Response:
        """Refuse every grant, and a malformed request as such.

        A token of ours is no grant, whatever it is sent as: it has been seen in a body, and is marked exposed.
        """
        event = request[EVENT]
        event.act = "token.grant"
        try:
            received = await receive(request, self.limits.body_timeout_s, MAX_FORM_BYTES)
            await self.exchanges.expose(received.decode("utf-8", "replace"), event)
            grant = _form(request, received).get("grant_type")
            if not grant:
                raise OAuthError("invalid_request", "grant_type is missing.")
            raise OAuthError("unsupported_grant_type", NO_REFRESH if grant == "refresh_token" else NO_GRANT)
        except OAuthError as error:
            return _refuse(request, error)

    async def introspect(self, request: web.Request) -> web.Response:
        """RFC 7662: for a bearer with `tokens:manage`, about tokens it may see. All else is inactive."""
        event = request[EVENT]
        event.act = "token.introspect"
        principal = event.principal = await self.authenticator.principal(
            request[HEAD].authorization, event.client
        )
        if "tokens:manage" not in principal.scopes:
            raise Problem("insufficient-scope", "Introspection needs tokens:manage.", scope="tokens:manage")
        try:
            text = _token_of(await self._form(request))
        except OAuthError as error:
            return _refuse(request, error)
        try:
            token, user = await self.authenticator.holder(text)
        except Problem as problem:
            if problem.kind != "invalid-token":
                raise
            return _ok({"active": False})
        if not sees(principal, user):
            return _ok({"active": False})
        event.subject = token.id
        return _ok(self._introspection(token, user))

    def _introspection(self, token: TokenRow, user: UserRow) -> dict[str, object]:
        return {
            "active": True,
            "scope": " ".join(token.scopes),
            "client_id": token.id,
            "sub": user.id,
            "iss": self.public_url,
            "aud": self.public_url,
            "iat": token.created_at if token.by_earlier else token.issued_at,
            "exp": as_principal(token, user).expires_at,
            "token_type": "Bearer",
        }

    async def revoke(self, request: web.Request) -> web.Response:
        """RFC 7009: whoever presents a token may end it. Unknown ones are answered alike.

        Not only a live one: a paused token, or one whose owner is disabled, could come back to life.
        """
        event = request[EVENT]
        event.act = "token.revoke"
        try:
            text = _token_of(await self._form(request))
        except OAuthError as error:
            return _refuse(request, error)
        try:
            claims = await self.authenticator.genuine(text)
        except Problem:
            return _ok({})
        found = await self.store.find(tokens.jti_digest(claims.jti))
        if found is None or found[0].id != claims.token_id:
            return _ok({})
        token, user = found
        event.subject = token.id
        if token.by_earlier:
            # An old copy ends what is left of its overlap: it is no reason to end the new secret.
            now = int(self.clock())
            await self.store.mark_exposed(tokens.jti_digest(claims.jti), at=now, rotate_by=now)
        elif token.deleted_at is None:  # what is known already costs no write
            await self.store.delete_token(
                token.id, by=user.id, reason="presented at /oauth/revoke", at=int(self.clock())
            )
        return _ok({})

    async def server_metadata(self, _: web.Request) -> web.Response:
        """RFC 8414."""
        return _ok(
            {
                "issuer": self.public_url,
                "token_endpoint": self.public_url + "/oauth/token",
                "introspection_endpoint": self.public_url + "/oauth/introspect",
                "revocation_endpoint": self.public_url + "/oauth/revoke",
                "jwks_uri": self.public_url + "/.well-known/jwks.json",
                "scopes_supported": list(SCOPES),
                "response_types_supported": [],
                "grant_types_supported": [],
                "token_endpoint_auth_methods_supported": ["none"],
                "revocation_endpoint_auth_methods_supported": ["none"],
                "introspection_endpoint_auth_methods_supported": ["Bearer"],
            }
        )

    async def resource_metadata(self, _: web.Request) -> web.Response:
        """RFC 9728."""
        return _ok(
            {
                "resource": self.public_url,
                "resource_name": "Invoca Transactions API and Network Integration API",
                "authorization_servers": [self.public_url],
                "jwks_uri": self.public_url + "/.well-known/jwks.json",
                "scopes_supported": list(SCOPES),
                "bearer_methods_supported": ["header"],
            }
        )

    async def jwks(self, _: web.Request) -> web.Response:
        await self.keys.refresh()
        return _ok(self.keys.ring.jwks())

    async def _form(self, request: web.Request) -> dict[str, str]:
        """The parameters of a form body, each once. Raises: OAuthError "invalid_request"."""
        _refuse_other_places(request)
        return _form(request, await receive(request, self.limits.body_timeout_s, MAX_FORM_BYTES))


def _refuse_other_places(request: web.Request) -> None:
    if request.query_string:
        raise OAuthError("invalid_request", "Parameters belong into the body.")
    if request[HEAD].content_type.partition(";")[0].strip().lower() != FORM:
        raise OAuthError("invalid_request", f"The body has to be {FORM}.")


def _form(request: web.Request, received: bytes) -> dict[str, str]:
    _refuse_other_places(request)
    try:
        pairs = parse_qsl(
            received.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict"
        )
    except ValueError:
        raise OAuthError("invalid_request", "The body is not form-encoded.") from None
    form = dict(pairs)
    if len(form) != len(pairs):  # RFC 6749 3.2
        raise OAuthError("invalid_request", "A parameter is repeated.")
    return form


def _token_of(form: dict[str, str]) -> str:
    token = form.get("token")
    if not token:
        raise OAuthError("invalid_request", "token is missing.")
    return token


def _refuse(request: web.Request, error: OAuthError) -> web.Response:
    event = request[EVENT]
    event.problem, event.outcome = error.error, "refused"
    response = as_response(to_oauth_json(error.error, error.description))
    if not request.content.is_eof():
        response.force_close()
    return response


def _ok(document: Mapping[str, object]) -> web.Response:
    return web.json_response(document, headers={"Gateway-Answer": "ok"})
