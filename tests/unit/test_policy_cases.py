"""The cases that go with the policies, and how a case, an invariant or a file of them fails."""

import re
import shutil

import pytest

from gateway.cases import check_invariants, run_cases, untested
from gateway.compile import compile
from gateway.operation import Catalogue
from gateway.policy import PolicySet, packaged
from gateway.policyfile import split
from gateway.tomlfile import ConfigError

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
CASE = """
[[case]]
name = "an advertiser on the Network Integration API"
principal = { kind = "advertiser", account = "706", scopes = ["transactions:read"] }
request = "GET /api/2022-08-01/33/advertisers.json"
expect = "deny"
policies = ["network-integration-for-network-users"]
"""


@pytest.fixture(scope="module")
def shipped():
    return PolicySet.load(operations=CATALOGUE.variants())


def run(policies, folder, text, name="own.toml"):
    (folder / "cases").mkdir(exist_ok=True)
    (folder / "cases" / name).write_text(text, "utf-8")
    return run_cases(policies, CATALOGUE, folder)


def without(folder, policy_id):
    """A copy of the shipped set that lacks one policy."""
    shutil.copytree(packaged(), folder)
    for path in folder.glob("*.cedar"):
        pieces = split(path.read_text("utf-8"))
        path.write_text("".join(p.text for p in pieces if f'@id("{policy_id}")' not in p.text), "utf-8")
    return folder


def test_the_shipped_policies_do_what_their_cases_say(shipped):
    results = run_cases(shipped, CATALOGUE)
    assert len(results) > 70
    assert [str(result) for result in results if not result.passed] == []
    assert untested(shipped, results) == ()


def test_each_policy_has_cases_on_both_sides():
    text = "".join(path.read_text("utf-8") for path in (packaged() / "cases").glob("*.toml"))
    for expect in ("allow", "deny", "insufficient-scope"):
        assert f'expect = "{expect}"' in text
    for policy in PolicySet.load(operations=CATALOGUE.variants()).policies:
        sections = re.split(r"\n# ", text)
        about = [section for section in sections if f'"{policy.id}"' in section]
        assert any('"allow"' in s and ('"deny"' in s or '"insufficient-scope"' in s) for s in about), (
            policy.id
        )


@pytest.mark.parametrize(
    "policy", PolicySet.load(operations=CATALOGUE.variants()).policies, ids=lambda p: p.id
)
def test_a_policy_that_goes_missing_is_noticed_by_a_case(tmp_path, policy):
    folder = without(tmp_path / "policies", policy.id)
    policies = PolicySet.load(folder, operations=CATALOGUE.variants())
    assert any(not result.passed for result in run_cases(policies, CATALOGUE, folder))


def test_a_case_that_passes_says_which_policies_it_is_about(shipped, tmp_path):
    [result] = run(shipped, tmp_path, CASE)
    assert result.passed
    assert result.policies == ("network-integration-for-network-users",)
    assert [p.id for p in untested(shipped, [result])] == [
        p.id for p in shipped.policies if p.id != "network-integration-for-network-users"
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ('"deny"', '"allow"'),
            "expected allow by network-integration-for-network-users, got deny by network-",
        ),
        (
            ('policies = ["', 'policies = ["own-account-only", "'),
            "expected deny by network-integration-for-network-",
        ),
        (
            ('["network-integration-for-network-users"]', "[]"),
            "expected deny by no policy, got deny by network-",
        ),
        (
            ("33/adv", "33/avd"),
            "no policy is asked about GET /api/2022-08-01/33/avdertisers.json: unknown-operation",
        ),
        (
            ("33/adv", "33//adv"),
            "no policy is asked about GET /api/2022-08-01/33//advertisers.json: bad-target",
        ),
    ],
)
def test_a_case_that_fails_says_what_came(shipped, tmp_path, change, expected):
    [result] = run(shipped, tmp_path, CASE.replace(*change))
    assert not result.passed
    begins = f"{tmp_path}/cases/own.toml:2: an advertiser on the Network Integration API: {expected}"
    assert str(result).startswith(begins)


def test_a_case_need_not_name_policies(shipped, tmp_path):
    [result] = run(shipped, tmp_path, CASE.rpartition("policies")[0])
    assert (result.passed, result.policies) == (True, ())


def test_a_case_whose_evaluation_fails_does_not_pass_as_a_denial(tmp_path):
    policies = write_one(
        tmp_path, "forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };"
    )
    [result] = run(policies, tmp_path, CASE.rpartition("policies")[0])
    assert not result.passed
    assert "overflow" in result.text


def write_one(folder, text):
    (folder / "one.cedar").write_text('@id("one") @source("s") @reason("r") ' + text, "utf-8")
    return PolicySet.load(folder, operations=CATALOGUE.variants())


SEEN = """
[[case]]
name = "who sees what"
principal = { kind = "network", account = "33", role = "super", scopes = ["transactions:read", "reveal:pii"] }
request = "GET /api/2020-10-01/networks/transactions/33.json"
expect = "allow"
reveal = ["public", "pii"]
reveal_policies = ["public-columns", "sensitive-columns"]
"""


def test_a_case_asserts_what_may_be_seen_and_why(shipped, tmp_path):
    [result] = run(shipped, tmp_path, SEEN)
    assert (result.passed, result.policies) == (True, ("public-columns", "sensitive-columns"))
    [result] = run(shipped, tmp_path, SEEN.replace('["public", "pii"]', '["public"]'))
    assert "expected public columns to be seen by" in result.text
    assert "got pii, public columns to be seen by public-columns, sensitive-columns" in result.text
    [result] = run(shipped, tmp_path, SEEN.replace(', "sensitive-columns"]', "]"))
    assert not result.passed


def test_a_case_has_a_moment_and_a_token(tmp_path):
    policies = write_one(
        tmp_path,
        'permit (principal, action == Action::"call", resource) when { context.weekday == "monday" && '
        'context.token == "tok_x" && context.client.isInRange(ip("10.0.0.0/8")) };',
    )
    text = """[[case]]
name = "on a Monday"
principal = { kind = "advertiser", account = "706", scopes = ["network:read"], token = "tok_x" }
request = "GET /api/2022-08-01/33/advertisers.json"
at = "2026-11-23T23:59:59Z"
client = "10.0.0.9"
expect = "allow"
"""
    for decides in (policies, compile(policies, CATALOGUE.variants())):
        assert run(decides, tmp_path, text)[0].passed
        for change in (("23T", "24T"), ("10.0.0.9", "11.0.0.9"), ("tok_x", "tok_y"), ("Z", "-01:00")):
            assert not run(decides, tmp_path, text.replace(*change))[0].passed


def test_cases_say_the_same_of_the_table(shipped):
    results = run_cases(compile(shipped, CATALOGUE.variants()), CATALOGUE)
    assert [str(result) for result in results if not result.passed] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("expect =", 'at = "now"\nexpect ='), "6: case.0.at: expected a time such as"),
        (("expect =", 'at = "2026-11-24"\nexpect ='), "6: case.0.at: expected a time with its zone"),
        (("expect =", 'client = "here"\nexpect ='), "6: case.0.client: expected an IP address"),
        (("expect =", 'reveal = ["secret"]\nexpect ='), "6: case.0.reveal"),
        (('"advertiser"', '"publisher"'), "4: case.0.principal.kind: expected one of network"),
        (
            ('"transactions:read"', '"transactions"'),
            "4: case.0.principal.scopes: there is no scope 'transactions'",
        ),
        (('"deny"', '"refuse"'), "6: case.0.expect: expected one of allow, deny, insufficient-scope"),
        (("policies", "policy"), "7: case.0.policy: is not a setting (did you mean policies?)"),
        (('"GET ', '"'), "5: case.0.request: expected a method and a target"),
        (("expect", "expect ="), "6: not TOML"),
        (
            ("\n[[case]]", CASE + "[[case]]"),
            "8: an advertiser on the Network Integration API: this name is taken",
        ),
    ],
)
def test_a_case_that_cannot_be_read_is_refused_with_its_line(shipped, tmp_path, change, expected):
    with pytest.raises(ConfigError) as caught:
        run(shipped, tmp_path, CASE.replace(*change, 1))
    assert str(caught.value).startswith(f"{tmp_path}/cases/own.toml:{expected}")


def test_local_cases_are_run_too(shipped, tmp_path):
    run(shipped, tmp_path, CASE)
    both = run_cases(shipped, CATALOGUE, None, tmp_path)
    assert len(both) == len(run_cases(shipped, CATALOGUE)) + 1


# --- invariants


def held(policies):
    return check_invariants(compile(policies, CATALOGUE.variants()), policies.invariants)


def test_no_invariant_is_broken_by_the_shipped_set(shipped):
    results = held(shipped)
    assert [(result.passed, result.text) for result in results] == [(True, "")] * 6


def test_a_broken_invariant_shows_a_request(tmp_path):
    text = 'permit (principal, action, resource == Operation::"advertisers_list");'
    policies = write_one(tmp_path, text)
    results = {result.name: result for result in held(policies)}
    assert [result.passed for result in results.values()] == [False, False, True, True, True, True]
    assert results["network-integration-network-only"].text == (
        "broken by one: GET /api/2022-08-01/advertisers.json would be allowed to super of advertiser:706"
    )
    assert results["no-foreign-account"].text == (
        "broken by one: GET /api/2022-08-01/advertisers.json would be allowed to super of network:33"
    )


def test_an_invariant_holds_whatever_the_scopes(tmp_path):
    policies = write_one(tmp_path, "permit (principal, action, resource);")
    broken = {r.name for r in held(policies) if not r.passed}
    assert "nobody-for-somebody-else" in broken
