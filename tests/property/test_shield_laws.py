"""What a Network Integration reply holds, whatever it is: nothing that is withheld comes out, and all else does."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import replacing
from gateway.columns import records
from gateway.fields import Hosts, Look, field_class, holds_users, is_address, of_a_user
from gateway.filter import Unfilterable
from gateway.reading import Reading
from gateway.refusals import documented
from gateway.rules import Rules, Tally
from gateway.shapes import Shapes, _tokens
from gateway.strip import Strip

HOSTS = Hosts("https://cedar.invoca.net", "https://gateway.example.com")
RULES = {
    (personal, users): Rules(HOSTS, Look(HOSTS.names, personal, users), personal, users)
    for personal in (False, True)
    for users in (False, True)
}
MARK = "S3CR3T"
"""Every value that may not pass has this in it, and nothing else does."""

Pairs = list[tuple[str, Any]]


class Object(list):  # type: ignore[type-arg]
    """An object as its members in order, so that a name may stand in it twice."""


# -- documents

SECRET = [
    "api_key",
    "apikey",
    "API-Key",
    "api__key",
    "api_-key",
    "oauth_refresh_token",
    "OAuthRefreshToken",
    "x_token",
]
PII = [
    "first_name",
    "FirstName",
    "last-name",
    "last__name",
    "email",
    "email_settings",
    "contact_phone_number",
    "author",
]
LINK = ["object_url", "prompt-url", "recording", "recording_download_url"]
OF_USERS = ["name", "phone", "mobile_phone"]
USERS = ["users", "User"]
PLAIN = [
    "id",
    "",
    "status",
    "a_p_i",
    "apix_key",
    "pass",
    "urls",
    "objecturi",
    "\u00e9",
    "k\u20ac\U0001f600y",
    'q"\\/',
    "role",
]
names = st.sampled_from(SECRET + PII + LINK + OF_USERS + USERS + PLAIN)
numbers = st.sampled_from(["0", "-1", "1.10", "1e5", "12345678901234567890", "-0.0E+2"])
texts = st.one_of(
    st.text(st.sampled_from('ab"\\/{}[]:, \u00e9\u20ac\U0001f600\n'), max_size=8),
    st.sampled_from(
        [
            "see api_key", "token", "users", "a@b", "https://example.com/x", "//x", "C:\\token", '"api_key":"x"',
            "https://cedar.invoca.net.example.com/", "https://gateway.example.com/api/2022-08-01/33.json",
        ]
    ),
)  # fmt: skip
ledgers = st.sampled_from(
    [
        (f"https://cedar.invoca.net/recordings/{MARK}.wav", None),
        (f"//x.INVOCA.net?{MARK}", None),
        (f"https://ringrevenue.com/api/x?oauth_token={MARK}", None),
        (
            "https://cedar.invoca.net/api/2022-08-01/33.json",
            "https://gateway.example.com/api/2022-08-01/33.json",
        ),
        ("http:\\\\cedar.invoca.net/api/a?b=c", "https://gateway.example.com/api/a?b=c"),
    ]
)


class Raw(str):
    """The text of a number, or of a literal."""


class Led(str):
    """An address at the vendor's, with where it leads instead."""

    to: str | None


def led(pair: tuple[str, str | None]) -> Led:
    made = Led(pair[0])
    made.to = pair[1]
    return made


scalars = st.one_of(
    st.builds(Raw, st.one_of(numbers, st.sampled_from(["true", "false", "null"]))), texts, ledgers.map(led)
)
values = st.recursive(
    scalars,
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.lists(st.tuples(names, below), max_size=4).map(Object)
    ),
    max_leaves=12,
)
documents = st.one_of(
    st.lists(values, max_size=3), st.lists(st.tuples(names, values), max_size=5).map(Object)
)


def marked(value: Any) -> Any:
    """A value that may not pass, so that every scalar in it would be found again."""
    if isinstance(value, Object):
        return Object((name, marked(each)) for name, each in value)
    if isinstance(value, list):
        return [marked(each) for each in value]
    return MARK


def withheld(name: str, value: Any, personal: bool, in_users: bool) -> bool:
    cls = field_class(name)
    if cls == "link":
        return isinstance(value, list) or (not isinstance(value, Raw) and is_address(value))
    if cls == "pii":
        return personal
    return cls == "secret" or (personal and in_users and of_a_user(name))


def prepared(value: Any, personal: bool, in_users: bool) -> Any:
    """The document with marks wherever nothing may pass: what the hostile upstream sends."""
    if isinstance(value, Object):
        made = Object()
        for name, each in value:
            gone = withheld(name, each, personal, in_users)
            if gone and field_class(name) == "link" and isinstance(each, str):
                each = each if isinstance(each, Led) else f"https://storage.example.com/{MARK}"
            elif gone:
                each = marked(each)
            else:
                each = prepared(each, personal, in_users or (personal and holds_users(name)))
            made.append((name, each))
        return made
    if isinstance(value, list):
        return [prepared(each, personal, in_users) for each in value]
    return value


def expected(value: Any, personal: bool, in_users: bool) -> Any:
    """What may pass of a document: objects as lists of pairs, numbers as their text."""
    if isinstance(value, Object):
        made = []
        for name, each in value:
            gone = withheld(name, each, personal, in_users)
            if gone and field_class(name) == "link" and isinstance(each, Led) and each.to is not None:
                made.append((name, each.to))
            elif not gone:
                made.append((name, expected(each, personal, in_users or (personal and holds_users(name)))))
        return ("object", made)
    if isinstance(value, list):
        return [expected(each, personal, in_users) for each in value]
    if isinstance(value, Led):
        return value.to
    if isinstance(value, Raw):
        return {"true": True, "false": False, "null": None}.get(value, ("number", str(value)))
    return value


def read(text: bytes) -> Any:
    return json.loads(
        text.decode(),
        object_pairs_hook=lambda pairs: ("object", pairs),
        parse_int=lambda n: ("number", n),
        parse_float=lambda n: ("number", n),
    )


def written(draw: Any, value: Any, spans: list[tuple[int, int]], out: bytearray) -> None:
    """JSON with white space and escapes wherever they may stand. `spans`: where names stand that decide something."""
    space = lambda: draw(st.sampled_from([b"", b"", b"", b" ", b"\n", b"\t \r"]))  # noqa: E731
    out += space()
    if isinstance(value, Object):
        out += b"{"
        for number, (name, each) in enumerate(value):
            out += b"," * (number > 0) + space()
            begins = len(out)
            out += string(draw, name)
            if field_class(name) or of_a_user(name) or holds_users(name):
                spans.append((begins, len(out)))
            out += space() + b":"
            written(draw, each, spans, out)
        out += space() + b"}"
    elif isinstance(value, list):
        out += b"["
        for number, each in enumerate(value):
            out += b"," * (number > 0)
            written(draw, each, spans, out)
        out += space() + b"]"
    elif isinstance(value, Raw):
        out += value.encode()
    else:
        begins = len(out)
        out += string(draw, str(value))
        if MARK in value:
            spans.append((begins, len(out)))
    out += space()


def string(draw: Any, text: str) -> bytes:
    how = draw(st.sampled_from(["plain", "ascii", "escaped"]))
    if how == "plain":
        return json.dumps(text, ensure_ascii=False).encode()
    if how == "ascii":
        return json.dumps(text).replace("/", "\\/").encode()
    units = text.encode("utf-16-be")
    place = draw(st.integers(0, 3))
    made = []
    for at in range(0, len(units), 2):
        code = int.from_bytes(units[at : at + 2])
        plain = 0x20 <= code < 0x7F and chr(code) not in '"\\' and at // 2 % 4 != place
        made.append(chr(code) if plain else f"\\u{code:04{draw(st.sampled_from('xX'))}}")
    return ('"' + "".join(made) + '"').encode()


@st.composite
def replies(draw: Any) -> tuple[bytes, Any, Rules, list[tuple[int, int]]]:
    """What a hostile upstream sends, what may pass of it, to whom, and where something decisive stands."""
    personal, users = draw(st.booleans()), draw(st.booleans())
    document = prepared(draw(documents), personal, users and personal)
    out: bytearray = bytearray()
    spans: list[tuple[int, int]] = []
    written(draw, document, spans, out)
    return bytes(out), expected(document, personal, users and personal), RULES[personal, users], spans


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(places)]


def through(rules: Rules, parts: list[bytes]) -> tuple[bytes, bool]:
    """What comes out, and whether it came to its end."""
    opened, out = Strip(rules), b""
    try:
        for part in parts:
            out += opened.feed(part)
        return out + opened.close(), True
    except Unfilterable:
        return out, False


# -- the laws


@given(replies(), st.lists(st.integers(0, 2_000), max_size=6))
@settings(max_examples=400, deadline=None)
def test_what_may_pass_passes_and_nothing_else_does_however_it_is_cut(reply, cuts):
    body, visible, rules, _ = reply
    out, whole = through(rules, pieces(body, cuts))
    assert whole
    assert MARK.encode() not in out
    assert read(out) == visible


@given(replies())
@settings(max_examples=100, deadline=None)
def test_every_byte_may_be_a_read_of_its_own(reply):
    body, visible, rules, _ = reply
    out, whole = through(rules, [body[at : at + 1] for at in range(len(body))])
    assert whole
    assert MARK.encode() not in out
    assert read(out) == visible


@given(replies(), st.integers(1, 400))
@settings(max_examples=150, deadline=None)
def test_what_nothing_is_withheld_from_is_not_touched(reply, size):
    body, _, rules, _ = reply
    if rules.look.first(body) >= 0:
        return
    assert through(rules, [body[at : at + size] for at in range(0, len(body), size)]) == (body, True)


@given(replies())
@settings(max_examples=400, deadline=None)
def test_the_quick_look_is_never_wrong_about_what_is_clean(reply):
    body, visible, rules, _ = reply
    if not rules.look.clean(body):
        return
    tally = Tally()
    reading = Reading(rules, tally)
    exact = reading.feed(body) + reading.close()
    assert not tally.withheld
    assert read(exact) == read(body) == visible


JOINTS = st.text(st.sampled_from("_-"), max_size=4)


@st.composite
def spelled(draw: Any) -> str:
    words = draw(
        st.sampled_from(
            [("api", "key"), ("first", "name"), ("last", "name"), ("contact", "phone"), ("object", "url"),
             ("prompt", "url"), ("oauth", "refresh", "token"), ("recording",), ("users",), ("author",), ("email",)]
        )
    )  # fmt: skip
    text = draw(JOINTS) + draw(JOINTS).join(words) + draw(JOINTS)
    return "".join(c.upper() if draw(st.booleans()) else c for c in text)


@given(spelled())
@settings(max_examples=400, deadline=None)
def test_every_spelling_of_a_name_is_seen_by_the_quick_look(name):
    assert field_class(name) or holds_users(name)
    assert RULES[True, False].look.first(json.dumps(name).encode()) >= 0


@given(replies(), st.lists(st.integers(0, 2_000), max_size=4))
@settings(max_examples=100, deadline=None)
def test_of_a_reply_that_ends_anywhere_nothing_passes_that_would_not(reply, cuts):
    body, _, rules, _ = reply
    for end in range(len(body)):
        assert MARK.encode() not in through(rules, pieces(body[:end], cuts))[0]


@given(replies(), st.lists(st.integers(0, 2_000), max_size=4), st.data())
@settings(max_examples=300, deadline=None)
def test_of_a_reply_with_a_wrong_byte_nothing_passes_that_would_not(reply, cuts, data):
    body, _, rules, spans = reply
    places = [at for at in range(len(body)) if not any(begin <= at < end for begin, end in spans)]
    at = data.draw(st.sampled_from(places))
    wrong = data.draw(
        st.sampled_from([b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"x", b"\0", b"\xc1"])
    )
    instead = data.draw(st.booleans())
    out, _ = through(rules, pieces(body[:at] + wrong + body[at + instead :], cuts))
    assert MARK.encode() not in out


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
@example(b'{"api_key', [1])
@example(b'"' + b"\\" * 40 + b'api_key":1', [3, 9])
@settings(max_examples=300, deadline=None)
def test_anything_comes_to_an_end(body, cuts):
    through(RULES[True, False], pieces(b'{"token":' + body, cuts))
    through(RULES[True, False], pieces(body, cuts))


# -- shapes that were learned

OTHERS = [
    b"1.10",
    b"null",
    b"true",
    b'""',
    b'"x"',
    b'"\xc3\xa9"',
    b'"\xff"',
    b'"a\tb"',
    b"01",
    b'"api_key"',
    b'"\\u0061"',
    b'"//x.example.com/"',
    b'"https://storage.example.com/S3CR3T"',
    b'"https:\\/\\/storage.example.com\\/S3CR3T"',
    b'"https://cedar.invoca.net/S3CR3T"',
    b'"https://cedar.invoca.net/api/2022-08-01/33.json"',
    b"{}",
    b'["S3CR3T"]',
    b'{"api_key": "S3CR3T", "id": 1}',
]


class Unlearned(Shapes):
    """Every object is read."""

    def at(self, data, at, among_users):
        return ()


@given(replies(), st.lists(st.integers(0, 4_000), max_size=4), st.data())
@settings(max_examples=400, deadline=None)
def test_a_shape_that_was_learned_shows_what_reading_shows(reply, cuts, data):
    body, visible, rules, _ = reply
    other, end = b"", 0
    for token in _tokens(body):
        changes = token[3] is None and token[5] is None and data.draw(st.integers(0, 3)) == 0
        other += data.draw(st.sampled_from(OTHERS)) if changes else token[0]
        end = token.end()
    other += body[end:]
    both = pieces(b"[" + b",".join((body, body, other)) + b"]", cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "LEARNED_AFTER", 1)
        learned = through(replace(rules, shapes=Shapes()), both)
    assert learned == through(replace(rules, shapes=Unlearned()), both)
    if other == body:
        assert learned[1]
        assert read(learned[0]) == [visible] * 3


# -- refusals, and sets that are replaced

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
anything = st.recursive(
    leaves,
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.text(max_size=5), below, max_size=3)
    ),
    max_leaves=8,
)


def fields(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(each, dict | list) and fields(each) for each in value.values())
    return all(map(fields, value)) if isinstance(value, list) else isinstance(value, str)


@given(st.sampled_from([["errors"], ["error"], ["errors", "status"], ["errors", "x"]]), st.data())
@settings(max_examples=200)
def test_a_refusal_passes_exactly_in_a_documented_shape(names, data):
    document = {name: data.draw(anything) for name in names}
    if "status" in document and data.draw(st.booleans()):
        document["status"] = "Applied"
    shape = isinstance(document[names[0]], dict) and fields(document[names[0]])
    fits = shape and (len(names) == 1 or isinstance(document.get("status"), str))
    assert (documented(json.dumps(document).encode()) is not None) == fits


keys = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=5)


@given(keys, keys)
def test_who_is_removed_is_who_is_there_and_is_not_sent(there, sent):
    def members(keys: list[str]) -> list[dict[str, str]]:
        return [{"id_from_network": key} if key else {} for key in keys]

    present = replacing.stored(json.dumps({"users": members(there)}).encode(), ["users"])
    kept = replacing.replaced(["users"], {"users": members(sent)}, frozenset())
    gone = replacing.removals(present, kept).get("users", ())
    assert list(gone) == [key for key in there if not key or key not in sent]


def test_the_marks_would_be_seen():
    body = json.dumps({"api_keys": "x", "apx": MARK}).encode()
    assert MARK.encode() in through(RULES[True, True], [body])[0]
    with pytest.raises(Unfilterable):
        Strip(RULES[True, True]).feed(b"\0")
