"""The matrix as one page for an auditor: to be read on a screen, printed, and kept beside the digest it is about.

A page of its own with nothing to load and nothing that runs: no script, no image, no font; its one style sheet is
named by its hash in the page's own content security policy. Everything that comes from a policy file is escaped.

Source: section 6 of the design; field notes B1 (an auditor can walk the page line by line).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from gateway.contract import Trace
from gateway.matrix import (
    CUT_DOWN,
    LEGEND,
    NOTHING,
    Grid,
    Place,
    Row,
    by_operation,
    grid,
    is_reachable,
    operation_name,
    turning,
)
from gateway.model import ACCOUNT_KINDS, PolicyRef
from gateway.policyfile import Invariant
from gateway.table import Cell


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says beside the cells. `made_at` and `sets` are texts: when, and which folders.

    The set is one that loads, so every one of the invariants was held against every decision, and holds.
    """

    made_at: str
    version: str
    sets: str
    digest: str
    policies: Sequence[PolicyRef]
    invariants: Sequence[Invariant]
    contract: Trace


def page(cells: Sequence[Place], facts: Facts) -> str:
    """The whole page as HTML. `cells` may be a choice of all there are."""
    parts = [
        *_header(cells, facts),
        *_summary(cells),
        *_operations(cells),
        *_policies(cells, facts.policies),
        *_invariants(facts),
        *_contract(facts.contract),
    ]
    return _BEFORE + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"


def _header(cells: Sequence[Place], facts: Facts) -> Iterator[str]:
    whole = sum(isinstance(cell, Cell) for cell in cells)
    asked = sum(isinstance(cell, Cell) and is_reachable(cell) for cell in cells)
    yield "<header>"
    yield "<h1>Who may do what through the gateway</h1>"
    yield "<dl class='facts'>"
    for name, value in (
        ("Made", facts.made_at),
        ("Policies", facts.sets),
        ("Digest of the set", facts.digest),
        ("Gateway", f"invoca-gateway {facts.version}"),
        ("Decisions shown", f"{whole}, of which {asked} can be asked for by some request"),
        ("Proved", f"{len(facts.invariants)} invariants, each over every decision there is"),
    ):
        yield f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    yield "</dl>"
    yield (
        "<p>Decision records carry the first sixteen characters of the digest, so this page can be laid beside "
        "them. Every decision here is the policies’ about the owner of a token. "
        f"{escape(CUT_DOWN)}</p>"
    )
    yield "<nav><a href='#summary'>By owner</a> <a href='#operations'>By operation</a>"
    yield "<a href='#policies'>Policies</a> <a href='#invariants'>Invariants</a>"
    yield "<a href='#contract'>The vendor’s page</a></nav>"
    yield "</header>\n<main>"


def _summary(cells: Iterable[Place]) -> Iterator[str]:
    yield "<section id='summary'><h2>By kind of account and role</h2>"
    yield from _grid(grid(cells), "Owners beside what operations do")
    yield "<h3>How to read a cell</h3><dl class='legend'>"
    for term, meaning in LEGEND:
        yield f"<div><dt>{escape(term)}</dt><dd>{escape(meaning)}</dd></div>"
    yield "</dl></section>"


def _operations(cells: Sequence[Place]) -> Iterator[str]:
    yield "<section id='operations'><h2>By operation</h2>"
    for kind in ACCOUNT_KINDS:
        own = [cell for cell in cells if isinstance(cell, Cell) and cell.kind == kind and is_reachable(cell)]
        if not own:
            continue
        made, behind = by_operation(own), _behind(own)
        rows: list[Row] = []
        shut: dict[str, list[str]] = {}
        for row in made.rows:
            if any(text != NOTHING for text in row.texts):
                rows.append(Row(row.label, (*row.texts, behind[row.label])))
            else:
                shut.setdefault(behind[row.label], []).append(row.label)
        yield f"<h3>Users of {_an(kind)}</h3>"
        if rows:
            columns = (*made.columns, "permitted by")
            yield from _grid(
                Grid(made.corner, columns, tuple(rows)), f"Operations open to users of {_an(kind)}"
            )
        for policies, names in shut.items():
            listed = ", ".join(f"<code>{escape(name)}</code>" for name in names)
            why = f"by {policies}" if policies else "no policy permits it"
            yield f"<p><strong>Refused to all of them</strong>, {escape(why)} ({len(names)}): {listed}</p>"
    yield "</section>"


def _an(kind: str) -> str:
    return f"an {kind}" if kind.startswith("a") else f"a {kind}"


def _behind(cells: Iterable[Cell]) -> dict[str, str]:
    """For each operation the permits by which it is allowed to somebody; else the forbids that meet everybody."""
    permits: dict[str, dict[str, None]] = {}
    forbids: dict[str, set[str]] = {}
    for cell in cells:
        name = operation_name(cell.operation)
        ids = [policy.id for policy in cell.decision.policies]
        found = permits.setdefault(name, {})
        live = turning(cell)
        if cell.decision.allowed or live:
            found.update(dict.fromkeys((*ids, *(policy.id for policy in live))))
        else:
            forbids[name] = forbids.get(name, set(ids)) & set(ids)
    return {name: ", ".join(found or sorted(forbids.get(name, ()))) for name, found in permits.items()}


def _grid(made: Grid, caption: str) -> Iterator[str]:
    yield f"<table class='grid'><caption>{escape(caption)}</caption>"
    heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in made.columns)
    yield f"<thead><tr><th scope='col'>{escape(made.corner)}</th>{heads}</tr></thead><tbody>"
    for row in made.rows:
        texts = "".join(
            f"<td class='{'no' if text == NOTHING else 'yes'}'>{escape(text)}</td>" for text in row.texts
        )
        yield f"<tr><th scope='row'>{escape(row.label)}</th>{texts}</tr>"
    yield "</tbody></table>"


def _policies(cells: Iterable[Place], policies: Sequence[PolicyRef]) -> Iterator[str]:
    decided = dict.fromkeys((policy.id for policy in policies), 0)
    for cell in filter(is_reachable, cells):
        for policy in {*cell.decision.policies, *cell.live}:
            decided[policy.id] = decided.get(policy.id, 0) + 1
    yield "<section id='policies'><h2>Policies</h2>"
    yield "<p>What no policy permits is refused. A forbid is undone by no permit.</p>"
    yield (
        "<table><caption>Each policy, why it is there, and how many of the decisions above it is behind</caption>"
        "<thead><tr><th scope='col'>Policy</th><th scope='col'>Reason and source</th>"
        "<th scope='col'>Where</th><th scope='col'>Decisions</th></tr></thead><tbody>"
    )
    for policy in policies:
        yield (
            f"<tr><th scope='row'><span class='{policy.effect}'>{policy.effect}</span> "
            f"<code>{escape(policy.id)}</code></th>"
            f"<td>{escape(policy.reason)}.<br><small>{escape(policy.source)}</small></td>"
            f"<td><code>{escape(policy.file)}:{policy.line}</code></td>"
            f"<td class='number'>{decided[policy.id]}</td></tr>"
        )
    yield "</tbody></table></section>"


def _invariants(facts: Facts) -> Iterator[str]:
    yield "<section id='invariants'><h2>What may never be</h2>"
    yield "<p>A set that breaks one of these is not loaded. Each was held against every decision, and holds.</p>"
    yield (
        "<table><caption>Invariants</caption><thead><tr><th scope='col'>Invariant</th>"
        "<th scope='col'>What it says</th></tr></thead><tbody>"
    )
    for invariant in facts.invariants:
        yield (
            f"<tr><th scope='row'><code>{escape(invariant.id)}</code></th>"
            f"<td>{escape(invariant.reason)}.<br><small>{escape(invariant.source)}</small></td></tr>"
        )
    yield "</tbody></table></section>"


def _contract(traced: Trace) -> Iterator[str]:
    yield "<section id='contract'><h2>The vendor’s page, sentence by sentence</h2>"
    yield (
        "<table><caption>Manage API Credentials: what each sentence is held by</caption><thead><tr>"
        "<th scope='col'>Sentence</th><th scope='col'>Policies (cases)</th>"
        "<th scope='col'>Enforced elsewhere</th></tr></thead><tbody>"
    )
    for row in traced.rows:
        carriers = "<br>".join(
            f"{carrier.policy.effect} <code>{escape(carrier.policy.id)}</code> ({len(carrier.cases)})"
            for carrier in row.carriers
        )
        yield (
            f"<tr><th scope='row'>{escape(row.sentence.id)}. {escape(row.sentence.text)}</th>"
            f"<td>{carriers or NOTHING}</td><td>{escape(row.sentence.elsewhere) or NOTHING}</td></tr>"
        )
    yield "</tbody></table>"
    for fault in traced.faults:
        yield f"<p class='fault'>{escape(str(fault))}</p>"
    yield "</section>"


_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: #fff; color: #1b1b1b;
       font: 15px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .8rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 2px solid #1b1b1b; padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
dl { margin: 0; }
dl div { display: grid; grid-template-columns: 11rem 1fr; gap: .8rem; padding: .15rem 0; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
.legend { font-size: .9rem; }
nav a { margin-right: 1rem; color: #0b4f9e; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem; font-size: .87rem; }
caption { text-align: left; font-size: .85rem; color: #555; padding-bottom: .3rem; }
th, td { border: 1px solid #b9b9b9; padding: .28rem .5rem; text-align: left; vertical-align: top; }
thead th { background: #ececec; }
tbody th { font-weight: 600; overflow-wrap: anywhere; }
td.yes { background: #e3f1e3; }
td.no { color: #767676; }
td.number { text-align: right; }
code { font: .92em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
small { color: #555; }
.permit, .forbid { display: inline-block; border-radius: .2rem; padding: 0 .35rem; font-size: .8rem; }
.permit { background: #e3f1e3; border: 1px solid #6d9c6d; }
.forbid { background: #f9e4e0; border: 1px solid #b4695a; }
.fault { color: #8a1500; font-weight: 600; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  section { break-before: page; }
  #summary { break-before: auto; }
  tr { break-inside: avoid; }
  thead { display: table-header-group; }
  td.yes { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_BEFORE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Who may do what through the gateway</title>
<style>{_STYLE}</style>
</head>
<body>
"""
