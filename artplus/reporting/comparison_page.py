"""Two reports as one page: what was gained and lost, then everything of both side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING

from artplus.reporting import alike, page, together_views
from artplus.reporting.bars import paired_bars, paired_scale
from artplus.reporting.comparison import Comparison, Line, compare
from artplus.reporting.examples import Example, exhibits
from artplus.reporting.overlay import SIDES
from artplus.reporting.settings import settings
from artplus.reporting.tables import TableView, limited, sort_key
from artplus.reporting.together import together

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult


def render(before: Report, after: Report) -> str:
    """The page.

    Args:
        before: For instance of the model as it was.
        after: On the same examples, for instance of the hardened model.

    Raises:
        ConfigurationError: if they are not on the same examples, or not of the same task.
    """
    comparison = compare(before, after)
    return page.render(
        "comparison.html.j2",
        comparison=comparison,
        sides=list(zip(SIDES, (before, after), strict=True)),
        before=before,
        after=after,
        attacks=_attacks(comparison),
        tones=[_tone(line, comparison.accuracy) for line in comparison.lines],
        bars=paired_bars(comparison, after),
        scale=paired_scale(comparison),
        exhibits=_examples(exhibits(before), exhibits(after)),
        sections=together_views.sections(together(before.sections, after.sections)),
        facts=alike.facts(before, after),
        settings=_settings(before, after),
    )


def _attacks(comparison: Comparison) -> TableView:
    """Every line with its change and how sure that is; sorted by what is behind the texts."""
    head, *rows = comparison.full()
    numeric = [name not in {head[0], "ball"} for name in head]
    keyed = [
        [*zip(row, _keys(line, len(row)), strict=True)]
        for row, line in zip(rows, comparison.lines, strict=True)
    ]
    return limited(list(zip(head, numeric, strict=True)), keyed)


def _keys(line: Line, width: int) -> list[str]:
    test = line.paired
    numbers = [line.before, line.after, line.change]
    tests = [None] * 4 if test is None else [test.interval[0], test.gained, test.lost, test.p_value]
    found = [line.name, *map(sort_key, numbers), line.ball, *map(sort_key, tests)]
    return found[:width]


def _tone(line: Line, accuracy: bool) -> str:
    """Whether the change is for the better."""
    if not line.change or math.isnan(line.change):
        return ""
    return "up" if (line.change > 0) == accuracy else "down"


def _examples(
    before: list[Example], after: list[Example]
) -> list[tuple[bool, list[tuple[Example | None, Example | None]]]]:
    """Whether they are the same, and pairs: first of examples in both reports, then of others."""
    old = {exhibit.number: exhibit for exhibit in before}
    new = {exhibit.number: exhibit for exhibit in after}
    both = [(old[number], own) for number, own in new.items() if number in old]
    rest = zip_longest(
        [own for number, own in old.items() if number not in new],
        [own for number, own in new.items() if number not in old],
    )
    groups = [(True, [*both]), (False, [*rest])]
    return [(same, pairs) for same, pairs in groups if pairs]


def _settings(before: Report, after: Report) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The settings of each attack, side by side."""
    old, new = ({r.name: r for r in report.attacks} for report in (before, after))
    return [(name, alike.changed(_texts(name, old), _texts(name, new))) for name in {**old, **new}]


def _texts(name: str, results: Mapping[str, AttackResult]) -> dict[str, str]:
    if name not in results:
        return {}
    result = results[name]
    return {"ball": alike.ball(result), **dict(settings(result.params))}
