"""What a change of policies changes: every cell, and the same in sentences."""

from __future__ import annotations

import pytest

from gateway.compile import compile
from gateway.difference import can_be_told, counts, counts_text, differences, grouped, groups_text
from gateway.load import load_catalogue
from gateway.matrix import grid, grid_text, is_reachable
from gateway.policy import PolicySet
from gateway.table import Cell

OPERATIONS = load_catalogue().variants()
HEAD = '@id("{0}") @source("ours") @reason("A rule of ours") '
WRITES = """permit (principal, action == Action::"call", resource)
when {{ principal.role == "observer" && principal.account.kind == "network" && context.relation == "own" &&
        resource.api == "network_integration" && resource.effect == "read" && resource.status == "legacy" {0} }};"""


def table(folder, text, name="own"):
    folder = folder / name
    folder.mkdir()
    (folder / "own.cedar").write_text(text)
    return compile(PolicySet.load(local=folder, operations=OPERATIONS), OPERATIONS)


@pytest.fixture(scope="module")
def shipped():
    return compile(PolicySet.load(operations=OPERATIONS), OPERATIONS)


def test_a_set_and_itself_differ_in_nothing(shipped):
    assert differences(shipped, shipped) == []
    assert groups_text([], OPERATIONS) == ""
    assert counts_text([]) == "0 decisions flip: 0 opened, 0 closed"


def test_what_a_permit_opens_is_every_cell_that_it_alone_permits(shipped, tmp_path):
    new = table(tmp_path, HEAD.format("looks") + WRITES.format(""))
    flips = differences(shipped, new)
    assert {flip.kind for flip in flips} == {"opened"}
    seen = {(c.role, c.kind, c.relation, c.operation.id) for c in (flip.now for flip in flips)}
    assert seen == {
        ("observer", "network", "own", o.id)
        for o in OPERATIONS
        if (o.api, o.effect, o.status) == ("network_integration", "read", "legacy")
    }
    # And the other way round the same is closed.
    back = differences(new, shipped)
    assert [(flip.now.operation, flip.now.administrator) for flip in back] == [
        (flip.now.operation, flip.now.administrator) for flip in flips
    ]
    assert {flip.kind for flip in back} == {"closed"}


def test_a_difference_is_one_sentence_for_all_that_have_it(shipped, tmp_path):
    flips = differences(shipped, table(tmp_path, HEAD.format("looks") + WRITES.format("")))
    (group,) = grouped(flips)
    assert groups_text([group], OPERATIONS) == "\n".join(
        (
            "OPENED  network: observer",
            "  on the owner's own account",
            "  every old network integration read operation (4)",
            "  before: no policy permits it",
            "  now:    permit looks (own/own.cedar:1)",
        )
    )
    assert groups_text([group], OPERATIONS, full=True).count("legacy_affiliate_campaigns_list") == 1
    assert sum(map(is_reachable, (flip.now for flip in flips))) == 4 * 2


def test_what_concerns_one_user_is_told_of_that_user_alone(shipped, tmp_path):
    new = table(tmp_path, HEAD.format("looks") + WRITES.format('&& principal.id == "7"'))
    flips = differences(shipped, new)
    assert {flip.now.user for flip in flips} == {flip.was.user for flip in flips} == {"7"}
    (group,) = grouped(flips)
    assert groups_text([group], OPERATIONS).startswith("OPENED  network, user 7: observer\n")


def test_two_sets_that_name_different_users_are_compared_for_both(tmp_path):
    one = table(tmp_path, HEAD.format("looks") + WRITES.format('&& principal.id == "7"'), "one")
    two = table(tmp_path, HEAD.format("looks") + WRITES.format('&& principal.id == "8"'), "two")
    found = {(flip.kind, flip.now.user) for flip in differences(one, two)}
    assert found == {("opened", "8"), ("closed", "7")}


def test_what_the_clock_may_change_is_a_difference_even_when_only_the_hour_changes(shipped, tmp_path):
    texts = [
        HEAD.format("looks") + WRITES.format(f'&& context.now.toTime() >= duration("{hour}h")')
        for hour in (8, 9)
    ]
    one, two = (table(tmp_path, text, f"at-{n}") for n, text in enumerate(texts))
    assert {flip.kind for flip in differences(shipped, one)} == {"moment"}
    assert differences(one, two) == []
    assert {flip.kind for flip in differences(one, two, ["looks"])} == {"moment"}
    (group,) = grouped(differences(shipped, one))
    assert groups_text([group], OPERATIONS).startswith("NOW AND THEN  network: observer\n")


def test_a_forbid_that_reads_the_clock_changes_nothing_where_nobody_is_allowed_anyway(shipped, tmp_path):
    rule = (
        'forbid (principal, action == Action::"call", resource)'
        ' when { principal.account.kind == "affiliate" && context.weekday == "sunday" };'
    )
    new = table(tmp_path, HEAD.format("sundays") + rule)
    kinds = {(flip.kind, flip.was.decision.allowed) for flip in differences(shipped, new)}
    assert kinds == {("moment", True), ("reason", False)}
    # Another text may come to the same decision, and is then another reason.
    assert {flip.kind for flip in differences(new, new, ["sundays"])} == {"moment", "reason"}
    shown = grid_text(grid([cell for cell in new.cells() if cell.kind == "affiliate"]))
    assert "own*" in shown
    assert "none" not in shown
    assert "other" not in shown


def test_the_same_decision_for_another_reason_is_no_flip(shipped, tmp_path):
    new = table(
        tmp_path,
        HEAD.format("again") + 'permit (principal, action == Action::"call", resource) when {'
        ' principal.account.kind == "network" && principal.role == "super" && context.relation == "own" &&'
        ' resource.id == "network_read" };',
    )
    flips = differences(shipped, new)
    assert {flip.kind for flip in flips} == {"reason"}
    assert [policy.id for policy in flips[0].after] == ["network-integration-read", "again"]
    assert counts(flips) == {"opened": 0, "closed": 0, "moment": 0, "reason": 2}
    assert all(map(can_be_told, flips))


def test_columns_that_become_visible_are_differences_too(shipped, tmp_path):
    new = table(
        tmp_path,
        HEAD.format("money")
        + 'permit (principal, action == Action::"see", resource == ColumnClass::"financial")'
        ' when { principal.role == "member" && context.relation == "own" };',
    )
    flips = differences(shipped, new)
    assert not [flip for flip in flips if isinstance(flip.now, Cell)]
    (group,) = grouped(flips)
    assert group.about == ("financial",)
    assert "  columns of class financial in answers with Transactions" in groups_text([group], OPERATIONS)


def test_a_group_covers_exactly_the_cells_it_was_made_of(shipped, tmp_path):
    new = table(tmp_path, HEAD.format("all") + "permit (principal, action, resource);")
    flips = [flip for flip in differences(shipped, new) if is_reachable(flip.now)]
    expected = sorted(
        (flip.kind, f.kind, f.role, f.administrator, f.relation, *_about(f))
        for flip in flips
        for f in [flip.now]
    )
    covered = sorted(
        (group.kind, who.kind, who.role, who.administrator, relation, *_named(what))
        for group in grouped(flips)
        for who in group.owners
        for relation in group.relations
        for what in group.about
    )
    assert covered == expected


def _about(cell):
    return _named(cell.operation if isinstance(cell, Cell) else cell.column_class)


def _named(what):
    return (what, "see") if isinstance(what, str) else (what.id, what.effect)
