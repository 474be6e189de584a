"""The sandbox behind sockets: one catch-all route for what the vendor serves, and `/sandbox/` for the tests.

    GET    /sandbox/journal?limit=20   what arrived, newest last: [{method, target, headers, body_bytes, credentials}]
    DELETE /sandbox/journal            forget it
    GET    /sandbox/faults             the faults to come: {"pending": ["500"]}
    POST   /sandbox/faults             {"next": "slow", "count": 2, "seconds": 0.5}: order some (faults.py)
    DELETE /sandbox/faults             order none

Requests to `/sandbox/` need no credential, are not journalled, and meet no faults.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.sandbox.errors import Json
from gateway.sandbox.exchange import Ask, Reply
from gateway.sandbox.journal import REMEMBERED, view
from gateway.sandbox.sandbox import Sandbox

LARGEST_BODY = 32 * 1024 * 1024
PIECES = 10
LOOK_EVERY_S = 0.05

SANDBOX = web.AppKey("sandbox", Sandbox)
STOPPING = web.AppKey("stopping", asyncio.Event)


def make_app(sandbox: Sandbox) -> web.Application:
    """An application to run with web.AppRunner; it keeps no state but the sandbox's."""
    app = web.Application(client_max_size=LARGEST_BODY)
    app[SANDBOX] = sandbox
    app[STOPPING] = asyncio.Event()
    app.on_shutdown.append(stop)
    app.router.add_get("/sandbox/journal", journal_read)
    app.router.add_delete("/sandbox/journal", journal_clear)
    app.router.add_get("/sandbox/faults", faults_read)
    app.router.add_post("/sandbox/faults", faults_order)
    app.router.add_delete("/sandbox/faults", faults_clear)
    app.router.add_route("*", "/{path:.*}", vendor)
    return app


async def start(sandbox: Sandbox, host: str = "127.0.0.1", port: int = 0) -> tuple[web.AppRunner, int]:
    """Serve the sandbox; returns the runner, to be cleaned up by the caller, and the port in use."""
    runner = web.AppRunner(
        make_app(sandbox), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
    )
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner, int(runner.addresses[0][1])


async def stop(app: web.Application) -> None:
    app[STOPPING].set()


# What the vendor serves


async def vendor(request: web.Request) -> web.StreamResponse:
    reply, fault = request.app[SANDBOX].arrive(await arrived(request))
    return await send(request, reply, fault.kind if fault else "", fault.seconds if fault else 0.0)


async def arrived(request: web.Request) -> Ask:
    pairs = [(decoded(name), decoded(value)) for name, value in request.raw_headers]
    return Ask(request.method, request.raw_path, pairs, await request.read())


def decoded(raw: bytes) -> str:
    """Header bytes as text that JSON can carry; HTTP calls them opaque, so nothing may fail here."""
    return raw.decode("utf-8", "backslashreplace")


async def send(request: web.Request, reply: Reply, fault: str, seconds: float) -> web.StreamResponse:
    """Write the reply, or whatever the fault makes of it."""
    if fault in ("hang", "close"):
        return await unanswered(request, wait=fault == "hang")
    if fault in ("truncate", "slow") or not reply.streamed or request.method == "HEAD":
        body = b"".join(reply.chunks)
        if fault == "truncate":
            return await truncated(request, reply, body)
        return await dripped(request, reply, body, seconds) if fault == "slow" else whole(reply, body)
    response = head(reply)
    await response.prepare(request)
    for chunk in reply.chunks:
        await response.write(chunk)
    await response.write_eof()
    return response


def head(reply: Reply) -> web.StreamResponse:
    return web.StreamResponse(
        status=reply.status, headers={**reply.headers, "Content-Type": reply.content_type}
    )


def whole(reply: Reply, body: bytes) -> web.Response:
    headers = {**reply.headers, "Content-Type": reply.content_type}
    return web.Response(status=reply.status, body=body, headers=headers)


async def unanswered(request: web.Request, wait: bool) -> web.StreamResponse:
    """Cut the connection, with `wait` only when the client has left or the server stops."""
    while wait and connected(request):
        wait = not await stopped_within(request.app[STOPPING], LOOK_EVERY_S)
    cut(request)
    return web.Response()  # goes nowhere: the transport is closed


async def stopped_within(stopping: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return False
    return True


def connected(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


def cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


async def truncated(request: web.Request, reply: Reply, body: bytes) -> web.StreamResponse:
    response = head(reply)
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    cut(request)
    return response


async def dripped(request: web.Request, reply: Reply, body: bytes, seconds: float) -> web.StreamResponse:
    response = head(reply)
    response.content_length = len(body)
    await response.prepare(request)
    size = max(1, -(-len(body) // PIECES))
    for place in range(0, len(body), size):
        await asyncio.sleep(seconds / PIECES)
        await response.write(body[place : place + size])
    await response.write_eof()
    return response


# What the tests ask


async def journal_read(request: web.Request) -> web.Response:
    limit = request.query.get("limit", str(REMEMBERED))
    if not limit.isdecimal():
        raise web.HTTPBadRequest(text="limit is a number")
    return web.json_response(view(request.app[SANDBOX].journal, int(limit)))


async def journal_clear(request: web.Request) -> web.Response:
    request.app[SANDBOX].journal.clear()
    return web.Response(status=204)


async def faults_read(request: web.Request) -> web.Response:
    return web.json_response({"pending": request.app[SANDBOX].faults.pending()})


async def faults_order(request: web.Request) -> web.Response:
    faults = request.app[SANDBOX].faults
    try:
        wish: Json = await request.json()
        faults.next(str(wish["next"]), int(wish.get("count", 1)), float(wish.get("seconds", 1.0)))
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        raise web.HTTPBadRequest(text=f"not a fault: {fault}") from None
    return web.json_response({"pending": faults.pending()})


async def faults_clear(request: web.Request) -> web.Response:
    request.app[SANDBOX].faults.clear()
    return web.Response(status=204)
