"""The page's sentences, what carries each, and everything that may hang in the air."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import contract
from gateway.cases import CaseResult, run_cases
from gateway.contract import SENTENCES, check, checkout, load, read, trace, trace_as_dict, trace_text
from gateway.load import load_catalogue
from gateway.policy import PolicySet
from gateway.tomlfile import ConfigError

CATALOGUE = load_catalogue()
SET = PolicySet.load(operations=CATALOGUE.variants())
CASES = run_cases(SET, CATALOGUE)
SHIPPED = load()
CARRIERS = [(s.id, policy_id) for s in SHIPPED.sentences for policy_id in s.policies]


def texts(traced):
    return [str(fault) for fault in traced.faults]


def test_nothing_of_the_shipped_contract_hangs_in_the_air():
    root = checkout()
    assert root is not None
    traced = trace(SET.policies, CASES, checkout=root)
    assert texts(traced) == []
    assert [row.sentence.id for row in traced.rows] == list(SENTENCES)


def test_every_policy_of_the_vendors_carries_a_sentence_with_cases():
    traced = trace(SET.policies, CASES)
    carried = {c.policy.id: c.cases for row in traced.rows for c in row.carriers if c.required}
    assert carried.keys() == {p.id for p in SET.policies if p.file.endswith("vendor.cedar")}
    assert all(carried.values())


@pytest.mark.parametrize(("sentence", "lost"), CARRIERS)
def test_a_sentence_that_lost_a_policy_is_named(sentence, lost):
    (fault,) = check([policy for policy in SET.policies if policy.id != lost])
    said = next(s.text for s in SHIPPED.sentences if s.id == sentence)
    assert str(fault) == f"{SHIPPED.file}:{fault.line}: contract: {sentence} ({said}) lost its policy {lost}"
    assert Path(SHIPPED.file).read_text().splitlines()[fault.line - 1] == "[[sentence]]"


def test_a_permit_by_the_same_name_carries_nothing():
    turned = [replace(p, effect="permit") if p.id == "own-network-only" else p for p in SET.policies]
    assert [fault.text.rpartition(" ")[2] for fault in check(turned)] == ["own-network-only"]


def test_a_policy_of_the_vendors_that_no_sentence_asks_for_is_an_orphan():
    extra = replace(SET.policies[-1], id="of-its-own", line=99)
    shown = CaseResult("a case", "f", 1, True, "", ("of-its-own",))
    traced = trace([*SET.policies, extra], [*CASES, shown])
    assert texts(traced) == [
        "policies/vendor.cedar:99: of-its-own: no sentence of the contract asks for this policy"
    ]


def test_a_policy_without_a_case_is_an_orphan():
    failing = [replace(case, passed=False) if "own-network-only" in case.policies else case for case in CASES]
    assert [f.text for f in trace(SET.policies, failing).faults if f.key == "own-network-only"] == [
        "no case is about this policy"
    ]


def test_a_source_that_cites_no_sentence_or_another_is_an_orphan():
    wrong = [replace(p, source="P12, somewhere") if p.id == "own-network-only" else p for p in SET.policies]
    assert [fault.text for fault in trace(wrong, CASES).faults] == [
        "cites P12, which the page does not have",
        "carries P4, and its @source does not cite it",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"policies": (), "elsewhere": " "}, "is held by nothing"),
        ({"tests": ()}, "P4 is enforced elsewhere, and no test is named that shows it"),
        ({"tests": ("tests/unit/test_gone.py",)}, "P4: there is no test tests/unit/test_gone.py"),
        ({"tests": ("tests/unit/test_flow.py::test_gone",)}, "P4: tests/unit/test_flow.py has no test test_gone"),
    ],
)  # fmt: skip
def test_a_sentence_that_nothing_holds_or_shows_is_an_orphan(change, said):
    sentences = tuple(replace(s, **change) if s.id == "P4" else s for s in SHIPPED.sentences)
    faults = trace(SET.policies, CASES, replace(SHIPPED, sentences=sentences), checkout()).faults
    assert any(fault.text.endswith(said) and fault.file == SHIPPED.file and fault.line for fault in faults)


def test_a_sentence_that_is_left_out_is_an_orphan():
    kept = [(s, n) for s, n in zip(SHIPPED.sentences, SHIPPED.lines, strict=True) if s.id != "P8"]
    without = replace(SHIPPED, sentences=tuple(s for s, _ in kept), lines=tuple(n for _, n in kept))
    assert [fault.text for fault in trace(SET.policies, CASES, without).faults] == ["P8 is not there"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "P10"}, "f:2: sentence.0.id: is none of the page's sentences (P1 to P9)"),
        ({"text": " "}, "f:3: sentence.0.text: is empty"),
        ({"policy": ""}, "f:4: sentence.0.policy: is not a setting (did you mean policies?)"),
    ],
)
def test_a_contract_with_a_fault_is_refused_in_words(change, said):
    with pytest.raises(ConfigError) as caught:
        read(sentence(change), "f")
    assert str(caught.value) == said


def sentence(change):
    entry = {"id": "P1", "text": "x"} | change
    return "[[sentence]]\n" + "".join(f'{key} = "{value}"\n' for key, value in entry.items())


def test_a_sentence_is_there_once():
    with pytest.raises(ConfigError, match=r"f:5: sentence\.1\.id: P1 is there twice"):
        read(sentence({}) * 2, "f")


@given(st.text() | st.text().map(lambda text: Path(SHIPPED.file).read_text().replace('"P4"', text, 1)))
def test_any_text_is_a_contract_or_is_refused_with_a_place(text):
    faults = []
    try:
        read(text, "f")
    except ConfigError as error:
        faults = error.faults
    assert all(fault.file == "f" for fault in faults)


def test_a_contract_that_cannot_be_read_lets_nothing_load(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "packaged", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"contract\.toml: cannot be read: FileNotFoundError"):
        check(SET.policies)


def test_what_is_printed_has_sentence_policy_and_case():
    traced = trace(SET.policies, CASES)
    document = trace_as_dict(traced)
    (third,) = (s for s in document["sentences"] if s["id"] == "P3")
    (required,) = (p for p in third["policies"] if p["required"])
    assert required["id"] == "network-integration-for-network-users"
    assert "an advertiser's token on the Network Integration API" in required["cases"]
    assert document["orphans"] == []
    text = trace_text(traced)
    assert "    forbid network-integration-for-network-users: " in text
    assert text.endswith("9 sentences, 14 policies that speak of them, 0 orphans")
