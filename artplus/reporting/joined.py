"""Two tables as one: each row's values before and after, and the change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from artplus.evaluation import wording
from artplus.evaluation.section import Cell, Table, Unit
from artplus.reporting.change import difference, signed
from artplus.reporting.own import MODELS, thing
from artplus.reporting.tables import Entry, TableView, entry, limited

_Column = tuple[str, list[str], list[bool], list[list[Entry]]]


def joined(before: Table, after: Table) -> TableView | None:
    """One table of both; ``None`` if their rows or columns are not of the same things.

    Also ``None`` if one has a row that the other has not and nothing in it would say which.

    Rows go together by their leading columns of text, or by the first where that is a number; at
    least half of the shorter table must find a partner. Values that are alike in every row, such as
    counts, are there once; an interval stands behind the value that it is of.

    Args:
        before: For instance accuracies by class.
        after: The same of the later model.
    """
    if (before.columns, before.units) != (after.columns, after.units):
        return None
    keys = next((k for k, unit in enumerate(after.units) if unit != "text"), len(after.units)) or 1
    old, new = _by_key(before, keys), _by_key(after, keys)
    if old is None or new is None or not old or not new:
        return None
    common = old.keys() & new.keys()
    if 2 * len(common) < min(len(old), len(new)):
        return None
    order = list(new | old)
    pairs = [(old.get(key), new.get(key)) for key in order]
    groups: list[_Column] = []
    skip = -1
    for k in range(keys, len(after.columns)):
        if k != skip:
            bounds = _interval_of(after, k)
            skip = k + 1 if bounds is not None else -1
            groups.append(_column(after.columns[k], after.units[k], pairs, k, bounds))
    alike = all(len(parts) == 1 for _, parts, _, _ in groups)
    if alike and len(common) < len(order):
        return None
    rows = [
        [
            *(entry(cell, unit) for cell, unit in zip(key, after.units, strict=False)),
            *(cell for *_, cells in groups for cell in cells[r]),
        ]
        for r, key in enumerate(order)
    ]
    heads = [*((name, 1) for name in after.columns[:keys])]
    heads += [(name, len(parts)) for name, parts, _, _ in groups]
    columns = [(name, after.units[k] != "text") for k, name in enumerate(after.columns[:keys])]
    for name, parts, numeric, _ in groups:
        own = [f"{name}, {part}" if part else name for part in parts]
        columns += list(zip(own, numeric, strict=True))
    view = limited(columns, rows, heads if any(span > 1 for _, span in heads) else [])
    if len(common) == len(order):
        return replace(view, note=f"{view.note} Alike in both reports.".strip()) if alike else view
    lone = f"{wording.NONE}: not among the rows that this report has."
    return replace(view, note=f"{view.note} {lone}".strip())


def _by_key(table: Table, keys: int) -> dict[tuple[Cell, ...], tuple[Cell, ...]] | None:
    """Rows by what they are of; ``None`` if two are of the same."""
    found: dict[tuple[Cell, ...], tuple[Cell, ...]] = {}
    for row in table.rows:
        key = tuple(
            thing(cell) if isinstance(cell, str) and heading in MODELS else cell
            for cell, heading in zip(row[:keys], table.columns, strict=False)
        )
        if key in found:
            return None
        found[key] = row
    return found


def _interval_of(table: Table, k: int) -> int | None:
    """The next column, if it is the interval of the ``k``-th as text."""
    if k + 1 >= len(table.columns) or table.units[k] == "text" or table.units[k + 1] != "text":
        return None
    return k + 1 if table.columns[k + 1] == f"{table.columns[k]} interval" else None


def _column(
    name: str,
    unit: Unit,
    pairs: Sequence[tuple[tuple[Cell, ...] | None, tuple[Cell, ...] | None]],
    k: int,
    bounds: int | None,
) -> _Column:
    """Heading, sub-headings, which are numbers, and the cells of each row."""
    cells = []
    for old, new in pairs:
        was, now = (None if row is None else row[k] for row in (old, new))
        texts = [
            _measured(value, unit, None if row is None or bounds is None else row[bounds])
            for value, row in ((was, old), (now, new))
        ]
        by = difference(was, now)
        text = signed(by, unit).removesuffix(" pts")
        known = by is not None and math.isfinite(by)
        cells.append([*texts, (text, repr(by) if known else "")])
    if all(row[0] == row[1] for row in cells):
        return name, [""], [unit != "text"], [row[:1] for row in cells]
    if unit == "text":
        # What is said of a row is often part of what it is, as the class of an example.
        both = [row for row, (old, new) in zip(cells, pairs, strict=True) if old and new]
        if all(row[0] == row[1] for row in both):
            one = [row[:1] if old else row[1:2] for row, (old, _) in zip(cells, pairs, strict=True)]
            return name, [""], [False], one
        return name, ["before", "after"], [False, False], [row[:2] for row in cells]
    return name, ["before", "after", "points" if unit == "percent" else "change"], [True] * 3, cells


def _measured(value: Cell, unit: Unit, bounds: Cell) -> Entry:
    text, key = entry(value, unit)
    if isinstance(bounds, str) and value is not None and bounds != wording.NONE:
        text = f"{text}\n({bounds})"  # a line of its own on the page, a blank elsewhere
    return text, key
