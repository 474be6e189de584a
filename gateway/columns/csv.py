"""The CSV form of transactions: visible columns pass, written the way the client asked for.

Upstream is always asked for a header, commas, line feeds and quotes where needed (`include_header=1`,
`column_separator=,`, `row_separator=%0A`, `force_quotes=0`), so columns can be told by name and null from empty. What
comes is read by exactly that form, in UTF-8 without a byte order mark: a quote inside a bare field, a carriage
return outside quotes, a row that is longer or shorter than the header, a name twice or a last line without its end
are refused.

With the same form asked for, fields pass as they came. Any other is written as the upstream would have written it:
null is nothing (or `""` where quotes are forced), the empty string is `""`, and a field is quoted when it holds a
quote, a line end or any character of a separator.

Sources: RFC 4180; vendor pages Transactions API, query parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.columns.classes import Reveal
from gateway.columns.records import Plans, Records
from gateway.filter import Unfilterable

MAX_COLUMNS = 4_096

_BARE = rb"[\x2d-\xff#-+\x00-\x09\x0b\x0c\x0e-!]*+"  # all but quote, comma and line ends
_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"|' + _BARE + rb")"

_field = re.compile(_FIELD).match
_quoted = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"').sub
# All but line feeds, whole quoted texts included: up to a line feed, or a quote whose other one is still to come.
_outside = re.compile(rb'(?:[#-\xff\x00-\x09\x0b-!]++|"[^"]*+")*+').match


@dataclass(frozen=True, slots=True)
class CsvStyle:
    """What the client asked for. Separators may be longer than one character.

    Raises: ValueError for an empty separator and one with a quote in it.
    """

    column_separator: str = ","
    row_separator: str = "\n"
    include_header: bool = True
    force_quotes: bool = False

    def __post_init__(self) -> None:
        if not self.column_separator or not self.row_separator:
            raise ValueError("a separator is empty")
        if '"' in self.column_separator + self.row_separator:
            raise ValueError("a separator has a quote in it")


UPSTREAM_STYLE = CsvStyle()


class Line:
    """The end of the line that begins at `at`, behind its line feed; those in quotes do not end it."""

    __slots__ = ("_quoted", "at")

    def __init__(self, at: int) -> None:
        self.at = at
        self._quoted = False

    def end(self, data: bytes | bytearray) -> int:
        at = self.at
        while True:
            if self._quoted:
                at = data.find(b'"', at)
                at = len(data) if at < 0 else at
            else:
                at = _outside(data, at).end()  # type: ignore[union-attr]  # may be empty, so there is one
            mark = data[at : at + 1]
            if not mark:
                self.at = at
                return -1
            at += 1
            if mark == b"\n":
                return at
            self._quoted = not self._quoted


SAMPLE, SAMPLES = 64, 4
"""Rows from which it is learned which columns are ever quoted, and how often that may turn out wrong."""
Match = Callable[[bytes, int], re.Match[bytes] | None]


class Plan:
    """The expression for the rows of a header, and a quicker one for those in which only some columns are quoted.

    What the quicker one takes the other would take, with the same groups: it leaves out an alternative.
    """

    __slots__ = ("_left", "_make", "_quoted", "match", "quicker")

    def __init__(self, make: Callable[[Container[int]], Match], columns: int) -> None:
        """`make`: the expression for rows in which these columns may be quoted, of so many."""
        self.match = make(range(columns))
        self.quicker: Match | None = None
        self._quoted: set[int] = set()
        self._make = make
        self._left = SAMPLE * SAMPLES

    def sample(self, row: bytes) -> None:
        """Learn from one more row that `match` has taken, and `quicker` has not."""
        if self._left:
            self._left -= 1
            self._quoted.update(place for place, field in enumerate(_split(row)) if field[:1] == b'"')
            if self._left % SAMPLE == 0:
                self.quicker = self._make(self._quoted)


_plans: Plans[Plan] = Plans()


class CsvFilter(Records[Plan]):
    """Takes a table with a header, passes one with the visible columns; nothing at all where none is visible."""

    def __init__(self, reveal: Reveal, style: CsvStyle = UPSTREAM_STYLE) -> None:
        super().__init__(reveal)
        self._style = style
        self._as_it_came = (style.column_separator, style.force_quotes) == (",", False) and (
            style.row_separator == "\n"
        )
        self._line = Writer(style).line
        self._line_end = style.row_separator.encode()
        self._header: bytes | None = None
        self._visible: tuple[bool, ...] = ()
        self._personal = False

    def _ended(self) -> bool:
        return self._header is not None

    def _run(self, data: bytes, out: list[bytes]) -> int:
        if b"\0" in data:
            raise Unfilterable("the body has a NUL in it")
        at, size = 0, len(data)
        rows: list[bytes] = []
        while at < size:
            if self._recent:
                at = self._fast(data, at, rows)
                if at == size:
                    break
            end = self._whole(Line(at), data)
            if end < 0:
                break
            if self._header is None:
                self._head(data[at:end], out)
            else:
                rows.append(self._row(self._fields(data[at:end])))
                shape = b"".join((self._header, b"\0", bytes([self._as_it_came])))
                self._remember(_plans.learn(self._reveal, shape, self._plan))
            at = end
        self.tally.rows += len(rows)
        if self._personal:
            self.tally.personal += len(rows)
        if rows and any(self._visible):
            rows.append(b"")
            out.append(self._line_end.join(rows))
        return at

    def _fast(self, data: bytes, at: int, rows: list[bytes]) -> int:
        """Adds the rows that match, from `at` on. Returns where the first one begins that does not."""
        plan, add = self._recent[0], rows.append
        line = b",".join if self._as_it_came else self._line
        while True:
            if plan.quicker is not None:
                quicker = plan.quicker
                while (found := quicker(data, at)) is not None:
                    add(line(found.groups()))
                    at = found.end()
            found = plan.match(data, at)
            if found is None:
                return at
            plan.sample(found[0])
            add(line(found.groups()))
            at = found.end()

    def _row(self, fields: Sequence[bytes]) -> bytes:
        """The visible fields, as they came, as one line without its end."""
        return b",".join(fields) if self._as_it_came else self._line(fields)

    def _head(self, line: bytes, out: list[bytes]) -> None:
        """The header decides which columns are visible. Raises: Unfilterable."""
        fields = _split(line)
        try:
            names = [_value(field).decode() for field in fields]
        except UnicodeDecodeError:
            raise Unfilterable("the body is not UTF-8") from None
        if line.startswith(b"\xef\xbb\xbf"):
            raise Unfilterable("the body begins with a byte order mark")
        if len(set(names)) < len(names):
            raise Unfilterable("a record names a column twice")
        if not all(names) or len(names) > MAX_COLUMNS:
            raise Unfilterable("the header is not a list of columns")
        self._header = line
        self._visible = tuple(map(self._reveal.sees, names))
        for name, visible in zip(names, self._visible, strict=True):
            if visible:
                self._personal = self._personal or self._reveal.personal(name)
            else:
                self.tally.withhold(self._reveal.hidden_as(name), name)
        if self._style.include_header and any(self._visible):
            out.append(self._row(self._seen(fields)) + self._line_end)

    def _fields(self, line: bytes) -> list[bytes]:
        """The visible fields of a row, as they came. Raises: Unfilterable when it does not fit the header."""
        fields = _split(line)
        if len(fields) != len(self._visible):
            raise Unfilterable("a row does not fit the header")
        return self._seen(fields)

    def _seen(self, fields: Sequence[bytes]) -> list[bytes]:
        return [field for field, visible in zip(fields, self._visible, strict=True) if visible]

    def _plan(self) -> Plan:
        return Plan(partial(_expression, self._visible, self._as_it_came), len(self._visible))


def _expression(seen: Sequence[bool], runs: bool, quoted: Container[int]) -> Match:
    """A group for each run of fields that are seen, or for each one when they are to be written anew (not `runs`)."""
    pattern: list[bytes] = []
    before = False
    for place, visible in enumerate(seen):
        run_on = visible and before and runs
        if before and not run_on:
            pattern.append(b")")
        pattern.append(b"," if place else b"")
        pattern.append(b"(" if visible and not run_on else b"")
        pattern.append(_FIELD if place in quoted else _BARE)
        before = visible
    pattern.append(b")\n" if before else b"\n")
    return re.compile(b"".join(pattern)).match


def _split(line: bytes) -> list[bytes]:
    """The fields of a line with its line feed, as they came. Raises: Unfilterable."""
    fields: list[bytes] = []
    at, last = 0, len(line) - 1
    while True:
        found = _field(line, at)
        end = found.end()  # type: ignore[union-attr]  # a bare field may be empty: there always is one
        fields.append(line[at:end])
        if end == last:
            return fields
        if line[end : end + 1] != b",":
            raise Unfilterable("a field is not CSV")
        at = end + 1


def _value(field: bytes) -> bytes:
    return field[1:-1].replace(b'""', b'"') if field[:1] == b'"' else field


class Writer:
    """Fields as they came into a line of one style, without the line's end."""

    def __init__(self, style: CsvStyle) -> None:
        own = {*style.column_separator, *style.row_separator} - set(',"\r\n')
        self._comma = style.column_separator.encode()
        self._quoted_comma = b'"' + self._comma + b'"'
        self._force = style.force_quotes
        # Single characters of a long separator count: together with a neighbour they could come to read as it.
        self._own = _any_of(own) if own else None
        self._needs_quotes = _any_of({*style.column_separator, *style.row_separator, '"', "\r", "\n"})

    def line(self, fields: Sequence[bytes]) -> bytes:
        # No field has a NUL, so it can stand between them.
        text = b"\0".join(fields)
        if self._force:
            return b'"' + _quoted(_inside, text).replace(b"\0", self._quoted_comma) + b'"'
        if self._own is not None and self._own(text):
            return self._comma.join([self._field(field) for field in fields])
        # A bare field has none of the characters that need quotes here: it stays.
        return _quoted(self._rewritten, text).replace(b"\0", self._comma)

    def _rewritten(self, found: re.Match[bytes]) -> bytes:
        return self._field(found[0])

    def _field(self, field: bytes) -> bytes:
        if not field:
            return field
        value = _value(field)
        if value and not self._needs_quotes(value):
            return value
        return b'"' + value.replace(b'"', b'""') + b'"'


def _inside(found: re.Match[bytes]) -> bytes:
    return found[0][1:-1]


def _any_of(marks: set[str]) -> Callable[[bytes], re.Match[bytes] | None]:
    return re.compile(b"|".join(re.escape(mark.encode()) for mark in sorted(marks))).search
