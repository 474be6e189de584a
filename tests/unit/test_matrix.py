"""Who may do what: what scripts get, what fits a screen, and the page for an auditor."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gateway import contract, matrix, matrixpage
from gateway.compile import compile
from gateway.load import load_catalogue
from gateway.matrix import Choice, as_csv, as_dict, by_operation, grid, grid_text, narrowed, ordered, sights
from gateway.model import PolicyRef
from gateway.policy import PolicySet

CATALOGUE = load_catalogue()
SET = PolicySet.load(operations=CATALOGUE.variants())
TABLE = compile(SET, CATALOGUE.variants())
CELLS = list(TABLE.cells())
NAMING = """
@id("one-user") @source("ours") @reason("User 7 may read old lists, in office hours")
permit (principal, action == Action::"call", resource)
when {
    principal.id == "7" && resource.status == "legacy" && resource.effect == "read" &&
    principal.account.kind == "network" && context.relation == "own" &&
    context.now.toTime() >= duration("8h")
};
"""


@pytest.fixture(scope="module")
def naming(tmp_path_factory):
    """A table whose policies name a user and read the clock."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.cedar").write_text(NAMING)
    return compile(PolicySet.load(local=folder, operations=CATALOGUE.variants()), CATALOGUE.variants())


def row(made, label):
    (texts,) = (row.texts for row in made.rows if row.label == label)
    return dict(zip(made.columns, texts, strict=True))


# --- For scripts


def test_there_is_one_entry_for_each_cell_with_the_contracts_keys():
    listed = [as_dict(cell) for cell in ordered(CELLS)]
    assert len(listed) == len(CELLS) == 3 * 4 * 2 * 4 * len(CATALOGUE.variants())
    keys = {"kind", "role", "administrator", "relation", "operation", "decision", "policies"}
    assert {frozenset(entry) for entry in listed} == {frozenset(keys), frozenset(keys | {"effect"})}


def test_who_keeps_one_entry_for_each_operation_keeps_the_plain_one(naming):
    kept = {}
    for cell in ordered(naming.cells()):
        kept[cell.kind, cell.role, cell.administrator, cell.relation, cell.operation.id] = cell
    plain = {operation.id: operation.effect for operation in CATALOGUE.operations}
    assert all(cell.operation.effect == plain[cell.operation.id] for cell in kept.values())
    assert {cell.user for cell in kept.values()} == {None}


def test_a_cell_of_somebody_named_says_who_and_what_the_clock_may_bring(naming):
    named = [as_dict(cell) for cell in naming.cells() if cell.user]
    assert {entry["user"] for entry in named} == {"7"}
    live = [entry for entry in named if "live" in entry]
    assert {entry["operation"] for entry in live} >= {"legacy_affiliate_campaigns_list"}
    assert {(entry["decision"], *entry["live"]) for entry in live} == {("deny", "one-user")}


def test_cells_are_chosen_by_every_dimension():
    choice = Choice(
        ("network",), ("member",), True, ("own",), ("network_integration",), ("destroy",), (), "deny"
    )
    chosen = [cell for cell in CELLS if cell in choice]
    assert len(chosen) == sum(
        o.api == "network_integration" and o.effect == "destroy" for o in CATALOGUE.variants()
    )
    assert all(cell.administrator and cell.role == "member" for cell in chosen)
    assert not [sight for sight in sights(TABLE) if sight in choice]
    assert [c.operation.id for c in CELLS if c in replace(choice, operations=("advertiser_delete",))] == [
        "advertiser_delete"
    ]


def test_the_csv_has_every_cell_and_nothing_that_a_spreadsheet_would_run():
    cell = replace(CELLS[0], user="=HYPERLINK(1)", account="+1", network="@x", token="-1")
    rows = list(csv.DictReader(io.StringIO(as_csv([*CELLS, cell]))))
    assert len(rows) == len(CELLS) + 1
    assert tuple(rows[0]) == matrix.CSV_FIELDS
    last = rows[-1]
    assert (last["user"], last["account"], last["network"], last["token"]) == (
        "'=HYPERLINK(1)",
        "'+1",
        "'@x",
        "'-1",
    )
    assert not [v for entry in rows for v in entry.values() if v[:1] in tuple("=+-@\t\r") and v]


# --- For people


def test_the_grid_says_for_which_accounts():
    made = grid([*CELLS, *sights(TABLE)])
    network = row(made, "network: super, manager")
    assert network["transactions read"] == "own, network"
    assert (network["network destroy"], network["network impersonate"]) == ("own", matrix.NOTHING)
    assert row(made, "network: member")["network destroy"] == matrix.NOTHING
    assert row(made, "advertiser: member, observer")["see pii"] == matrix.NOTHING
    assert row(made, "advertiser: super, manager")["see pii"] == "own"


def test_what_is_true_of_part_of_the_operations_is_counted(naming):
    denied = [
        replace(c, decision=replace(c.decision, allowed=False))
        if c.operation.id == "advertiser_delete"
        else c
        for c in CELLS
    ]
    total = sum(o.effect == "destroy" and o.status == "current" for o in CATALOGUE.variants())
    made = row(grid(denied), "network: super, manager")
    assert made["network destroy"] == f"own {total - 1}/{total}"
    made = grid(naming.cells())
    assert row(made, "network, user 7: super, manager")[matrix.OLD] == "own 0/15*"
    assert not [row.label for row in made.rows if row.label.startswith("advertiser, user 7")]


def test_an_administrator_of_whom_something_else_is_true_has_a_row():
    cells = [
        replace(c, decision=replace(c.decision, allowed=c.operation.effect == "impersonate"))
        if c.administrator and c.kind == "advertiser" else c
        for c in CELLS
    ]  # fmt: skip
    labels = [row.label for row in grid(cells).rows]
    assert "advertiser: super (no administrator), manager (no administrator), member (no administrator), " \
        "observer (no administrator)" in labels  # fmt: skip
    assert sum("(administrator)" in label for label in labels) == 1


def test_one_row_for_each_operation_has_owners_that_may_the_same_in_one_column():
    made = by_operation(
        [c for c in CELLS if c.operation.effect == "destroy" and c.operation.status == "current"]
    )
    assert made.columns == (
        "network: super, manager",
        "network: member, observer; advertiser: every role; affiliate: every role",
    )
    assert row(made, "advertiser_update (replacing)")["network: super, manager"] == "own"


def test_the_grid_fits_a_screen():
    text = grid_text(narrowed(grid([*CELLS, *sights(TABLE)])))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 130
    assert len(lines) < 24
    assert len({line.index("own") for line in lines if line.startswith(("network: m", "network: o"))}) == 1


def test_columns_that_say_the_same_are_one():
    made = narrowed(grid(CELLS))
    assert "network destroy, network publish" in made.columns
    assert all(len(row.texts) == len(made.columns) for row in made.rows)


# --- For auditors


class Page(HTMLParser):
    """The tags, attributes and texts of a page; every tag closed in the order it was opened."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = set(), [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += ((tag, *attr) for attr in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def a_page(cells=(), **changes):
    cases = contract.trace(SET.policies, [])
    facts = matrixpage.Facts(
        "2027-01-15 08:00 UTC", "0.1.0", "the packaged set", SET.digest, SET.policies, SET.invariants, cases
    )
    return matrixpage.page(cells or [*CELLS, *sights(TABLE)], replace(facts, **changes))


def test_the_page_runs_nothing_loads_nothing_and_allows_its_own_style_alone():
    text = a_page()
    page = Page(text)
    assert not page.tags & {"script", "img", "link", "iframe", "object", "form", "svg"}
    assert not [a for a in page.attributes if a[1] == "style" or a[1].startswith("on")]
    assert all(value.startswith("#") for _, name, value in page.attributes if name in ("href", "src"))
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'"


def test_the_page_names_its_set_its_day_and_every_policy_with_reason_and_source():
    said = " ".join(Page(a_page()).texts)
    for wanted in (SET.digest, "2027-01-15 08:00 UTC", *(p.reason for p in SET.policies)):
        assert wanted in said
    for policy in SET.policies:
        assert f"{policy.file}:{policy.line}" in said
        assert policy.source in said
    for invariant in SET.invariants:
        assert invariant.reason in said
    for sentence in contract.load().sentences:
        assert sentence.text in said
    for operation in CATALOGUE.operations:
        assert operation.id in said


def test_nothing_of_a_policy_file_becomes_markup():
    evil = "<script>alert('1')</script><b title=\"x\">&amp;"
    policy = PolicyRef("p", "permit", evil, evil, evil, 1)
    cell = next(c for c in CELLS if c.decision.allowed)
    cells = [replace(cell, user=evil, decision=replace(cell.decision, policies=(policy,)))]
    plain, page = Page(a_page()), Page(a_page(cells, policies=(policy,), sets=evil))
    assert page.tags <= plain.tags
    assert {attribute for attribute in page.attributes if attribute[1] not in ("class", "href")} == {
        attribute for attribute in plain.attributes if attribute[1] not in ("class", "href")
    }
    assert evil in "".join(page.texts)


def test_the_page_says_why_an_operation_is_open_or_refused():
    text = a_page()
    assert "<th scope='row'>advertiser_delete</th>" in text
    assert "by no-login-for-somebody-else (3)" in text
    assert "Users of an advertiser" in text
