"""A Transactions request is written anew: nothing unknown goes upstream, and only columns that may be seen."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from gateway.columns import load
from gateway.columns.asked import CUSTOM_COLUMNS, DEFAULT_COLUMNS, SOURCE_COLUMNS, rewrite
from gateway.columns.classes import CUSTOM_DATA, read
from gateway.columns.csv import CsvStyle
from gateway.problem import Problem
from gateway.shipped import packaged

CLASSES = load()
SEEN = (["public"], ["public", "pii"], ["public", "pii", "financial"])
PUBLIC, PII, ALL = map(CLASSES.reveal, SEEN)


def sent(query: str, form: str = "json", reveal=PUBLIC, view="network") -> dict[str, str]:
    pairs = parse_qsl(rewrite(query, form, view, reveal).query, keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs) or "transaction_type[]" in dict(pairs)
    return dict(pairs)


def columns(query: str, reveal=PUBLIC, view="network") -> list[str]:
    return sent(query, reveal=reveal, view=view)["include_columns"].split(",")


def refused(query: str, form: str = "json", reveal=PUBLIC) -> Problem:
    with pytest.raises(Problem) as caught:
        rewrite(query, form, "network", reveal)
    return caught.value


# -- columns


@pytest.mark.parametrize("view", ["network", "advertiser", "affiliate"])
def test_without_a_list_everything_that_may_be_seen_is_asked_for_by_name(view):
    asked = columns("", view=view)
    assert asked == [c.name for c in CLASSES.columns(view) if c.cls == "public" and c.name != CUSTOM_DATA]


def test_who_sees_everything_asks_for_the_accounts_own_columns_too():
    asked = columns("", reveal=ALL)
    assert asked[-1] == CUSTOM_COLUMNS
    assert len(asked) == sum(column.name != CUSTOM_DATA for column in CLASSES.columns("network")) + 1


def test_names_keep_their_order_and_come_once():
    assert columns("include_columns=transaction_id,duration,transaction_id") == ["transaction_id", "duration"]


@pytest.mark.parametrize(
    "name",
    [
        "calling_phone_number",
        "city",
        "Visit%20Booked",
        "anything",
        "Calling_Phone_Number",
        "transaction_id%20",
    ],
)
def test_what_may_not_be_seen_is_not_asked_for(name):
    made = rewrite(f"include_columns=transaction_id,{name}", "json", "network", PUBLIC)
    assert dict(parse_qsl(made.query)) == {"include_columns": "transaction_id"}
    assert made.withheld == {"pii": 1}


def test_money_is_counted_as_money():
    made = rewrite("include_columns=transaction_id,advertiser_call_fee_localized", "json", "network", PII)
    assert made.withheld == {"financial": 1}


@pytest.mark.parametrize("constant", [CUSTOM_COLUMNS, SOURCE_COLUMNS])
def test_columns_of_any_name_are_asked_for_only_by_who_sees_unknown_ones(constant):
    assert columns(f"include_columns=transaction_id,{constant}") == ["transaction_id"]
    assert columns(f"include_columns=transaction_id,{constant}", reveal=PII) == ["transaction_id", constant]


def test_a_column_that_an_operator_opened_is_asked_for():
    shipped = packaged() / "columns.toml"
    own = read((shipped.read_text(), "shipped"), ('[public]\n"Visit Booked" = ["network"]\n', "own"))
    assert columns("include_columns=Visit+Booked", reveal=own.reveal(["public"])) == ["Visit Booked"]


def test_an_excluded_name_beats_everything_and_an_included_name_beats_an_excluded_constant():
    assert columns("include_columns=duration,transaction_id&exclude_columns=duration") == ["transaction_id"]
    both = f"include_columns=transaction_id,{DEFAULT_COLUMNS}&exclude_columns={DEFAULT_COLUMNS}"
    assert columns(both) == ["transaction_id"]
    assert "duration" not in columns("exclude_columns=duration")


@pytest.mark.parametrize(
    "query",
    [
        "include_columns=calling_phone_number",
        f"include_columns={CUSTOM_COLUMNS}",
        f"exclude_columns={DEFAULT_COLUMNS}",
        "include_columns=duration&exclude_columns=duration",
    ],
)
def test_a_request_for_nothing_that_may_be_seen_is_refused(query):
    assert refused(query).kind == "columns-withheld"


def test_custom_data_is_judged_when_it_comes():
    assert columns("include_columns=custom_data") == ["custom_data"]


# -- the rest of the query


def test_what_is_understood_goes_upstream():
    query = (
        "from=2026-01-01&to=2026-01-31&limit=10&start_after_transaction_id=0A-1&call_record_id=0B-2"
        "&transaction_type%5B%5D=Call&transaction_type[]=Sale&include_columns=duration"
    )
    assert parse_qsl(rewrite(query, "json", "network", PUBLIC).query) == [
        ("from", "2026-01-01"), ("to", "2026-01-31"), ("limit", "10"), ("start_after_transaction_id", "0A-1"),
        ("call_record_id", "0B-2"), ("transaction_type[]", "Call"), ("transaction_type[]", "Sale"),
        ("include_columns", "duration"),
    ]  # fmt: skip


def test_a_limit_is_capped():
    assert sent("limit=999999999")["limit"] == "4000"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("from=2026-01-01", "to"), ("to=2026-01-01", "from"), ("from=2026-01-01&to=", "to"),
        ("from=2026-02-30&to=2026-03-01", "from"), ("from=2026-02-02&to=2026-02-01", "from"),
        ("from=20260101&to=2026-01-02", "from"), ("from=2026-01-01&to=2026-1-2", "to"),
        ("limit=0", "limit"), ("limit=-1", "limit"), ("limit=1e3", "limit"), ("limit=%D9%A1", "limit"),
        ("limit=1&limit=2", "limit"), ("limit[]=1", "query"), ("transaction_id=a/b", "transaction_id"),
        ("call_record_id=%2e%2e", "call_record_id"), ("transaction_type=Post+Call+Event", "transaction_type"),
        ("transaction_type=Call&transaction_type[]=Sale", "transaction_type"), ("unknown=1", "query"),
        ("Limit=1", "query"), ("limit", "limit"), ("include_columns=a&include_columns=b", "include_columns"),
        ("include_columns=$everything", "include_columns"), ("include_columns=a%0Ab", "include_columns"),
        ("include_columns=" + "a" * 256, "include_columns"), ("include_columns=" + "a," * 600, "include_columns"),
        ("column_separator=;", "column_separator"), ("include_header=0", "include_header"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_its_name(query, parameter):
    problem = refused(query)
    assert (problem.kind, problem.members["parameter"]) == ("bad-parameter", parameter)


@pytest.mark.parametrize(
    "query",
    [
        "column_separator=%22",
        "row_separator=a%22",
        "column_separator=123456789",
        "include_header=2",
        "force_quotes=yes",
    ],
)
def test_a_style_of_csv_that_cannot_be_written_is_refused(query):
    assert refused(query, "csv").kind == "bad-parameter"


def test_upstream_is_asked_for_one_csv_whatever_the_client_wants():
    query = (
        "include_columns=duration&column_separator=%09&row_separator=%0D%0A&include_header=0&force_quotes=1"
    )
    made = rewrite(query, "csv", "network", PUBLIC)
    assert made.style == CsvStyle("\t", "\r\n", False, True)
    assert dict(parse_qsl(made.query)) == {
        "include_columns": "duration", "column_separator": ",", "row_separator": "\n", "include_header": "1",
        "force_quotes": "0",
    }  # fmt: skip
    assert sent("", "csv").keys() == sent("column_separator=;", "csv").keys()


# -- what the answer may be


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("", 1000), ("limit=7", 7), ("limit=9999", 4000), ("limit=", 1000), ("transaction_id=0A-1", 1),
        ("transaction_id=0A-1&limit=50", 1), ("transaction_id=&limit=50", 50), ("call_record_id=0B", 1000),
    ],
)  # fmt: skip
def test_how_many_rows_an_answer_may_have_is_known_before(query, rows):
    assert rewrite(query, "json", "network", PUBLIC).rows == rows


@pytest.mark.parametrize(
    ("names", "reveal", "personal"),
    [
        ("duration,city", PUBLIC, False),
        ("duration,city", PII, True),
        ("duration,sale_amount", ALL, False),
        (f"duration,{CUSTOM_COLUMNS}", PII, True),
        ("duration,custom_data", PUBLIC, False),
        ("duration,custom_data", PII, True),
    ],
)
def test_rows_are_personal_records_where_a_revealed_personal_column_is_asked_for(names, reveal, personal):
    assert rewrite(f"include_columns={names}", "json", "network", reveal).personal == personal
