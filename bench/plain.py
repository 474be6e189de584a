"""The usual way to write such a gateway, to compare with: `python -m bench.plain` (see `--help`).

`web.Application`, `ClientSession`, a token checked by PyJWT and remembered until it expires, the Authorization
header swapped, everything else passed on. It has no policies, no store, no records and few defences.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import AsyncIterator

import jwt
import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

NETWORK_ONLY = re.compile(r"/api/\d{4}-\d\d-\d\d/\d+/")
NOT_PASSED_ON = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect",
     "proxy-authorization", "authorization"}
)  # fmt: skip
SKIPPED = ("User-Agent", "Accept", "Accept-Encoding")


class Plain:
    """One proxied request after the other."""

    def __init__(self, upstream: str, credential: str, secret: str) -> None:
        self._upstream = upstream
        self._credential = credential
        self._secret = secret
        self._known: dict[str, tuple[float, str]] = {}
        self._session: ClientSession | None = None

    async def session(self, _: web.Application) -> AsyncIterator[None]:
        async with ClientSession(
            auto_decompress=False,
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=120),
            connector=TCPConnector(limit=256),
        ) as self._session:
            yield

    def _role(self, authorization: str | None) -> str | None:
        """The role in a valid token, or None."""
        known = self._known.get(authorization or "")
        if known is not None and time.time() < known[0]:
            return known[1]
        scheme, _, token = (authorization or "").partition(" ")
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}
            )
        except jwt.PyJWTError:
            return None
        if scheme.lower() != "bearer":
            return None
        if len(self._known) >= 4096:
            self._known.clear()
        self._known[authorization or ""] = (claims["exp"], claims.get("role", ""))
        return str(claims.get("role", ""))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        role = self._role(request.headers.get("Authorization"))
        if role is None:
            return web.Response(status=401, text="no valid token\n")
        raw = request.raw_path
        if role != "network" and NETWORK_ONLY.match(raw):
            return web.Response(status=403, text="denied\n")
        fields = [(k, v) for k, v in request.headers.items() if k.lower() not in NOT_PASSED_ON]
        fields.append(("Authorization", self._credential))
        assert self._session is not None
        async with self._session.request(
            request.method,
            URL(self._upstream + raw, encoded=True),
            headers=fields,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
            skip_auto_headers=SKIPPED,
        ) as reply:
            response = web.StreamResponse(status=reply.status, reason=reply.reason)
            for name, value in reply.headers.items():
                if name.lower() not in NOT_PASSED_ON:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for piece in reply.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--upstream-token", required=True)
    parser.add_argument("--secret", required=True, help="of HS256, to verify tokens with")
    options = parser.parse_args()
    plain = Plain(options.upstream, options.upstream_token, options.secret)
    app = web.Application()
    app.cleanup_ctx.append(plain.session)
    app.router.add_route("*", "/{path:.*}", plain.handle)
    web.run_app(
        app, host="127.0.0.1", port=options.port, access_log=None, print=None, loop=uvloop.new_event_loop()
    )


if __name__ == "__main__":
    main()
