"""A table as the page shows it: texts, what they are sorted by, and no more rows than are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from artplus.evaluation import wording
from artplus.evaluation.section import Cell, Table, Unit

ROWS = 300
"""Rows of a table on the page; the JSON has them all."""

Entry = tuple[str, str]
"""The text of a cell and what it is sorted by."""


@dataclass(frozen=True)
class TableView:
    """A table as text, with what its rows are sorted by.

    Attributes:
        columns: Names, each with whether it holds numbers.
        rows: For each cell the text and the key.
        note: What is left out.
        heads: Headings over several columns, with how many; empty if there are none.
    """

    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""
    heads: tuple[tuple[str, int], ...] = ()

    @property
    def starts(self) -> frozenset[int]:
        """Columns with which a heading over several begins, or that come after one."""
        ends = list(accumulate((span for _, span in self.heads), initial=0))
        found = set()
        for k, (_, span) in enumerate(self.heads):
            if span > 1:
                found |= {ends[k], ends[k + 1]}
        return frozenset(found)

    def short(self, column: int) -> str:
        """The column's own heading, under one over several."""
        spans = [name for name, span in self.heads for _ in range(span)]
        name = self.columns[column][0]
        return name.removeprefix(f"{spans[column]}, ") if spans else name

    def cells(self) -> list[tuple[str, ...]]:
        """Heading and rows as text."""
        names = tuple(name for name, _ in self.columns)
        return [names, *(tuple(text for text, _ in row) for row in self.rows)]


def table_view(block: Table) -> TableView:
    """The first :data:`ROWS` rows as text and keys."""
    numeric = [unit != "text" for unit in block.units]
    rows = [
        [entry(cell, unit) for cell, unit in zip(row, block.units, strict=True)]
        for row in block.rows[:ROWS]
    ]
    columns = list(zip(block.columns, numeric, strict=True))
    return limited(columns, rows, total=len(block.rows))


def limited(
    columns: Sequence[tuple[str, bool]],
    rows: Sequence[Sequence[Entry]],
    heads: Sequence[tuple[str, int]] = (),
    *,
    total: int | None = None,
) -> TableView:
    """The table with its first :data:`ROWS` rows, and a word on the others."""
    total = len(rows) if total is None else total
    note = f"The first {ROWS} of {total:,} rows; the JSON has them all." if total > ROWS else ""
    return TableView(tuple(columns), tuple(map(tuple, rows[:ROWS])), note, tuple(heads))


def entry(cell: Cell, unit: Unit) -> Entry:
    """A cell as text, and what it is sorted by; what has no value comes last."""
    return wording.cell(cell, unit), sort_key(cell)


def sort_key(cell: Cell) -> str:
    """What the page's script sorts a cell by; empty for what has no value."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and math.isinf(cell):
        return "1e999" if cell > 0 else "-1e999"
    return cell if isinstance(cell, str) else repr(float(cell))
