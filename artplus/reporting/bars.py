"""Accuracies or losses as bars, with intervals, and with their values before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artplus.evaluation import wording

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.reporting.comparison import Comparison

_KINDS = {wording.CLEAN: "clean", wording.WORST: "worst"}


@dataclass(frozen=True)
class Bar:
    """One bar of the chart; lengths in percent of the axis."""

    name: str
    kind: str
    label: str
    length: float | None
    low: float | None
    high: float | None
    before: float | None


@dataclass(frozen=True)
class Chart:
    """Bars over one axis, and the marks of the axis, evenly spaced."""

    bars: tuple[Bar, ...]
    marks: tuple[str, ...]


def chart(report: Report, comparison: Comparison | None = None) -> Chart:
    """A bar for clean, each attack, and the worst case.

    The axis ends at 1 for accuracies, else at the largest loss.

    Args:
        report: Whose values and 95 % intervals are drawn.
        comparison: Of an earlier report with this one, whose values are drawn too.
    """
    accuracy = report.clean_accuracy is not None
    shown = wording.percent if accuracy else wording.number
    lines: list[tuple[str, float | None, float | None, str]]
    if comparison is None:
        rows = wording.rows(report)
        broken = {row.name for row in rows if row.broken}
        lines = [(row.name, None, row.value, shown(row.value)) for row in rows]
    else:
        broken = set()
        lines = [
            (line.name, line.before, line.after, f"{shown(line.before)} → {shown(line.after)}")
            for line in comparison.lines
        ]
    finite = [v for _, *pair, _ in lines for v in pair if v is not None and math.isfinite(v)]
    end = 1.0 if accuracy else max(finite, default=0.0) or 1.0
    intervals = {
        wording.CLEAN: report.clean_interval,
        **{result.name: result.interval for result in report.attacks},
        wording.WORST: report.robust_interval,
    }

    def bar(name: str, before: float | None, value: float | None, label: str) -> Bar:
        bounds = None if value is None else intervals.get(name)
        lengths = [
            None if v is None else min(100.0, 100 * v / end)
            for v in (value, *(bounds or (None, None)), before)
        ]
        kind = "broken" if name in broken else _KINDS.get(name, "attack")
        return Bar(name, kind, label, *lengths)

    marks = ("0%", "25%", "50%", "75%", "100%") if accuracy else ("0", wording.number(end))
    return Chart(tuple(bar(*line) for line in lines), marks)
