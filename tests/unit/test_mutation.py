"""Mutants of a policy set: what each one is, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway import policyfile
from gateway.load import load_catalogue
from gateway.mutation import judge, mutants, verdicts_as_dict, verdicts_text
from gateway.policyfile import anatomy, reread, split
from gateway.shipped import packaged

OPERATIONS = load_catalogue().variants()
LOADED = policyfile.read(packaged(), None, OPERATIONS)


def reads(policy, text):
    return reread(policy, text, LOADED.schema, OPERATIONS)


def only(policy_id):
    return [policy for policy in LOADED.policies if policy.ref.id == policy_id]


def test_a_policy_is_deleted_inverted_and_changed_part_by_part():
    found = list(mutants(only("observers-only-look"), reads))
    assert [mutant.change for mutant in found] == [
        "deleted",
        "inverted to permit",
        'without: principal.role == "observer"',
        'negated: principal.role == "observer"',
        'without: unless resource.effect == "read"',
        'negated: unless resource.effect == "read"',
    ]
    assert [mutant.whole for mutant in found] == [True, True, False, False, False, False]
    assert found[0].policies == ()
    ((inverted,), (dropped,), (negated,)) = (found[n].policies for n in (1, 2, 3))
    assert (inverted.ref.effect, inverted.ref.id) == ("permit", "observers-only-look")
    assert "when" not in dropped.text.partition("forbid (")[2]
    assert '!(principal.role == "observer")' in negated.text


def test_each_mutant_of_the_shipped_set_changes_one_policy_and_no_other():
    ids = [policy.ref.id for policy in LOADED.policies]
    for mutant in mutants(LOADED.policies, reads):
        assert mutant.policies is not None, (mutant.policy.id, mutant.change)
        kept = [policy.ref.id for policy in mutant.policies]
        others = [policy for policy in LOADED.policies if policy.ref.id != mutant.policy.id]
        assert [policy for policy in mutant.policies if policy.ref.id != mutant.policy.id] == others
        assert kept == ids or mutant.change == "deleted"


@pytest.mark.parametrize("policy", LOADED.policies, ids=lambda policy: policy.ref.id)
def test_a_policy_put_together_again_is_the_same_policy(policy):
    (piece,) = split(policy.text)
    again = reads(policy, anatomy(piece).text())
    assert again is not None
    assert [c.shown for c in again.conditions] == [c.shown for c in policy.conditions]
    assert (again.ref.effect, again.reads, again.actions) == (policy.ref.effect, policy.reads, policy.actions)


def test_a_change_that_does_not_pass_the_checks_is_noticed_by_them():
    (policy,) = only("observers-only-look")
    assert reads(policy, policy.text.replace("principal.role", "principal.rule")) is None
    assert reads(policy, policy.text + policy.text) is None
    (verdict,) = judge(
        [replace(next(mutants([policy], reads)), policies=None)], lambda _: None, lambda _: True
    )
    assert (verdict.fate, verdict.by) == ("noticed", "the checks at load")


def fates(noticed, differs):
    found = mutants(only("no-login-for-somebody-else"), reads)
    return [verdict.fate for verdict in judge(found, lambda _: noticed, lambda _: differs)]


def test_what_nothing_notices_survives_unless_it_changes_nothing():
    assert fates("a case", True) == ["noticed"] * 4
    assert fates(None, True) == ["survived"] * 4
    # A policy that can go, or be turned round, without any difference is one that nobody tests.
    assert fates(None, False) == ["survived", "survived", "equivalent", "equivalent"]


def test_survivors_are_named_with_their_place():
    found = list(judge(mutants(only("no-login-for-somebody-else"), reads), lambda _: None, lambda _: False))
    where = f"policies/vendor.cedar:{found[0].policy.line}: no-login-for-somebody-else"
    assert verdicts_text(found).splitlines() == [
        f"{where}: no case and no invariant notices: deleted",
        f"{where}: no case and no invariant notices: inverted to permit",
        "4 mutants: 0 noticed, 2 equivalent, 2 survived",
    ]
    assert [entry["change"] for entry in verdicts_as_dict(found)["survivors"]] == [
        "deleted",
        "inverted to permit",
    ]
