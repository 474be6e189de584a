"""One proxied request, its steps in reading order.

receive -> authenticate -> identify the operation -> decide -> read the body -> limit -> forward -> answer

Each step takes what the one before it made, so none can run early. The record is written by `exchange.py`,
whatever happens. What is judged is what goes upstream, to the byte; what cannot be judged goes nowhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from gateway import headers
from gateway.audit import Recorder
from gateway.authenticate import Authenticator
from gateway.body import Body
from gateway.config import Limits
from gateway.exchange import EVENT, HEAD, TARGET, Exchanges, break_off, too_large
from gateway.model import Account, AuditEvent, Call, Decision, Principal
from gateway.operation import Catalogue
from gateway.policy import PolicySet, relation
from gateway.problem import Headers, Problem
from gateway.ratelimit import RateLimit
from gateway.store import Store
from gateway.upstream import Reply, Upstream, UpstreamRequest

BODYLESS = frozenset({"GET", "DELETE"})
STREAMED = frozenset({200, 201, 202, 203})
# What the vendor documents for our two APIs, and the 4xx an HTTP server may give without a fault of ours.
REFUSALS = frozenset({400, 403, 404, 409, 422, 429})
MAX_REFUSAL_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Credentials:
    """The real upstream tokens, by account key; and whether a network's may serve those under it."""

    by_account: Mapping[str, str]
    lend_network: bool

    def of(self, account: Account) -> str:
        """The credential for an account. Raises: Problem "no-upstream-credential"; never somebody else's."""
        own = self.by_account.get(account.key)
        if own is None and self.lend_network:
            own = self.by_account.get(f"network:{account.network}")
        if own is None:
            raise Problem(
                "no-upstream-credential", f"No upstream credential is configured for {account.key}."
            )
        return own


@dataclass(frozen=True, slots=True)
class Flow:
    """The proxy surface. Everything it needs is made once, by `app.py`."""

    exchanges: Exchanges
    authenticator: Authenticator
    catalogue: Catalogue
    policies: PolicySet
    store: Store
    credentials: Credentials
    upstream: Upstream
    recorder: Recorder
    rate: RateLimit
    limits: Limits

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request on `/api/`, or refuse it by a Problem that names why."""
        event, head = request[EVENT], request[HEAD]
        wanted = request[TARGET]
        _judge_framing(request.method, head, self.limits.max_body_bytes)
        principal = event.principal = await self.authenticator.principal(head.authorization, event.client)
        call = event.call = self.catalogue.identify(request.method, wanted)
        await self.decide(event, principal, call)
        sent = await self.exchanges.receive_json(request, self.limits)
        whole = self.catalogue.with_body_keys(call, sent.keys)
        if whole is not call:  # the body replaces a stored set: that is another, graver effect
            call = event.call = whole
            await self.decide(event, principal, call)
        spent = self.rate.spend(principal.token_id)
        prepared = self._prepare(request, wanted.raw, principal, call, sent)
        if call.operation.effect != "read":
            self.recorder.begun(event)
        async with self.upstream.open(prepared) as reply:
            event.upstream_status = reply.status
            return await self._answer(request, event, reply, spent)

    async def decide(self, event: AuditEvent, principal: Principal, call: Call) -> Decision:
        """Whether this principal may make this call. Raises: the Problem of the refusal."""
        decision = event.decision = self.policies.decide(
            principal, call.operation, relation(principal.owner, call.operation, call.account_id,
                                                await self._network_of(principal, call)),
        )  # fmt: skip
        if not decision.allowed:
            raise refusal(decision, call)
        if principal.accounts is not None and _account_key(call) not in principal.accounts:
            raise Problem("account-not-allowed", "The token is limited to some of its owner's accounts.")
        return decision

    async def _network_of(self, principal: Principal, call: Call) -> str | None:
        """The network the path's account is stored under; asked only where the answer can matter."""
        kind, account_id = call.operation.account_kind, call.account_id
        if (
            kind is None
            or account_id is None
            or kind == "network"
            or principal.owner.account.kind != "network"
        ):
            return None
        stored = await self.store.account(kind, account_id)
        return None if stored is None else stored.network

    def _prepare(
        self, request: web.Request, raw: str, principal: Principal, call: Call, sent: Body
    ) -> UpstreamRequest:
        credential = self.credentials.of(principal.owner.account)
        return UpstreamRequest(
            method=request.method,
            target=raw,
            headers=headers.to_upstream(
                request.raw_headers, credential=credential, form=call.format, has_body=bool(sent.raw)
            ),
            body=sent.raw,
            idempotent=call.operation.effect == "read",
            share=principal.token_id,
        )

    async def _answer(
        self, request: web.Request, event: AuditEvent, reply: Reply, spent: Headers
    ) -> web.StreamResponse:
        if reply.status not in STREAMED and reply.status != 204:
            return _say(event, await _refused(reply), spent)
        if any(name == b"content-encoding" and value != b"identity" for name, value in reply.headers):
            raise Problem("upstream-invalid", "The upstream used a content coding it was not offered.")
        response = web.StreamResponse(status=reply.status)
        response.headers.extend(headers.to_client(reply.headers))
        response.headers.extend(spent)
        response.headers["Via"] = headers.VIA
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
            break_off(request)


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


def _judge_framing(method: str, head: headers.Head, max_body_bytes: int) -> None:
    if head.length != 0 and method in BODYLESS:
        raise Problem("bad-body", f"A {method} request carries no body.")
    if head.length is not None and head.length > max_body_bytes:
        raise too_large(max_body_bytes)


def _account_key(call: Call) -> str:
    return f"{call.operation.account_kind}:{call.account_id}"


async def _refused(reply: Reply) -> tuple[int, bytes]:
    """The status and body of an upstream refusal that may be passed on as it is.

    Raises: the Problem that everything else becomes. 401 is about the gateway's credential, never the app's.
    """
    if reply.status == 401:
        raise Problem("upstream-refused-us", "The upstream did not accept the gateway's credential.")
    if 300 <= reply.status < 400:
        raise Problem("upstream-redirect", "The upstream answered with a redirect, which is not followed.")
    text = await _whole(reply)
    document = _vendor_document(text)
    if reply.status not in REFUSALS:
        raise Problem("upstream-failed", upstream_status=reply.status, handle=_error_handle(document))
    if document is None:
        raise Problem(
            "upstream-refused",
            "The upstream refused the request in a form it does not document.",
            status=reply.status,
        )
    return reply.status, text


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


def _say(event: AuditEvent, refused: tuple[int, bytes], spent: Headers) -> web.Response:
    status, text = refused
    event.bytes_out = len(text)
    response = web.Response(status=status, body=text, content_type="application/json")
    response.headers.extend(spent)
    response.headers["Via"] = headers.VIA
    return response
