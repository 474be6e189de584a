"""Whatever a Transactions request asks for, what goes upstream is understood, and names nothing that is hidden."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.columns import load
from gateway.columns.asked import CONSTANTS, KNOWN, MOST_ROWS, rewrite
from gateway.columns.classes import CUSTOM_DATA
from gateway.problem import Problem
from gateway.target import QUERY

CLASSES = load()
NAMES = [column.name for view in ("network", "affiliate") for column in CLASSES.columns(view)]
names = st.sampled_from([*NAMES, *CONSTANTS]) | st.text(max_size=12)
lists = st.lists(names, max_size=8).map(",".join)
values = lists | st.sampled_from(
    ["2026-01-01", "2026-12-31", "1", "0", "5000", "Call", "Sale", ",", "\t", '"', "0A-1", ""]
)
pairs = st.lists(st.tuples(st.sampled_from(KNOWN) | st.text(max_size=6), values), max_size=6)
reveals = st.sets(st.sampled_from(["public", "pii", "financial"])).map(CLASSES.reveal)


@settings(max_examples=500, deadline=None, database=None)
@given(
    pairs,
    st.sampled_from(["json", "csv", "xml"]),
    st.sampled_from(["network", "advertiser", "affiliate"]),
    reveals,
)
def test_what_goes_upstream_is_documented_and_names_visible_columns_alone(asked, form, view, reveal):
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in asked)
    try:
        made = rewrite(query, form, view, reveal)
    except Problem as problem:
        assert problem.kind in ("bad-parameter", "columns-withheld", "bad-target")  # noqa: PT017 - either is right
        return
    assert QUERY.fullmatch(made.query)
    written = parse_qsl(made.query, keep_blank_values=True, strict_parsing=True)
    sent = dict(written)
    assert sent.keys() <= {*KNOWN}
    single = [name for name, _ in written if name != "transaction_type[]"]
    assert len(single) == len({*single})
    assert ("from" in sent) == ("to" in sent)
    assert 1 <= int(sent.get("limit", 1)) <= MOST_ROWS
    columns = sent["include_columns"].split(",")
    assert all(columns)
    assert len(columns) == len({*columns})
    for name in columns:
        assert name == CUSTOM_DATA or reveal.sees(name)
    assert not made.withheld.keys() & reveal.revealed
    # What is written is read as itself: asked again, nothing changes.
    again = rewrite(made.query, form, view, reveal)
    assert (again.query, dict(again.withheld)) == (made.query, {})
