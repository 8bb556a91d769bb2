"""Lines of two reports in one chart, where they are of the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from artplus.evaluation.section import Curves, Matrix, Scatter, Series
from artplus.reporting.own import plain, thing

SIDES = ("before", "after")


@dataclass(frozen=True)
class Overlay:
    """Curves of two reports.

    Attributes:
        block: All lines, those of the same thing next to each other, the earlier first.
        earlier: Which of them are of the report before.
        about: What each line is of, whichever report it is from; ``None`` for one that both
            reports draw alike.
    """

    block: Curves
    earlier: frozenset[int]
    about: tuple[str | None, ...]

    @property
    def meets(self) -> bool:
        """Whether most positions are those of every line, so that one table of all has few gaps."""
        places = [set(line.x) for line in self.block.series]
        return 2 * len(set.intersection(*places)) >= min(map(len, places)) if places else True

    def sides(self) -> tuple[Curves, Curves]:
        """The lines of each report by itself."""
        lines = list(enumerate(self.block.series))
        both = [k for k, name in enumerate(self.about) if name is None]
        return (
            replace(
                self.block, series=tuple(s for k, s in lines if k in self.earlier or k in both)
            ),
            replace(self.block, series=tuple(s for k, s in lines if k not in self.earlier)),
        )

    def parts(self) -> list[tuple[str, Overlay]]:
        """A chart for each thing that the lines are of, for charts that would hold too many."""
        found = []
        for name in dict.fromkeys(name for name in self.about if name is not None):
            chosen = [k for k, own in enumerate(self.about) if own in {name, None}]
            series = tuple(
                replace(
                    self.block.series[k], name=self.block.series[k].name.removeprefix(f"{name}, ")
                )
                for k in chosen
            )
            earlier = frozenset(k for k, line in enumerate(chosen) if line in self.earlier)
            block = replace(self.block, series=series, caption=name)
            found.append((name, Overlay(block, earlier, tuple(self.about[k] for k in chosen))))
        return found


def overlaid(before: Curves, after: Curves) -> Overlay | None:
    """Both reports' lines over one axis; ``None`` if the axes or what is drawn are not the same.

    Also ``None`` if two lines of one report would go by one name.
    """
    if not same_axes(before, after) or plain(before.caption) != plain(after.caption):
        return None
    lines = [(side, line) for side, block in enumerate((before, after)) for line in block.series]
    common = [line for line in before.series if line in after.series]
    if len(common) == max(len(before.series), len(after.series)):
        common = []  # the same report twice: the lines are of two models all the same
    kept = [(side, line) for side, line in lines if line not in common]
    own = {(side, thing(line.name)): line for side, line in kept}
    if len(own) < len(kept):
        return None
    things = list(dict.fromkeys(name for _, name in own))
    # Beside a line that both draw alike, only that of the model goes without a name.
    alone = len(things) == 1 and (not common or things == ["model"])
    found: list[tuple[int | None, str | None, Series]] = [(None, None, line) for line in common]
    for name in things:
        for side in (0, 1):
            if (side, name) in own:
                label = SIDES[side] if alone else f"{name}, {SIDES[side]}"
                found.append((side, name, replace(own[side, name], name=label)))
    return Overlay(
        replace(after, series=tuple(line for _, _, line in found)),
        frozenset(k for k, (side, _, _) in enumerate(found) if side == 0),
        tuple(name for _, name, _ in found),
    )


def same_axes(before: Curves, after: Curves) -> bool:
    """Whether positions and heights mean the same, norm and unit included."""
    axes = ("x_label", "y_label", "x_unit", "y_unit")
    return all(getattr(before, name) == getattr(after, name) for name in axes)


def aligned(before: Scatter, after: Scatter) -> tuple[Scatter, Scatter]:
    """Both with the same groups in the same order, so that they have the same colours."""
    names = list(dict.fromkeys(g.name for block in (after, before) for g in block.groups))
    found = []
    for block in (before, after):
        known = {group.name: group for group in block.groups}
        blank = replace(block.groups[0], x=(), y=(), labels=()) if block.groups else None
        groups = [known.get(n) or (replace(blank, name=n) if blank else None) for n in names]
        found.append(replace(block, groups=tuple(g for g in groups if g is not None)))
    return found[0], found[1]


def one_scale(
    before: Matrix, after: Matrix, spans: Sequence[tuple[float, float]]
) -> tuple[Matrix, Matrix]:
    """Both with the same shades, from the least to the greatest that either has."""
    span = min(low for low, _ in spans), max(high for _, high in spans)
    return replace(before, span=span), replace(after, span=span)
