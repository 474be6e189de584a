"""prove(table, invariants): what may never be, held against every decision there is.

A broken invariant is shown by a request that someone could send, and by whom. Scopes have no say: an invariant holds
for the token that holds them all. Policies that read the clock or the client's address count as the worst they can
be: their permits as matching, their forbids as not.

Source: section 6 of the design.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from gateway.model import (
    ACCOUNT_KINDS,
    COLUMN_CLASSES,
    RELATIONS,
    ROLES,
    Account,
    AccountKind,
    Decision,
    Operation,
    Owner,
    PolicyRef,
    Relation,
    Role,
)
from gateway.policy import Asked
from gateway.policyfile import Invariant
from gateway.table import Live, Point, Table

__all__ = ["Broken", "prove", "reachable", "request_line"]

OMISSIBLE = "/api/{version}/{network_id}/"
"""How a path begins in which the network id may be left out."""
VERSIONS = {"transactions": "2020-10-01", "network_integration": "2022-08-01"}
Base = tuple[Asked, AccountKind, Role, bool, Relation]


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold, and an example: `owner`, with token `token_id`, sends `request`.

    `named` is what else matters: ids that policies name, an array in the body. `policies` are the permits that would
    allow it; when it is `live`, only at some time or from some address.
    """

    invariant: Invariant
    owner: Owner
    token_id: str
    named: tuple[str, ...]
    asked: Asked
    relation: Relation
    request: str
    policies: tuple[PolicyRef, ...]
    live: bool

    @property
    def text(self) -> str:
        """`broken by one: GET /api/… would be allowed to super of advertiser:706`."""
        owner, seen = self.owner, not isinstance(self.asked, Operation)
        what = f"{self.asked} columns of the answer would be shown" if seen else "would be allowed"
        who = f"{'an administrator, ' if owner.administrator else ''}{owner.role} of {owner.account.key}"
        ids = f" ({', '.join(self.named)})" if self.named else ""
        when = ", at some time or from some address" if self.live else ""
        behind = ", ".join(policy.id for policy in self.policies)
        joined = f"{self.request}: {what}" if seen else f"{self.request} {what}"
        return f"broken by {behind}: {joined} to {who}{ids}{when}"


def prove(table: Table, invariants: Iterable[Invariant]) -> list[Broken]:
    """The invariants that the table breaks, each with one example; a request that leads there is preferred."""
    found = (_first(table, invariant) for invariant in invariants)
    return [broken for broken in found if broken is not None]


def _first(table: Table, invariant: Invariant) -> Broken | None:
    unreached: Broken | None = None
    seen: set[tuple[int, AccountKind]] = set()
    for base in _concerned(table, invariant):
        asked, kind, role, administrator, relation = base
        entry = table.entry(asked, kind, role, administrator, relation)
        can_be = reachable(kind, asked, relation)
        # What came to nothing once, and is the very same entry, comes to nothing again.
        if isinstance(entry, Decision) and not entry.allowed:
            continue
        if (id(entry), kind) in seen or (unreached is not None and not can_be):
            continue
        at = _allowed_at(table, base)
        if at is None:
            seen.add((id(entry), kind))
        elif can_be:
            return _broken(table, invariant, base, at)
        elif unreached is None:
            unreached = _broken(table, invariant, base, at)
    return unreached


def _concerned(table: Table, invariant: Invariant) -> Iterator[Base]:
    when = invariant.when
    asked: Sequence[Asked]
    if invariant.never == "see":
        asked = [name for name in COLUMN_CLASSES if name in when.get("class", COLUMN_CLASSES)]
    else:
        asked = [operation for operation in table.operations if _about(operation, invariant)]
    kinds = [kind for kind in ACCOUNT_KINDS if kind in when.get("kind", ACCOUNT_KINDS)]
    roles = [role for role in ROLES if role in when.get("role", ROLES)]
    either = [value for value in (False, True) if value in when.get("administrator", (False, True))]
    relations = [name for name in RELATIONS if name in when.get("relation", RELATIONS)]
    for kind, role, administrator, relation, one in product(kinds, roles, either, relations, asked):
        yield one, kind, role, administrator, relation


def _about(operation: Operation, invariant: Invariant) -> bool:
    facts = {
        "api": operation.api,
        "effect": operation.effect,
        "status": operation.status,
        "operation": operation.id,
    }
    return all(fact in invariant.when.get(name, (fact,)) for name, fact in facts.items())


def _allowed_at(table: Table, base: Base) -> Point | None:
    """The first point at which somebody is, or may at some moment be, allowed."""
    entry = table.entry(*base)
    for at in table.names.points(base[1]):
        if _permits(table, table.settled(entry, at)):
            return at
    return None


def _permits(table: Table, outcome: Decision | Live) -> tuple[PolicyRef, ...]:
    """The permits by which it is, or may be, allowed."""
    decision, live = table.reading(outcome)
    if decision.policies and not decision.allowed:
        return ()
    return (*decision.policies, *(policy for policy in live if policy.effect == "permit"))


def _broken(table: Table, invariant: Invariant, base: Base, at: Point) -> Broken:
    asked, kind, role, administrator, relation = base
    owner, token_id = table.names.example(kind, role, administrator, at)
    operation = asked if isinstance(asked, Operation) else _example(table, owner, relation)
    user, _, network, token = at
    told = {"user": user, "network": network, "token": token}
    named = [f"{word} {name}" for word, name in told.items() if name is not None]
    if any(other.id == operation.id and other.effect != operation.effect for other in table.operations):
        # The path alone says "write": what makes it "destroy" is in the body.
        named += [f'with "{operation.replaces[0]}" in its body'] if operation.effect == "destroy" else []
    if not reachable(kind, asked, relation):
        named.append("no request leads there today")
    outcome = table.settled(table.entry(*base), at)
    return Broken(
        invariant,
        owner,
        token_id,
        tuple(named),
        asked,
        relation,
        request_line(owner, operation, relation),
        _permits(table, outcome),
        not table.reading(outcome)[0].allowed,
    )


# --- Requests ------------------------------------------------------------------------------------------------


def reachable(kind: AccountKind, asked: Asked, relation: Relation) -> bool:
    """Whether a request can come to this cell, for an owner of this kind (`policy.relation`)."""
    if not isinstance(asked, Operation):
        return relation != "none" and (relation != "network" or kind == "network")
    if relation == "none":
        return asked.account_kind is None or asked.path.startswith(OMISSIBLE)
    if relation == "own":
        return asked.account_kind == kind
    if relation == "network":
        return kind == "network" and asked.account_kind not in (None, "network")
    return asked.account_kind is not None


def _example(table: Table, owner: Owner, relation: Relation) -> Operation:
    """An operation that returns columns, of an account that stands so to the owner's."""
    returning = [o for o in table.operations if o.api == "transactions" and o.effect == "read"]
    fitting = (o for o in returning or table.operations if reachable(owner.account.kind, o, relation))
    return next(fitting, table.operations[0])


def request_line(owner: Owner, operation: Operation, relation: Relation) -> str:
    """A request that asks for the operation, naming an account that stands so to the owner's."""
    path = operation.path
    if relation == "none" and path.startswith(OMISSIBLE):
        path = path.replace("/{network_id}", "", 1)
    elif operation.account is not None:
        path = path.replace("{" + operation.account + "}", _account(owner.account, relation))
    path = path.replace("{version}", VERSIONS[operation.api]).replace("{format}", operation.formats[0])
    while "{" in path:
        path = path[: path.index("{")] + "1" + path[path.index("}") + 1 :]
    return f"{operation.methods[0]} {path}"


def _account(own: Account, relation: Relation) -> str:
    if relation == "own":
        return own.id
    wanted = ("706", "707") if relation == "network" else ("99", "98")
    return next(number for number in wanted if number != own.id)
