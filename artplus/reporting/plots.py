"""Pictures of reports and of training, as files; no display is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artplus.errors import DataError
from artplus.evaluation import wording
from artplus.evaluation.section import Curves
from artplus.reporting.stack import Overlay, stacked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from artplus.evaluation.report import Report

CLEAN, ATTACK, WORST, BROKEN = "#3b7dd8", "#e0903a", "#c8443c", "#9a9a9a"


def report(result: Report, path: str | Path) -> Path:
    """Draw a bar per attack, and below the curves of the report's sections.

    Bars are accuracies with their 95 % intervals, or mean losses in regression. Other blocks of
    sections have no place in one picture; the page shows them.

    Args:
        result: The report.
        path: Where to; the suffix decides the format (``.png``, ``.svg``, ``.pdf``).
    """
    from matplotlib.figure import Figure

    rows = wording.rows(result)
    intervals = [
        result.clean_interval,
        *(attack.interval for attack in result.attacks),
        result.robust_interval,
    ]
    panels = [
        (section.title, shown.drawn()[0] if isinstance(shown, Overlay) else shown)
        for section in result.sections
        for shown in stacked(section.blocks)
        if isinstance(shown, (Curves, Overlay))
    ]
    lines, head = math.ceil(len(panels) / 2), 1.2 + 0.42 * len(rows)
    height = head + 3.0 * lines
    figure = Figure(figsize=(9 if panels else 7, height), dpi=150, layout="constrained")
    grid = figure.add_gridspec(1 + lines, 2, height_ratios=[head, *[3.0] * lines])
    for k, (title, block) in enumerate(panels):
        _curves(figure.add_subplot(grid[1 + k // 2, k % 2]), title, block)
    axes = figure.add_subplot(grid[0, :])
    for place, (row, bounds) in enumerate(zip(rows, intervals, strict=True)):
        value, colour = row.value, _colour(row)
        axes.barh(place, value or 0.0, color=colour, height=0.62)
        if value is None:
            axes.text(0, place, " broken" if row.broken else " unknown", va="center", color="#666")
            continue
        if bounds is not None:
            spread = [[max(0.0, value - bounds[0])], [max(0.0, bounds[1] - value)]]
            axes.errorbar(value, place, xerr=spread, color="#222", capsize=3, linewidth=1)
        edge = max(value, bounds[1]) if bounds else value
        label = wording.number(value) if bounds is None else wording.percent(value)
        axes.text(edge, place, f"  {label}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    _tidy(axes)
    if result.clean_accuracy is None:
        axes.set_xlabel("mean loss")
        axes.margins(x=0.15)
    else:
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_xlabel(f"accuracy on {wording.plural(result.n, 'example')}, 95% interval")
    ball = (
        ""
        if result.eps is None or result.norm is None
        else (f", {wording.ball(result.norm, result.eps)}")
    )
    axes.set_title(f"{result.model}{ball}", fontsize=10, loc="left", parse_math=False)
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

    accuracies = {
        "clean_accuracy": ("clean, training", CLEAN, "--"),
        "adversarial_accuracy": ("adversarial, training", WORST, "--"),
        "val_clean_accuracy": ("clean, validation", CLEAN, "-"),
        "val_adversarial_accuracy": ("adversarial, validation", WORST, "-"),
    }
    losses = {"loss": ("training", "#444444", "--"), "val_loss": ("validation", "#444444", "-")}
    panels = [
        (title, {key: style for key, style in styles.items() if any(key in row for row in rows)})
        for title, styles in (("loss", losses), ("accuracy", accuracies))
    ]
    panels = [(title, present) for title, present in panels if present]
    if not panels:
        raise DataError(f"nothing to draw: {len(rows)} epochs, none with a loss or an accuracy")
    figure = Figure(figsize=(4.5 * len(panels), 3.2), dpi=150, layout="constrained")
    for axes, (title, present) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for key, (label, colour, dash) in present.items():
            points = [
                (row.get("epoch", k), row[key])
                for k, row in enumerate(rows, 1)
                if row.get(key) is not None
            ]
            axes.plot(*zip(*points, strict=True), dash, color=colour, label=label, marker=".")
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10, loc="left")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=8, frameon=False)
        if title == "accuracy":
            axes.set_ylim(0, 1.02)
        _tidy(axes)
    return _write(figure, path)


def _curves(axes: Axes, title: str, block: Curves) -> None:
    """Lines with their intervals."""
    from matplotlib.ticker import PercentFormatter

    for series in block.series:
        (line,) = axes.plot(
            series.x, [math.nan if v is None else v for v in series.y], ".-", markersize=4,
            label=_plain(series.name),
        )  # fmt: skip
        if series.low:
            low, high = (
                [math.nan if v is None else v for v in ends] for ends in (series.low, series.high)
            )
            axes.fill_between(series.x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    if block.y_unit == "percent":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(_plain(block.x_label), fontsize=8)
    axes.set_ylabel(_plain(block.y_label), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_title(_plain(title), fontsize=10, loc="left")
    if len(block.series) > 1:
        axes.legend(fontsize=7, frameon=False)
    _tidy(axes)


def _plain(text: str) -> str:
    """Text in which a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def _colour(row: wording.Row) -> str:
    if row.broken is not None:
        return BROKEN
    return {wording.CLEAN: CLEAN, wording.WORST: WORST}.get(row.name, ATTACK)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)


def _write(figure: Any, path: str | Path) -> Path:
    figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
    return Path(path)
