"""Sections as the page shows them: blocks drawn, values written out, sizes bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from artplus.evaluation import wording
from artplus.evaluation.section import (
    Block,
    Curves,
    Gallery,
    Matrix,
    Passages,
    Picture,
    Scatter,
    Table,
    Unit,
)
from artplus.reporting import charts, heatmap
from artplus.reporting.pictures import coloured
from artplus.reporting.stack import SIDES, Beside, Merged, Overlay, Shown, Stack
from artplus.reporting.tables import ROWS, TableView, table_view

STRENGTHS = 5
"""Steps in which the weight of a token is shown."""

LINES = 6
"""Lines of two models that one chart holds; more get a small chart for each name."""


@dataclass(frozen=True)
class BlockView:
    """A block of a section, by the name of the macro that shows it.

    Attributes:
        kind: ``table``, ``chart``, ``charts``, ``gallery`` or ``passages``.
        caption: What it shows.
        content: What the macro needs.
        table: The same values as a table, for readers who do not see the picture; ``None`` if
            there are too many or none.
        when: ``before`` or ``after``, where the page has to say it.
        narrow: Whether two such blocks stand side by side.
    """

    kind: str
    caption: str
    content: Any
    table: TableView | None = None
    when: str = ""
    narrow: bool = False


@dataclass(frozen=True)
class RowView:
    """Blocks that belong together.

    Attributes:
        blocks: One, or those of two models.
        halves: Whether they stand side by side.
        note: What to know about them.
    """

    blocks: tuple[BlockView, ...]
    halves: bool = False
    note: str = ""


@dataclass(frozen=True)
class SectionView:
    """A section of the page; ``anchor`` is where links to it lead."""

    anchor: str
    stack: Stack
    rows: tuple[RowView, ...]


def sections(stacks: Sequence[Stack]) -> list[SectionView]:
    """Everything that the page's template needs, each section under its own anchor."""
    anchors: list[str] = []
    for stack in stacks:
        anchor = "section-" + re.sub("[^a-z0-9]+", "-", stack.name.lower()).strip("-")
        anchors.append(anchor if anchor not in anchors else f"{anchor}-{len(anchors)}")
    return [
        SectionView(anchor, stack, tuple(map(row_view, stack.shown)))
        for anchor, stack in zip(anchors, stacks, strict=True)
    ]


def row_view(shown: Shown) -> RowView:
    """What stands in one row of the page."""
    if isinstance(shown, Merged):
        return RowView((BlockView("table", shown.caption, shown.view),))
    if isinstance(shown, Overlay):
        return RowView((_overlay(shown),))
    if not isinstance(shown, Beside):
        return RowView((block_view(shown),))
    sides = [
        (when, block)
        for when, block in zip(SIDES, (shown.before, shown.after), strict=True)
        if block is not None
    ]
    halves = len(sides) > 1 and not any(isinstance(block, Table) for _, block in sides)
    views = (block_view(block, when=when, half=halves) for when, block in sides)
    return RowView(tuple(views), halves, shown.note)


def block_view(block: Block, *, when: str = "", half: bool = False) -> BlockView:
    """A block over the whole width of the page, or over half of it."""
    width = charts.NARROW if half else charts.WIDE
    table = None
    content: Any
    match block:
        case Table():
            kind, content = "table", table_view(block)
        case Curves():
            kind, content, table = "chart", charts.curves(block, width=width), folded(block)
        case Scatter():
            kind, content = "chart", charts.scatter(block, width=width)
        case Matrix():
            kind, content, table = "chart", heatmap.matrix(block, half=half), folded(block)
        case Gallery():
            kind, content = "gallery", _gallery(block)
        case Passages():
            kind, content = "passages", _passages(block)
    narrow = isinstance(block, Matrix) and heatmap.is_narrow(block) and not half
    return BlockView(kind, block.caption, content, table, when, narrow)


def values(block: Block) -> Table | None:
    """What a block shows as a table; ``None`` where pictures must."""
    if isinstance(block, Table):
        return block
    if isinstance(block, Curves):
        return _curve_values(block)
    if isinstance(block, Matrix) and block.columns:
        return Table(
            columns=(f"{block.row_label} ↓ {block.column_label} →", *block.columns),
            units=("text", *(block.unit for _ in block.columns)),
            rows=tuple((n, *row) for n, row in zip(block.rows, block.values, strict=True)),
        )
    return None


def folded(block: Block) -> TableView | None:
    """The values that the page offers to unfold; ``None`` if nobody would read so many."""
    table = values(block)
    if table is None or len(table.columns) > 24 or len(table.rows) > ROWS:
        return None
    return table_view(table)


def _overlay(shown: Overlay) -> BlockView:
    """One chart, or one for each name and one table for all of them."""
    block, dashed = shown.drawn()
    if len(block.series) <= LINES:
        drawing = charts.curves(block, dashed=dashed)
        return BlockView("chart", block.caption, drawing, folded(block))
    drawings = []
    for name in shown.names:
        part, dashed = shown.drawn(only=name)
        drawings.append((name, charts.curves(part, width=charts.SMALL, dashed=dashed)))
    return BlockView("charts", block.caption, drawings, folded(block))


def _gallery(block: Gallery) -> dict[str, object]:
    rows = [[(picture, coloured(picture), _alt(picture)) for picture in row] for row in block.rows]
    small = all(len(row) <= 3 and all(p.image.shape[1] <= 96 for p in row) for row in block.rows)
    return {"rows": rows, "small": small}


@dataclass(frozen=True)
class TokenView:
    """A word of a text; ``was`` is what it replaced, ``None`` if it is unchanged."""

    text: str
    strength: str
    weight: str
    was: str | None


def _passages(block: Passages) -> list[Any]:
    return [
        (
            p,
            [
                TokenView(t, _strength(w), f"{w:+.2f}", was if was != t else None)
                for t, w, was in zip(p.tokens, p.weights, p.before or p.tokens, strict=True)
            ],
        )
        for p in block.passages
    ]


def _curve_values(block: Curves) -> Table:
    """A row for each position, a column for each line, with its interval."""
    columns: list[dict[float, str]] = [
        {
            x: wording.measured(y, low, high, block.y_unit)
            for x, y, low, high in zip_longest(line.x, line.y, line.low, line.high)
        }
        for line in block.series
    ]
    positions = sorted({x for column in columns for x in column})
    text: Unit = "text"
    return Table(
        columns=(block.x_label, *(line.name for line in block.series)),
        units=(block.x_unit, *(text for _ in block.series)),
        rows=tuple((x, *(column.get(x) for column in columns)) for x in positions),
    )


def _strength(weight: float) -> str:
    """The class of a token: which way it pulls and how much."""
    if not math.isfinite(weight):
        return ""
    step = min(STRENGTHS, round(STRENGTHS * abs(weight)))
    return f"{'raises' if weight > 0 else 'lowers'} w{step}" if step else ""


def _alt(picture: Picture) -> str:
    colours = {
        "heat": "values from dark, low, to bright, high",
        "signed": "signed values: red above, blue below zero",
    }.get(picture.colours, "")
    return ". ".join(part for part in (picture.title, picture.text, colours) if part)
