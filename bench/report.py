"""Numbers into text: medians with their spread, tables, percentiles, a slope. Pure, but for `say`."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence

NOTHING = "–"


def say(text: str = "") -> None:
    """One line for whoever watches, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line of progress, kept out of the results."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def number(value: float) -> str:
    """A number with about three digits that mean something: 12,345, 345, 34.5, 3.45."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """`median (min–max)`, or the one value there is, or a dash for none."""
    if not values:
        return NOTHING
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """How many times theirs ours is, by medians."""
    mine, other = median(ours), median(theirs)
    return NOTHING if mine is None or not other else f"{mine / other:.2f}×"


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of values in ascending order; 0 for none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The rise of y for each unit of x, by least squares; 0 where no line can be laid."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads in a terminal too."""
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]
    lines = ["| " + " | ".join(str(cell).ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
             for row in (head, *rows)]  # fmt: skip
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
