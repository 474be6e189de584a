"""What a change of policies changes: every decision that flips, and the same in sentences that a reviewer can read.

Two tables are held against each other at every point that either of them tells apart: a set that names somebody's
id and one that does not are compared for that somebody too. A difference is one of four kinds: `opened` (denied
before, allowed now), `closed`, `moment` (decided alike for now, but other policies that read the clock or the
client's address may change it), and `reason` (decided alike, by other policies). The first two are flips.

Source: section 7 of the design.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from gateway.matrix import (
    Place,
    Who,
    as_dict,
    asked,
    is_reachable,
    operation_name,
    said,
    sights,
    turning,
    who,
    word,
)
from gateway.model import AccountKind, Operation, PolicyRef, Relation
from gateway.policy import Asked
from gateway.proof import reachable
from gateway.table import Cell, Table

Kind = Literal["opened", "closed", "moment", "reason"]
KINDS: tuple[Kind, ...] = ("opened", "closed", "moment", "reason")
FLIPS: tuple[Kind, ...] = ("opened", "closed")
LISTED = 8
"""How many operations a sentence names when it is not about all of their like."""


@dataclass(frozen=True, slots=True)
class Flip:
    """One cell that two sets do not decide alike: as it `was`, and as it is `now`."""

    kind: Kind
    was: Place
    now: Place

    @property
    def before(self) -> tuple[PolicyRef, ...]:
        return _behind(self.was)

    @property
    def after(self) -> tuple[PolicyRef, ...]:
        return _behind(self.now)


@dataclass(frozen=True, slots=True)
class Group:
    """Flips of one kind and by the same policies: all these owners beside all relations and all it is about."""

    kind: Kind
    before: tuple[PolicyRef, ...]
    after: tuple[PolicyRef, ...]
    owners: tuple[Who, ...]
    relations: tuple[Relation, ...]
    about: tuple[Asked, ...]


def differences(old: Table, new: Table, changed: Iterable[str] = ()) -> list[Flip]:
    """Everything that two sets over one catalogue do not decide alike, in the order of the tables.

    `changed` are the ids of policies whose text is not the same in both: one that reads the clock or the client's
    address may then decide otherwise, though it matters in the same cells.
    """
    touched, names = frozenset(changed), old.names.beside(new.names)
    pairs: Iterator[tuple[Place, Place]] = chain(
        zip(old.cells(names), new.cells(names), strict=True),
        zip(sights(old, names), sights(new, names), strict=True),
    )
    flips = ((_kind(was, now, touched), was, now) for was, now in pairs)
    return [Flip(kind, was, now) for kind, was, now in flips if kind is not None]


def can_be_told(flip: Flip) -> bool:
    """Whether a request can show it. Why a class of columns may be seen is said in no answer and no record."""
    return is_reachable(flip.now) and (flip.kind != "reason" or isinstance(flip.now, Cell))


def _kind(was: Place, now: Place, touched: frozenset[str]) -> Kind | None:
    if was.decision.allowed != now.decision.allowed:
        return "opened" if now.decision.allowed else "closed"
    turns = _ids(turning(now))
    if turns != _ids(turning(was)) or turns & touched:
        return "moment"
    behind = _ids(_behind(now))
    return "reason" if behind != _ids(_behind(was)) or _ids(now.live) & touched else None


def _ids(policies: Iterable[PolicyRef]) -> set[str]:
    return {policy.id for policy in policies}


def _behind(cell: Place) -> tuple[PolicyRef, ...]:
    known = {policy.id for policy in cell.decision.policies}
    return (*cell.decision.policies, *(policy for policy in cell.live if policy.id not in known))


# --- In sentences --------------------------------------------------------------------------------------------


def grouped(flips: Iterable[Flip]) -> list[Group]:
    """The flips that some request leads to, in as few groups as say the same; opened ones first."""
    alike: dict[tuple[Kind, tuple[PolicyRef, ...], tuple[PolicyRef, ...]], list[Place]] = {}
    for flip in flips:
        if is_reachable(flip.now):
            alike.setdefault((flip.kind, flip.before, flip.after), []).append(flip.now)
    groups = [
        Group(kind, before, after, *box)
        for (kind, before, after), cells in alike.items()
        for box in _boxes(cells)
    ]
    return sorted(groups, key=lambda group: KINDS.index(group.kind))


def _boxes(
    cells: Iterable[Place],
) -> Iterator[tuple[tuple[Who, ...], tuple[Relation, ...], tuple[Asked, ...]]]:
    """The cells as owners × relations × what is asked about, put together where two of the three are the same."""
    about: dict[tuple[Who, Relation], tuple[Asked, ...]] = {}
    for cell in cells:
        place = who(cell), cell.relation
        about[place] = (*about.get(place, ()), asked(cell))
    owners: dict[tuple[Relation, tuple[Asked, ...]], tuple[Who, ...]] = {}
    for (owner, relation), found in about.items():
        owners[relation, found] = (*owners.get((relation, found), ()), owner)
    relations: dict[tuple[tuple[Who, ...], tuple[Asked, ...]], tuple[Relation, ...]] = {}
    for (relation, found), people in owners.items():
        relations[people, found] = (*relations.get((people, found), ()), relation)
    for (people, found), named in relations.items():
        yield people, named, found


_OPENS: dict[Kind, str] = {
    "opened": "OPENED",
    "closed": "CLOSED",
    "moment": "NOW AND THEN",
    "reason": "FOR ANOTHER REASON",
}


def groups_text(groups: Sequence[Group], catalogue: Sequence[Operation], full: bool = False) -> str:
    """The groups as sentences: who, on which accounts, may or may no longer do what, and by which policies.

    `catalogue` are all operations there are, so that "every" can be said. Without `full` at most eight
    operations are named in one place.
    """
    lines: list[str] = []
    for group in groups:
        lines += ["", f"{_OPENS[group.kind]}  {said(group.owners)}", f"  on {_relations(group.relations)}"]
        lines += (f"  {text}" for text in _operations(group, catalogue, full))
        lines += [f"  before: {_policies(group.before)}", f"  now:    {_policies(group.after)}"]
    return "\n".join(lines[1:])


_MEANT = {
    "own": "the owner's own account",
    "network": "accounts stored under the owner's network",
    "none": "no account named in the path",
    "other": "any other account",
}


def _relations(relations: Sequence[Relation]) -> str:
    return ", or ".join(_MEANT[relation] for relation in relations)


def _policies(policies: Sequence[PolicyRef]) -> str:
    if not policies:
        return "no policy permits it"
    return ", ".join(f"{policy.effect} {policy.id} ({policy.file}:{policy.line})" for policy in policies)


def _operations(group: Group, catalogue: Sequence[Operation], full: bool) -> Iterator[str]:
    """The operations by what they do: all of their like, or so many of them by name; then classes of columns."""
    kinds: set[AccountKind] = {owner.kind for owner in group.owners}
    likes: dict[str, list[Operation]] = {}
    for what in group.about:
        if isinstance(what, Operation):
            likes.setdefault(_like(what), []).append(what)
    for like, found in likes.items():
        of = [
            operation
            for operation in catalogue
            if _like(operation) == like
            and any(reachable(kind, operation, named) for kind in kinds for named in group.relations)
        ]
        shown = found if full else found[:LISTED]
        named = ", ".join(map(operation_name, shown))
        more = "" if len(shown) == len(found) else f" and {len(found) - len(shown)} more"
        if len(found) < len(of):
            yield f"{len(found)} of {len(of)} {like} operations: {named}{more}"
        else:
            yield f"every {like} operation ({len(of)})" + (f": {named}" if full else "")
    classes = [what for what in group.about if not isinstance(what, Operation)]
    if classes:
        yield f"columns of class {', '.join(classes)} in answers with Transactions"


_STATUS = {"current": "", "legacy": "old ", "refused_upstream": "upstream-refused "}


def _like(operation: Operation) -> str:
    return f"{_STATUS[operation.status]}{operation.api.replace('_', ' ')} {operation.effect}"


def counts(flips: Iterable[Flip]) -> dict[Kind, int]:
    """How many there are of each kind that some request leads to."""
    found = dict.fromkeys(KINDS, 0)
    for flip in flips:
        found[flip.kind] += is_reachable(flip.now)
    return found


def counts_text(flips: Sequence[Flip]) -> str:
    found = counts(flips)
    beside = sum(flip.kind in FLIPS for flip in flips) - found["opened"] - found["closed"]
    text = f"{found['opened'] + found['closed']} decisions flip: {found['opened']} opened, {found['closed']} closed"
    text += (
        f"\n{found['moment']} may change with the clock or the client's address" if found["moment"] else ""
    )
    text += f"\n{found['reason']} stay as they are, by other policies" if found["reason"] else ""
    return text + (f"\n{beside} more flip that no request leads to" if beside else "")


def flip_as_dict(flip: Flip) -> dict[str, object]:
    """A cell as `policy diff --json` lists it: as in the matrix, with what it was."""
    was = as_dict(flip.was)
    document = {"change": flip.kind} | as_dict(flip.now)
    document["was"] = {name: was[name] for name in ("decision", "policies", "live") if name in was}
    document["reachable"] = is_reachable(flip.now)
    return document


def group_as_dict(group: Group) -> dict[str, object]:
    return {
        "change": group.kind,
        "decision": {"opened": word(True), "closed": word(False)}.get(group.kind),
        "owners": [
            {"kind": owner.kind, "role": owner.role, "administrator": owner.administrator} | dict(owner.names)
            for owner in group.owners
        ],
        "relations": list(group.relations),
        "operations": [operation_name(what) for what in group.about if isinstance(what, Operation)],
        "columns": [what for what in group.about if not isinstance(what, Operation)],
        "before": [policy.id for policy in group.before],
        "after": [policy.id for policy in group.after],
    }
