"""Decision records asked again: which recorded decisions would this set of policies make differently?

A record holds all that its decision was made from (`audit.py`), so the answer needs no store and no upstream. What
the policies are asked is who the owner *was*, at the moment the exchange began. Files are read line by line, packed
ones too, and what is kept is bounded: a record file may be of any size.

What is not a whole record (a line torn by a full disk, somebody else's line, one from before records held
enough) is counted and named by its line, and never guessed at.

Source: section 6 of the design; field notes B17.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Any, BinaryIO, cast

from gateway.model import (
    ACCOUNT_KINDS,
    RELATIONS,
    ROLES,
    Account,
    AccountKind,
    Moment,
    Operation,
    Owner,
    Principal,
    Relation,
    Role,
)
from gateway.policyfile import POLICY_ID
from gateway.table import Table

MAX_LINE = 1 << 20
MAX_GROUPS = 4_096
NAMED = 20
_TOO_LATE = 253_402_300_800.0
"""The year 10000, which no clock of ours shows."""
_GZIP = b"\x1f\x8b"


class Unreadable(Exception):
    """A file that cannot be read on: what is wrong with it, in words."""


class Unusable(Exception):
    """A line that cannot be asked again: why, in words."""


@dataclass(frozen=True, slots=True)
class Past:
    """One recorded decision, and what it was made from."""

    request_id: str
    principal: Principal
    operation: Operation
    relation: Relation
    moment: Moment
    allowed: bool
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """Recorded decisions that come out differently, of one operation and by the same policies.

    `flipped`: allowed and no longer, or the other way; else the same decision by other policies.
    """

    operation: str
    was_allowed: bool
    was_by: tuple[str, ...]
    allowed: bool
    by: tuple[str, ...]

    @property
    def flipped(self) -> bool:
        return self.was_allowed != self.allowed


@dataclass(frozen=True, slots=True)
class Example:
    """The first record of a change: where it stands, so that it can be looked up."""

    file: str
    line: int
    request_id: str


@dataclass(slots=True)
class Replay:
    """What came of it. `unusable` names the first twenty lines as (file, line, why); `faults` are whole files.

    `beyond` counts records of changes that are left out, because there were too many different ones.
    """

    judged: int = 0
    undecided: int = 0
    unusable_lines: int = 0
    unusable: list[tuple[str, int, str]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    changes: Counter[Change] = field(default_factory=Counter)
    examples: dict[Change, Example] = field(default_factory=dict)
    beyond: int = 0

    @property
    def flipped(self) -> int:
        return sum(count for change, count in self.changes.items() if change.flipped)

    def read(
        self, file: BinaryIO, name: str, table: Table, operations: Mapping[tuple[str, str], Operation]
    ) -> None:
        """Ask about every record of a file, which may be packed with gzip. `operations` by id and effect."""
        try:
            for number, line in enumerate(lines(file), 1):
                self._line(line, name, number, table, operations)
        except Unreadable as fault:
            self.faults.append((name, str(fault)))

    def _line(
        self,
        line: bytes,
        name: str,
        number: int,
        table: Table,
        operations: Mapping[tuple[str, str], Operation],
    ) -> None:
        try:
            past = parse(line, operations)
        except Unusable as why:
            self._unusable(name, number, str(why))
            return
        if past is None:
            self.undecided += 1
            return
        decision = table.decide(past.principal, past.operation, past.relation, past.moment)
        if decision.error is not None:
            self._unusable(name, number, "cannot be judged: " + decision.error)
            return
        self.judged += 1
        by = tuple(policy.id for policy in decision.policies)
        if decision.allowed == past.allowed and sorted(by) == sorted(past.policies):
            return
        change = Change(past.operation.id, past.allowed, past.policies, decision.allowed, by)
        if change not in self.changes and len(self.changes) >= MAX_GROUPS:
            self.beyond += 1
            return
        self.changes[change] += 1
        self.examples.setdefault(change, Example(name, number, past.request_id))

    def _unusable(self, name: str, number: int, why: str) -> None:
        self.unusable_lines += 1
        if len(self.unusable) < NAMED:
            self.unusable.append((name, number, why))


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, unpacked where it is packed. One that is too long comes as its first mebibyte.

    Raises: Unreadable for a packed file that is broken off or damaged, once its whole lines have come.
    """
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(Any, file))
    packed = buffered.peek(2)[:2] == _GZIP
    stream: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=buffered)) if packed else buffered
    try:
        while line := stream.readline(MAX_LINE):
            yield line
            while not line.endswith(b"\n") and len(line) == MAX_LINE:  # the rest of it is not kept
                line = stream.readline(MAX_LINE)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Unreadable("is packed, and damaged or broken off") from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {type(error).__name__}") from None


def parse(line: bytes, operations: Mapping[tuple[str, str], Operation]) -> Past | None:
    """The decision in a line; None for a record of something else. Raises: Unusable for what is no whole record.

    An exchange is counted once: its "begun" line is not, and neither is what the admin and OAuth surfaces record.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise Unusable("is not a whole line of JSON") from None
    if not isinstance(record, dict) or record.get("v") != 1 or not isinstance(record.get("event"), str):
        raise Unusable("is not a decision record")
    if record["event"] != "exchange" or record.get("surface") != "proxy" or "decision" not in record:
        return None
    operation = operations.get((_text(record, "operation"), _text(record, "effect")))
    if operation is None:
        raise Unusable("names an operation that the catalogue does not have")
    kind, _, number = _text(record, "account").partition(":")
    account = Account(
        cast(AccountKind, _one_of(ACCOUNT_KINDS, kind, "account")), number, _text(record, "network")
    )
    owner = Owner(
        _text(record, "owner"),
        account,
        cast(Role, _one_of(ROLES, _text(record, "role"), "role")),
        _flag(record, "administrator"),
    )
    scopes = frozenset(_text(record, "scopes").split())
    policies = record.get("policies")
    if not isinstance(policies, list) or not all(_is_name(policy) for policy in policies):
        raise Unusable("has no list of policies")
    if not _is_name(record.get("request_id")):
        raise Unusable("has no request_id")
    return Past(
        record["request_id"],
        Principal(_text(record, "token_id"), owner, scopes, 0),
        operation,
        cast(Relation, _one_of(RELATIONS, _text(record, "relation"), "relation")),
        Moment(_began(record), _client(record)),
        _one_of(("allow", "deny"), _text(record, "decision"), "decision") == "allow",
        tuple(policies),
    )


def _is_name(value: object) -> bool:
    """A name that can be printed: whoever wrote a line does not get to write on the terminal."""
    return isinstance(value, str) and POLICY_ID.fullmatch(value) is not None


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        raise Unusable(f"lacks {name}")
    if not isinstance(value, str):
        raise Unusable(f"has for {name} no text")
    return value


def _flag(record: Mapping[str, Any], name: str) -> bool:
    value = record.get(name)
    if not isinstance(value, bool):
        raise Unusable(
            f"lacks {name}" if value is None else f"has another value for {name} than true or false"
        )
    return value


def _one_of(known: tuple[str, ...], word: str, name: str) -> str:
    if word not in known:
        raise Unusable(f"has for {name} a word there is not")
    return word


def _client(record: Mapping[str, Any]) -> str:
    client = _text(record, "client")
    try:
        ip_address(client)
    except ValueError:
        raise Unusable("has a client that is no address") from None
    return client


def _began(record: Mapping[str, Any]) -> float:
    """When the exchange began, to the millisecond: a record is written at its end."""
    took = record.get("duration_ms", 0)
    if isinstance(took, bool) or not isinstance(took, int | float):
        raise Unusable("has a duration_ms that is no number")
    try:
        moment = datetime.fromisoformat(_text(record, "time"))
        if moment.tzinfo is None:
            raise ValueError
        began = moment.timestamp() - took / 1000
        if not 0 <= began < _TOO_LATE:
            raise ValueError
        return began
    except (ValueError, OverflowError):
        raise Unusable("has a time that is none") from None


# --- What is printed -----------------------------------------------------------------------------------------


def replay_as_dict(done: Replay) -> dict[str, object]:
    """What `policy replay --json` prints."""
    return {
        "judged": done.judged,
        "flipped": done.flipped,
        "changes": [
            {
                "operation": change.operation,
                "count": count,
                "flipped": change.flipped,
                "was": {"decision": _word(change.was_allowed), "policies": list(change.was_by)},
                "now": {"decision": _word(change.allowed), "policies": list(change.by)},
                "first": {
                    "file": done.examples[change].file,
                    "line": done.examples[change].line,
                    "request_id": done.examples[change].request_id,
                },
            }
            for change, count in done.changes.most_common()
        ],
        "left_out": done.beyond,
        "without_decision": done.undecided,
        "unusable": {
            "count": done.unusable_lines,
            "first": [{"file": file, "line": line, "text": text} for file, line, text in done.unusable],
        },
        "faults": [{"file": file, "text": text} for file, text in done.faults],
    }


def replay_text(done: Replay, full: bool = False) -> str:
    """What `policy replay` prints: flips by operation and policy, most frequent first; then what was not asked.

    With `full` also decisions that stay as they are, by other policies.
    """
    shown: list[str] = []
    for change, count in done.changes.most_common():
        if change.flipped or full:
            at = done.examples[change]
            shown += [
                f"{count}  {change.operation}: {_word(change.was_allowed)} -> {_word(change.allowed)}",
                f"    was by {', '.join(change.was_by) or 'no policy'}; now by {', '.join(change.by) or 'no policy'}",
                f"    first at {at.file}:{at.line}, request {at.request_id}",
            ]
    for file, line, text in done.unusable:
        shown.append(f"{file}:{line}: {text}")
    if done.unusable_lines > len(done.unusable):
        shown.append(f"and {done.unusable_lines - len(done.unusable)} more lines that cannot be used")
    shown += (f"{file}: {text}" for file, text in done.faults)
    if done.beyond:
        shown.append(f"{done.beyond} more records change, in more ways than are listed")
    other = sum(count for change, count in done.changes.items() if not change.flipped)
    shown.append(
        f"{done.judged} decisions judged again, {done.flipped} flip, {other} stay for another reason; "
        f"{done.undecided} records without a decision, {done.unusable_lines} lines not usable"
    )
    return "\n".join(shown)


def _word(allowed: bool) -> str:
    return "allow" if allowed else "deny"
