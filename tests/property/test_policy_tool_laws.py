"""What the policy tools read was written by anybody: they take it as it is meant, or name it, and never fall over."""

from __future__ import annotations

import gzip
import io
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.compile import compile
from gateway.load import load_catalogue
from gateway.policy import PolicySet
from gateway.policycli import _with_names
from gateway.policyfile import anatomy, split
from gateway.replay import Past, Replay, Unusable, lines, parse, replay_as_dict, replay_text

CATALOGUE = load_catalogue()
OPERATIONS = {(operation.id, operation.effect): operation for operation in CATALOGUE.variants()}
TABLE = compile(PolicySet.load(operations=CATALOGUE.variants()), CATALOGUE.variants())
GOOD = {
    "v": 1, "time": "2027-01-15T08:00:00.250+00:00", "event": "exchange", "request_id": "r-1", "surface": "proxy",
    "client": "192.0.2.1", "token_id": "tok_1", "owner": "usr_1", "account": "network:33", "network": "33",
    "role": "member", "administrator": False, "scopes": "network:read", "operation": "advertisers_list",
    "effect": "read", "relation": "own", "decision": "allow", "policies": ["network-integration-read"],
    "duration_ms": 250.0,
}  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
spoilt = st.dictionaries(st.sampled_from(sorted(GOOD)), anything, max_size=3).map(
    lambda changes: json.dumps(GOOD | changes).encode()
)
anyone = st.binary(max_size=300) | st.text().map(str.encode) | spoilt


@given(anyone)
def test_a_line_is_a_decision_or_nothing_or_refused(text):
    try:
        found = parse(text, OPERATIONS)
    except Unusable as why:
        found = str(why)
    assert found is None or isinstance(found, Past) or found.isprintable()


@settings(deadline=None)
@given(st.lists(anyone, max_size=8), st.booleans())
def test_every_line_is_counted_once_and_what_is_printed_can_be_printed(texts, packed):
    texts = [text.replace(b"\n", b" ") for text in texts]
    data = b"".join(text + b"\n" for text in texts)
    done = Replay()
    done.read(
        io.BytesIO(gzip.compress(data) if packed else b" " + data if data else data), "f", TABLE, OPERATIONS
    )
    assert done.judged + done.undecided + done.unusable_lines == len(texts)
    assert all(part.isprintable() for part in replay_text(done, full=True).split("\n"))
    json.dumps(replay_as_dict(done), allow_nan=False)


@given(st.binary(max_size=500))
def test_lines_put_together_are_the_file(data):
    if data[:2] != b"\x1f\x8b":
        assert b"".join(lines(io.BytesIO(data))) == data
    packed = gzip.compress(data)
    assert b"".join(lines(io.BytesIO(packed))) == data


PIECES = st.lists(
    st.sampled_from(
        [
            "permit (principal, action, resource);",
            '@id("a") permit (principal, action, resource);',
            '@source("s") @reason("r")\nforbid (principal, action, resource) when { true };',
            '// a comment; with "signs"\npermit (principal, action, resource);',
            "\n\n",
            "permit (principal",
        ]
    ),
    max_size=6,
)


@given(PIECES)
def test_names_are_added_where_they_lack_and_nothing_else_moves(pieces):
    text = "\n".join(pieces)
    named = _with_names(text, "a file")
    before, after = split(text), split(named)
    assert [piece.line for piece in after] == [piece.line for piece in before]
    for was, now in zip(before, after, strict=True):
        texts = [token.text for token in now.tokens]
        assert all(texts.count(name) >= 1 for name in ("id", "source", "reason"))
        assert texts[-len(was.tokens) :] == [token.text for token in was.tokens]
    assert _with_names(named, "a file") == named


PARTS = st.sampled_from(
    [
        'principal.role == "member"',
        "true",
        "!(true && false)",
        '["a", "b"].contains("c; d")',
        "(1 < 2 || false)",
    ]
)
CLAUSES = st.lists(
    st.tuples(st.sampled_from(["when", "unless"]), st.lists(PARTS, min_size=1, max_size=3)), max_size=3
)


@given(CLAUSES, st.sampled_from(["permit", "forbid"]))
def test_a_policy_taken_apart_and_put_together_is_taken_apart_the_same_way(clauses, effect):
    body = "".join(
        f" {word} {{ {(' && ' if word == 'when' else ' || ').join(parts)} }}" for word, parts in clauses
    )
    (piece,) = split(f'// first\n@id("x")\n{effect} (principal, action, resource){body};')
    made = anatomy(piece)
    assert [(clause.word, list(clause.parts)) for clause in made.clauses] == clauses
    (again,) = split(made.text())
    assert anatomy(again) == made
