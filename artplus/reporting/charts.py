"""Curves and points as SVG; each mark carries the values that the page shows on demand."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markupsafe import Markup, escape

from artplus.evaluation import wording
from artplus.evaluation.section import Curves, Scatter, Series
from artplus.reporting.axes import Axis, axis
from artplus.reporting.palette import SERIES

POINTS = 3000
"""Points of a scatter plot that are drawn; larger ones are subsampled."""

READABLE = 120
"""Points of a curve with a mark that shows its values; more are subsampled. The line has all."""

WIDE, NARROW, SMALL = 880.0, 440.0, 300.0
"""Widths of a chart: alone, beside another one, and among many."""

_HEIGHTS = {WIDE: 350.0, NARROW: 280.0, SMALL: 210.0}
_RIGHT, _TOP, _BOTTOM = 22, 34, 46


@dataclass(frozen=True)
class Drawing:
    """A chart for the page.

    Attributes:
        svg: The picture.
        legend: Names of what is drawn, each with its sign.
        note: What the picture leaves out.
        ends: What the palest and the fullest colour of a heat map stand for.
    """

    svg: Markup
    legend: tuple[tuple[str, Markup], ...] = ()
    note: str = ""
    ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Frame:
    """The area between the axes."""

    x: Axis
    y: Axis
    width: float
    height: float

    @property
    def left(self) -> float:
        return 16 + 7.6 * max(map(len, self.y.labels), default=1)

    def across(self, value: float) -> float:
        return round(self.x.place(value, self.left, self.width - _RIGHT), 1)

    def down(self, value: float) -> float:
        return round(self.y.place(value, self.height - _BOTTOM, _TOP), 1)


def tag(name: str, content: str | Iterable[Markup] = "", /, **attributes: object) -> Markup:
    """An element; ``class_`` stands for ``class``, underscores for hyphens, and all is escaped.

    Example:
        >>> str(tag("text", "a < b", class_="tick", data_tip='"'))
        '<text class="tick" data-tip="&#34;">a &lt; b</text>'
        >>> str(tag("line", x1=0))
        '<line x1="0"/>'
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    inside = escape(content) if isinstance(content, str) else Markup("").join(content)
    if not inside:
        return Markup("<{}{}/>").format(name, written)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)


def curves(block: Curves, *, width: float = WIDE, dashed: Collection[int] = ()) -> Drawing:
    """Lines with their intervals as bands.

    Args:
        block: The lines.
        width: Of the picture; its texts keep their size.
        dashed: Numbers of the lines that are dashed.
    """
    frame = _Frame(
        axis(
            [x for line in block.series for x in line.x],
            block.x_unit,
            tight=True,
            marks=6 if width == WIDE else 3,
        ),
        axis(
            [y for n in block.series for part in (n.y, n.low, n.high) for y in part], block.y_unit
        ),
        width,
        _HEIGHTS[width],
    )
    looks = [_look(k, k in dashed) for k in range(len(block.series))]
    drawn = [
        *(_band(frame, line, k) for k, line in enumerate(block.series) if line.low),
        *(_line(frame, line, look) for line, look in zip(block.series, looks, strict=True)),
        *(_readings(frame, block, line, k) for k, line in enumerate(block.series)),
    ]
    signs = (_sign(k, 34, [tag("path", class_=look, d="M1 7H33")]) for k, look in enumerate(looks))
    return Drawing(
        _svg(frame, block, drawn, "curves overlay" if dashed else "curves"),
        tuple((line.name, sign) for line, sign in zip(block.series, signs, strict=True)),
    )


def scatter(block: Scatter, *, width: float = WIDE) -> Drawing:
    """Points by group, each with its label."""
    frame = _Frame(
        axis([x for group in block.groups for x in group.x], "number"),
        axis([y for group in block.groups for y in group.y], "number"),
        width,
        460 if width == WIDE else 400,
    )
    total = sum(len(group.x) for group in block.groups)
    stride = max(1, math.ceil(total / POINTS))
    marks = []
    for number, group in enumerate(block.groups):
        for k in range(0, len(group.x), stride):
            x, y = group.x[k], group.y[k]
            if math.isfinite(x) and math.isfinite(y):
                place = f"{wording.cell(x, 'number')}, {wording.cell(y, 'number')}"
                text = group.labels[k] if group.labels else place
                at = frame.across(x), frame.down(y)
                marks.append(_mark(*at, number, 3.6, data_head=group.name, data_tip=text))
    return Drawing(
        _svg(frame, block, marks, "scatter"),
        tuple((group.name, _sign(k, 14)) for k, group in enumerate(block.groups)),
        f"{total:,} points, of which every {stride}th is drawn." if stride > 1 else "",
    )


def _look(number: int, dashed: bool) -> str:
    """The class of a line."""
    return f"line s{number % SERIES}" + (" earlier" if dashed else "")


def _line(frame: _Frame, series: Series, look: str) -> Markup:
    """The line, broken where there is no value."""
    parts, pen = [], "M"
    for x, y in zip(series.x, series.y, strict=True):
        if y is None or not math.isfinite(y):
            pen = "M"
            continue
        parts.append(f"{pen}{frame.across(x)} {frame.down(y)}")
        pen = "L"
    return tag("path", class_=look, d="".join(parts))


def _band(frame: _Frame, series: Series, number: int) -> Markup:
    """The interval as an area, one for each stretch without gaps."""
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
    size = (4.2 if frame.width > SMALL else 3.4) if stride == 1 else 1.6
    marks = []
    points = [*zip_longest(series.x, series.y, series.low, series.high)]
    for x, y, low, high in points[::stride]:
        if y is not None and math.isfinite(y):
            head = f"{block.x_label}: {wording.cell(x, block.x_unit)}"
            text = f"{series.name}: {wording.measured(y, low, high, block.y_unit)}"
            at = frame.across(x), frame.down(y)
            marks.append(_mark(*at, number, size, data_head=head, data_tip=text))
    return tag("g", marks)


def _mark(x: float, y: float, number: int, r: float, **data: str) -> Markup:
    """A dot, square, diamond or triangle, so that colour is not the only difference."""
    kind = (number + number // SERIES) % 4
    side, reach = 0.88 * r, 1.2 * r
    if kind == 0:
        d = f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    elif kind == 1:
        d = f"M{x - side:.1f} {y - side:.1f}h{2 * side:.1f}v{2 * side:.1f}h{-2 * side:.1f}Z"
    elif kind == 2:
        a = f"{reach:.1f}"
        d = f"M{x:.1f} {y - reach:.1f}l{a} {a}l-{a} {a}l-{a} -{a}Z"
    else:
        d = f"M{x:.1f} {y - reach:.1f}l{reach:.1f} {1.9 * reach:.1f}h{-2 * reach:.1f}Z"
    place = {"data_x": x, "data_y": y} if data else {}
    return tag("path", class_=f"mark s{number % SERIES}", **place, **data, d=d)


def _sign(number: int, width: int, under: Sequence[Markup] = ()) -> Markup:
    """What stands for a line or a group in the legend."""
    content = [*under, _mark(width / 2, 7, number, 4.4)]
    look = "key long" if under else "key"
    return tag("svg", content, class_=look, viewBox=f"0 0 {width} 14", aria_hidden="true")


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
