"""The table: what hangs on who asks, or on the moment, and what happens when an answer cannot be had."""

import logging
import math
import pickle

import pytest

from gateway.compile import compile
from gateway.model import COLUMN_CLASSES, SCOPES, Account, Moment, Owner, Principal
from gateway.operation import Catalogue
from gateway.policy import ANY_MOMENT, Engine, PolicySet, packaged
from gateway.table import Names, Table

CATALOGUE = Catalogue.load((packaged() / "operations.toml").read_text("utf-8"), "operations.toml")
OPERATIONS = CATALOGUE.variants()
READ, UPDATE = CATALOGUE["advertisers_list"], CATALOGUE["advertiser_update"]
NETWORK = Account("network", "33", "33")
ADVERTISER = Account("advertiser", "706", "33")
CALL = 'principal, action == Action::"call", resource'
MONDAY, TUESDAY = 1_795_392_000.0, 1_795_478_400.0  # 2026-11-23 and 24, at midnight


def an_owner(account=NETWORK, role="super", user="7"):
    return Owner(user, account, role, False)


def a_principal(*scopes, owner=None, token="tok_a"):
    return Principal(token, owner or an_owner(), frozenset(scopes or SCOPES), 0)


def a_table(folder, *policies):
    """The table of a set of these policies alone, each written without its annotations."""
    for number, text in enumerate(policies):
        (folder / f"{number}.cedar").write_text(
            f'@id("p{number}") @source("s") @reason("r")\n{text}', "utf-8"
        )
    return compile(PolicySet.load(folder, operations=OPERATIONS), OPERATIONS)


@pytest.fixture(scope="module")
def shipped():
    return compile(PolicySet.load(operations=OPERATIONS), OPERATIONS)


def ids(decision):
    return [policy.id for policy in decision.policies]


def test_the_owner_is_judged_first_and_the_scopes_last(shipped):
    assert ids(shipped.decide(a_principal(), READ, "own", ANY_MOMENT)) == ["network-integration-read"]
    decision = shipped.decide(a_principal("network:read"), UPDATE, "own", ANY_MOMENT)
    assert (decision.problem, decision.missing_scope) == ("insufficient-scope", "network:write")
    assert ids(decision) == ["network-integration-write"]
    decision = shipped.decide(a_principal("network:read"), UPDATE, "other", ANY_MOMENT)
    assert (decision.problem, ids(decision)) == ("denied", ["own-network-only"])


def test_what_may_be_seen_is_the_owners_and_cut_down_by_the_scopes(shipped):
    assert shipped.visible(a_principal(), "own", ANY_MOMENT) == set(COLUMN_CLASSES)
    assert shipped.visible(a_principal("reveal:pii"), "network", ANY_MOMENT) == {"public", "pii"}
    assert shipped.visible(a_principal("reveal:pii"), "other", ANY_MOMENT) == {"public"}
    assert shipped.visible(a_principal("network:read"), "own", ANY_MOMENT) == {"public"}
    member = a_principal(owner=an_owner(role="member"))
    assert shipped.visible(member, "own", ANY_MOMENT) == {"public"}


# --- who asks


def test_a_named_id_is_a_point_of_its_own(tmp_path):
    table = a_table(
        tmp_path,
        f'permit ({CALL}) when {{ ["706", "707"].contains(principal.account.id) }};',
        'forbid (principal == User::"13", action == Action::"call", resource);',
        f'forbid ({CALL}) when {{ context.token == "tok_x" && resource.effect == "write" }};',
    )

    def asked(account="706", user="7", token="tok_a", operation=READ):
        owner = an_owner(Account("advertiser", account, "33"), user=user)
        return ids(table.decide(a_principal(owner=owner, token=token), operation, "own", ANY_MOMENT))

    assert asked() == asked(account="707") == asked(token="tok_x") == ["p0"]
    assert asked(account="708") == []
    assert asked(user="13") == ["p1"]
    assert asked(token="tok_x", operation=UPDATE) == ["p2"]
    assert asked(user="13", token="tok_x", operation=UPDATE) == ["p1", "p2"]


def test_ids_that_no_policy_tells_apart_are_one_point(tmp_path):
    table = a_table(
        tmp_path,
        f'permit ({CALL}) when {{ ["1", "2", "3"].contains(principal.account.id) }};',
        f'forbid ({CALL}) when {{ principal.account.id == "3" || principal.account.id == "4" || true }};',
    )
    assert table.names.accounts == {"1": "1", "2": "1", "3": "1"}
    assert {cell.account for cell in table.cells()} == {None, "1"}


def test_a_network_is_its_own_account(tmp_path):
    table = a_table(
        tmp_path,
        f'permit ({CALL}) when {{ principal.account.id == "33" || principal.account.network == "44" }};',
    )
    assert set(table.names.points("network")) == {
        (None, None, None, None), (None, "33", None, None), (None, None, "44", None),
    }  # fmt: skip
    assert len(table.names.points("advertiser")) == 4
    for at in table.names.points("network"):
        owner, token = table.names.example("network", "super", False, at)
        assert owner.account.id == owner.account.network
        assert table.names.point(owner, token) == at


def test_two_sets_are_held_side_by_side_over_the_names_of_both():
    old = Names(users={"a": "a", "b": "a"})
    new = Names(users={"a": "a"}, tokens={"t": "t"})
    both = old.beside(new)
    assert both.users == {"a": "a", "b": "b"}
    assert both.tokens == {"t": "t"}


def test_the_cells_are_the_whole_space_in_a_fixed_order(shipped):
    cells = list(shipped.cells())
    assert len(cells) == 3 * 4 * 2 * 4 * len(OPERATIONS)
    assert [c.operation for c in cells[: len(OPERATIONS)]] == list(OPERATIONS)
    assert [(c.kind, c.role, c.administrator, c.relation) for c in cells[:: len(OPERATIONS)]][:5] == [
        ("network", "super", False, "own"), ("network", "super", False, "network"),
        ("network", "super", False, "none"), ("network", "super", False, "other"),
        ("network", "super", True, "own"),
    ]  # fmt: skip


# --- the moment

LIVE = (
    f'permit ({CALL}) when {{ principal.role == "super" && context.weekday == "monday" }};',
    f'permit ({CALL}) when {{ principal.account.kind == "network" && resource.effect == "read" }};',
    f'forbid ({CALL}) when {{ context.client.isInRange(ip("10.0.0.0/8")) }} unless {{ resource.effect == "read" }};',
    f'forbid ({CALL}) when {{ resource.effect == "impersonate" }};',
)


def test_a_live_policy_is_judged_when_it_is_asked(tmp_path):
    table = a_table(tmp_path, *LIVE)

    def asked(operation, now, client="192.0.2.1", owner=None):
        return ids(table.owner_may(owner or an_owner(), operation, "own", Moment(now, client)))

    assert asked(READ, MONDAY) == ["p0", "p1"]
    assert asked(READ, TUESDAY) == ["p1"]
    assert asked(UPDATE, MONDAY) == asked(UPDATE, MONDAY + 86_399.9) == ["p0"]
    assert asked(UPDATE, TUESDAY) == []
    assert asked(UPDATE, MONDAY, "10.1.1.1") == asked(UPDATE, MONDAY, "::ffff:10.1.1.1") == ["p2"]
    assert asked(READ, MONDAY, "10.1.1.1", an_owner(role="member")) == ["p1"]


def test_only_where_a_live_policy_matters_the_answer_is_not_steady(tmp_path):
    table = a_table(tmp_path, *LIVE)
    login = CATALOGUE["sso_network_access_token_create"]
    assert not table.steady(an_owner(), READ, "own")
    assert table.steady(an_owner(role="member"), READ, "own")
    assert not table.steady(
        an_owner(role="member"), UPDATE, "own"
    )  # denied all the same, but for more reasons
    assert not table.steady(an_owner(role="member"), login, "own")
    cells = {(c.kind, c.role, c.operation.id, c.relation): c for c in table.cells() if not c.administrator}
    cell = cells["network", "super", "advertiser_update", "own"]
    assert (cell.decision.allowed, [p.id for p in cell.live]) == (False, ["p0", "p2"])
    cell = cells["network", "super", login.id, "own"]
    assert (ids(cell.decision), [p.id for p in cell.live]) == (["p3"], ["p2"])  # no permit matters any more


def test_what_is_seen_has_to_be_steady_too(tmp_path):
    table = a_table(
        tmp_path,
        f"permit ({CALL});",
        'permit (principal, action == Action::"see", resource) when { context.weekday == "monday" };',
    )
    assert not table.steady(an_owner(), READ, "own")
    assert table.visible(a_principal(), "own", Moment(MONDAY, "::1")) == set(COLUMN_CLASSES)
    assert table.visible(a_principal(), "own", Moment(TUESDAY, "::1")) == set()


def test_what_is_no_cell_is_not_steady(tmp_path):
    assert not a_table(tmp_path, *LIVE).steady(an_owner(role="boss"), READ, "own")


def counted(monkeypatch):
    asked = []
    whole = Engine.ask
    monkeypatch.setattr(Engine, "ask", lambda self, told: asked.append(told) or whole(self, told))
    return asked


def test_a_live_answer_is_kept_for_the_same_second_and_address(tmp_path, monkeypatch):
    table = a_table(tmp_path, *LIVE)
    asked = counted(monkeypatch)
    for now, client, count in [
        (MONDAY, "10.0.0.1", 1), (MONDAY + 0.9, "10.0.0.1", 1), (MONDAY, "10.0.0.2", 2), (MONDAY + 1, "10.0.0.1", 3),
        (MONDAY, "10.0.0.1", 4),
    ]:  # fmt: skip
        table.owner_may(an_owner(), UPDATE, "own", Moment(now, client))
        assert len(asked) == count
    table.owner_may(an_owner(user="8"), UPDATE, "own", Moment(MONDAY, "10.0.0.1"))
    table.owner_may(an_owner(), UPDATE, "own", Moment(MONDAY, "10.0.0.1"), "another token")
    assert len(asked) == 6


def test_live_answers_are_kept_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.table.REMEMBERED", 5)
    table = a_table(tmp_path, *LIVE)
    for number in range(40):
        table.owner_may(an_owner(), UPDATE, "own", Moment(MONDAY, f"10.0.0.{number}"))
        assert len(table._this_second) <= 5


def test_without_live_policies_the_engine_is_never_asked(shipped, monkeypatch):
    asked = counted(monkeypatch)
    for operation in OPERATIONS:
        shipped.decide(a_principal(), operation, "own", Moment(math.nan, "nowhere"))
        assert shipped.steady(an_owner(), operation, "own")
    assert asked == []


# --- what is not a clean answer


def assert_alarm(table, decision, caplog, text):
    assert (decision.allowed, decision.problem, decision.policies) == (False, "denied", ())
    assert text in decision.error
    assert table.alarms == 1
    [record] = caplog.records
    assert (record.name, record.levelno) == ("gateway.policy", logging.ERROR)
    assert record.getMessage().startswith("policy-evaluation-error ")


@pytest.mark.parametrize(
    "owner",
    [
        an_owner(role="Super"),
        an_owner(role=[]),
        an_owner(account=Account("publisher", "808", "33")),
        an_owner(account=None),
        None,
        Owner("7", NETWORK, "super", "yes"),
    ],
)
def test_an_owner_no_policy_speaks_of_is_denied_and_alarms(tmp_path, caplog, owner):
    table = a_table(tmp_path, "permit (principal, action, resource);")
    assert_alarm(table, table.owner_may(owner, READ, "own", ANY_MOMENT), caplog, "")


def test_an_unknown_operation_or_relation_is_denied_and_alarms(tmp_path, caplog):
    table = a_table(tmp_path, "permit (principal, action, resource);")
    assert_alarm(table, table.decide(a_principal(), READ, "mine", ANY_MOMENT), caplog, "KeyError")
    assert table.visible(a_principal(), "mine", ANY_MOMENT) == set()
    assert not table.owner_may(an_owner(), "secret", "own", ANY_MOMENT).allowed


@pytest.mark.parametrize(
    "moment",
    [
        Moment(MONDAY, ""),
        Moment(MONDAY, "somewhere"),
        Moment(math.nan, "10.0.0.1"),
        Moment(1e300, "10.0.0.1"),
        None,
    ],
)
def test_a_moment_that_cannot_be_told_denies_and_alarms(tmp_path, caplog, moment):
    table = a_table(tmp_path, "permit (principal, action, resource);", LIVE[2])
    assert_alarm(table, table.owner_may(an_owner(), UPDATE, "own", moment), caplog, "")


def test_a_live_forbid_that_fails_to_evaluate_denies_and_alarms_and_is_not_kept(tmp_path, caplog):
    table = a_table(
        tmp_path,
        "permit (principal, action, resource);",
        f"forbid ({CALL}) when {{ context.client.isLoopback() && 9223372036854775807 + 1 > 0 }};",
    )
    loopback = Moment(MONDAY, "127.0.0.1")
    assert_alarm(table, table.owner_may(an_owner(), READ, "own", loopback), caplog, "overflow")
    assert table.owner_may(an_owner(), READ, "own", loopback).error
    assert table.alarms == 2
    assert table.owner_may(an_owner(), READ, "own", Moment(MONDAY, "192.0.2.1")).allowed


def test_a_panic_of_the_engine_is_denied_and_alarms(tmp_path, caplog, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(*_):
        raise PanicException("index out of bounds")

    table = a_table(tmp_path, *LIVE)
    monkeypatch.setattr(Engine, "ask", panic)
    decision = table.owner_may(an_owner(), UPDATE, "own", Moment(MONDAY, "10.0.0.1"))
    assert_alarm(table, decision, caplog, "index out of bounds")


# --- from process to process


def test_a_packed_table_answers_the_same(tmp_path):
    table = a_table(tmp_path, *LIVE)
    table.owner_may(an_owner(), UPDATE, "own", Moment(MONDAY, "10.0.0.1"))
    again = Table.unpack(table.pack())
    assert (again.digest, again.policies, again.alarms) == (table.digest, table.policies, 0)
    assert list(again.cells()) == list(table.cells())
    assert ids(again.owner_may(an_owner(), UPDATE, "own", Moment(MONDAY, "10.0.0.1"))) == ["p2"]


class Call:
    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize(
    "data", [b"", b"x", pickle.dumps(1), pickle.dumps(Call()), pickle.dumps(Moment(0, ""))]
)
def test_what_is_no_packed_table_is_refused_and_calls_nothing(data, capsys):
    with pytest.raises(ValueError, match="not a packed table"):
        Table.unpack(data)
    assert capsys.readouterr().out == ""


def test_a_table_cut_short_is_refused(shipped):
    with pytest.raises(ValueError, match="not a packed table"):
        Table.unpack(shipped.pack()[:-10])
