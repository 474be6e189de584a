"""What wraps every exchange on every surface: a request id, one record, and problems turned into answers.

One middleware, outermost: the surfaces inside it raise `Problem`s and never write an answer for one. After the
first byte of an answer is out nothing can be turned into anything: the client's connection is broken off.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

from aiohttp import HttpVersion, HttpVersion11, web
from aiohttp.typedefs import Middleware

from gateway import body, headers, target
from gateway.audit import Recorder
from gateway.authenticate import Authenticator
from gateway.body import Body
from gateway.config import Limits
from gateway.lastuse import LastUse
from gateway.metrics import Metrics
from gateway.model import AuditEvent, Principal
from gateway.problem import Headers, Problem, Wire
from gateway.target import Target, fully_decoded
from gateway.tokens import PREFIX, find_tokens, scrub

EVENT = web.RequestKey("event", AuditEvent)
HEAD = web.RequestKey("head", headers.Head)
TARGET = web.RequestKey("target", Target)
CLAIMED = web.RequestKey("claimed", HttpVersion)
"""The version a head claims, where it is none that an answer may be written in (RFC 9110 2.5): set by `wire.py`."""
BEGUN = web.RequestKey("begun", web.StreamResponse)
"""The answer whose head is out."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ADMIN_PAGE = "/admin/"
BODY_GRACE_S, MIN_BODY_RATE = 5.0, 1_024
"""A body has so many seconds, and one more for each so many bytes that came: nobody drips one for half a minute."""
REFUSED_US_S = 60.0
MAX_DECODED = 16_384
MAX_EXPOSED = 8  # a URL has room for few; each costs a signature
log = logging.getLogger("gateway.exchange")

BY_STATUS = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large", 417: "expectation-failed"}


class Exchanges:
    """Makes the middleware. Knows how to begin an event, answer a problem, and record what happened."""

    def __init__(
        self,
        recorder: Recorder,
        authenticator: Authenticator,
        metrics: Metrics,
        exposed_hours: int,
        clock: Callable[[], float],
        uses: LastUse,
    ) -> None:
        self._uses = uses
        self._exposed_hours = exposed_hours
        self._recorder = recorder
        self._authenticator = authenticator
        self._metrics = metrics
        self.clock = clock
        self._ids = _request_ids(secrets.token_hex(8))
        self._refused_us: dict[str, float] = {}

    def begin(self, method: str, client: str, surface: str) -> AuditEvent:
        """A new event. Its request id is unique: 64 random bits of the process, and a count."""
        return AuditEvent(next(self._ids), self.clock(), surface, method, client)

    def middleware(self) -> Middleware:
        @web.middleware
        async def exchange(request: web.Request, handler: Handler) -> web.StreamResponse:
            event = self.begin(request.method, request.remote or "", surface_of(request.path))
            request[EVENT] = event
            try:
                response = await self._answer(request, handler, event)
                event.status = response.status
                return response
            except BaseException as fault:
                _note_fault(event, fault)
                raise
            finally:
                self.finish(event)

        return exchange

    async def _answer(self, request: web.Request, handler: Handler, event: AuditEvent) -> web.StreamResponse:
        try:
            if request.protocol.writing_paused:  # who takes no answers is not worked for until they do
                await request.writer.drain()
            # The version a lying head claims is judged too, so this comes before anything reads it.
            claimed = request.get(CLAIMED, request.version)
            request[HEAD] = headers.judge(request.method, (claimed.major, claimed.minor), request.raw_headers)
            event.client = self._authenticator.client(event.client, request[HEAD].forwarded_for)
            # On every surface, and before a parameter's name is judged: a token in a URL has been seen.
            if "%" in request.raw_path or PREFIX in request.raw_path:
                await self.refuse_exposed(request.raw_path, "query", event)
            if request[HEAD].carried:
                await self.refuse_exposed(request[HEAD].carried, "header", event)
            request[TARGET] = _judged(request)
            return await handler(request)
        except Problem as problem:
            return self._refuse(request, event, problem)
        except web.HTTPException as error:
            allow = error.headers.get("Allow")
            kind = BY_STATUS.get(error.status, "bad-request")
            named: Headers = (("Allow", ", ".join(allow.split(","))),) if allow else ()
            return self._refuse(request, event, Problem(kind, headers=named))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.error("internal-error: request %s\n%s", event.request_id, trace(error))
            self._metrics.count("alarms", "internal-error")
            event.outcome = "bug"
            return self._refuse(request, event, Problem("internal-error"))

    async def refuse_exposed(self, text: str, place: str, event: AuditEvent) -> None:
        """Refuse a text that holds a token of ours, and mark that token exposed. `place`: query, body or header.

        Raises: Problem "credential-in-query", "credential-in-body" or "credential-in-header".
        """
        if await self.expose(text, event):
            raise Problem(
                f"credential-in-{place}",
                "A token was sent where it can be read: send it in the Authorization header alone, and rotate it.",
            )

    async def expose(self, text: str, event: AuditEvent) -> bool:
        """Whether a text holds a token of ours, or a piece of one; each that is whole is marked exposed."""
        plain = fully_decoded(text) if "%" in text and len(text) <= MAX_DECODED else text
        if PREFIX not in plain and PREFIX not in text:
            return False
        # One that was cut short is refused too: there is no other reason for such a text than a token.
        for token in (find_tokens(text) or find_tokens(plain))[:MAX_EXPOSED]:
            marked = await self._authenticator.mark_exposed(token, self._exposed_hours)
            if marked is not None:
                event.act, event.subject = "token.exposed", marked
                self._metrics.count("exposed_tokens")
        return True

    async def receive_json(self, request: web.Request, limits: Limits) -> Body:
        """The whole body as one strictly parsed JSON object; nothing for no body at all.

        Raises: as `receive` and `refuse_exposed`, Problem "unsupported-media-type", and those of `body.judge`.
        """
        head, event = request[HEAD], request[EVENT]
        if head.length == 0:
            return body.EMPTY
        if not headers.is_json(head.content_type):
            raise Problem("unsupported-media-type", "Send the body as application/json in UTF-8.")
        raw = await receive(request, limits.body_timeout_s, limits.max_body_bytes)
        event.bytes_in = len(raw)
        if not raw:
            return body.EMPTY
        # As it was sent first: what is no JSON, or is refused for a name in it, has been seen all the same.
        await self.refuse_exposed(raw.decode("utf-8", "replace"), "body", event)
        sent = body.judge(raw)
        for text in sent.suspect:
            await self.refuse_exposed(text, "body", event)
        return sent

    def _refuse(self, request: web.Request, event: AuditEvent, problem: Problem) -> web.StreamResponse:
        event.problem = problem.kind
        if event.outcome != "bug":
            event.outcome = "refused"
        begun: web.StreamResponse | None = request.get(BEGUN)
        if begun is not None:  # a second answer would be read as more of the first
            break_off(request.transport)
            return begun
        response = as_response(problem.to_problem_json(event.request_id))
        event.bytes_out = len(response.body or b"") if isinstance(response.body, bytes) else 0
        # The rest of an unread body is nobody's next request; and where a refused head ends is a guess.
        if HEAD not in request or not request.content.is_eof():
            response.force_close()
        return response

    def finish(self, event: AuditEvent) -> None:
        """Record an exchange that is over."""
        self._recorder.record(event)
        self._uses.see(event)
        if event.problem == "upstream-refused-us":
            self._alarm_refused(event)
        self._metrics.count("exchanges", event.surface, event.status, event.problem or "")
        if event.shadow is not None:
            self._count_dissent(event)
        for name in event.withheld or ():
            self._metrics.count("withheld", name)

    def _count_dissent(self, event: AuditEvent) -> None:
        decision, dissent = event.decision, event.dissent
        if decision is not None and dissent is not None:
            self._metrics.count("shadow_disagreements", decision.outcome, dissent.outcome)

    def _alarm_refused(self, event: AuditEvent) -> None:
        """Somebody has to replace our credential: counted every time, logged once a minute for each account."""
        self._metrics.count("alarms", "upstream-refused-us")
        account = "" if event.principal is None else event.principal.owner.account.key
        if event.began >= self._refused_us.get(account, 0.0) + REFUSED_US_S:
            self._refused_us[account] = event.began
            log.error(
                "upstream-refused-us: the upstream does not accept the credential for %s: replace it (request %s)",
                account,
                event.request_id,
            )


async def receive(request: web.Request, timeout_s: float, max_bytes: int) -> bytes:
    """The whole request body. A client that asked first is told to go on: nothing refuses it any more.

    Raises: Problem "body-too-large", "request-timeout" or "bad-request".
    """
    head, received = request[HEAD], bytearray()
    if head.length is not None and head.length > max_bytes:
        raise too_large(max_bytes)
    if head.expects_continue:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(min(timeout_s, BODY_GRACE_S)) as deadline:
            async for piece in request.content.iter_any():
                received += piece
                if len(received) > max_bytes:
                    raise too_large(max_bytes)
                deadline.reschedule(began + min(timeout_s, BODY_GRACE_S + len(received) / MIN_BODY_RATE))
    except TimeoutError:
        raise Problem("request-timeout", "The request body did not arrive in time.") from None
    except web.RequestPayloadError:
        raise Problem("bad-request", "The request body is not framed as HTTP/1.1.") from None
    return bytes(received)


def too_large(max_bytes: int) -> Problem:
    return Problem("body-too-large", f"A request body is at most {max_bytes} bytes.")


def _judged(request: web.Request) -> Target:
    """The target, by the same rules on every surface; only the admin page's own address ends with a slash.

    How long it may be has been seen to by the parser (`wire.py`)."""
    raw = request.raw_path
    if raw == ADMIN_PAGE or raw.startswith(ADMIN_PAGE + "?"):
        raw = "/admin" + raw.removeprefix(ADMIN_PAGE)
    return target.judge(raw, request[HEAD].host, len(raw))


def break_off(transport: asyncio.Transport | None) -> None:
    """End the client's connection so that it cannot be taken for the end of the answer.

    By a reset: to a client of HTTP/1.0, or of an answer without a length, a closed connection is a clean end.
    """
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _request_ids(process: str) -> Iterator[str]:
    """`process`, and a count in eight hex digits. What changes from one to the next are the last two."""
    last = [f"{number:02x}" for number in range(256)]
    for number in itertools.count():
        start = f"{process}{number & 0xFFFFFF:06x}"
        for digits in last:
            yield start + digits


def surface_of(path: str) -> str:
    """Which surface a path belongs to, for records and metrics; a closed set."""
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    if first in ("oauth", ".well-known"):
        return "oauth"
    if first in ("healthz", "readyz", "metrics"):
        return "operations"
    return first if first in ("admin", "gateway") else "proxy"


def as_response(wire: Wire) -> web.Response:
    """A problem's wire form, or any (status, headers, body), as an aiohttp response."""
    status, fields, body = wire
    return web.Response(status=status, body=body, headers=fields)


def standing_fields(principal: Principal | None) -> Headers:
    """What every answer to a principal carries: our name instead of a version banner, and no caching."""
    fixed: Headers = (("Server", "invoca-gateway"), ("Cache-Control", "no-store"))
    return fixed if principal is None else (*fixed, ("Token-Expires", rfc3339(principal.expires_at)))


async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer carries: the request id, our name instead of a version banner, and no caching."""
    event = request.get(EVENT)
    if event is not None:
        response.headers["Gateway-Request-Id"] = event.request_id
    for name, value in standing_fields(None if event is None else event.principal):
        response.headers[name] = value
    if request.version != HttpVersion11:
        # RFC 9112 9.3: no persistent connection with a client of HTTP/1.0, whatever it asks for.
        response.force_close()
        response.headers.popall("Connection", None)
    request[BEGUN] = response


def rfc3339(seconds: int) -> str:
    """UTC seconds as `2027-02-22T05:58:28Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def trace(error: BaseException) -> str:
    """Where an error came from, without what it says: messages can quote what a client sent."""
    frames = traceback.format_list(traceback.extract_tb(error.__traceback__))
    return scrub("".join(frames) + type(error).__qualname__)


def _note_fault(event: AuditEvent, fault: BaseException) -> None:
    if event.outcome == "complete":
        event.outcome = "aborted" if isinstance(fault, asyncio.CancelledError | ConnectionError) else "bug"
