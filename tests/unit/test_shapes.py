"""Shapes that were met before: when they are learned, what they are not good for, and how many are kept."""

from __future__ import annotations

import pytest

from gateway.columns.records import LEARNED_AFTER
from gateway.fields import Hosts, Look
from gateway.filter import Unfilterable
from gateway.reading import LESSONS, MAX_DEPTH
from gateway.rules import Rules
from gateway.shapes import DEEPEST, KEPT
from gateway.strip import Strip

HOSTS = Hosts("https://cedar.invoca.net", "https://gateway.example.com")
ROW = b'{"id": %d, "api_key": "x", "a": %b, "object_url": "https://x.example.com/", "in": {"b": [%b, {}]}}'
SHOWN = b'{"id": %d, "a": %b, "in": {"b": [%b, {}]}}'


@pytest.fixture
def rules() -> Rules:
    return Rules(HOSTS, Look(HOSTS.names, personal=True), personal=True)


def through(rules: Rules, body: bytes) -> bytes:
    opened = Strip(rules)
    return opened.feed(body) + opened.close()


def rows(text: bytes, *values: bytes) -> bytes:
    return b"[" + b", ".join(text % (n, value, value) for n, value in enumerate(values)) + b"]"


def known(rules: Rules, among_users: bool = False) -> int:
    return len(rules.shapes.at(b'"id": 1', 0, among_users))


def test_a_shape_is_learned_once_it_was_met_often_enough(rules):
    through(rules, rows(ROW, *[b"1"] * (LEARNED_AFTER - 1)))
    assert not known(rules)
    through(rules, rows(ROW, b"1"))
    assert known(rules) == 1


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (b'"y"', b'"y"'),
        (b"null", b"null"),
        (b"-1.50e3", b"-1.50e3"),
        (b'"\\u00e9\\/"', b'"\\u00e9\\/"'),
        (b'"//cedar.invoca.net/home"', b"null"),
        (b'"https://cedar.invoca.net/api/a"', b'"https://gateway.example.com/api/a"'),
        (b'{"token": "S3CR3T"}', b"{}"),
        (b'[{"email": "S3CR3T"}]', b"[{}]"),
    ],
)
def test_a_learned_shape_shows_what_reading_shows_whatever_the_values_are(rules, value, becomes):
    plain = [b"1"] * 20
    expected = rows(SHOWN, *plain, becomes, *plain)
    assert through(rules, rows(ROW, *plain, value, *plain)) == expected
    assert known(rules) == 1
    assert through(rules, rows(ROW, *plain, value, *plain)) == expected


@pytest.mark.parametrize("value", [b"01", b"nul", b'"\x01"', b'"\xff"', b'"\\x"', b"1 2", b"", b"[1"])
def test_a_learned_shape_takes_no_value_that_reading_does_not(rules, value):
    through(rules, rows(ROW, *[b"1"] * 20))
    with pytest.raises(Unfilterable):
        through(rules, rows(ROW, value))


URL = b'"https://x.example.com/"'


@pytest.mark.parametrize("learned", [URL, b"null"])
@pytest.mark.parametrize(
    "url",
    [
        b'"relative"',
        b"null",
        b'["https://x.example.com/S3CR3T"]',
        b'"//S3CR3T.org"',
        b'"https://x.org/S3CR3T"',
    ],
)
def test_a_link_is_judged_by_its_value_each_time(rules, learned, url):
    through(rules, rows(ROW.replace(URL, learned), *[b"1"] * 20))
    assert known(rules) == 1
    shown = through(rules, rows(ROW.replace(URL, url), b"1"))
    assert (url in shown) is (b"S3CR3T" not in url)
    assert b"S3CR3T" not in shown


@pytest.mark.parametrize("text", [b'{"id": %d, "a": %b, "api_key": 1}', b'{"id": %d, "api_key": 1, "a": %b}'])
def test_what_once_stood_harmless_in_a_value_excuses_nothing(rules, text):
    body = b", ".join(text % (n, b'"a token"') for n in range(20))
    through(rules, b"[" + body + b"]")
    assert b"S3CR3T" not in through(rules, text % (1, b'"https://cedar.invoca.net/S3CR3T"'))


def test_what_is_true_of_a_user_is_learned_of_users_alone(rules):
    text = b'{"id": 1, "name": "S3CR3T"}'
    users, others = [b'{"%b": [%b]}' % (name, b", ".join([text] * 20)) for name in (b"users", b"token_")]
    others = others.replace(b"token_", b"sites")
    for _ in range(3):
        assert b"S3CR3T" not in through(rules, users)
        assert through(rules, b'[{"token": 1}, ' + others + b"]") == b"[{}, " + others + b"]"
    assert (known(rules), known(rules, among_users=True)) == (1, 1)


def test_a_learned_shape_goes_no_deeper_than_reading(rules):
    through(rules, rows(ROW, *[b"1"] * 20))
    level = MAX_DEPTH - 4  # a row opens four
    for deep, fits in ((level, True), (level + 1, False)):
        body = b"[" * deep + ROW % (1, b"1", b"1") + b"]" * deep
        if fits:
            through(rules, body)
        else:
            with pytest.raises(Unfilterable):
                through(rules, body)


def test_what_is_remembered_has_a_bound(rules, monkeypatch):
    monkeypatch.setattr("gateway.columns.records.LEARNED_AFTER", 1)
    for n in range(2 * KEPT):
        through(rules, b'{"id%d": 1, "token": 2, "deep": %b}' % (n, b"[" * DEEPEST + b"]" * DEEPEST))
        through(rules, b'{"id%d": 1, "token": 2}' % n)
    shapes = rules.shapes
    assert len(shapes._plans._plans) == KEPT
    assert len(shapes._beginning) <= KEPT


def test_what_is_never_met_again_is_not_learned_from_for_ever(rules, monkeypatch):
    lessons = []
    monkeypatch.setattr(type(rules.shapes), "learn", lambda *_: lessons.append(1))
    through(rules, b'[{"token": 1}, ' + b", ".join(b'{"a%d": 1}' % n for n in range(3 * LESSONS)) + b"]")
    assert len(lessons) == LESSONS


def test_where_an_object_began_in_one_piece_none_begins_in_the_next(rules):
    text = b'"id": 1, "api_key": 1}'
    through(rules, b"[{" + b", {".join([text] * 20) + b"]")
    opened, first = Strip(rules), b'[{"token": 1}, {'.rjust(40)
    second = b'"in": "//cedar.invoca.net/"'.ljust(len(first) - 1) + b"," + text + b"]"
    assert opened.feed(first) + opened.feed(second) + opened.close() == b'[{}, {"in": null,"id": 1}]'


@pytest.mark.parametrize("hidden", [b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"'])
def test_what_is_left_out_has_to_be_text_as_well(rules, hidden):
    row = b'{"id": 1, "api_key": [%b], "a": 1}'
    plain = b", ".join([row % b'"x"'] * 20)
    through(rules, b"[" + plain + b"]")
    assert known(rules) == 1
    assert through(rules, b"[" + row % '"é"'.encode() + b"]") == b'[{"id": 1, "a": 1}]'
    with pytest.raises(Unfilterable):
        through(rules, b"[" + row % hidden + b"]")
