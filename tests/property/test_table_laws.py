"""Laws of the table: it says what the engine says, whatever the policies, whoever asks, and whenever."""

from itertools import islice

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gateway.compile import compile
from gateway.model import (
    ACCOUNT_KINDS,
    COLUMN_CLASSES,
    EFFECTS,
    RELATIONS,
    ROLES,
    SCOPES,
    STATUSES,
    Account,
    Moment,
    Owner,
    Principal,
)  # fmt: skip
from gateway.operation import Catalogue
from gateway.policy import PolicySet, packaged
from gateway.policyfile import Invariant
from gateway.proof import prove
from gateway.table import Live, Table
from gateway.tomlfile import ConfigError

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
OPERATIONS = CATALOGUE.variants()
NAMES = ["1", "7", "33", "706", "tok_a", ""]

ids = st.sampled_from(NAMES)
quoted = ids.map('"{}"'.format)
id_paths = st.sampled_from(
    ["principal.id", "principal.account.id", "principal.account.network", "context.token"]
)
words = {
    "principal.account.kind": ACCOUNT_KINDS,
    "principal.role": ROLES,
    "context.relation": RELATIONS,
    "context.weekday": ("monday", "saturday", "sunday"),
}
of_operations = {
    "resource.id": [operation.id for operation in OPERATIONS[:5]],
    "resource.api": ("transactions", "network_integration"),
    "resource.effect": EFFECTS,
    "resource.status": STATUSES,
    "resource.account_kind": (*ACCOUNT_KINDS, "none"),
}


def compared(attributes):
    """`path == "word"`, a list that contains it, or a pattern, over attributes and the words they have."""

    def of(path):
        word = st.sampled_from(attributes[path])
        return st.one_of(
            st.builds('{} {} "{}"'.format, st.just(path), st.sampled_from(["==", "!="]), word),
            st.builds(
                "{}.contains({})".format,
                st.lists(word, min_size=1, max_size=3).map(
                    lambda w: "[" + ", ".join(f'"{x}"' for x in w) + "]"
                ),
                st.just(path),
            ),
            word.map(lambda w: f'{path} like "{w[:3]}*"'),
        )

    return st.sampled_from(sorted(attributes)).flatmap(of)


about_ids = st.one_of(
    st.builds("{} {} {}".format, id_paths, st.sampled_from(["==", "!="]), quoted),
    st.builds("[{}, {}].contains({})".format, quoted, quoted, id_paths),
    st.builds("[{}].containsAny([{}, {}])".format, id_paths, quoted, quoted),
    st.builds('principal == User::"{}"'.format, ids),
    st.builds('principal in [User::"{}", User::"{}"]'.format, ids, ids),
    st.builds(
        "{} == (if principal.administrator then {} else {})".format, id_paths, quoted, quoted
    ),
)  # fmt: skip
about_the_moment = st.sampled_from(
    [
        'context.now < datetime("2027-01-01")',
        'context.now.toTime() >= duration("8h")',
        'context.client.isInRange(ip("10.0.0.0/8"))',
        'context.client == ip("2001:db8::1")',
        "context.client.isIpv4()",
    ]
)
plain = st.sampled_from(["principal.administrator", "true", "principal has role", "context has now"])
anything = st.one_of(compared(words), about_ids, about_the_moment, plain)
on_calls = st.one_of(
    anything,
    compared(of_operations),
    st.just("resource.account_kind == principal.account.kind"),
    st.sampled_from([f'resource == Operation::"{operation.id}"' for operation in OPERATIONS[:5]]),
)
on_columns = anything | st.sampled_from(['resource.id == "pii"', 'resource == ColumnClass::"public"'])
on_both = anything | st.sampled_from(
    [
        'resource is Operation && resource.effect == "read"',
        "resource has api && resource.api == \"transactions\"",
        "resource is ColumnClass",
        'if resource is ColumnClass then principal.role == "super" else resource.effect != "read"',
    ]
)  # fmt: skip


def conditions(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds("{} && {}".format, inner, inner),
            st.builds("({} || {})".format, inner, inner),
            st.builds("!({})".format, inner),
            st.builds("(if {} then {} else {})".format, inner, inner, inner),
        ),
        max_leaves=4,
    )


def policies_on(action, leaves):
    clause = st.builds("{} {{ {} }}".format, st.sampled_from(["when", "unless"]), conditions(leaves))
    principal = st.sampled_from(["principal", "principal", 'principal == User::"7"', "principal is User"])
    return st.builds(
        "{} ({}, {}, resource) {};".format,
        st.sampled_from(["permit", "permit", "forbid"]),
        principal,
        st.just(action),
        st.lists(clause, max_size=2).map(" ".join),
    )


policies = st.one_of(
    policies_on('action == Action::"call"', on_calls),
    policies_on('action == Action::"see"', on_columns),
    policies_on("action", on_both),
    policies_on('action in [Action::"call", Action::"see"]', on_both),
)
free_ids = ids | st.text(max_size=5)
accounts = st.builds(Account, st.sampled_from(ACCOUNT_KINDS), free_ids, free_ids).map(
    lambda a: Account("network", a.id, a.id) if a.kind == "network" else a
)
owners = st.builds(Owner, free_ids, accounts, st.sampled_from(ROLES), st.booleans())
moments = st.builds(
    Moment,
    st.floats(0, 2_000_000_000),
    st.sampled_from(["10.1.2.3", "192.0.2.1", "2001:db8::1", "::ffff:10.9.9.9", "fe80::1%eth0"]),
)
asked = st.sampled_from((*OPERATIONS[:12], *OPERATIONS[-3:])) | st.sampled_from(COLUMN_CLASSES)
questions = st.tuples(owners, asked, st.sampled_from(RELATIONS), moments, free_ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("set")


def load(folder, texts):
    """A whole set of the given policies, compiled too."""
    heads = (f'@id("p{number}") @source("s") @reason("r") ' for number in range(len(texts)))
    (folder / "one.cedar").write_text("\n".join(map("".join, zip(heads, texts, strict=True))), "utf-8")
    try:
        made = PolicySet.load(folder, operations=OPERATIONS)
    except ConfigError:  # refused by the schema or for its words: such a set is never compiled
        assume(False)
    return made, compile(made, OPERATIONS)


@given(st.lists(policies, min_size=1, max_size=6), st.lists(questions, min_size=20, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_table_says_what_the_engine_says(folder, texts, questions):
    made, table = load(folder, texts)
    again = Table.unpack(table.pack())
    for owner, asked, relation, moment, token in questions:
        said = made.evaluate(owner, asked, relation, moment, token)
        assert table.owner_may(owner, asked, relation, moment, token) == said
        assert again.owner_may(owner, asked, relation, moment, token) == said
        principal = Principal(token, owner, frozenset(SCOPES), 0)
        assert table.visible(principal, relation, moment) == made.visible(principal, relation, moment)
    assert (table.alarms, made.alarms) == (0, 0)


@given(st.lists(policies, min_size=1, max_size=5), st.lists(questions, min_size=10, max_size=20), moments)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_steady_is_the_same_at_every_moment(folder, texts, questions, later):
    _, table = load(folder, texts)
    for owner, asked, relation, moment, token in questions:
        if not isinstance(asked, str) and table.steady(owner, asked, relation, token):
            for one in (asked, *COLUMN_CLASSES):
                decision = table.owner_may(owner, one, relation, moment, token)
                assert table.owner_may(owner, one, relation, later, token) == decision


@given(st.lists(policies, min_size=1, max_size=5), st.integers(0, 3_000), moments)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_cell_is_what_an_owner_there_gets(folder, texts, start, moment):
    made, table = load(folder, texts)
    for cell in islice(table.cells(), start, start + 20):
        at = (cell.user, cell.account, cell.network, cell.token)
        owner, token = table.names.example(cell.kind, cell.role, cell.administrator, at)
        assert table.names.point(owner, token) == at
        said = made.evaluate(owner, cell.operation, cell.relation, moment, token)
        if not cell.live:
            assert cell.decision == said
            assert table.owner_may(owner, cell.operation, cell.relation, moment, token) == said
        else:
            assert set(said.policies) <= {*cell.decision.policies, *cell.live}


NOBODY = Invariant("i", "allow", {"effect": ("read",), "relation": ("own", "other")}, "r", "s", "f", 1)


@given(st.lists(policies, min_size=1, max_size=5), st.lists(questions, min_size=20, max_size=30))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_proved_is_never_allowed_and_what_is_not_can_be_shown(folder, texts, questions):
    made, table = load(folder, texts)
    [broken] = prove(table, [NOBODY]) or [None]
    if broken is None:
        for owner, asked, relation, moment, token in questions:
            if not isinstance(asked, str) and asked.effect == "read" and relation in ("own", "other"):
                assert not table.owner_may(owner, asked, relation, moment, token).allowed
    else:
        entry = table.entry(broken.asked, broken.owner.account.kind, broken.owner.role,
                            broken.owner.administrator, broken.relation)  # fmt: skip
        outcome = table.settled(entry, table.names.point(broken.owner, broken.token_id))
        if not isinstance(outcome, Live):
            assert made.evaluate(
                broken.owner, broken.asked, broken.relation, Moment(0, "192.0.2.1"), broken.token_id
            ).allowed
