"""Whatever is sent, the answer is one that the vendor could give: the sandbox itself never breaks."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sandbox import Sandbox
from gateway.sandbox.exchange import Ask
from gateway.sandbox.routes import ROUTES

SANDBOX = Sandbox("T", calls=12)
IDS = {
    "{advertiser}": "706",
    "{campaign}": "spring",
    "{affiliate}": "808",
    "{network}": "33",
    "{tag}": "0054811245",
    "{revision}": "draft",
    "{user}": "u-ann706",
}
FIELDS = [
    "id_from_network",
    "name",
    "users",
    "user",
    "sites",
    "status",
    "ivr_tree",
    "root",
    "children",
    "node_type",
    "timeout",
    "custom_data",
    "local_center",
    "email_settings",
    "email_address",
    "external_revision_id",
    "cache_lifetime_days",
    "destination_phone_number",
    "allow_overflow",
    "destination_advertiser_id_from_network",
    "destination_affiliate_id_from_network",
    "delete_detected_phone_number",
]
LEAVES = (
    st.none() | st.booleans() | st.integers(-5, 99) | st.sampled_from(["", "706", "Applied", "a@b", "\ud800"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6)
QUERIES = st.sampled_from(
    ["", "?limit=x", "?limit=" + "9" * 5000, "?start=1&limit=0", "?status=none", "?offset=-1"]
)


@settings(max_examples=150, deadline=None)
@given(route=st.sampled_from(ROUTES), data=st.data(), body=BODIES, query=QUERIES, known=st.booleans())
def test_every_route_answers_every_body_with_json_and_a_documented_status(route, data, body, query, known):
    method = data.draw(st.sampled_from(sorted(route.verbs)))
    ids = IDS if known else {}
    path = "/".join(ids.get(part, "x") if part.startswith("{") else part for part in route.segments)
    target = f"/api/2018-02-01/33/{path}.json{query}" if path else f"/api/2018-02-01/33.json{query}"
    if path.startswith(("networks", "i/")):
        target = f"/api/2018-02-01/{path}.json{query}"
    reply = SANDBOX.answer(Ask(method, target, [("Authorization", "T")], json.dumps(body).encode()))
    assert reply.status in (200, 201, 403, 404)
    json.loads(b"".join(reply.chunks))


@settings(max_examples=100, deadline=None)
@given(
    head=st.lists(st.text("/.%?&=;aeiou 0123456789é\\", max_size=8), max_size=6).map("/".join),
    query=st.lists(
        st.tuples(
            st.sampled_from(
                ["limit", "from", "to", "transaction_type[]", "include_columns", "_method", "row_separator"]
            ),
            st.sampled_from(
                ["", "1", "0", "2026-01-01", "2026-W01-1", "Call", "$invoca_default_columns", "%", "\x00"]
            ),
        ),
        max_size=5,
    ),
    rows=st.booleans(),
)
def test_every_target_is_answered(head, query, rows):
    path = "/api/2020-10-01/networks/transactions/33.csv" if rows else f"/{head}"
    target = path + "?" + "&".join(f"{name}={value}" for name, value in query)
    reply = SANDBOX.answer(Ask("GET", target, [("Authorization", "T")]))
    assert reply.status in (200, 403, 404)
    assert b"".join(reply.chunks) is not None
