"""What an app that holds a token may ask about it, without a call to the vendor: what am I, may I?

`can` takes the steps of `Flow.handle` in their order, by the same functions, and leaves out what costs something:
no rate is spent, nothing is recorded as begun, nothing goes upstream. Any valid token may ask, about itself alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from gateway import headers, target
from gateway.columns.guard import ColumnsGuard
from gateway.exchange import EVENT, HEAD, rfc3339
from gateway.flow import Flow, counted, refuse_body, require
from gateway.load import Sets
from gateway.model import Decision, Moment, Principal
from gateway.ops import serve_only
from gateway.policy import decision_as_dict, refused_before_as_dict
from gateway.problem import Problem
from gateway.ratelimit import RateLimit

MAX_QUESTIONS = 100
MAX_ASKED_BYTES = 65_536
QUESTION = frozenset({"method", "path", "body"})


@dataclass(frozen=True, slots=True)
class Question:
    """One request that is asked about. `path` has its query; `keys` are those of its body, None for no body."""

    method: str
    path: str
    keys: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SelfService:
    """The handlers of `GET /gateway/token` and `POST /gateway/can`. `rate` is for asking, a budget of its own."""

    flow: Flow
    rate: RateLimit

    def add_routes(self, router: web.UrlDispatcher) -> None:
        serve_only(router, ("GET",), "/gateway/token", self.token)
        serve_only(router, ("POST",), "/gateway/can", self.can)

    async def token(self, request: web.Request) -> web.Response:
        """The token's own id, scopes, limits and expiry, and the account it acts for."""
        principal = await self._principal(request, "token.self")
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
                "limits": {
                    "requests_per_minute": self.flow.limits.requests_per_minute or None,
                    "personal_records_per_day": principal.personal_records_per_day,
                    "personal_records_left": await self.flow.budgets.left(principal),
                },
            },
            headers={"Gateway-Answer": "ok"},
        )

    async def can(self, request: web.Request) -> web.Response:
        """What requests would get: `{"method", "path", "body"?}`, or up to 100 of them as `{"requests": [...]}`.

        `body` is the list of the body's keys, at any depth, never a value of it; left out for a request without a
        body. The answer to one is as `policy explain --json` has it; to many, `{"answers": [...]}` in their order.
        A token of ours in any of them refuses all of it, and marks that token exposed, as everywhere.
        """
        principal = await self._principal(request, "token.can")
        self.rate.spend(principal.token_id)
        limits = self.flow.limits
        bounded = replace(limits, max_body_bytes=min(limits.max_body_bytes, MAX_ASKED_BYTES))
        document = (await self.flow.exchanges.receive_json(request, bounded)).document
        questions, event, sets = read(document), request[EVENT], self.flow.policies.sets
        event.policy_digest = sets.enforced.digest
        for question in questions:  # one by one: in a long body, what hides in an encoding was not looked for
            await self.flow.exchanges.refuse_exposed(question.path, "body", event)
        host, moment = request[HEAD].host, Moment(event.began, event.client)
        answers = [await self._answer(principal, question, host, sets, moment) for question in questions]
        return web.json_response(
            {"answers": answers} if "requests" in document else answers[0], headers={"Gateway-Answer": "ok"}
        )

    async def _principal(self, request: web.Request, act: str) -> Principal:
        event = request[EVENT]
        event.act = act
        principal = event.principal = await self.flow.authenticator.principal(
            request[HEAD].authorization, event.client
        )
        return principal

    async def _answer(
        self, principal: Principal, question: Question, host: str, sets: Sets, moment: Moment
    ) -> dict[str, object]:
        """The steps of `Flow.handle`, up to the one that would spend or send something."""
        flow, call, decision = self.flow, None, Decision(False)
        guard, table = None, sets.enforced
        try:
            headers.judge(question.method, (1, 1), ((b"Host", b"gateway"),))
            wanted = target.judge(question.path, host, flow.limits.max_target_bytes)
            if question.keys is not None:
                refuse_body(question.method)
            call = flow.catalogue.identify(question.method, wanted)
            related = await flow.related(principal, call)
            decision = table.decide(principal, call.operation, related, moment)
            require(decision, principal, call)
            keys = question.keys or ()
            for key in keys:
                target.refuse_name(key, "body")
            if call.operation.effect != "read":
                call = flow.catalogue.with_keys(call, wanted.query_names.union(keys))
                decision = table.decide(principal, call.operation, related, moment)
                require(decision, principal, call)
            seen = sets.enforced.visible(principal, related, moment)
            _, guard = flow.protection(call, wanted.raw, seen, sets)
            flow.credentials.of(principal.owner.account)
            if counted(guard, principal) and guard.asked.personal:
                await flow.budgets.check(principal, guard.asked.rows)
        except Problem as problem:
            if problem.kind == "store-unavailable":  # then nothing is known of any of them
                raise
            if call is None:
                return refused_before_as_dict(problem)
            if decision.allowed:  # refused for another reason, as which the proxy names no policy either
                decision = Decision(False, (), problem.kind)
            return decision_as_dict(decision, call.operation)
        return decision_as_dict(
            decision, call.operation, guard.asked.withheld if isinstance(guard, ColumnsGuard) else {}
        )


def read(document: Mapping[str, Any]) -> tuple[Question, ...]:
    """What a body asks, at least one question. Raises: Problem "invalid-input" that names the member.

    Never what was written there: an answer is no place for what may be a piece of a secret.
    """
    if "requests" not in document:
        return (_question(document, ""),)
    asked = document["requests"]
    if len(document) > 1:
        raise _invalid("requests", "stands alone")
    if not isinstance(asked, list) or not 1 <= len(asked) <= MAX_QUESTIONS:
        raise _invalid("requests", f"has to be a list of 1 to {MAX_QUESTIONS} requests")
    return tuple(_question(entry, f"requests.{number}.") for number, entry in enumerate(asked))


def _question(entry: object, at: str) -> Question:
    if not isinstance(entry, Mapping):
        raise _invalid(at.rstrip("."), "has to be an object")
    if entry.keys() - QUESTION:
        raise _invalid(at.rstrip(".") or "the body", "has members besides method, path and body")
    for name in ("method", "path"):
        if not isinstance(entry.get(name), str):
            raise _invalid(at + name, "is required, as text")
    keys = entry.get("body")
    if "body" in entry and not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise _invalid(at + "body", "has to be the list of the body's keys, at any depth")
    return Question(entry["method"], entry["path"], None if keys is None else tuple(keys))


def _invalid(member: str, text: str) -> Problem:
    return Problem("invalid-input", f"{member} {text}.", member=member)
