"""Which columns a view and a version have, and what include and exclude make of them."""

import pytest

from gateway.sandbox.columns import COLUMNS, CUSTOM, CUSTOM_SOURCE, DEFAULT, choose, defaults

CURRENT = "2020-10-01"


@pytest.mark.parametrize(("view", "documented"), [("n", 175), ("a", 169), ("f", 103)])
def test_each_view_has_the_documented_number_of_columns(view, documented):
    assert sum(column.known(view, CURRENT) for column in COLUMNS) == documented


@pytest.mark.parametrize(("view", "count"), [("n", 174), ("a", 168), ("f", 103)])
def test_custom_data_is_not_in_the_default_set(view, count):
    names = defaults(view, CURRENT)
    assert len(names) == count
    assert "custom_data" not in names


def test_missing_parameters_answer_default_and_custom_columns():
    names = choose("n", CURRENT, "", "")
    assert names[:174] == defaults("n", CURRENT)
    assert "Visit Booked" in names
    assert "Visit Booked.source" not in names


def test_the_affiliate_view_has_no_custom_columns():
    assert choose("f", CURRENT, f"{CUSTOM},{CUSTOM_SOURCE},Visit Booked,custom_data", "") == []


def test_an_included_name_beats_an_excluded_constant():
    assert choose("n", CURRENT, f"transaction_id,{CUSTOM}", DEFAULT)[:2] == ["transaction_id", "Visit Booked"]


def test_an_excluded_constant_beats_an_included_one():
    assert choose("n", CURRENT, f"{DEFAULT},gclid", f"{DEFAULT},{CUSTOM}") == ["gclid"]


def test_an_excluded_name_beats_an_included_name():
    assert choose("n", CURRENT, "duration,city", "city") == ["duration"]


def test_columns_come_in_the_order_asked_for_and_once():
    assert choose("n", CURRENT, "city,transaction_id,city,nonsense", "") == ["city", "transaction_id"]


def test_custom_data_comes_when_it_is_named():
    assert choose("a", CURRENT, "custom_data", DEFAULT) == ["custom_data"]


def test_source_columns_come_by_name_and_by_constant():
    assert choose("n", CURRENT, "gclid.source", "") == ["gclid.source"]
    assert "Visit Booked.source" in choose("n", CURRENT, CUSTOM_SOURCE, "")


@pytest.mark.parametrize(
    ("name", "version", "there"),
    [
        ("signal_1_value", "2016-10-01", True),
        ("signal_10_value", "2017-02-01", False),
        ("do_not_call_data_append", "2017-02-01", True),
        ("do_not_call_data_append", CURRENT, False),
        ("recording_download_url", "2016-10-01", False),
        ("recording_download_url", CURRENT, True),
    ],
)
def test_a_version_answers_the_columns_of_its_time(name, version, there):
    assert (name in defaults("n", version)) is there


def test_a_column_may_be_older_in_one_view_than_in_another():
    assert "age_range_data_append" in defaults("n", "2016-06-01")
    assert "age_range_data_append" not in defaults("a", "2016-06-01")
