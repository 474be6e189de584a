"""A raw request target, judged byte by byte: what two parsers could read differently is refused.

Nothing is repaired and nothing is decoded for use: what is judged here is what goes upstream, to the byte.
The path is matched as it was sent, because percent-encoding is allowed only where no template has a literal,
and only in one spelling.

Sources: RFC 9112 section 3.2 (forms of a target), RFC 3986 section 2 (characters), section 5 of the design.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gateway.problem import Problem

PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+)+", re.ASCII)
QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,:=@/?|\[\]-]|%[0-9A-Fa-f]{2})*", re.ASCII)
ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.ASCII | re.DOTALL | re.IGNORECASE)
BRACKETS = re.compile(r"[\[\]]+")
ESCAPE = re.compile(r"%([0-9A-F]{2})", re.ASCII)
UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Characters that would change how the path is cut if anything behind us decoded it once more.
STRUCTURAL = frozenset("/\\%;?#")

CREDENTIAL_NAMES = ("oauthtoken", "accesstoken", "refreshtoken", "apikey")
MAX_NAME = 256
OVERRIDE_NAMES = frozenset({"method", "format"})


@dataclass(frozen=True, slots=True)
class Target:
    """A target in origin form that passed. `raw` is forwarded; `segments` are the path's, without the first /.

    `query_names` are the names of the query's parameters, and what stands in their brackets.
    """

    raw: str
    path: str
    segments: tuple[str, ...]
    query_names: frozenset[str] = frozenset()


def judge(raw: str, host: str, max_bytes: int = 8192) -> Target:
    """The target of a request, or Problem: target-too-long, bad-target, credential-in-query, forbidden-parameter.

    `host` is the request's Host: the authority of an absolute-form target has to equal it.
    """
    if len(raw) > max_bytes:
        raise Problem("target-too-long", f"The request target is longer than {max_bytes} bytes.")
    if not raw.startswith("/"):
        raw = _origin_form(raw, host)
    path, mark, query = raw.partition("?")
    if PATH.fullmatch(path) is None or "/." in path or "%" in path:
        fault = _path_fault(path)
        if fault is not None:
            raise Problem("bad-target", fault)
    names = _judge_query(query) if mark else frozenset()
    return Target(raw, path, tuple(path[1:].split("/")), names)


def _origin_form(raw: str, host: str) -> str:
    absolute = ABSOLUTE.fullmatch(raw)
    if absolute is None:
        raise Problem("bad-target", "The request target has to be a path.")
    if not host or absolute[1].lower() != host.lower():
        # RFC 9112 3.2.2 lets the authority override Host; here it never picks where a request goes.
        raise Problem("bad-target", "The request target is in absolute form for another host.")
    return absolute[2] or "/"


def _path_fault(path: str) -> str | None:
    """Why a path is refused, in words for whoever wrote the client; None when it is not."""
    if path == "/":
        return None
    if not path.isascii() or any(c <= " " or c == "\x7f" for c in path):
        return "The path holds a character that is not printable ASCII."
    for mark, name in (
        ("\\", "a backslash"),
        (";", "a semicolon"),
        ("#", "a fragment"),
        ("//", "two slashes"),
    ):
        if mark in path:
            return f"The path holds {name}."
    if path.endswith("/"):
        return "The path ends with a slash."
    if PATH.fullmatch(path) is None:
        return "The path holds a character that has to be percent-encoded, or an encoding not in upper case."
    for segment in path[1:].split("/"):
        if unquote_to_bytes(segment) in (b".", b".."):
            return "The path holds a dot segment."
    for escape in ESCAPE.findall(path):
        byte = chr(int(escape, 16))
        if byte in UNRESERVED:
            return "The path percent-encodes a character that needs no encoding."
        if byte in STRUCTURAL or byte < " " or byte == "\x7f":
            return "The path percent-encodes a character that could change its meaning."
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return "The path percent-encodes bytes that are not UTF-8."
    return None


def _judge_query(query: str) -> frozenset[str]:
    if QUERY.fullmatch(query) is None:
        raise Problem(
            "bad-target",
            "The query holds a character that has to be percent-encoded (RFC 3986), or a broken encoding.",
        )
    seen: set[str] = set()
    for pair in query.split("&"):
        name = decoded(pair.partition("=")[0])
        value = decoded(pair.partition("=")[2])
        if "\0" in name or "\0" in value:
            raise Problem("bad-target", "The query holds a NUL.")
        refuse_name(name, "query")
        if name in seen and not name.endswith("[]"):
            # Whether the first or the last one counts is for nobody to guess.
            raise Problem("bad-target", "A query parameter is repeated.")
        seen.add(name)
    return frozenset(part for name in seen for part in BRACKETS.split(name))


def decoded(text: str) -> str:
    """A name or value of a query, decoded once as a form is. Raises: Problem "bad-target" when not UTF-8."""
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        raise Problem("bad-target", "The query percent-encodes bytes that are not UTF-8.") from None


def fully_decoded(text: str) -> str:
    """Percent-decoded until nothing changes: only for finding what hides, never for use."""
    for _ in range(8):
        again = unquote_to_bytes(text).decode("utf-8", "replace")
        if again == text:
            break
        text = again
    return text


def squashed(name: str) -> str:
    """A parameter name without anything that spelling can vary: case, width, encoding, brackets, marks.

    `user[OAuth%5Ftoken][]` and `oauth-token` both hold `oauthtoken`.
    """
    if not name.isascii() or "%" in name:
        name = unicodedata.normalize("NFKD", fully_decoded(name))
    return "".join(c for c in name.casefold() if c.isalnum())


def refuse_name(name: str, place: str) -> None:
    """Refuse a parameter or key that carries a credential or overrides the request. `place`: query or body.

    Raises: Problem "credential-in-query", "credential-in-body" or "forbidden-parameter".
    """
    if len(name) > MAX_NAME:  # Unicode can make eighteen characters of one: what is longer is no name
        raise Problem(
            f"bad-{'target' if place == 'query' else 'body'}", f"A name in the {place} is too long."
        )
    plain = squashed(name)
    if any(word in plain for word in CREDENTIAL_NAMES):
        raise Problem(
            f"credential-in-{place}",
            f"A credential in the {place} is refused: send it in the Authorization header alone.",
        )
    if plain in OVERRIDE_NAMES and (place == "query" or name.startswith("_")):
        raise Problem(
            "forbidden-parameter",
            f"A {plain} parameter would change what was asked for: use the path and the verb.",
        )
