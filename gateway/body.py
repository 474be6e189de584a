"""A request body, read once and strictly: what two JSON parsers could read differently is refused.

The received bytes are what goes upstream; this only decides whether they may, and reports what the judging of
a request needs to know of them. Sources: RFC 8259 sections 4, 6, 8 and 9; section 5 of the design.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from gateway.problem import Problem
from gateway.target import refuse_name
from gateway.tokens import PREFIX

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Body:
    """A body that passed: its bytes, the object in them, every key of it at any depth.

    `suspect` are the strings in it that hold what looks like a token of ours.
    """

    raw: bytes
    document: dict[str, Any]
    keys: frozenset[str]
    suspect: tuple[str, ...] = ()


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
    keys, strings = _contents(document)
    return Body(raw, document, frozenset(keys), tuple(text for text in strings if PREFIX in text))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Problem("bad-body", "The body repeats a key in one object.")
    return made


def _no_constant(_: str) -> NoReturn:
    raise Problem("bad-body", "NaN and Infinity are not JSON.")


def _contents(document: dict[str, Any]) -> tuple[set[str], list[str]]:
    """Every key and every string, each checked; without recursion, so that depth is ours to bound."""
    keys: set[str] = set()
    strings: list[str] = []
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
                keys.update(value)
                strings.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                _check_text(value)
                strings.append(value)
        if not below:
            return keys, strings
        level = below
    raise Problem("bad-body", f"The body is nested deeper than {MAX_DEPTH}.")


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise Problem("bad-body", "The body holds half of a surrogate pair.")
