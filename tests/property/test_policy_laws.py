"""Laws of the policies: what holds for every set, every owner and every text."""

import json

import cedarpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.compile import compile
from gateway.model import ACCOUNT_KINDS, EFFECTS, RELATIONS, ROLES, SCOPES, Account, Owner, Principal
from gateway.operation import Catalogue
from gateway.policy import ANY_MOMENT, PolicySet, packaged
from gateway.policyfile import split, tokens
from gateway.tomlfile import ConfigError

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
OPERATIONS = CATALOGUE.variants()
SHIPPED = PolicySet.load(operations=OPERATIONS)
TABLE = compile(SHIPPED, OPERATIONS)

ids = st.text("0123456789", min_size=1, max_size=6) | st.text(max_size=12)
accounts = st.builds(Account, st.sampled_from(ACCOUNT_KINDS), ids, ids)
owners = st.builds(Owner, ids, accounts, st.sampled_from(ROLES), st.booleans())
scopes = st.frozensets(st.sampled_from(SCOPES))
principals = st.builds(Principal, st.just("t"), owners, scopes, st.just(0))
operations = st.sampled_from(OPERATIONS)
relations = st.sampled_from(RELATIONS)

comparisons = st.one_of(
    st.builds('principal.account.kind == "{}"'.format, st.sampled_from(ACCOUNT_KINDS)),
    st.builds('principal.role == "{}"'.format, st.sampled_from(ROLES)),
    st.builds('resource.effect == "{}"'.format, st.sampled_from(EFFECTS)),
    st.builds('context.relation == "{}"'.format, st.sampled_from(RELATIONS)),
    st.builds('resource == Operation::"{}"'.format, st.sampled_from([o.id for o in OPERATIONS])),
    st.sampled_from(["principal.administrator", "true", "9223372036854775807 + 1 > 0"]),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        st.builds("!({})".format, inner),
    ),
    max_leaves=6,
)
forbids = st.builds(
    'forbid (principal, action == Action::"call", resource) when {{ {} }};'.format, conditions
)
permits = st.builds(
    'permit (principal, action == Action::"call", resource) when {{ {} }};'.format, conditions
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("local")


def load(folder, *texts):
    """The shipped set with local policies laid over it."""
    heads = (f'@id("local-{number}") @source("s") @reason("r") ' for number in range(len(texts)))
    (folder / "local.cedar").write_text("\n".join(map("".join, zip(heads, texts, strict=True))), "utf-8")
    return PolicySet.load(local=folder, operations=OPERATIONS)


@given(forbids, st.lists(permits, max_size=2), principals, operations, relations)
@settings(max_examples=60, deadline=None)
def test_adding_a_forbid_never_allows_more(folder, forbid, permits, principal, operation, relation):
    before = load(folder, *permits).decide(principal, operation, relation, ANY_MOMENT)
    after = load(folder, *permits, forbid).decide(principal, operation, relation, ANY_MOMENT)
    assert before.allowed or not after.allowed


@given(permits, principals, operations, relations)
@settings(max_examples=60, deadline=None)
def test_no_permit_undoes_what_the_vendor_rules_out(folder, permit, principal, operation, relation):
    if load(folder, permit).decide(principal, operation, relation, ANY_MOMENT).allowed:
        kind = principal.owner.account.kind
        assert operation.effect != "impersonate"
        assert kind == "network" or (operation.api == "transactions" and relation == "own")
        assert relation in ("own", "network")
        assert principal.owner.role != "observer" or operation.effect == "read"


@given(principals, st.sampled_from([o for o in OPERATIONS if o.api == "network_integration"]), relations)
@settings(deadline=None)
def test_nobody_outside_a_network_is_allowed_network_integration(principal, operation, relation):
    decision = SHIPPED.decide(principal, operation, relation, ANY_MOMENT)
    assert not decision.allowed or principal.owner.account.kind == "network"


@given(permits, principals, operations, relations)
@settings(max_examples=60, deadline=None)
def test_no_decision_goes_beyond_the_scopes(folder, permit, principal, operation, relation):
    decision = load(folder, permit).decide(principal, operation, relation, ANY_MOMENT)
    assert not decision.allowed or operation.scope in principal.scopes
    assert decision.allowed == (decision.problem is None)


@given(principals, operations, relations)
@settings(deadline=None)
def test_the_shipped_table_answers_as_the_engine_and_the_explanation_do(principal, operation, relation):
    first = TABLE.decide(principal, operation, relation, ANY_MOMENT)
    assert SHIPPED.decide(principal, operation, relation, ANY_MOMENT) == first
    assert SHIPPED.explain(principal, operation, relation).decision == first
    seen = TABLE.visible(principal, relation, ANY_MOMENT)
    assert SHIPPED.visible(principal, relation, ANY_MOMENT) == seen
    assert all(f"reveal:{name}" in principal.scopes for name in seen - {"public"})
    assert SHIPPED.alarms == TABLE.alarms == 0


@given(principals, operations, relations)
@settings(max_examples=30, deadline=None)
def test_a_policy_matches_when_none_of_its_conditions_fails(principal, operation, relation):
    for considered in SHIPPED.explain(principal, operation, relation).considered:
        assert considered.matched == (not considered.failed)


# --- texts

words = st.sampled_from(
    ["permit", "forbid", "(principal, action, resource)", "when", "unless", "{", "}", "(", ")", ";", "@id", '("x")',
     "@source", "@reason", "==", "&&", "principal.role", '"super"', '"a;b"', "// c;\n", "\n", '"', "\\", "?principal",
     'Operation::"x"', "true", "if", "<", "é", "\r\n", "//", "[", "]"]
)  # fmt: skip
texts = st.lists(words).map(" ".join) | st.text(max_size=200)
raws = texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=100)


@given(
    raws, st.sampled_from(["x.cedar", "vendor.cedar", "invariants.toml", "schema.cedarschema"]), st.booleans()
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_makes_the_loader_fail_otherwise_than_by_its_faults(tmp_path, raw, name, local):
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "a.cedar").write_text(
        '@id("a") @source("s") @reason("r") permit (principal, action, resource);'
    )
    (tmp_path / name).write_bytes(raw)
    faults = []
    try:
        PolicySet.load(None if local else tmp_path, tmp_path if local else None, operations=OPERATIONS)
    except ConfigError as error:
        faults = error.faults
    assert all(fault.file and fault.text for fault in faults)


@given(texts)
@settings(max_examples=300, deadline=None)
def test_cutting_a_text_keeps_its_tokens_and_their_lines(text):
    pieces = split(text)
    assert [token for piece in pieces for token in piece.tokens] == tokens(text)
    again = tokens("".join(piece.text for piece in pieces))
    assert [(t.text, t.line) for t in again] == [(t.text, t.line) for t in tokens(text)]
    assert all(piece.tokens for piece in pieces)


strings = st.text(st.sampled_from('abc;{}()@/*\\"\n é'), max_size=8).map(
    lambda text: json.dumps(text, ensure_ascii=False)
)
comments = st.text(st.sampled_from('abc;{}"@/* é'), max_size=8).map("// {}\n".format)


@given(st.lists(st.tuples(comments, strings, comments, strings), max_size=5), comments)
@settings(deadline=None)
def test_a_text_is_cut_where_cedar_cuts_it(parts, last):
    text = "".join(
        f"{before}@id({a}){between}forbid (principal, action, resource) {between}when {{ {b} == {a} }};"
        for before, a, between, b in parts
    )
    pieces = split(text + last)
    whole = json.loads(cedarpy.policies_to_json_str(text + last))["staticPolicies"]
    alone = [json.loads(cedarpy.policies_to_json_str(piece.text))["staticPolicies"] for piece in pieces]
    assert [list(policies.values()) for policies in alone] == [
        [whole[f"policy{i}"]] for i in range(len(whole))
    ]
