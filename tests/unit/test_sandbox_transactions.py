"""The Transactions API by its parameters, asked without sockets."""

import json
from urllib.parse import urlencode

import pytest

from gateway.sandbox import Sandbox
from gateway.sandbox.exchange import Ask

SANDBOX = Sandbox("T")
NEW, OLD = "2020-10-01", "2016-10-01"


def ask(path, query=(), method="GET"):
    target = f"{path}?{urlencode(query)}" if query else path
    reply = SANDBOX.answer(Ask(method, target, [("Authorization", "T")]))
    return reply.status, b"".join(reply.chunks).decode()


def rows(query=(), accounts="networks", account="33", version=NEW):
    status, body = ask(f"/api/{version}/{accounts}/transactions/{account}.json", query)
    assert status == 200, body
    return json.loads(body)


def refusal(query=(), path=f"/api/{NEW}/networks/transactions/33.json"):
    status, body = ask(path, query)
    return status, json.loads(body)["errors"]


IDS = {"include_columns": "transaction_id,start_time_utc,start_time_local,transaction_type,complete_call_id"}


def test_a_reply_is_a_bare_array_of_full_rows():
    first = rows({"limit": 1})[0]
    assert len(first) == 174 + 7
    assert next(iter(first)) == "advertiser_call_fee_localized"


@pytest.mark.parametrize(
    ("accounts", "account"), [("advertisers", "706"), ("advertisers", "707"), ("affiliates", "808")]
)
def test_an_account_sees_its_own_rows_only(accounts, account):
    seen = rows(IDS, accounts, account)
    assert 0 < len(seen) < len(rows(IDS))


def test_two_advertisers_share_no_row_and_together_are_the_network():
    parts = [{row["transaction_id"] for row in rows(IDS, "advertisers", each)} for each in ("706", "707")]
    assert parts[0].isdisjoint(parts[1])
    assert parts[0] | parts[1] == {row["transaction_id"] for row in rows(IDS)}


def test_paging_by_cursor_reads_every_row_once():
    cursor, pages = "", []
    while page := rows({**IDS, "limit": 97, "start_after_transaction_id": cursor}):
        pages.extend(page)
        cursor = page[-1]["transaction_id"]
    assert pages == rows({**IDS, "limit": 4000})


def test_paging_works_inside_a_date_range_too():
    span = {**IDS, "from": "2026-02-01", "to": "2026-03-31"}
    whole, cursor, pages = rows(span), "", []
    while page := rows({**span, "limit": 50, "start_after_transaction_id": cursor}):
        pages.extend(page)
        cursor = page[-1]["transaction_id"]
    assert pages == whole
    assert [row["start_time_utc"] for row in whole] == sorted(row["start_time_utc"] for row in whole)


def test_dates_include_both_ends_in_the_users_time_zone():
    days = {row["start_time_local"][:10] for row in rows({**IDS, "from": "2026-03-01", "to": "2026-03-03"})}
    assert days == {"2026-03-01", "2026-03-02", "2026-03-03"}


@pytest.mark.parametrize("alone", ["from", "to"])
def test_one_date_alone_filters_nothing(alone):
    assert rows({**IDS, alone: "2026-06-01"}) == rows(IDS)


def test_the_limit_is_1000_unless_named_and_4000_at_most():
    many = Sandbox("T", calls=4000)
    path = f"/api/{NEW}/networks/transactions/33.csv?include_columns=city&include_header=0"
    for query, expected in (
        ("", 1000),
        ("&limit=4000", 4000),
        ("&limit=9999", 4000),
        ("&limit=5&limit=3", 3),
    ):
        reply = many.answer(Ask("GET", path + query, [("Authorization", "T")]))
        assert b"".join(reply.chunks).count(b"\n") == expected


def test_a_transaction_id_finds_one_row_and_a_call_id_all_of_a_call():
    event = next(row for row in rows(IDS) if row["transaction_type"] == "Post Call Event")
    call = event["complete_call_id"]
    assert rows({**IDS, "transaction_id": event["transaction_id"]}) == [event]
    assert len(rows({**IDS, "call_record_id": call})) > 1
    assert rows({**IDS, "call_record_id": call, "transaction_id": event["transaction_id"]}) == [event]
    assert rows({**IDS, "call_record_id": "CALL-OTHER", "transaction_id": event["transaction_id"]}) == []


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ([("transaction_type", "PostCallEvent")], {"Post Call Event"}),
        ([("transaction_type", "Sale")], {"Reported Conversion"}),
        ([("transaction_type[]", "Call"), ("transaction_type[]", "Sale")], {"Call", "Reported Conversion"}),
    ],
)
def test_types_are_filtered_in_one_spelling_and_answered_in_another(query, labels):
    assert {row["transaction_type"] for row in rows([*IDS.items(), *query])} == labels


def test_signal_rows_exist_before_the_rollup_only():
    signals = {"transaction_type": "Signal", **IDS}
    assert rows(signals, version=OLD)
    assert rows(signals, version=NEW) == []


def test_versions_before_2017_carry_the_retired_signal_columns():
    old = rows({"limit": 1}, version=OLD)[0]
    assert {f"signal_{place}_value" for place in range(1, 11)} <= old.keys()
    assert "signal_1_value" not in rows({"limit": 1})[0]


def test_the_old_url_without_api_and_version_answers():
    status, body = ask("/networks/transactions/33.csv", {"limit": 1})
    assert status == 200
    assert "signal_1_value" in body.splitlines()[0]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/{NEW}/networks/transactions/34.json", 404),
        (f"/api/{NEW}/advertisers/transactions/808.json", 404),
        (f"/api/{NEW}/affiliates/transactions/706.csv", 404),
        (f"/api/{NEW}/networks/transactions/33.html", 404),
        (f"/api/{NEW}/networks/transactions/33", 404),
        ("/api/latest/networks/transactions/33.json", 404),
    ],
)
def test_what_is_not_there_is_an_error_of_class_record_not_found(path, status):
    assert refusal(path=path) == (
        status,
        {"class": "RecordNotFound", "invalid_data": refusal(path=path)[1]["invalid_data"]},
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"from": "2026-13-01", "to": "2026-01-01"}, "from"),
        ({"transaction_type": "Post Call Event"}, "transaction_type"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_refused_by_its_name(query, field):
    status, errors = refusal(query)
    assert (status, list(errors)) == (403, [field])


def test_a_quote_as_separator_is_refused_before_anything_is_sent():
    status, errors = refusal({"column_separator": '"'}, f"/api/{NEW}/networks/transactions/33.csv")
    assert (status, list(errors)) == (403, ["column_separator"])


def test_an_unknown_cursor_is_not_found():
    assert refusal({"start_after_transaction_id": "NOPE"})[0] == 404


def test_a_post_is_no_way_to_read():
    assert ask(f"/api/{NEW}/networks/transactions/33.json", method="POST")[0] == 404
