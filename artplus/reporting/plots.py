"""Reports and training histories as picture files; no display is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artplus import atomic
from artplus.errors import DataError
from artplus.evaluation import wording
from artplus.evaluation.section import Curves
from artplus.reporting import bars
from artplus.reporting.stack import Overlay, stacked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from artplus.evaluation.report import Report

COLOURS = {"clean": "#3b7dd8", "attack": "#e0903a", "worst": "#c8443c", "broken": "#9a9a9a"}

_HISTORY = {
    "loss": {"loss": ("training", "#444444", "--"), "val_loss": ("validation", "#444444", "-")},
    "accuracy": {
        "clean_accuracy": ("clean, training", COLOURS["clean"], "--"),
        "adversarial_accuracy": ("adversarial, training", COLOURS["worst"], "--"),
        "val_clean_accuracy": ("clean, validation", COLOURS["clean"], "-"),
        "val_adversarial_accuracy": ("adversarial, validation", COLOURS["worst"], "-"),
    },
}
"""Panels of a history: by column its label, colour and dash."""


def report(result: Report, path: str | Path) -> Path:
    """Draw a bar for each attack, and below the curves of the report's sections.

    Bars are accuracies with their 95 % intervals, or mean losses in regression. Other blocks of
    sections are on the page only.

    Args:
        result: The report.
        path: Where to; the suffix decides the format (``.png``, ``.svg``, ``.pdf``).
    """
    from matplotlib.figure import Figure

    panels = [
        (section.title, shown.drawn()[0] if isinstance(shown, Overlay) else shown)
        for section in result.sections
        for shown in stacked(section.blocks)
        if isinstance(shown, (Curves, Overlay))
    ]
    lines, head = math.ceil(len(panels) / 2), 1.2 + 0.42 * (2 + len(result.attacks))
    size = (9 if panels else 7, head + 3.0 * lines)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = figure.add_gridspec(1 + lines, 2, height_ratios=[head, *[3.0] * lines])
    for k, (title, block) in enumerate(panels):
        _curves(figure.add_subplot(grid[1 + k // 2, k % 2]), title, block)
    _bars(figure.add_subplot(grid[0, :]), result)
    return _write(figure, path)


def history(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw training: the loss, and clean and adversarial accuracy, per epoch.

    Args:
        rows: One mapping per epoch, as :class:`~artplus.training.History` keeps them: ``"epoch"``,
            ``"loss"``, ``"clean_accuracy"``, ``"adversarial_accuracy"`` and the latter two after
            ``"val_"``. What is missing is left out.
        path: Where to; the suffix decides the format (``.png``, ``.svg``, ``.pdf``).

    Raises:
        DataError: if there is nothing to draw.
    """
    from matplotlib.figure import Figure

    panels = {
        title: {key: style for key, style in styles.items() if any(key in row for row in rows)}
        for title, styles in _HISTORY.items()
    }
    panels = {title: present for title, present in panels.items() if present}
    if not panels:
        raise DataError(f"nothing to draw: {len(rows)} epochs, none with a loss or an accuracy")
    figure = Figure(figsize=(4.5 * len(panels), 3.2), dpi=150, layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, present) in zip(every, panels.items(), strict=True):
        for key, (label, colour, dash) in present.items():
            points = [
                (row.get("epoch", k), row[key])
                for k, row in enumerate(rows, 1)
                if row.get(key) is not None
            ]
            axes.plot(*zip(*points, strict=True), dash, color=colour, label=label, marker=".")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, frameon=False)
        if title == "accuracy":
            axes.set_ylim(0, 1.02)
        _tidy(axes, title)
    return _write(figure, path)


def _bars(axes: Axes, result: Report) -> None:
    """A bar for clean, each attack and the worst case."""
    chart = bars.chart(result)
    for place, bar in enumerate(chart.bars):
        length = bar.length or 0.0
        axes.barh(place, length, color=COLOURS[bar.kind], height=0.62)
        edge = length
        if bar.low is not None and bar.high is not None:
            spread = [[max(0.0, length - bar.low)], [max(0.0, bar.high - length)]]
            axes.errorbar(length, place, xerr=spread, color="#222", capsize=3, linewidth=1)
            edge = max(length, bar.high)
        unknown = "broken" if bar.kind == "broken" else "unknown"
        label = unknown if bar.length is None else bar.label
        axes.text(edge, place, f"  {label}", va="center", fontsize=9)
    axes.set_yticks(range(len(chart.bars)), [bar.name for bar in chart.bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    steps = len(chart.marks) - 1
    axes.set_xticks([100 * k / steps for k in range(steps + 1)], chart.marks)
    examples = wording.plural(result.n, "example")
    what = "accuracy" if result.clean_accuracy is not None else "mean loss"
    axes.set_xlabel(f"{what} on {examples}" + (", 95% interval" if what == "accuracy" else ""))
    title = result.model
    if result.eps is not None and result.norm is not None:
        title += f", {wording.ball(result.norm, result.eps, result.space)}"
    _tidy(axes, title)


def _curves(axes: Axes, title: str, block: Curves) -> None:
    """Lines with their intervals."""
    from matplotlib.ticker import PercentFormatter

    for series in block.series:
        y, low, high = (
            [math.nan if v is None else v for v in values]
            for values in (series.y, series.low, series.high)
        )
        (line,) = axes.plot(series.x, y, ".-", markersize=4, label=_plain(series.name))
        if low:
            axes.fill_between(series.x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    if block.y_unit == "percent":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(_plain(block.x_label), fontsize=8)
    axes.set_ylabel(_plain(block.y_label), fontsize=8)
    axes.tick_params(labelsize=8)
    if len(block.series) > 1:
        axes.legend(fontsize=7, frameon=False)
    _tidy(axes, title)


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(_plain(title), fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)


def _plain(text: str) -> str:
    """Text in which a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def _write(figure: Figure, path: str | Path) -> Path:
    suffix = Path(path).suffix.lower().removeprefix(".")
    metadata = {"Date": None} if suffix == "svg" else None
    return atomic.write(path, lambda file: figure.savefig(file, format=suffix, metadata=metadata))
