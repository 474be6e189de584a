"""Laws of the column filters: no withheld value is in any byte, pieces do not matter, fast and strict are one.

Every value that must not pass holds the word SECRET, whatever else an upstream does to it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re

import pytest
from defusedxml import ElementTree
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.columns import CsvStyle, Unfilterable, load, open_filter, records
from gateway.columns import csv as csv_module
from gateway.columns import json as json_module
from gateway.columns import xml as xml_module
from gateway.sandbox import formats

CLASSES = load()
NOTHING, FINANCIAL, PII = (
    CLASSES.reveal(["public"]),
    CLASSES.reveal(["public", "financial"]),
    CLASSES.reveal(["public", "pii"]),
)
FORMS = ("json", "csv", "xml")
MODULES = {"json": json_module, "csv": csv_module, "xml": xml_module}

VISIBLE = ("transaction_id", "duration", "connect_duration", "media_type", "start_time_utc")
HIDDEN = ("calling_phone_number", "city", "notes", "sale_amount", "patient_email", "Duration", "duration ")
XML_HIDDEN = ("calling_phone_number", "city", "notes", "sale_amount", "patient_email", "Duration", "größe")
assert all(map(NOTHING.sees, VISIBLE))
assert not any(map(NOTHING.sees, (*HIDDEN, *XML_HIDDEN)))

plain_text = st.text(st.sampled_from('ab1 ,;|"\\/<>&\r\n\t\x7f{}[]:é☕\U0001f600'), max_size=8)
texts = plain_text.filter(lambda text: "SECRET" not in text)
secrets = st.builds("{}SECRET{}".format, plain_text, plain_text)
numbers = st.sampled_from(["0", "-0", "1.10", "1e5", "-2.50E-3", "12345678901234567890", "7" * 5000])
words = st.sampled_from(["null", "true", "false"])


def run(form, reveal, pieces, style=None):
    """(all that passed, whether it was refused, the tally)."""
    chosen = open_filter(form, reveal, style or CsvStyle(), count=True)
    out = []
    try:
        out += [chosen.feed(piece) for piece in pieces]
        out.append(chosen.close())
    except Unfilterable:
        return b"".join(out), True, chosen.tally
    return b"".join(out), False, chosen.tally


@contextlib.contextmanager
def learning_after(count):
    """The filters with nothing learned yet, learning a shape at its `count`-th record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "LEARNED_AFTER", count)
        for module in MODULES.values():
            patch.setattr(module, "_plans", records.Plans())
        yield


def cut(data, cuts):
    edges = [0, *sorted({place % (len(data) + 1) for place in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


cuts = st.lists(st.integers(0, 100_000), max_size=12)

# --- bodies: (bytes, what must come out, read by a reader that is not ours)


def json_string(draw, text):
    """One of the spellings of a JSON string."""
    form = draw(st.sampled_from(["plain", "ascii", "all"]))
    if form == "all":
        return '"' + "".join(f"\\u{unit:04X}" for unit in units(text)) + '"'
    return json.dumps(text, ensure_ascii=form == "ascii")


def units(text):
    data = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


spaces = st.sampled_from(["", "", " ", "\n", "\t \r\n"])


@st.composite
def json_rows(draw):
    """The text of one object, and its visible members as (name, text of the value)."""
    names = draw(st.permutations((*VISIBLE[:3], *HIDDEN[:4], "custom_data")))[: draw(st.integers(0, 8))]
    members, visible = [], {}
    for name in names:
        if name == "custom_data":
            value, shown = draw(custom_data())
        elif name in VISIBLE:
            kind = draw(
                st.sampled_from(["text", "text", "number", "number", "word", "word", "word", "nested"])
            )
            if kind == "nested":
                value, shown = json.dumps(draw(nests)), None
            else:
                text = {"text": texts.map(lambda t: json_string(draw, t)), "number": numbers, "word": words}[
                    kind
                ]
                value = shown = draw(text)
        else:
            nested = draw(st.integers(0, 9)) == 0
            value = json.dumps(draw(nests)) if nested else json_string(draw, draw(secrets))
            shown = None
        gap = draw(spaces)
        members.append(f"{json_string(draw, name)}{gap}:{gap}{value}{gap}")
        if shown is not None:
            visible[name] = shown
    return "{" + draw(spaces) + ("," + draw(spaces)).join(members) + "}", visible


nests = st.recursive(
    secrets.map(lambda text: [text]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(VISIBLE), inner, max_size=2),
    max_leaves=4,
).map(lambda value: {"duration": value, "SECRET": 1})


@st.composite
def custom_data(draw):
    """The text of a custom_data, and that of its visible entries; None when it may not pass at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(secrets.map(json.dumps) | nests.map(json.dumps)), None
    entries, shown = [], []
    for label, visible in draw(
        st.lists(st.tuples(st.sampled_from(["name", "partner_name", "label"]), st.booleans()), max_size=3)
    ):
        name = "media_type" if visible else "patient_email"
        extra = draw(st.booleans())
        value = draw(texts) if visible else draw(secrets)
        entry = {label: name, "data_type": "Signal", "value": value}
        entries.append(entry | ({"more": draw(secrets)} if extra else {}))
        if visible and label != "label":
            shown.append(entry)
    return json.dumps(entries), json.dumps(shown)


@st.composite
def json_bodies(draw):
    rows = draw(st.lists(json_rows(), max_size=4))
    many = draw(st.integers(1, 3))
    gap = draw(spaces)
    text = gap + "[" + f"{gap},{gap}".join([row for row, _ in rows] * many) + f"{gap}]{gap}"
    return text.encode(), [
        {name: exact(value) for name, value in visible.items()} for _, visible in rows
    ] * many


def exact(text):
    """A JSON value with its numbers as they are spelled."""
    return json.loads(text, parse_int="int {}".format, parse_float="float {}".format)


csv_visible = texts | st.none()
csv_hidden = secrets | st.none()


@st.composite
def csv_bodies(draw):
    names = draw(st.permutations((*VISIBLE[:3], *HIDDEN)))[: draw(st.integers(1, 9))]
    rows = draw(
        st.lists(st.tuples(*(csv_visible if name in VISIBLE else csv_hidden for name in names)), max_size=4)
    )
    rows *= draw(st.integers(1, 3))
    values = [dict(zip(names, row, strict=True)) for row in rows]
    shown = [name for name in names if name in VISIBLE]
    return csv_text(values, names).encode(), (values, shown)


def csv_text(values, names, style=None):
    return "".join(formats.csv_pieces(values, names, style or formats.CsvStyle())) if names else ""


xml_texts = texts.map(lambda text: text.replace("\x7f", ""))


def xml_value(draw, text):
    """One of the spellings of a text, and its attributes."""
    form = draw(st.sampled_from(["plain", "references", "cdata"]))
    if form == "references":
        return "".join(f"&#{ord(char)};" if i % 2 else f"&#x{ord(char):X};" for i, char in enumerate(text))
    if form == "cdata" and "\r" not in text:
        return f"a<![CDATA[{text}]]>b"
    return formats.xml_text(text)


@st.composite
def xml_rows(draw):
    names = draw(st.permutations((*VISIBLE[:3], *XML_HIDDEN[:4], "größe")))[: draw(st.integers(0, 8))]
    parts, visible = [], {}
    for name in names:
        gap = draw(spaces)
        kind = draw(st.sampled_from(["text"] * 12 + ["nil"] * 4 + ["attribute", "nested"]))
        if kind == "nil":
            parts.append(f'{gap}<{name} nil="true"/>')
            element = f"<{name}/>"
        elif kind == "attribute":
            parts.append(f"{gap}<{name} phone=\"SECRET\" type='integer'>1</{name}>")
            continue
        elif kind == "nested":
            parts.append(f"{gap}<{name}><duration>SECRET</duration> <city/></{name}{draw(spaces)}>")
            continue
        else:
            text = xml_value(draw, draw(xml_texts if name in VISIBLE else secrets))
            kind = draw(st.sampled_from(["", ' type="string"']))
            element = f"<{name}>{text}</{name}>"
            parts.append(f"{gap}<{name}{kind}>{text}</{name}{draw(spaces)}>")
        if name in VISIBLE:
            visible[name] = ElementTree.fromstring(element).text or ""
    return "<Transaction>" + "".join(parts) + draw(spaces) + "</Transaction>", visible


@st.composite
def xml_bodies(draw):
    rows = draw(st.lists(xml_rows(), max_size=4)) * draw(st.integers(1, 3))
    head = draw(st.sampled_from(["", '<?xml version="1.0" encoding="UTF-8"?>', '<?xml version="1.0"?>\n']))
    gap = draw(spaces)
    text = f"{head}<Transactions>{gap}" + gap.join(row for row, _ in rows) + f"{gap}</Transactions>{gap}"
    return text.encode(), [visible for _, visible in rows]


BODIES = {"json": json_bodies(), "csv": csv_bodies(), "xml": xml_bodies()}
any_body = st.sampled_from(FORMS).flatmap(lambda form: BODIES[form].map(lambda body: (form, body[0])))


def read_json(data):
    return json.loads(data, parse_int="int {}".format, parse_float="float {}".format)


def read_xml(data):
    return [{part.tag: part.text or "" for part in row} for row in ElementTree.fromstring(data)]


# --- laws


@settings(max_examples=300, deadline=None)
@given(body=json_bodies(), cuts=cuts, learned=st.sampled_from([1, 3, 100]))
def test_json_passes_the_visible_members_and_nothing_else(body, cuts, learned):
    data, expected = body
    with learning_after(learned):
        out, refused, tally = run("json", NOTHING, cut(data, cuts))
    assert not refused
    assert b"SECRET" not in out
    assert read_json(out) == expected
    assert [list(row) for row in read_json(out)] == [list(row) for row in expected]
    assert tally.rows == len(expected)


STYLES = st.builds(
    CsvStyle,
    st.sampled_from([",", ";", "\t", "||", "é", "a", "\n,"]),
    st.sampled_from(["\n", "\r\n", "~\n", "x"]),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(body=csv_bodies(), cuts=cuts, style=STYLES, learned=st.sampled_from([1, 3, 100]))
def test_csv_passes_the_visible_columns_in_the_form_that_was_asked_for(body, cuts, style, learned):
    data, (values, shown) = body
    with learning_after(learned):
        out, refused, tally = run("csv", NOTHING, cut(data, cuts), style)
    assert not refused
    assert b"SECRET" not in out
    theirs = formats.CsvStyle(
        style.column_separator, style.row_separator, style.include_header, style.force_quotes
    )
    assert out.decode() == csv_text(values, shown, theirs)
    assert tally.rows == len(values)


@settings(max_examples=300, deadline=None)
@given(body=xml_bodies(), cuts=cuts, learned=st.sampled_from([1, 3, 100]))
def test_xml_passes_the_visible_elements_and_nothing_else(body, cuts, learned):
    data, expected = body
    with learning_after(learned):
        out, refused, tally = run("xml", NOTHING, cut(data, cuts))
    assert not refused
    assert b"SECRET" not in out
    assert read_xml(out) == expected
    assert tally.rows == len(expected)


edits = st.lists(
    st.tuples(
        st.integers(0, 100_000),
        st.sampled_from(["put", "in", "out"]),
        st.sampled_from(b'"\\{}[],:<>/&;\n\r \x00\x1f\xff\xc3-.0e]!'),
    ),
    min_size=1,
    max_size=3,
)


def edited(data, changes):
    """The bytes with single ones replaced, added and left out."""
    data = bytearray(data)
    for place, act, byte in changes:
        at = place % (len(data) + 1)
        data[at : at + (act != "in")] = b"" if act == "out" else bytes([byte])
    return bytes(data)


@settings(max_examples=600, deadline=None)
@given(body=any_body, changes=edits, cuts=cuts)
def test_no_damage_brings_a_withheld_value_out_and_fast_and_strict_agree(body, changes, cuts):
    form, data = body
    data = edited(data, changes)
    with learning_after(10**9):
        strict, refused, tally = run(form, NOTHING, [data])
    for learned, pieces in ((1, [data]), (1, cut(data, cuts)), (10**9, cut(data, cuts))):
        with learning_after(learned):
            out, refused_too, tally_too = run(form, NOTHING, pieces)
        assert refused_too == refused
        if form != "csv" or len(changes) == 1:  # two can move a column, and the row looks like any other
            assert b"SECRET" not in out
        if not refused:
            assert (out, tally_too.rows, tally_too.withheld) == (strict, tally.rows, tally.withheld)


FLAT = {
    "json": b'{"city": "SECRET", "duration": 1.5, "media_type": "a\\n", "notes": null,"mobile":true,'
    b' "custom_data": []}',
    "csv": b'"SECRET",1.5,"a ""b""",,x\n',
    "xml": b"<Transaction><city>SECRET</city> <duration>1.5</duration><media_type>&amp;</media_type>"
    b'<notes nil="true"/>\n<custom_data><item><name>x</name><value>SECRET</value></item></custom_data>'
    b"</Transaction>",
}
AROUND = {
    "json": (b"[", b",", b"]"),
    "csv": (b"city,duration,media_type,notes,mobile\n", b"", b""),
    "xml": (b"<Transactions>", b"", b"</Transactions>"),
}
BYTES = b'"\\{}[],:<>/&;\n\r \x00\x1f\xff\xc3-.0e]!n'


@pytest.mark.parametrize("form", FORMS)
def test_whatever_byte_of_a_known_shape_is_damaged_fast_and_strict_agree(form):
    """Every byte of a record replaced, added and left out, by every byte that means something in the form."""
    head, between, tail = AROUND[form]
    row = FLAT[form]
    damaged = {
        row[:at] + byte + row[at + gone :]
        for at in range(len(row) + 1)
        for byte in (b"", *(BYTES[n : n + 1] for n in range(len(BYTES))))
        for gone in (0, 1)
    }
    with learning_after(1):
        run(form, NOTHING, [head + between.join([row] * 3) + tail])
        learned = MODULES[form]._plans
        for each in damaged:
            body = head + between.join([row, each]) + tail
            fast, refused, tally = run(form, NOTHING, [body])
            MODULES[form]._plans = records.Plans()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(records, "LEARNED_AFTER", 10**9)
                strict, refused_too, tally_too = run(form, NOTHING, [body])
            MODULES[form]._plans = learned
            assert (fast, refused, tally.withheld) == (strict, refused_too, tally_too.withheld), each
            assert b"SECRET" not in fast


@settings(max_examples=100, deadline=None)
@given(form=st.sampled_from(FORMS), data=st.binary(max_size=60), cuts=cuts)
@example(form="json", data=b"\xff\xfe[\x00]\x00", cuts=[])
@example(form="csv", data="duration\n1\n".encode("utf-16"), cuts=[])
@example(form="xml", data="<Transactions/>".encode("utf-16"), cuts=[])
@example(form="xml", data=b"<Transactions/>", cuts=[3])
@example(form="xml", data=b"<Transactions> no row", cuts=[])
def test_garbage_is_refused_and_never_more_than_refused(form, data, cuts):
    whole = run(form, NOTHING, [data])
    pieces = run(form, NOTHING, cut(data, cuts))
    assert whole[1] == pieces[1]
    if whole[0] and form == "xml":  # a document, perhaps begun; the shortest ones are empty
        assert re.fullmatch(rb"<\?xml [^<>]*>\n<Transactions[^<>]*>\n(?:</Transactions>\n)?", whole[0])


@settings(max_examples=60, deadline=None)
@given(body=any_body)
def test_a_body_that_is_cut_anywhere_is_refused_and_what_passed_is_a_beginning(body):
    form, data = body
    whole, refused, _ = run(form, NOTHING, [data])
    assert not refused
    end = len(data.rstrip(b" \t\r\n"))
    for place in range(0, len(data), 1 + len(data) // 1500):  # every one, but in a number of 5,000 digits
        out, refused, _ = run(form, NOTHING, [data[:place]])
        assert whole.startswith(out)
        # A CSV says nowhere how many lines it has: the end of a line is an end. The framing tells.
        assert refused or (form == "csv" and data[place - 1 : place] == b"\n") or place >= end


@settings(max_examples=40, deadline=None)
@given(
    body=any_body,
    reveal=st.sampled_from([NOTHING, FINANCIAL, PII, CLASSES.reveal(["public", "pii", "financial"])]),
)
def test_byte_by_byte_is_the_same_as_whole(body, reveal):
    form, data = body
    whole, refused, tally = run(form, reveal, [data])
    pieces = [data[at : at + 1] for at in range(len(data))]
    out, refused_too, tally_too = run(form, reveal, pieces)
    assert (out, refused) == (whole, refused_too)
    assert (tally_too.rows, tally_too.personal, tally_too.withheld) == (
        tally.rows,
        tally.personal,
        tally.withheld,
    )


@settings(max_examples=40, deadline=None)
@given(body=any_body)
def test_a_revealed_class_passes_and_the_other_does_not(body):
    form, data = body
    out, refused, tally = run(form, PII, [data])
    assert not refused
    assert "pii" not in tally.withheld
    assert not re.search(rb"sale_amount\W+SECRET", out)
    assert (b"SECRET" in out) <= (tally.personal > 0)
