"""The sandbox itself: state, credential check, and the way from a request to its answer. No sockets here."""

from __future__ import annotations

import re
from datetime import date

from gateway.sandbox import routes, surfaces, transactions
from gateway.sandbox.errors import Refused, not_found, unauthorized
from gateway.sandbox.exchange import Ask, Reply, as_json
from gateway.sandbox.faults import Fault, Faults
from gateway.sandbox.journal import Journal, new_journal, seen
from gateway.sandbox.network import Network
from gateway.sandbox.numbers import seed_numbers
from gateway.sandbox.rows import CALLS, build
from gateway.sandbox.sample import TODAY
from gateway.sandbox.tags import seed_tags

VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")


class Sandbox:
    """Both APIs over one set of invented data, which writes change in memory.

    Args:
        credential: the network's token. None accepts any credential, but still demands one.
        seed: which data; the same seed and day give the same rows, ids and secrets.
        today: the day on which the data ends; None is a fixed day (`sample.TODAY`).
        calls: how many calls there are within the 180 days before; about a third more rows come of them.

    Attributes: `journal` holds what arrived, `faults` what goes wrong next, `network` the state.
    """

    def __init__(
        self,
        credential: str | None = None,
        seed: int | str = 1,
        today: date | None = None,
        calls: int = CALLS,
    ) -> None:
        self.credential = credential
        self.today = today or TODAY
        self.journal: Journal = new_journal()
        self.faults = Faults()
        self.rows = build(seed, self.today, calls)
        self.network = Network(seed, self.today, self.rows)
        seed_numbers(self.network)
        seed_tags(self.network)

    def arrive(self, ask: Ask) -> tuple[Reply, Fault | None]:
        """Journal a request and answer it: the reply, and the fault that shall spoil it on the way."""
        self.journal.append(seen(ask))
        fault = self.faults.take()
        reply = self.faults.instead(fault) or self.answer(ask)
        channels = ",".join(dict.fromkeys(channel for channel, _ in ask.credentials))
        if channels:
            reply.headers["Sandbox-Credential"] = channels
        return reply, fault

    def answer(self, ask: Ask) -> Reply:
        try:
            return self._answer(ask)
        except Refused as refused:
            return as_json(refused.status, refused.body)

    def _answer(self, ask: Ask) -> Reply:
        surface = surfaces.find(ask)
        if surface:
            return surfaces.answer(surface)
        version, segments = versioned(ask.segments)
        if not any(self.accepts(*credential) for credential in ask.credentials):
            raise unauthorized()
        if ask.method in ("POST", "PUT", "PATCH"):
            ask.json  # noqa: B018 - a body that cannot be read is refused even by an operation that needs none
        if transactions.is_transactions(segments):
            return transactions.answer(ask, version, segments, self.rows)
        if ask.segments[:1] != ("api",):
            raise not_found(f"{ask.method} {ask.path}")
        return routes.answer(ask, version, segments, self.network)

    def accepts(self, channel: str, value: str) -> bool:
        """Whether a credential is good. A bare token is one word; of Basic the password is compared."""
        token = value.partition(":")[2] if channel == "basic" else value
        if not token or (channel == "header" and " " in token):
            return False
        return self.credential is None or token == self.credential


def versioned(segments: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The version and the segments behind it; a path without `/api/` counts as the oldest version."""
    if segments[:1] != ("api",):
        return transactions.OLDEST_VERSION, segments
    if len(segments) < 2 or not VERSION.match(segments[1]):
        raise not_found("the API version")
    return segments[1], segments[2:]
