"""The decision record: one JSON line for each exchange, appended to a file; and what happens when it cannot be.

An operation other than `read` has its "begun" line written before anything goes upstream, so that no change at
the vendor is without one. When a line cannot be written: an alarm, readiness goes red, and whatever needs a
"begun" line is refused, until a write succeeds again.

A line holds what `AuditEvent` holds, and so never a credential, a query value, a body or a path. It does not
hold the client's user agent or the upstream's address either.

It holds all that a decision was made from (owner, scopes, relation, client; `time` less `duration_ms` is the
moment), so that a changed policy set can be asked about it again: `replay.py`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from gateway.model import AuditEvent, Decision
from gateway.problem import Problem

SCHEMA = 1
TOGETHER, LATE_S = 64, 0.02
log = logging.getLogger("gateway.audit")

_quoted = lru_cache(4_096)(json.dumps)
"""Addresses, of which one of IPv6 may end in whatever its zone is called (RFC 4007 section 11.2)."""


class Recorder:
    """Writes decision records to one file descriptor; lines of several processes do not mix (O_APPEND).

    `healthy` tells readiness whether the last write succeeded. `alarms` counts those that did not.
    """

    def __init__(
        self,
        path: str,
        digest: Callable[[], str],
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object] = lambda _, act: act(),
    ) -> None:
        """`later` calls something after so many seconds; by default at once, so that nothing waits."""
        self._file = sys.stdout.fileno() if path == "-" else _open(path)
        self._owned = path != "-"
        self._digest = digest
        self._clock = clock
        self._later = later
        self._waiting: list[str] = []
        self._torn = False
        self._millisecond = -1
        self._time_text = ""
        self.healthy = True
        self.alarms = 0

    def begun(self, event: AuditEvent) -> None:
        """The line that has to exist before a change goes upstream. Raises: Problem "record-unavailable"."""
        if not self._write(self._line("begun", event, self._clock())):
            raise Problem("record-unavailable", "A change is not forwarded while it cannot be recorded.")

    def record(self, event: AuditEvent) -> None:
        """The line of a finished exchange. Never raises: the exchange has happened.

        Lines of reads that were allowed are written together, at most 64 and at most 20 ms late; what changed
        something, or was refused, is written at once.
        """
        line = self._line("exchange", event, self._clock())
        if event.problem is not None or event.call is None or event.call.operation.effect != "read":
            self._write(line)
            return
        waiting = self._waiting
        waiting.append(line)
        if len(waiting) >= TOGETHER:
            self.flush()
        elif len(waiting) == 1:
            self._later(LATE_S, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._write("")

    def close(self) -> None:
        self.flush()
        if self._owned:
            os.close(self._file)

    def _line(self, kind: str, event: AuditEvent, now: float) -> str:
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            self._time_text = _time(millisecond)
        facts = event.facts
        same = facts.text if facts is not None and facts.text else self._facts(event)
        line = (
            f'{{"v":{SCHEMA},"time":"{self._time_text}","event":"{kind}"'
            f',"request_id":"{event.request_id}","client":{_quoted(event.client)},{same}'
        )
        if kind == "begun":
            return line + "}\n"
        problem = "" if event.problem is None else f',"problem":{json.dumps(event.problem)}'
        upstream = "" if event.upstream_status is None else f',"upstream_status":{event.upstream_status}'
        withheld = f',"withheld":{json.dumps(event.withheld)}' if event.withheld else ""
        return (
            f'{line},"status":{event.status}{problem}{upstream},"outcome":"{event.outcome}"'
            f',"bytes_in":{event.bytes_in},"bytes_out":{event.bytes_out}{withheld}'
            f',"duration_ms":{(now - event.began) * 1000:.3f}}}\n'
        )

    def _facts(self, event: AuditEvent) -> str:
        """Who asked for what, and what was decided: the same for every request like this one."""
        # The digest of the policies that decided: those put in force meanwhile did not.
        text = _fragment(event, event.policy_digest or self._digest())
        if event.facts is not None:
            event.facts.text = text
        return text

    def _write(self, text: str) -> bool:
        if self._waiting:  # the order of lines is the order of exchanges
            text = "".join(self._waiting) + text
            self._waiting.clear()
        line = text.encode()
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


def _fragment(event: AuditEvent, digest: str) -> str:
    """What of a line does not change from one request to the next of its kind."""
    standing = {"surface": event.surface, "method": event.method}
    said = standing | _who(event) | _what(event) | {"policy_digest": digest[:16]}
    fields = {name: value for name, value in said.items() if value is not None}
    return json.dumps(fields, separators=(",", ":"))[1:-1]


def _time(millisecond: int) -> str:
    return (
        f"{datetime.fromtimestamp(millisecond // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{millisecond % 1000:03d}+00:00"
    )


def _who(event: AuditEvent) -> dict[str, object]:
    principal = event.principal
    owner = event.actor if principal is None else principal.owner
    if owner is None:
        return {}
    scopes: dict[str, object] = {}
    by: dict[str, object] = {"session": event.session}
    if principal is not None:
        by = {"token_id": principal.token_id}
        scopes = {"scopes": " ".join(sorted(principal.scopes))}
    who: dict[str, object] = {
        "owner": owner.id,
        "account": owner.account.key,
        "network": owner.account.network,
        "role": owner.role,
        "administrator": owner.administrator,
    }
    return by | who | scopes


def _what(event: AuditEvent) -> dict[str, object]:
    call, decision = event.call, event.decision
    fields: dict[str, object] = {"act": event.act, "subject": event.subject}
    if call is not None:
        fields |= {
            "operation": call.operation.id,
            "effect": call.operation.effect,
            "version": call.version,
            "path_account": call.account_id,
            "relation": event.relation,
        }
    if decision is not None:
        fields |= _decided(decision)
    if event.dissent is not None:
        fields["shadow"] = _decided(event.dissent)
    return fields


def _decided(decision: Decision) -> dict[str, object]:
    return {
        "decision": "allow" if decision.allowed else "deny",
        "policies": [policy.id for policy in decision.policies],
    }


def _open(path: str) -> int:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
