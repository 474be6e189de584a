"""compile(policies, operations): every decision there is, from as few questions to the engine as that takes.

A policy matches where each of its conditions holds, so each is judged alone, over the product of only those
dimensions that it reads; conditions that read the same are judged together. Then a cell's decision is put together
from the policies that match it, by Cedar's rule. A condition that cannot be judged alone, because it leans on one
before it, makes its policy be judged whole; a policy that cannot be judged at all is refused with file and line.

Whether the parts come to what the whole set says is asked of the engine at the end, for a few hundred cells.
Source: section 6 of the design.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

from gateway.model import ACCOUNT_KINDS, COLUMN_CLASSES, RELATIONS, ROLES, Account, Moment, Operation, Owner
from gateway.policy import ANY_MOMENT, Asked, PolicySet, Situation, UncleanAnswer, short, situation
from gateway.policyfile import Policy
from gateway.table import Entry, Names, Open, Row, Table, Test, bits, key_of, places
from gateway.tomlfile import ConfigError, Fault
from gateway.words import (
    ACCOUNT,
    ADMINISTRATOR,
    ID_PATHS,
    KIND,
    NETWORK,
    NO_ACCOUNT,
    OWNER_PATHS,
    RELATION,
    RESOURCE_PATHS,
    ROLE,
    TOKEN,
    USER,
    Reads,
)

__all__ = ["compile"]

MAX_QUESTIONS = 40_000
"""Questions to the engine that one set may take: about four seconds. The shipped set takes a few hundred."""
MAX_POINTS = 2_000
"""Combinations of named ids: each is one more decision about every operation."""
CHECKED = 256

Key = tuple[object, ...]
OWNER_WORDS: Mapping[str, Sequence[Any]] = {
    KIND: ACCOUNT_KINDS,
    ROLE: ROLES,
    ADMINISTRATOR: (False, True),
    RELATION: RELATIONS,
}


def compile(policies: PolicySet, operations: Sequence[Operation]) -> Table:
    """The table of a set of policies, over these operations (`Catalogue.variants`) and every class of columns.

    Raises: ConfigError for a policy that fails to evaluate, or for a set that would take too much.
    """
    space = _Space(operations)
    questions = list(_questions(policies))
    _bounded(space, questions, policies)
    judged = _judge(policies, space, questions)
    names = _names(judged)
    _few_points(names, policies)
    live = {n: policy.text for n, policy in enumerate(policies.parts) if policy.reads.live}
    tests: dict[int, list[Test]] = {}
    for one in judged:
        if one.reads_ids:
            tests.setdefault(one.policy, []).append(one.test())
    rows: dict[tuple[str, str], Row] = {}
    table = Table(
        policies.digest, policies.policies, operations, rows, names, tests, live, policies.schema, policies.classes
    )  # fmt: skip
    _fill(rows, table, policies, space, judged)
    _check(policies, table, space)
    return table


# --- The space -----------------------------------------------------------------------------------------------


def _words_of(asked: Asked) -> dict[str, str]:
    if not isinstance(asked, Operation):
        return {"resource.id": asked}
    return {
        "resource.id": asked.id,
        "resource.api": asked.api,
        "resource.effect": asked.effect,
        "resource.status": asked.status,
        "resource.account_kind": asked.account_kind or NO_ACCOUNT,
    }


class _Space:
    """What can be asked about, and how much of it a condition can tell apart."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.asked: dict[str, tuple[Asked, ...]] = {"call": tuple(operations), "see": COLUMN_CLASSES}

    def unlike(self, actions: Iterable[str], paths: Sequence[str]) -> dict[tuple[str | None, ...], Asked]:
        """One of what is asked about for each combination of what `paths` read; the first is the action."""
        found: dict[tuple[str | None, ...], Asked] = {}
        for action in sorted(actions):
            for asked in self.asked[action]:
                words = _words_of(asked)
                found.setdefault((action, *(words.get(path) for path in paths)), asked)
        return found


@dataclass(frozen=True, slots=True)
class _Question:
    """One condition of a policy, to be judged alone; or a whole policy, where that cannot be."""

    policy: int
    text: str
    reads: Reads
    actions: frozenset[str]

    @property
    def owner_paths(self) -> tuple[str, ...]:
        """What it reads of who asks, and of how: kinds of ids last."""
        return tuple(path for path in (*OWNER_PATHS, *ID_PATHS) if path in self.reads.paths)

    @property
    def resource_paths(self) -> tuple[str, ...]:
        return tuple(path for path in RESOURCE_PATHS if path in self.reads.paths)

    @property
    def alike(self) -> tuple[object, ...]:
        """Questions with the same of this are asked together."""
        return self.actions, self.owner_paths, self.resource_paths, tuple(map(self.ids, ID_PATHS))

    def ids(self, path: str) -> frozenset[str]:
        return self.reads.named.get(path, frozenset())

    def values(self, path: str) -> Sequence[Any]:
        return OWNER_WORDS[path] if path in OWNER_WORDS else (None, *sorted(self.ids(path)))

    def count(self, space: _Space) -> int:
        each = (len(self.values(path)) for path in self.owner_paths)
        return prod(each) * len(space.unlike(self.actions, self.resource_paths))


@dataclass(slots=True)
class _Judged:
    """A question over its part of the space, `keys`: where the answer is yes.

    A key has values of the owner paths, then the action, then values of the resource paths. `leans`: somewhere
    there is no clean answer.
    """

    question: _Question
    keys: Sequence[Key]
    holds: set[Key] = field(default_factory=set)
    leans: bool = False

    @property
    def policy(self) -> int:
        return self.question.policy

    @property
    def paths(self) -> tuple[str, ...]:
        return (*self.question.owner_paths, "action", *self.question.resource_paths)

    @property
    def reads_ids(self) -> bool:
        return not self.question.reads.paths.isdisjoint(ID_PATHS)

    def test(self) -> Test:
        named = tuple(self.question.ids(path) if path in ID_PATHS else None for path in self.paths)
        return Test(self.paths, named, frozenset(self.holds))


def _questions(policies: PolicySet) -> Iterator[_Question]:
    """Every condition that reads neither clock nor address; what reads one is judged when it is asked."""
    for number, policy in enumerate(policies.parts):
        for condition in policy.conditions:
            if not condition.reads.live:
                yield _Question(number, condition.probe, condition.reads, policy.actions)


# --- Judging -------------------------------------------------------------------------------------------------


def _judge(policies: PolicySet, space: _Space, questions: Sequence[_Question]) -> list[_Judged]:
    """Every question over its part of the space. Raises: ConfigError for a policy that fails to evaluate."""
    judged: list[_Judged] = []
    for group in _together(questions):
        judged += _judge_together(policies, space, group)
    leaning = {one.policy for one in judged if one.leans}
    # A live policy is judged whole when it is asked, wherever the rest of it may hold.
    whole = [number for number in sorted(leaning) if not policies.parts[number].reads.live]
    kept = [one for one in judged if not one.leans]
    faults: list[Fault] = []
    for number in whole:
        try:
            kept.append(_judge_whole(policies, space, number))
        except UncleanAnswer as fault:
            faults.append(_fault(policies.parts[number], f"fails to evaluate: {short(fault)}"))
    if faults:
        raise ConfigError(faults)
    return kept


def _together(questions: Iterable[_Question]) -> list[list[_Question]]:
    groups: dict[tuple[object, ...], list[_Question]] = {}
    for question in questions:
        groups.setdefault(question.alike, []).append(question)
    return list(groups.values())


def _judge_together(policies: PolicySet, space: _Space, group: Sequence[_Question]) -> list[_Judged]:
    """Questions that read the same, asked at once: each a permit, and those that hold are behind the answer."""
    situations = dict(_situations(space, group[0]))
    judged = [_Judged(question, tuple(situations)) for question in group]
    engine = policies.engine("\n".join(f'@id("{n}") {q.text}' for n, q in enumerate(group)))
    for key, told in situations.items():
        try:
            for place in map(int, engine.ask(told)[1]):
                judged[place].holds.add(key)
        except UncleanAnswer:
            _judge_apart(policies, judged, key, told)
    return judged


def _judge_apart(policies: PolicySet, judged: Sequence[_Judged], key: Key, told: Situation) -> None:
    for one in judged:
        try:
            if policies.engine(one.question.text).ask(told)[0]:
                one.holds.add(key)
        except UncleanAnswer:
            one.leans = True


def _judge_whole(policies: PolicySet, space: _Space, number: int) -> _Judged:
    policy = policies.parts[number]
    question = _Question(number, policy.text, policy.reads, policy.actions)
    if question.count(space) > MAX_QUESTIONS:
        raise ConfigError([_fault(policy, _too_many(question.count(space)))])
    situations = dict(_situations(space, question))
    engine = policies.engine(policy.text)
    return _Judged(
        question, tuple(situations), {key for key, told in situations.items() if engine.ask(told)[1]}
    )


def _situations(space: _Space, question: _Question) -> Iterator[tuple[Key, Situation]]:
    """Every point that a question can tell apart, and what the engine is told to be at it."""
    resources = space.unlike(question.actions, question.resource_paths)
    paths = question.owner_paths
    other = _unnamed(name for path in ID_PATHS for name in question.ids(path))
    for values in product(*(question.values(path) for path in paths)):
        words: dict[str, Any] = {
            path: other if value is None else value for path, value in zip(paths, values, strict=True)
        }
        account = Account(words.get(KIND, "network"), words.get(ACCOUNT, other), words.get(NETWORK, other))
        owner = Owner(
            words.get(USER, other), account, words.get(ROLE, "member"), words.get(ADMINISTRATOR, False)
        )
        relation, token = words.get(RELATION, "own"), words.get(TOKEN, other)
        for key, asked in resources.items():
            yield (*values, *key), situation(owner, asked, relation, ANY_MOMENT, token)


def _unnamed(named: Iterable[str]) -> str:
    """An id that is none of these."""
    taken, other = set(named), "other"
    while other in taken:
        other += "-"
    return other


# --- Bounds --------------------------------------------------------------------------------------------------


def _bounded(space: _Space, questions: Sequence[_Question], policies: PolicySet) -> None:
    """Raises: ConfigError for a set that would take too long, at the policy that takes most."""
    counts = [(group[0].count(space), group[0].policy) for group in _together(questions)]
    total = sum(count for count, _ in counts)
    if total > MAX_QUESTIONS:
        count, number = max(counts)
        text = (
            _too_many(count)
            if count > MAX_QUESTIONS
            else (
                f"takes {count:,} questions to compile, and the set {total:,}, of at most {MAX_QUESTIONS:,}: "
                f"what one condition reads multiplies"
            )
        )
        raise ConfigError([_fault(policies.parts[number], text)])


def _too_many(count: int) -> str:
    return (
        f"takes {count:,} questions to compile, of at most {MAX_QUESTIONS:,}: what one condition reads multiplies, "
        "so write it as several policies, or as conditions joined by &&"
    )


def _few_points(names: Names, policies: PolicySet) -> None:
    """Raises: ConfigError when the named ids make too many points, at the last policy that names any."""
    many = [(len(set(names.of(path).values())), path) for path in ID_PATHS]
    count = prod(number + 1 for number, _ in many)
    if count <= MAX_POINTS:
        return
    named = [policy for policy in policies.parts if policy.reads.named]
    told = ", ".join(f"{number} {path}" for number, path in many if number)
    text = (
        f"the policies tell apart too many ids: {told} make {count:,} combinations, of at most {MAX_POINTS:,}. "
        "Name fewer, or treat them alike in one policy"
    )
    raise ConfigError([_fault(named[-1], text)])


def _fault(policy: Policy, text: str) -> Fault:
    return Fault(policy.path, policy.ref.line, policy.ref.id, text)


# --- Putting together ----------------------------------------------------------------------------------------


def _names(judged: Sequence[_Judged]) -> Names:
    """The ids that some condition tells from others, each with the first of those treated like it everywhere."""
    return Names(*(_alike([one for one in judged if path in one.paths], path) for path in ID_PATHS))


def _alike(judged: Sequence[_Judged], path: str) -> dict[str, str]:
    ways: list[dict[object, frozenset[Key]]] = []
    for one in judged:
        place = one.paths.index(path)
        found: dict[object, set[Key]] = {}
        for key in one.holds:
            found.setdefault(key[place], set()).add(key[:place] + key[place + 1 :])
        ways.append({name: frozenset(found.get(name, ())) for name in one.question.values(path)})
    numbers: dict[frozenset[Key], int] = {}

    def treated(name: str | None) -> tuple[int, ...]:
        each = (way[name] if name in way else way[None] for way in ways)
        return tuple(numbers.setdefault(how, len(numbers)) for how in each)

    any_other, first = treated(None), dict[tuple[int, ...], str]()
    named = dict.fromkeys(name for one in judged for name in sorted(one.question.ids(path)))
    return {name: first.setdefault(how, name) for name in named if (how := treated(name)) != any_other}


def _lost(judged: Iterable[_Judged]) -> dict[tuple[str, ...], dict[Key, int]]:
    """For what conditions read, and each value of it: the policies, as bits, that it keeps from matching."""
    lost: dict[tuple[str, ...], dict[Key, int]] = {}
    for one in judged:
        by_key = lost.setdefault(one.paths, {})
        for key in one.keys:
            if key not in one.holds:
                by_key[key] = by_key.get(key, 0) | 1 << one.policy
    return lost


def _fill(
    rows: dict[tuple[str, str], Row],
    table: Table,
    policies: PolicySet,
    space: _Space,
    judged: Sequence[_Judged],
) -> None:
    """A row for everything that can be asked about; what no policy tells apart has the same one."""
    lost = _lost(one for one in judged if not one.reads_ids)
    read = {path for one in judged for path in one.question.resource_paths}
    opener = _Opener(table, [one for one in judged if one.reads_ids])
    for action, all_asked in space.asked.items():
        applies = bits(n for n, policy in enumerate(policies.parts) if action in policy.actions)
        made: dict[Key, Row] = {}
        for asked in all_asked:
            words: dict[str, Any] = {**dict.fromkeys(RESOURCE_PATHS), **_words_of(asked), "action": action}
            alike = tuple(words[path] for path in RESOURCE_PATHS if path in read)
            if alike not in made:
                row: dict[Any, Entry] = {}
                for values in product(*OWNER_WORDS.values()):
                    words.update(zip(OWNER_WORDS, values, strict=True))
                    row[values] = opener.entry(_matched(applies, lost, words), words)
                made[alike] = row
            rows[key_of(asked)] = made[alike]


def _matched(
    applies: int, lost: Mapping[tuple[str, ...], Mapping[Key, int]], words: Mapping[str, Any]
) -> int:
    for paths, by_key in lost.items():
        applies &= ~by_key.get(tuple([words[path] for path in paths]), 0)
    return applies


class _Opener:
    """Makes the entries of rows; equal ones that hang on who asks are one."""

    def __init__(self, table: Table, judged: Sequence[_Judged]) -> None:
        self._table = table
        self._made: dict[tuple[int, Key], Open] = {}
        self._reads: dict[int, set[str]] = {}
        for one in judged:
            self._reads.setdefault(one.policy, set()).update(set(one.paths).difference(ID_PATHS))
        self._reading_ids = bits(self._reads)

    def entry(self, matched: int, words: Mapping[str, Any]) -> Entry:
        candidates = matched & self._reading_ids
        if not candidates:
            return self._table.outcome(matched)
        paths = sorted(set().union(*(self._reads[number] for number in places(candidates))))
        held = tuple((path, words[path]) for path in paths)
        found = self._made.get((matched, held))
        if found is None:
            others = self._table.narrowed(matched, held)
            found = self._made[matched, held] = Open(len(self._made), matched, held, others)
        return found


# --- The check at the end ------------------------------------------------------------------------------------

_MOMENTS = (ANY_MOMENT, Moment(1_790_000_000.0, "192.0.2.1"))


def _check(policies: PolicySet, table: Table, space: _Space) -> None:
    """A few hundred cells, asked of the whole set: each outcome there is, and others here and there.

    Raises: ConfigError where table and engine disagree, or where the engine has no clean answer.
    """
    cells = [
        (asked, *values)
        for group in space.asked.values()
        for asked in group
        for values in product(ACCOUNT_KINDS, ROLES, (False, True), RELATIONS)
    ]
    chosen = cells[:: max(1, len(cells) // CHECKED)]
    seen: dict[object, int] = {}
    for cell in cells:
        found = id(table.entry(*cell))
        seen[found] = seen.get(found, 0) + 1
        if seen[found] <= 2:
            chosen.append(cell)
    for number, (asked, kind, role, administrator, relation) in enumerate(chosen[: 2 * CHECKED]):
        points = table.names.points(kind)
        at = points[number % len(points)]
        owner, token = table.names.example(kind, role, administrator, at)
        moment = _MOMENTS[number % len(_MOMENTS)]
        where = f"{getattr(asked, 'id', asked)}, relation {relation}, {role} of {owner.account.key}"
        try:
            said = policies.evaluate(owner, asked, relation, moment, token)
        except UncleanAnswer as fault:
            raise ConfigError(
                [Fault(policies.parts[0].path, 0, "", f"fails to evaluate ({where}): {short(fault)}")]
            ) from None
        if table.owner_may(owner, asked, relation, moment, token) != said:
            text = f"the compiled table and the engine disagree: {where}"
            raise ConfigError([Fault(policies.parts[0].path, 0, "", text)])
