"""What protects the answers to Network Integration calls: the guard of a call, made once for whoever asks for it.

Answers to reads and to writes alike: a write answers with the object in full. Only JSON in UTF-8 is passed, as the
vendor documents it; an answer without a type goes out as one that nothing guesses from, and is held to the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from gateway.fields import Hosts, Look
from gateway.filter import Tally, receipt, unreadable
from gateway.model import Call, ColumnClass
from gateway.problem import Headers
from gateway.rules import Rules
from gateway.strip import Strip

Fields = tuple[tuple[bytes, bytes], ...]

JSON_TYPE = re.compile(rb'application/json(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*', re.IGNORECASE).fullmatch
USERS = "/users"


class Shield:
    """Makes guards. One for each process; guards for the same thing are the same."""

    def __init__(self, upstream: str, public: str) -> None:
        """`upstream` and `public` are the URLs of the configuration."""
        hosts = Hosts(upstream, public)
        self._guards = {
            (personal, users): NetworkGuard(Rules(hosts, Look(hosts.names, personal, users), personal, users))
            for personal in (False, True)
            for users in (False, True)
        }

    def guard(self, call: Call, visible: frozenset[ColumnClass]) -> NetworkGuard | None:
        """The guard of one call, by somebody who may see these classes; None where this is not what protects it."""
        operation = call.operation
        if operation.api != "network_integration":
            return None
        return self._guards["pii" not in visible, USERS in operation.path]


class NetworkGuard:
    """A `filter.Guard` for replies of the Network Integration API."""

    filters = True

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._look = rules.look

    def fields(self, status: int, reply: Sequence[tuple[bytes, bytes]]) -> Fields:
        """A Location that leads through the gateway, where the reply has one that can. Raises: Problem."""
        location: Fields = ()
        for name, value in reply if status != 204 else ():
            if name == b"content-type":
                if not _is_json(value):
                    raise unreadable()
            elif name == b"location":
                led = self._led(value)
                location = () if led is None else ((b"Location", led),)
        return location

    def _led(self, value: bytes) -> bytes | None:
        text, hosts = value.decode("latin-1"), self._rules.hosts
        led = (
            hosts.at_gateway(text) if text.startswith("/") and not text.startswith("//") else hosts.led(text)
        )
        # What is no address of the vendor's comes back as it is: none of the gateway's business, so not passed either.
        return None if led is None or not led.startswith(hosts.public + "/api/") else led.encode("latin-1")

    def receipt(self, tally: Tally | None) -> Headers:
        return () if tally is None else receipt(tally.withheld, "fields")

    def clean(self, body: bytes) -> bool:
        return self._look.clean(body)

    def open(self) -> Strip:
        return Strip(self._rules)


@lru_cache(maxsize=64)
def _is_json(content_type: bytes) -> bool:
    return JSON_TYPE(content_type) is not None
