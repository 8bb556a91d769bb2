"""Tables as every format shows them: texts, what they are sorted by, and two tables as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from artplus.evaluation import wording
from artplus.evaluation.section import Cell, Table, Unit
from artplus.reporting.change import signed

ROWS = 300
"""Rows of a table on the page; the JSON has them all."""

Entry = tuple[str, str]
"""The text of a cell and what it is sorted by."""

Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        numeric: Whether it holds numbers.
        over: The heading over it and its neighbours, if there is one.
    """

    name: str
    numeric: bool
    over: str = ""


@dataclass(frozen=True)
class TableView:
    """A table as text, with what its rows are sorted by.

    Attributes:
        columns: One for each cell of a row.
        rows: At most :data:`ROWS`.
        note: What is left out or to be known.
        tones: A class for each row's look, or nothing: ``"up"``, ``"down"``, ``"broken"``.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""
    tones: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[tuple[str, int], ...]:
        """Headings over columns and how many each spans; none if no column has one."""
        heads = [(over, len([*g])) for over, g in groupby(c.over for c in self.columns)]
        return tuple(heads) if any(over for over, _ in heads) else ()

    @property
    def starts(self) -> frozenset[int]:
        """Columns under another heading than their left neighbour."""
        names = [column.over for column in self.columns]
        return frozenset(k for k in range(1, len(names)) if names[k] != names[k - 1])

    def cells(self) -> list[tuple[str, ...]]:
        """Heading and rows as text."""
        names = (", ".join(filter(None, (c.over, c.name))) for c in self.columns)
        return [tuple(names), *(tuple(text for text, _ in row) for row in self.rows)]


def table_view(block: Table) -> TableView:
    """The first :data:`ROWS` rows as text and keys."""
    columns = [Column(n, u != "text") for n, u in zip(block.columns, block.units, strict=True)]
    rows = [
        [entry(cell, unit) for cell, unit in zip(row, block.units, strict=True)]
        for row in block.rows[:ROWS]
    ]
    return _limited(columns, rows, len(block.rows))


def merged_table(before: Table, after: Table) -> TableView | None:
    """Both tables as one: each row's values before and after, and the change.

    Rows go together by their leading columns of text, or by the first column where that is a
    number. Values that are equal in every row, such as counts, are there once; an interval stands
    behind its value.

    Args:
        before: For instance accuracies by class.
        after: The same of the later model.

    Returns:
        The table; ``None`` if rows or columns do not correspond: other captions or columns, two
        rows of the same name, fewer than half of the shorter table's rows in common, or no value
        that would say which table a lone row is from.
    """
    if (before.caption, before.columns, before.units) != (
        after.caption, after.columns, after.units
    ):  # fmt: skip
        return None
    width = next((k for k, unit in enumerate(after.units) if unit != "text"), len(after.units)) or 1
    old, new = _by_key(before, width), _by_key(after, width)
    common = old.keys() & new.keys()
    if not common or 2 * len(common) < min(len(old), len(new)):
        return None
    keys = list(new | old)
    pairs = [(old.get(key), new.get(key)) for key in keys]
    units = after.units[:width]
    columns = [Column(n, u != "text") for n, u in zip(after.columns[:width], units, strict=True)]
    rows = [[entry(c, u) for c, u in zip(key, units, strict=True)] for key in keys]
    for k in range(width, len(after.columns)):
        if not _is_interval(after, k):
            more, cells = _both(after, k, pairs)
            columns += more
            for row, part in zip(rows, cells, strict=True):
                row += part
    equal = not any(column.over for column in columns)
    if equal and len(common) < len(keys):
        return None
    note = "The same in both." if equal else ""
    if len(common) < len(keys):
        note = f"{wording.NONE}: this model's table has no such row."
    return _limited(columns, rows, len(rows), note)


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


def _limited(
    columns: Sequence[Column], rows: Sequence[Sequence[Entry]], total: int, note: str = ""
) -> TableView:
    """The table with its first :data:`ROWS` rows, and a note about the others."""
    cut = f"The first {ROWS} of {total:,} rows; the JSON has them all." if total > ROWS else ""
    note = f"{cut} {note}".strip()
    return TableView(tuple(columns), tuple(map(tuple, rows[:ROWS])), note)


def _by_key(table: Table, width: int) -> dict[Row, Row]:
    """Rows by their first ``width`` cells; nothing if two have the same."""
    rows = {row[:width]: row for row in table.rows}
    return rows if len(rows) == len(table.rows) else {}


def _is_interval(table: Table, k: int) -> bool:
    """Whether the ``k``-th column holds, as text, the interval of the number before it."""
    if not 0 < k < len(table.columns):
        return False
    named = table.columns[k] == f"{table.columns[k - 1]} interval"
    return named and table.units[k] == "text" != table.units[k - 1]


def _both(
    table: Table, k: int, pairs: Sequence[tuple[Row | None, Row | None]]
) -> tuple[list[Column], list[list[Entry]]]:
    """A column of two tables: its columns in the merged table, and their cells in each row."""
    name, unit = table.columns[k], table.units[k]
    cells: list[list[Entry]] = []
    for pair in pairs:
        was, now = (None if row is None else row[k] for row in pair)
        change: Entry = (wording.NONE, "")
        if isinstance(was, (int, float)) and isinstance(now, (int, float)):
            by = float(now - was)
            if math.isfinite(by):
                change = signed(by, unit).removesuffix(" pts"), sort_key(by)
        cells.append([*(_measured(table, k, row) for row in pair), change])
    if all(old == new for old, new, _ in cells):
        return [Column(name, unit != "text")], [row[:1] for row in cells]
    if unit == "text":
        both = [row for row, pair in zip(cells, pairs, strict=True) if None not in pair]
        if all(old == new for old, new, _ in both):
            # A text often says what a row is, as the class of an example: it is the same wherever
            # both tables have the row.
            sides = (1 if old is None else 0 for old, _ in pairs)
            known = [[row[side]] for row, side in zip(cells, sides, strict=True)]
            return [Column(name, False)], known
        return [Column(n, False, name) for n in ("before", "after")], [row[:2] for row in cells]
    change_name = "points" if unit == "percent" else "change"
    return [Column(n, True, name) for n in ("before", "after", change_name)], cells


def _measured(table: Table, k: int, row: Row | None) -> Entry:
    """A value with its interval, if the next column holds one."""
    value = None if row is None else row[k]
    text, key = entry(value, table.units[k])
    bounds = row[k + 1] if row is not None and _is_interval(table, k + 1) else None
    if value is not None and bounds not in (None, wording.NONE):
        text = f"{text}\n({bounds})"  # a line of its own on the page, a blank elsewhere
    return text, key
