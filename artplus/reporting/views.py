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
    Cell,
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

ROWS = 300
"""Rows of a table on the page; the JSON has them all."""

_TEXT: Unit = "text"

STRENGTHS = 5
"""Steps in which the weight of a token is shown."""


@dataclass(frozen=True)
class TableView:
    """A table as text, with what its rows are sorted by.

    Attributes:
        columns: Names, each with whether it holds numbers.
        rows: For each cell the text and the key.
        note: What is left out.
    """

    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[tuple[str, str], ...], ...]
    note: str = ""


@dataclass(frozen=True)
class BlockView:
    """A block of a section, by the name of the macro that shows it.

    Attributes:
        kind: ``table``, ``chart``, ``heat``, ``gallery`` or ``passages``.
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
    views: list[SectionView] = []
    for section in given:
        anchor = "section-" + re.sub("[^a-z0-9]+", "-", section.name.lower()).strip("-")
        if any(view.anchor == anchor for view in views):
            anchor += f"-{len(views)}"
        blocks = tuple(_SHOW[type(block)](block) for block in section.blocks)
        views.append(SectionView(anchor, section.title, section.summary, blocks, section.notes))
    return views


def cells_of(block: Block) -> tuple[tuple[str, ...], list[list[str]]] | None:
    """Columns and rows of text that say what a block shows; ``None`` where pictures must."""
    table = _values(block)
    return None if table is None else (table.columns, [
        [wording.cell(c, u) for c, u in zip(row, table.units, strict=True)] for row in table.rows
    ])  # fmt: skip


def table_view(block: Table) -> TableView:
    """The first :data:`ROWS` rows as text and keys."""
    numeric = [unit != "text" for unit in block.units]
    rows = tuple(
        tuple((wording.cell(c, u), _key(c)) for c, u in zip(row, block.units, strict=True))
        for row in block.rows[:ROWS]
    )
    cut = len(block.rows) - len(rows)
    note = f"The first {ROWS} of {len(block.rows):,} rows; the JSON has them all." if cut else ""
    return TableView(tuple(zip(block.columns, numeric, strict=True)), rows, note)


def _table(block: Table) -> BlockView:
    return BlockView("table", block.caption, table_view(block))


def _curves(block: Curves) -> BlockView:
    values = _values(block)
    return BlockView("chart", block.caption, charts.curves(block), _folded(values))


def _matrix(block: Matrix) -> BlockView:
    low, high = heatmap.span(block)
    # An end that is nothing beside the other is zero to the eye.
    low, high = (0.0 if abs(end) < 1e-3 * (high - low) else end for end in (low, high))
    content = {
        "drawing": heatmap.matrix(block),
        "low": wording.cell(low, block.unit),
        "high": wording.cell(high, block.unit),
        "half": heatmap.is_narrow(block),
    }
    return BlockView("heat", block.caption, content, _folded(_values(block)))


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


def _folded(table: Table | None) -> TableView | None:
    """What the page offers to unfold; nothing if it would be larger than anyone reads."""
    if table is None or len(table.columns) > 24 or len(table.rows) > ROWS:
        return None
    return table_view(table)


def _key(cell: Cell) -> str:
    """What a cell is sorted by; what has no value comes last."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and math.isinf(cell):
        return "1e999" if cell > 0 else "-1e999"
    return cell if isinstance(cell, str) else repr(float(cell))


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
