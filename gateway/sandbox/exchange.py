"""One exchange as values: Ask is what arrived, Reply what is to be sent. No sockets here.

Reading is as lenient as a Rack application is: empty path segments are skipped, each segment is decoded once,
of a repeated parameter the last counts, and a POST may carry another method. A gateway in front is expected to
be stricter; whatever it lets through by mistake shows up here as an answer instead of a 404.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import parse_qs, parse_qsl, unquote

from gateway.sandbox.errors import Json, invalid

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
OVERRIDABLE = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH")


@dataclass(frozen=True)
class Ask:
    """A request: method and target as on the wire, headers in order with repeats, the whole body."""

    wire_method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        """The last header of that name, or the empty string."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return found[-1] if found else ""

    @cached_property
    def is_form(self) -> bool:
        return self.header("Content-Type").lower().startswith(FORM_TYPES)

    @cached_property
    def form(self) -> dict[str, list[str]]:
        """The fields of a form body; of a multipart one none are read."""
        if not self.is_form:
            return {}
        return parse_qs(self.body.decode("utf-8", "replace"), keep_blank_values=True)

    @cached_property
    def method(self) -> str:
        """The method that is acted on.

        Rack's MethodOverride lets a POST name another one in `X-HTTP-Method-Override` or in the form field
        `_method`; the query field is honoured too, so that a gateway which forwards it is found out.
        """
        if self.wire_method != "POST":
            return "GET" if self.wire_method == "HEAD" else self.wire_method
        form = self.form.get("_method", [""])[-1]
        wanted = (form or self.parameter("_method") or self.header("X-HTTP-Method-Override")).upper()
        return wanted if wanted in OVERRIDABLE else "POST"

    @cached_property
    def path(self) -> str:
        """The path as sent, without the query; scheme and host of an absolute target are dropped."""
        path = self.target.partition("?")[0]
        if "://" in path and not path.startswith("/"):
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        return path

    @cached_property
    def segments(self) -> tuple[str, ...]:
        return tuple(unquote(part) for part in self.path.split("/") if part)

    @cached_property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    def parameter(self, name: str, default: str = "") -> str:
        """The last value of a query parameter."""
        found = self.parameters(name)
        return found[-1] if found else default

    def parameters(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    @cached_property
    def json(self) -> Json:
        """The JSON object of the body, without `oauth_token`; empty when there is no body.

        Raises: Refused 403 for a form, for bytes that are no JSON, for anything but an object.
        """
        if not self.body or (self.is_form and self.method in ("GET", "DELETE")):
            return {}  # a form that became a GET or DELETE by its `_method` has nothing else to say
        if self.is_form:
            raise invalid("Validation failed: the body must be JSON, not a form")
        value = strict_json(self.body)
        if not isinstance(value, dict):
            raise invalid("Validation failed: the body must be a JSON object")
        return {name: member for name, member in value.items() if name != "oauth_token"}

    @cached_property
    def credentials(self) -> list[tuple[str, str]]:
        """Every credential presented, as (channel, value): header, basic, query, body."""
        header = [named(value) for name, value in self.headers if name.lower() == "authorization" and value]
        query = [("query", value) for value in self.parameters("oauth_token")]
        return header + query + [("body", value) for value in body_tokens(self)]


def named(authorization: str) -> tuple[str, str]:
    """Channel and value of an Authorization header: the bare token is one word, Basic is two."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "header", authorization
    try:
        return "basic", base64.b64decode(rest.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return "basic", rest


def body_tokens(ask: Ask) -> list[str]:
    """The `oauth_token` of a JSON object or of a form, whatever the method and the declared type."""
    if ask.is_form:
        return ask.form.get("oauth_token", [])
    try:
        value = strict_json(ask.body) if ask.body else None
    except Exception:  # no JSON, no token: whether that is an error is for the operation to say
        return []
    token = value.get("oauth_token") if isinstance(value, dict) else None
    return [token] if isinstance(token, str) else []


def strict_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it, in UTF-8: no NaN, no Infinity. Raises: Refused 403."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise invalid("Validation failed: the body is not JSON") from None


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


@dataclass(frozen=True)
class Reply:
    """A response: `chunks` is the body in pieces; `streamed` sends it without a length, piece by piece."""

    status: int
    content_type: str
    chunks: Iterable[bytes]
    streamed: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def whole_number(text: str) -> int | None:
    """The number that up to nine decimal digits spell, or None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def as_json(status: int, value: object) -> Reply:
    body = json.dumps(value, ensure_ascii=False).encode(errors="replace")  # a lone surrogate has no UTF-8
    return Reply(status, "application/json; charset=utf-8", (body,))
