"""Who or what a write would remove without naming them: the arrays of the vendor's that replace a stored set.

`users` and `sites` of a network, an advertiser or an affiliate are full sets: members that a body leaves out are
deleted. A write that leaves somebody out has to say how many, in `Confirm-Removals`; that an app has forgotten to
read the set first is then noticed before anybody is gone.

A member is told by its natural key, `id_from_network`. Users who log in through the platform are not managed by the
API and stay whatever is sent, as the vendor has it for `{"users": []}`. What cannot be told is counted as removed.

Sources: vendor pages Networks, Advertisers, Affiliates; traps 14 and 15 of the notes on the vendor's documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import quote

from gateway.problem import Problem

KEY = "id_from_network"
LISTED = 100
COUNT = re.compile(r"0|[1-9][0-9]{0,5}", re.ASCII)

Sets = Mapping[str, tuple[str, ...]]
"""Natural keys by the name of the array, in the upstream's order; several of the same, and of none (""), repeated."""


def confirmed(header: str | None) -> int | None:
    """The number that `Confirm-Removals` says; None where there is no such header. Raises: Problem "bad-header"."""
    if header is None:
        return None
    if COUNT.fullmatch(header) is None:
        raise Problem("bad-header", "Confirm-Removals has to be a number: of those that the request removes.")
    return int(header)


def replaced(names: Iterable[str], document: Mapping[str, Any], query_names: frozenset[str]) -> Sets:
    """What a write keeps of the sets that it replaces: the members of its arrays. No entry for one it leaves alone.

    An array counts wherever it stands in the body. Of several, and of one in a query, which cannot be read as the
    vendor reads it, only what all of them have is sure to be kept.
    """
    kept: dict[str, tuple[str, ...]] = {}
    for name in names:
        found = [_keys(value) for value in _values(document, name)] + [()] * (name in query_names)
        if found:
            kept[name] = tuple(set(found[0]).intersection(*found[1:]))
    return kept


def stored(text: bytes, names: Iterable[str]) -> Sets:
    """The sets that an answer shows. Raises: Problem "upstream-unreadable"."""
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise _unreadable() from None
    if not isinstance(document, dict):
        raise _unreadable()
    sets: dict[str, tuple[str, ...]] = {}
    for name in names:
        members = document.get(name, [])
        if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
            raise _unreadable()
        sets[name] = _keys([each for each in members if each.get("can_login_via_platform") is not True])
    return sets


def removals(present: Sets, kept: Sets) -> Sets:
    """Those who are there and not kept; no entry where nobody is removed."""
    gone = {
        name: tuple(key for key in present.get(name, ()) if not key or key not in keys)
        for name, keys in kept.items()
    }
    return {name: keys for name, keys in gone.items() if keys}


def require(gone: Sets, confirms: int | None) -> None:
    """Raises: Problem "removals-unconfirmed" unless `confirms` is the number of those that would be removed."""
    count = sum(map(len, gone.values()))
    if count == (confirms or 0):
        return
    if count:
        text = f"The request would remove {count} by leaving them out. To mean it, send 'Confirm-Removals: {count}'."
    else:
        text = "The request would remove nobody, and confirms that it would."
    raise unconfirmed(text, gone)


def unconfirmed(text: str, gone: Sets) -> Problem:
    """A refusal that lists who would be removed, of each array the first hundred; `count` is of all of them."""
    listed = {name: list(keys[:LISTED]) for name, keys in gone.items()}
    return Problem("removals-unconfirmed", text, removals=listed, count=sum(map(len, gone.values())))


def changed(gone: Sets) -> Problem:
    """What is said when the set changed while the write was on its way: who would be removed now."""
    return unconfirmed("What is stored has changed meanwhile. Read it again, then decide.", gone)


def where_stored(path: str, collection: bool, document: Mapping[str, Any]) -> str | None:
    """The path that reads what a write to `path` changes; None for a collection and a body that names no member."""
    if not collection:
        return path
    key = _key(document.get(KEY))
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}/{quote(key, safe='')}{dot}{suffix}" if key else None


def _values(document: Any, name: str) -> list[Any]:
    found: list[Any] = []
    level = [document]
    while level:
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if name in value:
                    found.append(value[name])
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        level = below
    return found


def _keys(members: Any) -> tuple[str, ...]:
    """The keys of an array's members; of what is no array, as null, none."""
    if not isinstance(members, list):
        return ()
    return tuple(_key(each.get(KEY)) if isinstance(each, dict) else "" for each in members)


def _key(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def _refuse(_: str) -> NoReturn:
    raise ValueError


def _unreadable() -> Problem:
    return Problem("upstream-unreadable", "What is stored could not be read, so it is not replaced.")
