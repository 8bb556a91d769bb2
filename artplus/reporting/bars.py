"""Accuracies (or losses) as bars, with intervals, and with what they were before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from artplus.evaluation import wording
from artplus.reporting.comparison import Comparison

if TYPE_CHECKING:
    from artplus.evaluation.intervals import Interval
    from artplus.evaluation.report import Report


@dataclass(frozen=True)
class Bar:
    """One bar of the chart; lengths in percent of the axis."""

    name: str
    kind: str
    length: float | None
    low: float | None
    high: float | None
    label: str
    before: float | None = None
    before_label: str = ""


def bars(report: Report) -> list[Bar]:
    """The rows of the chart, as long as their accuracy (or loss) on the axis."""
    end, bounds = scale(report), _intervals(report)
    return [
        _bar(
            row.name,
            row.value,
            bounds.get(row.name),
            end,
            "broken" if row.broken else _shown(report, row.value),
            broken=row.broken is not None,
        )
        for row in wording.rows(report)
    ]


def paired_bars(comparison: Comparison, after: Report) -> list[Bar]:
    """A bar for each line of a comparison, with what it was before; intervals of the later."""
    end, bounds = paired_scale(comparison), _intervals(after)
    return [
        _bar(
            line.name,
            line.after,
            bounds.get(line.name) if line.after is not None else None,
            end,
            f"{comparison.shown(line.before)} → {comparison.shown(line.after)}",
            before=_length(line.before, end),
            before_label=comparison.shown(line.before),
        )
        for line in comparison.lines
    ]


def scale(report: Report) -> float:
    """The value at the end of the axis: 1 for accuracies, the largest loss otherwise."""
    if report.clean_accuracy is not None:
        return 1.0
    return _largest(row.value for row in wording.rows(report))


def paired_scale(comparison: Comparison) -> float:
    """The same of both sides of a comparison."""
    if comparison.accuracy:
        return 1.0
    return _largest(v for line in comparison.lines for v in (line.before, line.after))


def _bar(
    name: str,
    value: float | None,
    bounds: Interval | None,
    end: float,
    label: str,
    *,
    broken: bool = False,
    before: float | None = None,
    before_label: str = "",
) -> Bar:
    kind = {wording.CLEAN: "clean", wording.WORST: "worst"}.get(name, "attack")
    return Bar(
        name=name,
        kind="broken" if broken else kind,
        length=_length(value, end),
        low=None if bounds is None else _length(bounds[0], end),
        high=None if bounds is None else _length(bounds[1], end),
        label=label,
        before=before,
        before_label=before_label,
    )


def _shown(report: Report, value: float | None) -> str:
    return wording.number(value) if report.clean_accuracy is None else wording.percent(value)


def _intervals(report: Report) -> dict[str, Interval | None]:
    return {
        wording.CLEAN: report.clean_interval,
        **{result.name: result.interval for result in report.attacks},
        wording.WORST: report.robust_interval,
    }


def _length(value: float | None, end: float) -> float | None:
    return None if value is None else min(100.0, 100 * value / end)


def _largest(values: Iterable[float | None]) -> float:
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return max(finite, default=0.0) or 1.0
