"""What a policy reads, and the words it compares with: anything that could not be compiled is refused here.

Decisions are made ahead, for every point of a finite space (`compile.py`). So a policy may read only what is a
dimension of that space, and the ids of users, accounts, networks and tokens only by comparing them with literals
for equality: then each id that is named is one more point, and every other id is like any other. Cedar's validator
knows that a role is a string, not which strings are roles: a misspelt one would load, and its policy silently never
match.

Source: section 6 of the design; Cedar's JSON policy format (docs.cedarpolicy.com).
"""

from __future__ import annotations

import difflib
import fnmatch
import glob
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.model import (
    ACCOUNT_KINDS,
    APIS,
    COLUMN_CLASSES,
    EFFECTS,
    RELATIONS,
    ROLES,
    STATUSES,
    Operation,
)

NO_ACCOUNT = "none"
"""What a policy sees as `resource.account_kind` of an operation whose path names no account."""

KIND, ROLE, ADMINISTRATOR = "principal.account.kind", "principal.role", "principal.administrator"
RELATION = "context.relation"
OWNER_PATHS = (KIND, ROLE, ADMINISTRATOR, RELATION)
USER, ACCOUNT, NETWORK, TOKEN = (
    "principal.id",
    "principal.account.id",
    "principal.account.network",
    "context.token",
)
ID_PATHS = (USER, ACCOUNT, NETWORK, TOKEN)
"""Free texts, which a policy may compare with literals for equality and no more."""
RESOURCE_PATHS = (
    "resource.id",
    "resource.api",
    "resource.effect",
    "resource.status",
    "resource.account_kind",
)
LIVE_PATHS = ("context.now", "context.weekday", "context.client")
"""What no table can hold: a policy that reads one is judged when it is asked."""

PATHS = frozenset((*OWNER_PATHS, *ID_PATHS, *RESOURCE_PATHS, *LIVE_PATHS))
WHOLE = frozenset(path[:place] for path in PATHS for place, sign in enumerate(path) if sign == ".")
"""What has attributes, and is none."""
ACTIONS = ("call", "see")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

Vocabulary = Mapping[str, frozenset[str] | None]
"""For each text attribute the words it can have; None for ids, which are free."""


@dataclass(frozen=True, slots=True)
class Reads:
    """What a policy, or one condition of it, depends on: attribute paths, and the ids that it names for each."""

    paths: frozenset[str] = frozenset()
    named: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        return not self.paths.isdisjoint(LIVE_PATHS)


def vocabulary(operations: Iterable[Operation]) -> Vocabulary:
    return {
        **dict.fromkeys(ID_PATHS),
        KIND: frozenset(ACCOUNT_KINDS),
        ROLE: frozenset(ROLES),
        RELATION: frozenset(RELATIONS),
        "context.weekday": frozenset(WEEKDAYS),
        "resource.id": frozenset(operation.id for operation in operations),
        "resource.api": frozenset(APIS),
        "resource.effect": frozenset(EFFECTS),
        "resource.status": frozenset(STATUSES),
        "resource.account_kind": frozenset((*ACCOUNT_KINDS, NO_ACCOUNT)),
    }


def actions(tree: Mapping[str, Any]) -> frozenset[str]:
    """The actions that a policy's scope lets it speak of, in Cedar's JSON form of it."""
    scope = tree["action"]
    entities = [scope["entity"]] if "entity" in scope else scope.get("entities")
    return frozenset(ACTIONS if entities is None else (entity["id"] for entity in entities))


def read(tree: Mapping[str, Any], words: Vocabulary) -> tuple[Reads, list[tuple[str, str]]]:
    """What a policy reads, and its faults: each a word that stands where it is, and what is wrong.

    `tree` is Cedar's JSON form of one policy, its depth bounded by `policyfile`.
    """
    known = dict(words)
    operations = known["resource.id"] or frozenset()
    allowed = actions(tree)
    if "see" in allowed:
        known["resource.id"] = frozenset(COLUMN_CLASSES) | (operations if "call" in allowed else frozenset())
    reader = _Reader(known, {"Operation": operations, "ColumnClass": frozenset(COLUMN_CLASSES)})
    for variable in ("principal", "resource"):
        reader.scope(variable, tree[variable])
    for condition in tree["conditions"]:
        reader.walk(condition["body"])
    return Reads(frozenset(reader.paths), {k: frozenset(v) for k, v in reader.named.items()}), reader.faults


# --- The reader ----------------------------------------------------------------------------------------------

_COMPARING = ("==", "!=", "contains", "containsAll", "containsAny", "in")


class _Reader:
    """Goes through one policy. An explicit stack, because a chain of conditions nests as deep as it is long."""

    def __init__(self, words: Vocabulary, entities: Mapping[str, frozenset[str]]) -> None:
        self.paths: set[str] = set()
        self.named: dict[str, set[str]] = {}
        self.faults: list[tuple[str, str]] = []
        self._words = words
        self._entities = entities

    def scope(self, variable: str, scope: Mapping[str, Any]) -> None:
        """`principal == User::"7"`, `resource in …`, `principal is User in …` at the head of a policy."""
        held = scope.get("in", scope)
        entities = [held["entity"]] if "entity" in held else held.get("entities", [])
        if entities:
            literals = [{"Value": {"__entity": entity}} for entity in entities]
            self.walk([{"==": {"left": {"Var": variable}, "right": {"Set": literals}}}])

    def walk(self, body: Any) -> None:
        todo = [body]
        while todo:
            node = todo.pop()
            if isinstance(node, list):
                todo += node
            elif isinstance(node, dict):
                todo += self._node(node)

    def _node(self, node: dict[str, Any]) -> Iterator[Any]:
        """One expression: what it reads, and the expressions in it that are still to be looked at."""
        if "Var" in node or "." in node:
            yield from self._read(node)
        elif "Value" in node:
            self._entity(node["Value"])
        elif "Record" in node:
            self._fault("compare one attribute at a time, not a record: its words cannot be checked")
        elif "like" in node:
            self._liked(node["like"])
        elif "has" in node:
            yield from self._holder(node["has"])
        elif "is" in node:
            test = node["is"]
            if "in" in test:
                yield from self._compared({"left": test["left"], "right": test["in"]})
            else:
                yield from self._holder(test)
        else:
            for key, value in node.items():
                if key in _COMPARING:
                    yield from self._compared(value)
                else:
                    yield value

    def _read(self, node: dict[str, Any]) -> Iterator[Any]:
        """An attribute that is used otherwise than by comparing it: an id may not be, nor a whole entity."""
        path = _path(node, whole=True)
        if path in ID_PATHS:
            self._fault(f"{path} is an id, which is compared with literals for equality only")
        elif path in PATHS:
            self.paths.add(path)
        elif "." in path and path not in WHOLE:
            self._fault(unknown_attribute(path), path.rpartition(".")[2])
        elif path:
            self._fault(f"{path} is nothing a policy may read as a whole; compare one of its attributes")
        else:
            self._fault(
                "only principal, resource and context have attributes; compare a named one as a whole"
            )
            yield node["."]["left"]

    def _holder(self, test: Mapping[str, Any]) -> Iterator[Any]:
        """What `has` and `is` ask of: the schema decides them, so they read nothing."""
        if not _path(test["left"], whole=True):
            self._fault(
                "only principal, resource and context have attributes; compare a named one as a whole"
            )
            yield test["left"]

    def _entity(self, value: Any) -> None:
        entity = value.get("__entity", value) if isinstance(value, dict) else {}
        known = self._entities.get(entity.get("type", ""))
        if known is not None and entity["id"] not in known:
            what = "operation" if entity["type"] == "Operation" else "column class"
            self._fault(unknown(what, entity["id"], known), entity["id"])

    def _compared(self, sides: Mapping[str, Any]) -> Iterator[Any]:
        left, right = [*_leaves(sides["left"])], [*_leaves(sides["right"])]
        leaves = left + right
        literals = [text for leaf in leaves if isinstance(text := leaf.get("Value"), str)]
        read = [path for leaf in leaves if (path := _path(leaf))]
        paths = [path for path in read if path in self._words]
        misspelt = any(
            path not in PATHS and path not in WHOLE for path in read
        )  # which is a fault of its own
        for literal in literals:
            if not paths and not misspelt:
                self._fault(f'"{literal}" is not compared with an attribute of the schema', literal)
            for path in paths:
                known = self._words[path]
                if known is not None and literal not in known:
                    self._fault(unknown(path, literal, known), literal)
        for one, other in ((left, right), (right, left)):
            for leaf in one:
                yield from self._side(leaf, other)
        for side in (sides["left"], sides["right"]):
            yield from _tests(side)

    def _side(self, leaf: dict[str, Any], others: list[dict[str, Any]]) -> Iterator[Any]:
        """One leaf of a comparison, beside those of the other side."""
        path = _path(leaf, whole=True)
        path = {"principal": USER, "resource": "resource.id"}.get(path, path)
        if path in ID_PATHS:
            names = [_literal(other) for other in others]
            if None in names:
                self._fault(f"{path} is an id, which is compared with literals for equality only")
            self.paths.add(path)
            self.named.setdefault(path, set()).update(name for name in names if name is not None)
        elif path in PATHS:
            self.paths.add(path)
        elif path != "action":
            yield leaf

    def _liked(self, node: Mapping[str, Any]) -> None:
        parts = node["pattern"]
        written = "".join("*" if part == "Wildcard" else part["Literal"] for part in parts)
        path = _path(node["left"])
        known = self._words.get(path)
        if path not in PATHS or known is None:
            text = "ids are compared for equality only, and `like` with plain attributes only"
            self._fault(text, written)
            return
        self.paths.add(path)
        pattern = "".join("*" if part == "Wildcard" else glob.escape(part["Literal"]) for part in parts)
        if not any(fnmatch.fnmatchcase(word, pattern) for word in known):
            self._fault(f'`like "{written}"` matches no {path} there is', written)

    def _fault(self, text: str, word: str = "") -> None:
        self.faults.append((word, text))


def _leaves(node: Any) -> Iterator[dict[str, Any]]:
    """What a side of a comparison can come to: itself, the members of a set, the branches of a condition."""
    if "Set" in node:
        for member in node["Set"]:
            yield from _leaves(member)
    elif "if-then-else" in node:
        yield from _leaves(node["if-then-else"]["then"])
        yield from _leaves(node["if-then-else"]["else"])
    else:
        yield node


def _tests(node: Any) -> Iterator[Any]:
    """The questions that decide what a side of a comparison comes to."""
    if "Set" in node:
        for member in node["Set"]:
            yield from _tests(member)
    elif "if-then-else" in node:
        yield node["if-then-else"]["if"]
        yield from _tests(node["if-then-else"]["then"])
        yield from _tests(node["if-then-else"]["else"])


def _path(node: Any, whole: bool = False) -> str:
    """`principal.account.kind` of an attribute access in Cedar's JSON; "" when it is none of a variable.

    A variable alone has no path, unless `whole`.
    """
    parts: list[str] = []
    while "." in node:
        parts.append(node["."]["attr"])
        node = node["."]["left"]
    return ".".join([node["Var"], *reversed(parts)]) if "Var" in node and (parts or whole) else ""


def _literal(node: Mapping[str, Any]) -> str | None:
    """The id that a literal names: a text, or that of an entity. None for what is no literal."""
    value = node.get("Value")
    if isinstance(value, dict):
        value = value.get("__entity", value).get("id")
    return value if isinstance(value, str) else None


def unknown_attribute(path: str) -> str:
    """What is wrong with an attribute path that the schema does not have."""
    holder, _, name = path.rpartition(".")
    names = sorted(known.rpartition(".")[2] for known in PATHS if known.rpartition(".")[0] == holder)
    close = difflib.get_close_matches(name, names, 1)
    return f"there is no {path}" + (f" (did you mean {holder}.{close[0]}?)" if close else "")


def unknown(what: str, word: str, known: Iterable[str] | None) -> str:
    close = difflib.get_close_matches(word, sorted(known or ()), 1)
    return f'there is no {what} "{word}"' + (f' (did you mean "{close[0]}"?)' if close else "")
