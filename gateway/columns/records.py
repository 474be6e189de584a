"""What the three filters share: one record at a time within a bound, shapes learned once, and what was withheld.

A filter has two ways to read a record. The slow one is a strict parser. It learns the record's shape: the text
around the values. The fast one is an expression made from a shape that was parsed before: the same text,
with the strict grammar of a plain value in every place. What it matches the parser would have taken, with the same
result; what it does not match the parser decides. So speed never decides what passes.

Character sets are written as ranges of what is allowed: the engine reads a negated set twice as slowly.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from codecs import utf_8_decode
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Generic, Literal, Protocol, TypeVar

from gateway.columns.classes import CLASSES, ColumnClass, Reveal
from gateway.filter import Parts, Unfilterable

MAX_RECORD = 1_048_576
"""Bytes of one record; also what waits in memory for its end, beside one piece."""
MAX_PIECE = 65_536
"""Bytes worked on at a time, however many are fed."""
MAX_DECODED = 8_192
MAX_DEPTH = 64
"""Levels of nesting within a record."""
MAX_NAMES = 1_000
"""Names of withheld columns that are told apart, for each class."""
MAX_SHAPE = 32_768
LEARNED_AFTER = 16
"""Records of a shape before it is worth the 10 to 40 ms that its expression takes to compile."""
MAX_PLANS = 16
COLUMNS_AT_A_TIME = 24
"""Columns in one of the expressions that a shape is made of: compiling a long one takes megabytes for a moment."""
MAX_SEEN = 256
RECENT = 4

P = TypeVar("P")
Hidden = Mapping[ColumnClass, Set[str]]
"""Names that are withheld, by the class they are withheld as."""
NONE: Set[str] = frozenset()
Shown = Literal["no", "yes", "alone"]


class Scan(Protocol):
    """Looks for the end of what begins at `at` in a growing buffer, reading every byte once. `at` moves along."""

    at: int

    def end(self, data: bytes | bytearray) -> int:
        """The offset behind the end, or -1 when it has not come yet."""


class Tally:
    """What one answer held. `rows` are records delivered; `personal` those delivered with a revealed pii column,
    whatever its value: that it is empty is told too. Columns are told apart up to 1,000 for each class. `unasked`
    are those that upstream was not asked for, and that so are withheld whether they come or not."""

    __slots__ = ("_names", "personal", "rows", "unasked")

    def __init__(self) -> None:
        self.rows = 0
        self.personal = 0
        self.unasked: Hidden = {}
        self._names: dict[ColumnClass, set[str]] = {}

    def withhold(self, cls: ColumnClass, name: str) -> None:
        names = self._names.setdefault(cls, set())
        if len(names) < MAX_NAMES:
            names.add(name)

    @property
    def withheld(self) -> dict[str, int]:
        """How many columns, or named values of `custom_data`, are withheld at least once; no class with none."""
        if not self._names:
            return counted(self.unasked)
        both = (*self.unasked, *self._names)
        return counted({cls: self.unasked.get(cls, NONE) | self._names.get(cls, NONE) for cls in both})


def counted(hidden: Hidden) -> dict[str, int]:
    """How many there are of each class, in the order of the classes."""
    return {cls: len(hidden[cls]) for cls in CLASSES if hidden.get(cls)}


class Expression:
    """Regular expressions that follow one another, without a way back from one into the one before.

    Made of parts that are shown or not: neighbours that are shown make one group, one that is shown "alone" has its
    own. `alone` are the places of those among the groups.
    """

    __slots__ = ("_matches", "alone")

    def __init__(self, parts: Sequence[tuple[bytes, Shown]]) -> None:
        self._matches = []
        self.alone: list[int] = []
        groups = 0
        for start in range(0, len(parts), COLUMNS_AT_A_TIME):
            pattern: list[bytes] = []
            before: Shown = "no"
            for text, shown in parts[start : start + COLUMNS_AT_A_TIME]:
                run_on = shown == before == "yes"
                if before != "no" and not run_on:
                    pattern.append(b")")
                if shown != "no" and not run_on:
                    pattern.append(b"(")
                    if shown == "alone":
                        self.alone.append(groups)
                    groups += 1
                pattern.append(text)
                before = shown
            pattern.append(b"" if before == "no" else b")")
            self._matches.append(re.compile(b"".join(pattern)).match)

    def match(self, data: bytes, at: int) -> tuple[list[bytes], int] | None:
        """All groups of a match that begins at `at`, in order, and where it ends."""
        groups: list[bytes] = []
        for match in self._matches:
            found = match(data, at)
            if found is None:
                return None
            groups += found.groups()
            at = found.end()
        return groups, at


class Plans(Generic[P]):
    """The expressions of one format, shared by all answers; the least used goes first."""

    def __init__(self, limit: int = MAX_PLANS) -> None:
        self._limit = limit
        self._plans: OrderedDict[tuple[Hashable, bytes], P | None] = OrderedDict()
        self._seen: OrderedDict[tuple[Hashable, bytes], int] = OrderedDict()

    def learn(self, to: Hashable, shape: bytes, make: Callable[[], P | None]) -> P | None:
        """The plan for a shape, made when it has been met often enough; None while there is none.

        `to` tells apart to whom it is shown: the plans for one are not good for another."""
        if len(shape) > MAX_SHAPE:
            return None
        key = to, hashlib.blake2b(shape, digest_size=32).digest()
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        count = self._seen.pop(key, 0) + 1
        if count < LEARNED_AFTER:
            self._seen[key] = count
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
            return None
        plan = self._plans[key] = make()
        if len(self._plans) > self._limit:
            self._plans.popitem(last=False)
            re.purge()  # which keeps hundreds itself, and these are large
        return plan

    def recent(self, to: Hashable) -> list[P]:
        """The plans for somebody that were last learned or looked for, the last one first: a few.

        An answer of a shape that was met before is so read fast from its first record on.
        """
        known = (plan for (whose, _), plan in reversed(self._plans.items()) if whose is to and plan)
        return list(islice(known, RECENT))


class Records(ABC, Generic[P]):
    """One answer on its way through. After a fault it takes nothing more."""

    def __init__(self, reveal: Reveal) -> None:
        self.tally = Tally()
        self._reveal = reveal
        self._waiting = bytearray()
        self._scan: Scan | None = None
        self._recent: list[P] = []
        self._counted: P | None = None
        self._broken = False

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the upstream's body into those that may pass, perhaps none.

        Raises: Unfilterable. What was returned before holds nothing that is withheld."""
        if self._broken:
            raise Unfilterable("the body was found broken before")
        before = self.tally.rows, self.tally.personal
        try:
            if len(data) <= MAX_PIECE:
                return self._take(data)
            return b"".join([self._take(data[at : at + MAX_PIECE]) for at in range(0, len(data), MAX_PIECE)])
        except Unfilterable:
            self._broken = True
            self.tally.rows, self.tally.personal = before  # nothing of this call is delivered
            raise

    def parts(self, data: bytes) -> Parts:
        """As `feed`: everything is written anew."""
        return (self.feed(data),)

    def close(self) -> bytes:
        """The end of the upstream's body. Raises: Unfilterable when it is not a whole one."""
        if self._broken or self._waiting or not self._ended():
            self._broken = True
            raise Unfilterable("the body ends too early")
        return b""

    def _take(self, data: bytes) -> bytes:
        waiting = self._waiting
        if waiting:
            # What is longer than all that waits is copied together with it; so dripping bytes stay linear.
            longer = len(data) > len(waiting)
            whole: bytes | bytearray
            if longer:
                whole = data = b"".join((waiting, data))
            else:
                waiting += data
                whole = waiting
            if self._scan is not None and self._scan.end(whole) < 0:
                self._bound(len(whole))
                if longer:
                    self._waiting = bytearray(data)
                return b""
            data = bytes(whole)
            self._waiting = waiting = bytearray()
        self._scan = None
        out: list[bytes] = []
        end = self._run(data, out)
        self._text(data, end)
        if end < len(data):
            self._bound(len(data) - end)
            waiting += data[end:]
        return b"".join(out)

    def _bound(self, size: int) -> None:
        if size > MAX_RECORD:
            raise Unfilterable("a record is too large")

    def _text(self, data: bytes, end: int) -> None:
        """Refuses what is not UTF-8 up to `end`: another reader could take its bytes for other characters."""
        at = 0
        try:
            while at < end:  # in small parts: a large text leaves the cache, and takes twice as long
                part = data[at : min(at + MAX_DECODED, end)]
                last = at + MAX_DECODED >= end
                at += len(part) if part.isascii() else utf_8_decode(part, "strict", last)[1]
        except UnicodeDecodeError:
            raise Unfilterable("the body is not UTF-8") from None

    def _whole(self, scan: Scan, data: bytes) -> int:
        """The end of what begins at `scan.at`, where nothing fast matched; or -1, and `scan` goes on later."""
        began = scan.at
        end = scan.end(data)
        if end < 0:
            scan.at -= began
            self._scan = scan
        return end

    def _remember(self, plan: P | None) -> None:
        """The plan goes to the front of those tried first."""
        if plan is not None:
            recent = [plan, *(each for each in self._recent if each is not plan)]
            self._recent = recent[:RECENT]

    def _count(self, plan: P, hidden: Iterable[tuple[ColumnClass, str]]) -> None:
        """Count what a plan withholds from every record that it matches."""
        self._counted = plan
        for cls, name in hidden:
            self.tally.withhold(cls, name)

    @abstractmethod
    def _run(self, data: bytes, out: list[bytes]) -> int:
        """Reads on, adds to `out` what may pass, and tells how far it got; the rest waits for `_scan`."""

    @abstractmethod
    def _ended(self) -> bool:
        """Whether the body may end here."""
