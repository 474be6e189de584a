"""A second set of policies that is judged beside the one in force, and enforced nowhere.

An operator tries what they are about to lay over the set in force: the record says where it would have decided
otherwise, and the metrics count it. Whatever becomes of it here, no request is refused for it.
"""

from __future__ import annotations

import logging

from gateway.metrics import Metrics
from gateway.model import Decision, Moment, Operation, Principal, Relation
from gateway.table import Table

log = logging.getLogger("gateway.shadow")


class Shadow:
    """Judges by `table`. A reload may put another in its place at any time."""

    def __init__(self, table: Table, metrics: Metrics) -> None:
        self.table = table
        self._metrics = metrics

    def judge(
        self, principal: Principal, operation: Operation, relation: Relation, moment: Moment
    ) -> Decision | None:
        """What this set would decide. Never raises: None, and an alarm, when it cannot tell."""
        try:
            decision = self.table.decide(principal, operation, relation, moment)
            cause = decision.error
        except Exception as fault:
            cause = type(fault).__name__
        if cause is None:
            return decision
        log.error("shadow-evaluation-error operation=%s: %s", operation.id, cause)
        self._metrics.count("alarms", "shadow-evaluation-error")
        return None
