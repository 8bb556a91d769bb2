"""Two reports' sections as the page shows them: overlaid, joined, or half the page for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from artplus.evaluation.section import Block, Section, Table
from artplus.reporting import charts, views
from artplus.reporting.overlay import SIDES, Overlay
from artplus.reporting.together import Beside, Joined, Shown, Together
from artplus.reporting.views import BlockView

LINES = 6
"""Lines that one chart holds; of more, each thing has a small chart of its own."""


@dataclass(frozen=True)
class Side:
    """One report's part.

    Attributes:
        when: ``before`` or ``after``.
        block: What it shows; ``None`` if this report has nothing there.
    """

    when: str
    block: BlockView | None


@dataclass(frozen=True)
class RowView:
    """What stands beside each other.

    Attributes:
        sides: One block over the whole width, or two halves.
        note: What to know about how they stand there.
        stacked: Whether each takes the whole width.
    """

    sides: tuple[Side, ...]
    note: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class TogetherView:
    """A section of two reports; ``lone`` names the only report that has it."""

    anchor: str
    title: str
    summaries: tuple[tuple[str, str], ...]
    rows: tuple[RowView, ...]
    warnings: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]
    lone: str = ""


def sections(given: Sequence[Together]) -> list[TogetherView]:
    """Everything that the page's template needs."""
    return [
        TogetherView(
            anchor=anchor,
            title=pair.section.title,
            summaries=summaries(pair),
            rows=tuple(_row(shown, bool(pair.before), bool(pair.after)) for shown in pair.shown),
            warnings=pair.warnings,
            notes=notes(pair),
            lone=lone(pair),
        )
        for anchor, pair in zip(views.anchors([p.section.name for p in given]), given, strict=True)
    ]


def lone(pair: Together) -> str:
    """The only report that holds the section; empty if both do."""
    if pair.before is None:
        return "after"
    return "before" if pair.after is None else ""


def notes(pair: Together) -> tuple[tuple[str, str], ...]:
    """Whose note it is, empty for what both say, and the note."""
    sides = {when: section.notes for when, section in _present(pair)}
    if len(sides) == 1:
        return tuple(("", note) for own in sides.values() for note in own)
    common = [note for note in sides.get("after", ()) if note in sides.get("before", ())]
    return (
        *(("", note) for note in common),
        *((when, note) for when, own in sides.items() for note in own if note not in common),
        *(("", note) for note in pair.left_out),
    )


def summaries(pair: Together) -> tuple[tuple[str, str], ...]:
    """Whose summary it is, and the summary."""
    return tuple((when, section.summary) for when, section in _present(pair))


def _present(pair: Together) -> list[tuple[str, Section]]:
    sides = zip(SIDES, (pair.before, pair.after), strict=True)
    return [(when, section) for when, section in sides if section is not None]


def _row(shown: Shown, old: bool, new: bool) -> RowView:
    if isinstance(shown, Overlay):
        return RowView((Side("", _overlay(shown)),))
    if isinstance(shown, Joined):
        return RowView((Side("", BlockView("table", shown.caption, shown.view)),))
    return _beside(shown, old and new)


def _beside(shown: Beside, both: bool) -> RowView:
    """Halves; whole widths for tables, and where only one report has the section."""
    given = list(zip(SIDES, (shown.before, shown.after), strict=True))
    if not both:
        return RowView(tuple(Side("", views.block_view(b)) for _, b in given if b is not None))
    stacked = any(isinstance(block, Table) for _, block in given)
    return RowView(tuple(Side(when, _view(b, stacked)) for when, b in given), shown.note, stacked)


def _view(block: Block | None, stacked: bool) -> BlockView | None:
    if block is None:
        return None
    return views.block_view(block) if stacked else views.half_view(block)


def _overlay(shown: Overlay) -> BlockView:
    """One chart; where it would hold too many lines, one for each thing, and one table of all."""
    table = views.curve_values(shown.block)
    if len(shown.block.series) <= LINES:
        drawing = charts.curves(shown.block, dashed=shown.earlier)
        return BlockView("chart", shown.block.caption, drawing, table)
    drawings = [
        (name, charts.curves(part.block, width=charts.SMALL, dashed=part.earlier))
        for name, part in shown.parts()
    ]
    return BlockView("charts", shown.block.caption, drawings, table)
