"""Laws of what the admin API reads: cookies byte for byte, and shapes that mean what their JSON Schema says."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.caller import own_origins, session_cookies
from gateway.admin.routes import ROUTES
from gateway.admin.shapes import Members
from gateway.problem import Problem

NAME = "invoca-gateway"
TEXT = st.text(alphabet="ABCxyz019-_", min_size=43, max_size=43)
PART = st.text(alphabet='ab=; ,"\t-_' + NAME, max_size=60)


@given(st.lists(PART, max_size=6), TEXT, st.integers(0, 6))
def test_a_session_is_found_among_whatever_other_cookies_come(others, text, place):
    others = [part for part in others if NAME not in part]
    pairs = [*others[:place], f"{NAME}={text}", *others[place:]]
    assert session_cookies(["; ".join(pairs)], NAME) == [text]
    assert session_cookies(pairs, NAME) == [text]


@given(st.lists(st.one_of(PART, TEXT.map(lambda text: f"{NAME}={text}")), max_size=8))
def test_what_is_found_is_of_a_sessions_form_and_stands_there_under_its_name(values):
    for found in session_cookies(values, NAME):
        assert re.fullmatch("[A-Za-z0-9_-]{43}", found)
        assert f"{NAME}={found}" in "; ".join(values)


@given(st.text(max_size=300))
def test_no_cookie_header_is_an_error(text):
    session_cookies([text, text], NAME)


@given(
    st.sampled_from(["http", "https"]),
    st.from_regex(r"[a-z][a-z0-9-]{0,10}\.example|127\.0\.0\.1|localhost|\[::1\]", fullmatch=True),
    st.integers(1, 65535),
)
def test_our_origins_are_the_configured_one_and_on_loopback_its_other_names(scheme, host, port):
    found = own_origins(f"{scheme}://{host}:{port}")
    written = "" if port == {"http": 80, "https": 443}[scheme] else f":{port}"  # as browsers write it
    assert f"{scheme}://{host}{written}" in found
    if scheme == "https" or host.endswith(".example"):
        assert len(found) == 1
    else:
        assert found == {f"http://{name}{written}" for name in ("localhost", "127.0.0.1", "[::1]")}


@pytest.mark.parametrize(
    ("origin", "own"), [("http://localhost:80", "http://127.0.0.1"), ("https://a.b:443", "https://a.b")]
)
def test_a_port_that_goes_without_saying_is_not_said(origin, own):
    assert own in own_origins(origin)


# --- shapes

REQUESTS = [(route.act, route.body) for route in ROUTES if route.body.members]
ANSWERS = [(route.act, route.answer) for route in ROUTES if route.answer is not None]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["network:33", "a@b.c", "super"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def named(value: Any) -> str:
    return value if isinstance(value, str) else ""


def passes(shape: Members, value: Any) -> bool:
    try:
        shape.check(value)
    except Problem:
        return False
    return True


def near(shape: Members) -> Any:
    """Objects of the shape's members, each with some value or other."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(shape.members, JSON)) | JSON


@pytest.mark.parametrize(
    ("act", "shape"), REQUESTS + ANSWERS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_shape_accepts_what_its_schema_accepts(act, shape):
    validator = jsonschema_rs.validator_for(shape.schema())

    @given(near(shape))
    def law(value: Any) -> None:
        if len(json.dumps(value)) < 5_000 and not shape.one_of:
            assert (shape.fault(value) is None) == validator.is_valid(value), value

    law()


@pytest.mark.parametrize(
    ("act", "shape"), REQUESTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_request_that_passes_is_one_its_schema_accepts_and_no_other_is(act, shape):
    validator = jsonschema_rs.validator_for(shape.schema())

    @given(near(shape).filter(lambda value: isinstance(value, dict)))
    def law(value: Any) -> None:
        assert passes(shape, value) == validator.is_valid(value)

    law()


def test_the_law_itself_would_notice():
    (new_user,) = [shape for act, shape in REQUESTS if act == "user.add"]
    validator = jsonschema_rs.validator_for(new_user.schema())
    assert validator.is_valid({"email": "a@b.c", "account": "network:33"})
    assert not validator.is_valid({"email": "a@b.c", "account": "planet:33"})
