"""The cases that go with the policies: who asks for what, what is expected, and by which policies.

A case asserts the why as well as the what. Reading has the faults of every other file here (`file:line: key:`);
running has no effects. A broken invariant is reported like a failing case.

Source: section 6 and section 7 of the design.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Protocol

from gateway import tomlfile
from gateway.model import (
    DEFAULT_SCOPES,
    SCOPES,
    Account,
    AccountKind,
    ColumnClass,
    Decision,
    Moment,
    Operation,
    Owner,
    PolicyRef,
    Principal,
    Relation,
    Role,
)
from gateway.operation import Catalogue
from gateway.policy import REVEALED_BY, Asked, Invariant, packaged, relation
from gateway.problem import Problem
from gateway.proof import prove
from gateway.table import Table
from gateway.target import judge
from gateway.tomlfile import ConfigError, Fault

Faults = Iterator[tuple[str, str]]


class Decides(Protocol):
    """What cases are tried on: a set of policies, or the table compiled from it."""

    @property
    def policies(self) -> tuple[PolicyRef, ...]:
        """All policies that are loaded together."""

    def decide(
        self, principal: Principal, operation: Operation, relation: Relation, moment: Moment
    ) -> Decision:
        """Whether the token may."""

    def owner_may(
        self, owner: Owner, asked: Asked, relation: Relation, moment: Moment, token_id: str
    ) -> Decision:
        """Whether its owner may, scopes aside."""

    def visible(self, principal: Principal, relation: Relation, moment: Moment) -> frozenset[ColumnClass]:
        """The column classes that the token may see."""


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
    token: str = "case"

    def check(self) -> Faults:
        for scope in self.scopes:
            if scope not in SCOPES:
                yield "scopes", f"there is no scope {scope!r} (there are {', '.join(SCOPES)})"

    def principal(self) -> Principal:
        network = self.account if self.kind == "network" else self.network or ""
        owner = Owner(self.user, Account(self.kind, self.account, network), self.role, self.administrator)
        return Principal(self.token, owner, frozenset(self.scopes), 0)


@dataclass(frozen=True, slots=True)
class Case:
    """One `[[case]]`. `account_network`: the network that the account in the path is stored under, if it is.

    `body_keys` are the top-level keys of the request's body. Without `policies`, any may be behind the decision.
    `reveal` are the column classes that may be seen in an answer, and `reveal_policies` all that say so.
    The request comes at the time `at`, as in "2026-11-24T06:00:00Z", from the address `client`.
    """

    name: str
    principal: CasePrincipal
    request: str
    expect: Literal["allow", "deny", "insufficient-scope"]
    policies: tuple[str, ...] | None = None
    account_network: str | None = None
    body_keys: tuple[str, ...] = ()
    reveal: tuple[ColumnClass, ...] | None = None
    reveal_policies: tuple[str, ...] | None = None
    at: str = "2026-11-24T06:00:00Z"
    client: str = "192.0.2.1"

    def check(self) -> Faults:
        method, space, target = self.request.partition(" ")
        if not (method.isalpha() and method.isupper() and space and target.startswith("/")):
            yield "request", 'expected a method and a target, such as "GET /api/2022-08-01/33/network.json"'
        try:
            if datetime.fromisoformat(self.at).tzinfo is None:
                yield "at", "expected a time with its zone, such as 2026-11-24T06:00:00Z"
        except ValueError:
            yield "at", "expected a time such as 2026-11-24T06:00:00Z"
        try:
            ip_address(self.client)
        except ValueError:
            yield "client", "expected an IP address"

    def moment(self) -> Moment:
        return Moment(datetime.fromisoformat(self.at).timestamp(), self.client)


@dataclass(frozen=True, slots=True)
class CaseFile:
    case: tuple[Case, ...] = ()


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case, or one invariant, went. `text` says what was expected and what came, when it failed.

    `policies` are the ids that the case asserts, and that were behind the decision when it passed. `moved` is what a
    case of the shipped set comes to with an own folder, when that is something else.
    """

    name: str
    file: str
    line: int
    passed: bool
    text: str = ""
    policies: tuple[str, ...] = ()
    moved: str = ""

    def __str__(self) -> str:
        text = self.text or self.moved
        return f"{self.file}:{self.line}: {self.name}" + (f": {text}" if text else "")


Found = tuple[Case, str, int]
"""A case, its file, and the line it begins on."""


def read_cases(folder: Path | None = None, local: Path | None = None) -> list[Found]:
    """Every case in `cases/*.toml` of the policy folder (the packaged one by default) and of the local one.

    Raises: ConfigError with every fault of every file.
    """
    found: list[Found] = []
    faults: list[Fault] = []
    for base in (packaged() if folder is None else folder, local):
        for path in sorted((base / "cases").glob("*.toml")) if base is not None else ():
            try:
                found += _cases(path)
            except ConfigError as error:
                faults += error.faults
    if faults:
        raise ConfigError(faults)
    return found


def run_cases(
    policies: Decides, catalogue: Catalogue, folder: Path | None = None, local: Path | None = None
) -> list[CaseResult]:
    """How each of these cases goes. Raises: ConfigError with every fault of every file."""
    return [run_case(policies, catalogue, *found) for found in read_cases(folder, local)]


def apart(results: Sequence[CaseResult], without: Sequence[CaseResult]) -> list[CaseResult]:
    """How cases go that speak of two sets: `without` has how the shipped ones go without the own folder.

    They are examples of the shipped set, and the operator cannot edit them: what the folder changes is no failure
    of theirs, and is kept in `moved`.
    """
    shipped = {(result.file, result.line): result for result in without}
    return [
        replace(before, moved=result.text)
        if not result.passed and (before := shipped.get((result.file, result.line))) and before.passed
        else result
        for result in results
    ]


def untested(policies: Decides, results: Sequence[CaseResult]) -> tuple[PolicyRef, ...]:
    """The policies that no passing case names as being behind its decision."""
    named = {policy_id for result in results if result.passed for policy_id in result.policies}
    return tuple(policy for policy in policies.policies if policy.id not in named)


def _cases(path: Path) -> list[Found]:
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


def run_case(policies: Decides, catalogue: Catalogue, case: Case, file: str, line: int) -> CaseResult:
    method, _, target = case.request.partition(" ")
    try:
        call = catalogue.identify(method, judge(target, ""))
    except Problem as problem:  # such a request never meets a policy, so its case would say nothing about one
        text = f"no policy is asked about {case.request}: {problem.kind} {problem.detail}".rstrip()
        return CaseResult(case.name, file, line, False, text)
    call = catalogue.with_keys(call, case.body_keys)
    principal = case.principal.principal()
    related = relation(principal.owner, call.operation, call.account_id, case.account_network)
    moment = case.moment()
    decision = policies.decide(principal, call.operation, related, moment)
    got, behind = _outcome(decision), tuple(policy.id for policy in decision.policies)
    asserted = behind if case.policies is None else case.policies
    named = (*(case.policies or ()), *(case.reveal_policies or ()))
    text = ""
    if got != case.expect or sorted(asserted) != sorted(behind) or decision.error is not None:
        text = f"expected {_said(case.expect, asserted)}, got {_said(got, behind)}"
        text += "" if decision.error is None else f" ({decision.error})"
    elif case.reveal is not None or case.reveal_policies is not None:
        text = _revealed(policies, case, principal, related, moment)
    return CaseResult(case.name, file, line, not text, text, named)


def _revealed(policies: Decides, case: Case, principal: Principal, related: Relation, moment: Moment) -> str:
    """What is wrong with the column classes that may be seen; "" when they are as expected."""
    seen = tuple(sorted(policies.visible(principal, related, moment)))
    owner, token_id = principal.owner, principal.token_id
    decisions = [policies.owner_may(owner, name, related, moment, token_id) for name in REVEALED_BY]
    behind = tuple(dict.fromkeys(policy.id for decision in decisions for policy in decision.policies))
    wanted = seen if case.reveal is None else tuple(sorted(case.reveal))
    asserted = behind if case.reveal_policies is None else case.reveal_policies
    if seen == wanted and sorted(asserted) == sorted(behind):
        return ""
    return f"expected {_shown(wanted, asserted)}, got {_shown(seen, behind)}"


def _shown(classes: Sequence[str], policies: Sequence[str]) -> str:
    columns = ", ".join(classes) or "no"
    return f"{columns} columns to be seen by {', '.join(sorted(policies)) or 'no policy'}"


def _outcome(decision: Decision) -> str:
    if decision.allowed:
        return "allow"
    return "insufficient-scope" if decision.problem == "insufficient-scope" else "deny"


def _said(outcome: str, policies: Sequence[str]) -> str:
    return f"{outcome} by {', '.join(sorted(policies)) or 'no policy'}"


def check_invariants(table: Table, invariants: Sequence[Invariant]) -> list[CaseResult]:
    """One result for each invariant; a broken one names an owner and a request that would be allowed."""
    broken = {found.invariant.id: found.text for found in prove(table, invariants)}
    return [
        CaseResult(it.id, it.file, it.line, it.id not in broken, broken.get(it.id, "")) for it in invariants
    ]
