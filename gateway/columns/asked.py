"""What a Transactions request asks for, written anew: only documented parameters, and only columns that may be seen.

`exclude_columns` does not redact (the vendor's own example keeps a column that it excludes), an unknown parameter
may mean anything, and one date without the other filters nothing. So nothing of the query is handed on: it is read,
what cannot be understood is refused, and what goes upstream is written from what was understood, with an explicit
list of columns. This is the first of two locks; the filters of this package are the second.

For CSV the upstream is asked for one fixed style, so that the filter can read it whatever the client wants, and
the answer is written in the client's.

Source: vendor pages Transactions API ("Query parameters", "Include and exclude columns").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from urllib.parse import quote

from gateway.columns.classes import CUSTOM_DATA, ColumnClass, Reveal
from gateway.columns.csv import UPSTREAM_STYLE, CsvStyle
from gateway.columns.records import Hidden, counted
from gateway.model import AccountKind
from gateway.problem import Problem
from gateway.target import decoded

MOST_ROWS = 4_000
"""The vendor's own cap. Asking for more is asking for this."""
DEFAULT_ROWS = 1_000
"""What the vendor takes a missing limit for."""
UPSTREAM = (
    ("column_separator", UPSTREAM_STYLE.column_separator),
    ("row_separator", UPSTREAM_STYLE.row_separator),
    ("include_header", "1"),
    ("force_quotes", "0"),
)
"""What the CSV filter reads, whatever the client gets."""
DEFAULT_COLUMNS = "$invoca_default_columns"
CUSTOM_COLUMNS = "$invoca_custom_columns"
SOURCE_COLUMNS = "$invoca_custom_source_columns"
CONSTANTS = (DEFAULT_COLUMNS, CUSTOM_COLUMNS, SOURCE_COLUMNS)
MOST_COLUMNS, LONGEST_COLUMN = 512, 255
TYPES = ("Call", "PostCallEvent", "Sale", "Signal")

ID = re.compile(r"[0-9A-Za-z_-]{0,64}", re.ASCII)
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
IDS = ("start_after_transaction_id", "transaction_id", "call_record_id")
STYLE = ("column_separator", "row_separator", "include_header", "force_quotes")
ARRAY = "transaction_type[]"
KNOWN = (
    "from", "to", "limit", *IDS, "transaction_type", ARRAY, "include_columns", "exclude_columns", *STYLE,
)  # fmt: skip
LONGEST_SEPARATOR = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """One Transactions request as it goes upstream, and how its answer goes back.

    `query` is the whole query, percent-encoded. `style` is how the client wants CSV. `hidden` are the columns that
    were asked for and are not asked upstream, by class; a constant that stands for columns without number is one.
    `rows` is how many the answer may have; `personal` says whether each of them may be a personal record.
    """

    query: str
    style: CsvStyle
    hidden: Hidden
    rows: int
    personal: bool

    @property
    def withheld(self) -> dict[str, int]:
        """How many are hidden of each class: what the client is told before the answer comes."""
        return counted(self.hidden)


def rewrite(query: str, form: str, view: AccountKind, reveal: Reveal) -> Asked:
    """The query of a Transactions request (as it was sent, behind the ?) for somebody who sees `reveal`.

    `form` is json, csv or xml; `view` is whose endpoint it is. Raises: Problem "bad-parameter" naming the parameter,
    "columns-withheld" when nothing that was asked for may be seen.
    """
    given = _given(query)
    written: list[tuple[str, str]] = [*_days(given), *_limit(given), *_ids(given), *_types(given)]
    style = _style(given, form)
    columns = _columns(_one(given, "include_columns"), _one(given, "exclude_columns"), view, reveal)
    made = [f"{_quoted(name)}={_quoted(value)}" for name, value in written]
    made.append(f"include_columns={columns.written}")
    if form == "csv":
        made += (f"{name}={_quoted(value)}" for name, value in UPSTREAM)
    return Asked("&".join(made), style, columns.hidden, _rows(given), columns.personal)


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _given(query: str) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        name = decoded(name)
        if name not in KNOWN:
            raise _bad("query", f"a parameter is none of {', '.join(KNOWN)}")
        if not equals:
            raise _bad(name, "has no value")
        if name in given and name != ARRAY:
            raise _bad(name, "is given twice")
        given.setdefault(name, []).append(decoded(value))
    return given


def _one(given: Mapping[str, list[str]], name: str) -> str:
    return given.get(name, [""])[0]


def _days(given: Mapping[str, list[str]]) -> Iterable[tuple[str, str]]:
    """Both days or none: with one alone the vendor filters nothing and returns the whole history."""
    first, last = _one(given, "from"), _one(given, "to")
    if not first and not last:
        return
    days = {name: _day(name, text) for name, text in (("from", first), ("to", last))}
    if days["from"] > days["to"]:
        raise _bad("from", "is after to")
    yield from (("from", first), ("to", last))


def _day(name: str, text: str) -> date:
    if not text:
        raise _bad(name, "is missing: from and to are needed both, one alone filters nothing")
    try:
        if DAY.fullmatch(text) is None:
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise _bad(name, "is a day such as 2026-01-31") from None


def _limit(given: Mapping[str, list[str]]) -> Iterable[tuple[str, str]]:
    text = _one(given, "limit")
    if not text:
        return
    if NUMBER.fullmatch(text) is None or int(text) == 0:
        raise _bad("limit", f"is a number from 1 to {MOST_ROWS}")
    yield "limit", str(min(int(text), MOST_ROWS))


def _rows(given: Mapping[str, list[str]]) -> int:
    if _one(given, "transaction_id"):
        return 1
    return min(int(_one(given, "limit") or DEFAULT_ROWS), MOST_ROWS)


def _ids(given: Mapping[str, list[str]]) -> Iterable[tuple[str, str]]:
    for name in IDS:
        text = _one(given, name)
        if ID.fullmatch(text) is None:
            raise _bad(name, "is an id of letters, digits, - and _")
        if text:
            yield name, text


def _types(given: Mapping[str, list[str]]) -> Iterable[tuple[str, str]]:
    if "transaction_type" in given and ARRAY in given:
        raise _bad("transaction_type", f"is given together with {ARRAY}")
    for name in ("transaction_type", ARRAY):
        for text in given.get(name, ()):
            if text not in TYPES:
                raise _bad(name, f"is one of {', '.join(TYPES)}")
            yield name, text


def _style(given: Mapping[str, list[str]], form: str) -> CsvStyle:
    named = [name for name in STYLE if name in given]
    if form != "csv":
        if named:
            raise _bad(named[0], "is for csv alone")
        return UPSTREAM_STYLE
    return CsvStyle(
        _separator(given, "column_separator", UPSTREAM_STYLE.column_separator),
        _separator(given, "row_separator", UPSTREAM_STYLE.row_separator),
        _flag(given, "include_header", True),
        _flag(given, "force_quotes", False),
    )


def _separator(given: Mapping[str, list[str]], name: str, default: str) -> str:
    text = _one(given, name) or default
    if len(text) > LONGEST_SEPARATOR or '"' in text:
        raise _bad(name, f"is at most {LONGEST_SEPARATOR} characters, and no quote")
    return text


def _flag(given: Mapping[str, list[str]], name: str, default: bool) -> bool:
    text = _one(given, name) or str(int(default))
    if text not in ("0", "1"):
        raise _bad(name, "is 0 or 1")
    return text == "1"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns to ask for, percent-encoded, and what `Asked` says of them."""

    written: str
    hidden: Hidden
    personal: bool


@lru_cache(maxsize=128)  # who pages asks for the same ones again and again
def _columns(include: str, exclude: str, view: AccountKind, reveal: Reveal) -> Columns:
    """The columns to ask for, each once and in the order asked; and those that were asked for in vain.

    A name that is included beats a constant that is excluded; a name that is excluded beats everything.
    """
    included, excluded = _names("include_columns", include), _names("exclude_columns", exclude)
    documented = {column.name: None for column in reveal.classes.columns(view) if column.name != CUSTOM_DATA}
    wanted: dict[str, None] = {}
    for name in included or (DEFAULT_COLUMNS, CUSTOM_COLUMNS):
        wanted |= documented if name == DEFAULT_COLUMNS else {name: None}
    out = {*excluded} - {DEFAULT_COLUMNS}
    if DEFAULT_COLUMNS in excluded:
        out |= documented.keys() - {*included}
    seen: list[str] = []
    hidden: dict[ColumnClass, set[str]] = {}
    for name in wanted:
        if name in out:
            continue
        if _may_be_asked(name, reveal):
            seen.append(name)
        else:
            hidden.setdefault(reveal.hidden_as(name), set()).add(name)
    if not seen:
        raise Problem("columns-withheld", "Of the columns asked for, none may be seen with this token.")
    return Columns(_quoted(",".join(seen)), hidden, any(map(reveal.personal, seen)))


def _names(parameter: str, text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    if len(names) > MOST_COLUMNS:
        raise _bad(parameter, f"names more than {MOST_COLUMNS} columns")
    for name in names:
        if len(name) > LONGEST_COLUMN or not name.isprintable():
            raise _bad(
                parameter, f"names a column that is none: at most {LONGEST_COLUMN} printable characters"
            )
        if name.startswith("$") and name not in CONSTANTS:
            raise _bad(parameter, f"names a constant that is none of {', '.join(CONSTANTS)}")
    return names


def _may_be_asked(name: str, reveal: Reveal) -> bool:
    """Whether upstream may be asked for a column, or for all that a constant stands for.

    The constants stand for columns of the account under any name, and an unknown name is of the class that `of`
    gives it. What `custom_data` holds is judged value by value when it comes: an own file may have opened some.
    """
    return name == CUSTOM_DATA or reveal.sees(name)


def _bad(parameter: str, text: str) -> Problem:
    """Never what was written there: a query may hold anything."""
    return Problem("bad-parameter", f"{parameter}: {text}.", parameter=parameter)
