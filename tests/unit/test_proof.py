"""What may never be, shown by a request that someone could send when a set would allow it."""

import re
import shutil

import pytest

from gateway.compile import compile
from gateway.model import ACCOUNT_KINDS, RELATIONS, Account, Owner
from gateway.operation import Catalogue
from gateway.policy import PolicySet, packaged, relation
from gateway.policyfile import Invariant, split
from gateway.proof import prove, reachable, request_line
from gateway.target import judge

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
OPERATIONS = CATALOGUE.variants()
CALL = 'principal, action == Action::"call", resource'
EVERYTHING = (
    '\n@id("everything") @source("a test") @reason("because")\npermit (principal, action, resource);\n'
)
VENDOR = [
    re.search(r'@id\("([^"]+)"\)', piece.text)[1]
    for piece in split((packaged() / "vendor.cedar").read_text("utf-8"))
]


def broken(policies):
    return {found.invariant.id: found for found in prove(compile(policies, OPERATIONS), policies.invariants)}


def a_set(folder, *policies):
    for number, text in enumerate(policies):
        (folder / f"{number}.cedar").write_text(
            f'@id("p{number}") @source("s") @reason("r")\n{text}', "utf-8"
        )
    return PolicySet.load(folder, operations=OPERATIONS)


def never(policies, **when):
    """Whether these policies keep to an invariant of the test's own, and how not."""
    kind = when.pop("never", "allow")
    words = {key: (value,) if isinstance(value, str) else value for key, value in when.items()}
    own = Invariant("own", kind, words, "r", "s", "f", 1)
    return [found.text for found in prove(compile(policies, OPERATIONS), [own])]


def without(folder, policy_id):
    """A copy of the shipped set in which everything is permitted, and one of the vendor's rules is missing."""
    shutil.copytree(packaged(), folder)
    pieces = split((folder / "vendor.cedar").read_text("utf-8"))
    (folder / "vendor.cedar").write_text(
        "".join(piece.text for piece in pieces if f'@id("{policy_id}")' not in piece.text), "utf-8"
    )
    with (folder / "access.cedar").open("a") as access:
        access.write(EVERYTHING)
    return PolicySet.load(folder, operations=OPERATIONS)


def test_permitting_everything_opens_nothing_that_the_vendor_rules_out(tmp_path):
    (tmp_path / "own.cedar").write_text(EVERYTHING)
    policies = PolicySet.load(local=tmp_path, operations=OPERATIONS)
    found = broken(policies)
    assert set(found) == {"destroy-and-publish-by-super-and-manager", "no-foreign-columns"}
    text = found["destroy-and-publish-by-super-and-manager"].text
    assert re.fullmatch(
        r"broken by everything: (GET|PUT|POST|DELETE) /api/\S+ would be allowed to member of network:33", text
    )
    text = found["no-foreign-columns"].text
    assert re.fullmatch(
        r"broken by everything: GET /api/\S+/99\.csv: pii columns of the answer would be shown to super of network:33",
        text,
    )


GUARDS = {
    "network-integration-for-network-users": "network-integration-network-only",
    "own-account-only": "no-foreign-account",
    "own-network-only": "no-foreign-account",
    "name-the-network": "no-foreign-account",
    "observers-only-look": "observers-change-nothing",
    "no-login-for-somebody-else": "nobody-for-somebody-else",
}


def test_every_rule_of_the_vendor_has_an_invariant_that_guards_it():
    assert set(GUARDS) == set(VENDOR)


@pytest.mark.parametrize("policy_id", VENDOR)
def test_the_loss_of_a_vendor_rule_is_shown_when_everything_is_permitted(tmp_path, policy_id):
    assert GUARDS[policy_id] not in broken(without(tmp_path / "whole", "none of them"))
    found = broken(without(tmp_path / "cut", policy_id))[GUARDS[policy_id]]
    assert [policy.id for policy in found.policies][-1] == "everything"
    method, _, target = found.request.partition(" ")
    call = CATALOGUE.identify(method, judge(target, ""))
    assert (call.operation.id, call.operation.api) == (found.asked.id, found.asked.api)
    stored = found.owner.account.network if found.relation == "network" else None
    assert relation(found.owner, call.operation, call.account_id, stored) == found.relation


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
def test_a_request_line_comes_to_the_cell_it_is_for(kind):
    account = Account(kind, {"network": "33", "advertiser": "706", "affiliate": "808"}[kind], "33")
    owner = Owner("1", account, "super", False)
    seen = 0
    for operation in OPERATIONS:
        for related in RELATIONS:
            if not reachable(kind, operation, related):
                continue
            seen += 1
            method, _, target = request_line(owner, operation, related).partition(" ")
            call = CATALOGUE.identify(method, judge(target, ""))
            assert call.operation.id == operation.id
            stored = "33" if related == "network" else "44"
            assert relation(owner, call.operation, call.account_id, stored) == related
    assert seen > 100


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
def test_what_no_request_comes_to_is_known(kind):
    owner = Owner("1", Account(kind, "33", "33"), "super", False)
    for operation in OPERATIONS:
        for account_id in ("33", "44"):
            for stored in ("33", "44", None):
                assert reachable(kind, operation, relation(owner, operation, account_id, stored))


def test_a_named_id_is_part_of_the_example(tmp_path):
    policies = a_set(
        tmp_path,
        f'permit ({CALL}) when {{ principal.id == "13" && context.token == "tok_x" && resource.effect == "write" }};',
    )
    [text] = never(policies, kind="network", effect="write", relation="own")
    assert text.endswith(" would be allowed to super of network:33 (user 13, token tok_x)")
    policies = a_set(
        tmp_path,
        f'permit ({CALL}) when {{ principal.account.network == "44" && context.relation == "own" }};',
    )
    [text] = never(policies, kind="network", effect="read")
    assert "/44" in text
    assert text.endswith("to super of network:44 (network 44)")


def test_an_account_that_is_refused_by_name_leaves_the_others(tmp_path):
    policies = a_set(
        tmp_path,
        f"permit ({CALL});",
        f'forbid ({CALL}) when {{ ["706", "707"].contains(principal.account.id) }};',
    )
    [text] = never(policies, kind="advertiser", api="transactions", relation="own")
    assert "/708.csv would be allowed to super of advertiser:708" in text


def test_what_makes_a_change_a_deletion_is_told(tmp_path):
    policies = a_set(
        tmp_path,
        f'permit ({CALL}) when {{ resource.id == "advertiser_update" && context.relation == "own" }};',
    )
    [text] = never(policies, effect="destroy", operation="advertiser_update", kind="network")
    assert re.search(r'PUT /api/\S+ would be allowed to .* \(with "\w+" in its body\)$', text)


def test_a_live_policy_counts_as_the_worst_it_can_be(tmp_path):
    permit = f'permit ({CALL}) when {{ resource.effect == "publish" && context.weekday == "monday" }};'
    [text] = never(a_set(tmp_path, permit), effect="publish", relation="own")
    assert text.endswith(", at some time or from some address")
    live_forbid = f'forbid ({CALL}) when {{ context.client.isInRange(ip("0.0.0.0/0")) }};'
    assert never(a_set(tmp_path, permit, live_forbid), effect="publish", relation="own")
    forbid = f'forbid ({CALL}) when {{ resource.effect == "publish" }};'
    assert not never(a_set(tmp_path, permit, live_forbid, forbid), effect="publish", relation="own")


def test_a_cell_that_no_request_comes_to_counts_and_says_so(tmp_path):
    policies = a_set(
        tmp_path,
        f'permit ({CALL}) when {{ principal.account.kind == "advertiser" && context.relation == "network" }};',
    )
    [text] = never(policies, relation="network")
    assert "no request leads there today" in text


def test_what_is_never_seen(tmp_path):
    policies = a_set(
        tmp_path,
        'permit (principal, action == Action::"see", resource) when { principal.role == "observer" };',
    )
    [text] = never(policies, never="see", role="observer", **{"class": ("pii",)})
    assert "pii columns of the answer would be shown to observer of network:33" in text
    assert not never(policies, never="see", role="super")
    assert not never(policies, role="observer")


def test_an_invariant_narrows_by_every_dimension(tmp_path):
    policies = a_set(
        tmp_path,
        f'permit ({CALL}) when {{ principal.account.kind == "network" && principal.role == "super" && '
        'principal.administrator && resource == Operation::"advertisers_list" && context.relation == "own" };',
    )
    hit = {
        "kind": "network", "role": "super", "administrator": (True,), "relation": "own", "api": "network_integration",
        "effect": "read", "status": "current", "operation": "advertisers_list",
    }  # fmt: skip
    assert never(policies, **hit)
    for key, other in {
        "kind": "affiliate", "role": "manager", "administrator": (False,), "relation": "other", "api": "transactions",
        "effect": "write", "status": "legacy", "operation": "network_read",
    }.items():  # fmt: skip
        assert not never(policies, **{**hit, key: other})
