"""The compiled policies: every decision there is, worked out ahead, and looked up when it is asked for.

A table is plain values. What it cannot hold, it finds out when it is asked: a policy that reads the clock or the
client's address is put to the engine, alone with its like, and the answer kept for the same second and address.
Everything that is not a clean answer is a denial and an alarm; nothing here raises for anything it is asked.

Made by `compile.py`; held against the invariants by `proof.py`. Source: section 6 of the design.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from gateway.columns.classes import Classes, Column
from gateway.model import (
    ACCOUNT_KINDS,
    COLUMN_CLASSES,
    RELATIONS,
    ROLES,
    Account,
    AccountKind,
    Decision,
    Moment,
    Operation,
    Owner,
    PolicyRef,
    Relation,
    Role,
)
from gateway.policy import Asked, Engine, Judge, situation
from gateway.words import ACCOUNT, ID_PATHS, NETWORK, TOKEN, USER

__all__ = ["Cell", "Live", "Moment", "Names", "Open", "Row", "Table", "Test", "key_of"]

LOG = logging.getLogger("gateway.policy")
REMEMBERED = 16_384

Point = tuple[str | None, str | None, str | None, str | None]
"""User, account, network and token: an id that a policy names, or None for any other."""

ANY_OTHER: Point = (None, None, None, None)


@dataclass(frozen=True, slots=True)
class Names:
    """The ids that policies name, each with the one that stands for all that the policies treat alike."""

    users: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)

    def of(self, path: str) -> Mapping[str, str]:
        """Those of one attribute, such as `principal.id`."""
        return {USER: self.users, ACCOUNT: self.accounts, NETWORK: self.networks, TOKEN: self.tokens}[path]

    def point(self, owner: Owner, token_id: str) -> Point:
        account = owner.account
        return (
            self.users.get(owner.id),
            self.accounts.get(account.id),
            self.networks.get(account.network),
            self.tokens.get(token_id),
        )

    def points(self, kind: AccountKind) -> list[Point]:
        """Every point that an owner of this kind can be at; first the one of all other ids.

        A network belongs to itself, so its account and its network are one id.
        """
        account_networks: Iterable[tuple[str | None, str | None]] = product(
            _distinct(self.accounts), _distinct(self.networks)
        )
        if kind == "network":
            account_networks = dict.fromkeys(map(self._both, (None, *self.accounts, *self.networks)))
        return [
            (user, account, network, token)
            for (account, network), user, token in product(
                account_networks, _distinct(self.users), _distinct(self.tokens)
            )
        ]

    def example(self, kind: AccountKind, role: Role, administrator: bool, at: Point) -> tuple[Owner, str]:
        """An owner, and a token id, at a point."""
        user, account, network, token = at
        if kind == "network":
            account = network = next(
                (i for i in (*self.accounts, *self.networks) if self._both(i) == (account, network)),
                _free("33", self.accounts, self.networks),
            )
        number = {"network": "33", "advertiser": "706", "affiliate": "808"}[kind]
        account = _free(number, self.accounts) if account is None else account
        network = _free("33", self.networks) if network is None else network
        user = _free("1", self.users) if user is None else user
        token = _free("1", self.tokens) if token is None else token
        return Owner(user, Account(kind, account, network), role, administrator), token

    def _both(self, name: str | None) -> tuple[str | None, str | None]:
        """What one id is as an account's, and as a network's."""
        return (None, None) if name is None else (self.accounts.get(name), self.networks.get(name))

    def beside(self, other: Names) -> Names:
        """The names of two sets together, alike only where both treat them alike: to hold tables side by side."""
        return Names(*(_refined(self.of(path), other.of(path)) for path in ID_PATHS))


def _free(wanted: str, *taken: Mapping[str, str]) -> str:
    """A number that is none of those that are named: this one, or one after it."""
    number = int(wanted)
    while any(str(number) in names for names in taken):
        number += 1
    return str(number)


def _distinct(names: Mapping[str, str]) -> list[str | None]:
    return [None, *dict.fromkeys(names.values())]


def _refined(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    first: dict[tuple[str | None, str | None], str] = {}
    return {
        name: first.setdefault((one.get(name), other.get(name)), name)
        for name in dict.fromkeys((*one, *other))
    }


@dataclass(frozen=True, slots=True)
class Cell:
    """One decision of the space. An id stands for all that policies treat alike; None is any other.

    `decision` is the owner's, scopes aside, and as it is while none of the `live` policies matches: those that
    the clock or the client's address may bring into it.
    """

    kind: AccountKind
    role: Role
    administrator: bool
    relation: Relation
    operation: Operation
    user: str | None
    account: str | None
    network: str | None
    token: str | None
    decision: Decision
    live: tuple[PolicyRef, ...]


# --- What stands in a row ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Live:
    """Policies `matched` whatever the moment, and `live` ones that may match too; both as bits."""

    decision: Decision
    matched: int
    live: int


@dataclass(frozen=True, slots=True)
class Test:
    """A condition of a policy that reads ids. It holds for these values of `paths`; any other id is None."""

    paths: tuple[str, ...]
    named: tuple[frozenset[str] | None, ...]
    holds: frozenset[tuple[object, ...]]

    def at(self, words: Mapping[str, object]) -> bool:
        values = (words[path] for path in self.paths)
        return (
            tuple(
                value if named is None or value in named else None
                for value, named in zip(values, self.named, strict=True)
            )
            in self.holds
        )


@dataclass(frozen=True, slots=True)
class Open:
    """A cell whose decision hangs on who asks: some of the policies in `matched` have conditions that read ids.

    `words` is what else those conditions read here. `others` is what it comes to for ids that no policy names. Equal
    cells are one, by `number`.
    """

    number: int
    matched: int
    words: tuple[tuple[str, object], ...]
    others: Decision | Live


Entry = Decision | Live | Open
Row = Mapping[tuple[AccountKind, Role, bool, Relation], Entry]
"""The decisions about one operation, or class of columns, by who asks and how the account stands to them."""


def key_of(asked: Asked) -> tuple[str, str]:
    """Under what the row about an operation, or a class of columns, is found."""
    return (asked.id, asked.effect) if isinstance(asked, Operation) else (asked, "see")


# --- The table -----------------------------------------------------------------------------------------------


class Table(Judge):
    """All decisions of a set of policies. `digest` names the set."""

    def __init__(
        self,
        digest: str,
        policies: Sequence[PolicyRef],
        operations: Sequence[Operation],
        rows: Mapping[tuple[str, str], Row],
        names: Names,
        tests: Mapping[int, Sequence[Test]],
        live: Mapping[int, str],
        schema: str,
        classes: Classes,
    ) -> None:
        """`tests` and `live` (texts) belong to policies by their place; `schema` is for judging the live ones.

        `classes` are those of the columns, which come into force and go together with the policies about them.
        """
        self.digest = digest
        self.classes = classes
        self.policies = tuple(policies)
        self.operations = tuple(operations)
        self.names = names
        self._rows = rows
        self._tests = tests
        self._live = live
        self._schema = schema
        self._forbids = bits(n for n, policy in enumerate(policies) if policy.effect == "forbid")
        self._reading_ids, self._reading_now = bits(tests), bits(live)
        self._forget()

    def _forget(self) -> None:
        self._outcomes: dict[int, Decision | Live] = {}
        self._settled: dict[tuple[int, str | None, str | None, str | None, str | None], Decision | Live] = {}
        names = self.names
        self._named = names.users, names.accounts, names.networks, names.tokens
        self._engines: dict[int, Engine] = {}
        self._second = 0
        self._this_second: dict[tuple[object, ...], Decision] = {}

    # -- answers

    def _found(
        self, owner: Owner, asked: Asked, relation: Relation, moment: Moment, token_id: str
    ) -> Decision:
        account = owner.account
        row = self._rows[(asked.id, asked.effect) if isinstance(asked, Operation) else (asked, "see")]
        found = row[account.kind, owner.role, owner.administrator, relation]
        if isinstance(found, Decision):
            return found
        return self._at(found, owner, asked, relation, moment, token_id)

    def steady(self, owner: Owner, operation: Operation, relation: Relation, token_id: str = "") -> bool:
        """Whether neither the decision nor what may be seen depends on the moment: such an answer may be kept."""
        if not self._live:
            return True
        try:
            at = self.names.point(owner, token_id)
            key = (owner.account.kind, owner.role, owner.administrator, relation)
            return all(
                isinstance(self.settled(self._rows[key_of(asked)][key], at), Decision)
                for asked in (operation, *COLUMN_CLASSES)
            )
        except (LookupError, TypeError, AttributeError):  # of what is no cell, nothing is kept
            return False

    # -- the whole space

    def cells(self, names: Names | None = None) -> Iterator[Cell]:
        """Every cell: kinds, roles, administrator or not, relations, operations as in the catalogue, then ids.

        Of ids, those that this set names and treats unlike; `names` gives others, such as those of two sets.
        """
        names = self.names if names is None else names
        for kind in ACCOUNT_KINDS:
            points = names.points(kind)
            for role, administrator, relation in product(ROLES, (False, True), RELATIONS):
                for operation in self.operations:
                    found = self.entry(operation, kind, role, administrator, relation)
                    for at in points:
                        outcome = self.settled(found, self.known(at))
                        decision, live = self.reading(outcome)
                        yield Cell(kind, role, administrator, relation, operation, *at, decision, live)

    def known(self, at: Point) -> Point:
        """A point among other names as it is among those of this table."""
        names = self.names
        user, account, network, token = at
        return (
            None if user is None else names.users.get(user),
            None if account is None else names.accounts.get(account),
            None if network is None else names.networks.get(network),
            None if token is None else names.tokens.get(token),
        )

    def entry(
        self, asked: Asked, kind: AccountKind, role: Role, administrator: bool, relation: Relation
    ) -> Entry:
        """What stands in the table, before it is known who asks, and when."""
        return self._rows[key_of(asked)][kind, role, administrator, relation]

    def settled(self, found: Entry, at: Point) -> Decision | Live:
        """An entry once it is known who asks."""
        if not isinstance(found, Open):
            return found
        if at == ANY_OTHER:
            return found.others
        key = (found.number, *at)
        outcome = self._settled.get(key)
        if outcome is None:
            outcome = self.narrowed(found.matched, found.words, at)
            if len(self._settled) >= REMEMBERED:
                self._settled.clear()
            self._settled[key] = outcome
        return outcome

    def narrowed(
        self, matched: int, words: Iterable[tuple[str, object]], at: Point = ANY_OTHER
    ) -> Decision | Live:
        """What policies whose other conditions hold come to for who asks, `words` being what is read beside ids."""
        here = {**dict(words), **dict(zip(ID_PATHS, at, strict=True))}
        for number in places(matched & self._reading_ids):
            if not all(test.at(here) for test in self._tests[number]):
                matched &= ~(1 << number)
        return self.outcome(matched)

    def outcome(self, matched: int) -> Decision | Live:
        """What the policies in these bits come to, all of whose conditions hold but for those on the moment.

        Where a policy forbids whatever the moment, a live permit adds nothing; a live forbid is one more reason.
        """
        found = self._outcomes.get(matched)
        if found is None:
            settled, live = matched & ~self._reading_now, matched & self._reading_now
            if settled & self._forbids:
                live &= self._forbids
            decision = self._decision(settled)
            found = self._outcomes[matched] = Live(decision, settled, live) if live else decision
        return found

    def reading(self, outcome: Decision | Live) -> tuple[Decision, tuple[PolicyRef, ...]]:
        """An outcome as the decision while no live policy matches, and the live policies that may."""
        if isinstance(outcome, Decision):
            return outcome, ()
        return outcome.decision, tuple(self.policies[number] for number in places(outcome.live))

    def permits(self, matched: int) -> tuple[PolicyRef, ...]:
        """The permits in these bits, unless a policy in them forbids whatever the moment."""
        if matched & self._forbids & ~self._reading_now:
            return ()
        return tuple(self.policies[number] for number in places(matched & ~self._forbids))

    def _decision(self, matched: int) -> Decision:
        """Cedar's rule: any forbid denies, by all forbids that match; else permits allow, by all that match."""
        forbids = matched & self._forbids
        behind = tuple(self.policies[number] for number in places(forbids or matched))
        allowed = bool(behind) and not forbids
        return Decision(allowed, behind, None if allowed else "denied")

    # -- what hangs on the asker or the moment

    def _at(
        self,
        found: Live | Open,
        owner: Owner,
        asked: Asked,
        relation: Relation,
        moment: Moment,
        token_id: str,
    ) -> Decision:
        if isinstance(found, Open):
            users, accounts, networks, tokens = self._named
            mine = owner.account
            if owner.id in users or mine.id in accounts or mine.network in networks or token_id in tokens:
                at = (
                    users.get(owner.id),
                    accounts.get(mine.id),
                    networks.get(mine.network),
                    tokens.get(token_id),
                )
                outcome = self._settled.get((found.number, *at)) or self.settled(found, at)
            else:
                outcome = found.others
        else:
            outcome = found
        if isinstance(outcome, Decision):
            return outcome
        second = int(moment.now)
        if second != self._second or len(self._this_second) >= REMEMBERED:
            self._second = second
            self._this_second.clear()
        now = (outcome.matched, outcome.live, owner, key_of(asked), relation, token_id, moment.client)
        decision = self._this_second.get(now)
        if decision is None:
            told = situation(owner, asked, relation, moment, token_id)
            _, ids = self._engine(outcome.live).ask(told)
            matched = bits(number for number in places(outcome.live) if self.policies[number].id in ids)
            if matched.bit_count() != len(ids):
                raise RuntimeError("the engine named policies it was not asked about")
            decision = self._this_second[now] = self._decision(outcome.matched | matched)
        return decision

    def _engine(self, live: int) -> Engine:
        found = self._engines.get(live)
        if found is None:
            text = "\n".join(self._live[number] for number in places(live))
            if len(self._engines) >= REMEMBERED:
                self._engines.clear()
            found = self._engines[live] = Engine(text, self._schema)
        return found

    # -- from process to process

    def pack(self) -> bytes:
        """The table as bytes, for another process of the same gateway."""
        return pickle.dumps(self, pickle.HIGHEST_PROTOCOL)

    @classmethod
    def unpack(cls, data: bytes) -> Table:
        """A table from `pack`. Bytes from elsewhere are not for it, though it makes none but our own values.

        Raises: ValueError for what is no table.
        """
        try:
            found = _Unpickler(io.BytesIO(data)).load()
        except Exception as error:  # a broken pickle raises almost anything
            raise ValueError(f"not a packed table: {type(error).__name__}") from None
        if not isinstance(found, cls):
            raise ValueError("not a packed table")
        return found

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        for name in ("_outcomes", "_settled", "_named", "_engines", "_second", "_this_second"):
            del kept[name]
        return kept | {"alarms": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


class _Unpickler(pickle.Unpickler):
    """Makes the values a table consists of, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        found = {
            (made.__module__, made.__name__): made
            for made in (
                Table, Names, Live, Test, Open, Decision, Operation, PolicyRef, Classes, Column, frozenset
            )
        }.get((module, name))  # fmt: skip
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a table")
        return found


def bits(numbers: Iterable[int]) -> int:
    """Numbers as the bits of one."""
    made = 0
    for number in numbers:
        made |= 1 << number
    return made


def places(of: int) -> Iterator[int]:
    """The numbers of the bits that are set, from the lowest."""
    while of:
        low = of & -of
        yield low.bit_length() - 1
        of ^= low
