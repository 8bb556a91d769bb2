"""Matrices as SVG: the larger a value, the fuller its cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from artplus.evaluation import wording
from artplus.evaluation.section import Matrix
from artplus.reporting.charts import WIDE, Drawing, tag
from artplus.reporting.palette import LEVELS

CELLS = 2500
"""Cells of a larger matrix carry no values to read off, to keep the page small."""

_CHARACTER, _LONGEST = 7.2, 22
_WRITTEN = 14
"""Up to so many columns have their values written in them."""


@dataclass(frozen=True)
class _Grid:
    """Where the cells are, and every how many columns one has its name."""

    left: float
    top: float
    wide: float
    tall: float
    stride: int
    upright: bool


def matrix(block: Matrix, *, half: bool = False) -> Drawing:
    """The cells, with their values written in them where there is room.

    Args:
        block: The values.
        half: Draw it for half the page's width, with shares as whole percentages.
    """
    grid = _grid(block, half or is_narrow(block))
    readable = len(block.rows) * len(block.columns) <= CELLS
    width = max(320.0, grid.left + grid.wide * len(block.columns) + 10)
    height = grid.top + grid.tall * len(block.rows) + 6
    name = block.caption or f"{block.row_label} by {block.column_label}"
    low, high = span(block)
    # An end that is tiny beside the other is written as zero.
    ends = (0.0 if abs(end) < 1e-3 * (high - low) else end for end in (low, high))
    svg = tag(
        "svg",
        [*_names(block, grid), *_cells(block, grid, readable, half)],
        class_="plot heat",
        style=f"max-width:{width * 1.06:.0f}px",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        tabindex=0,
        aria_label=f"{name} Arrow keys read the values." if readable else name,
    )
    return Drawing(
        svg,
        note="" if readable else "There are too many cells to read them off one by one.",
        ends=tuple(wording.cell(end, block.unit) for end in ends),
    )


def is_narrow(block: Matrix) -> bool:
    """Whether two such pictures stand side by side."""
    return len(block.columns) > _WRITTEN


def span(block: Matrix) -> tuple[float, float]:
    """What the palest and the fullest cell stand for; shares run from 0 to 1."""
    if block.span is not None:
        return block.span
    known = [v for row in block.values for v in row if v is not None and math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if block.unit == "percent" and low >= 0 and high <= 1:
        return 0.0, 1.0
    return (min(low, 0.0) if block.unit == "count" else low), high


def level(value: float, low: float, high: float) -> int:
    """Which of the steps from pale to full a value has."""
    share = 0.0 if high == low else (value - low) / (high - low)
    return round((LEVELS - 1) * min(1.0, max(0.0, share)))


def _grid(block: Matrix, half: bool) -> _Grid:
    left = 14 + _CHARACTER * min(_LONGEST, max(map(len, block.rows), default=0))
    room = (WIDE / 2 if half else WIDE) - left - 10
    wide = min(66.0, max(9.0, room / max(1, len(block.columns))))
    longest = max(map(len, block.columns), default=0)
    # Names as short as numbers can be left out where there is no room for all.
    stride = max(1, math.ceil((longest * _CHARACTER + 6) / wide)) if longest <= 6 else 1
    longest = min(_LONGEST, longest)
    upright = longest * _CHARACTER <= wide - 2 or stride > 1
    top = 46.0 if upright else 34 + 0.8 * _CHARACTER * longest
    return _Grid(left, top, wide, min(wide, 36.0), stride, upright)


def _cells(block: Matrix, grid: _Grid, readable: bool, brief: bool) -> list[Markup]:
    low, high = span(block)
    texts = [[wording.cell(value, block.unit) for value in row] for row in block.values]
    inside = texts
    if brief and block.unit == "percent":
        inside = [[_whole(value) for value in row] for row in block.values]
    longest = max((len(text) for row in inside for text in row), default=0)
    written = not is_narrow(block) and grid.wide >= 6.6 * longest + 4 and grid.tall >= 18
    parts = []
    for r, row in enumerate(block.values):
        for c, value in enumerate(row):
            x, y = round(grid.left + c * grid.wide, 1), round(grid.top + r * grid.tall, 1)
            known = value is not None and math.isfinite(value)
            step = level(value, low, high) if known and value is not None else "none"
            middle = round(x + grid.wide / 2, 1)
            data = {
                "data_r": r, "data_c": c, "data_x": middle, "data_y": y,
                "data_head": f"{block.rows[r]} → {block.columns[c]}", "data_tip": texts[r][c],
            }  # fmt: skip
            # Slightly wider than the grid, so that no seam shows between cells.
            size = {"width": round(grid.wide + 0.3, 1), "height": round(grid.tall + 0.3, 1)}
            data = data if readable else {}
            parts.append(tag("rect", class_=f"cell h{step}", x=x, y=y, **size, **data))
            if written:
                base = round(y + grid.tall / 2 + 4.2, 1)
                parts.append(
                    tag("text", inside[r][c], class_=f"in-cell on-h{step}", x=middle, y=base)
                )
    return parts


def _whole(value: float | None) -> str:
    """A share without decimals."""
    known = value is not None and math.isfinite(value)
    return f"{100 * value:.0f}%" if known and value is not None else wording.NONE


def _names(block: Matrix, grid: _Grid) -> list[Markup]:
    """What rows and columns are; where there are many, some of them."""
    what = f"↓ {block.row_label}   → {block.column_label}"
    parts = [tag("text", what, class_="axis-name", x=2, y=14)]
    for c in range(0, len(block.columns), grid.stride):
        x, y = round(grid.left + (c + 0.5) * grid.wide, 1), grid.top - 7
        turn = None if grid.upright else f"rotate(-52 {x} {y})"
        place = "tick middle" if grid.upright else "tick"
        parts.append(tag("text", _short(block.columns[c]), class_=place, x=x, y=y, transform=turn))
    for r in range(0, len(block.rows), max(1, math.ceil(15 / grid.tall))):
        y = round(grid.top + (r + 0.5) * grid.tall + 4, 1)
        parts.append(tag("text", _short(block.rows[r]), class_="tick end", x=grid.left - 7, y=y))
    return parts


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
