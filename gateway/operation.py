"""The catalogue: a method and a judged path into the one operation they ask for, or a Problem that names why not.

Paths are matched segment by segment through a tree, so the cost does not grow with the number of operations.
A literal always wins over a placeholder and there is no way back: a path has at most one reading.
What cannot be identified is refused; nothing here falls through.

Source: the vendor's documentation, as kept in `policies/operations.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NoReturn, cast
from urllib.parse import unquote

from gateway import tomlfile
from gateway.config import Versions
from gateway.model import AccountKind, Api, Call, Effect, Operation, Status
from gateway.problem import Problem
from gateway.target import Target
from gateway.tomlfile import ConfigError, Fault

DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
NUMBER = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)
OPAQUE = re.compile(r".{1,512}", re.ASCII)
GRAMMAR = {
    "network_id": NUMBER,
    "advertiser_id": NUMBER,
    "affiliate_id": NUMBER,
    "customer_phone_number_id": DIGITS,
    "js_tag_id": DIGITS,
    "external_revision_id": DIGITS,
}
# A placeholder that takes one word too, a word that other operations have as a literal in the same place.
ALSO = {"{external_revision_id}": "draft"}
ACCOUNT_KIND: dict[str, AccountKind] = {
    "network_id": "network",
    "advertiser_id": "advertiser",
    "affiliate_id": "affiliate",
}
PREFIX = "/api/{version}/"
LOGIN_TOKEN = "create_access_token"


@dataclass(frozen=True, slots=True)
class OperationEntry:
    """One `[[operation]]` of the file."""

    id: str
    api: Api
    methods: tuple[str, ...]
    path: str
    effect: Effect
    scope: str | None = None
    account: str | None = None
    formats: tuple[str, ...] = ("json",)
    replaces: tuple[str, ...] = ()
    status: Status = "current"

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.path.startswith(PREFIX):
            yield "path", f"has to begin with {PREFIX}"
        if not self.path.endswith(".{format}"):
            yield "path", "has to end with .{format}"
        for name in ("methods", "formats"):
            if not getattr(self, name):
                yield name, "must not be empty"
        if self.account is not None and self.account not in ACCOUNT_KIND:
            yield "account", f"is not an account's placeholder (known are {', '.join(ACCOUNT_KIND)})"
        elif self.account is not None and f"{{{self.account}}}" not in self.path:
            yield "account", "is not in the path"

    def operation(self) -> Operation:
        kind = None if self.account is None else ACCOUNT_KIND[self.account]
        return Operation(
            self.id, self.api, self.effect, self.scope, self.status, self.methods, self.path, self.formats,
            kind, self.account, self.replaces,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class OtherEntry:
    """One `[[other]]` of the file: a surface of the vendor's that is known and not offered."""

    id: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CatalogueFile:
    versions: Versions
    operation: tuple[OperationEntry, ...]
    other: tuple[OtherEntry, ...] = ()

    def check(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        for number, entry in enumerate(self.operation):
            if entry.id in seen:
                yield f"operation.{number}.id", f"{entry.id} is there twice"
            seen.add(entry.id)
        for api in sorted({entry.api for entry in self.operation}):
            if not getattr(self.versions, api):
                yield "versions", f"names none for {api}"


@dataclass(slots=True)
class _Node:
    """A place in the tree: what may follow, and what ends here. `leaves` are keyed by (stem or None, suffix)."""

    literals: dict[str, _Node] = field(default_factory=dict)
    placeholder: str | None = None
    child: _Node | None = None
    leaf_placeholder: str | None = None
    leaves: dict[tuple[str | None, str], dict[str, Operation]] = field(default_factory=dict)


class Catalogue:
    """Every operation, found by method and path."""

    def __init__(self, entries: CatalogueFile, extra: Versions | None = None) -> None:
        extra = extra or Versions()
        self.operations = tuple(entry.operation() for entry in entries.operation)
        self.others = entries.other
        self._by_id = {operation.id: operation for operation in self.operations}
        self._destroying = {
            operation: replace(operation, effect="destroy", scope="network:destroy")
            for operation in self.operations
            if operation.replaces and operation.effect == "write"
        }
        self._versions: dict[Api, frozenset[str]] = {
            "transactions": frozenset(entries.versions.transactions + extra.transactions),
            "network_integration": frozenset(
                entries.versions.network_integration + extra.network_integration
            ),
        }
        self._root, self._login_root = _Node(), _Node()
        for operation in self.operations:
            root = self._login_root if operation.effect == "impersonate" else self._root
            for path in _spellings(operation.path):
                _plant(root, path, operation)
        self._others = tuple((_pattern(path), other) for other in self.others for path in other.paths)

    @classmethod
    def load(cls, text: str, name: str, extra: Versions | None = None) -> Catalogue:
        """The catalogue in a TOML text. Raises: ConfigError with every fault found."""
        return cls(tomlfile.read(CatalogueFile, text, name), extra)

    def __getitem__(self, operation_id: str) -> Operation:
        return self._by_id[operation_id]

    def variants(self) -> tuple[Operation, ...]:
        """Every operation, and the destroying reading of each one whose body can replace a stored set."""
        return self.operations + tuple(self._destroying.values())

    def identify(self, method: str, target: Target) -> Call:
        """The call a request makes.

        Raises: Problem "denied" for any unknown form of a login-token path, "other-surface" for a known surface
        that is not offered, "method-not-allowed", "unknown-version", "not-found" outside /api/, else
        "unknown-operation".
        """
        segments = target.segments
        # Before any template: it hides under allowed prefixes, and an id may look like it.
        if unquote(segments[-1]).casefold().startswith(LOGIN_TOKEN):
            return self._login_token(method, segments)
        if segments[0] != "api" or len(segments) < 3:
            self._refuse_other(method, target.path, "not-found", "Only /api/ is served here.")
        found = _find(self._root, segments)
        if found is None:
            self._refuse_other(
                method, target.path, "unknown-operation", "No documented operation has this path."
            )
        methods, account_id, suffix = found
        operation = methods.get(method)
        if operation is None:
            raise Problem(
                "method-not-allowed",
                "The vendor documents other methods for this path.",
                headers=(("Allow", ", ".join(sorted(methods))),),
            )
        version = segments[1]
        if version not in self._versions[operation.api]:
            raise Problem(
                "unknown-version",
                f"Current is {max(self._versions[operation.api])} for this API.",
                operation=operation.id,
            )
        return Call(operation, version, account_id, suffix)

    def with_keys(self, call: Call, keys: Iterable[str]) -> Call:
        """The call, counted as destroying when its body, or its query, carries an array that replaces a set."""
        destroying = self._destroying.get(call.operation)
        if destroying is None or not set(call.operation.replaces).intersection(keys):
            return call
        return replace(call, operation=destroying)

    def _login_token(self, method: str, segments: tuple[str, ...]) -> Call:
        found = _find(self._login_root, segments)
        operation = found and found[0].get(method)
        if not found or not operation:
            raise Problem("denied", "A path that mints a login session is refused in every form.")
        return Call(operation, segments[1], found[1], found[2])

    def _refuse_other(self, method: str, path: str, kind: str, detail: str) -> NoReturn:
        for pattern, other in self._others:
            if method in other.methods and pattern.fullmatch(path):
                kind = "other-surface" if path.startswith("/api/") else "not-found"
                raise Problem(kind, f"The vendor's {other.id} surface is not offered here.", surface=other.id)
        raise Problem(kind, detail)


def _spellings(path: str) -> list[str]:
    """The documented path, the one without the network id where the vendor lets it be left out, and `ALSO`."""
    with_id = PREFIX + "{network_id}/"
    paths = [path, PREFIX + path[len(with_id) :]] if path.startswith(with_id) else [path]
    return paths + [path.replace(name, word) for path in paths for name, word in ALSO.items() if name in path]


def _plant(root: _Node, path: str, operation: Operation) -> None:
    *inner, last = path.removeprefix(PREFIX).split("/")
    node = root
    for segment in inner:
        if segment.startswith("{"):
            node.placeholder = _same(node.placeholder, segment[1:-1], path)
            node.child = node.child or _Node()
            node = node.child
        else:
            node = node.literals.setdefault(segment, _Node())
    stem = last.removesuffix(".{format}")
    literal: str | None = stem
    if stem.startswith("{"):
        node.leaf_placeholder = _same(node.leaf_placeholder, stem[1:-1], path)
        literal = None
    for suffix in operation.formats:
        methods = node.leaves.setdefault((literal, suffix), {})
        for method in operation.methods:
            if methods.setdefault(method, operation) is not operation:
                raise _ambiguous(path, f"{method} is {methods[method].id} already")


def _same(known: str | None, name: str, path: str) -> str:
    if known in (None, name):
        return name
    # Under another name an account would not be found again, and under another grammar nothing would.
    if GRAMMAR.get(str(known)) is not GRAMMAR.get(name) or {known, name} & ACCOUNT_KIND.keys():
        raise _ambiguous(path, f"{{{name}}} stands where another path has {{{known}}}")
    return str(known)


def _ambiguous(path: str, text: str) -> ConfigError:
    return ConfigError([Fault("operations.toml", 0, path, text)])


def _find(root: _Node, segments: tuple[str, ...]) -> tuple[dict[str, Operation], str | None, str] | None:
    """The methods that end at this path, the account id it names, and its suffix; None when nothing does."""
    if len(segments) < 3 or segments[0] != "api" or DATE.fullmatch(segments[1]) is None:
        return None
    node, values = root, {}
    for segment in segments[2:-1]:
        below = node.literals.get(segment)
        if below is None:
            if node.child is None or not _fits(cast(str, node.placeholder), segment):
                return None
            values[cast(str, node.placeholder)] = segment
            below = node.child
        node = below
    # Ids and addresses may hold dots: the suffix is what follows the last one.
    stem, dot, suffix = segments[-1].rpartition(".")
    if not dot or not stem:
        return None
    methods = node.leaves.get((stem, suffix))
    if methods is None and stem not in node.literals:
        methods = node.leaves.get((None, suffix))
        name = node.leaf_placeholder
        if methods is None or name is None or not _fits(name, stem):
            return None
        values[name] = stem
    if methods is None:
        return None
    account = next(iter(methods.values())).account
    return methods, None if account is None else values.get(account), suffix


def _fits(placeholder: str, segment: str) -> bool:
    return GRAMMAR.get(placeholder, OPAQUE).fullmatch(segment) is not None


def _pattern(path: str) -> re.Pattern[str]:
    """A documented path of another surface as an expression; `{format}` may be any suffix, or none."""
    parts = re.split(r"\{\w+\}", path.removesuffix(".{format}"))
    tail = r"(?:\.[a-z]+)?" if path.endswith((".{format}", ".json", ".xml", ".csv")) else ""
    body = "[^/]+".join(re.escape(part.removesuffix(".json")) for part in parts)
    return re.compile(body + tail, re.ASCII)
