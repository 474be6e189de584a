"""The upstream's refusals: which of them an app gets to read, and what the others become.

A body passes only in one of the five shapes that the vendor documents, at every depth, in plain JSON:

1. class and text    {"errors": {"class": "RecordNotFound", "invalid_data": "…"}}
2. fields            {"errors": {"name": ["…"]}}, nested as the request nests
3. fields, and more  {"errors": {…}, "status": "Applied"}
4. singular          {"error": {"ivr_tree": {"children": [{"0": {…}}]}}}
5. a handle          the first, with a number for the vendor's support; with 500, and so only its number is told

Source: vendor page Error Handling, as collected in the notes on the vendor's documentation.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from gateway.fields import field_class
from gateway.problem import Problem

# What the vendor documents for our two APIs, and the 4xx an HTTP server may give without a fault of ours.
PASSED = frozenset({400, 403, 404, 409, 422, 429})
MAX_BYTES = 65_536
MAX_DEPTH = 16
MAX_TEXT = 2_048
CLASS = re.compile(r"[A-Za-z]{1,64}", re.ASCII)


def passed_on(status: int, text: bytes) -> bytes:
    """The body of an upstream refusal that may be passed on with its status, as it is.

    Raises: the Problem that everything else becomes. 401 is about the gateway's credential, never the app's.
    """
    if status == 401:
        raise Problem("upstream-refused-us", "The upstream did not accept the gateway's credential.")
    if 300 <= status < 400:
        raise Problem("upstream-redirect", "The upstream answered with a redirect, which is not followed.")
    document = documented(text)
    if status not in PASSED:
        raise Problem("upstream-failed", upstream_status=status, handle=_error_handle(document))
    if document is None:
        raise Problem(
            "upstream-refused",
            "The upstream refused the request in a form it does not document.",
            status=status,
        )
    return text


def documented(text: bytes) -> dict[str, Any] | None:
    """A refusal in one of the documented shapes, parsed; None for anything else."""
    if len(text) > MAX_BYTES:
        return None
    try:
        document = json.loads(
            text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse, parse_float=_refuse
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    names = document.keys()
    if names == {"errors"} or (names == {"errors", "status"} and _is_text(document["status"])):
        errors = document["errors"]
        if isinstance(errors, dict) and (_is_classed(errors) or _is_fields(errors)):
            return document
    elif names == {"error"} and isinstance(document["error"], dict) and _is_fields(document["error"]):
        return document
    return None


def _is_classed(errors: dict[str, Any]) -> bool:
    cls = errors.get("class")
    return (
        errors.keys() == {"class", "invalid_data"}
        and isinstance(cls, str)
        and CLASS.fullmatch(cls) is not None
        and _is_text(errors["invalid_data"])
    )


def _is_fields(value: Any) -> bool:
    """Names, each with messages or with more of the same for what is nested there; nothing else, no secret's name."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                if not all(_is_text(name) and field_class(name) != "secret" for name in each):
                    return False
                if not all(isinstance(under, dict | list) for under in each.values()):
                    return False
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
            elif not _is_text(each):
                return False
        if not below:
            return True
        level = below
    return False


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def _refuse(_: str) -> NoReturn:
    raise ValueError("no such value is documented")


def _error_handle(document: dict[str, Any] | None) -> str:
    """The number a vendor's 500 carries for its support, digits alone, or nothing."""
    errors = (document or {}).get("errors")
    text = str(errors.get("invalid_data", "")) if isinstance(errors, dict) else ""
    return "".join(c for c in text if c in "0123456789")[:20]
