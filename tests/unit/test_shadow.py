"""The shadow policies: what is laid over what, what is said of them at load, and that they never refuse."""

from __future__ import annotations

import logging
import re

import pytest

from gateway.config import Config, Policies, Upstream
from gateway.load import load_catalogue, load_shadow
from gateway.metrics import Metrics
from gateway.model import SCOPES, Account, AuditEvent, Decision, Moment, Owner, Principal
from gateway.shadow import Shadow
from gateway.tomlfile import ConfigError

CATALOGUE = load_catalogue()
LIST = CATALOGUE["advertisers_list"]
MEMBER = Principal(
    "tok_1", Owner("usr_1", Account("network", "33", "33"), "member", False), frozenset(SCOPES), 2**40
)
NOW = Moment(1_800_000_000.0, "127.0.0.1")
NO_LISTS = """@id("no-lists") @source("ours") @reason("Nobody lists")
forbid (principal, action == Action::"call", resource == Operation::"advertisers_list");
"""
NO_READS = """@id("no-reads") @source("ours") @reason("Nobody reads")
forbid (principal, action == Action::"call", resource) when { resource.effect == "read" };
"""
LATER = """@id("later") @source("ours") @reason("Not after a certain time")
forbid (principal, action == Action::"call", resource) when { context.now > datetime("SOON") };
"""
ANYTHING = """@id("anything") @source("ours") @reason("Everybody may")
permit (principal, action == Action::"call", resource);
"""


def folders(tmp_path, **texts):
    """A configuration with a folder for each text, of its name."""
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.cedar").write_text(text)
    made = Policies(**{name: str(tmp_path / name) for name in texts})
    return Config("http://127.0.0.1", Upstream("http://127.0.0.1"), policies=made)


def test_without_a_folder_there_is_none(tmp_path):
    assert load_shadow(folders(tmp_path, local=NO_LISTS), CATALOGUE) is None


def test_it_is_laid_over_the_packaged_set_and_the_operators(tmp_path):
    tried = load_shadow(folders(tmp_path, local=NO_LISTS, shadow=NO_READS), CATALOGUE)
    decision = tried.decide(MEMBER, LIST, "own", NOW)
    assert {policy.id for policy in decision.policies} == {"no-lists", "no-reads"}
    assert "network-integration-for-network-users" in {policy.id for policy in tried.policies}


def test_an_invariant_that_it_breaks_is_a_warning_with_a_counterexample(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    tried = load_shadow(folders(tmp_path, shadow=ANYTHING), CATALOGUE)
    (said,) = [text for text in caplog.messages if "destroy-and-publish-by-super-and-manager" in text]
    assert said.startswith("shadow-breaks-invariant: ")
    assert "broken by anything: PUT /api/2022-08-01/33/network.json" in said
    assert tried.decide(MEMBER, CATALOGUE["advertiser_delete"], "own", NOW).allowed


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (NO_LISTS.replace("advertisers_list", "advertisers_lits"), "advertisers_lits"),
        (NO_LISTS.replace("no-lists", "own-network-only"), "is taken at"),
        ("forbid (principal", "a policy ends with ;"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_its_place(tmp_path, text, fault):
    with pytest.raises(ConfigError) as caught:
        load_shadow(folders(tmp_path, shadow=text), CATALOGUE)
    assert re.search(r"shadow/own\.cedar:[12]: ", str(caught.value))
    assert fault in str(caught.value)


class Broken:
    """Stands in for a set that cannot be evaluated: by its own account, or by a bug."""

    def __init__(self, answer):
        self.answer = answer

    def decide(self, *_):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [Decision(False, (), "denied", error="no"), RuntimeError("no")])
def test_a_set_that_cannot_be_evaluated_is_an_alarm_and_says_nothing(answer, caplog):
    metrics = Metrics()
    assert Shadow(metrics).judge(Broken(answer), MEMBER, LIST, "own", NOW) is None
    assert metrics.value("alarms", "shadow-evaluation-error") == 1
    assert "shadow-evaluation-error operation=advertisers_list" in caplog.text


ALLOW, DENY = Decision(True), Decision(False, (), "denied")
SCOPE = Decision(False, (), "insufficient-scope", "network:read")


@pytest.mark.parametrize(
    ("in_force", "shadow", "differs"),
    [
        (ALLOW, ALLOW, False), (ALLOW, DENY, True), (ALLOW, SCOPE, True), (DENY, ALLOW, True), (DENY, DENY, False),
        (DENY, SCOPE, True), (SCOPE, DENY, True), (SCOPE, SCOPE, False), (ALLOW, None, False), (None, DENY, False),
    ],
)  # fmt: skip
def test_it_dissents_in_outcome_or_in_problem(in_force, shadow, differs):
    event = AuditEvent("r1", 0.0)
    event.decision, event.shadow = in_force, shadow
    assert event.dissent is (shadow if differs else None)
