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
    """Judges by `table`, which a reload replaces together with the one in force (`follow`)."""

    def __init__(self, table: Table, metrics: Metrics) -> None:
        self.table = table
        self._metrics = metrics

    def follow(self, table: Table | None) -> None:
        """Judge by another table from now on."""
        if table is not None:
            self.table = table

    def judge(
        self,
        principal: Principal,
        operation: Operation,
        relation: Relation,
        moment: Moment,
        table: Table | None = None,
    ) -> Decision | None:
        """What this set would decide; `table` is the one a request began with, where that is an earlier one.

        Never raises: None, and an alarm, when it cannot tell.
        """
        try:
            decision = (table or self.table).decide(principal, operation, relation, moment)
            cause = decision.error
        except Exception as fault:
            cause = type(fault).__name__
        if cause is None:
            return decision
        log.error("shadow-evaluation-error operation=%s: %s", operation.id, cause)
        self._metrics.count("alarms", "shadow-evaluation-error")
        return None
