"""Counts over the last so many units, against the plainest way to count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.tally import MOST, Tally

UNITS = 5


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=30), st.integers(0, 30))
def test_a_tally_is_what_was_added_to_the_units_it_keeps(adds: list[tuple[int, int]], later: int) -> None:
    tally, kept, newest = Tally.none(UNITS), dict.fromkeys(range(-UNITS, 60), 0), 0
    for unit, count in adds:
        newest = max(newest, unit)
        if unit > newest - UNITS:  # what comes too late is not counted
            kept[unit] += count
        tally = Tally.unpack(tally.add(unit, count).pack())
    now = newest + later
    assert tally.total(now) == sum(kept[unit] for unit in range(now - UNITS + 1, now + 1))


def test_a_count_stays_at_the_most_it_can_be() -> None:
    assert Tally.none(1).add(0, MOST).add(0, 5).total(0) == MOST


@given(st.binary(max_size=40) | st.none() | st.text(max_size=3))
def test_bytes_are_a_tally_or_are_refused(data: object) -> None:
    try:
        assert Tally.unpack(data).pack() == data
    except ValueError:
        assert not isinstance(data, bytes) or len(data) < 12 or len(data) % 4


@pytest.mark.parametrize("unit", [10**12, 2**63 - 1])
def test_a_clock_far_ahead_forgets_everything_and_costs_nothing(unit: int) -> None:
    assert Tally.none(UNITS).add(3, 7).add(unit, 1).total(unit) == 1
