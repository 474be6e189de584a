"""What a body may ask of `POST /gateway/can`, and that nothing else gets through or comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.problem import Problem
from gateway.selfservice import MAX_QUESTIONS, Question, read
from tests.property.test_judging_laws import attempt

ONE = {"method": "GET", "path": "/api/2022-08-01/33/advertisers.json"}


def test_one_request_is_one_question():
    assert read(ONE) == (Question("GET", ONE["path"]),)


def test_an_empty_body_is_not_no_body():
    assert read(ONE | {"body": []})[0].keys == ()
    assert read(ONE)[0].keys is None


def test_many_are_read_in_their_order():
    asked = [ONE, ONE | {"method": "PUT", "body": ["users", "name"]}]
    assert read({"requests": asked}) == (
        Question("GET", ONE["path"]),
        Question("PUT", ONE["path"], ("users", "name")),
    )


@pytest.mark.parametrize(
    ("document", "member"),
    [
        ({}, "method"),
        ({"method": "GET"}, "path"),
        ({"method": 1, "path": "/"}, "method"),
        ({"method": "GET", "path": None}, "path"),
        (ONE | {"body": None}, "body"),
        (ONE | {"body": {"users": []}}, "body"),
        (ONE | {"body": "users"}, "body"),
        (ONE | {"body": [1]}, "body"),
        (ONE | {"token": "x"}, "the body"),
        (ONE | {"requests": [ONE]}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": ONE}, "requests"),
        ({"requests": [ONE] * (MAX_QUESTIONS + 1)}, "requests"),
        ({"requests": [ONE, []]}, "requests.1"),
        ({"requests": [ONE, {"requests": [ONE]}]}, "requests.1"),
        ({"requests": [ONE, {"method": "GET"}]}, "requests.1.path"),
        ({"requests": [ONE | {"body": ""}]}, "requests.0.body"),
    ],
)
def test_what_is_no_question_is_refused_by_the_name_of_its_member(document, member):
    with pytest.raises(Problem) as caught:
        read(document)
    assert (caught.value.kind, caught.value.members["member"]) == ("invalid-input", member)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["method", "path", "body", "requests", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["method", "path", "body", "requests"]) | st.text(), values))
def test_any_document_is_read_whole_or_refused(document):
    questions, problem = attempt(read, document)
    if problem is not None:
        assert problem.kind == "invalid-input"
        return
    entries = document.get("requests", [document])
    assert [question.method for question in questions] == [entry["method"] for entry in entries]
    assert [question.path for question in questions] == [entry["path"] for entry in entries]
    assert [question.keys is None for question in questions] == ["body" not in entry for entry in entries]
