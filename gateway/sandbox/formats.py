"""Rows as JSON, CSV and XML, one row at a time, so that a large answer never stands in memory whole.

The vendor documents little here: a bare JSON array, a CSV with or without header and with free separators, an
XML array of Transaction elements. The rest follows what a Ruby server does by itself:

- CSV: null is nothing, the empty string is `""`; a field is quoted when it holds a separator, a quote or a line
  end; with `force_quotes` every field is. `custom_data` does not exist in CSV.
- XML: root Transactions, null is `nil="true"`, a nested array is repeated `item` elements. A column whose name
  is no XML name (one with a space) is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from gateway.sandbox.columns import CUSTOM_DATA

Rows = Iterable[Mapping[str, Any]]
Pieces = Iterator[str]

XML_NAME = re.compile(r"[A-Za-z_][\w.-]*\Z", re.ASCII)
XML_SPECIAL = re.compile(r"[&<>\r]")


@dataclass(frozen=True, slots=True)
class CsvStyle:
    """The four CSV parameters. Separators may be longer than one character."""

    column_separator: str = ","
    row_separator: str = "\n"
    include_header: bool = True
    force_quotes: bool = False


def json_pieces(rows: Rows, columns: Sequence[str]) -> Pieces:
    before = "["
    for row in rows:
        yield before + json.dumps({name: row.get(name) for name in columns}, ensure_ascii=False)
        before = ","
    yield "[]" if before == "[" else "]"


def csv_pieces(rows: Rows, columns: Sequence[str], style: CsvStyle) -> Pieces:
    shown = [name for name in columns if name != CUSTOM_DATA]
    write = csv_field_writer(style)
    if style.include_header:
        yield style.column_separator.join(map(write, shown)) + style.row_separator
    for row in rows:
        yield style.column_separator.join([write(row.get(name)) for name in shown]) + style.row_separator


def csv_field_writer(style: CsvStyle) -> Callable[[Any], str]:
    """A function from a value to its CSV field."""
    # Single characters of a long separator count: together with a neighbour they could come to read as it.
    marks = re.escape("".join({*style.column_separator, *style.row_separator, '"', "\r", "\n"}))
    needs_quotes = re.compile(f"[{marks}]").search
    always = style.force_quotes

    def write(value: Any) -> str:
        if value is None:
            return '""' if always else ""
        text = csv_text(value)
        if always or not text or needs_quotes(text):
            return '"' + text.replace('"', '""') + '"'
        return text

    return write


def csv_text(value: Any) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    return value if type(value) is str else str(value)


def xml_pieces(rows: Rows, columns: Sequence[str]) -> Pieces:
    shown = [name for name in columns if XML_NAME.match(name)]
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<Transactions>\n'
    for row in rows:
        members = "".join([xml_element(name, row.get(name)) for name in shown])
        yield f"  <Transaction>\n{members}  </Transaction>\n"
    yield "</Transactions>\n"


def xml_element(name: str, value: Any) -> str:
    if value is None:
        return f'    <{name} nil="true"/>\n'
    if isinstance(value, list):
        return f"    <{name}>\n{''.join(map(xml_item, value))}    </{name}>\n"
    return f"    <{name}>{xml_text(value)}</{name}>\n"


def xml_item(entry: Mapping[str, Any]) -> str:
    members = "".join(f"<{key}>{xml_text(value)}</{key}>" for key, value in entry.items())
    return f"      <item>{members}</item>\n"


def xml_text(value: Any) -> str:
    text = csv_text(value)
    # A bare CR would be read back as LF: XML 1.0 section 2.11.
    return escape(text, {"\r": "&#13;"}) if XML_SPECIAL.search(text) else text
