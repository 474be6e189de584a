"""The invented data: the same every time, complete, and nobody's."""

import re
from collections import Counter
from datetime import date, timedelta

import pytest

from gateway.sandbox.columns import COLUMNS, CUSTOM_COLUMNS
from gateway.sandbox.rows import build
from gateway.sandbox.sample import TODAY


@pytest.fixture(scope="module")
def rows():
    return build(1, TODAY)


def test_the_same_seed_and_day_give_the_same_rows(rows):
    assert rows == build(1, TODAY)


def test_another_seed_gives_other_rows(rows):
    assert {row.id for row in rows}.isdisjoint(row.id for row in build(2, TODAY))


def test_there_are_hundreds_of_rows_over_months(rows):
    assert len(rows) > 700
    assert len({row.day.month for row in rows}) == 6
    assert all(TODAY - timedelta(days=181) < row.day <= TODAY for row in rows)


def test_another_day_moves_the_data():
    assert max(row.day for row in build(1, date(2020, 2, 29))) == date(2020, 2, 29)


def test_every_kind_of_row_occurs_for_every_account(rows):
    kinds = {(row.campaign.advertiser.id, row.kind) for row in rows}
    assert len(kinds) == 8
    assert Counter(row.affiliate.id for row in rows if row.affiliate).keys() == {"808", "809"}
    assert any(row.affiliate is None for row in rows)


def test_every_column_has_a_value_somewhere(rows):
    filled = {name for row in rows for name, value in row.values.items() if value is not None}
    custom = {name for each in CUSTOM_COLUMNS for name in (each.name, f"{each.name}.source")}
    assert {column.name for column in COLUMNS} | custom == filled


def test_no_two_rows_share_an_id_and_ids_do_not_sort_by_time(rows):
    ids = [row.id for row in rows]
    assert len(set(ids)) == len(ids)
    assert ids != sorted(ids)
    assert all(re.fullmatch(r"[0-9A-Z-]{1,32}", each) for each in ids)


def test_a_correction_is_a_new_row_that_names_the_one_it_replaces(rows):
    by_id = {row.id: row for row in rows}
    corrections = [row for row in rows if row.values.get("corrects_transaction_id")]
    assert corrections
    for row in corrections:
        replaced = by_id[row.values["corrects_transaction_id"]]
        assert (replaced.call_id, replaced.started) == (row.call_id, row.started)
        assert row.written > replaced.written
        assert row.values["affiliate_payout_localized"] == "0.00"


def test_money_is_text_and_durations_are_integers(rows):
    for row in rows:
        assert re.fullmatch(r"-?\d+\.\d\d", row.values.get("margin_localized", "0.00"))
        assert type(row.values.get("duration", 0)) is int


def test_phone_numbers_and_addresses_are_invented(rows):
    text = " ".join(str(value) for row in rows for value in row.values.values())
    assert set(re.findall(r"\d{3}-(\d{3}-\d\d)\d\d\b", text)) == {"555-01"}
    assert set(re.findall(r"@([\w.-]+)", text)) == {"example.com"}
    assert all(host.endswith("example.com") for host in re.findall(r"https?://([\w.-]+)", text))


def test_custom_data_names_its_entries_by_either_key(rows):
    entries = [entry for row in rows for entry in row.values.get("custom_data", [])]
    assert {next(iter(entry)) for entry in entries} == {"name", "partner_name"}
    assert all(entry["value"] is not None for entry in entries)


def test_texts_hold_what_encoders_trip_over(rows):
    text = "".join(str(row.values) for row in rows)
    for trouble in ('"', ",", "\\n", "\\r\\n", "<", "&", "é", "你"):
        assert trouble in text
