"""One proxied request, its steps in reading order.

receive -> authenticate -> identify the operation -> decide -> limit -> read the body -> forward -> answer

Each step takes what the one before it made, so none can run early. The record is written by `exchange.py`,
whatever happens. What is judged is what goes upstream, to the byte; what cannot be judged goes nowhere.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from aiohttp import web

from gateway import headers
from gateway.audit import Recorder
from gateway.authenticate import Authenticator
from gateway.config import Limits
from gateway.connection import UpstreamRequest
from gateway.credentials import Credentials
from gateway.exchange import EVENT, HEAD, TARGET, Exchanges, break_off, too_large
from gateway.inforce import Policies
from gateway.load import Sets
from gateway.model import AuditEvent, Call, Decision, Moment, Principal, Relation
from gateway.operation import Catalogue
from gateway.policy import relation
from gateway.problem import Headers, Problem
from gateway.ratelimit import RateLimit
from gateway.shadow import Shadow
from gateway.store import Store
from gateway.upstream import Reply, Upstream

BODYLESS = frozenset({"GET", "DELETE"})
STREAMED = frozenset({200, 201, 202, 203, 204})
# What the vendor documents for our two APIs, and the 4xx an HTTP server may give without a fault of ours.
REFUSALS = frozenset({400, 403, 404, 409, 422, 429})
MAX_REFUSAL_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Flow:
    """The proxy surface. Everything it needs is made once, by `app.py`."""

    exchanges: Exchanges
    authenticator: Authenticator
    catalogue: Catalogue
    policies: Policies
    store: Store
    credentials: Credentials
    upstream: Upstream
    recorder: Recorder
    rate: RateLimit
    limits: Limits
    shadow: Shadow

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request on `/api/`, or refuse it by a Problem that names why."""
        event, head, wanted = request[EVENT], request[HEAD], request[TARGET]
        sets = self.policies.sets  # one for both judgements of a write, whatever comes into force meanwhile
        _judge_framing(request.method, head, self.limits.max_body_bytes)
        principal = event.principal = await self.authenticator.principal(head.authorization, event.client)
        call = event.call = self.catalogue.identify(request.method, wanted)
        await self.decide(event, principal, call, sets)
        spent = self.rate.spend(principal.token_id)
        sent = await self.exchanges.receive_json(request, self.limits)
        if call.operation.effect != "read":
            # What replaces a stored set is another, graver effect; and while a body comes, a token can be deleted.
            call = event.call = self.catalogue.with_keys(call, sent.keys | wanted.query_names)
            principal = event.principal = await self.authenticator.principal(head.authorization, event.client)
            await self.decide(event, principal, call, sets)
        prepared = self.prepare(request.method, wanted.raw, request.raw_headers, principal, call, sent.raw)
        if call.operation.effect != "read":
            self.recorder.begun(event)
        async with self.upstream.open(prepared) as reply:
            event.upstream_status = reply.status
            return await self._answer(request, event, reply, spent)

    async def decide(self, event: AuditEvent, principal: Principal, call: Call, sets: Sets) -> None:
        """Let this principal's call go on, by the sets its request began with. Raises: the Problem of the refusal."""
        table = sets.enforced
        related = event.relation = await self.related(principal, call)
        moment = Moment(event.began, event.client)
        event.policy_digest = table.digest
        decision = event.decision = table.decide(principal, call.operation, related, moment)
        # Once denied is denied, there as here: what it says of the body no longer counts.
        if event.shadow is None or event.shadow.allowed:
            event.shadow = self.shadow.judge(sets.tried, principal, call.operation, related, moment)
        require(decision, principal, call)

    async def related(self, principal: Principal, call: Call) -> Relation:
        """How the path's account stands to the owner's, asking the store under which network where that matters."""
        kind, network = call.operation.account_kind, None
        if kind is not None and call.account_id is not None and asks_the_store(principal, call):
            stored = await self.store.account(kind, call.account_id)
            network = None if stored is None else stored.network
        return relation(principal.owner, call.operation, call.account_id, network)

    def prepare(
        self, method: str, raw: str, head: headers.Pairs, principal: Principal, call: Call, sent: bytes
    ) -> UpstreamRequest:
        """The request as it goes upstream. Raises: Problem "no-upstream-credential"."""
        return UpstreamRequest(
            method,
            raw,
            headers.to_upstream(
                head,
                credential=self.credentials.of(principal.owner.account),
                form=call.format,
                has_body=bool(sent),
            ),
            sent,
            call.operation.effect == "read",
            principal.token_id,
        )

    async def _answer(
        self, request: web.Request, event: AuditEvent, reply: Reply, spent: Headers
    ) -> web.StreamResponse:
        if not flows(reply.status, reply.headers):
            text = passed_on(reply.status, await _whole(reply))
            event.bytes_out = len(text)
            answer = web.Response(status=reply.status, body=text, content_type="application/json")
            answer.headers.extend((*spent, ("Via", headers.VIA)))
            return answer
        response = web.StreamResponse(status=reply.status)
        response.headers.extend(
            (name.decode(), value.decode()) for name, value in headers.to_client(reply.headers, reply.status)
        )
        response.headers.extend((*spent, ("Via", headers.VIA)))
        response.content_length = reply.length if reply.status != 204 else None
        await response.prepare(request)
        await self._stream(request, event, reply, response)
        return response

    async def _stream(
        self, request: web.Request, event: AuditEvent, reply: Reply, response: web.StreamResponse
    ) -> None:
        try:
            while piece := await reply.read():
                async with asyncio.timeout(self.limits.body_timeout_s):
                    await response.write(piece)
                event.bytes_out += len(piece)
            await response.write_eof()
        except (Problem, TimeoutError) as fault:
            # Bytes are out already: only a broken connection says that the answer is not whole.
            event.outcome = "cut"
            event.problem = fault.kind if isinstance(fault, Problem) else "request-timeout"
            break_off(request.transport)


def require(decision: Decision, principal: Principal, call: Call) -> None:
    """Raises: the Problem of a denial, and "account-not-allowed" where the token reaches less than its owner."""
    if not decision.allowed:
        raise refusal(decision, call)
    if not reaches(principal, call):
        raise Problem("account-not-allowed", "The token is limited to some of its owner's accounts.")


def refusal(decision: Decision, call: Call) -> Problem:
    """A denial as the Problem that names its operation, its policies and their reasons."""
    if decision.problem == "insufficient-scope":
        return Problem(
            "insufficient-scope",
            f"{call.operation.id} needs the scope {decision.missing_scope}.",
            scope=decision.missing_scope,
            operation=call.operation.id,
        )
    policies = [{"id": p.id, "reason": p.reason, "source": p.source} for p in decision.policies]
    reason = decision.policies[0].reason + "." if decision.policies else "No policy permits it."
    return Problem("denied", reason, operation=call.operation.id, policies=policies)


def refuse_body(method: str) -> None:
    """Raises: Problem "bad-body" for a method that carries none."""
    if method in BODYLESS:
        raise Problem("bad-body", f"A {method} request carries no body.")


def _judge_framing(method: str, head: headers.Head, max_body_bytes: int) -> None:
    if head.length != 0:
        refuse_body(method)
    if head.length is not None and head.length > max_body_bytes:
        raise too_large(max_body_bytes)


def asks_the_store(principal: Principal, call: Call) -> bool:
    """Whether it matters under which network the path's account is stored: to a network, of others' accounts."""
    return principal.owner.account.kind == "network" and call.operation.account_kind in (
        "advertiser",
        "affiliate",
    )


def reaches(principal: Principal, call: Call) -> bool:
    """Whether the token is not cut down to accounts without the path's."""
    if principal.accounts is None:
        return True
    return f"{call.operation.account_kind}:{call.account_id}" in principal.accounts


def flows(status: int, reply: headers.Pairs) -> bool:
    """Whether an answer streams to the client as it comes, rather than being looked at whole first.

    Raises: Problem "upstream-invalid" for one in a coding that was not offered.
    """
    if status not in STREAMED:
        return False
    for name, value in reply:
        if name == b"content-encoding" and value != b"identity":
            raise Problem("upstream-invalid", "The upstream used a content coding it was not offered.")
    return True


def passed_on(status: int, text: bytes) -> bytes:
    """The body of an upstream refusal that may be passed on with its status, as it is.

    Raises: the Problem that everything else becomes. 401 is about the gateway's credential, never the app's.
    """
    if status == 401:
        raise Problem("upstream-refused-us", "The upstream did not accept the gateway's credential.")
    if 300 <= status < 400:
        raise Problem("upstream-redirect", "The upstream answered with a redirect, which is not followed.")
    document = _vendor_document(text)
    if status not in REFUSALS:
        raise Problem("upstream-failed", upstream_status=status, handle=_error_handle(document))
    if document is None:
        raise Problem(
            "upstream-refused",
            "The upstream refused the request in a form it does not document.",
            status=status,
        )
    return text


async def _whole(reply: Reply) -> bytes:
    pieces = bytearray()
    while piece := await reply.read():
        pieces += piece
        if len(pieces) > MAX_REFUSAL_BYTES:
            return b""
    return bytes(pieces)


def _vendor_document(text: bytes) -> dict[str, object] | None:
    """An error body in one of the vendor's documented shapes: an object with `errors`, or the singular `error`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("errors", document.get("error")), dict):
        return None
    return document


def _error_handle(document: dict[str, object] | None) -> str:
    """The number a vendor's 500 carries for its support, digits alone, or nothing."""
    errors = (document or {}).get("errors")
    text = str(errors.get("invalid_data", "")) if isinstance(errors, dict) else ""
    return "".join(c for c in text if c in "0123456789")[:20]
