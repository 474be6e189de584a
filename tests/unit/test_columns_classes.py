"""Which class a column has, and what an operator may say about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.columns import classes
from gateway.columns.classes import CLASSES, load, read
from gateway.shipped import packaged
from gateway.tomlfile import ConfigError
from tests import facts

FIELDS = json.loads((Path(facts.__file__).parent / "transaction-fields.json").read_text())["fields"]
SENSITIVITY = {"none": "public", "pii": "pii", "financial": "financial"}
SHIPPED = ((packaged() / "columns.toml").read_text(encoding="utf-8"), "columns.toml")


def local(text):
    return read(SHIPPED, (text, "local.toml"))


def faults(text):
    with pytest.raises(ConfigError) as raised:
        local(text)
    return [str(fault) for fault in raised.value.faults]


def test_the_shipped_list_says_what_the_documentation_says():
    shipped = {
        (column.name, column.cls, column.views)
        for view in ("network", "advertiser", "affiliate")
        for column in load().columns(view)
    }
    documented = {(f["name"], SENSITIVITY[f["sensitivity"]], tuple(f["views"])) for f in FIELDS}
    assert len(FIELDS) == 179
    assert shipped == documented


def test_the_classes_count_as_documented():
    columns = load()
    assert [sum(columns.of(f["name"]) == cls for f in FIELDS) for cls in CLASSES] == [92, 75, 12]
    assert [len(columns.columns(view)) for view in ("network", "advertiser", "affiliate")] == [175, 169, 103]


@pytest.mark.parametrize(
    "name", ["", "Visit Booked", "Duration", "duration ", "duration\0", "duration.source"]
)
def test_an_unknown_name_is_pii(name):
    assert load().of(name) == "pii"
    assert not load().reveal(["financial"]).sees(name)


def test_what_is_revealed_is_exactly_what_is_said_and_a_reveal_is_made_once():
    columns = load()
    assert columns.reveal(["public"]).sees("duration")
    assert not columns.reveal(["public"]).sees("city")
    assert columns.reveal(["pii", "public"]) is columns.reveal(["public", "pii"])
    assert columns.reveal(["public", "pii"]).sees("city")
    assert not columns.reveal(["pii"]).sees("sale_amount")
    assert not columns.reveal(["pii", "financial"]).sees("duration")
    assert columns.reveal(["public", "pii", "financial"]).everything


def test_custom_data_passes_whole_only_where_everything_does():
    assert not load().reveal(["public", "pii"]).sees("custom_data")
    assert load().reveal(["public", "pii", "financial"]).sees("custom_data")


def test_an_operator_classifies_the_columns_of_the_account():
    columns = local(
        '[public]\n"Visit Booked" = ["network"]\n[financial]\n"quote" = ["network", "advertiser"]\n'
    )
    assert (columns.of("Visit Booked"), columns.of("quote"), columns.of("visit_booked")) == (
        "public",
        "financial",
        "pii",
    )
    assert [column.name for column in columns.columns("network")][-2:] == ["Visit Booked", "quote"]


def test_an_operator_may_be_stricter_with_a_public_column():
    assert local('[pii]\nduration = ["network"]\n').of("duration") == "pii"


@pytest.mark.parametrize("cls", ["public", "financial"])
def test_an_operator_never_opens_a_shipped_column(cls):
    assert faults(f'# mine\n[{cls}]\ncity = ["network"]\n') == [
        f"local.toml:3: {cls}.city: is pii in the shipped list, which a local file cannot change"
    ]


@pytest.mark.parametrize("name", ["City", "calling-phone-number", " notes", "email_Address"])
def test_an_operator_never_opens_a_look_alike_of_a_shipped_column(name):
    assert "is spelled like" in faults(f'[public]\n"{name}" = ["network"]\n')[0]
    assert local(f'[pii]\n"{name}" = ["network"]\n').of(name) == "pii"


def test_every_fault_is_told():
    assert len(faults('[public]\ncity = ["network"]\nnotes = ["network"]\n')) == 2
    assert faults('[public]\nx = ["planet"]\n')[0].startswith(
        "local.toml:2: public.x.0: expected one of network"
    )
    assert "has a class already" in faults('[public]\nx = ["network"]\n[pii]\nx = ["network"]\n')[0]
    assert "is not a setting" in faults("[secret]\n")[0]


def test_something_nested_under_a_visible_name_counts_as_the_first_class_that_is_not():
    columns = classes.load()
    assert columns.reveal(["public"]).hidden_as("duration") == "pii"
    assert columns.reveal(["public", "pii"]).hidden_as("duration") == "financial"
    assert columns.reveal(["public"]).hidden_as("sale_amount") == "financial"
