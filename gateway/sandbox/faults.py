"""Trouble to order: the next requests fail in a chosen way, once each.

A request header would not do as the switch, because a gateway in between strips what it does not know.

kind      effect on the next request
500 401   that status in the vendor's shape; the request is not acted on
302       a redirect to a login page on another host; the request is not acted on
hang      acted on, never answered; ends when the client leaves or the server stops
close     acted on, connection cut before any byte of an answer
truncate  acted on, answered with a Content-Length, cut halfway
slow      acted on, the answer dripped in pieces over `seconds`
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gateway.sandbox.errors import Refused, service_error, unauthorized
from gateway.sandbox.exchange import Reply, as_json

KINDS = ("500", "401", "302", "hang", "close", "truncate", "slow")
LOGIN_PAGE = "https://login.example.com/session/new"
FIRST_HANDLE = 1228118400


@dataclass(frozen=True, slots=True)
class Fault:
    """One ordered fault; `seconds` is how long a slow answer takes."""

    kind: str
    seconds: float = 1.0


class Faults:
    """The queue of faults to come, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[Fault] = deque()
        self._handle = FIRST_HANDLE

    def next(self, kind: str, count: int = 1, seconds: float = 1.0) -> None:
        """Order a fault for the next `count` requests. Raises: ValueError for a kind that is none."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no fault; there are {', '.join(KINDS)}")
        self._queue.extend(Fault(kind, seconds) for _ in range(count))

    def take(self) -> Fault | None:
        return self._queue.popleft() if self._queue else None

    def clear(self) -> None:
        self._queue.clear()

    def pending(self) -> list[str]:
        return [fault.kind for fault in self._queue]

    def instead(self, fault: Fault | None) -> Reply | None:
        """The reply that takes the place of the real one, for the kinds that have one."""
        if fault is None or fault.kind not in ("500", "401", "302"):
            return None
        if fault.kind == "302":
            return Reply(302, "text/html; charset=utf-8", (b"moved",), headers={"Location": LOGIN_PAGE})
        refused = unauthorized() if fault.kind == "401" else self._service_error()
        return as_json(refused.status, refused.body)

    def _service_error(self) -> Refused:
        self._handle += 1  # the vendor's number is another one every time
        return service_error(self._handle)
