"""A section as Markdown: tables as they are, curves and matrices as tables, pictures in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from artplus.evaluation import wording
from artplus.evaluation.section import (
    Block,
    Curves,
    Gallery,
    Matrix,
    Passage,
    Passages,
    Scatter,
    Section,
    Table,
)
from artplus.reporting import views

if TYPE_CHECKING:
    from artplus.evaluation.finding import Finding

ROWS = 40
"""Rows of a table that are written."""

POSITIONS = 13
"""Positions of a curve that are written."""

COLUMNS = 14
"""Columns of a table beyond which it is left to the page."""


def lines(section: Section) -> list[str]:
    """Paragraphs, the heading first."""
    parts = [f"## {escaped(section.title)}", escaped(section.summary)]
    for block in section.blocks:
        parts += block_lines(block)
    if section.notes:
        parts.append("\n".join(f"- {escaped(note)}" for note in section.notes))
    return parts


def table(cells: list[tuple[str, ...]]) -> str:
    """Rows of cells, the first the heading, as a Markdown table."""
    rows = ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in cells]
    rule = "|:--" + "|--:" * (len(cells[0]) - 1) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])


def escaped(text: str) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    text = " ".join(text.split())
    for character in "\\`*_[]|<>":
        replacement = {"<": "&lt;", ">": "&gt;"}.get(character, "\\" + character)
        text = text.replace(character, replacement)
    return text


def alarm(finding: Finding) -> str:
    """What a check of the evaluation says against it."""
    text = f"- **{escaped(finding.name)}** ({finding.verdict}): {escaped(finding.explanation)}"
    return f"{text} {escaped(finding.remedy)}".rstrip()


def block_lines(block: Block) -> list[str]:
    """A block as paragraphs, its caption first."""
    caption = [escaped(block.caption)] if block.caption else []
    return [*caption, *_SHOW[type(block)](block)]


def _values(block: Table | Curves | Matrix) -> list[str]:
    """What the block shows as a table, cut to a size that is read."""
    found = views.cells_of(block)
    if found is None or not found[1]:
        return []
    columns, rows = found
    return cut([columns, *(tuple(row) for row in rows)])


def cut(cells: list[tuple[str, ...]]) -> list[str]:
    """A table, its heading first, cut to a size that is read."""
    columns, *rows = cells
    if len(columns) > COLUMNS:
        return [f"A table of {len(rows)} × {len(columns)} is in the HTML page and the JSON."]
    further = len(rows) - ROWS
    more = [f"{further} further rows are in the JSON."] if further > 0 else []
    return [table([columns, *rows[:ROWS]]), *more]


def _curves(block: Curves) -> list[str]:
    """Up to :data:`POSITIONS` of the values, evenly spread, the first and the last among them."""
    found = views.cells_of(block)
    if found is None or len(found[1]) <= POSITIONS:
        return _values(block)
    columns, rows = found
    last = len(rows) - 1
    kept = [rows[round(k * last / (POSITIONS - 1))] for k in range(POSITIONS)]
    note = f"{POSITIONS} of {len(rows)} positions; the JSON has them all."
    return [table([columns, *(tuple(row) for row in kept)]), note]


def _scatter(block: Scatter) -> list[str]:
    sizes = ", ".join(f"{wording.plural(len(g.x), 'point')} {g.name}" for g in block.groups)
    return [f"{escaped(sizes)}; drawn in the HTML page."]


def _gallery(block: Gallery) -> list[str]:
    count = sum(len(row) for row in block.rows)
    return [f"{wording.plural(count, 'picture')} in the HTML page."]


def _passages(block: Passages) -> list[str]:
    return [_passage(passage) for passage in block.passages]


def _passage(passage: Passage) -> str:
    """The words, those of at least half the largest influence in bold."""
    words = [
        f"**{escaped(token)}**" if abs(weight) >= 0.5 else escaped(token)
        for token, weight in zip(passage.tokens, passage.weights, strict=True)
    ]
    return f"> {' '.join(words)}\n>\n> — {escaped(passage.title)}. {escaped(passage.text)}".rstrip()


_SHOW: dict[type, Callable[[Any], list[str]]] = {
    Table: _values, Curves: _curves, Matrix: _values, Scatter: _scatter, Gallery: _gallery,
    Passages: _passages,
}  # fmt: skip
