"""What arrived: the last 1000 requests as they were on the wire, for tests that ask what a gateway sent on."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from gateway.sandbox.exchange import Ask

REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. `target` is raw, `headers` keep order, case and repeats, `body_bytes` is a length.

    `credentials` are (channel, value) pairs; the channels are "header" (the bare token, or anything else in
    Authorization), "basic" (as `user:password`), "query" and "body" (`oauth_token`).
    """

    method: str
    target: str
    headers: list[tuple[str, str]]
    body_bytes: int
    credentials: list[tuple[str, str]]


Journal = deque[Seen]


def new_journal() -> Journal:
    return deque(maxlen=REMEMBERED)


def seen(ask: Ask) -> Seen:
    return Seen(ask.wire_method, ask.target, ask.headers, len(ask.body), ask.credentials)


def view(journal: Journal, limit: int) -> list[dict[str, Any]]:
    """The newest `limit` entries as JSON objects, newest last."""
    entries = list(journal)
    return [asdict(entry) for entry in entries[max(0, len(entries) - limit) :]]
