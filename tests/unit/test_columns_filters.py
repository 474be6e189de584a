"""What each filter passes, withholds and refuses, one hostile answer at a time."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from gateway.columns import CsvStyle, Unfilterable, classes, csv, load, open_filter, records
from gateway.columns.records import MAX_RECORD
from gateway.sandbox import formats
from gateway.sandbox.columns import CUSTOM as CUSTOM_COLUMNS
from gateway.sandbox.columns import CUSTOM_SOURCE, DEFAULT, choose
from gateway.sandbox.rows import build
from gateway.sandbox.sample import TODAY

CLASSES = load()
NOTHING, FINANCIAL, PII = (
    CLASSES.reveal(["public"]),
    CLASSES.reveal(["public", "financial"]),
    CLASSES.reveal(["public", "pii"]),
)
ALL = CLASSES.reveal(["public", "pii", "financial"])
CUSTOM = classes.read(
    (classes.packaged().joinpath("columns.toml").read_text(encoding="utf-8"), "shipped"),
    ('[public]\n"Visit Booked" = ["network"]\n[financial]\nquote = ["network"]\n', "local"),
)


def passed(form, body, reveal=NOTHING, style=None):
    """What passes of a whole body, and the tally."""
    chosen = open_filter(form, reveal, style or CsvStyle(), count=True)
    out = chosen.feed(body if isinstance(body, bytes) else body.encode()) + chosen.close()
    return out.decode(), chosen.tally


def refuses(form, body, reveal=NOTHING):
    chosen, out, said = open_filter(form, reveal, count=True), b"", None
    try:
        out = chosen.feed(body if isinstance(body, bytes) else body.encode())
        chosen.close()
    except Unfilterable as refusal:
        said = str(refusal)
    assert said is not None
    assert b"SECRET" not in out
    assert "SECRET" not in said
    with pytest.raises(Unfilterable):
        chosen.feed(b"")
    with pytest.raises(Unfilterable):
        chosen.close()


def json_row(members):
    return passed("json", f"[{{{members}}}]")[0][1:-1]


def xml_row(children, reveal=NOTHING):
    out, _ = passed("xml", f"<Transactions><Transaction>{children}</Transaction></Transactions>", reveal)
    return out.split("<Transaction>")[1].rsplit("\n  </Transaction>", 1)[0]


# --- all forms


@pytest.mark.parametrize("form", ["json", "csv", "xml"])
def test_where_everything_is_revealed_no_filter_is_needed_unless_rows_count(form):
    assert open_filter(form, ALL) is None
    assert open_filter(form, ALL, count=True) is not None
    assert open_filter(form, PII) is not None


def test_another_form_of_csv_is_written_even_where_everything_is_revealed():
    assert open_filter("csv", ALL, CsvStyle(";")) is not None


@pytest.mark.parametrize("form", ["json", "csv", "xml"])
def test_an_empty_body_is_refused(form):
    refuses(form, b"")


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("json", '[{"duration": 1, "city": "x", "calling_phone_number": null, "sale_amount": 1}, {"city": 2}]'),
        ("csv", "duration,city,calling_phone_number,sale_amount\n1,x,,1\n,2,,\n"),
        ("xml",
        "<Transactions><Transaction><duration>1</duration><city>x</city><calling_phone_number/><sale_amount/>"
                "</Transaction><Transaction><city>2</city></Transaction></Transactions>"),
    ],
)  # fmt: skip
def test_what_was_withheld_is_counted_by_class(form, body):
    _, tally = passed(form, body)
    assert (tally.rows, tally.personal, tally.withheld) == (2, 0, {"financial": 1, "pii": 2})
    _, tally = passed(form, body, PII)
    assert (tally.rows, tally.personal, tally.withheld) == (2, 2, {"financial": 1})


def test_a_row_without_a_revealed_pii_column_is_no_personal_record():
    _, tally = passed("json", '[{"duration": 1}, {"city": null}, {}]', PII)
    assert (tally.rows, tally.personal) == (3, 1)


def test_rows_of_a_call_that_fails_are_not_counted():
    chosen = open_filter("json", PII)
    chosen.feed(b'[{"city": 1},')
    with pytest.raises(Unfilterable):
        chosen.feed(b'{"city": 2},{"city": 3},x')
    assert (chosen.tally.rows, chosen.tally.personal) == (1, 1)


@pytest.mark.parametrize(
    ("form", "body", "first"),
    [
        ("json", b'[{"duration":1}', b'[{"duration":1}'),
        ("csv", b"duration\n1\n2", b"duration\n1\n"),
        ("xml", b"<Transactions><Transaction></Transaction>",
         b'<?xml version="1.0" encoding="UTF-8"?>\n<Transactions>\n  <Transaction>\n  </Transaction>\n'),
    ],
)  # fmt: skip
def test_a_record_passes_before_the_next_one_has_come(form, body, first):
    assert open_filter(form, NOTHING).feed(body) == first


@pytest.mark.parametrize(
    ("form", "head"),
    [
        ("json", b'[{"duration":"'),
        ("json", b'[{"duration":1,"city":[' + b'"",' * 9),
        ("csv", b'duration\n"'),
        ("xml", b"<Transactions><Transaction><duration>"),
        ("xml", b"<Transactions><Transaction><duration><![CDATA["),
        ("xml", b"<"),
    ],
)
def test_a_record_has_a_bound_and_reading_up_to_it_is_linear(form, head):
    chosen = open_filter(form, NOTHING)
    chosen.feed(head)
    for _ in range(MAX_RECORD // 512 - 1):  # a reading that began anew with every piece would take minutes
        waiting = chosen._waiting
        chosen.feed(b"x" * 512)
    assert chosen._waiting is waiting  # added to, not copied
    with pytest.raises(Unfilterable, match="too large"):
        chosen.feed(b"x" * 2048)


@pytest.mark.parametrize(
    ("form", "head", "row", "tail"),
    [
        ("json", b'[{"duration":0}', b',{"duration":1,"city":"%s"}' % (b"x" * 900), b"]"),
        ("csv", b"duration,city\n", b'1,"%s"\n' % (b"x" * 900), b""),
        ("xml", b"<Transactions>",
        b"<Transaction><duration>1</duration><city>%s</city></Transaction>" % (b"x" * 900),
         b"</Transactions>"),
    ],
)  # fmt: skip
def test_memory_does_not_grow_with_the_body(form, head, row, tail):
    chosen = open_filter(form, NOTHING)
    piece = row * 70
    chosen.feed(head)
    chosen.feed(piece)
    tracemalloc.start()
    try:
        for _ in range(100):
            chosen.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    chosen.feed(tail)
    chosen.close()
    assert chosen.tally.rows in (7070, 7071)


def test_more_names_than_anybody_has_are_counted_up_to_a_bound():
    _, tally = passed("json", json.dumps([{f"x{n}": 1 for n in range(3000)}]))
    assert tally.withheld == {"pii": records.MAX_NAMES}


def test_shapes_that_never_come_again_are_forgotten():
    plans = records.Plans()
    for n in range(5000):
        plans.learn(NOTHING, b"%d" % n, lambda: None)
    for n in range(100):
        for _ in range(records.LEARNED_AFTER):
            plans.learn(NOTHING, b"again %d" % n, object)
    assert len(plans._seen) <= records.MAX_SEEN
    assert len(plans._plans) <= records.MAX_PLANS


def test_characters_of_every_length_are_whole_wherever_the_text_is_taken_apart():
    for shift in range(4):
        text = "x" * shift + "aé☕\U0001f600" * 9000
        assert passed("csv", f"duration\n{text}\n")[0] == f"duration\n{text}\n"


@pytest.mark.parametrize(
    ("form", "head", "row", "tail"),
    [
        ("json", "[", '{"duration":1,"city":"SECRET","sale_amount":2,"custom_data":[]}', "]"),
        ("csv", "duration,city,sale_amount\n", "1,SECRET,2\n", ""),
        ("xml", "<Transactions>",
        "<Transaction><duration>1</duration><city>SECRET</city><sale_amount>2</sale_amount>"
         "</Transaction>", "</Transactions>"),
    ],
)  # fmt: skip
def test_what_was_learned_for_one_reveal_is_not_used_for_another(form, head, row, tail):
    body = head + ("," if form == "json" else "").join([row] * 40) + tail
    for reveal in (ALL, PII, FINANCIAL, NOTHING, PII, ALL):
        out, tally = passed(form, body, reveal)
        assert out.count("SECRET") == (40 if reveal.sees("city") else 0)
        assert (tally.rows, tally.personal) == (40, 40 if reveal.sees("city") else 0)


@pytest.mark.parametrize("form", ["json", "csv", "xml"])
def test_an_answer_of_a_shape_that_was_learned_before_counts_what_it_lacks(form):
    rows = {
        "json": ("[{}]", '{{"duration":{},"city":"SECRET","sale_amount":2}}', ","),
        "csv": ("duration,city,sale_amount\n{}", "{},SECRET,2\n", ""),
        "xml": (
            "<Transactions>{}</Transactions>",
            "<Transaction><duration>{}</duration><city>SECRET</city><sale_amount>2</sale_amount></Transaction>",
            "",
        ),
    }
    whole, row, between = rows[form]
    for count in (40, 1, 2, 40):
        body = whole.format(between.join(row.format(n) for n in range(count)))
        out, tally = passed(form, body, PII if count == 40 else NOTHING)
        out, tally = passed(form, body)
        assert "SECRET" not in out
        assert (tally.rows, tally.withheld) == (count, {"pii": 1, "financial": 1})


def test_rows_pass_alike_whichever_columns_come_to_be_quoted_when(monkeypatch):
    monkeypatch.setattr(csv, "_plans", records.Plans())
    names = ["duration", "city", "media_type", "sale_amount", "region", "notes"]
    rows = [
        ["x" if n < 120 or (n // 70 + place) % 3 else f'"{n},""{place}"""' for place in range(6)]
        for n in range(900)
    ]
    body = "".join(",".join(row) + "\n" for row in [names, *rows])
    shown = "".join(",".join(row[place] for place in (0, 2, 4)) + "\n" for row in [names, *rows])
    assert passed("csv", body)[0] == shown
    (plan,) = csv._plans._plans.values()
    assert plan is not None
    assert plan.quicker is not None
    refuses("csv", body + 'x,x,x"x,x,x,x\n')
    refuses("csv", body + "x,x,x,x,x\n")


# --- JSON


def test_json_keeps_the_text_of_values_and_the_order_of_members():
    out, _ = passed(
        "json", '[ {"duration": 1.10,"city":"SECRET", "media_type":"\\u00e9\\/", "connect_duration" : 1E+2} ]'
    )
    assert out == '[{"duration": 1.10, "media_type":"\\u00e9\\/", "connect_duration" : 1E+2}]'


def test_no_rows_are_an_empty_array():
    assert passed("json", " [ \n] ")[0] == "[]"


def test_a_row_of_which_nothing_is_visible_is_an_empty_object():
    assert passed("json", '[{"city":"SECRET"},{}]')[0] == "[{},{}]"


@pytest.mark.parametrize(
    "key",
    ["\\u0063ity", "Duration", "duration ", "dur\\u0061tion\\u0000", "DURATION", "calling-phone-number", "",
    "x", "durat\\u0456on"],
)  # fmt: skip
def test_a_name_that_only_looks_visible_is_withheld(key):
    assert json_row(f'"{key}": "SECRET", "duration": 1') == '{"duration": 1}'


def test_an_escaped_name_of_a_visible_column_is_that_column():
    assert json_row('"dur\\u0061tion": 1') == '{"dur\\u0061tion": 1}'


@pytest.mark.parametrize("value", ['{"duration": "SECRET"}', '["SECRET"]', '[[{"a": ["SECRET", {}]}]]', "[]"])
def test_something_nested_is_withheld_under_any_name(value):
    assert json_row(f'"duration": {value}, "city": {value}, "media_type": 1') == '{"media_type": 1}'
    assert passed("json", f'[{{"duration": {value}}}]', ALL)[0] == f'[{{"duration": {value}}}]'


@pytest.mark.parametrize(
    "body",
    [
        "{}", "null", '"SECRET"', "[1]", "[null]", '["SECRET"]', "[[]]", "[{},]", "[,{}]", "[{} {}]", "[{}",
        "]", "[{}]]", "[{}]x",
        "[{}]{}", '[{"duration" 1}]', '[{"duration":}]', '[{"duration":1,}]', "[{,}]", "[{duration:1}]",
        "[{'duration':1}]",
        '[{"duration":01}]', '[{"duration":+1}]', '[{"duration":.5}]', '[{"duration":1.}]',
        '[{"duration":1e}]', '[{"duration":0x1}]',
        '[{"duration":NaN}]', '[{"duration":-Infinity}]', '[{"duration":True}]', '[{"duration":nul}]',
        '[{"duration":1 2}]',
        '[{"duration":"\\x"}]', '[{"duration":"\\u12"}]', '[{"duration":"a\nb"}]', '[{"duration":"\t"}]',
        '[{"duration":"SECRET}]',
        '[{"city":[1,]}]', '[{"city":{"a"}}]', '[{"city":[NaN]}]', '[{"city":["\\x"]}]', '[{"city":[}]}]',
        '[{"city":{]}}]',
        '[{"duration":1}/**/]', '[{"duration":1}}]', '[{"duration":1]', '[{"duration":1,"duration":"SECRET"}]',
        '[{"duration":1,"dur\\u0061tion":2}]', '[{"city":1,"city":2}]', '[{"city":1,"\\u0063ity":2}]',
        "[{}]\0", "\ufeff[{}]",
        '[{"custom_data":[{"name":"duration","name":"city","value":"SECRET"}]}]',
    ],
)  # fmt: skip
def test_what_is_not_an_array_of_flat_records_is_refused(body):
    refuses("json", body)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_another_encoding_is_refused(codec):
    refuses("json", '[{"duration": 1}]'.encode(codec))
    refuses("csv", "duration\n1\n".encode(codec))
    refuses("xml", "<Transactions/>".encode(codec))


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc3", b"\xe2\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
)
def test_what_is_not_utf_8_is_refused_wherever_it_stands(bad):
    for name in (b"duration", b"city"):
        refuses("json", b'[{"%s":"a%sb"}]' % (name, bad))
        refuses("csv", b'%s\n"a%sb"\n' % (name, bad))
        refuses(
            "xml",
            b"<Transactions><Transaction><%s>a%sb</%s></Transaction></Transactions>" % (name, bad, name),
        )
    refuses("json", b'[{"%s":1}]' % bad)
    refuses("csv", b"%s\n1\n" % bad)
    refuses("xml", b"<Transactions><Transaction><a%s/></Transaction></Transactions>" % bad)


def test_numbers_of_thousands_of_digits_keep_every_one():
    digits = "7" * 5000
    assert json_row(f'"duration": {digits}, "city": {digits}') == f'{{"duration": {digits}}}'
    assert json_row(f'"city": [{digits}], "duration": 1') == '{"duration": 1}'


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_a_record_nested_deeper_than_anybody_needs_is_refused(opening):
    refuses("json", '[{"city":' + opening * 100_000)
    closing = "".join({"[": "]", "{": "}"}.get(mark, "") for mark in reversed(opening))
    refuses("json", '[{"city":' + opening * 70 + "1" + closing * 70 + "}]")


DATA = '{"name": "Visit Booked", "data_type": "Signal", "source": "AI", "value": true}'


@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        (DATA, DATA),
        (DATA.replace("name", "partner_name"), DATA.replace("name", "partner_name")),
        ('{"name": "patient_email", "value": "SECRET"}', ""),
        ('{"name": "Visit Booked", "partner_name": "patient_email", "value": "SECRET"}', ""),
        ('{"n\\u0061me": "Visit\\u0020Booked", "value": 1}',
        '{"n\\u0061me": "Visit\\u0020Booked", "value": 1}'),
        ('{"name": "quote", "value": "SECRET"}', ""),
        ('{"value": "SECRET"}', ""),
        ('{"name": 5, "value": "SECRET"}', ""),
        ('{"name": null, "value": "SECRET"}', ""),
        ('{"Name": "Visit Booked", "value": "SECRET"}', ""),
        ('{"name": "custom_data", "value": "SECRET"}', ""),
        ('{"name": "Visit Booked", "phone": "SECRET", "value": 1}', '{"name": "Visit Booked","value": 1}'),
        ("{}", ""),
        (f'{DATA}, {{"name": "x", "value": "SECRET"}},{DATA}', f"{DATA},{DATA}"),
    ],
)  # fmt: skip
def test_custom_data_passes_value_by_value(entries, shown):
    body = f'[{{"duration": 1, "custom_data": [{entries}], "city": 0}}]'
    out, tally = passed("json", body, CUSTOM.reveal(["public"]))
    assert out == f'[{{"duration": 1, "custom_data": [{shown}]}}]'
    assert tally.withheld.get("pii", 0) + tally.withheld.get("financial", 0) >= 1
    rows = ",".join([body[1:-1]] * 40)
    assert passed("json", f"[{rows}]", CUSTOM.reveal(["public"]))[0] == "[" + ",".join([out[1:-1]] * 40) + "]"


@pytest.mark.parametrize(
    "value",
    ['"SECRET"', "5", '{"name": "Visit Booked", "value": "SECRET"}', '["SECRET"]',
    '[{"name": "Visit Booked", "value": ["SECRET"]}]'],
)  # fmt: skip
def test_custom_data_of_another_form_is_withheld(value):
    out, tally = passed("json", f'[{{"custom_data": {value}, "duration": 1}}]', CUSTOM.reveal(["public"]))
    assert (out, tally.withheld) == ('[{"duration": 1}]', {"pii": 1})


def test_custom_data_of_a_revealed_class_passes():
    entries = '[{"name": "quote", "value": 1},{"name": "patient_email", "value": 2}]'
    assert (
        '"quote"'
        in passed("json", f'[{{"custom_data": {entries}}}]', CUSTOM.reveal(["public", "financial"]))[0]
    )
    out, tally = passed("json", f'[{{"custom_data": {entries}}}]', CUSTOM.reveal(["public", "pii"]))
    assert out == '[{"custom_data": [{"name": "patient_email", "value": 2}]}]'
    assert (tally.personal, tally.withheld) == (1, {"financial": 1})
    assert passed("json", f'[{{"custom_data": {entries}}}]', ALL)[0] == f'[{{"custom_data": {entries}}}]'


# --- CSV


def test_csv_passes_fields_as_they_came():
    body = 'duration,"city",media_type\n1.10,"SE,\n""CRET","a ""b"", c\n"\n,SECRET,""\n'
    assert passed("csv", body)[0] == 'duration,media_type\n1.10,"a ""b"", c\n"\n,""\n'


def test_a_table_with_no_visible_column_is_nothing():
    assert passed("csv", "city\nSECRET\n")[0] == ""
    assert passed("csv", "city\nSECRET\n")[1].rows == 1


def test_a_header_alone_is_a_table():
    assert passed("csv", "city,duration\n")[0] == "duration\n"
    assert passed("csv", "city,duration\n", style=CsvStyle(include_header=False))[0] == ""


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        (CsvStyle(";"), 'duration;media_type\n"a;b";x,y\n;""\n"\n";z\n'),
        (CsvStyle("\t", "\r\n", include_header=False), 'a;b\tx,y\r\n\t""\r\n"\n"\tz\r\n'),
        (CsvStyle(force_quotes=True), '"duration","media_type"\n"a;b","x,y"\n"",""\n"\n","z"\n'),
        (CsvStyle("||", "~"), 'duration||media_type~a;b||x,y~||""~"\n"||z~'),
        (CsvStyle("x"), 'durationxmedia_type\na;bx"x,y"\nx""\n"\n"xz\n'),
    ],
)
def test_csv_is_written_as_asked_for(style, expected):
    body = 'duration,city,media_type\na;b,SECRET,"x,y"\n,SECRET,""\n"\n",SECRET,z\n'
    assert passed("csv", body, style=style)[0] == expected


def test_what_was_learned_for_one_form_of_csv_is_not_used_for_another():
    body = "duration,media_type,city\n" + "1,x,SECRET\n" * 40
    for style, row in ((CsvStyle(), "1,x\n"), (CsvStyle(";"), "1;x\n"), (CsvStyle(), "1,x\n")):
        assert passed("csv", body, style=style)[0].count(row) == 40


@pytest.mark.parametrize("separators", [("", "\n"), (",", ""), ('"', "\n"), (",", '\n"')])
def test_a_separator_has_something_in_it_and_no_quote(separators):
    with pytest.raises(ValueError, match="separator"):
        CsvStyle(*separators)


@pytest.mark.parametrize(
    "rows",
    [
        "1,SECRET,3\n", "1\n", "\n", '1,"SECRET\n', '1,a"SECRET"\n', '1,"SECRET"x\n', '1,"a""SECRET\n',
        "1,SECRET", "1,a\rSECRET\n",
        "1,SECRET\r\n", "1;SECRET\n", '"1"2,SECRET\n', "1,\0SECRET\n", "1,2,\n", ",1,SECRET\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("learned", [0, 40])
def test_a_row_that_does_not_fit_is_refused(rows, learned):
    refuses("csv", "duration,city\n" + "1,2\n" * learned + rows)


@pytest.mark.parametrize(
    "header",
    ["duration,duration", "city,city", "duration,", "", "a\rb", '"a"b', '"duration', "\ufeffduration"],
)
def test_a_header_that_is_none_is_refused(header):
    refuses("csv", header + "\n1,2\n")


# --- XML


def test_an_entry_that_names_a_member_twice_is_refused():
    entry = "<custom_data><item><name>x</name><name>y</name></item></custom_data>"
    refuses("xml", f"<Transactions><Transaction>{entry}</Transaction></Transactions>")


def test_xml_passes_the_visible_elements_as_they_came():
    row = (
        '\n <duration type="integer">1.10</duration>\n <city>SECRET</city> <media_type>&#233;&amp;</media_type>'
        '\n <mobile nil="true"/>'
    )
    assert xml_row(row + "\n") == (
        '\n <duration type="integer">1.10</duration> <media_type>&#233;&amp;</media_type>\n <mobile nil="true"/>'
    )


@pytest.mark.parametrize("text", ["]]>", "&#0;", "&#xD800;", "&x;"])
def test_what_no_text_may_hold_is_refused_in_a_known_shape_too(text):
    row = "<Transaction><duration>{}</duration></Transaction>"
    refuses("xml", f"<Transactions>{row.format(1) * 40}{row.format(text)}</Transactions>")


@pytest.mark.parametrize("root", ["Transactions", "transactions", 'objects type="array"'])
def test_xml_may_be_spelled_in_the_ways_of_rails(root):
    name = root.split()[0]
    body = f"<{root}><{name[:-1]}><duration>1</duration></{name[:-1]}></{name}>"
    out = passed("xml", body)[0]
    assert out.endswith(f"\n<{root}>\n  <{name[:-1]}><duration>1</duration>\n  </{name[:-1]}>\n</{name}>\n")


@pytest.mark.parametrize(
    "body", ["<Transactions/>", "<?xml version='1.0'?>\n <Transactions />\n", "<Transactions></Transactions>"]
)
def test_xml_without_rows_is_a_root(body):
    assert passed("xml", body)[0].startswith('<?xml version="1.0" encoding="UTF-8"?>\n<Transactions')
    assert passed("xml", body)[1].rows == 0


@pytest.mark.parametrize(
    "child",
    [
        "<city>SECRET</city>", "<Duration>SECRET</Duration>",
        "<calling-phone-number>SECRET</calling-phone-number>",
        "<durati\u043en>SECRET</durati\u043en>", "<duration><x>SECRET</x></duration>",
        "<duration><city/></duration>",
        '<duration phone="SECRET">1</duration>', '<duration nil="SECRET"/>', '<duration type="SECRET"/>',
        "<city>]SECRET></city>",
        '<duration xsi:nil="true"/>', "<city><![CDATA[SECRET</Transaction>]]></city>",
        '<city a="&#83;ECRET" b=\'&lt;\'/>',
        "<city><duration>SECRET</duration><duration/></city>", "<custom_data>SECRET</custom_data>",
        '<custom_data x="SECRET"/>',
        "<custom_data><entry>SECRET</entry></custom_data>", "<custom_data><![CDATA[SECRET]]></custom_data>",
    ],
)  # fmt: skip
def test_an_element_that_is_not_a_visible_column_is_withheld(child):
    assert xml_row(child + "<media_type>x</media_type>") == "<media_type>x</media_type>"
    assert xml_row(child, ALL) == child


@pytest.mark.parametrize(
    "child",
    [
        "SECRET", "<duration>1</duration>SECRET", "<!-- SECRET --><duration/>", "<?php SECRET?>",
        "<![CDATA[SECRET]]>",
        "<duration>&secret;</duration>", "<city>&secret;</city>", "<duration>a & b</duration>",
        "<duration>]]></duration>",
        "<duration>&#0;</duration>", "<city>&#xD800;</city>", "<duration>&#1114112;</duration>",
        "<duration>\x01</duration>",
        "<city><![CDATA[\x01]]></city>", "<duration>\ufffe</duration>", "<duration>1</city>", "<duration>1",
        "<duration", "<duration/",
        "<1/>", "<x:city/>", "<duration/><duration/>", "<city/><city>SECRET</city>", "<city a='1' a='2'/>",
        "<city a=1/>", "<city a/>",
        "<city a='<'/>", "<city a='&#0;'/>", "<city a='&x;'/>", "<city>a<b/>SECRET</city>", "<city>a<b/></city>",
        "<city><b>1</city></b>",
        "<Transaction>SECRET</Transaction>",
        "<duration><!-- SECRET --></duration>", "<city><!DOCTYPE SECRET></city>",
        "<duration><![CDATA[</duration>", "</duration>",
        "<" + "/><".join(["city"] * 2) + "/>", "<a>" * 70 + "</a>" * 70, "<a>" * 100_000,
        "<duration>&#x110000;</duration>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("reveal", [NOTHING, FINANCIAL, ALL])
def test_what_is_not_plain_xml_is_refused(child, reveal):
    refuses(
        "xml",
        f"<Transactions><Transaction>{child}</Transaction></Transactions>".encode("utf-8", "surrogatepass"),
        reveal,
    )


@pytest.mark.parametrize(
    "body",
    [
        "<!DOCTYPE x [<!ENTITY a 'SECRET'>]><Transactions/>",
        '<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///SECRET"><Transactions/>',
        '<?xml version="1.0" encoding="UTF-16"?><Transactions/>',
        '<?xml version="1.0" encoding="ISO-8859-1"?><Transactions/>',
        ' <?xml version="1.0"?><Transactions/>', '<?xml version="1.0"?><?xml version="1.0"?><Transactions/>',
        "<SECRET/>",
        "<Transactions SECRET='1'/>", "<Transactions><Person/></Transactions>",
        "<Transactions>SECRET</Transactions>", "<Transactions>",
        "<Transactions></transactions>", "<Transactions/><Transactions/>", "<Transactions/>SECRET",
        "<Transactions/><!-- SECRET -->",
        "<Transactions><Transaction SECRET='1'></Transaction></Transactions>",
        "<Transactions><Transaction></transaction></Transactions>",
        "<Transactions><Transaction/></Transaction></Transactions>", "</Transactions>",
        "<?xml-stylesheet href='SECRET'?><Transactions/>",
    ],
)  # fmt: skip
def test_what_is_not_a_transactions_document_is_refused(body):
    refuses("xml", body)


ITEM = "<item><name>Visit Booked</name><source>AI</source><value>true</value></item>"


@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        (ITEM, ITEM),
        (ITEM.replace("name>", "partner_name>"), ITEM.replace("name>", "partner_name>")),
        ("<item><name>patient_email</name><value>SECRET</value></item>", ""),
        ("<item><name>quote</name><value>SECRET</value></item>", ""),
        ("<item><name>Visit Booked</name><partner_name>x</partner_name><value>SECRET</value></item>", ""),
        ("<item><name>Visit Booked</name><value><a>SECRET</a></value></item>", ""),
        ('<item><name>Visit Booked</name><value phone="SECRET"/></item>', ""),
        ('<item phone="SECRET"><name>Visit Booked</name></item>', ""),
        ("<item><value>SECRET</value></item><item>SECRET</item><item/>", ""),
        ("<item><name/><value>SECRET</value></item>", ""),
        ("<item><name><![CDATA[&x;]]></name><value>SECRET</value></item>", ""),
        ("<item><name><![CDATA[Visit Booked]]></name><value>SECRET</value></item>", ""),
        ("<item><name>Visit&#32;Booked</name><value>1</value></item>",
        "<item><name>Visit&#32;Booked</name><value>1</value></item>"),
        (ITEM.replace("</item>", "<x>SECRET</x></item>"), ITEM),
        (f"{ITEM} <item><name>x</name><value>SECRET</value></item>\n{ITEM}", f"{ITEM}\n{ITEM}"),
    ],
)  # fmt: skip
def test_custom_data_in_xml_passes_value_by_value(entries, shown):
    row = f"<duration>1</duration> <custom_data>{entries}</custom_data><city/>"
    expected = f"<duration>1</duration> <custom_data>{shown}</custom_data>"
    assert xml_row(row, CUSTOM.reveal(["public"])) == expected
    body = f"<Transactions>{f'<Transaction>{row}</Transaction>' * 40}</Transactions>"
    assert passed("xml", body, CUSTOM.reveal(["public"]))[0].count(expected) == 40


# --- the sandbox, whose custom columns the operator knows some of

ROWS = [row.values for row in build(3, TODAY, calls=20)]
EVERY = f"{DEFAULT},{CUSTOM_COLUMNS},{CUSTOM_SOURCE},custom_data"
REVEALS = [CUSTOM.reveal(["public", *each]) for each in ([], ["pii"], ["financial"], ["pii", "financial"])]


def seen_rows(reveal):
    """The sandbox's rows as they would be, had it no other values than the visible ones."""
    for row in ROWS:
        entries = [
            each
            for each in row.get("custom_data", [])
            if reveal.everything or reveal.sees(each.get("name", each.get("partner_name")))
        ]
        yield row | {"custom_data": entries if "custom_data" in row else None}


@pytest.mark.parametrize("reveal", REVEALS)
@pytest.mark.parametrize("view", ["n", "a", "f"])
def test_every_column_of_every_view_passes_as_if_the_others_were_not_there(view, reveal):
    names = choose(view, "2020-10-01", EVERY, "")
    seen = [name for name in names if reveal.sees(name) or name == "custom_data"]
    rows = list(seen_rows(reveal))
    out, tally = passed("json", "".join(formats.json_pieces(ROWS, names)), reveal)
    assert json.loads(out) == json.loads("".join(formats.json_pieces(rows, seen)))
    assert tally.rows == len(ROWS)
    assert passed("xml", "".join(formats.xml_pieces(ROWS, names)), reveal)[0] == "".join(
        formats.xml_pieces(rows, seen)
    )
    table = "".join(formats.csv_pieces(ROWS, names, formats.CsvStyle()))
    for style in [
        (",", "\n", True, False),
        ("\t", "\r\n", False, True),
        ("||", "~\n", True, False),
        ("é", "\n", True, True),
    ]:
        expected = "".join(formats.csv_pieces(ROWS, seen, formats.CsvStyle(*style)))
        assert passed("csv", table, reveal, CsvStyle(*style))[0] == expected
