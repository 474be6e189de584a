"""The OpenAPI 3.1 document of the admin API, made from the table of routes that its handlers check requests by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway import __version__
from gateway.admin.routes import CSRF, NOTHING, Route
from gateway.admin.shapes import Members, Shape, Text, all_of
from gateway.problem import KINDS, TYPE_PREFIX

PROBLEM = {
    "type": "object",
    "description": "RFC 9457, with the vendor's envelope as `errors`",
    "properties": {
        "type": {"type": "string", "enum": [TYPE_PREFIX + kind for kind in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": all_of({"class": Text(1, 64), "invalid_data": Text(1, 4_096)}).schema(),
    },
    "required": ["type", "title", "status", "detail", "instance", "errors"],
}
ANSWERED = {
    "Gateway-Answer": {
        "required": True,
        "schema": {"type": "string"},
        "description": "`ok`, or the problem's kind",
    },
    "Gateway-Request-Id": {"required": True, "schema": {"type": "string"}},
}
KEY = Text(16, 255, pattern=r"^[A-Za-z0-9._~:/+=-]{16,255}$", about="Not to be guessed, such as a UUID")
SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "anybody": [],
    "session": [{"session": []}],
    "manager": [{"token": []}, {"session": []}],
    "sign-in": [{"session": []}, {"token": []}],
}


def document(routes: tuple[Route, ...], origin: str, cookie: str) -> dict[str, Any]:
    """The document, for an API that is reached at an origin and keeps its sessions in a cookie of this name."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = paths.setdefault(route.path, {})
        if "{id}" in route.path:
            path["parameters"] = [_parameter("id", "path", Text(1, 64), required=True)]
        path[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "invoca-gateway, admin API",
            "version": __version__,
            "description": "Tokens and people. A session cookie goes with its CSRF token in every change; "
            "a token goes alone, and holds tokens:manage.",
        },
        "servers": [{"url": origin}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM, **_schemas(routes)},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "at+jwt"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie},
                "csrf": {"type": "apiKey", "in": "header", "name": CSRF},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": route.act,
        "summary": route.says,
        "tags": [route.act.partition(".")[0]],
        "security": [_with_csrf(way, route.unsafe) for way in SECURITY[route.who]],
        "responses": _responses(route),
    }
    parameters = [
        _parameter(name, "query", shape, name in route.query.required)
        for name, shape in route.query.members.items()
    ]
    if route.again:
        parameters.append(_parameter("Idempotency-Key", "header", KEY, required=False))
    if parameters:
        made["parameters"] = parameters
    if route.body is not NOTHING:
        made["requestBody"] = {
            "required": bool(route.body.required or route.body.one_of),
            "content": {"application/json": {"schema": _ref(route.body)}},
        }
    return made


def _with_csrf(way: dict[str, list[str]], unsafe: bool) -> dict[str, list[str]]:
    return way | {"csrf": []} if unsafe and "session" in way else way


def _responses(route: Route) -> dict[str, Any]:
    fields: dict[str, Any] = dict(ANSWERED)
    if route.sets_cookie:
        fields["Set-Cookie"] = {"schema": {"type": "string"}}
    good: dict[str, Any] = {"description": route.says, "headers": fields}
    if route.answer is not None:
        good["content"] = {"application/json": {"schema": _ref(route.answer)}}
    made = {str(route.status): good}
    if route.or_empty:
        made["204"] = {"description": route.says, "headers": dict(ANSWERED)}
    kinds = route.kinds()
    for status in sorted({KINDS[kind].status for kind in kinds}):
        named = [kind for kind in kinds if KINDS[kind].status == status]
        made[str(status)] = {
            "description": "; ".join(f"`{kind}`: {KINDS[kind].title}" for kind in named),
            "headers": dict(ANSWERED),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return made


def _parameter(name: str, place: str, shape: Shape, required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": shape.schema()}


def _ref(shape: Members) -> dict[str, Any]:
    return shape.schema() if shape.name is None else {"$ref": f"#/components/schemas/{shape.name}"}


def _schemas(routes: tuple[Route, ...]) -> Mapping[str, Any]:
    shapes = [shape for route in routes for shape in (route.answer, route.body) if shape is not None]
    return {shape.name: shape.schema() for shape in shapes if shape.name is not None}
