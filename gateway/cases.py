"""The cases that go with the policies: who asks for what, what is expected, and by which policies.

A case asserts the why as well as the what. Reading has the faults of every other file here (`file:line: key:`);
running has no effects. The invariants are tried the same way: over every kind of owner, relation and operation.

Source: section 6 and section 7 of the design.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from gateway import tomlfile
from gateway.model import (
    ACCOUNT_KINDS,
    DEFAULT_SCOPES,
    RELATIONS,
    ROLES,
    SCOPES,
    Account,
    AccountKind,
    Decision,
    Operation,
    Owner,
    PolicyRef,
    Principal,
    Relation,
    Role,
)
from gateway.operation import Catalogue
from gateway.policy import Invariant, PolicySet, packaged, relation
from gateway.problem import Problem
from gateway.target import judge
from gateway.tomlfile import ConfigError, Fault

Faults = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CasePrincipal:
    """Who asks. `network` is the network of an advertiser or affiliate; a network is its own."""

    kind: AccountKind
    account: str
    network: str | None = None
    role: Role = "member"
    administrator: bool = False
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    user: str = "1"

    def check(self) -> Faults:
        for scope in self.scopes:
            if scope not in SCOPES:
                yield "scopes", f"there is no scope {scope!r} (there are {', '.join(SCOPES)})"

    def principal(self) -> Principal:
        network = self.account if self.kind == "network" else self.network or ""
        owner = Owner(self.user, Account(self.kind, self.account, network), self.role, self.administrator)
        return Principal("case", owner, frozenset(self.scopes), 0)


@dataclass(frozen=True, slots=True)
class Case:
    """One `[[case]]`. `account_network`: the network that the account in the path is stored under, if it is.

    `body_keys` are the top-level keys of the request's body. Without `policies`, any may be behind the decision.
    """

    name: str
    principal: CasePrincipal
    request: str
    expect: Literal["allow", "deny", "insufficient-scope"]
    policies: tuple[str, ...] | None = None
    account_network: str | None = None
    body_keys: tuple[str, ...] = ()

    def check(self) -> Faults:
        method, space, target = self.request.partition(" ")
        if not (method.isalpha() and method.isupper() and space and target.startswith("/")):
            yield "request", 'expected a method and a target, such as "GET /api/2022-08-01/33/network.json"'


@dataclass(frozen=True, slots=True)
class CaseFile:
    case: tuple[Case, ...] = ()


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case, or one invariant, went. `text` says what was expected and what came, when it failed.

    `policies` are the ids that the case asserts, and that were behind the decision when it passed.
    """

    name: str
    file: str
    line: int
    passed: bool
    text: str = ""
    policies: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}" + (f": {self.text}" if self.text else "")


def run_cases(
    policies: PolicySet, catalogue: Catalogue, folder: Path | None = None, local: Path | None = None
) -> list[CaseResult]:
    """Every case in `cases/*.toml` of the policy folder (the packaged one by default) and of the local one.

    Raises: ConfigError with every fault of every file.
    """
    results: list[CaseResult] = []
    faults: list[Fault] = []
    for base in (packaged() if folder is None else folder, local):
        for path in sorted((base / "cases").glob("*.toml")) if base is not None else ():
            try:
                results += (_run(policies, catalogue, *found) for found in _cases(path))
            except ConfigError as error:
                faults += error.faults
    if faults:
        raise ConfigError(faults)
    return results


def untested(policies: PolicySet, results: Sequence[CaseResult]) -> tuple[PolicyRef, ...]:
    """The policies that no passing case names as being behind its decision."""
    named = {policy_id for result in results if result.passed for policy_id in result.policies}
    return tuple(policy for policy in policies.policies if policy.id not in named)


def _cases(path: Path) -> list[tuple[Case, str, int]]:
    """The cases of a file, each with the file and its line."""
    try:
        text = path.read_bytes().decode("utf-8")
        cases = tomlfile.read(CaseFile, text, str(path)).case
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError([Fault(str(path), 0, "", f"cannot be read: {type(error).__name__}")]) from None
    lines = tomlfile.Lines(text)
    found = [(case, str(path), lines.of(("case", str(i)))) for i, case in enumerate(cases)]
    names: dict[str, int] = {}
    taken = [
        Fault(str(path), line, case.name, f"this name is taken at line {names[case.name]}")
        for case, _, line in found
        if names.setdefault(case.name, line) != line
    ]
    if taken:
        raise ConfigError(taken)
    return found


def _run(policies: PolicySet, catalogue: Catalogue, case: Case, file: str, line: int) -> CaseResult:
    method, _, target = case.request.partition(" ")
    try:
        call = catalogue.identify(method, judge(target, ""))
    except Problem as problem:  # such a request never meets a policy, so its case would say nothing about one
        text = f"no policy is asked about {case.request}: {problem.kind} {problem.detail}".rstrip()
        return CaseResult(case.name, file, line, False, text)
    call = catalogue.with_keys(call, case.body_keys)
    principal = case.principal.principal()
    related = relation(principal.owner, call.operation, call.account_id, case.account_network)
    decision = policies.decide(principal, call.operation, related)
    got, behind = _outcome(decision), tuple(policy.id for policy in decision.policies)
    asserted = behind if case.policies is None else case.policies
    if got == case.expect and sorted(asserted) == sorted(behind) and decision.error is None:
        return CaseResult(case.name, file, line, True, "", case.policies or ())
    text = f"expected {_said(case.expect, asserted)}, got {_said(got, behind)}"
    if decision.error is not None:
        text += f" ({decision.error})"
    return CaseResult(case.name, file, line, False, text, case.policies or ())


def _outcome(decision: Decision) -> str:
    if decision.allowed:
        return "allow"
    return "insufficient-scope" if decision.problem == "insufficient-scope" else "deny"


def _said(outcome: str, policies: Sequence[str]) -> str:
    return f"{outcome} by {', '.join(sorted(policies)) or 'no policy'}"


# --- Invariants ----------------------------------------------------------------------------------------------

ACCOUNTS: dict[AccountKind, Account] = {
    "network": Account("network", "33", "33"),
    "advertiser": Account("advertiser", "706", "33"),
    "affiliate": Account("affiliate", "808", "33"),
}
VERSIONS = {"transactions": "2020-10-01", "network_integration": "2022-08-01"}


def check_invariants(policies: PolicySet, operations: Sequence[Operation]) -> list[CaseResult]:
    """One result for each invariant; a broken one names an owner and a request that would be allowed."""
    cells = [
        (Owner("1", ACCOUNTS[kind], role, administrator), operation, related)
        for kind, role, administrator, related, operation in product(
            ACCOUNT_KINDS, ROLES, (False, True), RELATIONS, operations
        )
    ]
    # A cell that some request leads to makes the better example.
    cells.sort(key=lambda cell: not _reachable(*cell))
    return [_check(policies, invariant, cells) for invariant in policies.invariants]


def _check(
    policies: PolicySet, invariant: Invariant, cells: Sequence[tuple[Owner, Operation, Relation]]
) -> CaseResult:
    for owner, operation, related in cells:
        if _concerns(invariant, owner, operation, related):
            decision = policies.owner_may(owner, operation, related)
            if decision.allowed:
                behind = ", ".join(policy.id for policy in decision.policies)
                text = (
                    f"broken by {behind}: {_request(owner, operation, related)} would be allowed to "
                    f"{'an administrator, ' if owner.administrator else ''}{owner.role} of {owner.account.key}"
                )
                return CaseResult(invariant.id, invariant.file, invariant.line, False, text)
    return CaseResult(invariant.id, invariant.file, invariant.line, True)


def _concerns(invariant: Invariant, owner: Owner, operation: Operation, related: Relation) -> bool:
    cell: dict[str, str | bool] = {
        "kind": owner.account.kind,
        "role": owner.role,
        "administrator": owner.administrator,
        "relation": related,
        "api": operation.api,
        "effect": operation.effect,
        "status": operation.status,
        "operation": operation.id,
    }
    return all(cell[dimension] in values for dimension, values in invariant.when.items())


def _reachable(owner: Owner, operation: Operation, related: Relation) -> bool:
    same_kind = operation.account_kind == owner.account.kind
    if related == "own":
        return same_kind
    return related != "network" or (owner.account.kind == "network" and not same_kind)


def _request(owner: Owner, operation: Operation, related: Relation) -> str:
    """A request line that asks for the operation, naming an account that stands so to the owner's."""
    path = operation.path
    if related == "none":
        path = path.replace("/{network_id}", "", 1)
    elif operation.account is not None:
        named = owner.account.id if related == "own" else "706" if related == "network" else "99"
        path = path.replace("{" + operation.account + "}", named)
    path = path.replace("{version}", VERSIONS[operation.api]).replace("{format}", operation.formats[0])
    while "{" in path:
        path = path[: path.index("{")] + "1" + path[path.index("}") + 1 :]
    return f"{operation.methods[0]} {path}"
