"""One table at a time is in force, and changes where the number does."""

from __future__ import annotations

import pytest

from gateway.columns.classes import Classes
from gateway.inforce import MAX_SHOWN, MAX_SHOWN_CHARS, Outcome, OwnNumber, Policies
from gateway.load import Sets
from gateway.table import Names, Table
from gateway.tomlfile import Fault


def a_table(digest: str) -> Table:
    return Table(digest, (), (), {}, Names(), {}, {}, "", Classes())


def sets(digest: str, tried: str | None = None) -> Sets:
    return Sets(a_table(digest), None if tried is None else a_table(tried))


def test_a_table_that_is_staged_is_not_in_force_until_the_number_is_raised():
    number = OwnNumber(4)
    policies = Policies(sets("old"), 4, number)
    policies.stage(5, sets("new"))
    assert (policies.table.digest, policies.generation) == ("old", 4)
    number.value = 5
    assert (policies.table.digest, policies.generation) == ("new", 5)


def test_a_request_keeps_the_table_it_took():
    policies = Policies(sets("old"))
    taken = policies.table
    policies.stage(1, sets("new"))
    policies.put_in_force(1)
    assert (taken.digest, policies.table.digest) == ("old", "new")


def test_a_table_staged_in_vain_never_comes_into_force():
    policies = Policies(sets("old"))
    policies.stage(1, sets("in vain"))
    policies.stage(2, sets("new"))
    assert policies.table.digest == "old"
    policies.put_in_force(2)
    assert policies.table.digest == "new"


def test_a_table_in_force_that_nobody_asked_for_yet_is_not_lost_to_the_next():
    policies = Policies(sets("old"))
    policies.stage(1, sets("new"))
    policies.put_in_force(1)
    policies.stage(2, sets("newest"))
    assert policies.table.digest == "new"


def test_an_old_table_does_not_answer_for_one_that_never_came():
    number = OwnNumber()
    policies = Policies(sets("old"), 0, number)
    policies.stage(1, sets("in vain"))
    number.value = 2
    with pytest.raises(RuntimeError, match="generation 2"):
        _ = policies.table


def test_alarms_are_counted_across_tables():
    policies = Policies(sets("old"))
    policies.table.alarms = 2
    policies.stage(1, sets("new"))
    policies.put_in_force(1)
    policies.table.alarms += 1
    assert policies.alarms == 3


def test_what_did_not_load_is_told_until_another_set_comes_into_force():
    refused = Outcome("refused", (Fault("/etc/gateway/policies/x.cedar", 3, "", "is wrong"),))
    policies = Policies(sets("old"))
    policies.told(refused)
    assert policies.last.shown() == ["policies/x.cedar:3: is wrong"]
    policies.stage(1, sets("new"))
    policies.put_in_force(1)
    assert (policies.table.digest, policies.last.word) == ("new", "loaded")


def test_what_is_told_after_a_change_nobody_has_noticed_yet_stays():
    policies = Policies(sets("old"))
    policies.stage(1, sets("new"))
    policies.put_in_force(1)
    policies.told(Outcome("failed"))
    assert (policies.table.digest, policies.last.word) == ("new", "failed")


def test_faults_are_shown_in_one_line_each_bounded_in_length_and_number():
    long = Outcome("refused", tuple(Fault("x.cedar", n, "", "no\ngood " * 99) for n in range(1, 99)))
    shown = long.shown()
    assert (len(shown), shown[-1]) == (MAX_SHOWN + 1, f"and {98 - MAX_SHOWN} more")
    assert all("\n" not in line and len(line) <= MAX_SHOWN_CHARS for line in shown)


def test_what_is_tried_changes_together_with_what_is_in_force_and_whoever_keeps_either_is_told():
    policies, told = Policies(sets("old", "tried")), []
    policies.when_changed(lambda: told.append(policies.sets.tried.digest))
    policies.stage(1, sets("new", "tried next"))
    assert (policies.sets.tried.digest, told) == ("tried", [])
    policies.put_in_force(1)
    assert (policies.sets.tried.digest, policies.table.digest) == ("tried next", "new")
    assert told == ["tried next"]
