"""Sections ready for any format: blocks of two models in one chart or table, or side by side.

A block says which model it is about. A report with ``before=`` has blocks of two models, and two
reports that are compared become the same: the blocks of the earlier one are marked ``"before"``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from artplus.evaluation.section import (
    Block,
    Curves,
    Gallery,
    Group,
    Matrix,
    Scatter,
    Section,
    Series,
    Table,
)
from artplus.reporting import comparability, heatmap
from artplus.reporting.tables import TableView, merged_table

SIDES = ("before", "after")


@dataclass(frozen=True)
class Overlay:
    """Curves of two models over one axis.

    Attributes:
        before: Those of the model before.
        after: Those of the model judged.
        shared: Lines that both have, such as a diagonal; they are drawn once.
        names: Names of the other lines.
    """

    before: Curves
    after: Curves
    shared: tuple[Series, ...]
    names: tuple[str, ...]

    def drawn(self, only: str | None = None) -> tuple[Curves, frozenset[int]]:
        """All lines as one block, and the numbers of those that are of the model before.

        Lines of one name are next to each other, and called by what they show and by their model.

        Args:
            only: The name of the lines to draw, for charts that would hold too many.
        """
        names = self.names if only is None else (only,)
        # Beside a shared line, only "model" can go without its name.
        brief = only is not None or names == ("model",) or (len(names) == 1 and not self.shared)
        lines, dashed = list(self.shared), set()
        for name in names:
            for side, block in zip(SIDES, (self.before, self.after), strict=True):
                label = side if brief else f"{name}, {side}"
                own = [replace(line, name=label) for line in block.series if line.name == name]
                if side == "before" and own:
                    dashed.add(len(lines))
                lines += own
        block = replace(self.after, series=tuple(lines), caption=only or self.after.caption)
        return block, frozenset(dashed)


@dataclass(frozen=True)
class Merged:
    """One table of two."""

    view: TableView
    caption: str


@dataclass(frozen=True)
class Beside:
    """Two blocks side by side; ``None`` where there is no such block of a model."""

    before: Block | None
    after: Block | None
    note: str = ""


Shown = Block | Overlay | Merged | Beside


@dataclass(frozen=True)
class Stack:
    """A section of one report or of two.

    Attributes:
        name: Of the analysis.
        title: Its heading.
        summaries: Which report says it, or nothing if there is only one, and what it says.
        shown: Its blocks.
        notes: Whose notes they are, nothing for those of both, and the notes.
        warnings: What was measured under different settings.
        only: The only one of two reports that has the section.
    """

    name: str
    title: str
    summaries: tuple[tuple[str, str], ...]
    shown: tuple[Shown, ...]
    notes: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()
    only: str = ""


def of_report(section: Section) -> Stack:
    """A section of one report."""
    return Stack(
        section.name,
        section.title,
        (("", section.summary),),
        stacked(section.blocks),
        tuple(("", note) for note in section.notes),
    )


def of_reports(before: Sequence[Section], after: Sequence[Section]) -> list[Stack]:
    """The sections of two reports, those of the later one first, in its order."""
    old = {section.name: section for section in before}
    stacks = [
        _compared(old.pop(section.name), section)
        if section.name in old
        else replace(of_report(section), only="after")
        for section in after
    ]
    return stacks + [replace(of_report(section), only="before") for section in old.values()]


def stacked(blocks: Sequence[Block]) -> tuple[Shown, ...]:
    """Blocks as they are shown: each by itself, or with its counterpart of the model before.

    Counterparts are of one kind, and by preference have the same caption.
    """
    free = [block for block in blocks if block.model]
    judged = [block for block in blocks if not block.model]
    if not free:
        return tuple(judged)
    partners: dict[int, Block] = {}
    for by_caption in (True, False):
        for k, block in enumerate(judged):
            fits = [
                old for old in free
                if type(old) is type(block) and (old.caption == block.caption or not by_caption)
            ]  # fmt: skip
            if k not in partners and fits:
                partners[k] = fits[0]
                free = [old for old in free if old is not fits[0]]
    pairs = [_pair(partners.get(k), block) for k, block in enumerate(judged)]
    return (*pairs, *(_pair(block, None) for block in free))


def overlay(before: Curves, after: Curves) -> Overlay | None:
    """Curves of both over one axis; ``None`` if axes or captions differ, or two names are equal."""
    alike = ("x_label", "y_label", "x_unit", "y_unit", "caption")
    if any(getattr(before, name) != getattr(after, name) for name in alike):
        return None
    if any(len({n.name for n in b.series}) < len(b.series) for b in (before, after)):
        return None
    shared = [line for line in before.series if line in after.series]
    if len(shared) == max(len(before.series), len(after.series)):
        shared = []  # the same curves twice are nevertheless of two models
    names = dict.fromkeys(n.name for n in (*before.series, *after.series) if n not in shared)
    return Overlay(before, after, tuple(shared), tuple(names))


def _compared(before: Section, after: Section) -> Stack:
    """A section of two reports: of each only what is about its own model."""
    own = [[block for block in section.blocks if not block.model] for section in (before, after)]
    common = [note for note in after.notes if note in before.notes]
    sides = list(zip(SIDES, (before, after), strict=True))
    return Stack(
        after.name,
        after.title,
        tuple((side, section.summary) for side, section in sides),
        stacked([*(replace(block, model="before") for block in own[0]), *own[1]]),
        (
            *(("", note) for note in common),
            *((side, n) for side, section in sides for n in section.notes if n not in common),
            *(
                ("", f"The report {side} also measured an earlier model, which is left out here.")
                for (side, section), blocks in zip(sides, own, strict=True)
                if len(blocks) < len(section.blocks)
            ),
        ),
        comparability.sections(before, after),
    )


def _pair(before: Block | None, after: Block | None) -> Shown:
    if before is None or after is None:
        missing = SIDES[0] if before is None else SIDES[1]
        return Beside(before, after, f"There is no such block of the model {missing}.")
    beside: Callable[[Any, Any], Shown] = _PAIRS.get(type(after), Beside)
    return beside(before, after)


def _curves(before: Curves, after: Curves) -> Shown:
    found = overlay(before, after)
    if found is not None:
        return found
    for old, new in ((before.x_label, after.x_label), (before.y_label, after.y_label)):
        if old != new:
            return Beside(before, after, f"Not over one axis: “{old}” before, “{new}” after.")
    return Beside(before, after, "Not over one axis: they do not show the same thing.")


def _tables(before: Table, after: Table) -> Shown:
    view = merged_table(before, after)
    return Beside(before, after) if view is None else Merged(view, after.caption)


def _matrices(before: Matrix, after: Matrix) -> Shown:
    alike = ("rows", "columns", "unit", "caption")
    if any(getattr(before, name) != getattr(after, name) for name in alike):
        note = "They do not show the same thing, so each has its own scale."
        return Beside(before, after, note)
    low, high = zip(heatmap.span(before), heatmap.span(after), strict=True)
    span = min(low), max(high)
    return Beside(replace(before, span=span), replace(after, span=span), "One scale for both.")


def _scatters(before: Scatter, after: Scatter) -> Shown:
    """Both with the same groups in the same order, so that they have the same colours."""
    names = dict.fromkeys(group.name for block in (after, before) for group in block.groups)

    def aligned(block: Scatter) -> Scatter:
        known = {group.name: group for group in block.groups}
        groups = (known.get(name) or Group(name=name, x=(), y=()) for name in names)
        return replace(block, groups=tuple(groups))

    return Beside(aligned(before), aligned(after))


def _galleries(before: Gallery, after: Gallery) -> Shown:
    """The examples that both show first, each beside itself."""
    old, new = ([row[0].title if row else "" for row in block.rows] for block in (before, after))
    if len(set(old)) < len(old) or len(set(new)) < len(new):
        return Beside(before, after)  # rows of one title: only their order tells them apart
    common = [title for title in new if title in old]
    if not common:
        return Beside(before, after, "Each shows its own examples.")

    def ordered(block: Gallery) -> Gallery:
        rows = sorted(block.rows, key=lambda row: (*common, row[0].title).index(row[0].title))
        return replace(block, rows=tuple(rows))

    every = len(common) == max(len(old), len(new))
    note = "" if every else "The examples that both show come first."
    return Beside(ordered(before), ordered(after), note)


_PAIRS: dict[type, Callable[[Any, Any], Shown]] = {
    Curves: _curves, Table: _tables, Matrix: _matrices, Scatter: _scatters, Gallery: _galleries,
}  # fmt: skip
