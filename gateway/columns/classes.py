"""Which class a column has: the shipped list, and what an operator adds for the columns of their own account.

Columns are an open set: accounts add some under any name. So an unknown name is pii, and nothing here guesses from
words. A local file may give unknown names a class and make public columns stricter; it cannot open a shipped one.

Source: `policies/columns.toml`, made from the vendor's pages Transactions API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from gateway import tomlfile
from gateway.model import AccountKind
from gateway.shipped import packaged
from gateway.tomlfile import ConfigError, Fault

ColumnClass = Literal["public", "pii", "financial"]
CLASSES: tuple[ColumnClass, ...] = get_args(ColumnClass)
UNKNOWN: ColumnClass = "pii"
CUSTOM_DATA = "custom_data"
FILE = "columns.toml"
Views = tuple[AccountKind, ...]


@dataclass(frozen=True, slots=True)
class ColumnsFile:
    """The file as it is written: for each class its columns, and for each column the views that have it."""

    public: dict[str, Views] = field(default_factory=dict)
    pii: dict[str, Views] = field(default_factory=dict)
    financial: dict[str, Views] = field(default_factory=dict)

    def check(self) -> Iterator[tuple[str, str]]:
        known: set[str] = set()
        for name, column in self.columns():
            if name in known:
                yield f"{column.cls}.{name}", "has a class already"
            known.add(name)

    def columns(self) -> Iterator[tuple[str, Column]]:
        for cls, named in (("public", self.public), ("pii", self.pii), ("financial", self.financial)):
            for name, views in named.items():
                yield name, Column(name, cls, views)  # type: ignore[arg-type]  # the three literals above


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    cls: ColumnClass
    views: Views


class Classes:
    """Name to class. Frozen once made; a reload makes another. Of none every column is unknown, and so pii."""

    def __init__(self, columns: Mapping[str, Column] = MappingProxyType({})) -> None:
        self._columns = dict(columns)
        self._reveals: dict[frozenset[ColumnClass], Reveal] = {}

    def of(self, name: str) -> ColumnClass:
        """The class of a column, compared letter by letter."""
        column = self._columns.get(name)
        return UNKNOWN if column is None else column.cls

    def other_than(self, before: Classes) -> dict[str, tuple[ColumnClass, ColumnClass]]:
        """The columns that had another class before: name to (that one, the one now)."""
        return {
            name: (before.of(name), self.of(name))
            for name in dict.fromkeys((*before._columns, *self._columns))
            if before.of(name) != self.of(name)
        }

    def columns(self, view: AccountKind) -> tuple[Column, ...]:
        """The known columns of a view, in the order of the files."""
        return tuple(column for column in self._columns.values() if view in column.views)

    def reveal(self, revealed: Iterable[ColumnClass]) -> Reveal:
        """What somebody sees to whom these classes are revealed; the same object for the same classes."""
        wanted: frozenset[ColumnClass] = frozenset(revealed)
        if wanted not in self._reveals:
            self._reveals[wanted] = Reveal(self, wanted)
        return self._reveals[wanted]

    def __getstate__(self) -> dict[str, Any]:
        """Without what was made of it: see `Table.pack`."""
        return {"_columns": self._columns, "_reveals": {}}


@dataclass(frozen=True, slots=True, eq=False)
class Reveal:
    """The classes that are revealed to somebody. Compared by identity."""

    classes: Classes
    revealed: frozenset[ColumnClass]

    @property
    def everything(self) -> bool:
        return len(self.revealed) == len(CLASSES)

    def sees(self, name: str) -> bool:
        """Whether a column may pass whole. `custom_data` may hold values of any class: see `json` and `xml`."""
        return self.everything or (name != CUSTOM_DATA and self.classes.of(name) in self.revealed)

    def hidden_as(self, name: str) -> ColumnClass:
        """The class under which something of this name is withheld. A nested value under a name that may be seen is
        of the first class that may not: nothing documented nests."""
        cls = self.classes.of(name)
        return next((each for each in (cls, *CLASSES) if each not in self.revealed), cls)

    def personal(self, name: str) -> bool:
        """Whether a row that is delivered with this column counts as a personal record."""
        return "pii" in self.revealed and self.classes.of(name) == "pii"


def load() -> Classes:
    """The shipped classes alone. Those of a set of policies come with it: see `policyfile`."""
    path = packaged() / FILE
    return read((path.read_text(encoding="utf-8"), str(path)))


def read(shipped: tuple[str, str], local: tuple[str, str] | None = None) -> Classes:
    """Classes from (text, file name) of the shipped list and of the operator's. Raises: ConfigError."""
    columns = dict(tomlfile.read(ColumnsFile, *shipped).columns())
    if local is not None:
        faults: list[Fault] = []
        lines = tomlfile.Lines(local[0])
        added = dict(tomlfile.read(ColumnsFile, *local).columns())
        alike = {_folded(name): column for name, column in columns.items() if column.cls != "public"}
        for name, column in added.items():
            if text := _refused(column, columns.get(name), alike.get(_folded(name))):
                faults.append(Fault(local[1], lines.of((column.cls, name)), f"{column.cls}.{name}", text))
        if faults:
            raise ConfigError(faults)
        columns |= added
    return Classes(columns)


def _refused(column: Column, shipped: Column | None, alike: Column | None) -> str | None:
    """Why an operator may not say this, or None."""
    if alike is not None and alike is not shipped:
        # Nothing documents how the vendor compares names: a look-alike must not open what the name would not.
        return None if column.cls == alike.cls else f"is spelled like {alike.name}, which is {alike.cls}"
    if shipped is not None and shipped.cls not in ("public", column.cls):
        return f"is {shipped.cls} in the shipped list, which a local file cannot change"
    return None


def _folded(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
