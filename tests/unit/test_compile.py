"""Compiling: what cannot be judged apart is judged whole, what cannot be judged is refused, and all within bounds."""

import pytest

from gateway import compile as compiling
from gateway.compile import compile
from gateway.model import Account, Owner
from gateway.operation import Catalogue
from gateway.policy import ANY_MOMENT, PolicySet, packaged
from gateway.table import Table
from gateway.tomlfile import ConfigError

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
OPERATIONS = CATALOGUE.variants()
CALL = 'principal, action == Action::"call", resource'
READ = CATALOGUE["advertisers_list"]
OVERFLOW = "9223372036854775807 + 1 > 0"
OWNER = Owner("7", Account("network", "33", "33"), "super", False)


def a_set(folder, *policies):
    for number, text in enumerate(policies):
        (folder / f"{number}.cedar").write_text(
            f'\n@id("p{number}") @source("s") @reason("r")\n{text}', "utf-8"
        )
    return PolicySet.load(folder, operations=OPERATIONS)


def faults(made):
    with pytest.raises(ConfigError) as caught:
        compile(made, OPERATIONS)
    return [str(fault) for fault in caught.value.faults]


def test_a_policy_that_fails_to_evaluate_is_refused_with_file_and_line(tmp_path):
    made = a_set(
        tmp_path, f"permit ({CALL});", f'forbid ({CALL}) when {{ principal.role == "super" && {OVERFLOW} }};'
    )
    [fault] = faults(made)
    assert fault.startswith(f"{tmp_path}/1.cedar:2: p1: fails to evaluate: ")
    assert "overflow" in fault


@pytest.mark.parametrize(
    ("policy", "calls", "sees"),
    [
        (
            'permit (principal, action, resource) when { resource is Operation && resource.effect == "read" };',
            ["p0"], [],
        ),
        (
            'permit (principal, action, resource) when { resource has effect } when { resource.effect == "read" };',
            ["p0"], [],
        ),
        (f"permit (principal, action, resource) when {{ false && {OVERFLOW} }};", [], []),
    ],
)  # fmt: skip
def test_a_condition_that_leans_on_one_before_it_is_judged_with_it(tmp_path, policy, calls, sees):
    made = a_set(tmp_path, policy)
    table = compile(made, OPERATIONS)
    decision = table.owner_may(OWNER, READ, "own", ANY_MOMENT)
    assert [policy.id for policy in decision.policies] == calls
    assert decision == made.evaluate(OWNER, READ, "own", ANY_MOMENT, "")
    assert [policy.id for policy in table.owner_may(OWNER, "pii", "own", ANY_MOMENT).policies] == sees


def test_a_live_policy_may_lean_too(tmp_path):
    made = a_set(
        tmp_path,
        "permit (principal, action, resource) when { resource is Operation && "
        'resource.effect == "read" && context.client.isLoopback() };',
    )
    table = compile(made, OPERATIONS)
    for asked in (READ, "pii"):
        for client in ("127.0.0.1", "192.0.2.1"):
            moment = compiling.Moment(0, client)
            assert table.owner_may(OWNER, asked, "own", moment) == made.evaluate(
                OWNER, asked, "own", moment, ""
            )


def test_a_table_that_says_otherwise_than_the_engine_is_refused(tmp_path, monkeypatch):
    made = a_set(
        tmp_path, f'permit ({CALL}) when {{ principal.role == "super" && resource.effect == "write" }};'
    )
    lost = compiling._lost

    def forgetful(judged):
        return {paths: keys for paths, keys in lost(judged).items() if "resource.effect" not in paths}

    monkeypatch.setattr(compiling, "_lost", forgetful)
    assert "the compiled table and the engine disagree: " in faults(made)[0]


def test_a_live_policy_that_fails_where_it_is_tried_is_refused(tmp_path):
    made = a_set(tmp_path, f'forbid ({CALL}) when {{ context.now < datetime("2027-01-01") && {OVERFLOW} }};')
    assert "fails to evaluate" in faults(made)[0]


# --- bounds


def test_too_many_ids_told_apart_are_refused_with_what_to_do(tmp_path):
    made = a_set(
        tmp_path,
        *(
            f'permit ({CALL}) when {{ principal.id == "u{n}" && resource == Operation::"{OPERATIONS[n].id}" }};'
            for n in range(50)
        ),
        *(
            f'forbid ({CALL}) when {{ context.token == "t{n}" && resource == Operation::"{OPERATIONS[n].id}" }};'
            for n in range(50)
        ),
    )
    [fault] = faults(made)
    assert f"{tmp_path}/" in fault
    assert (
        "the policies tell apart too many ids: 50 principal.id, 50 context.token make 2,601 combinations"
        in fault
    )
    assert "Name fewer, or treat them alike" in fault


def test_many_ids_that_are_treated_alike_are_one(tmp_path):
    several = ", ".join(f'"{number}"' for number in range(1_000))
    table = compile(
        a_set(tmp_path, f"permit ({CALL}) when {{ [{several}].contains(principal.id) }};"), OPERATIONS
    )
    assert len(table.names.users) == 1_000
    assert len(table.names.points("network")) == 2
    assert table.owner_may(OWNER, READ, "own", ANY_MOMENT).allowed


def test_a_condition_that_reads_too_much_at_once_is_refused(tmp_path):
    paths = ["principal.id", "principal.account.id", "principal.account.network"]
    several = ", ".join(f'"{number}"' for number in range(40))
    body = " || ".join(f"[{several}].contains({path})" for path in paths)
    [fault] = faults(a_set(tmp_path, f"permit ({CALL}) when {{ {body} }};"))
    assert fault.startswith(f"{tmp_path}/0.cedar:2: p0: takes 68,921 questions to compile, of at most 40,000")


def test_a_set_that_takes_too_much_in_all_is_refused_at_the_policy_that_takes_most(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "MAX_QUESTIONS", 20)
    made = a_set(
        tmp_path,
        f'permit ({CALL}) when {{ principal.role == "super" || principal.account.kind == "network" }};',
        f'permit ({CALL}) when {{ principal.role == "super" || context.relation == "own" }};',
    )
    [fault] = faults(made)
    assert fault.startswith(
        f"{tmp_path}/1.cedar:2: p1: takes 16 questions to compile, and the set 29, of at most 20"
    )


def test_a_policy_that_is_judged_whole_has_the_same_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "MAX_QUESTIONS", 40)
    body = 'resource is Operation && resource.effect == "read" && principal.role == "super" && '
    body += 'context.relation == "own"'
    [fault] = faults(a_set(tmp_path, f"permit (principal, action, resource) when {{ {body} }};"))
    assert fault.startswith(f"{tmp_path}/0.cedar:2: p0: takes ")


def test_the_shipped_set_takes_few_questions(monkeypatch):
    made = PolicySet.load(operations=OPERATIONS)
    space = compiling._Space(OPERATIONS)
    groups = compiling._together(compiling._questions(made))
    assert sum(group[0].count(space) for group in groups) < 200
    assert isinstance(compile(made, OPERATIONS), Table)
