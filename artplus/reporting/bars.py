"""Accuracies or losses as bars, with intervals, and with their values before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artplus.evaluation import wording

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.reporting.comparison import Comparison


@dataclass(frozen=True)
class Bar:
    """One bar of the chart; lengths in percent of the axis."""

    name: str
    kind: str
    label: str
    length: float | None
    low: float | None
    high: float | None
    before: float | None = None
    before_label: str = ""


@dataclass(frozen=True)
class Chart:
    """Bars over one axis, which ends at 1 for accuracies, else at the largest loss."""

    bars: tuple[Bar, ...]
    end: float


def chart(report: Report, comparison: Comparison | None = None) -> Chart:
    """A bar for clean, each attack, and the worst case.

    Args:
        report: Whose values and 95 % intervals are drawn.
        comparison: Of an earlier report with this one, whose values are drawn too.
    """
    rows = wording.rows(report)
    broken = {row.name for row in rows if row.broken}
    values: list[tuple[str, float | None, float | None]] = (
        [(row.name, row.value, None) for row in rows]
        if comparison is None
        else [(line.name, line.after, line.before) for line in comparison.lines]
    )
    accuracy = report.clean_accuracy is not None
    text = wording.percent if accuracy else wording.number
    end = 1.0 if accuracy else _largest([v for _, *both in values for v in both])
    intervals = {
        wording.CLEAN: report.clean_interval,
        **{result.name: result.interval for result in report.attacks},
        wording.WORST: report.robust_interval,
    }
    kinds = {wording.CLEAN: "clean", wording.WORST: "worst"}
    bars = []
    for name, value, before in values:
        bounds = None if value is None else intervals.get(name)
        low, high = bounds or (None, None)
        bars.append(
            Bar(
                name=name,
                kind=kinds.get(
                    name, "broken" if comparison is None and name in broken else "attack"
                ),
                label=text(value) if comparison is None else f"{text(before)} → {text(value)}",
                length=_length(value, end),
                low=_length(low, end),
                high=_length(high, end),
                before=_length(before, end),
                before_label=text(before),
            )
        )
    return Chart(tuple(bars), end)


def _length(value: float | None, end: float) -> float | None:
    return None if value is None else min(100.0, 100 * value / end)


def _largest(values: Sequence[float | None]) -> float:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return max(finite, default=0.0) or 1.0
