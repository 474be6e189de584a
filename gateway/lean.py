"""The short way through the gateway, for requests that need no waiting until the upstream is asked.

A GET whose token is remembered and whose operation is permitted is judged, sent and answered inside the callbacks of
the two sockets: no queue, no stream reader, and no task but where a connection to the upstream has to be made.
Everything else takes the general way (`flow.py`), and so does every refusal: `take` returns None before anything
has happened, and the general way finds the same and says it. Both share the judging, deciding, header and record
code; what is here is only how the bytes get from one socket to the other.

What depends on the request's bytes alone is worked out once and kept under those bytes (`Plan`), aiohttp's reading
of them included: a client that asks the same again is not parsed, judged and matched again. Who asks, and whether
they still may, is asked anew for every request: a plan is good only for the very principal it was made for, and
one that was read anew from the store is another.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from aiohttp import HttpVersion11
from aiohttp.http_parser import RawRequestMessage

from gateway import headers, target
from gateway.connection import Connection, UpstreamRequest
from gateway.exchange import Exchanges, standing_fields
from gateway.filter import Filter, Guard, Parts, Unfilterable, unreadable
from gateway.flow import STREAMED, Flow, asks_the_store, counted, flows, reaches
from gateway.load import Sets
from gateway.model import AuditEvent, Call, Decision, Facts, Moment, Principal, Relation
from gateway.policy import relation
from gateway.problem import Headers, Problem
from gateway.refusals import MAX_BYTES as MAX_REFUSAL_BYTES
from gateway.refusals import passed_on
from gateway.tokens import PREFIX
from gateway.upstream import Dialing

PLANS = 1_024
LONGEST_KEPT = 4_096
TICK_S = 1.0
UNCOPIED = 32_768
MIN_READ_RATE = 1_024
"""Bytes a second below which a client that reads counts as one that does not."""

HEADS = 1_024
JSON_LINE = b"Content-Type: application/json\r\n"
ID = b"Gateway-Request-Id: "
LENGTH = b"Content-Length: %d\r\n"
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n"
CRLF = b"\r\n"
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


WAITING, LOOKED_AT, FLOWING, CHUNKED, FILTERED, ENDED = range(6)
"""How far an exchange is: no head yet; a refusal that is read whole; a body with a length; without; one that goes
through a filter; over."""


class Client(Protocol):
    """What an exchange needs of the client's connection (`wire.Handler`)."""

    def answer(self, data: bytes) -> None:
        """Send a whole answer, with those that others get in this turn of the loop; nothing when the client has
        gone."""

    def send(self, data: bytes) -> None:
        """Send a piece of an answer at once; nothing when the client has gone."""

    def send_together(self, parts: Parts) -> None:
        """As `send` of all of them, in one write."""

    def unsent(self) -> int:
        """Bytes that the client has not taken yet."""

    def exchanged(self, close: bool) -> None:
        """The exchange is over. The connection goes on, or is closed once all is sent."""

    def again(self, message: RawRequestMessage) -> None:
        """Nothing was answered: take this request the general way."""

    def break_off(self) -> None:
        """End the connection so that what was sent cannot be taken for a whole answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request comes to, for the principal it was worked out for.

    `message` is aiohttp's reading of it. `wire` is the request as it goes upstream; `answer` are the standing
    header lines of the answer up to the request's id, `end` is what follows its framing. `sets` decided, and a plan
    holds while they are in force; it may be kept when it is `steady`: neither decision depends on the moment. `guard`
    protects the answer. `shadow` is what the set that is tried would have decided. `facts` are those of its records.
    """

    message: RawRequestMessage
    authorization: str
    forwarded_for: tuple[str, ...]
    principal: Principal
    call: Call
    relation: Relation
    decision: Decision
    request: UpstreamRequest
    wire: bytes
    answer: bytes
    end: bytes
    sets: Sets
    steady: bool
    guard: Guard | None
    shadow: Decision | None
    facts: Facts


class Lean:
    """Makes exchanges, and looks after those under way. One for each process."""

    def __init__(self, flow: Flow, exchanges: Exchanges) -> None:
        self._flow = flow
        self._exchanges = exchanges
        self.plans: dict[bytes, Plan] = {}
        self._heads: dict[tuple[Guard | None, int, headers.Pairs], bytes] = {}
        self._active: set[Exchange] = set()
        self._stall_s = flow.limits.body_timeout_s

    def take(
        self, client: Client, peer: str, message: RawRequestMessage, data: bytes | None
    ) -> Exchange | None:
        """Begin the exchange of one parsed request without a body; None, with nothing done, to leave it.

        `data` are the bytes it was read from, when nothing else was in them and nothing before them.
        """
        if message.method != "GET" or message.version != HttpVersion11:
            return None
        try:
            plan = self._plan(peer, message)
            if plan is None:
                return None
            if plan.steady and data is not None and len(data) <= LONGEST_KEPT:
                if len(self.plans) >= PLANS:
                    self.plans.clear()
                self.plans[data] = plan
            return self._begin(client, peer, plan)
        except Problem:  # the general way will find it too, and say it
            return None

    def repeat(self, client: Client, peer: str, plan: Plan) -> Exchange | None:
        """As `take`, for a request of the very bytes that `plan` was made from."""
        try:
            return self._begin(client, peer, plan)
        except Problem:
            return None

    def _begin(self, client: Client, peer: str, plan: Plan) -> Exchange | None:
        flow = self._flow
        # Who asks, from where, and whether they still may, is asked anew for every request.
        address = flow.authenticator.client(peer, plan.forwarded_for)
        principal = flow.authenticator.remembered(plan.authorization, address)
        if principal is not plan.principal or plan.sets is not flow.policies.sets:
            return None
        limited = flow.rate.per_minute
        if limited and flow.rate.spent(principal.token_id):
            return None
        exchange = Exchange(self, client, plan)
        connection = flow.upstream.start(plan.request, plan.wire, exchange)
        event = self._exchanges.begin("GET", address, "proxy")
        event.principal, event.call, event.decision, event.facts = (
            principal, plan.call, plan.decision, plan.facts,
        )  # fmt: skip
        event.relation = plan.relation
        event.policy_digest = plan.sets.enforced.digest
        if plan.shadow is not None:
            event.shadow = plan.shadow
        exchange.connection, exchange.event = connection, event
        if limited:
            exchange.spent = flow.rate.spend(principal.token_id)
        self._active.add(exchange)
        return exchange

    def _plan(self, peer: str, message: RawRequestMessage) -> Plan | None:
        """Raises: Problem for what is refused. None for what only the general way can settle."""
        flow, raw = self._flow, message.path
        if raw[:5] != "/api/" or PREFIX in raw or PREFIX in target.fully_decoded(raw):
            return None
        head = headers.judge("GET", (1, 1), message.raw_headers)
        address = flow.authenticator.client(peer, head.forwarded_for)
        principal = flow.authenticator.remembered(head.authorization, address)
        if head.authorization is None or principal is None or head.length != 0 or head.expects_continue:
            return None
        if head.carried:  # it has to be looked through, and what is found there marked
            return None
        call = flow.catalogue.identify("GET", target.judge(raw, head.host, len(raw)))
        if call.operation.effect != "read" or asks_the_store(principal, call):
            return None
        sets = flow.policies.sets
        table, tried = sets.enforced, sets.tried
        related = relation(principal.owner, call.operation, call.account_id, None)
        moment = Moment(self._exchanges.clock(), address)
        decision = table.decide(principal, call.operation, related, moment)
        if not decision.allowed or not reaches(principal, call):
            return None
        wanted, guard = flow.protection(call, raw, table.visible(principal, related, moment), sets)
        if counted(guard, principal):  # the store has to be asked
            return None
        request = flow.prepare("GET", wanted, message.raw_headers, principal, call, b"")
        asked = (principal.owner, call.operation, related, principal.token_id)
        return Plan(
            message, head.authorization, head.forwarded_for, principal, call, related, decision,
            request, flow.upstream.encode(request),
            _lines((*standing_fields(principal), ("Via", headers.VIA))) + ID,
            b"Connection: close\r\n\r\n" if message.should_close else CRLF,
            sets, table.steady(*asked) and (tried is None or tried.steady(*asked)),
            guard,
            flow.shadow.judge(tried, principal, call.operation, related, moment), Facts(),
        )  # fmt: skip

    def travelling(self, guard: Guard | None, status: int, reply: headers.Pairs) -> bytes:
        """The status line, the lines of a reply's head that travel, and those that its guard adds. Raises: Problem, as
        `flows` and `Guard.fields` do.

        They depend on little of it, which is the same again and again.
        """
        key = guard, status, reply
        lines = self._heads.get(key)
        if lines is None:
            flows(status, reply)
            more = () if guard is None else guard.fields(status, reply)
            lines = _status_line(status) + _pairs((*headers.to_client(reply, status), *more))
            if len(self._heads) >= HEADS:
                self._heads.clear()
            self._heads[key] = lines
        return lines

    def replan(self) -> None:
        """What was worked out holds no longer: the policies, or the credentials that requests carry, have changed."""
        self.plans.clear()
        self._heads.clear()

    def over(self, exchange: Exchange, event: AuditEvent) -> None:
        self._active.discard(exchange)
        self._exchanges.finish(event)

    def forget(self, exchange: Exchange) -> None:
        """An exchange that came to nothing, and will be another one's record."""
        self._active.discard(exchange)
        self._flow.rate.give_back(exchange.token_id)
        self._flow.upstream.distrust()

    async def watch(self) -> None:
        """Once a second, break off the answers whose clients have stopped reading."""
        while True:
            await asyncio.sleep(TICK_S)
            for exchange in list(self._active):
                exchange.tick(self._stall_s)


class Exchange:
    """One request on the short way, from the moment it went upstream. The sink of its answer (`reply.Sink`)."""

    event: AuditEvent
    connection: Connection | Dialing | None
    # Most answers come whole and need none of these: defaults of the class.
    _state = WAITING
    _pieces: tuple[bytes, ...] = ()
    # The head of an answer that goes through a filter, until the first of it may pass.
    _kept_head: tuple[int, bytes] | None = None
    _stalled_s = 0.0
    _unsent = 0

    def __init__(self, lean: Lean, client: Client, plan: Plan) -> None:
        self._lean = lean
        self._client = client
        self._plan = plan
        # Read in every exchange: found sooner than a default of the class.
        self.spent: Headers = ()
        self._filter: Filter | None = None

    @property
    def token_id(self) -> str:
        return self._plan.principal.token_id

    # -- what the upstream says (reply.Sink)

    def on_whole(self, status: int, reply: headers.Pairs, length: int | None, body: bytes) -> None:
        try:
            self.event.upstream_status = status
            if status in STREAMED:
                guard = self._plan.guard
                fields = self._lean.travelling(guard, status, reply)
                if guard is not None and guard.filters and status != 204 and not guard.clean(body):
                    # How it came changes nothing of the answer: as if it had come in pieces.
                    self._filter_on(guard, status, fields)
                    self._feed(body)
                    return
                self._state = FLOWING
                self.event.bytes_out = size = len(body)
                framing = b"" if status == 204 else LENGTH % size
                if size < UNCOPIED:
                    self._client.answer(self._head(status, fields, framing, body))
                else:  # neither copied, nor piled up with those of other clients
                    self._client.send_together((self._head(status, fields, framing), body))
            else:
                self._state = LOOKED_AT
                self._pieces = (body,)
        except Problem as problem:
            self._refuse(problem)

    def on_head(self, status: int, reply: headers.Pairs, length: int | None) -> None:
        try:
            self.event.upstream_status = status
            if status in STREAMED:
                guard = self._plan.guard
                fields = self._lean.travelling(guard, status, reply)
                if guard is not None and guard.filters:  # a 204 is always whole
                    self._filter_on(guard, status, fields)
                    return
                self._state = FLOWING if length is not None else CHUNKED
                framing = IN_CHUNKS if length is None else LENGTH % length
                self._client.send(self._head(status, fields, framing))
            else:
                self._state = LOOKED_AT
        except Problem as problem:
            self._leave_upstream()
            self._refuse(problem)

    def on_body(self, data: bytes) -> None:
        if self._state == LOOKED_AT:
            self._pieces += (data,)
            if sum(map(len, self._pieces)) > MAX_REFUSAL_BYTES:  # as `flow._whole`: nothing of it counts
                self._leave_upstream()
                self._pass_on()
            return
        if self._state == FILTERED:
            self._feed(data)
            return
        self.event.bytes_out += len(data)
        if self._state == FLOWING:
            self._client.send(data)
        else:
            self._send_chunk((data,), len(data))

    def on_done(self) -> None:
        self.connection = None
        if self._state == LOOKED_AT:
            self._pass_on()
        elif self._state == FILTERED:
            self._close()
        elif self._state != ENDED:
            if self._state == CHUNKED:
                self._client.send(b"0\r\n\r\n")
            self._end()

    def on_error(self, problem: Problem, again: bool) -> None:
        self.connection = None
        if self._state in (FLOWING, CHUNKED) or (self._state == FILTERED and self._kept_head is None):
            self._cut(problem.kind)
        elif again:
            self._state = ENDED
            self._lean.forget(self)
            self._client.again(self._plan.message)
        elif self._state != ENDED:
            self._refuse(problem)

    def _send_chunk(self, parts: Parts, size: int) -> None:
        """RFC 9112 section 7.1. A long one is not copied for the sake of its frame."""
        framed = b"%x\r\n" % size, *parts, CRLF
        if size < UNCOPIED:
            self._client.send(b"".join(framed))
        else:
            self._client.send_together(framed)

    # -- what the client's connection says

    def pause(self) -> None:
        """The client does not take what is sent: the upstream has to wait."""
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        self._stalled_s = 0.0
        if self.connection is not None:
            self.connection.resume()

    def left(self) -> None:
        """The client has gone: the upstream's connection is free at once."""
        if self._state != ENDED:
            self._leave_upstream()
            self.event.outcome = "aborted"
            self._finish()

    def tick(self, stall_s: float) -> None:
        """A second has passed. A client that takes less than a little has stopped reading."""
        unsent = self._client.unsent()
        taken = self._unsent - unsent
        self._unsent = unsent
        self._stalled_s = self._stalled_s + TICK_S if unsent and taken < MIN_READ_RATE * TICK_S else 0.0
        if self._stalled_s >= stall_s:
            self._leave_upstream()
            self._cut("request-timeout")

    # -- through a filter

    def _filter_on(self, guard: Guard, status: int, fields: bytes) -> None:
        """The body goes through a filter from here on; `fields` are lines for the head, which is kept back."""
        self._kept_head = status, fields
        self._filter, self._state = guard.open(), FILTERED

    def _feed(self, data: bytes) -> None:
        assert self._filter is not None  # that is what FILTERED says
        try:
            parts = self._filter.parts(data)
        except Unfilterable:
            self._leave_upstream()
            self._unreadable()
            return
        self._show(parts)

    def _show(self, parts: Parts) -> None:
        size = sum(map(len, parts))
        if not size:
            return
        if self._kept_head is not None:
            status, fields = self._kept_head
            self._kept_head = None
            assert self._plan.guard is not None  # which made the filter
            fields += _lines(self._plan.guard.receipt(None))
            self._client.send(self._head(status, fields, IN_CHUNKS))
        self.event.bytes_out += size
        self._send_chunk(parts, size)

    def _close(self) -> None:
        """The end of what went through a filter: with a head, where nothing was out yet, that says all of it."""
        guard, opened = self._plan.guard, self._filter
        assert guard is not None and opened is not None  # noqa: PT018 - they come together
        try:
            last = opened.close()
        except Unfilterable:
            self._unreadable()
            return
        if self._kept_head is not None:
            status, fields = self._kept_head
            self.event.bytes_out = len(last)
            fields += _lines(guard.receipt(opened.tally))
            self._client.answer(self._head(status, fields, _sized(last), last))
        else:
            self._show((last,))
            self._client.send(b"0\r\n\r\n")
        self._end()

    def _unreadable(self) -> None:
        problem = unreadable()
        if self._kept_head is None:
            self._cut(problem.kind)
        else:
            self._refuse(problem)

    # -- how it ends

    def _pass_on(self) -> None:
        status = self.event.upstream_status or 0
        whole = b"".join(self._pieces)
        try:
            text = passed_on(status, whole if len(whole) <= MAX_REFUSAL_BYTES else b"")
        except Problem as problem:
            self._refuse(problem)
            return
        self.event.bytes_out = len(text)
        self._client.answer(self._head(status, _status_line(status) + JSON_LINE, _sized(text), text))
        self._end()

    def _refuse(self, problem: Problem) -> None:
        event = self.event
        status, fields, text = problem.to_problem_json(event.request_id)
        event.status, event.problem, event.outcome, event.bytes_out = (
            status,
            problem.kind,
            "refused",
            len(text),
        )
        standing = standing_fields(event.principal)
        told = {name for name, _ in fields}
        fields = (*fields, *((name, value) for name, value in standing if name not in told))
        lines = _status_line(status) + _lines(fields)
        self._client.answer(
            b"".join((lines, ID, event.request_id.encode(), _date(), _sized(text), self._plan.end, text))
        )
        self._end()

    def _cut(self, kind: str) -> None:
        self.event.problem, self.event.outcome = kind, "cut"
        self._finish()
        self._client.break_off()

    def _end(self) -> None:
        self._finish()
        self._client.exchanged(self._plan.message.should_close)

    def _finish(self) -> None:
        self._state = ENDED
        if self._filter is not None:
            self.event.withheld = self._filter.tally.withheld
        self._lean.over(self, self.event)

    def _leave_upstream(self) -> None:
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    def _head(self, status: int, lines: bytes, framing: bytes, body: bytes = b"") -> bytes:
        """A head with `body` behind it: `lines` are those up to our own, `framing` says how long the body is (RFC 9112
        section 6)."""
        event, plan = self.event, self._plan
        event.status = status
        if self.spent:
            lines += _lines(self.spent)
        request_id = event.request_id.encode()
        return b"".join((lines, plan.answer, request_id, _date(), framing, plan.end, body))


_now: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """The end of a line, and the Date line of this second (RFC 9110 section 6.6.1)."""
    global _now
    second = int(time.time())
    if second != _now[0]:
        _now = (second, f"\r\nDate: {formatdate(second, usegmt=True)}\r\n".encode())
    return _now[1]


def _status_line(status: int) -> bytes:
    return _STATUS.get(status) or f"HTTP/1.1 {status} \r\n".encode()


def _sized(body: bytes) -> bytes:
    return LENGTH % len(body)


def _pairs(fields: headers.Pairs) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in fields])


def _lines(fields: Headers) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")
