"""What protects the answer to a Transactions request: the request written anew, and the guard of what comes back.

Both are worked out once for a request and whoever sent it, and can be kept with it. What is withheld is known before
the answer comes, from the columns that were not asked for; the filter takes out what comes all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import get_args

from gateway import filter
from gateway.columns import Filter, Format, open_filter
from gateway.columns.asked import Asked, rewrite
from gateway.columns.classes import Reveal
from gateway.filter import Parts, Unfilterable, receipt, unreadable
from gateway.model import Call
from gateway.problem import Headers

FORMATS: tuple[Format, ...] = get_args(Format)
TYPES: dict[Format, bytes] = {
    "json": rb"application/json",
    "csv": rb"text/csv",
    "xml": rb"(?:application|text)/xml",
}
_UTF_8 = rb'(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*'


class ColumnsGuard:
    """A `filter.Guard` for the answers to one Transactions request."""

    unit = "columns"

    def __init__(self, form: Format, reveal: Reveal, asked: Asked) -> None:
        self.form = form
        self.reveal = reveal
        self.asked = asked
        self.filters = self._filter() is not None
        self._told = receipt(asked.withheld, self.unit)

    def _filter(self, count: bool = False) -> Filter | None:
        return open_filter(self.form, self.reveal, self.asked.style, count)

    def fields(self, status: int, reply: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
        """None. Raises: Problem for another status than 200, another media type than the format's, or another charset
        than UTF-8."""
        if status != 200:
            raise unreadable()
        for name, value in reply:
            if name == b"content-type" and not _is(self.form, value):
                raise unreadable()
        return ()

    def receipt(self, tally: filter.Tally | None) -> Headers:
        """What was not asked for; with a tally, also what came all the same and was taken out."""
        return self._told if tally is None else receipt(tally.withheld, self.unit)

    def clean(self, _: bytes) -> bool:
        return not self.filters

    def open(self) -> Filter:
        opened = self._filter(count=True)
        assert opened is not None  # that is what counting asks for
        opened.tally.unasked = self.asked.hidden
        return opened


class Bounded:
    """A filter that passes no more than so many personal records. `given` is how many it has passed."""

    def __init__(self, inner: Filter, most: int) -> None:
        self.tally = inner.tally
        self.given = 0
        self._inner = inner
        self._most = most

    def feed(self, data: bytes) -> bytes:
        shown = self._inner.feed(data)
        if self.tally.personal > self._most:
            raise Unfilterable("the body has more personal records than were asked for")
        self.given = self.tally.personal
        return shown

    def parts(self, data: bytes) -> Parts:
        return (self.feed(data),)

    def close(self) -> bytes:
        return self._inner.close()


class BoundedGuard(ColumnsGuard):
    """A guard for one answer alone, which may hold so many personal records."""

    def __init__(self, guard: ColumnsGuard, most: int) -> None:
        super().__init__(guard.form, guard.reveal, guard.asked)
        self.filters = True
        self._most = most
        self._opened: Bounded | None = None

    @property
    def given(self) -> int:
        return 0 if self._opened is None else self._opened.given

    def open(self) -> Filter:
        self._opened = Bounded(super().open(), self._most)
        return self._opened


def protect(call: Call, query: str, reveal: Reveal) -> ColumnsGuard:
    """The guard of a Transactions call with this query (as it was sent, behind the ?) by somebody who sees `reveal`.

    `asked.query` of it is what goes upstream. Raises: Problem "bad-parameter", "columns-withheld".
    """
    view = call.operation.account_kind
    if view is None or call.format not in FORMATS:
        raise ValueError(f"{call.operation.id} has no view, or no format")
    asked = rewrite(query, call.format, view, reveal)
    return ColumnsGuard(call.format, reveal, asked)


@lru_cache(maxsize=64)
def _is(form: Format, content_type: bytes) -> bool:
    return re.fullmatch(TYPES[form] + _UTF_8, content_type, re.IGNORECASE) is not None
