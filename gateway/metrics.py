"""Counters and gauges, and their text form. Labels come from closed sets: nothing a client writes becomes one.

Source: the Prometheus text exposition format, version 0.0.4.
"""

from __future__ import annotations

from collections.abc import Callable

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "exchanges": (
        "Exchanges finished, by surface, status and problem kind.",
        ("surface", "status", "problem"),
    ),
    "alarms": ("Events that should never happen; each has an ERROR line of the same name.", ("event",)),
    "shadow_disagreements": (
        "Requests that the shadow policies would have decided otherwise, by outcome in force and in the shadow.",
        ("enforced", "shadow"),
    ),
    "withheld": ("Answers from which something was withheld, by class.", ("class",)),
    "policy_reloads": ("Reloads of the policies, by outcome: loaded, refused, failed.", ("outcome",)),
    "exposed_tokens": ("Tokens of ours that arrived where none belongs.", ()),
}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The numbers of one process. A gauge is asked when the text is made."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, tuple[str | int, ...]], int] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def count(self, name: str, *labels: str | int) -> None:
        """Add one to a counter of the catalogue. Raises: KeyError for a name that is not in it."""
        try:
            self._counts[name, labels] += 1
        except KeyError:
            if len(COUNTERS[name][1]) != len(labels):
                raise
            self._counts[name, labels] = 1

    def gauge(self, name: str, what: str, ask: Callable[[], float]) -> None:
        self._gauges[name] = (what, ask)

    def value(self, name: str, *labels: str | int) -> int:
        return self._counts.get((name, labels), 0)

    def text(self) -> str:
        """Every metric in the exposition format."""
        lines: list[str] = []
        for name, (what, labels) in COUNTERS.items():
            full = f"invoca_gateway_{name}_total"
            lines += [f"# HELP {full} {what}", f"# TYPE {full} counter"]
            # One without labels starts at 0: from nothing to 1 is no increase to whoever watches it.
            counts = self._counts if labels else {(name, ()): 0} | self._counts
            for (counted, values), number in sorted(counts.items()):
                if counted == name:
                    pairs = ",".join(f'{k}="{v}"' for k, v in zip(labels, values, strict=True))
                    lines.append(f"{full}{{{pairs}}} {number}" if pairs else f"{full} {number}")
        for name, (what, ask) in self._gauges.items():
            full = f"invoca_gateway_{name}"
            lines += [f"# HELP {full} {what}", f"# TYPE {full} gauge", f"{full} {ask():g}"]
        return "\n".join(lines) + "\n"
