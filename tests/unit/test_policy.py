"""Deciding: owner first, then scopes; nothing but a clean answer of the engine opens anything."""

import logging
import re
from dataclasses import replace

import cedarpy
import pytest

from gateway.model import ROLES, SCOPES, Account, Operation, Owner, Principal
from gateway.operation import Catalogue
from gateway.policy import ANY_MOMENT, PolicySet, explanation_as_dict, explanation_text, packaged, relation

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
NETWORK = Account("network", "33", "33")
ADVERTISER = Account("advertiser", "706", "33")


def an_owner(account=NETWORK, role="member", administrator=False):
    return Owner("7", account, role, administrator)


def a_principal(*scopes, account=NETWORK, role="member", administrator=False):
    return Principal("t", an_owner(account, role, administrator), frozenset(scopes or SCOPES), 0)


def a_set(folder, *policies):
    """A set of the given policies alone, each written without its annotations."""
    for number, text in enumerate(policies):
        head = f'@id("p{number}") @source("a test") @reason("because")\n'
        (folder / f"{number}.cedar").write_text(head + text, "utf-8")
    return PolicySet.load(folder, operations=CATALOGUE.variants())


@pytest.fixture(scope="module")
def shipped():
    return PolicySet.load(operations=CATALOGUE.variants())


def ids(decision):
    return [policy.id for policy in decision.policies]


def test_an_allow_names_the_permit_behind_it_with_its_reason_source_file_and_line(shipped):
    decision = shipped.decide(a_principal(), CATALOGUE["advertisers_list"], "own", ANY_MOMENT)
    assert (decision.allowed, decision.problem, ids(decision)) == (True, None, ["network-integration-read"])
    policy = decision.policies[0]
    assert policy.reason
    assert policy.source.startswith("P3")
    line = (packaged() / "access.cedar").read_text("utf-8").splitlines()[policy.line - 1]
    assert (policy.file, line) == ("policies/access.cedar", '@id("network-integration-read")')


def test_a_forbid_wins_over_every_permit(tmp_path):
    policies = a_set(
        tmp_path, "permit (principal, action, resource);", "forbid (principal, action, resource);"
    )
    decision = policies.decide(a_principal(), CATALOGUE["network_read"], "own", ANY_MOMENT)
    assert (decision.allowed, decision.problem, ids(decision)) == (False, "denied", ["p1"])


def test_what_no_policy_permits_is_denied_by_no_policy(shipped):
    decision = shipped.decide(a_principal(), CATALOGUE["advertiser_delete"], "own", ANY_MOMENT)
    assert (decision.allowed, decision.problem, decision.policies) == (False, "denied", ())


def test_the_owner_is_judged_before_the_scopes(shipped):
    decision = shipped.decide(
        a_principal("reveal:pii", account=ADVERTISER), CATALOGUE["advertisers_list"], "other", ANY_MOMENT
    )
    assert (decision.problem, ids(decision)) == ("denied", ["network-integration-for-network-users"])


def test_a_missing_scope_is_named_with_the_permits_of_the_owner(shipped):
    decision = shipped.decide(a_principal("network:read"), CATALOGUE["advertiser_update"], "own", ANY_MOMENT)
    assert not decision.allowed
    assert (decision.problem, decision.missing_scope) == ("insufficient-scope", "network:write")
    assert ids(decision) == ["network-integration-write"]


def test_no_scope_reaches_an_operation_without_one(tmp_path):
    policies = a_set(tmp_path, "permit (principal, action, resource);")
    decision = policies.decide(a_principal(), CATALOGUE["sso_network_access_token_create"], "own", ANY_MOMENT)
    assert not decision.allowed


def test_a_body_that_replaces_a_set_is_judged_apart_from_the_same_operation_without(shipped):
    update = CATALOGUE["advertiser_update"]
    destroying = next(o for o in CATALOGUE.variants() if o.id == update.id and o.effect == "destroy")
    assert shipped.decide(a_principal(), update, "own", ANY_MOMENT).allowed
    assert not shipped.decide(a_principal(), destroying, "own", ANY_MOMENT).allowed


@pytest.mark.parametrize("role", ROLES)
def test_being_administrator_changes_nothing(shipped, role):
    for operation in CATALOGUE.variants():
        for related in ("own", "network", "none", "other"):
            plain = shipped.owner_may(an_owner(role=role), operation, related, ANY_MOMENT)
            assert (
                shipped.owner_may(an_owner(role=role, administrator=True), operation, related, ANY_MOMENT)
                == plain
            )


# --- relation


@pytest.mark.parametrize(
    ("account", "operation", "account_id", "account_network", "expected"),
    [
        (NETWORK, "advertisers_list", "33", None, "own"),
        (NETWORK, "advertisers_list", "44", "44", "other"),
        (NETWORK, "advertisers_list", "44", "33", "other"),  # no network lies in another
        (NETWORK, "advertisers_list", None, None, "none"),
        (NETWORK, "advertiser_transactions_list", "706", "33", "network"),
        (NETWORK, "advertiser_transactions_list", "706", "44", "other"),
        (NETWORK, "advertiser_transactions_list", "706", None, "other"),
        (
            NETWORK,
            "advertiser_transactions_list",
            "33",
            None,
            "other",
        ),  # an advertiser with the network's number
        (ADVERTISER, "advertiser_transactions_list", "706", "33", "own"),
        (ADVERTISER, "affiliate_transactions_list", "706", "33", "other"),
        (ADVERTISER, "advertiser_transactions_list", "707", "33", "other"),
        (ADVERTISER, "network_transactions_list", "33", "33", "other"),
    ],
)
def test_the_relation_of_the_paths_account(account, operation, account_id, account_network, expected):
    assert relation(an_owner(account), CATALOGUE[operation], account_id, account_network) == expected


def test_an_operation_that_names_no_account_has_no_relation():
    nameless = Operation("x", "transactions", "read", None, "current", ("GET",), "/x", ("json",))
    assert relation(an_owner(), nameless, "33", "33") == "none"


# --- what is not a clean answer


def assert_alarm(policies, decision, caplog, text):
    assert (decision.allowed, decision.problem, decision.policies) == (False, "denied", ())
    assert text in decision.error
    assert policies.alarms == 1
    [record] = caplog.records
    assert (record.name, record.levelno) == ("gateway.policy", logging.ERROR)
    assert record.getMessage().startswith("policy-evaluation-error ")


@pytest.mark.parametrize("administrator", ["yes", 1])
def test_an_owner_that_does_not_fit_the_schema_is_denied_and_alarms(tmp_path, caplog, administrator):
    # The forbid reads the broken attribute only where the permit does not need it: without the schema Cedar
    # finds nothing wrong, and allows.
    policies = a_set(
        tmp_path,
        "permit (principal, action, resource);",
        'forbid (principal, action, resource) when { resource.id == "network_read" && principal.administrator };',
    )
    principal = a_principal(administrator=administrator)
    decision = policies.decide(principal, CATALOGUE["advertisers_list"], "own", ANY_MOMENT)
    assert_alarm(policies, decision, caplog, "does not conform to the schema")


def test_an_operation_that_lacks_an_attribute_is_denied_and_alarms(tmp_path, caplog, monkeypatch):
    policies = a_set(tmp_path, "permit (principal, action, resource);")
    whole = cedarpy.is_authorized

    def broken(request, policies, entities, schema):
        return whole(request, policies, re.sub(r', "status": "\w+"', "", entities), schema)

    monkeypatch.setattr(cedarpy, "is_authorized", broken)
    decision = policies.decide(a_principal(), CATALOGUE["advertisers_list"], "own", ANY_MOMENT)
    assert_alarm(policies, decision, caplog, "attribute `status`")


def without_relation(request):
    return {**request, "context": {k: v for k, v in request["context"].items() if k != "relation"}}


def test_a_context_without_the_relation_is_denied_and_alarms(tmp_path, caplog, monkeypatch):
    policies = a_set(tmp_path, "permit (principal, action, resource);")
    whole = cedarpy.is_authorized
    monkeypatch.setattr(cedarpy, "is_authorized", lambda r, *rest: whole(without_relation(r), *rest))
    decision = policies.decide(a_principal(), CATALOGUE["advertisers_list"], "own", ANY_MOMENT)
    assert_alarm(policies, decision, caplog, "relation")


def test_a_forbid_that_fails_to_evaluate_denies_and_alarms(tmp_path, caplog):
    policies = a_set(
        tmp_path,
        "permit (principal, action, resource);",
        "forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };",
    )
    decision = policies.decide(a_principal(), CATALOGUE["advertisers_list"], "own", ANY_MOMENT)
    assert_alarm(policies, decision, caplog, "overflow")


@pytest.mark.parametrize(
    "change",
    [
        {"role": "Super"},
        {"role": []},
        {"account": Account("publisher", "808", "33")},
        {"account": Account("network", 33, "33")},
        {"account": None},
    ],
)
def test_an_owner_no_policy_speaks_of_is_denied_and_alarms(tmp_path, caplog, change):
    policies = a_set(tmp_path, "permit (principal, action, resource);")
    principal = replace(a_principal(), owner=replace(an_owner(), **change))
    decision = policies.decide(principal, CATALOGUE["advertisers_list"], "own", ANY_MOMENT)
    assert_alarm(policies, decision, caplog, "")


def test_a_panic_of_the_engine_is_denied_and_alarms(shipped, caplog, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(*_):
        raise PanicException("index out of bounds")

    monkeypatch.setattr(cedarpy, "is_authorized", panic)
    policies = PolicySet.__new__(PolicySet)
    policies.__dict__.update(shipped.__dict__, alarms=0)
    decision = policies.decide(a_principal(), CATALOGUE["advertisers_list"], "own", ANY_MOMENT)
    assert_alarm(policies, decision, caplog, "index out of bounds")


def test_an_error_is_never_remembered(tmp_path, monkeypatch):
    policies = a_set(tmp_path, "permit (principal, action, resource);")
    asked = (a_principal(), CATALOGUE["advertisers_list"], "own", ANY_MOMENT)
    with monkeypatch.context() as broken:
        broken.setattr(cedarpy, "is_authorized", None)
        assert policies.decide(*asked).error
    assert policies.decide(*asked).allowed


def test_the_error_tells_no_entities(tmp_path, caplog):
    policies = a_set(tmp_path, "permit (principal, action, resource);")
    owner = Owner("pat@example.com", NETWORK, "member", "yes")
    decision = policies.decide(
        replace(a_principal(), owner=owner), CATALOGUE["advertisers_list"], "own", ANY_MOMENT
    )
    assert '"attrs"' not in decision.error + caplog.text


# --- explain


def test_explain_decides_as_decide_does_and_tells_of_every_policy(shipped):
    asked = (a_principal(account=ADVERTISER), CATALOGUE["advertisers_list"], "other", ANY_MOMENT)
    explanation = shipped.explain(*asked)
    assert explanation.decision == shipped.decide(*asked)
    about_calls = [part.ref for part in shipped.parts if "call" in part.actions]
    assert [c.policy for c in explanation.considered] == about_calls
    assert len(about_calls) == len(shipped.policies) - 2  # those about columns have nothing to say here
    assert [c.policy.id for c in explanation.considered if c.matched] == [
        "network-integration-for-network-users"
    ]
    assert all(c.failed for c in explanation.considered if not c.matched)


def test_explain_tells_a_default_deny_by_the_permits_that_came_nearest(shipped):
    legacy = shipped.explain(a_principal(role="super"), CATALOGUE["legacy_affiliate_campaigns_list"], "own")
    [nearest] = legacy.nearest()
    assert nearest.policy.id == "network-integration-read"
    assert nearest.failed == ('resource.status == "current"',)
    assert "nearest:\n    network-integration-read, but for: resource.status" in explanation_text(legacy)


def test_explain_shows_conditions_as_they_are_written(tmp_path):
    policies = a_set(
        tmp_path,
        'forbid (principal is User, action, resource == Operation::"network_read")\n'
        'when { // who\n  principal.role == "super"\n  && (true || false)  // what\n}\n'
        'unless { resource.api == "transactions" || context.relation == "own" };',
    )
    [considered] = policies.explain(a_principal(), CATALOGUE["advertisers_list"], "own").considered
    assert considered.failed == (
        '(principal is User, action, resource == Operation::"network_read")',
        'principal.role == "super"',
        'unless context.relation == "own"',
    )


def test_conditions_that_bind_more_loosely_are_kept_whole(tmp_path):
    body = 'principal.role == "super" && true || context.relation == "other"'
    policies = a_set(tmp_path, f"permit (principal, action, resource) when {{ {body} }};")
    [considered] = policies.explain(a_principal(), CATALOGUE["advertisers_list"], "own").considered
    assert considered.failed == (body,)


def test_explain_survives_a_failed_evaluation(shipped):
    explanation = shipped.explain(a_principal(administrator="yes"), CATALOGUE["network_read"], "own")
    assert explanation.considered == explanation.nearest() == ()
    assert "could not be evaluated" in explanation_text(explanation)


def test_an_explanation_as_a_script_reads_it(shipped):
    allowed = shipped.explain(a_principal(), CATALOGUE["network_read"], "own")
    [policy] = allowed.decision.policies
    assert explanation_as_dict(allowed, {"pii": 2}) == {
        "decision": "allow",
        "operation": "network_read",
        "policies": [
            {
                "id": "network-integration-read",
                "effect": "permit",
                "reason": policy.reason,
                "source": policy.source,
                "file": "policies/access.cedar",
                "line": policy.line,
            }
        ],
        "withheld": ["pii"],
        "withheld_columns": {"pii": 2},
    }
    narrow = shipped.explain(a_principal("reveal:pii"), CATALOGUE["network_read"], "own")
    document = explanation_as_dict(narrow)
    assert (document["decision"], document["problem"], document["missing_scope"]) == (
        "deny",
        "insufficient-scope",
        "network:read",
    )


def test_an_explanation_as_a_person_reads_it(shipped):
    text = explanation_text(
        shipped.explain(a_principal(account=ADVERTISER), CATALOGUE["advertisers_list"], "other")
    )
    first, second, third, fourth = text.splitlines()[:4]
    assert first == "deny (denied): advertisers_list (network_integration, read), relation other"
    assert re.fullmatch(r"  forbid network-integration-for-network-users  policies/vendor\.cedar:\d+", second)
    assert third == "    Only a network user's token may call the Network Integration API."
    assert fourth.startswith("    P3, Manage API Credentials: ")
