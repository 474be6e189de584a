"""The two wire forms of a refusal."""

from __future__ import annotations

import json
import re

import pytest

from gateway.problem import KINDS, Problem, to_oauth_json

# RFC 9110 section 11.6.1 with the attributes of RFC 6750 section 3, whose values need no escape.
ATTRIBUTE = (
    r'(?:realm|error|scope)="[\x21\x23-\x5b\x5d-\x7e ]*"|error_description="[\x20-\x21\x23-\x5b\x5d-\x7e]*"'
)
CHALLENGE = re.compile(rf"Bearer (?:{ATTRIBUTE})(?:, (?:{ATTRIBUTE}))*")


def document(problem, request_id=""):
    return json.loads(problem.to_problem_json(request_id)[2])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_whole_problem_document(kind):
    status, headers, body = Problem(kind, "Some words.").to_problem_json("abc")
    assert status == KINDS[kind].status
    assert dict(headers)["Content-Type"] == "application/problem+json"
    assert (dict(headers)["Gateway-Answer"], dict(headers)["Cache-Control"]) == (kind, "no-store")
    assert json.loads(body) == {
        "type": f"urn:invoca-gateway:problem:{kind}",
        "title": KINDS[kind].title,
        "status": status,
        "detail": "Some words.",
        "instance": "urn:invoca-gateway:request:abc",
        "errors": {"class": KINDS[kind].vendor, "invalid_data": "Some words."},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_status_a_title_and_a_class_that_say_what_they_are(kind):
    entry = KINDS[kind]
    assert 400 <= entry.status < 600
    assert entry.title == entry.title.strip()
    assert not entry.title.endswith(".")
    assert entry.bearer in (None, "invalid_request", "invalid_token", "insufficient_scope")
    assert (entry.bearer == "invalid_token") <= (entry.status == 401)
    assert re.fullmatch("[A-Z][A-Za-z]+", entry.vendor)
    assert re.fullmatch("[a-z]+(-[a-z]+)*", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_401_has_a_challenge_and_every_challenge_keeps_the_grammar(kind):
    problem = Problem(kind, 'Words with "quotes", a \\ and ünïcode\r\n.', scope="network:read")
    challenge = dict(problem.to_problem_json()[1]).get("WWW-Authenticate")
    assert (challenge is not None) == (KINDS[kind].bearer is not None or KINDS[kind].status == 401)
    assert challenge is not None or KINDS[kind].status != 401
    if challenge is not None:
        assert CHALLENGE.fullmatch(challenge)
        names = re.findall(r'(\w+)="', challenge)
        assert len(names) == len(set(names))


def test_no_error_code_is_given_when_no_credential_was_sent():
    assert Problem("no-credential", "Send one.").challenge() == 'Bearer realm="invoca-gateway"'


def test_a_missing_scope_is_named_in_the_challenge():
    assert Problem("insufficient-scope", "More.", scope="network:read").challenge() == (
        'Bearer realm="invoca-gateway", error="insufficient_scope", error_description="More.", scope="network:read"'
    )


def test_without_words_of_its_own_a_problem_says_its_title():
    assert document(Problem("denied"))["detail"] == KINDS["denied"].title
    assert "error_description" not in str(Problem("invalid-token").challenge())
    assert "instance" not in document(Problem("denied"))


def test_members_and_headers_travel_and_the_status_can_be_the_upstreams():
    problem = Problem("upstream-refused", status=422, headers=(("Allow", "GET"),), operation="network_read")
    status, headers, body = problem.to_problem_json()
    assert (status, ("Allow", "GET") in headers) == (422, True)
    assert (json.loads(body)["status"], json.loads(body)["operation"]) == (422, "network_read")


def test_an_unknown_kind_is_a_bug_at_once():
    with pytest.raises(KeyError):
        Problem("no-such-kind")


@pytest.mark.parametrize("text", ["ü", "\ud800", "\x00\r\n", '"\\', "🙂"])
def test_any_text_at_all_becomes_bytes(text):
    problem = Problem("invalid-token", text, member=text)
    _, headers, body = problem.to_problem_json()
    assert json.loads(body)["errors"]
    assert all(value.isprintable() and value.isascii() for _, value in headers)


def test_an_oauth_error_keeps_the_form_of_rfc_6749():
    status, headers, body = to_oauth_json(
        "invalid_request", 'A "quoted" wörd\\\n.', headers=(("Allow", "POST"),)
    )
    assert status == 400
    assert dict(headers) == {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "Pragma": "no-cache",
        "Gateway-Answer": "invalid-request",
        "Allow": "POST",
    }
    assert json.loads(body) == {
        "error": "invalid_request",
        "error_description": "A 'quoted' w'rd''.",
    }
