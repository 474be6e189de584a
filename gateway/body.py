"""A request body, read once and strictly: what two JSON parsers could read differently is refused.

The received bytes are what goes upstream; this only decides whether they may, and reports what the judging of
a request needs to know of them. Sources: RFC 8259 sections 4, 6, 8 and 9; section 5 of the design.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from gateway.model import AccountKind
from gateway.problem import Problem
from gateway.target import refuse_name
from gateway.tokens import PREFIX

MAX_DEPTH = 64
MAX_ACCOUNTS = 100
# Names of the vendor's under which a body says whose something is, or whose it shall become.
ACCOUNT = re.compile(
    r"_*(?:destination[_-]*)?(network|advertiser|affiliate)[_-]*id([_-]*from[_-]*network)?_*",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Named:
    """An account that a body names: by the vendor's own id, or by the id that its network has given it."""

    kind: AccountKind
    id: str
    by_network: bool


@dataclass(frozen=True, slots=True)
class Body:
    """A body that passed: its bytes, the object in them, every key of it at any depth.

    `suspect` are the strings in it that hold what looks like a token of ours. `accounts` are those it names.
    """

    raw: bytes
    document: dict[str, Any]
    keys: frozenset[str]
    suspect: tuple[str, ...] = ()
    accounts: frozenset[Named] = frozenset()


EMPTY = Body(b"", {}, frozenset())


def judge(raw: bytes) -> Body:
    """A JSON object in UTF-8 without duplicate keys, depth over 64, or keys that carry a credential.

    Raises: Problem "bad-body", "credential-in-body" or "forbidden-parameter".
    """
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except Problem:
        raise
    except UnicodeDecodeError:
        raise Problem("bad-body", "The body is not UTF-8.") from None
    except RecursionError:
        raise Problem("bad-body", f"The body is nested deeper than {MAX_DEPTH}.") from None
    except ValueError:  # JSONDecodeError, and integers beyond what Python will convert
        raise Problem("bad-body", "The body is not JSON.") from None
    if not isinstance(document, dict):
        raise Problem("bad-body", "The body has to be a JSON object.")
    keys, strings, accounts = _contents(document)
    suspect = tuple(text for text in strings if PREFIX in text)
    return Body(raw, document, frozenset(keys), suspect, frozenset(accounts))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Problem("bad-body", "The body repeats a key in one object.")
    return made


def _no_constant(_: str) -> NoReturn:
    raise Problem("bad-body", "NaN and Infinity are not JSON.")


def _contents(document: dict[str, Any]) -> tuple[set[str], list[str], set[Named]]:
    """Every key, every string and every account, each checked; without recursion, so that depth is ours to bound."""
    keys: set[str] = set()
    strings: list[str] = []
    accounts: set[Named] = set()
    level: list[Any] = [document]
    for depth in range(1, MAX_DEPTH + 2):
        if depth > MAX_DEPTH and any(isinstance(value, dict | list) for value in level):
            break
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                for key in value:
                    _check_text(key)
                    refuse_name(key, "body")
                    named = ACCOUNT.fullmatch(key)
                    if named is not None:
                        accounts.update(_accounts(named, value[key]))
                keys.update(value)
                strings.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                _check_text(value)
                strings.append(value)
        if not below:
            if len(accounts) > MAX_ACCOUNTS:
                raise Problem("bad-body", f"The body names more than {MAX_ACCOUNTS} accounts.")
            return keys, strings, accounts
        level = below
    raise Problem("bad-body", f"The body is nested deeper than {MAX_DEPTH}.")


def _accounts(name: re.Match[str], value: Any) -> list[Named]:
    """The accounts under one name: an id or a list of them; null names none. Raises: Problem "bad-body"."""
    found: list[Named] = []
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, bool) or not isinstance(each, str | int | None):
            raise Problem("bad-body", "The body names an account by something that is no id.")
        if each is not None:
            found.append(Named(cast(AccountKind, name[1].lower()), str(each), name[2] is not None))
    return found


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise Problem("bad-body", "The body holds half of a surrogate pair.")
