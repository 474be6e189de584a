"""The policies: a principal, an operation and a relation into a Decision.

The owner is judged first, by Cedar with default deny; only what the owner may do is then cut down to the token's
scopes. Anything but a clean answer of the engine is a denial and an alarm: Cedar skips a `forbid` that fails to
evaluate, so an error anywhere could otherwise open what that `forbid` closes.

Nothing here reads a clock or a socket; only `load` opens files (`policyfile`).

Source: sections 2 and 6 of the design.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cedarpy

from gateway.model import (
    ACCOUNT_KINDS,
    APIS,
    EFFECTS,
    RELATIONS,
    ROLES,
    STATUSES,
    Account,
    Decision,
    Operation,
    Owner,
    PolicyRef,
    Principal,
    Relation,
)
from gateway.policyfile import NO_ACCOUNT, Invariant, Loaded, Policy, packaged, read
from gateway.tomlfile import ConfigError, Fault

__all__ = [
    "Considered", "Explanation", "Invariant", "PolicySet", "explanation_as_dict", "explanation_text", "packaged",
    "relation",
]  # fmt: skip

LOG = logging.getLogger("gateway.policy")
REMEMBERED = 32_768


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
    """A decision, and how every policy of the set stood to it (none when the evaluation failed)."""

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


class PolicySet:
    """All policies that are loaded together. `digest` names them; `alarms` counts failed evaluations."""

    def __init__(self, loaded: Loaded) -> None:
        self.policies = tuple(policy.ref for policy in loaded.policies)
        self.invariants = loaded.invariants
        self.digest = loaded.digest
        self.alarms = 0
        self._parts = loaded.policies
        self._cedar = cedarpy.PolicySet.from_str("\n".join(policy.text for policy in loaded.policies))
        self._schema = loaded.schema
        self._memory: dict[tuple[Owner, Operation, Relation], Decision] = {}

    @classmethod
    def load(
        cls, folder: Path | None = None, local: Path | None = None, *, operations: Sequence[Operation]
    ) -> PolicySet:
        """The set in `folder` (the packaged one by default), with the operator's `local` folder laid over it.

        Local files add and never remove, and the shipped invariants hold for every set. `operations` are those
        of the catalogue: a policy that names another is refused. Raises: ConfigError with every fault found.
        """
        loaded = read(packaged() if folder is None else folder, local, operations)
        made = cls(loaded)
        # A schema that does not know what the gateway says would refuse every request: better said now.
        try:
            made._ask("permit (principal, action, resource);", _situation(*_ANYONE))
        except Exception as fault:
            text = f"is not what the gateway speaks: {_short(fault)}"
            raise ConfigError([Fault(loaded.schema_path, 0, "", text)]) from None
        return made

    def decide(self, principal: Principal, operation: Operation, relation: Relation) -> Decision:
        """Whether the token may: its owner first, then its scopes. Never raises for anything it is asked.

        An `insufficient-scope` names the permits by which the owner may.
        """
        decision = self.owner_may(principal.owner, operation, relation)
        if decision.allowed and operation.scope not in principal.scopes:
            return Decision(False, decision.policies, "insufficient-scope", operation.scope)
        return decision

    def owner_may(self, owner: Owner, operation: Operation, relation: Relation) -> Decision:
        """Whether the policies let the owner, scopes aside. The answer is remembered, unless it is an error.

        What is remembered is kept under all that a policy can read, and nothing else.
        """
        try:
            asked = (owner, operation, relation)
            found = self._memory.get(asked)
            if found is None:
                found = self._evaluate(owner, operation, relation)
                if len(self._memory) >= REMEMBERED:
                    del self._memory[next(iter(self._memory))]
                self._memory[asked] = found
            return found
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as fault:  # a panic of the engine is no Exception, and denies all the same
            self.alarms += 1
            text = _short(fault)
            LOG.error("policy-evaluation-error operation=%s relation=%s: %s", operation.id, relation, text)
            return Decision(False, (), "denied", error=text)

    def explain(self, principal: Principal, operation: Operation, relation: Relation) -> Explanation:
        """The decision as `decide` makes it, and for every policy whether it matched and what kept it from it."""
        decision = self.decide(principal, operation, relation)
        if decision.error is not None:
            return Explanation(operation, relation, decision, ())
        situation = _situation(principal.owner, operation, relation)
        return Explanation(
            operation, relation, decision, tuple(self._consider(policy, situation) for policy in self._parts)
        )

    def _evaluate(self, owner: Owner, operation: Operation, relation: Relation) -> Decision:
        for word, known in _words(owner, operation, relation):
            if word not in known:  # no policy speaks of it, so a forbid meant for its like would not match
                raise _UncleanAnswer(f"{word!r} is not one of {', '.join(map(str, known))}")
        allowed, ids = self._ask(self._cedar, _situation(owner, operation, relation))
        behind = tuple(ref for ref in self.policies if ref.id in ids)
        wanted = "permit" if allowed else "forbid"
        if len(behind) != len(ids) or any(ref.effect != wanted for ref in behind) or allowed > bool(behind):
            raise _UncleanAnswer("the answer does not follow from the policies it names")
        return Decision(allowed, behind, None if allowed else "denied")

    def _ask(self, policies: str | cedarpy.PolicySet, situation: _Situation) -> tuple[bool, set[str]]:
        """Cedar's answer and the ids behind it. Raises: _UncleanAnswer for anything but a clean one.

        The schema is what makes Cedar check the entities and the context: without it an attribute that is
        missing or of the wrong type only keeps policies from matching.
        """
        request, entities = situation
        answer = cedarpy.is_authorized(request, policies, entities, self._schema)
        if answer.diagnostics.errors:
            raise _UncleanAnswer(" / ".join(answer.diagnostics.errors))
        if answer.decision not in (cedarpy.Decision.Allow, cedarpy.Decision.Deny):
            raise _UncleanAnswer("the engine made no decision")
        names = answer.diagnostics.id_annotations_by_reason
        return answer.allowed, {names.get(reason, reason) for reason in answer.diagnostics.reasons}

    def _consider(self, policy: Policy, situation: _Situation) -> Considered:
        if self._ask(policy.text, situation)[1]:
            return Considered(policy.ref, True)
        return Considered(
            policy.ref,
            False,
            tuple(c.shown for c in policy.conditions if not self._holds(c.probe, situation)),
        )

    def _holds(self, probe: str, situation: _Situation) -> bool:
        try:
            return self._ask(probe, situation)[0]
        except _UncleanAnswer:  # a condition may lean on one before it, and fails without it
            return False


class _UncleanAnswer(Exception):
    """The engine answered with errors, or not at all."""


def _short(fault: BaseException) -> str:
    """What went wrong, without the dump of entities that Cedar puts before it."""
    text = re.sub(r"^failed to parse entities from:\n.*\]: ", "", str(fault), flags=re.DOTALL)
    kind = "" if isinstance(fault, _UncleanAnswer) else f"{type(fault).__name__}: "
    return " ".join((kind + text).split())[:300]


# --- What the engine is told ---------------------------------------------------------------------------------

_Situation = tuple[dict[str, Any], str]
_CALL = 'Action::"call"'
_ANYONE: tuple[Owner, Operation, Relation] = (
    Owner("1", Account("network", "1", "1"), "observer", False),
    Operation("1", "transactions", "read", None, "current", (), "", ()),
    "none",
)


def _words(
    owner: Owner, operation: Operation, relation: Relation
) -> tuple[tuple[str | None, Sequence[str | None]], ...]:
    return (
        (owner.account.kind, ACCOUNT_KINDS),
        (owner.role, ROLES),
        (operation.api, APIS),
        (operation.effect, EFFECTS),
        (operation.status, STATUSES),
        (operation.account_kind, (*ACCOUNT_KINDS, None)),
        (relation, RELATIONS),
    )


def _situation(owner: Owner, operation: Operation, relation: Relation) -> _Situation:
    """Request and entities in Cedar's JSON, as the schema has them."""
    user, resource = {"type": "User", "id": owner.id}, {"type": "Operation", "id": operation.id}
    request = {
        "principal": user,
        "action": _CALL,
        "resource": resource,
        "context": {"relation": relation},
    }
    account = owner.account
    entities = [
        {
            "uid": user,
            "attrs": {
                "id": owner.id,
                "account": {"kind": account.kind, "id": account.id, "network": account.network},
                "role": owner.role,
                "administrator": owner.administrator,
            },
            "parents": [],
        },
        {
            "uid": resource,
            "attrs": {
                "id": operation.id,
                "api": operation.api,
                "effect": operation.effect,
                "status": operation.status,
                "account_kind": operation.account_kind or NO_ACCOUNT,
            },
            "parents": [],
        },
    ]
    return request, json.dumps(entities)


# --- Explanations --------------------------------------------------------------------------------------------


def explanation_as_dict(explanation: Explanation, withheld: Sequence[str] = ()) -> dict[str, object]:
    """What `policy explain --json` prints. `withheld` are the column classes the answer would lack."""
    decision = explanation.decision
    document: dict[str, object] = {"decision": "allow" if decision.allowed else "deny"}
    if decision.problem is not None:
        document["problem"] = decision.problem
    if decision.missing_scope is not None:
        document["missing_scope"] = decision.missing_scope
    document["operation"] = explanation.operation.id
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
    return document


def explanation_text(explanation: Explanation, withheld: Sequence[str] = ()) -> str:
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
        lines.append(f"  withheld from the answer: {', '.join(withheld)}")
    if explanation.considered:
        lines.append("  every policy:")
        width = max(len(c.policy.id) for c in explanation.considered)
        for c in explanation.considered:
            how = "matched" if c.matched else c.failed[0] if c.failed else "not matched"
            if c.failed:
                how = how.replace("unless", "excepts", 1) if how.startswith("unless ") else f"needs {how}"
            lines.append(f"    {c.policy.effect:6} {c.policy.id:{width}}  {how}")
    return "\n".join(lines)
