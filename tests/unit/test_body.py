"""Request bodies: one JSON object that every parser reads alike passes as it is, all else is refused."""

from __future__ import annotations

import json

import pytest

from gateway.body import EMPTY, MAX_ACCOUNTS, MAX_DEPTH, Named, judge
from gateway.problem import Problem
from gateway.tokens import PREFIX


def refused(raw):
    with pytest.raises(Problem) as caught:
        judge(raw)
    return caught.value


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b' \t\r\n{"a" : [1, -0.5e3, true, false, null, "x"]}\n',
        b'{"a": {"a": {"a": 1}}}',
        b'{"a": 1, "A": 2, "a ": 3}',
        '{"naïve": "€ 🙂"}'.encode(),
        b'{"a": "\\ud83d\\ude42"}',
        b'{"token": "x", "format": "pdf", "method": "GET"}',
        b'{"a": 123456789012345678901234567890}',
    ],
)
def test_an_object_with_one_reading_passes_to_the_byte(raw):
    body = judge(raw)
    assert body.raw == raw
    assert body.document == json.loads(raw)


def test_every_key_at_any_depth_is_reported_once():
    assert judge(b'{"users": [{"name": 1}, {"name": 2}], "a": {"b": []}}').keys == {"users", "name", "a", "b"}


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"[]", b'"a"', b"1", b"null", b"true", b"[{}]", b"{", b'{"a"}', b'{"a": }', b'{"a": 1,}', b"{,}",
        b"{'a': 1}", b'{a: 1}', b'{"a": 1} {"b": 2}', b'{"a": 1}x', b'{"a": 1}\x00', b'// x\n{"a": 1}', b'{"a": NaN}',
        b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 01}', b'{"a": +1}', b'{"a": 1.}', b'{"a": .5}', b'{"a": 0x1}',
        b'{"a": "\n"}', b'{"a": "\x00"}', b'{"a": "\\x41"}', b'{"a": "\\u12"}', b'{"a": "\\ud800"}',
        b'{"\\udc00": 1}', b'{"a": ["\\udfff"]}', b'\xef\xbb\xbf{}', b'{"a": "\xff"}', b'{"a": "\xc0\xaf"}',
        b'{"a": "\xed\xa0\x80"}', '{"a": 1}'.encode("utf-16"), b'{"a": 1, "a": 2}', b'{"a": 1, "\\u0061": 1}',
        b'{"b": [{"a": {"c": 1, "c": 1}}]}', b'{"a": ' + b"9" * 5000 + b"}", b"\x1f\x8b\x08\x00", b'a({"b": 1})',
        b"grant_type=x", b'{"a": tru}', b'{"a"\xc2\xa0: 1}',
    ],
)  # fmt: skip
def test_what_is_not_one_plain_object_is_a_bad_body(raw):
    assert refused(raw).kind == "bad-body"


@pytest.mark.parametrize("opening", [b'{"a":', b"["])
def test_the_depth_is_bounded_however_deep_it_goes(opening):
    closing = b"}" if opening[:1] == b"{" else b"]"

    def nested(levels):
        return b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"

    assert judge(nested(MAX_DEPTH)).document
    for levels in (MAX_DEPTH + 1, 500, 100_000):
        assert refused(nested(levels)).kind == "bad-body"


def test_empty_containers_count_as_a_level():
    inside = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert judge(b'{"a":' + inside + b"}").document
    assert refused(b'{"a":[' + inside + b"]}").kind == "bad-body"


@pytest.mark.parametrize(
    "key",
    [
        "oauth_token", "access_token", "refresh_token", "oauth_refresh_token", "OAUTH_TOKEN", "oauthToken",
        "oauth-token", "oauth token", "oauth_token[]", "user[oauth_token]", "oauth%5Ftoken", "oauth%255Ftoken",
        "ｏａｕｔｈ＿ｔｏｋｅｎ", "acceſs_token", "o\u200bauth_token", " access_token ", "my_access_token",
    ],
)  # fmt: skip
def test_no_spelling_of_a_credential_key_passes_at_any_depth(key):
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    for name in (json.dumps(key), f'"{escaped}"'):
        for shape in (
            "{%s: 1}",
            '{"a": {%s: 1}}',
            '{"a": [[{"b": {%s: null}}]]}',
            '{"a": 1, "b": [1, {%s: []}]}',
        ):
            assert refused((shape % name).encode()).kind == "credential-in-body"


@pytest.mark.parametrize("key", ["_method", "_METHOD", "_method[]", "_format"])
def test_a_key_that_overrides_the_request_is_forbidden(key):
    assert refused(json.dumps({key: "DELETE"}).encode()).kind == "forbidden-parameter"


def test_what_looks_like_a_token_of_ours_is_reported_wherever_it_hides():
    text = PREFIX + "x" * 45
    for document in ({"a": f"see {text}"}, {text: 1}, {"a": [{"b": [text]}]}, {"a": {"b": {text: {}}}}):
        (suspect,) = judge(json.dumps(document).encode()).suspect
        assert text in suspect
    assert judge(b'{"a": "eyJhbGciOiJIUzI1NiJ9.e30.x"}').suspect == ()


def test_a_refusal_does_not_say_what_was_sent():
    for raw in (b'{"s3cret": 1, "s3cret": 2}', b'{"oauth_token": "s3cret"}', b'{"a": s3cret}', b"s3cret"):
        assert "s3cret" not in refused(raw).detail


def test_no_body_is_the_empty_document():
    assert (EMPTY.raw, EMPTY.document, EMPTY.keys, EMPTY.suspect) == (b"", {}, frozenset(), ())


def test_accounts_are_found_at_every_depth_and_are_not_without_number():
    named = judge(
        b'{"a": [{"Destination-Affiliate_ID": ["x", 5, null]}], "network_id": 33, "id": 1}'
    ).accounts
    assert named == {
        Named("affiliate", "x", False), Named("affiliate", "5", False), Named("network", "33", False),
    }  # fmt: skip
    (by_network,) = judge(b'{"destination_advertiser_id_from_network": "9"}').accounts
    assert by_network == Named("advertiser", "9", True)
    for text in (
        '{"advertiser_id": true}',
        '{"advertiser_id": [[1]]}',
        '{"advertiser_id": {}}',
        '{"advertiser_id": 1.5}',
    ):
        with pytest.raises(Problem, match="bad-body"):
            judge(text.encode())
    many = json.dumps({"advertiser_id": list(range(MAX_ACCOUNTS + 1))}).encode()
    with pytest.raises(Problem, match="bad-body"):
        judge(many)
