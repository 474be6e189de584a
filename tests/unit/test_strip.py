"""What the filter of Network Integration replies keeps back, gives up on, and how much memory it takes."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest

from gateway.fields import LONGEST_START, Hosts, Look
from gateway.filter import GATHERED, Unfilterable
from gateway.reading import MAX_TOKEN
from gateway.rules import Rules
from gateway.strip import Strip

HOSTS = Hosts("https://cedar.invoca.net", "https://gateway.example.com")
RULES = Rules(HOSTS, Look(HOSTS.names, personal=True), personal=True)
ROW = b'{"id": 1, "name": "x"}, '


def through(*parts: bytes) -> tuple[bytes, dict[str, int]]:
    opened = Strip(RULES)
    out = b"".join(map(opened.feed, parts)) + opened.close()
    return out, opened.tally.withheld


def test_numbers_escapes_order_and_white_space_are_kept():
    body = b'{ "z":1.10 ,"a" : "\\u00e9\\/" , "token":[{"x":1}], "b":1e5,"z":null }'
    assert through(body) == (b'{ "z":1.10 ,"a" : "\\u00e9\\/" , "b":1e5,"z":null }', {"secret": 1})


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"token": 1}', b"{}"),
        (b'{"token": 1, "a": 2}', b'{ "a": 2}'),
        (b'{"a": 2, "token": {"b": [1, {}]}}', b'{"a": 2}'),
        (b'[{"token": 1}, {"token": 2}]', b"[{}, {}]"),
        (b'[{"a": 1, "token": 1}, {}]', b'[{"a": 1}, {}]'),
        (b'[["https://cedar.invoca.net/x", 1]]', b"[[null, 1]]"),
        (b'{"page": "https:\\/\\/cedar.invoca.net\\/x"}', b'{"page": null}'),
        (
            b'{"object_url": "relative", "prompt_url": null}',
            b'{"object_url": "relative", "prompt_url": null}',
        ),
        (b'{"recording": ["https://x.example.com/"]}', b"{}"),
        (b'{"users": [{"name": 1, "x": {"phone": 2}}], "name": 3}', b'{"users": [{ "x": {}}], "name": 3}'),
    ],
)
def test_what_is_left_out_leaves_json_behind(body, shown):
    json.loads(shown)
    assert through(body)[0] == shown
    assert through(*(body[at : at + 1] for at in range(len(body))))[0] == shown


@pytest.mark.parametrize("cut", range(5))
def test_a_name_that_began_long_ago_cannot_be_taken_back(cut):
    opened = Strip(RULES)
    out = opened.feed(b"[" + ROW * 100 + b'{"' + b"x" * 2 * LONGEST_START + b"token"[:cut])
    out += opened.feed(b"token"[cut:] + b'"')
    with pytest.raises(Unfilterable):
        out += opened.feed(b': "S3CR3T"}]')
    assert b"S3CR3T" not in out


def test_neither_depth_nor_an_early_end_passes_for_a_document():
    through(b'{"token": ' + b"[" * 250 + b"]" * 250 + b"}")
    for body in (
        b'{"token": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"token": 1, "a": 2',
        b'{"token": 1, "a": [2}',
        b'{"token": 1, "a"',
        b'{"token": 1} x',
        b'"token"',
    ):
        with pytest.raises(Unfilterable):
            through(body)


def test_a_long_text_that_speaks_of_a_token_passes():
    body = b"[" + ROW * 100 + b'{"text": "' + b"x" * 2 * LONGEST_START + b'token \\" api_key", "b": 1}]'
    for size in (1, 100, 5_000):
        assert through(*(body[at : at + size] for at in range(0, len(body), size))) == (body, {})


@pytest.mark.parametrize("number", [1, 2, 7, 40, 3_000, 3_001])
@pytest.mark.parametrize("cut", [1, 2, 500])
def test_a_quote_behind_backslashes_is_told_from_one_that_is_none(number, cut):
    text = b"[" + ROW * 100 + b'{"text": "' + b"x" * 3_000 + b"\\" * number
    if number % 2:
        body = shown = text + b'" token", "b": 1}]'
    else:
        body, shown = text + b'", "token": "S3CR3T"}]', text + b'"}]'
    json.loads(body)
    at = len(text)
    parts = [body[: at - cut], body[at - cut : at], body[at : at + 1], body[at + 1 :]]
    assert through(*parts)[0] == shown


@pytest.mark.parametrize("filling", [b"x", b" "])
def test_what_has_no_end_is_given_up(filling):
    opened = Strip(RULES)
    opened.feed(b'{"token":' + b'"' * (filling == b"x"))
    for _ in range(MAX_TOKEN // 65_536):
        opened.feed(filling * 65_536)
    with pytest.raises(Unfilterable):
        opened.feed(filling * 65_536)


def test_a_suspicious_answer_is_kept_back_to_a_bound():
    opened = Strip(RULES)
    assert opened.feed(b'[{"token": 1}, ' + ROW * 100) == b""
    shown = b""
    while not shown:
        shown = opened.feed(ROW * 100)
    assert GATHERED < len(shown) < GATHERED + 5_000


def test_memory_does_not_grow_with_the_answer():
    piece = b'{"token": "x", "id": 1, "name": "a"}, ' * 1_000
    opened = Strip(RULES)
    opened.feed(b"[")
    for _ in range(5):
        opened.feed(piece)
    tracemalloc.start()
    for _ in range(100):
        opened.feed(piece)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 200_000
    assert peak < 2_000_000


def test_a_string_that_drips_costs_no_more_than_one_that_pours():
    opened = Strip(RULES)
    opened.feed(b'{"token": 1, "a": "')
    began = time.process_time()
    for _ in range(20_000):
        opened.feed(b'\\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx')
    assert time.process_time() - began < 5


@pytest.mark.parametrize("space", [b"", b" " * 3 * LONGEST_START])
@pytest.mark.parametrize(
    ("member", "shown"), [(b'"api_key": "S3CR3T"', {}), (b'"a": "//cedar.invoca.net/S3CR3T"', {"a": None})]
)
def test_a_border_between_long_pieces_hides_nothing(space, member, shown):
    before, middle, after = b"[" + ROW * 200 + b'{"id": 1,', space + member, b"}, " + ROW * 200 + b"{}]"
    body = before + middle + after
    rows = json.loads(before + b'"b": 2' + after)
    rows[200] = {"id": 1} | shown
    at = len(before)
    for cut in (*range(at - 2, at + 2), *range(at + len(space), at + len(middle) + 2)):
        assert json.loads(through(body[:cut], body[cut:])[0]) == rows
        if cut > at:
            assert json.loads(through(body[:at], body[at:cut], body[cut:])[0]) == rows
