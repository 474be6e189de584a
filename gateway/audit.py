"""The decision record: one JSON line for each exchange, appended to a file; and what happens when it cannot be.

An operation other than `read` has its "begun" line written before anything goes upstream, so that no change at
the vendor is without one. When a line cannot be written: an alarm, readiness goes red, and whatever needs a
"begun" line is refused, until a write succeeds again.

A line holds what `AuditEvent` holds, and so never a credential, a query value, a body or a path. It does not
hold the client's user agent or the upstream's address either.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gateway.model import AuditEvent
from gateway.problem import Problem

SCHEMA = 1
log = logging.getLogger("gateway.audit")


class Recorder:
    """Writes decision records to one file descriptor; lines of several processes do not mix (O_APPEND).

    `healthy` tells readiness whether the last write succeeded. `alarms` counts those that did not.
    """

    def __init__(self, path: str, digest: Callable[[], str], clock: Callable[[], float]) -> None:
        self._file = sys.stdout.fileno() if path == "-" else _open(path)
        self._owned = path != "-"
        self._digest = digest
        self._clock = clock
        self._torn = False
        self.healthy = True
        self.alarms = 0

    def begun(self, event: AuditEvent) -> None:
        """The line that has to exist before a change goes upstream. Raises: Problem "record-unavailable"."""
        if not self._write(self._line("begun", event)):
            raise Problem("record-unavailable", "A change is not forwarded while it cannot be recorded.")

    def record(self, event: AuditEvent) -> None:
        """The line of a finished exchange. Never raises: the exchange has happened."""
        self._write(self._line("exchange", event))

    def close(self) -> None:
        if self._owned:
            os.close(self._file)

    def _line(self, kind: str, event: AuditEvent) -> bytes:
        now = self._clock()
        fields = {
            "v": SCHEMA,
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "event": kind,
            "request_id": event.request_id,
            "surface": event.surface,
            "client": event.client,
            "method": event.method,
            **_who(event),
            **_what(event),
            "policy_digest": self._digest(),
        }
        if kind == "exchange":
            fields |= {
                "status": event.status,
                "problem": event.problem,
                "upstream_status": event.upstream_status,
                "outcome": event.outcome,
                "bytes_in": event.bytes_in,
                "bytes_out": event.bytes_out,
                "duration_ms": round((now - event.began) * 1000, 3),
            }
        return json.dumps({k: v for k, v in fields.items() if v is not None}).encode() + b"\n"

    def _write(self, line: bytes) -> bool:
        if self._torn:  # half a line of an earlier failure stands there: it must not swallow this one
            line = b"\n" + line
        try:
            written = os.write(self._file, line)
        except OSError as error:
            return self._failed(type(error).__name__)
        self._torn = written != len(line)
        if self._torn:
            return self._failed("short write")
        self.healthy = True
        return True

    def _failed(self, cause: str) -> bool:
        self.healthy = False
        self.alarms += 1
        log.error("record-unavailable: a decision record could not be written (%s)", cause)
        return False


def _who(event: AuditEvent) -> dict[str, object]:
    principal = event.principal
    if principal is None:
        return {}
    return {
        "token_id": principal.token_id,
        "owner": principal.owner.id,
        "account": principal.owner.account.key,
        "role": principal.owner.role,
    }


def _what(event: AuditEvent) -> dict[str, object]:
    call, decision = event.call, event.decision
    fields: dict[str, object] = {"act": event.act, "subject": event.subject}
    if call is not None:
        fields |= {
            "operation": call.operation.id,
            "effect": call.operation.effect,
            "version": call.version,
            "path_account": call.account_id,
        }
    if decision is not None:
        fields |= {
            "decision": "allow" if decision.allowed else "deny",
            "policies": [policy.id for policy in decision.policies],
        }
    return fields


def _open(path: str) -> int:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
