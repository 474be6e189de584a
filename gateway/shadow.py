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
    """Judges by the set that is tried, where there is one."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def judge(
        self,
        tried: Table | None,
        principal: Principal,
        operation: Operation,
        relation: Relation,
        moment: Moment,
    ) -> Decision | None:
        """What that set would decide. Never raises: None without one; and an alarm, when it cannot tell."""
        if tried is None:
            return None
        try:
            decision = tried.decide(principal, operation, relation, moment)
            cause = decision.error
        except Exception as fault:
            cause = type(fault).__name__
        if cause is None:
            return decision
        log.error("shadow-evaluation-error operation=%s: %s", operation.id, cause)
        self._metrics.count("alarms", "shadow-evaluation-error")
        return None
