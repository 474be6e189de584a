"""The guard of a Transactions request: which heads it passes, what it tells, and how it bounds personal records."""

from __future__ import annotations

import pytest

from gateway.columns import load
from gateway.columns.guard import BoundedGuard, ColumnsGuard, protect
from gateway.filter import Unfilterable
from gateway.model import Call
from gateway.operation import Catalogue
from gateway.problem import Problem
from gateway.shipped import packaged

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text(), "operations.toml")
CLASSES = load()
PUBLIC = CLASSES.reveal(["public"])
PII = CLASSES.reveal(["public", "pii"])
ALL = CLASSES.reveal(["public", "pii", "financial"])


def guard(form: str = "json", query: str = "", reveal=PUBLIC) -> ColumnsGuard:
    call = Call(CATALOGUE["network_transactions_list"], "2020-10-01", "33", form)
    return protect(call, query, reveal)


@pytest.mark.parametrize(
    ("form", "value", "passes"),
    [
        ("json", b"application/json", True),
        ("json", b"application/json; charset=utf-8", True),
        ("json", b'Application/JSON ;Charset="UTF-8" ', True),
        ("json", b"application/json; charset=latin-1", False),
        ("json", b"application/json; charset=utf-8; x=y", False),
        ("json", b"text/json", False),
        ("json", b"application/problem+json", False),
        ("json", b"", False),
        ("csv", b"text/csv;charset=UTF-8", True),
        ("csv", b"text/csv; header=absent", False),
        ("csv", b"text/plain", False),
        ("xml", b"application/xml", True),
        ("xml", b"text/xml; charset=utf-8", True),
        ("xml", b"application/xhtml+xml", False),
        ("xml", b"text/xml; charset=utf-16", False),
    ],
)
@pytest.mark.parametrize("reveal", [PUBLIC, ALL], ids=["some", "everything"])
def test_only_the_formats_own_type_in_utf_8_passes(form, value, passes, reveal):
    made = guard(form, reveal=reveal)
    reply = [(b"date", b"x"), (b"content-type", value)]
    if passes:
        assert made.fields(200, reply) == ()
        return
    with pytest.raises(Problem) as caught:
        made.fields(200, reply)
    assert caught.value.kind == "upstream-unreadable"


def test_of_two_types_each_has_to_be_right():
    with pytest.raises(Problem):
        guard().fields(200, [(b"content-type", b"application/json"), (b"content-type", b"text/html")])


def test_what_is_told_before_is_what_was_not_asked_for_and_afterwards_what_came_besides():
    made = guard(query="include_columns=duration,city,own,revenue")
    assert made.receipt(None) == (("Gateway-Withheld", "pii;columns=2, financial;columns=1"),)
    opened = made.open()
    opened.feed(b'[{"duration": 1, "city": "x", "notes": "y"}]')
    assert made.receipt(opened.tally) == (("Gateway-Withheld", "pii;columns=3, financial;columns=1"),)
    assert made.open().tally.withheld == {"pii": 2, "financial": 1}, "an answer counts for itself alone"


def test_where_nothing_can_be_withheld_nothing_is_filtered_or_told():
    assert not guard(reveal=ALL).filters
    assert guard(reveal=ALL).receipt(None) == ()
    assert guard("csv", "include_header=0", ALL).filters
    assert guard("csv", "include_header=0", ALL).receipt(None) == ()


@pytest.mark.parametrize("reveal", [PII, ALL])
def test_a_bounded_guard_passes_so_many_personal_records_and_not_one_more(reveal):
    made = BoundedGuard(guard(query="include_columns=city", reveal=reveal), 2)
    assert (made.filters, made.given) == (True, 0)
    opened = made.open()
    assert b"Ulm" in opened.feed(b'[{"city": "Ulm"}, {"duration": 1}, {"city": "Bern"}')
    assert made.given == 2
    with pytest.raises(Unfilterable):
        opened.feed(b', {"city": "Graz"}')
    assert made.given == 2


def test_a_call_without_a_view_is_a_mistake_of_ours():
    call = Call(CATALOGUE["network_transactions_list"], "2020-10-01", "33", "html")
    with pytest.raises(ValueError, match="has no view, or no format"):
        protect(call, "", PUBLIC)
