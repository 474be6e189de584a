"""Which of the upstream's refusals an app gets to read, and what becomes of the others."""

from __future__ import annotations

import json

import pytest

from gateway.problem import Problem
from gateway.refusals import MAX_BYTES, MAX_DEPTH, documented, passed_on


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "upstream-refused-us"),
        (302, "upstream-redirect"),
        (206, "upstream-failed"),
        (500, "upstream-failed"),
        (418, "upstream-failed"),
    ],
)
def test_what_is_not_the_apps_business_becomes_a_problem_of_ours(status, kind):
    with pytest.raises(Problem, match=kind):
        passed_on(status, b'{"errors": {"class": "X", "invalid_data": "y"}}')


def test_a_documented_refusal_travels_as_it_is():
    text = b'{"errors": {"name": ["has already been taken"]}, "status": "Applied"}'
    assert passed_on(403, text) == text
    singular = b'{"error": {"ivr_tree": {"children": []}}}'
    assert passed_on(403, singular) == singular


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b'{"errors": []}', b"{" * 100_000, b'{"message": "x"}']
)
def test_an_undocumented_refusal_keeps_its_status_and_loses_its_words(text):
    with pytest.raises(Problem) as raised:
        passed_on(404, text)
    assert (raised.value.kind, raised.value.status) == ("upstream-refused", 404)


def test_a_failure_of_the_vendors_carries_the_handle_its_support_asks_for():
    with pytest.raises(Problem) as raised:
        passed_on(
            500, b'{"errors": {"class": "InternalServiceError", "invalid_data": "error handle 1228118400"}}'
        )
    assert raised.value.members["handle"] == "1228118400"


DOCUMENTED = [
    {"errors": {"class": "RecordNotFound", "invalid_data": "Could not find RingPool 123"}},
    {"errors": {"pool_type": ["can't be blank"], "name": ["can't be blank"]}},
    {"errors": {"users": [{"email_settings": [{"email_address": ["is invalid"]}]}, {}]}},
    {"errors": {"status": ["cannot transition from 'Approved'"]}, "status": "Applied"},
    {"error": {"ivr_tree": {"children": [{"0": {"prompt": ["cannot be empty"]}}]}}},
]


@pytest.mark.parametrize("document", DOCUMENTED)
def test_each_documented_shape_passes(document):
    assert documented(json.dumps(document).encode()) == document


@pytest.mark.parametrize(
    "document",
    [
        {"errors": {"class": "RecordInvalid", "invalid_data": {"customer": "x"}}},
        {"errors": {"class": "no class", "invalid_data": "x"}},
        {"errors": {"class": "X", "invalid_data": "x", "trace": ["x"]}, "debug": {}},
        {"errors": {"name": "x"}},
        {"errors": {"name": [1]}},
        {"errors": {"name": ["x"]}, "status": {"a": "b"}},
        {"errors": {"name": ["x"]}, "record": {"users": []}},
        {"errors": {"name": ["x"]}, "error": {}},
        {"errors": {"api_key": ["S3CR3T is taken"]}},
        {"errors": {"users": [{"OAuth-Refresh-Token": ["S3CR3T"]}]}},
        {"error": "x"},
        {"errors": {"name": ["x" * 3_000]}},
    ],
)
def test_anything_beside_a_documented_shape_does_not_pass(document):
    assert documented(json.dumps(document).encode()) is None


def test_what_two_readers_could_read_differently_does_not_pass():
    fine = b'{"errors": {"name": ["x"]}}'
    assert documented(fine)
    for text in (
        fine.decode().encode("utf-16"),
        b"\xef\xbb\xbf" + fine,
        b'{"errors": {"name": ["x"], "name": ["y"]}}',
        b'{"errors": {"name": ["x"]}, "errors": {}}',
        fine[:-1],
        fine + b"{}",
        b'{"errors": {"name": [NaN]}}',
    ):
        assert documented(text) is None


def test_neither_depth_nor_length_is_without_a_bound():
    deep = [["x"]]
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert documented(json.dumps({"errors": {"name": deep}}).encode()) is None
    long = json.dumps({"errors": {"name": ["x" * 1_000] * 70}}).encode()
    assert len(long) > MAX_BYTES
    assert documented(long) is None
    assert documented(b'{"errors":{"a":' + b"[" * 60_000 + b"]" * 100) is None
