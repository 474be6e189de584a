"""The JSON form of transactions: an array of flat objects, of which only visible members pass.

Whatever is not exactly RFC 8259 in UTF-8 without a byte order mark is refused, and so is a record that names a
column twice, however it spells the name: two readers could take different ones. A visible column whose value is
an object or a list is no documented one; it counts as pii and financial alike. `custom_data` is a list of named
values, and each of them passes or not by its name, under whichever of the two keys; of an entry only the documented
members pass. Text between records is normalised, all other text is passed on as it came.

Sources: RFC 8259 sections 2 to 8; vendor pages Transactions API, "Marketing Data and Signals".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.columns.classes import CUSTOM_DATA, ColumnClass, Reveal
from gateway.columns.records import MAX_DEPTH, Expression, Plans, Records, Shown
from gateway.filter import Unfilterable
from gateway.grammar import SCALAR, SPACE, STRING

LABELS = ("name", "partner_name")
ENTRY_MEMBERS = frozenset((*LABELS, "data_type", "source", "value"))

_MEMBER = STRING + SPACE + rb":" + SPACE + SCALAR
_LISTED = SPACE + rb"," + SPACE
_ENTRY = rb"\{" + SPACE + rb"(?:" + _MEMBER + rb"(?:" + _LISTED + _MEMBER + rb")*+" + SPACE + rb")?+\}"
_ENTRIES = rb"\[" + SPACE + rb"(?:" + _ENTRY + rb"(?:" + _LISTED + _ENTRY + rb")*+" + SPACE + rb")?+\]"

_space = re.compile(SPACE).match
_key = re.compile(rb"(" + STRING + rb")" + SPACE + rb":" + SPACE).match
_scalar = re.compile(SCALAR).match
_after = re.compile(SPACE + rb"([,}\]])" + SPACE).match

# What lies between two brackets, whole strings included; then the rest of a string that has begun.
_IN_STRING = rb"[\]-\xff\x00-!#-\[]*+(?:\\[\x00-\xff][\]-\xff\x00-!#-\[]*+)*+"
_between = re.compile(rb'(?:[\x00-!#-Z\\^-z|~-\xff]++|"' + _IN_STRING + rb'")*+').match
_in_string = re.compile(_IN_STRING).match

_START, _FIRST, _NEXT, _AFTER, _END = range(5)


class Brackets:
    """The end of the object or list that begins at `at`, brackets in strings aside. Raises: Unfilterable."""

    __slots__ = ("_depth", "_string", "at")

    def __init__(self, at: int) -> None:
        self.at = at
        self._depth = 0
        self._string = False

    def end(self, data: bytes | bytearray) -> int:
        at, size = self.at, len(data)
        while True:
            at = (_in_string if self._string else _between)(data, at).end()  # type: ignore[union-attr]  # may be empty, so there is one
            mark = data[at : at + 1]
            if not mark or mark == b"\\":  # nothing more; or a backslash whose other half is still to come
                self.at = at
                return -1
            at += 1
            if mark == b'"':
                self._string = not self._string
            elif mark in b"[{":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise Unfilterable("a record is nested too deep")
            else:
                self._depth -= 1
                if not self._depth:
                    return at
            if at >= size:
                self.at = at
                return -1


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object by offsets: its name begins at `start`, its value is `[value:end]`."""

    name: str
    start: int
    value: int
    end: int
    nested: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One shape of record. `custom`: (which group ends in the value of custom_data, how much stands before it);
    `hidden`: what is withheld of it."""

    match: Callable[[bytes, int], tuple[list[bytes], int] | None]
    personal: bool
    custom: tuple[tuple[int, int], ...]
    hidden: tuple[tuple[ColumnClass, str], ...] = ()


_plans: Plans[Plan] = Plans()


class JsonFilter(Records[Plan]):
    """Takes an array of records, passes an array of as many records with the visible members."""

    def __init__(self, reveal: Reveal) -> None:
        super().__init__(reveal)
        self._recent = _plans.recent(reveal)
        self._state = _START
        self._opened = False

    def _ended(self) -> bool:
        return self._state == _END

    def _run(self, data: bytes, out: list[bytes]) -> int:
        at, size = 0, len(data)
        while True:
            at = _space(data, at).end()  # type: ignore[union-attr]  # may be empty, so there is one
            if at == size:
                return at
            mark, state = data[at], self._state
            if mark == 0x7B and state in (_FIRST, _NEXT):  # {
                end = self._record(data, at, out)
                if end < 0:
                    return at
                at = end
                self._state = _AFTER
                continue
            if mark == 0x2C and state == _AFTER:  # ,
                self._state = _NEXT
            elif mark == 0x5B and state == _START:  # [
                self._state = _FIRST
            elif mark == 0x5D and state in (_FIRST, _AFTER):  # ]
                self._state = _END
                out.append(b"]" if self._opened else b"[]")
            else:
                raise Unfilterable("the body is not a JSON array of objects")
            at += 1

    def _record(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Passes the record that begins at `at`. Returns its end, or -1 when that has not come yet."""
        for plan in self._recent:
            found = plan.match(data, at)
            if found is not None:
                shown, end = found
                for place, size in plan.custom:
                    shown[place] = shown[place][:size] + self._custom(shown[place][size:])
                if plan is not self._recent[0]:
                    self._remember(plan)
                if plan is not self._counted:
                    self._count(plan, plan.hidden)
                break
        else:
            end = self._whole(Brackets(at), data)
            if end < 0:
                return -1
            plan, shown = self._parsed(data[at:end])
        tally = self.tally
        tally.rows += 1
        tally.personal += plan.personal
        out.append(b",{" if self._opened else b"[{")
        out += shown
        out.append(b"}")
        self._opened = True
        return end

    # -- the strict way

    def _parsed(self, record: bytes) -> tuple[Plan, list[bytes]]:
        """(a plan that says whether the record is personal, its visible members with what separates them)."""
        members = _members(record)
        shown: list[bytes] = []
        last, personal = 0, False
        for member in members:
            value = self._shown(record, member)
            if value is not None:
                shown += (record[last if shown else member.start : member.value], value)
                personal = personal or self._reveal.personal(member.name)
            last = member.end
        spans = zip(
            [0, *(member.end for member in members)], (*(m.value for m in members), None), strict=True
        )
        shape = b"\0".join(record[a:b] for a, b in spans)
        self._remember(_plans.learn(self._reveal, shape, lambda: self._plan(record, members)))
        return Plan(_never, personal, ()), shown

    def _shown(self, record: bytes, member: Member) -> bytes | None:
        """The value of a member as it may pass, None when it may not."""
        reveal, value = self._reveal, record[member.value : member.end]
        if reveal.everything:
            return value
        if member.name == CUSTOM_DATA and (value == b"null" or _is_entries(value) is not None):
            return self._custom(value)
        if member.nested or not reveal.sees(member.name):
            self.tally.withhold(reveal.hidden_as(member.name), member.name)
            return None
        return value

    def _custom(self, value: bytes) -> bytes:
        """The visible entries of a list of flat objects, or null."""
        if value == b"null" or self._reveal.everything:
            return value
        shown = []
        at = _space(value, 1).end()  # type: ignore[union-attr]  # may be empty, so there is one
        while value[at : at + 1] == b"{":
            end = Brackets(at).end(value)
            entry = self._entry(value[at:end])
            if entry is not None:
                shown.append(entry)
            at = _after(value, end).end()  # type: ignore[union-attr]  # seen by `_is_entries`
        return b"[" + b",".join(shown) + b"]"

    def _entry(self, entry: bytes) -> bytes | None:
        members = _members(entry)
        labels = [_text(entry[m.value : m.end]) for m in members if m.name in LABELS]
        if not labels or None in labels:
            self.tally.withhold(self._reveal.hidden_as(CUSTOM_DATA), CUSTOM_DATA)
            return None
        hidden = [label for label in labels if label is not None and not self._reveal.sees(label)]
        for label in hidden:
            self.tally.withhold(self._reveal.hidden_as(label), label)
        if hidden:
            return None
        if all(member.name in ENTRY_MEMBERS for member in members):
            return entry
        self.tally.withhold(self._reveal.hidden_as(CUSTOM_DATA), CUSTOM_DATA)
        kept = [entry[m.start : m.end] for m in members if m.name in ENTRY_MEMBERS]
        return b"{" + b",".join(kept) + b"}"

    # -- the fast way

    def _plan(self, record: bytes, members: Sequence[Member]) -> Plan:
        """The expression for records of this shape: their text, with any plain value in every place."""
        parts: list[tuple[bytes, Shown]] = []
        sizes: list[int] = []
        last, any_shown, personal = 0, False, False
        for member in members:
            entries = member.name == CUSTOM_DATA
            shown: Shown = "alone" if entries else "yes" if self._reveal.sees(member.name) else "no"
            begins = last
            if not any_shown:
                # What separates the first visible member from the ones before it does not pass.
                parts.append((re.escape(record[last : member.start]), "no"))
                begins = member.start
            if entries:
                sizes.append(member.value - begins)
            if shown != "no":
                any_shown = True
                personal = personal or self._reveal.personal(member.name)
            value = rb"(?:null|" + _ENTRIES + rb")" if entries else SCALAR
            parts.append((re.escape(record[begins : member.value]) + value, shown))
            last = member.end
        parts.append((re.escape(record[last:]), "no"))
        expression = Expression(parts)
        hidden = tuple(
            (self._reveal.hidden_as(member.name), member.name)
            for member in members
            if member.name != CUSTOM_DATA and not self._reveal.sees(member.name)
        )
        return Plan(expression.match, personal, tuple(zip(expression.alone, sizes, strict=True)), hidden)


def _never(_data: bytes, _at: int) -> None:
    return None


def _members(record: bytes) -> list[Member]:
    """The members of a whole object. Raises: Unfilterable when it is none, or has a name twice."""
    members: list[Member] = []
    names: set[str] = set()
    at = _space(record, 1).end()  # type: ignore[union-attr]  # may be empty, so there is one
    if record[at : at + 1] == b"}" and at + 1 == len(record):
        return members
    while True:
        key = _key(record, at)
        if key is None:
            raise Unfilterable("a member has no name")
        value = key.end()
        scalar = _scalar(record, value)
        end = _nested(record, value) if scalar is None else scalar.end()
        after = _after(record, end)
        if after is None:
            raise Unfilterable("a member has no end")
        name = _text(key[1])
        if name is None or name in names:
            raise Unfilterable("a record names a column twice")
        names.add(name)
        members.append(Member(name, at, value, end, scalar is None))
        at = after.end()
        if after[1] == b"}":
            if after.end(1) != len(record):
                raise Unfilterable("a record has no end")
            return members


def _nested(record: bytes, at: int) -> int:
    """The end of the object or list at `at`, which must be a valid one. Raises: Unfilterable."""
    if record[at : at + 1] not in (b"{", b"["):
        raise Unfilterable("a member has no value")
    end = Brackets(at).end(record)  # there may be none, and -1 leaves too little
    try:
        json.loads(record[at:end].decode(), parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Unfilterable("a nested value is not JSON") from None
    return end


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _text(value: bytes) -> str | None:
    """The text of a JSON string that the grammar has accepted; None for another value."""
    if value[:1] != b'"':
        return None
    try:
        return value[1:-1].decode() if b"\\" not in value else str(json.loads(value.decode()))
    except ValueError:  # the escapes are known to be right: what is wrong is the encoding
        raise Unfilterable("the body is not UTF-8") from None


_is_entries = re.compile(_ENTRIES).fullmatch
