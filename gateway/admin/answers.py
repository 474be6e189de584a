"""How the admin API answers: JSON of its own, marked as the gateway's."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.exchange import rfc3339


def answer(document: dict[str, Any], status: int = 200, fields: dict[str, str] | None = None) -> web.Response:
    return web.json_response(document, status=status, headers={"Gateway-Answer": "ok", **(fields or {})})


def nothing() -> web.Response:
    """Done, and nothing to say about it."""
    return web.Response(status=204, headers={"Gateway-Answer": "ok"})


def moment(seconds: int | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)
