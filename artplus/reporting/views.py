"""A section as the page shows it: blocks drawn, values written out, sizes bounded."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    Section,
    Table,
    Unit,
)
from artplus.reporting import charts, heatmap
from artplus.reporting.pictures import coloured
from artplus.reporting.tables import ROWS as ROWS
from artplus.reporting.tables import TableView as TableView
from artplus.reporting.tables import table_view as table_view

_TEXT: Unit = "text"

STRENGTHS = 5
"""Steps in which the weight of a token is shown."""


@dataclass(frozen=True)
class BlockView:
    """A block of a section, by the name of the macro that shows it.

    Attributes:
        kind: ``table``, ``chart``, ``charts``, ``heat``, ``gallery`` or ``passages``.
        caption: What it shows.
        content: What the macro needs.
        table: The same values as a table, for those who do not see the picture; ``None`` if there
            are too many or none.
    """

    kind: str
    caption: str
    content: Any
    table: TableView | None = None


@dataclass(frozen=True)
class SectionView:
    """A section of the page; ``anchor`` is where links to it lead."""

    anchor: str
    title: str
    summary: str
    blocks: tuple[BlockView, ...]
    notes: tuple[str, ...] = field(default=())


def sections(given: Sequence[Section]) -> list[SectionView]:
    """Everything that the page's template needs, each section under an anchor of its own."""
    return [
        SectionView(
            anchor, section.title, section.summary, tuple(map(block_view, section.blocks)),
            section.notes,
        )
        for anchor, section in zip(anchors([s.name for s in given]), given, strict=True)
    ]  # fmt: skip


def anchors(names: Sequence[str]) -> list[str]:
    """Where links lead, one for each section."""
    found: list[str] = []
    for name in names:
        anchor = "section-" + re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        found.append(anchor if anchor not in found else f"{anchor}-{len(found)}")
    return found


def block_view(block: Block) -> BlockView:
    """A block over the whole width of the page."""
    return _SHOW[type(block)](block)


def half_view(block: Block) -> BlockView:
    """A block over half of it."""
    if isinstance(block, Curves):
        drawing = charts.curves(block, width=charts.NARROW)
        return BlockView("chart", block.caption, drawing, folded(_values(block)))
    if isinstance(block, Scatter):
        return BlockView("chart", block.caption, charts.scatter(block, width=charts.NARROW))
    if isinstance(block, Matrix):
        return _matrix(block, half=True)
    return block_view(block)


def curve_values(block: Curves) -> TableView | None:
    """What curves say as a table; ``None`` if it would be larger than anyone reads."""
    return folded(_values(block))


def cells_of(block: Block) -> tuple[tuple[str, ...], list[list[str]]] | None:
    """Columns and rows of text that say what a block shows; ``None`` where pictures must."""
    table = _values(block)
    return None if table is None else (table.columns, [
        [wording.cell(c, u) for c, u in zip(row, table.units, strict=True)] for row in table.rows
    ])  # fmt: skip


def _table(block: Table) -> BlockView:
    return BlockView("table", block.caption, table_view(block))


def _curves(block: Curves) -> BlockView:
    values = _values(block)
    return BlockView("chart", block.caption, charts.curves(block), folded(values))


def _matrix(block: Matrix, *, half: bool = False) -> BlockView:
    low, high = heatmap.span(block)
    # An end that is nothing beside the other is zero to the eye.
    low, high = (0.0 if abs(end) < 1e-3 * (high - low) else end for end in (low, high))
    content = {
        "drawing": heatmap.matrix(block, half=half),
        "low": wording.cell(low, block.unit),
        "high": wording.cell(high, block.unit),
        "half": heatmap.is_narrow(block),
    }
    return BlockView("heat", block.caption, content, folded(_values(block)))


def _scatter(block: Scatter) -> BlockView:
    return BlockView("chart", block.caption, charts.scatter(block))


def _gallery(block: Gallery) -> BlockView:
    rows = [[(picture, coloured(picture), _alt(picture)) for picture in row] for row in block.rows]
    small = all(len(row) <= 3 and all(p.image.shape[1] <= 96 for p in row) for row in block.rows)
    return BlockView("gallery", block.caption, {"rows": rows, "small": small})


def _passages(block: Passages) -> BlockView:
    shown = [
        (p, [(t, _strength(w), f"{w:+.2f}") for t, w in zip(p.tokens, p.weights, strict=True)])
        for p in block.passages
    ]
    return BlockView("passages", block.caption, shown)


_SHOW: dict[type, Callable[[Any], BlockView]] = {
    Table: _table, Curves: _curves, Matrix: _matrix, Scatter: _scatter, Gallery: _gallery,
    Passages: _passages,
}  # fmt: skip


def _values(block: Block) -> Table | None:
    """The block as a table."""
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


def _curve_values(block: Curves) -> Table:
    """A row for each position, a column for each line, with its interval."""
    positions = sorted({x for series in block.series for x in series.x})
    columns: list[dict[float, str]] = []
    for series in block.series:
        column = {}
        for k, x in enumerate(series.x):
            ends = (series.low[k], series.high[k]) if series.low else (None, None)
            column[x] = wording.measured(series.y[k], *ends, block.y_unit)
        columns.append(column)
    return Table(
        columns=(block.x_label, *(series.name for series in block.series)),
        units=(block.x_unit, *itertools.repeat(_TEXT, len(block.series))),
        rows=tuple((x, *(column.get(x) for column in columns)) for x in positions),
    )


def folded(table: Table | None) -> TableView | None:
    """What the page offers to unfold; nothing if it would be larger than anyone reads."""
    if table is None or len(table.columns) > 24 or len(table.rows) > ROWS:
        return None
    return table_view(table)


def _strength(weight: float) -> str:
    """The class of a token: which way it pulls and how much."""
    if not math.isfinite(weight):
        return ""
    step = min(STRENGTHS, round(STRENGTHS * abs(weight)))
    return f"{'raises' if weight > 0 else 'lowers'} w{step}" if step else ""


def _alt(picture: Picture) -> str:
    kinds: Sequence[tuple[str, str]] = (
        ("heat", "values from dark, low, to bright, high"),
        ("signed", "signed values: red above, blue below zero"),
    )
    told = dict(kinds).get(picture.colours, "")
    return ". ".join(part for part in (picture.title, picture.text, told) if part)
