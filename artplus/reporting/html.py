"""A report as one page: verdict, figures, tables, charts, pictures; no network, light and dark."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from artplus.evaluation import wording
from artplus.reporting import palette, views
from artplus.reporting.comparison import Comparison, compare
from artplus.reporting.pictures import Pictures, pictures, value_range

if TYPE_CHECKING:
    from jinja2 import Template

    from artplus.evaluation.intervals import Interval
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult, Examples


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


@dataclass(frozen=True)
class Exhibit:
    """One attacked example of the gallery."""

    number: int
    label: str
    clean: str
    adversarial: str
    fooled: bool
    attack: str
    pictures: Pictures


def render(report: Report, before: Report | None = None) -> str:
    """The page.

    Everything that comes from outside, such as names of models, attacks and classes, is escaped.

    Args:
        report: The report.
        before: A report on the same examples, to be compared with.

    Raises:
        ConfigurationError: if ``before`` is on other examples.
    """
    comparison = None if before is None else compare(before, report)
    script = _script()
    return _template().render(
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        report=report,
        before=before,
        comparison=comparison,
        wording=wording,
        columns=wording.columns(report),
        rows=wording.rows(report),
        sort_keys=_sort_keys(report),
        bars=bars(report, comparison),
        scale=_scale(report, comparison),
        exhibits=[] if report.examples is None else _exhibits(report, report.examples),
        sections=views.sections(report.sections),
        light=palette.light(),
        dark=palette.dark(),
        series=palette.SERIES,
        levels=palette.LEVELS,
        strengths=views.STRENGTHS,
        settings=[(result, _settings(result.params)) for result in report.attacks],
    )


def bars(report: Report, comparison: Comparison | None = None) -> list[Bar]:
    """The rows of the chart, as long as their accuracy (or loss) on the axis."""
    scale = _scale(report, comparison)
    old = {} if comparison is None else {line.name: line.before for line in comparison.lines}
    intervals: list[Interval | None] = [
        report.clean_interval,
        *(result.interval for result in report.attacks),
        report.robust_interval,
    ]
    found = []
    for row, bounds in zip(wording.rows(report), intervals, strict=True):
        kind = {wording.CLEAN: "clean", wording.WORST: "worst"}.get(row.name, "attack")
        shown = (
            wording.percent
            if bounds is not None or report.clean_accuracy is not None
            else (wording.number)
        )
        was = old.get(row.name)
        found.append(
            Bar(
                name=row.name,
                kind="broken" if row.broken else kind,
                length=_length(row.value, scale),
                low=None if bounds is None else _length(bounds[0], scale),
                high=None if bounds is None else _length(bounds[1], scale),
                label="broken" if row.broken else shown(row.value),
                before=_length(was, scale),
                before_label="" if was is None else shown(was),
            )
        )
    return found


def _length(value: float | None, scale: float) -> float | None:
    return None if value is None else min(100.0, 100 * value / scale)


def _scale(report: Report, comparison: Comparison | None) -> float:
    """The value at the end of the axis: 1 for accuracies, the largest loss otherwise."""
    if report.clean_accuracy is not None:
        return 1.0
    values = [row.value for row in wording.rows(report)]
    if comparison is not None:
        values += [line.before for line in comparison.lines]
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return max(finite, default=0.0) or 1.0


def _exhibits(report: Report, examples: Examples) -> list[Exhibit]:
    low, high = value_range(np.stack([examples.x, examples.x_adv]))
    classes = report.clean_accuracy is not None and np.issubdtype(examples.y.dtype, np.integer)

    def label(value: Any) -> str:
        if not classes and np.size(value) == 1:
            return wording.number(float(np.asarray(value).item()))
        if not classes:
            return np.array2string(np.asarray(value), precision=3, threshold=6)
        number = int(value)
        if report.class_names is not None and 0 <= number < len(report.class_names):
            return report.class_names[number]
        return f"class {number}"

    return [
        Exhibit(
            number=int(examples.index[k]),
            label=label(examples.y[k]),
            clean=label(examples.clean[k]),
            adversarial=label(examples.adversarial[k]),
            fooled=bool(classes and examples.adversarial[k] != examples.y[k]),
            attack=examples.attack[k],
            pictures=pictures(examples.x[k], examples.x_adv[k], low, high),
        )
        for k in range(len(examples))
    ]


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
        keys.append([result.name, *("" if v is None else repr(float(v)) for v in values)])
    return keys


def _cost(result: AttackResult) -> float | None:
    """Passes for each example: a backward one takes about as long as a forward one."""
    if result.forwards is None or result.backwards is None or not result.attacked or result.broken:
        return None
    return (result.forwards + result.backwards) / result.attacked


def _settings(params: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    return [
        (key, wording.number(value) if isinstance(value, float) else str(value))
        for key, value in params.items()
    ]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("artplus.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template() -> Template:
    return _environment().get_template("report.html.j2")


def _script() -> Markup:
    """The page's one script, which its policy names by hash, so that no other can run."""
    return Markup("\n" + _environment().get_template("report.js").render())
