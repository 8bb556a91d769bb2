"""Curves and points as pictures whose every mark tells its values on demand."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from artplus.evaluation import wording
from artplus.evaluation.section import Curves, Group, Scatter, Series
from artplus.reporting.axes import Axis, axis
from artplus.reporting.palette import SERIES
from artplus.reporting.tags import tag

POINTS = 3000
"""Points of a scatter that are drawn; of more, every so manieth."""

READABLE = 120
"""Points of a curve that can be read off; of more, every so manieth. The line has them all."""

WIDE, NARROW, SMALL = 880.0, 440.0, 300.0
"""Widths of a chart: alone, beside another one, and among many."""

_RIGHT, _TOP, _BOTTOM = 22, 34, 46


@dataclass(frozen=True)
class Drawing:
    """A chart for the page.

    Attributes:
        svg: The picture.
        legend: Names of what is drawn, with the class of their colour and the sign of their mark.
        note: What the picture leaves out.
    """

    svg: Markup
    legend: tuple[tuple[str, str, Markup], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class _Frame:
    """The area between the axes."""

    x: Axis
    y: Axis
    left: float
    width: float
    height: float

    def across(self, value: float) -> float:
        return round(self.x.place(value, self.left, self.width - _RIGHT), 1)

    def down(self, value: float) -> float:
        return round(self.y.place(value, self.height - _BOTTOM, _TOP), 1)


def curves(block: Curves, *, width: float = WIDE, dashed: Collection[int] = ()) -> Drawing:
    """Lines with their intervals as bands.

    Args:
        block: The lines.
        width: Of the picture; its texts keep their size.
        dashed: Numbers of the lines that are dashed.
    """
    positions = [p for series in block.series for p in series.x]
    heights = [
        v for series in block.series for part in (series.y, series.low, series.high) for v in part
    ]
    marks = 6 if width == WIDE else 3
    frame = _frame(
        axis(positions, block.x_unit, tight=True, marks=marks),
        axis(heights, block.y_unit),
        width,
        {WIDE: 350, NARROW: 280}.get(width, 210),
    )
    bands = [_band(frame, s, k) for k, s in enumerate(block.series) if s.low]
    lines = [_line(frame, s, k, k in dashed) for k, s in enumerate(block.series)]
    readings = [_readings(frame, block, s, k) for k, s in enumerate(block.series)]
    return Drawing(
        _svg(frame, block, [*bands, *lines, *readings], "curves" + (" overlay" if dashed else "")),
        tuple(
            (s.name, f"s{k % SERIES}", _line_key(k, k in dashed) if dashed else _key(k))
            for k, s in enumerate(block.series)
        ),
    )


def scatter(block: Scatter, *, width: float = WIDE) -> Drawing:
    """Points by group, each with its label."""
    frame = _frame(
        axis([v for group in block.groups for v in group.x], "number"),
        axis([v for group in block.groups for v in group.y], "number"),
        width,
        460 if width == WIDE else 400,
    )
    total = sum(len(group.x) for group in block.groups)
    stride = max(1, math.ceil(total / POINTS))
    marks = [_points(frame, block, group, k, stride) for k, group in enumerate(block.groups)]
    return Drawing(
        _svg(frame, block, marks, "scatter"),
        tuple((group.name, f"s{k % SERIES}", _key(k)) for k, group in enumerate(block.groups)),
        f"{total:,} points, of which every {stride}th is drawn." if stride > 1 else "",
    )


def _frame(x: Axis, y: Axis, width: float, height: float) -> _Frame:
    return _Frame(x, y, 16 + 7.6 * max(map(len, y.labels), default=1), width, height)


def _line(frame: _Frame, series: Series, number: int, dashed: bool) -> Markup:
    """The line, broken where there is no value."""
    parts, pen = [], "M"
    for x, y in zip(series.x, series.y, strict=True):
        if y is None or not math.isfinite(y):
            pen = "M"
            continue
        parts.append(f"{pen}{frame.across(x)} {frame.down(y)}")
        pen = "L"
    dash = " earlier" if dashed else ""
    return tag("path", class_=f"line s{number % SERIES}{dash}", d="".join(parts))


def _band(frame: _Frame, series: Series, number: int) -> Markup:
    """Interval as an area, one for each stretch without gaps."""
    areas: list[str] = []
    stretch: list[tuple[float, float, float]] = []
    for x, low, high in [*zip(series.x, series.low, series.high, strict=True), (0.0, None, None)]:
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            stretch.append((frame.across(x), frame.down(low), frame.down(high)))
            continue
        if stretch:
            edge = [f"{a} {top}" for a, _, top in stretch]
            edge += [f"{a} {bottom}" for a, bottom, _ in reversed(stretch)]
            areas.append("M" + "L".join(edge) + "Z")
        stretch = []
    return tag("path", class_=f"band s{number % SERIES}", d="".join(areas))


def _readings(frame: _Frame, block: Curves, series: Series, number: int) -> Markup:
    """A mark at each value."""
    stride = max(1, math.ceil(len(series.x) / READABLE))
    marks = []
    for k in range(0, len(series.x), stride):
        y = series.y[k]
        if y is None or not math.isfinite(y):
            continue
        ends = (series.low[k], series.high[k]) if series.low else (None, None)
        told = wording.measured(y, *ends, block.y_unit)
        head = f"{block.x_label}: {wording.cell(series.x[k], block.x_unit)}"
        at = frame.across(series.x[k]), frame.down(y)
        size = (4.2 if frame.width > SMALL else 3.4) if stride == 1 else 1.6
        marks.append(_mark(*at, number, size, head, f"{series.name}: {told}"))
    return tag("g", marks)


def _points(frame: _Frame, block: Scatter, group: Group, number: int, stride: int) -> Markup:
    marks = []
    for k in range(0, len(group.x), stride):
        x, y = group.x[k], group.y[k]
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        at = f"{wording.cell(x, 'number')}, {wording.cell(y, 'number')}"
        told = group.labels[k] if group.labels else at
        marks.append(_mark(frame.across(x), frame.down(y), number, 3.6, group.name, told))
    return Markup("").join(marks)


def _mark(x: float, y: float, number: int, size: float, head: str, told: str) -> Markup:
    colour, shape = f"mark s{number % SERIES}", _shape(x, y, number, size)
    return tag("path", class_=colour, data_x=x, data_y=y, data_head=head, data_tip=told, d=shape)


def _shape(x: float, y: float, number: int, r: float) -> str:
    """A dot, square, diamond or triangle, so that colour is not all that tells lines apart."""
    kind = (number + number // SERIES) % 4
    if kind == 0:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    if kind == 1:
        side = 0.88 * r
        return f"M{x - side:.1f} {y - side:.1f}h{2 * side:.1f}v{2 * side:.1f}h{-2 * side:.1f}Z"
    reach = 1.2 * r
    if kind == 2:
        d = f"{reach:.1f}"
        return f"M{x:.1f} {y - reach:.1f}l{d} {d}l-{d} {d}l-{d} -{d}Z"
    return f"M{x:.1f} {y - reach:.1f}l{reach:.1f} {1.9 * reach:.1f}h{-2 * reach:.1f}Z"


def _key(number: int) -> Markup:
    mark = tag("path", class_=f"mark s{number % SERIES}", d=_shape(7, 7, number, 4.6))
    return tag("svg", [mark], class_="key", viewBox="0 0 14 14", aria_hidden="true")


def _line_key(number: int, dashed: bool) -> Markup:
    """The sign of a line where some are dashed."""
    dash = " earlier" if dashed else ""
    line = tag("path", class_=f"line s{number % SERIES}{dash}", d="M1 7H33")
    mark = tag("path", class_=f"mark s{number % SERIES}", d=_shape(17, 7, number, 4.2))
    return tag("svg", [line, mark], class_="key long", viewBox="0 0 34 14", aria_hidden="true")


def _svg(frame: _Frame, block: Curves | Scatter, content: Sequence[Markup], kind: str) -> Markup:
    """Axes, their names, and what is drawn between them."""
    left, right, floor = frame.left, frame.width - _RIGHT, frame.height - _BOTTOM
    parts: list[Markup] = []
    for value, label in zip(frame.y.ticks, frame.y.labels, strict=True):
        y = frame.down(value)
        parts.append(tag("line", class_="grid", x1=left, x2=right, y1=y, y2=y))
        parts.append(tag("text", label, class_="tick end", x=left - 8, y=y + 4))
    for value, label in zip(frame.x.ticks, frame.x.labels, strict=True):
        x = frame.across(value)
        parts.append(tag("line", class_="tickline", x1=x, x2=x, y1=floor, y2=floor + 5))
        parts.append(tag("text", label, class_="tick middle", x=x, y=floor + 20))
    parts += [
        tag("line", class_="base", x1=left, x2=right, y1=floor, y2=floor),
        tag("text", block.y_label, class_="axis-name", x=2, y=16),
        tag("text", block.x_label, class_="axis-name end", x=right, y=frame.height - 5),
        tag("line", class_="cursor", y1=_TOP, y2=floor),
    ]
    name = block.caption or f"{block.y_label} over {block.x_label}."
    return tag(
        "svg",
        [*parts, *content],
        class_=f"plot {kind}" + ("" if frame.width == WIDE else " narrow"),
        viewBox=f"0 0 {frame.width:g} {frame.height:g}",
        role="img",
        tabindex=0,
        aria_label=f"{name} Arrow keys read the values.",
    )
