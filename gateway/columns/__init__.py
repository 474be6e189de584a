"""Columns and who may see them: their classes, and the filters that let only visible ones through.

The filters are the second of two locks: the first is what upstream is asked for. They trust nothing about it, nor
about what comes: whatever the upstream sends, a value whose column is not visible is in no byte they return. They are
pure: `feed` bytes in, bytes out; `close` at the end. What cannot be read completely raises Unfilterable, and nothing
of a record passes before the whole record was read.

What they cannot know: a value that an upstream puts under a public column's name passes as that column.
"""

from __future__ import annotations

from typing import Literal, Protocol

from gateway import filter
from gateway.columns.classes import CLASSES, Classes, ColumnClass, Reveal, load
from gateway.columns.csv import UPSTREAM_STYLE, CsvFilter, CsvStyle
from gateway.columns.json import JsonFilter
from gateway.columns.records import Tally
from gateway.columns.xml import XmlFilter
from gateway.filter import Unfilterable

__all__ = [
    "CLASSES",
    "UPSTREAM_STYLE",
    "Classes",
    "ColumnClass",
    "CsvStyle",
    "Filter",
    "Reveal",
    "Tally",
    "Unfilterable",
    "load",
    "open_filter",
]

Format = Literal["json", "csv", "xml"]


class Filter(filter.Filter, Protocol):
    """A filter of records. `tally` counts them too: rows, personal records, what was withheld."""

    tally: Tally


def open_filter(
    form: Format, reveal: Reveal, style: CsvStyle = UPSTREAM_STYLE, count: bool = False
) -> Filter | None:
    """The filter for one answer; None where none is needed: everything is revealed, and as the upstream wrote it.

    Args: style: what the client asked for, csv only. count: the rows have to be counted, whatever is revealed.
    """
    if reveal.everything and not count and (form != "csv" or style == UPSTREAM_STYLE):
        return None
    if form == "csv":
        return CsvFilter(reveal, style)
    return JsonFilter(reveal) if form == "json" else XmlFilter(reveal)
