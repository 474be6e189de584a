"""Which columns a row has: by view, by API version, by what the request includes and excludes.

The facts are in columns.toml beside this file; the account's own columns ("marketing data fields" and signals)
are below. Columns that no page documents and that this account does not have are passed over in silence, since
the vendor says nothing about them.

Source: vendor pages Transactions API, "Include and exclude columns", and "Marketing Data and Signals".
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

VIEWS = {"networks": "n", "advertisers": "a", "affiliates": "f"}
VIEWS_WITH_CUSTOM = "na"  # the affiliate page documents no custom columns
CUSTOM_DATA = "custom_data"

DEFAULT = "$invoca_default_columns"
CUSTOM = "$invoca_custom_columns"
CUSTOM_SOURCE = "$invoca_custom_source_columns"


@dataclass(frozen=True, slots=True)
class Column:
    """A documented column; `since` and `until` are API versions, which compare as text."""

    name: str
    views: str
    group: str
    type: str
    since: str | dict[str, str] = ""
    until: str = "9999-12-31"
    draw: tuple[str | int, ...] = ()

    def known(self, view: str, version: str) -> bool:
        """Whether the documentation of that version lists the column for the view."""
        since = self.since if isinstance(self.since, str) else self.since.get(view, "")
        return view in self.views and since <= version <= self.until


@dataclass(frozen=True, slots=True)
class Custom:
    """A column of this account only. A Signal is 1 or null, any other type text or null.

    `label` is the key that names the field inside `custom_data`: "name", or for one field "partner_name", as
    in the vendor's example.
    """

    name: str
    data_type: str
    source: str
    draw: tuple[str, ...] = ()
    label: str = "name"


def load() -> tuple[Column, ...]:
    text = files("gateway.sandbox").joinpath("columns.toml").read_text(encoding="utf-8")
    return tuple(column(name, facts) for name, facts in tomllib.loads(text).items())


def column(name: str, facts: dict[str, Any]) -> Column:
    return Column(name, **(facts | {"draw": tuple(facts.get("draw", ()))}))


COLUMNS = load()
CUSTOM_COLUMNS = (
    Custom("Visit Booked", "Signal", "Expression"),
    Custom("quote_given", "Signal", "AI"),
    Custom("visit_reason", "Category", "VirtualLine", ("Cleaning", "Pain, acute", "Second opinion")),
    Custom("patient_email", "Short Text", "Api", ("robin@example.com", "zoë+dent@example.com")),
    Custom("calling_phone_number_alt", "Short Text", "Import", ("541-555-0187", "541-555-0188")),
    Custom(
        "call_summary",
        "Long Text",
        "AI",
        ('She said "maybe", then\nasked for a price <100 & a date.', "Kurz: Termin für Dienstag, 9 ½ Uhr"),
    ),
    Custom("gclid", "Short Text", "DynamicAttribution", ("Cj0-abc", "Cj0-def"), label="partner_name"),
)
SOURCE_COLUMNS = tuple(f"{custom.name}.source" for custom in CUSTOM_COLUMNS)


def defaults(view: str, version: str) -> list[str]:
    """The default set of a version; `custom_data` is documented but never answered unasked."""
    return [each.name for each in COLUMNS if each.known(view, version) and each.name != CUSTOM_DATA]


def choose(view: str, version: str, include: str, exclude: str) -> list[str]:
    """The columns to answer, in the order asked for, each once.

    Args: include, exclude: comma-separated names and constants, empty when the parameter is missing.
    A name that is included beats a constant that is excluded; a name that is excluded beats everything.
    """
    sets = constants(view, version)
    asked, refused = split(include), split(exclude)
    listed = list(expand(asked, sets)) if asked else sets[DEFAULT] + sets[CUSTOM]
    out = {name for name in expand(refused, sets) if name in refused or name not in asked}
    known = {*sets[DEFAULT], *sets[CUSTOM], *sets[CUSTOM_SOURCE], *documented_custom_data(view, version)}
    return [name for name in dict.fromkeys(listed) if name in known and name not in out]


def constants(view: str, version: str) -> dict[str, list[str]]:
    """What each constant stands for. The custom ones grow with the account, whatever the version."""
    has_custom = view in VIEWS_WITH_CUSTOM
    return {
        DEFAULT: defaults(view, version),
        CUSTOM: [custom.name for custom in CUSTOM_COLUMNS] if has_custom else [],
        CUSTOM_SOURCE: list(SOURCE_COLUMNS) if has_custom else [],
    }


def documented_custom_data(view: str, version: str) -> list[str]:
    return [each.name for each in COLUMNS if each.name == CUSTOM_DATA and each.known(view, version)]


def split(names: str) -> list[str]:
    return [name for name in names.split(",") if name]


def expand(names: Iterable[str], sets: dict[str, list[str]]) -> Iterator[str]:
    for name in names:
        yield from sets.get(name, (name,))
