"""Who may do what: the cells of a table, chosen, grouped and put into a form that people or scripts read.

The whole space is about ten thousand cells. A screen holds what `grid` makes of them: owners that may do the same in
one row, operations of one api and effect in one column, and the relations for which they are allowed in the cell.
Scripts get every cell; people only those that some request leads to. What may be seen of an answer is decided by the
same policies, and stands beside them: a `Sight` is to a class of columns what a cell is to an operation.

Source: section 7 of the design.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product, zip_longest

from gateway.model import (
    ACCOUNT_KINDS,
    COLUMN_CLASSES,
    RELATIONS,
    ROLES,
    AccountKind,
    ColumnClass,
    Decision,
    Operation,
    PolicyRef,
    Relation,
    Role,
)
from gateway.policy import Asked
from gateway.proof import reachable
from gateway.table import Cell, Names, Table

NOTHING = "–"
LIVE = "*"


@dataclass(frozen=True, slots=True)
class Sight:
    """Whether an owner may see columns of a class, scopes aside; as a cell has it for an operation."""

    kind: AccountKind
    role: Role
    administrator: bool
    relation: Relation
    column_class: ColumnClass
    user: str | None
    account: str | None
    network: str | None
    token: str | None
    decision: Decision
    live: tuple[PolicyRef, ...]


Place = Cell | Sight


def asked(cell: Place) -> Asked:
    """What it is about."""
    return cell.operation if isinstance(cell, Cell) else cell.column_class


def sights(table: Table, names: Names | None = None) -> Iterator[Sight]:
    """Every class of columns beside every owner and relation; ids as `Table.cells` has them."""
    names = table.names if names is None else names
    for kind, role, administrator, relation, name in product(
        ACCOUNT_KINDS, ROLES, (False, True), RELATIONS, COLUMN_CLASSES
    ):
        found = table.entry(name, kind, role, administrator, relation)
        for at in names.points(kind):
            decision, live = table.reading(table.settled(found, table.known(at)))
            yield Sight(kind, role, administrator, relation, name, *at, decision, live)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which cells are asked for. An empty tuple means all of that dimension."""

    kinds: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    administrator: bool | None = None
    relations: tuple[str, ...] = ()
    apis: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    decision: str | None = None

    def __contains__(self, cell: Place) -> bool:
        chosen = (
            self._takes(self.kinds, cell.kind)
            and self._takes(self.roles, cell.role)
            and self._takes(self.relations, cell.relation)
            and self.administrator in (None, cell.administrator)
            and self.decision in (None, word(cell.decision.allowed))
        )
        if not isinstance(cell, Cell):  # what may be seen is asked of answers with Transactions alone
            transactions = self._takes(self.apis, "transactions") and self._takes(self.effects, "read")
            return chosen and transactions and not self.operations
        operation = cell.operation
        return (
            chosen
            and self._takes(self.apis, operation.api)
            and self._takes(self.effects, operation.effect)
            and self._takes(self.operations, operation.id)
        )

    @staticmethod
    def _takes(wanted: tuple[str, ...], value: str) -> bool:
        return not wanted or value in wanted


def word(allowed: bool) -> str:
    return "allow" if allowed else "deny"


def is_reachable(cell: Place) -> bool:
    return reachable(cell.kind, asked(cell), cell.relation)


def turning(cell: Place) -> tuple[PolicyRef, ...]:
    """The policies that read the clock or the client's address and may change the decision of the cell.

    None of them does where a policy forbids at every moment, nor a forbid where nothing permits.
    """
    decision, live = cell.decision, cell.live
    if decision.allowed:
        return tuple(policy for policy in live if policy.effect == "forbid")
    opens = not decision.policies and any(policy.effect == "permit" for policy in live)
    return live if opens else ()


def names(cell: Place) -> dict[str, str]:
    """The ids that the cell is about in particular, as policies name them; none for everybody else."""
    found = {"user": cell.user, "account": cell.account, "network": cell.network, "token": cell.token}
    return {name: value for name, value in found.items() if value is not None}


def replaces(cell: Cell) -> bool:
    """Whether it is the graver reading of an operation: its request carries an array that replaces a stored set."""
    return is_replacing(cell.operation)


def is_replacing(operation: Operation) -> bool:
    return bool(operation.replaces) and operation.effect == "destroy"


# --- For scripts ---------------------------------------------------------------------------------------------


def ordered(cells: Iterable[Cell]) -> list[Cell]:
    """The cells as they are listed. Of those about the same operation the most particular ones come first.

    So that whoever keeps one cell for each operation keeps the plain one: a request without a replaced set, by
    somebody whom no policy names.
    """
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        key = (cell.kind, cell.role, cell.administrator, cell.relation, cell.operation.id)
        groups.setdefault(key, []).append(cell)
    return [
        cell
        for group in groups.values()
        for cell in sorted(group, key=lambda cell: (-len(names(cell)), not replaces(cell)))
    ]


def as_dict(cell: Place) -> dict[str, object]:
    """A cell as `policy matrix --json` lists it; one about columns has `columns` for `operation`.

    `effect` is there when the operation is read as replacing a stored set, `user`, `account`, `network` and
    `token` when a policy names such an id, `live` when policies that read the clock or the client may change it.
    """
    document: dict[str, object] = {
        "kind": cell.kind,
        "role": cell.role,
        "administrator": cell.administrator,
        "relation": cell.relation,
        **({"operation": cell.operation.id} if isinstance(cell, Cell) else {"columns": cell.column_class}),
        "decision": word(cell.decision.allowed),
        "policies": [policy.id for policy in cell.decision.policies],
    }
    if isinstance(cell, Cell) and replaces(cell):
        document["effect"] = cell.operation.effect
    document |= names(cell)
    if live := turning(cell):
        document["live"] = [policy.id for policy in live]
    return document


CSV_FIELDS = (
    "kind", "role", "administrator", "relation", "operation", "api", "effect", "status", "decision", "policies",
    "live", "user", "account", "network", "token", "reachable",
)  # fmt: skip


def as_csv(cells: Iterable[Cell]) -> str:
    """Every cell on a line of its own, under a line of names. Policies are parted by spaces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for cell in cells:
        operation = cell.operation
        writer.writerow(
            map(
                _plain,
                (
                    cell.kind, cell.role, str(cell.administrator).lower(), cell.relation,
                    operation.id, operation.api, operation.effect, operation.status,
                    word(cell.decision.allowed), " ".join(policy.id for policy in cell.decision.policies),
                    " ".join(policy.id for policy in turning(cell)),
                    cell.user or "", cell.account or "", cell.network or "", cell.token or "",
                    str(is_reachable(cell)).lower(),
                ),
            )
        )  # fmt: skip
    return text.getvalue()


def _plain(value: str) -> str:
    """A value that no spreadsheet takes for a formula: an id in a policy is any text."""
    return "'" + value if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


# --- For people ----------------------------------------------------------------------------------------------

OLD = "old operations"
SHORT = {"transactions": "transactions", "network_integration": "network"}
"""The apis as the scopes call them."""


@dataclass(slots=True)
class Tally:
    """For one relation: how many operations are allowed, of how many; and whether the moment may change any."""

    allowed: int = 0
    of: int = 0
    live: bool = False


@dataclass(frozen=True, slots=True)
class Who:
    """Owners of which the same is true. `names` are the ids that a policy names, as (dimension, id)."""

    kind: AccountKind
    role: str
    administrator: bool
    names: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What some owners may do, or who may do something: what it is about, and one text for each column."""

    label: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table that fits a screen. `corner` stands above the labels of its rows."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(slots=True)
class _Tallies:
    by_place: dict[tuple[Who, str], dict[str, Tally]] = field(default_factory=dict)

    def add(self, cell: Place, who: Who, column: str) -> None:
        tally = self.by_place.setdefault((who, column), {}).setdefault(cell.relation, Tally())
        tally.of += 1
        tally.allowed += cell.decision.allowed
        tally.live = tally.live or bool(turning(cell))

    def text(self, who: Who, column: str) -> str:
        found = self.by_place.get((who, column), {})
        return ", ".join(filter(None, (_said(name, tally) for name, tally in found.items()))) or NOTHING

    def unlike(self, people: Iterable[Who], columns: Iterable[str]) -> Iterator[Who]:
        """Those of the people of whom something else is true than of everybody like them."""
        for owner in people:
            plain = replace(owner, names=())
            if owner == plain or any(self.text(owner, name) != self.text(plain, name) for name in columns):
                yield owner


def _said(relation: str, tally: Tally) -> str:
    live = LIVE if tally.live else ""
    if tally.allowed == tally.of:
        return relation + live
    return f"{relation} {tally.allowed}/{tally.of}{live}" if tally.allowed or live else ""


def who(cell: Place) -> Who:
    return Who(cell.kind, cell.role, cell.administrator, tuple(names(cell).items()))


def column(what: Asked) -> str:
    """`network write`, as the scope for it is called; what is not in the current documentation stands apart."""
    if not isinstance(what, Operation):
        return f"see {what}"
    return f"{SHORT[what.api]} {what.effect}" if what.status == "current" else OLD


def grid(cells: Iterable[Place]) -> Grid:
    """Owners beside kinds of operations: the relations for which the operations are allowed.

    `own` means all of them, `own 3/40` so many; a star, that the clock or the client's address may change it. What
    may be seen is shown for accounts of which there is an answer to see.
    """
    shown_cells = [cell for cell in cells if is_reachable(cell)]
    answers = {
        (who(cell), cell.relation)
        for cell in shown_cells
        if isinstance(cell, Cell)
        and returns_columns(cell.operation)
        and (cell.decision.allowed or turning(cell))
    }
    tallies, people, columns = _Tallies(), dict[Who, None](), dict[str, None]()
    for cell in shown_cells:
        owner, name = who(cell), column(asked(cell))
        people[owner] = columns[name] = None
        if isinstance(cell, Cell) or (owner, cell.relation) in answers:
            tallies.add(cell, owner, name)
    shown = tuple(sorted(columns, key=OLD.__eq__))
    same: dict[tuple[object, ...], list[Who]] = {}
    for owner in tallies.unlike(people, shown):
        texts = tuple(tallies.text(owner, name) for name in shown)
        same.setdefault((owner.kind, owner.names, texts), []).append(owner)
    rows = tuple(
        Row(said(owners), tuple(tallies.text(owners[0], name) for name in shown)) for owners in same.values()
    )
    return Grid("owner", shown, rows)


def returns_columns(operation: Operation) -> bool:
    """Whether its answer holds Transactions, of which columns may be withheld."""
    return operation.api == "transactions" and operation.effect == "read"


def by_operation(cells: Iterable[Cell]) -> Grid:
    """The same turned round: one row for each operation, one column for all owners who may do the same."""
    tallies, people, operations = _Tallies(), dict[Who, None](), dict[str, None]()
    for cell in filter(is_reachable, cells):
        owner, name = who(cell), operation_name(cell.operation)
        people[owner] = operations[name] = None
        tallies.add(cell, owner, name)
    same: dict[tuple[str, ...], list[Who]] = {}
    for owner in tallies.unlike(people, operations):
        same.setdefault(tuple(tallies.text(owner, name) for name in operations), []).append(owner)
    rows = tuple(Row(name, tuple(texts[place] for texts in same)) for place, name in enumerate(operations))
    return Grid("operation", tuple(map(said, same.values())), rows)


def operation_name(operation: Asked) -> str:
    """The operation's id, with a word where it is read as replacing a stored set."""
    if not isinstance(operation, Operation):
        return operation
    return operation.id + (" (replacing)" if is_replacing(operation) else "")


def said(owners: Sequence[Who]) -> str:
    """`network: super, manager`: owners in words, and whether it matters that they are administrators."""
    by_kind: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, set[bool]]] = {}
    for owner in owners:
        roles = by_kind.setdefault((owner.kind, owner.names), {})
        roles.setdefault(owner.role, set()).add(owner.administrator)
    return "; ".join(
        kind + "".join(f", {dimension} {value}" for dimension, value in named) + ": " + _roles(roles)
        for (kind, named), roles in by_kind.items()
    )


def _roles(roles: Mapping[str, set[bool]]) -> str:
    if len(roles) == len(ROLES) and all(len(flags) == 2 for flags in roles.values()):
        return "every role"
    return ", ".join(role + _ADMINISTRATOR[frozenset(flags)] for role, flags in roles.items())


_ADMINISTRATOR = {
    frozenset({True, False}): "",
    frozenset({True}): " (administrator)",
    frozenset({False}): " (no administrator)",
}


def narrowed(made: Grid) -> Grid:
    """The same grid with one column for all that say the same in every row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for place, name in enumerate(made.columns):
        alike.setdefault(tuple(row.texts[place] for row in made.rows), []).append(name)
    rows = (Row(row.label, tuple(texts[at] for texts in alike)) for at, row in enumerate(made.rows))
    return Grid(made.corner, tuple(map(", ".join, alike.values())), tuple(rows))


def grid_text(made: Grid) -> str:
    """A grid for a terminal: columns padded, long texts folded inside their column."""
    table = [(made.corner, *made.columns), *((row.label, *row.texts) for row in made.rows)]
    folded = [
        [_folded(text, FIRST if place == 0 else REST) for place, text in enumerate(line)] for line in table
    ]
    widths = [max(len(part) for line in folded for part in line[place]) for place in range(len(table[0]))]
    lines: list[str] = []
    for line in folded:
        for parts in zip_longest(*line, fillvalue=""):
            lines.append("  ".join(map(str.ljust, parts, widths)).rstrip())
        if line is folded[0]:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


FIRST, REST = 36, 13
"""Columns of characters that a label, and any other text, may be wide."""


def _folded(text: str, width: int) -> list[str]:
    """A text in lines of at most `width`, cut at spaces; a word longer than that keeps a line of its own."""
    lines = [""]
    for piece in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(piece) > width:
            lines.append(piece)
        else:
            lines[-1] = f"{lines[-1]} {piece}" if lines[-1] else piece
    return lines


LEGEND = (
    ("own", "the account named in the path is the owner's"),
    ("network", "the account named in the path is stored under the owner's network"),
    ("none", "the path could name a network and does not"),
    ("other", "the account named in the path is any other"),
    ("own 3/40", "for 3 of 40 operations; without numbers, for all of them"),
    (NOTHING, "for none"),
    (LIVE, "the clock or the client's address may change it"),
    (OLD, "those that are not in the current documentation"),
    ("(replacing)", "the body carries an array that replaces a stored set, so members left out are deleted"),
    ("see", "columns of that class, in the Transactions of which there is an answer"),
)
"""What the texts of a grid mean."""
CUT_DOWN = "A token may do of this what its scopes let it do as well, and never more."
