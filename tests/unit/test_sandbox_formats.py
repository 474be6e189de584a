"""The three formats, read back by readers that are not ours, carry the same values."""

import csv
import io
import json

from defusedxml import ElementTree
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sandbox.columns import COLUMNS, CUSTOM, CUSTOM_SOURCE, DEFAULT, SOURCE_COLUMNS, choose
from gateway.sandbox.formats import CsvStyle, csv_pieces, json_pieces, xml_pieces
from gateway.sandbox.rows import build
from gateway.sandbox.sample import TODAY

ROWS = [row.values for row in build(3, TODAY, calls=12)]
NAMES = [*(column.name for column in COLUMNS), "Visit Booked", "patient_email", *SOURCE_COLUMNS[:2]]
WORDS = st.lists(st.sampled_from([*NAMES, DEFAULT, CUSTOM, CUSTOM_SOURCE]), max_size=6).map(",".join)
SEPARATORS = st.sampled_from([",", ";", "\t", "|", "a", "5", "é", " "])
ROW_SEPARATORS = st.sampled_from(["\n", "\r\n"])


def text(value):
    """A value as CSV and XML can tell it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def read_csv(pieces, separator):
    """Rows as the csv module reads them, which knows separators of one character only."""
    lines = csv.reader(io.StringIO("".join(pieces), newline=""), delimiter=separator)
    return [line or [""] for line in lines]  # one null alone is an empty line


def read_xml(pieces):
    root = ElementTree.fromstring("".join(pieces))
    assert root.tag == "Transactions"
    assert {child.tag for child in root} <= {"Transaction"}
    return [{member.tag: member.text or "" for member in row if not len(member)} for row in root]


@settings(max_examples=40, deadline=None)
@given(
    view=st.sampled_from("naf"),
    include=WORDS,
    exclude=WORDS,
    separator=SEPARATORS,
    end=ROW_SEPARATORS,
    quotes=st.booleans(),
)
def test_all_formats_carry_the_same_values(view, include, exclude, separator, end, quotes):
    names = choose(view, "2020-10-01", include, exclude)
    from_json = json.loads("".join(json_pieces(ROWS, names)))
    flat = [name for name in names if name != "custom_data"]
    expected = [[text(row[name]) for name in flat] for row in from_json]

    style = CsvStyle(separator, end, force_quotes=quotes)
    if flat:
        assert read_csv(csv_pieces(ROWS, names, style), separator) == [flat, *expected]

    representable = [name for name in flat if " " not in name]
    from_xml = read_xml(xml_pieces(ROWS, names))
    assert [[row[name] for name in representable] for row in from_xml] == [
        [value for name, value in zip(flat, row, strict=True) if name in representable] for row in expected
    ]


def test_custom_data_is_nested_in_json_and_xml_and_absent_in_csv():
    rows = [
        {
            "custom_data": [{"partner_name": "gclid", "value": True}, {"name": "a", "value": "<&>"}],
            "city": "x",
        }
    ]
    names = ["custom_data", "city"]
    assert json.loads("".join(json_pieces(rows, names)))[0]["custom_data"] == rows[0]["custom_data"]
    items = ElementTree.fromstring("".join(xml_pieces(rows, names))).findall(".//custom_data/item")
    assert [[(part.tag, part.text) for part in item] for item in items] == [
        [("partner_name", "gclid"), ("value", "true")],
        [("name", "a"), ("value", "<&>")],
    ]
    assert "".join(csv_pieces(rows, names, CsvStyle())) == "city\nx\n"


def test_null_and_empty_stay_apart():
    rows = [{"notes": "", "city": None}]
    names = ["notes", "city"]
    assert json.loads("".join(json_pieces(rows, names))) == rows
    assert "".join(csv_pieces(rows, names, CsvStyle(include_header=False))) == '"",\n'
    assert '<notes></notes>\n    <city nil="true"/>' in "".join(xml_pieces(rows, names))


def test_a_csv_may_have_any_separators_and_no_header():
    style = CsvStyle("||", "~\n", include_header=False)
    pieces = csv_pieces([{"a": "x|y", "b": 1}, {"a": "p", "b": 2}], ["a", "b"], style)
    assert "".join(pieces) == '"x|y"||1~\np||2~\n'


def test_force_quotes_quotes_every_field_and_the_header():
    assert "".join(csv_pieces([{"a": None}], ["a"], CsvStyle(force_quotes=True))) == '"a"\n""\n'


def test_no_rows_are_an_empty_array_an_empty_root_and_a_header_alone():
    assert "".join(json_pieces([], ["a"])) == "[]"
    assert len(ElementTree.fromstring("".join(xml_pieces([], ["a"])))) == 0
    assert "".join(csv_pieces([], ["a"], CsvStyle())) == "a\n"
