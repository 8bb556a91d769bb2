"""The sections of two reports, block by block: in one chart or table, or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from artplus.evaluation.section import Block, Curves, Gallery, Matrix, Scatter, Section, Table
from artplus.reporting import alike, heatmap
from artplus.reporting.joined import joined
from artplus.reporting.overlay import SIDES, Overlay, aligned, one_scale, overlaid
from artplus.reporting.own import own, plain
from artplus.reporting.tables import TableView


@dataclass(frozen=True)
class Beside:
    """Two blocks side by side; ``None`` where a report has no such block."""

    before: Block | None
    after: Block | None
    note: str = ""


@dataclass(frozen=True)
class Joined:
    """One table of two."""

    view: TableView
    caption: str


Shown = Overlay | Joined | Beside


@dataclass(frozen=True)
class Together:
    """A section of two reports.

    Attributes:
        before: As the report before has it; ``None`` if it has not.
        after: As the report after has it.
        shown: Its blocks.
        warnings: What was not measured alike.
        left_out: What of it is not shown.
    """

    before: Section | None
    after: Section | None
    shown: tuple[Shown, ...]
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def section(self) -> Section:
        """The later of them, for its name and title."""
        found = self.after or self.before
        if found is None:  # pragma: no cover - made by together alone, from at least one
            raise ValueError("a section of neither report")
        return found


def together(before: Sequence[Section], after: Sequence[Section]) -> list[Together]:
    """The sections of both, those of the report after first, in its order."""
    old = {section.name: section for section in before}
    found = [_pair(old.pop(section.name, None), section) for section in after]
    return found + [_pair(section, None) for section in old.values()]


def _pair(before: Section | None, after: Section | None) -> Together:
    if before is None or after is None:
        blocks = [*(before.blocks if before else ()), *(after.blocks if after else ())]
        lone = tuple(Beside(b if before else None, b if after else None) for b in blocks)
        return Together(before, after, lone)
    (old, cut_old), (new, cut_new) = own(before), own(after)
    left_out = tuple(
        f"What the report {when} says of a model earlier than its own is left out here."
        for when, cut in zip(SIDES, (cut_old, cut_new), strict=True)
        if cut
    )
    shown = tuple(_shown(*pair) for pair in _matched(old.blocks, new.blocks))
    return Together(before, after, shown, alike.sections(before, after), left_out)


def _matched(
    before: Sequence[Block], after: Sequence[Block]
) -> list[tuple[Block | None, Block | None]]:
    """Blocks that belong together: of one kind, by their captions first, then in order."""
    free = list(before)
    partner: dict[int, Block] = {}
    for alike_ in (
        lambda old, new: old.caption == new.caption,
        lambda old, new: plain(old.caption) == plain(new.caption),
        lambda old, new: True,
    ):
        for k, block in enumerate(after):
            same = [b for b in free if type(b) is type(block) and alike_(b, block)]
            if k not in partner and same:
                partner[k] = same[0]
                free = [b for b in free if b is not same[0]]
    pairs = [(partner.get(k), block) for k, block in enumerate(after)]
    return [*pairs, *((block, None) for block in free)]


def _shown(before: Block | None, after: Block | None) -> Shown:
    if isinstance(before, Curves) and isinstance(after, Curves):
        return overlaid(before, after) or Beside(before, after, _apart(before, after))
    if isinstance(before, Table) and isinstance(after, Table):
        same = plain(before.caption) == plain(after.caption)
        view = joined(before, after) if same else None
        return Beside(before, after) if view is None else Joined(view, after.caption)
    if isinstance(before, Matrix) and isinstance(after, Matrix):
        names = ("rows", "columns", "unit")
        same = all(getattr(before, name) == getattr(after, name) for name in names)
        if same and plain(before.caption) == plain(after.caption):
            spans = [heatmap.span(block) for block in (before, after)]
            return Beside(*one_scale(before, after, spans), "One scale for both.")
        return Beside(before, after, "Not of the same, so each has a scale of its own.")
    if isinstance(before, Scatter) and isinstance(after, Scatter):
        return Beside(*aligned(before, after))
    if isinstance(before, Gallery) and isinstance(after, Gallery):
        return _galleries(before, after)
    return Beside(before, after)


def _apart(before: Curves, after: Curves) -> str:
    """Why curves are not drawn over each other."""
    for old, new in ((before.x_label, after.x_label), (before.y_label, after.y_label)):
        if old != new:
            return f"Not over one axis: it is “{old}” before and “{new}” after."
    return "Not over one axis: they are not of the same."


def _galleries(before: Gallery, after: Gallery) -> Beside:
    """The examples that both show first, each beside itself."""
    sides = [{row[0].title: row for row in block.rows if row} for block in (before, after)]
    common = [title for title in sides[1] if title in sides[0]]
    if any(
        len(known) < len(block.rows) for known, block in zip(sides, (before, after), strict=True)
    ):
        return Beside(before, after)  # rows of one title: their order tells them apart
    if not common:
        return Beside(before, after, "Each report shows examples of its own.")
    fewest = min(map(len, sides))
    if 2 * len(common) < fewest:
        return Beside(before, after, f"In both: {', '.join(common)}. Else each shows its own.")
    blocks = [
        replace(
            block,
            rows=(
                *(known[title] for title in common),
                *(row for row in block.rows if row and row[0].title not in common),
            ),
        )
        for block, known in zip((before, after), sides, strict=True)
    ]
    note = "The examples that both reports show come first, each beside itself."
    return Beside(blocks[0], blocks[1], "" if len(common) == max(map(len, sides)) else note)
