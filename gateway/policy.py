"""The policies and their engine: a principal, an operation and a relation into a Decision, and why.

The owner is judged first, by Cedar with default deny; only what the owner may do is then cut down to the token's
scopes. Anything but a clean answer of the engine is a denial and an alarm: Cedar skips a `forbid` that fails to
evaluate, so an error anywhere could otherwise open what that `forbid` closes.

A request is not answered from here, but from the table that is compiled from such a set (`table.py`); this explains.
Nothing here reads a clock or a socket; only `load` opens files (`policyfile`).

Source: sections 2 and 6 of the design.
"""

from __future__ import annotations

import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.cedar import cedarpy
from gateway.model import (
    ACCOUNT_KINDS,
    APIS,
    COLUMN_CLASSES,
    EFFECTS,
    RELATIONS,
    ROLES,
    STATUSES,
    Account,
    ColumnClass,
    Decision,
    Moment,
    Operation,
    Owner,
    PolicyRef,
    Principal,
    Relation,
)
from gateway.policyfile import Invariant, Loaded, Policy, read
from gateway.problem import Problem
from gateway.shipped import packaged
from gateway.tomlfile import ConfigError, Fault
from gateway.words import NO_ACCOUNT, WEEKDAYS

__all__ = [
    "ANY_MOMENT", "REVEALED_BY", "Asked", "Considered", "Engine", "Explanation", "Invariant", "PolicySet", "Situation",
    "UncleanAnswer", "decision_as_dict", "explanation_as_dict", "explanation_text", "packaged",
    "refused_before_as_dict", "relation", "short", "situation",
]  # fmt: skip

LOG = logging.getLogger("gateway.policy")

ANY_MOMENT = Moment(0.0, "0.0.0.0")  # noqa: S104 (an address to judge from, none to listen on)
"""For questions whose answer does not depend on the moment."""

REVEALED_BY: Mapping[ColumnClass, str | None] = {
    "public": None,
    "pii": "reveal:pii",
    "financial": "reveal:financial",
}
"""The scope that a token needs to see the columns of a class; None for none."""

NOTHING: Mapping[str, int] = MappingProxyType({})

Asked = Operation | ColumnClass
"""What a policy is asked about: an operation to call, or a class of columns to see."""


def relation(
    owner: Owner, operation: Operation, account_id: str | None, account_network: str | None
) -> Relation:
    """How the account that a path names stands to the owner's.

    `account_network` is the network that account is stored under, None when it is not known.
    Source: section 2.4 of the design.
    """
    kind = operation.account_kind
    if account_id is None or kind is None:
        return "none"
    if (kind, account_id) == (owner.account.kind, owner.account.id):
        return "own"
    if kind != "network" and owner.account.kind == "network" and account_network == owner.account.id:
        return "network"
    return "other"


@dataclass(frozen=True, slots=True)
class Considered:
    """One policy beside one request. `failed` are its conditions that did not hold, as written in the file."""

    policy: PolicyRef
    matched: bool
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and how every policy that is about calls stood to it (none when the evaluation failed)."""

    operation: Operation
    relation: Relation
    decision: Decision
    considered: tuple[Considered, ...]

    def nearest(self) -> tuple[Considered, ...]:
        """For a default deny: the permits that the fewest conditions kept from matching."""
        if self.decision.allowed or self.decision.policies or not self.considered:
            return ()
        permits = [c for c in self.considered if c.policy.effect == "permit" and not c.matched]
        least = min((len(c.failed) for c in permits), default=0)
        return tuple(c for c in permits if len(c.failed) == least)


class UncleanAnswer(Exception):
    """The engine answered with errors, or not at all."""


class Engine:
    """Some policies, ready to be asked. `text` is Cedar; the schema makes Cedar check entities and context.

    Without the schema an attribute that is missing or of the wrong type only keeps policies from matching.
    """

    def __init__(self, text: str, schema: str | cedarpy.Schema) -> None:
        self._policies = cedarpy.PolicySet.from_str(text)
        self._schema = cedarpy.Schema.from_str(schema) if isinstance(schema, str) else schema

    def ask(self, situation: Situation) -> tuple[bool, set[str]]:
        """Whether it is allowed, and the ids of the policies behind it. Raises: UncleanAnswer for anything else."""
        request, entities = situation
        answer = cedarpy.is_authorized(request, self._policies, entities, self._schema)
        if answer.diagnostics.errors:
            raise UncleanAnswer(" / ".join(answer.diagnostics.errors))
        if answer.decision not in (cedarpy.Decision.Allow, cedarpy.Decision.Deny):
            raise UncleanAnswer("the engine made no decision")
        names = answer.diagnostics.id_annotations_by_reason
        return answer.allowed, {names.get(reason, reason) for reason in answer.diagnostics.reasons}


class Judge(ABC):
    """What decides: a set of policies by its engine, or the table that was compiled from it. `alarms` counts failures.

    Nothing here raises for anything it is asked: what goes wrong denies and alarms.
    """

    alarms = 0

    @abstractmethod
    def _found(
        self, owner: Owner, asked: Asked, relation: Relation, moment: Moment, token_id: str
    ) -> Decision:
        """The answer. Raises: whatever goes wrong."""

    def decide(
        self, principal: Principal, operation: Operation, relation: Relation, moment: Moment
    ) -> Decision:
        """Whether the token may: its owner first, then its scopes.

        An `insufficient-scope` names the permits by which the owner may.
        """
        decision = self.owner_may(principal.owner, operation, relation, moment, principal.token_id)
        if decision.allowed and operation.scope not in principal.scopes:
            return Decision(False, decision.policies, "insufficient-scope", operation.scope)
        return decision

    def owner_may(
        self, owner: Owner, asked: Asked, relation: Relation, moment: Moment, token_id: str = ""
    ) -> Decision:
        """Whether the policies let the owner call an operation, or see a class of columns; scopes aside."""
        try:
            return self._found(owner, asked, relation, moment, token_id)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as fault:  # a panic of the engine is no Exception, and denies all the same
            self.alarms += 1
            text, name = short(fault), getattr(asked, "id", asked)
            LOG.error("policy-evaluation-error asked=%s relation=%s: %s", name, relation, text)
            return Decision(False, (), "denied", error=text)

    def visible(self, principal: Principal, relation: Relation, moment: Moment) -> frozenset[ColumnClass]:
        """The column classes that the token may see in an answer about an account that stands so to its owner.

        The scopes have their say: `pii` needs `reveal:pii`, `financial` needs `reveal:financial`.
        """
        return frozenset(
            name
            for name, scope in REVEALED_BY.items()
            if (scope is None or scope in principal.scopes)
            and self.owner_may(principal.owner, name, relation, moment, principal.token_id).allowed
        )


class PolicySet(Judge):
    """All policies that are loaded together, asked of the engine. `digest` names them."""

    def __init__(self, loaded: Loaded) -> None:
        self.policies = tuple(policy.ref for policy in loaded.policies)
        self.parts = loaded.policies
        self.invariants = loaded.invariants
        self.classes = loaded.classes
        self.digest = loaded.digest
        self.schema = loaded.schema_file.text
        self._parsed = loaded.schema
        self._engine = self.engine("\n".join(policy.text for policy in loaded.policies))

    @classmethod
    def load(
        cls,
        folder: Path | None = None,
        local: Path | None = None,
        shadow: Path | None = None,
        *,
        operations: Sequence[Operation],
    ) -> PolicySet:
        """The set in `folder` (the packaged one by default), with the operator's `local` folder laid over it.

        On top of that comes the `shadow` folder, for a set that is only tried.

        Local files add and never remove, and the shipped invariants hold for every set. `operations` are those
        of the catalogue: a policy that names another is refused. Raises: ConfigError with every fault found.
        """
        loaded = read(packaged() if folder is None else folder, local, operations, shadow)
        made = cls(loaded)
        # A schema that does not know what the gateway says would refuse every request: better said now.
        engine = made.engine("permit (principal, action, resource);")
        try:
            for asked in (_ANYTHING, *COLUMN_CLASSES):
                engine.ask(situation(_ANYONE, asked, "none", ANY_MOMENT))
        except Exception as fault:
            text = f"is not what the gateway speaks: {short(fault)}"
            raise ConfigError([Fault(loaded.schema_file.path, 0, "", text)]) from None
        return made

    def engine(self, text: str) -> Engine:
        """Other policies than these, under the same schema."""
        return Engine(text, self._parsed)

    def explain(
        self, principal: Principal, operation: Operation, relation: Relation, moment: Moment = ANY_MOMENT
    ) -> Explanation:
        """The decision as `decide` makes it, and for every policy whether it matched and what kept it from it."""
        decision = self.decide(principal, operation, relation, moment)
        if decision.error is not None:
            return Explanation(operation, relation, decision, ())
        asked = situation(principal.owner, operation, relation, moment, principal.token_id)
        return Explanation(
            operation,
            relation,
            decision,
            tuple(self._consider(policy, asked) for policy in self.parts if "call" in policy.actions),
        )

    def evaluate(
        self, owner: Owner, asked: Asked, relation: Relation, moment: Moment, token_id: str
    ) -> Decision:
        """The engine's answer over the whole set. Raises: UncleanAnswer, or whatever else went wrong."""
        for word, known in _words(owner, asked, relation):
            if word not in known:  # no policy speaks of it, so a forbid meant for its like would not match
                raise UncleanAnswer(f"{word!r} is not one of {', '.join(map(str, known))}")
        allowed, ids = self._engine.ask(situation(owner, asked, relation, moment, token_id))
        behind = tuple(ref for ref in self.policies if ref.id in ids)
        wanted = "permit" if allowed else "forbid"
        if len(behind) != len(ids) or any(ref.effect != wanted for ref in behind) or allowed > bool(behind):
            raise UncleanAnswer("the answer does not follow from the policies it names")
        return Decision(allowed, behind, None if allowed else "denied")

    _found = evaluate

    def _consider(self, policy: Policy, situation: Situation) -> Considered:
        if self.engine(policy.text).ask(situation)[1]:
            return Considered(policy.ref, True)
        return Considered(
            policy.ref,
            False,
            tuple(c.shown for c in policy.conditions if not self._holds(c.probe, situation)),
        )

    def _holds(self, probe: str, situation: Situation) -> bool:
        try:
            return self.engine(probe).ask(situation)[0]
        except UncleanAnswer:  # a condition may lean on one before it, and fails without it
            return False


def short(fault: BaseException) -> str:
    """What went wrong, without the dump of entities that Cedar puts before it."""
    text = re.sub(r"^failed to parse entities from:\n.*\]: ", "", str(fault), flags=re.DOTALL)
    kind = "" if isinstance(fault, UncleanAnswer) else f"{type(fault).__name__}: "
    return " ".join((kind + text).split())[:300]


# --- What the engine is told ---------------------------------------------------------------------------------

Situation = tuple[dict[str, Any], str]
"""A request and its entities, in Cedar's JSON."""

_ANYONE = Owner("1", Account("network", "1", "1"), "observer", False)
_ANYTHING = Operation("1", "transactions", "read", None, "current", (), "", ())


def _words(
    owner: Owner, asked: Asked, relation: Relation
) -> tuple[tuple[str | None, Sequence[str | None]], ...]:
    of_owner = (
        (owner.account.kind, ACCOUNT_KINDS),
        (owner.role, ROLES),
        (relation, RELATIONS),
    )
    if not isinstance(asked, Operation):
        return (*of_owner, (asked, COLUMN_CLASSES))
    return (
        *of_owner,
        (asked.api, APIS),
        (asked.effect, EFFECTS),
        (asked.status, STATUSES),
        (asked.account_kind, (*ACCOUNT_KINDS, None)),
    )


def situation(
    owner: Owner, asked: Asked, relation: Relation, moment: Moment, token_id: str = ""
) -> Situation:
    """What the engine is told, as the schema has it. Raises: ValueError for a client that is no IP address."""
    user, account = {"type": "User", "id": owner.id}, owner.account
    resource, attributes, action = _resource(asked)
    request = {
        "principal": user,
        "action": action,
        "resource": resource,
        "context": {"relation": relation, "token": token_id, **_when(moment)},
    }
    attrs = {
        "id": owner.id,
        "account": {"kind": account.kind, "id": account.id, "network": account.network},
        "role": owner.role,
        "administrator": owner.administrator,
    }
    entities = [
        {"uid": user, "attrs": attrs, "parents": []},
        {"uid": resource, "attrs": attributes, "parents": []},
    ]
    return request, json.dumps(entities)


def _resource(asked: Asked) -> tuple[dict[str, str], dict[str, str], str]:
    if not isinstance(asked, Operation):
        return {"type": "ColumnClass", "id": asked}, {"id": asked}, 'Action::"see"'
    attributes = {
        "id": asked.id,
        "api": asked.api,
        "effect": asked.effect,
        "status": asked.status,
        "account_kind": asked.account_kind or NO_ACCOUNT,
    }
    return {"type": "Operation", "id": asked.id}, attributes, 'Action::"call"'


def _when(moment: Moment) -> dict[str, Any]:
    now = datetime.fromtimestamp(int(moment.now), UTC)
    client = ip_address(moment.client)
    if isinstance(client, IPv6Address):  # Cedar knows neither zones nor mapped addresses
        client = client.ipv4_mapped or IPv6Address(int(client))
    return {
        "now": {"__extn": {"fn": "datetime", "arg": now.strftime("%Y-%m-%dT%H:%M:%SZ")}},
        "weekday": WEEKDAYS[now.weekday()],
        "client": {"__extn": {"fn": "ip", "arg": str(client)}},
    }


# --- Explanations --------------------------------------------------------------------------------------------


def explanation_as_dict(explanation: Explanation, withheld: Mapping[str, int] = NOTHING) -> dict[str, object]:
    """What `policy explain --json` prints. `withheld`: how many columns of each class the answer would lack."""
    return decision_as_dict(explanation.decision, explanation.operation, withheld)


def decision_as_dict(
    decision: Decision, operation: Operation, withheld: Mapping[str, int] = NOTHING
) -> dict[str, object]:
    """A decision in the JSON of `policy explain` and of `POST /gateway/can`."""
    document: dict[str, object] = {"decision": "allow" if decision.allowed else "deny"}
    if decision.problem is not None:
        document["problem"] = decision.problem
    if decision.missing_scope is not None:
        document["missing_scope"] = decision.missing_scope
    document["operation"] = operation.id
    document["policies"] = [
        {
            "id": p.id,
            "effect": p.effect,
            "reason": p.reason,
            "source": p.source,
            "file": p.file,
            "line": p.line,
        }
        for p in decision.policies
    ]
    document["withheld"] = list(withheld)
    if withheld:
        document["withheld_columns"] = dict(withheld)
    return document


def refused_before_as_dict(problem: Problem) -> dict[str, object]:
    """The same JSON for a request that is refused before any policy is asked."""
    return {
        "decision": "deny",
        "problem": problem.kind,
        "operation": problem.members.get("operation"),
        "policies": [],
        "withheld": [],
    }


def explanation_text(explanation: Explanation, withheld: Mapping[str, int] = NOTHING) -> str:
    """What `policy explain` prints: the decision, what is behind it, and how every policy stood to it."""
    decision, operation = explanation.decision, explanation.operation
    lines = [
        ("allow" if decision.allowed else f"deny ({decision.problem})")
        + f": {operation.id} ({operation.api}, {operation.effect}), relation {explanation.relation}"
    ]
    if decision.missing_scope is not None:
        lines.append(f"  the owner may; the token lacks the scope {decision.missing_scope}")
    if decision.error is not None:
        lines.append(f"  the policies could not be evaluated: {decision.error}")
    for policy in decision.policies:
        lines += [
            f"  {policy.effect} {policy.id}  {policy.file}:{policy.line}",
            f"    {policy.reason}.",
            f"    {policy.source}.",
        ]
    nearest = explanation.nearest()
    if nearest:
        lines.append("  no policy permits it; nearest:")
        lines += (f"    {n.policy.id}, but for: {' and '.join(n.failed)}" for n in nearest)
    if withheld:
        columns = ", ".join(f"{number} {name}" for name, number in withheld.items())
        lines.append(f"  columns withheld from the answer: {columns}")
    if explanation.considered:
        lines.append("  every policy:")
        width = max(len(c.policy.id) for c in explanation.considered)
        for c in explanation.considered:
            how = "matched" if c.matched else c.failed[0] if c.failed else "not matched"
            if c.failed:
                how = how.replace("unless", "excepts", 1) if how.startswith("unless ") else f"needs {how}"
            lines.append(f"    {c.policy.effect:6} {c.policy.id:{width}}  {how}")
    return "\n".join(lines)
