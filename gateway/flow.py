"""One proxied request, its steps in reading order.

receive -> authenticate -> identify the operation -> decide -> limit -> read the body -> write the query anew ->
check what it would remove -> forward -> protect the answer

Each step takes what the one before it made, so none can run early. The record is written by `exchange.py`,
whatever happens. What is judged is what goes upstream, to the byte; what cannot be judged goes nowhere. Only the
query of a Transactions request is none of the client's bytes: it is written from what was understood of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeGuard

from aiohttp import web

from gateway import headers, target
from gateway.audit import Recorder
from gateway.authenticate import Authenticator
from gateway.body import Body
from gateway.budget import Budgets
from gateway.columns import guard as columns
from gateway.config import Limits
from gateway.connection import UpstreamRequest
from gateway.credentials import Credentials
from gateway.exchange import EVENT, HEAD, TARGET, Exchanges, break_off, too_large
from gateway.filter import Filter, Guard, Unfilterable, unreadable
from gateway.fullset import FullSets
from gateway.inforce import Policies
from gateway.load import Sets
from gateway.model import AuditEvent, Call, ColumnClass, Decision, Moment, Principal, Relation
from gateway.operation import Catalogue
from gateway.policy import relation
from gateway.problem import Headers, Problem
from gateway.ratelimit import RateLimit
from gateway.refusals import MAX_BYTES as MAX_REFUSAL_BYTES
from gateway.refusals import passed_on
from gateway.replacing import confirmed, replaced, where_stored
from gateway.shadow import Shadow
from gateway.shield import Shield
from gateway.store import Store
from gateway.upstream import Reply, Upstream

BODYLESS = frozenset({"GET", "DELETE"})
STREAMED = frozenset({200, 201, 202, 203, 204})
SENT_AT_ONCE = 65_536
COLLECTIONS = frozenset({"advertisers.{format}", "affiliates.{format}"})
"""How paths end to which a body is sent that says itself what it is about; that is read under them."""


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
    shield: Shield
    full_sets: FullSets
    budgets: Budgets

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
            await self.within(principal, sent)
        asked, guard = self.protection(call, wanted.raw, self.seen(event, principal, sets), sets)
        prepared = self.prepare(request.method, asked, request.raw_headers, principal, call, sent.raw)
        async with self.budgeted(principal, guard) as guard, AsyncExitStack() as held:
            if call.operation.effect != "read":
                await self._before_writing(held, request, principal, call, sent)
            async with self.upstream.open(prepared) as reply:
                event.upstream_status = reply.status
                await held.aclose()
                return await self._answer(request, event, reply, spent, guard)

    async def _before_writing(
        self, held: AsyncExitStack, request: web.Request, principal: Principal, call: Call, sent: Body
    ) -> None:
        """Whatever has to have happened before a change goes upstream. Raises: Problem.

        `held` keeps other writes to the same stored set waiting.
        """
        event, wanted, confirms = request[EVENT], request[TARGET], confirmed(request[HEAD].confirms)
        kept = replaced(call.operation.replaces, sent.document, wanted.query_names)
        read = self._reading(request, principal, call, sent) if kept else None
        if read is None:
            self.recorder.begun(event)
            return
        await held.enter_async_context(self.full_sets.alone(str(read.target)))
        present = await self.full_sets.check(read, kept, confirms)
        self.recorder.begun(event)
        await self.full_sets.check_again(read, kept, present)

    def _reading(
        self, request: web.Request, principal: Principal, call: Call, sent: Body
    ) -> UpstreamRequest | None:
        """The read of what a write changes, by the same credential; None for a body that does not say what it is about.

        Raises: Problem "bad-body" for an id that no path can have.
        """
        wanted = request[TARGET]
        collection = call.operation.path.rpartition("/")[2] in COLLECTIONS
        path = where_stored(wanted.path, collection, sent.document)
        if path is None:
            return None
        try:
            found = self.catalogue.identify("GET", target.judge(path, ""))
        except Problem:
            raise Problem("bad-body", "The id_from_network is none that a path can have.") from None
        if found.account_id != call.account_id or found.operation.effect != "read":
            raise Problem("bad-body", "The id_from_network is none that a path can have.")
        return self.prepare("GET", path, request.raw_headers, principal, found, b"")

    async def within(self, principal: Principal, sent: Body) -> None:
        """Let a body name these accounts, as paths may. Raises: Problem "account-not-allowed", "store-unavailable".

        An id that the network has given is its own affair, unless it is known as that of another network's account; an
        id of the vendor's has to be known. A token that is cut down to some accounts of a kind names no others.
        """
        for named in sent.accounts:
            own = named.id == principal.owner.account.network
            if named.kind != "network":
                stored = await self.store.account(named.kind, named.id)
                own = (
                    named.by_network if stored is None else stored.network == principal.owner.account.network
                )
            reached = principal.accounts
            same = () if reached is None else [key for key in reached if key.startswith(f"{named.kind}:")]
            if not own or (same and f"{named.kind}:{named.id}" not in same):
                raise Problem(
                    "account-not-allowed", f"The body names another account, by its {named.kind} id."
                )

    def seen(self, event: AuditEvent, principal: Principal, sets: Sets) -> frozenset[ColumnClass]:
        """The classes of columns that this principal may see, once the call was decided."""
        assert event.relation is not None  # deciding sets it
        return sets.enforced.visible(principal, event.relation, Moment(event.began, event.client))

    def protection(
        self, call: Call, raw: str, seen: frozenset[ColumnClass], sets: Sets
    ) -> tuple[str, Guard | None]:
        """The target as it goes upstream, and what protects the answer (None: nothing has to).

        The path is that of `raw`, to the byte. Raises: Problem "bad-parameter", "columns-withheld".
        """
        if call.operation.api != "transactions":
            return raw, self.shield.guard(call, seen)
        path, _, query = raw.partition("?")
        guard = columns.protect(call, query, sets.enforced.classes.reveal(seen))
        return f"{path}?{guard.asked.query}", guard

    @asynccontextmanager
    async def budgeted(self, principal: Principal, guard: Guard | None) -> AsyncIterator[Guard | None]:
        """The guard, bounded by the personal records that the token may still be given today.

        Raises: Problem "budget-spent", "store-unavailable".
        """
        if not counted(guard, principal):
            yield guard
            return
        rows = guard.asked.rows if guard.asked.personal else 0
        taken = await self.budgets.take(principal, rows) if rows else None
        bounded = columns.BoundedGuard(guard, rows)
        try:
            yield bounded
        finally:
            if taken is not None:
                self.budgets.settle(taken, bounded.given)

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
        self, request: web.Request, event: AuditEvent, reply: Reply, spent: Headers, guard: Guard | None
    ) -> web.StreamResponse:
        if not flows(reply.status, reply.headers):
            text = passed_on(reply.status, await _whole(reply))
            event.bytes_out = len(text)
            answer = web.Response(status=reply.status, body=text, content_type="application/json")
            answer.headers.extend((*spent, ("Via", headers.VIA)))
            return answer
        response = web.StreamResponse(status=reply.status)
        travelling = headers.to_client(reply.headers, reply.status)
        if guard is not None:
            travelling += guard.fields(reply.status, reply.headers)
        response.headers.extend((name.decode(), value.decode()) for name, value in travelling)
        response.headers.extend((*spent, ("Via", headers.VIA)))
        if guard is not None and guard.filters and reply.status != 204:
            await self._protected(request, event, reply, response, guard)
            return response
        response.content_length = reply.length if reply.status != 204 else None
        await response.prepare(request)
        await self._stream(request, event, reply, response)
        return response

    async def _protected(
        self,
        request: web.Request,
        event: AuditEvent,
        reply: Reply,
        response: web.StreamResponse,
        guard: Guard,
    ) -> None:
        """An answer through a filter: whole, with its length and what it lacks in its head; or as it comes."""
        first = await reply.read()
        if len(first) == reply.length and guard.clean(first):
            response.content_length = reply.length
            await response.prepare(request)
            await self._write(event, response, first)
            return
        opened = guard.open()
        try:
            shown = await _first_shown(reply, first, opened)
            del first  # nothing is held beside what is being sent
            if shown is not None:
                response.headers.extend(guard.receipt(None))
                await response.prepare(request)
                streaming = self._stream(request, event, reply, response, opened, shown)
                del shown
                await streaming
                return
            last = opened.close()
            response.content_length = len(last)
            response.headers.extend(guard.receipt(opened.tally))
            await response.prepare(request)
            await self._write(event, response, last)
        except Unfilterable:
            raise unreadable() from None
        finally:
            event.withheld = opened.tally.withheld

    async def _stream(
        self,
        request: web.Request,
        event: AuditEvent,
        reply: Reply,
        response: web.StreamResponse,
        opened: Filter | None = None,
        shown: bytes = b"",
    ) -> None:
        try:
            await self._write(event, response, shown)
            while piece := await reply.read():
                shown = piece if opened is None else opened.feed(piece)
                del piece
                await self._write(event, response, shown)
            if opened is not None:
                await self._write(event, response, opened.close())
            await response.write_eof()
        except (Problem, TimeoutError, Unfilterable) as fault:
            # Bytes are out already: only a broken connection says that the answer is not whole.
            if isinstance(fault, Unfilterable):
                fault = unreadable()
            event.outcome = "cut"
            event.problem = fault.kind if isinstance(fault, Problem) else "request-timeout"
            break_off(request.transport)

    async def _write(self, event: AuditEvent, response: web.StreamResponse, shown: bytes) -> None:
        for at in range(0, len(shown), SENT_AT_ONCE):  # aiohttp copies it for the frame
            part = shown[at : at + SENT_AT_ONCE]
            async with asyncio.timeout(self.limits.body_timeout_s):
                await response.write(part)
            event.bytes_out += len(part)


def counted(guard: Guard | None, principal: Principal) -> TypeGuard[columns.ColumnsGuard]:
    """Whether what an answer holds counts against the personal records that a token may be given in a day."""
    return (
        principal.personal_records_per_day is not None
        and isinstance(guard, columns.ColumnsGuard)
        and "pii" in guard.reveal.revealed
    )


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


async def _first_shown(reply: Reply, first: bytes, opened: Filter) -> bytes | None:
    """The first bytes that a filter lets through before the body has ended; None where it ends before. Raises:
    Unfilterable, and what reading raises: nothing is out yet."""
    piece = first
    while piece:
        if shown := opened.feed(piece):
            return shown
        piece = await reply.read()
    return None


async def _whole(reply: Reply) -> bytes:
    pieces = bytearray()
    while piece := await reply.read():
        pieces += piece
        if len(pieces) > MAX_REFUSAL_BYTES:
            return b""
    return bytes(pieces)
