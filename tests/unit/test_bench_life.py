"""The model that interleavings are held against, and the search for an order: what they explain, and what not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.hands import plan
from bench.life import (
    ADMINISTRATOR,
    APP,
    DONE,
    ENDED,
    GONE,
    NOT_THEIRS,
    OPERATOR,
    OWNER,
    REFUSED,
    Op,
    World,
    complaint,
    step,
)
from bench.revoke import Round, faults


def story(*words: str) -> list[Op]:
    """Ops of one token, one after the other, each a second long: `who what secret → answer`."""
    told = []
    for at, line in enumerate(words):
        deed, _, answer = line.partition(" → ")
        by, what, *more = deed.split()
        told.append(Op(what, by, "t", at, at + 0.5, answer or None, *more[:1], overlap="overlap" in more))
    return told


MADE = f"{OWNER} create s1 → {DONE}"
USED, NOT_USED = f"{APP} use s1 → {DONE}", f"{APP} use s1 → {REFUSED}"

EXPLAINED = {
    "a new token works": [MADE, USED],
    "a paused one does not": [MADE, f"{ADMINISTRATOR} pause → {DONE}", NOT_USED],
    "until it is resumed": [MADE, f"{OPERATOR} pause → {DONE}", f"{OPERATOR} resume → {DONE}", USED],
    "by who may": [MADE, f"{ADMINISTRATOR} pause → {DONE}", f"{OWNER} resume → {NOT_THEIRS}", NOT_USED],
    "a deleted one never again": [MADE, f"{OWNER} delete → {DONE}", f"{OWNER} rotate s2 → {ENDED}", NOT_USED],
    "nothing of who is disabled": [
        MADE, f"{OPERATOR} disable → {DONE}", NOT_USED, f"{OWNER} pause → {REFUSED}",
        f"{OPERATOR} enable → {DONE}", USED,
    ],
    "both secrets in an overlap": [MADE, f"{OWNER} rotate s2 overlap → {DONE}", USED, f"{APP} use s2 → {DONE}"],
    "the new one alone without": [MADE, f"{OWNER} rotate s2 → {DONE}", NOT_USED, f"{APP} use s2 → {DONE}"],
    "a lost act that happened": [MADE, f"{OWNER} delete", NOT_USED],
    "a lost act that did not": [MADE, f"{OWNER} delete", USED],
    "a lost answer, given once more": [MADE, f"{OWNER} rotate s2", f"{OWNER} rotate s2 → {DONE}", NOT_USED],
    "and then never again": [f"{OWNER} create s1", MADE, f"{OWNER} create s1 → {GONE}", USED],
}  # fmt: skip

UNEXPLAINED = {
    "a paused token is accepted": [MADE, f"{ADMINISTRATOR} pause → {DONE}", USED],
    "a deleted token is accepted": [MADE, f"{OWNER} delete → {DONE}", USED],
    "a token of a disabled user is accepted": [MADE, f"{OPERATOR} disable → {DONE}", USED],
    "a disabled user acts": [MADE, f"{OPERATOR} disable → {DONE}", f"{OWNER} pause → {DONE}"],
    "a token is lost after its 201": [MADE, NOT_USED],
    "a resumed token is refused": [MADE, f"{OWNER} pause → {DONE}", f"{OWNER} resume → {DONE}", NOT_USED],
    "an old secret is accepted": [MADE, f"{OWNER} rotate s2 → {DONE}", USED],
    "an old secret is refused in its overlap": [MADE, f"{OWNER} rotate s2 overlap → {DONE}", NOT_USED],
    "a lost act happens and does not": [MADE, f"{OWNER} delete", NOT_USED, USED],
    "an owner ends an administrator's pause": [
        MADE, f"{ADMINISTRATOR} pause → {DONE}", f"{OWNER} resume → {DONE}"
    ],
    "an answer is given a third time": [f"{OWNER} create s1 → {DONE}"] * 3,
    "a token is shown as it is not": [MADE, f"{OWNER} delete → {DONE}", f"{ADMINISTRATOR} show → active"],
    "an answer that is none of them": [MADE, f"{APP} use s1 → 503 store-unavailable"],
}  # fmt: skip


@pytest.mark.parametrize("lines", EXPLAINED.values(), ids=EXPLAINED)
def test_what_the_model_explains(lines):
    assert complaint(story(*lines)) == ""


@pytest.mark.parametrize("lines", UNEXPLAINED.values(), ids=UNEXPLAINED)
def test_what_nothing_explains(lines):
    assert "no order explains this" in complaint(story(*lines))


def test_what_overlaps_may_have_come_in_either_order_and_what_does_not_may_not():
    made, paused, used = story(MADE, f"{OWNER} pause → {DONE}", USED)
    assert complaint([made, paused, used])
    assert not complaint([made, paused, replace(used, start=paused.end)])
    assert not complaint([made, replace(paused, end=9.0), used])
    # The same use again, after the acknowledgement: too late.
    assert complaint([made, replace(paused, end=9.0), used, replace(used, start=9.1, end=9.2)])


def test_two_uses_in_turn_that_no_single_moment_explains():
    """Refused, then accepted, with one pause under way all the while: it cannot have been both."""
    made, paused, used = story(MADE, f"{OWNER} pause → {DONE}", USED)
    refused = replace(used, start=2.0, end=2.1, answer=REFUSED)
    assert complaint([made, replace(paused, end=9.0), refused, replace(used, start=2.2, end=2.3)])


def test_an_owner_who_was_accepted_may_be_disabled_before_their_act_is_done():
    made, off, paused = story(MADE, f"{OPERATOR} disable → {DONE}", f"{OWNER} pause → {DONE}")
    assert not complaint([made, off, replace(paused, start=0.9)])
    assert complaint([made, off, paused])


DEEDS = st.sampled_from(
    [(what, by) for what in ("pause", "resume", "delete") for by in (OWNER, ADMINISTRATOR, OPERATOR)]
    + [(what, ADMINISTRATOR) for what in ("disable", "enable")]
    + [("rotate", OWNER), ("use", APP), ("use", APP), ("show", ADMINISTRATOR)]
)


@given(st.lists(st.tuples(DEEDS, st.booleans(), st.integers(0, 9)), max_size=25), st.floats(0.1, 4.0))
def test_whatever_the_model_does_is_explained_also_when_seen_for_longer_and_a_wrong_answer_is_not(
    deeds, longer
):
    world, seen = World(), []
    for at, ((what, by), overlap, which) in enumerate([(("create", OWNER), False, 0), *deeds]):
        secret = f"s{at}" if what in ("create", "rotate") else f"s{which}" if what == "use" else ""
        op = Op(what, by, "t", at, at + 0.5, None, secret, overlap)
        if by == OWNER and not world.active:
            seen.append(replace(op, answer=REFUSED))
        else:
            answer, world = step(world, op)
            seen.append(replace(op, answer=answer))
    assert not complaint(seen)
    assert not complaint([replace(op, end=op.end + longer) for op in seen])
    for at, op in enumerate(seen):
        if op.what == "use":
            other = REFUSED if op.answer == DONE else DONE
            assert complaint([*seen[:at], replace(op, answer=other), *seen[at + 1 :]])


def test_a_plan_follows_from_its_seed():
    one, same, other = (plan(random.Random(seed), 12, 0.1) for seed in ("1/1", "1/1", "1/2"))
    assert one == same != other
    assert one[OWNER][0].what == "create"


GOOD = Round("API", 1.0, 2.0, accepted=0, refused=204, other=(), kept=4, new=200, workers=4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"accepted": 1}, "round 1: 1 requests were accepted after the acknowledgement"),
        ({"other": ("503 overloaded",)}, "round 1: answers that are neither: 503 overloaded"),
        ({"workers": 3}, "round 1: new connections reached 3 of 4 workers"),
    ],
)
def test_a_deletion_that_does_not_hold_everywhere_is_a_fault(changes, says):
    assert faults([replace(GOOD, **changes)], workers=4) == ([says] if says else [])
