"""Two reports as Markdown: what was gained and lost, and every section's values side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from artplus.evaluation import wording
from artplus.reporting import alike, section_markdown, together_views
from artplus.reporting.comparison import compare
from artplus.reporting.overlay import SIDES, Overlay
from artplus.reporting.section_markdown import escaped, table
from artplus.reporting.together import Beside, Joined, Shown, Together, together

if TYPE_CHECKING:
    from artplus.evaluation.report import Report


def render(before: Report, after: Report) -> str:
    """The headline, tables, and how to repeat both, as GitHub-flavoured Markdown.

    Args:
        before: For instance of the model as it was.
        after: On the same examples, for instance of the hardened model.

    Raises:
        ConfigurationError: if they are not on the same examples, or not of the same task.
    """
    comparison = compare(before, after)
    names = dict.fromkeys(report.model for report in (before, after))
    parts = [
        f"# Before and after: {escaped(' → '.join(names))}",
        f"**{escaped(comparison.verdict)}**",
    ]
    for when, report in zip(SIDES, (before, after), strict=True):
        trust = wording.trust(report) or "no check was made of whether the attacks worked."
        parts.append(f"{when.capitalize()}: {escaped(trust)}")
        parts += [section_markdown.alarm(finding) for finding in report.reasons]
    if comparison.notes:
        parts += ["**Not quite like for like.**", _listed(comparison.notes)]
    parts += ["## Attacks", table(comparison.full())]
    broken = [
        f"{result.name}, {when}, does not count: {result.broken}"
        for when, report in zip(SIDES, (before, after), strict=True)
        for result in report.broken
    ]
    parts += [_listed(broken)] if broken else []
    for pair in together(before.sections, after.sections):
        parts += _section(pair)
    heading = ("setting", "before", "after")
    parts += ["## To repeat it", table([heading, *alike.facts(before, after)])]
    return "\n\n".join(parts) + "\n"


def _section(pair: Together) -> list[str]:
    parts = [f"## {escaped(pair.section.title)}"]
    if lone := together_views.lone(pair):
        parts.append(f"Only the report {lone} holds this section.")
    parts += [f"**{when}** {escaped(text)}" for when, text in together_views.summaries(pair)]
    if pair.warnings:
        parts += ["**Not measured alike.**", _listed(pair.warnings)]
    for shown in pair.shown:
        parts += _shown(shown, not lone)
    notes = [f"{when}: {note}" if when else note for when, note in together_views.notes(pair)]
    return [*parts, _listed(notes)] if notes else parts


def _shown(shown: Shown, both: bool) -> list[str]:
    if isinstance(shown, Overlay):
        if shown.meets:
            return section_markdown.block_lines(shown.block)
        return _beside(Beside(*shown.sides()), both)
    if isinstance(shown, Joined):
        caption = [escaped(shown.caption)] if shown.caption else []
        return [*caption, *section_markdown.cut(shown.view.cells())]
    return _beside(shown, both)


def _beside(shown: Beside, both: bool) -> list[str]:
    parts: list[str] = []
    for when, block in zip(SIDES, (shown.before, shown.after), strict=True):
        if block is not None:
            own = section_markdown.block_lines(block)
            parts += [f"**{when}**", *own] if both else own
        elif both:
            parts.append(f"**{when}** This report shows no such thing.")
    return [*parts, escaped(shown.note)] if shown.note else parts


def _listed(texts: tuple[str, ...] | list[str]) -> str:
    return "\n".join(f"- {escaped(text)}" for text in texts)
