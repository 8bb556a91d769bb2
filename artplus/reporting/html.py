"""A report as one page: verdict, figures, tables, charts, pictures; no network, light and dark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from artplus.evaluation import wording
from artplus.reporting import comparison_page, page, views
from artplus.reporting.bars import bars, scale
from artplus.reporting.examples import exhibits
from artplus.reporting.settings import settings
from artplus.reporting.tables import sort_key

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult


def render(report: Report, before: Report | None = None) -> str:
    """The page; with ``before``, the page that compares the two.

    Args:
        report: The report.
        before: A report on the same examples, to be compared with.

    Raises:
        ConfigurationError: if ``before`` is on other examples.
    """
    if before is not None:
        return comparison_page.render(before, report)
    return page.render(
        "report.html.j2",
        report=report,
        columns=wording.columns(report),
        rows=wording.rows(report),
        sort_keys=_sort_keys(report),
        bars=bars(report),
        scale=scale(report),
        exhibits=exhibits(report),
        sections=views.sections(report.sections),
        settings=[(result, settings(result.params)) for result in report.attacks],
    )


def _sort_keys(report: Report) -> list[list[str]]:
    """What the table sorts by, row by row: numbers where there are some."""
    keys = []
    for result in report.attacks:
        accuracy = [] if report.clean_accuracy is None else [
            result.accuracy, None if result.interval is None else result.interval[0]
        ]  # fmt: skip
        losses = [] if accuracy else [result.metrics.get(name) for name in report.clean_metrics]
        cost = [_cost(result)] if wording.counted(report) else []
        values = [*accuracy, *losses, result.eps, result.max_norm, *cost, result.seconds]
        keys.append([result.name, *map(sort_key, values)])
    return keys


def _cost(result: AttackResult) -> float | None:
    """Passes for each example: a backward one takes about as long as a forward one."""
    if result.forwards is None or result.backwards is None or not result.attacked or result.broken:
        return None
    return (result.forwards + result.backwards) / result.attacked
